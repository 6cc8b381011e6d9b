// Finds what the box could take but lacks, beyond its queue: builds that missed the queue (^C while
// the hook ran, or built before there was a queue), a closure, or the whole store. Never builds,
// signs or copies.
import type { SshCache } from '../config/types.ts'
import { type PathInfo, unsigned } from '../nix/path-info.ts'
import { isDerivation } from '../nix/store-path.ts'
import type { Queue } from './queue.ts'
import { type Stores, wanted } from './upload.ts'

/** The questions asked of the two stores, as for an upload. */
export type BackfillStores = Pick<Stores, 'missing' | 'referrersClosure'>

/**
 * `built`: what was built here. `closure`: the given infos, except what caches have. `all`: all of
 * them.
 */
export type What = 'built' | 'closure' | 'all'

/** Store paths; each is in exactly one list. */
export interface Backfill {
  /** The box lacks them and could take them. */
  missing: string[]
  onBox: string[]
  /** The box lacks these too, but they are unsigned, or need something unsigned that it lacks. */
  unsigned: string[]
  queued: string[]
  failed: string[]
  /** Excluded by `exclude` or `derivations`. */
  unwanted: string[]
  /** A cache has them and signed them, so it can supply them. */
  elsewhere: string[]
}

const nameOfKey = (signature: string): string => signature.slice(0, signature.indexOf(':'))

/**
 * Whether a path came from a cache: it was copied here, signed by a key that signs nothing built
 * here. (Asking each cache about each path would cost a round trip apiece.)
 */
function cameFromCache(infos: ReadonlyMap<string, PathInfo>): (info: PathInfo) => boolean {
  const own = new Set([...infos.values()].filter(({ ultimate }) => ultimate).flatMap(({ signatures }) => signatures.map(nameOfKey)))
  return ({ ultimate, signatures }) => !ultimate && signatures.some((signature) => !own.has(nameOfKey(signature)))
}

/**
 * Sorts what the box could be given. Asks the box once, in batches; linear in the number of paths.
 * @param infos what this store knows of all its valid paths (allPathInfos)
 * @param chosen the paths to sort; all of `infos` by default
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
  // One unsigned path in a closure, whoever built it, makes Nix copy none of it (upload.ts,
  // keepReady).
  const withoutSignature = [...infos].filter(([, info]) => unsigned(info)).map(([path]) => path)
  const missing = new Set(await stores.missing([...new Set([...rest, ...withoutSignature])]))
  const blockers = withoutSignature.filter((path) => missing.has(path))
  const blocked = blockers.length > 0 ? await stores.referrersClosure(blockers) : new Set<string>()
  for (const path of rest) sorted[!missing.has(path) ? 'onBox' : blocked.has(path) ? 'unsigned' : 'missing'].push(path)
  return sorted
}

const pathsOf = (entries: readonly { path: string }[]): Set<string> => new Set(entries.map(({ path }) => path))
