// What was built on this machine and never queued: a build that ended in ^C while its hook ran, or
// one from before there was a queue. Finds what of it the box lacks and could take. Never builds,
// signs or copies.
import type { SshCache } from '../config/types.ts'
import { type PathInfo, unsigned } from '../nix/path-info.ts'
import { isDerivation } from '../nix/store-path.ts'
import type { Queue } from './queue.ts'
import { type Stores, wanted } from './upload.ts'

/** What is asked of the two stores; as for an upload. */
export type BuiltStores = Pick<Stores, 'missing' | 'referrersClosure'>

/** Store paths that were built here, each in exactly one of these. */
export interface Built {
  /** The box lacks them, and could take them. */
  missing: string[]
  onBox: string[]
  /** Lacking there too, but they, or something they need that the box lacks, carry no signature. */
  unsigned: string[]
  queued: string[]
  failed: string[]
  /** Kept out by `exclude`. */
  unwanted: string[]
}

/**
 * Sorts what was built here. Two questions to the box at most, in batches; linear in the number of
 * paths.
 * @param infos what the store knows of all its valid paths (allPathInfos)
 * @throws NixError when a store can't be asked
 */
export async function sortBuilt(
  infos: ReadonlyMap<string, PathInfo>,
  cache: SshCache,
  queue: Pick<Queue, 'queued' | 'failed'>,
  stores: BuiltStores,
): Promise<Built> {
  const built = [...infos].filter(([path, info]) => info.ultimate && !isDerivation(path)).map(([path]) => path)
  const known = { queued: pathsOf(queue.queued), failed: pathsOf(queue.failed) }
  const sorted: Built = { missing: [], onBox: [], unsigned: [], queued: [], failed: [], unwanted: [] }
  const rest: string[] = []
  for (const path of built) {
    if (known.queued.has(path)) sorted.queued.push(path)
    else if (known.failed.has(path)) sorted.failed.push(path)
    else if (!wanted(cache, path)) sorted.unwanted.push(path)
    else rest.push(path)
  }
  if (rest.length === 0) return sorted
  // One unsigned path in a closure, whoever made it, and Nix copies nothing of it (see keepSigned
  // in upload.ts).
  const withoutSignature = [...infos].filter(([, info]) => unsigned(info)).map(([path]) => path)
  const missing = new Set(await stores.missing([...new Set([...rest, ...withoutSignature])]))
  const blockers = withoutSignature.filter((path) => missing.has(path))
  const blocked = blockers.length > 0 ? await stores.referrersClosure(blockers) : new Set<string>()
  for (const path of rest) sorted[!missing.has(path) ? 'onBox' : blocked.has(path) ? 'unsigned' : 'missing'].push(path)
  return sorted
}

const pathsOf = (entries: readonly { path: string }[]): Set<string> => new Set(entries.map(({ path }) => path))
