// What a box could be given that is not in its queue: what was built here and missed the queue (a
// build that ended in ^C while its hook ran, or one from before there was a queue), a closure, or
// the whole store. Finds what of it the box lacks and could take. Never builds, signs or copies.
import type { SshCache } from '../config/types.ts'
import { type PathInfo, unsigned } from '../nix/path-info.ts'
import { isDerivation } from '../nix/store-path.ts'
import type { Queue } from './queue.ts'
import { type Stores, wanted } from './upload.ts'

/** What is asked of the two stores; as for an upload. */
export type BackfillStores = Pick<Stores, 'missing' | 'referrersClosure'>

/**
 * `built`: what was built here. `closure`: all of these infos but what caches have. `all`: all of
 * them.
 */
export type What = 'built' | 'closure' | 'all'

/** Store paths, each in exactly one of these. */
export interface Backfill {
  /** The box lacks them, and could take them. */
  missing: string[]
  onBox: string[]
  /** The box lacks them too, but they, or something they need that it lacks, are unsigned. */
  unsigned: string[]
  queued: string[]
  failed: string[]
  /** Kept out by `exclude` or `derivations`. */
  unwanted: string[]
  /** A cache signed them and has them: they can be had from there. */
  elsewhere: string[]
}

const nameOfKey = (signature: string): string => signature.slice(0, signature.indexOf(':'))

/**
 * Whether a path came from a cache: it was copied here, with a signature of a key that signs
 * nothing that is built here. (Asking each cache for each path would take a round trip for each.)
 */
function cameFromCache(infos: ReadonlyMap<string, PathInfo>): (info: PathInfo) => boolean {
  const own = new Set([...infos.values()].filter(({ ultimate }) => ultimate).flatMap(({ signatures }) => signatures.map(nameOfKey)))
  return ({ ultimate, signatures }) => !ultimate && signatures.some((signature) => !own.has(nameOfKey(signature)))
}

/**
 * Sorts what the box could be given. One question to the box, in batches; linear in the number of
 * paths.
 * @param infos what this store knows of all its valid paths (allPathInfos)
 * @param chosen the paths in question; those of `infos` by default
 * @throws NixError when a store can't be asked
 */
export async function sortBackfill(
  what: What,
  infos: ReadonlyMap<string, PathInfo>,
  cache: SshCache,
  queue: Pick<Queue, 'queued' | 'failed'>,
  stores: BackfillStores,
  chosen: Iterable<string> = infos.keys(),
): Promise<Backfill> {
  const known = { queued: pathsOf(queue.queued), failed: pathsOf(queue.failed) }
  const sorted: Backfill = { missing: [], onBox: [], unsigned: [], queued: [], failed: [], unwanted: [], elsewhere: [] }
  const fromCache = cameFromCache(infos)
  const rest: string[] = []
  for (const path of chosen) {
    const info = infos.get(path)
    if (!info || (what === 'built' && (!info.ultimate || isDerivation(path)))) continue
    if (known.queued.has(path)) sorted.queued.push(path)
    else if (known.failed.has(path)) sorted.failed.push(path)
    else if (!wanted(cache, path)) sorted.unwanted.push(path)
    else if (what === 'closure' && fromCache(info)) sorted.elsewhere.push(path)
    else rest.push(path)
  }
  if (rest.length === 0) return sorted
  // One unsigned path in a closure, whoever made it, and Nix copies nothing of it (upload.ts,
  // keepReady).
  const withoutSignature = [...infos].filter(([, info]) => unsigned(info)).map(([path]) => path)
  const missing = new Set(await stores.missing([...new Set([...rest, ...withoutSignature])]))
  const blockers = withoutSignature.filter((path) => missing.has(path))
  const blocked = blockers.length > 0 ? await stores.referrersClosure(blockers) : new Set<string>()
  for (const path of rest) sorted[!missing.has(path) ? 'onBox' : blocked.has(path) ? 'unsigned' : 'missing'].push(path)
  return sorted
}

const pathsOf = (entries: readonly { path: string }[]): Set<string> => new Set(entries.map(({ path }) => path))
