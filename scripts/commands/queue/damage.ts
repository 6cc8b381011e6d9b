// What an upload does about copies that are damaged on the box: it replaces them first, and doesn't
// take them for uploaded.
import { Failure } from '../../cli/errors.ts'
import type { Config, SshCache } from '../../config/types.ts'
import { withLocalNix } from '../../gc/local-daemon.ts'
import { openDaemon } from '../../protocol/daemon-ops.ts'
import { heal } from '../../queue/heal.ts'
import type { Progress } from '../../queue/progress.ts'
import type { Entry } from '../../queue/queue.ts'
import { damagedOn, takeBack } from '../../system/damage.ts'
import { runtimeDir, socketPath } from '../../system/paths.ts'
import { touchSocket } from '../../system/touch.ts'
import { ownTransfers } from '../../system/transfers.ts'
import { uploadSocket } from '../../tunnel/uploads.ts'
import { say } from './action.ts'

/** Milliseconds for the box to check a copy, and to put it in its place. */
const CHECKING = 30 * 60_000

/** What became of what is damaged on a box. */
export interface Found {
  /** The box has good copies now. */
  healed: string[]
  /** Paths that may not be taken for uploaded, and why; undefined: they couldn't be tried. */
  damaged: Map<string, string | undefined>
  /** Why not everything could be tried. */
  problem?: string
}

/**
 * Replaces what is damaged on the box by the good copies that are here. Never fails an upload.
 * @param looksAgain also reads from the box what isn't here, in case it has been repaired there
 */
export async function healBox(cache: SshCache, config: Config, progress: Progress, looksAgain: boolean): Promise<Found> {
  const tunnel = { cache: cache.name, socket: socketPath(config.uid, cache.name), own: ownTransfers() }
  const noted = (): string[] => [...damagedOn(tunnel).keys()]
  const damaged = noted()
  const found: Found = { healed: [], damaged: new Map() }
  if (damaged.length === 0) return found
  const limits = { deadline: cache.deadline, patience: CHECKING }
  const openBox = async () => openDaemon(await uploadSocket(cache, config.uid), 'the box', limits)
  const healed = (path: string, replaced: boolean): void => {
    takeBack(path, tunnel)
    if (!replaced) return
    found.healed.push(path)
    progress.clear()
    say(`${cache.name}: replaced ${path}, which was damaged on the box`)
  }
  try {
    found.damaged = await withLocalNix(runtimeDir(config.uid), (nix) =>
      heal({ damaged, looksAgain, openHere: () => nix.open(), openBox, takeBack: healed }),
    )
  } catch (error) {
    found.problem = error instanceof Failure ? error.message : `what is damaged on the box isn't replaced: ${(error as Error).message}`
    for (const path of noted()) found.damaged.set(path, undefined)
  }
  // a good copy may have another hash than sessions remember
  if (found.healed.length > 0) touchSocket(tunnel.socket, config.uid)
  return found
}

/**
 * Separates the entries that are damaged on the box: it would say of them that it has them, and
 * they would count as uploaded. Pure.
 */
export function sortOut(
  entries: readonly Entry[],
  { damaged }: Pick<Found, 'damaged'>,
): { fresh: Entry[]; damaged: { entry: Entry; reason: string | undefined }[] } {
  return {
    fresh: entries.filter(({ path }) => !damaged.has(path)),
    damaged: entries.filter(({ path }) => damaged.has(path)).map((entry) => ({ entry, reason: damaged.get(entry.path) })),
  }
}

/** Says what the box took no good copy of, unless it is in the queue and set aside. */
export function sayRefused(cache: string, { damaged }: Found, queued: readonly { entry: Entry }[]): void {
  for (const [path, reason] of damaged)
    if (reason !== undefined && !queued.some(({ entry }) => entry.path === path)) say(`${cache}: ${path}: ${reason}`)
}
