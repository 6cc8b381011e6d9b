// Protects uploads from the box's own garbage collection: temporary roots hold them while on their
// way, then the day's link does (keep.ts). A fault here never fails an upload: its consequence is
// reported, and the upload counts.
import { Failure } from '../cli/errors.ts'
import type { SshCache } from '../config/types.ts'
import type { Daemon } from '../protocol/daemon-ops.ts'
import { socketPath } from '../system/paths.ts'
import { touchSocket } from '../system/touch.ts'
import { ownTransfers } from '../system/transfers.ts'
import { ownKeyName } from './client.ts'
import { fetchedAgain, type Holdings, type KnownHere } from './daily.ts'
import { noteGiven, unforget } from './given.ts'
import { clientName, contentsOf, linksIn, pin } from './keep.ts'
import { letGo } from './links.ts'
import { noteKept, unkeptPaths } from './outcome.ts'
import { remoteOf } from './remote.ts'
import { openBox, type Shore } from './shore.ts'

/** Milliseconds between two answers from a box. */
const PATIENCE = 120_000

/** The uploads of one run. */
export interface Uploads {
  /** Roots these paths, whether or not the box has them yet, until close(). */
  hold(paths: readonly string[]): Promise<void>
  /**
   * Keeps what was uploaded, and what earlier uploads could not.
   * @returns why it can't; undefined if it is kept
   */
  keep(paths: readonly string[]): Promise<string | undefined>
  /** Remembers that the box doesn't keep these paths, for status and for the next keep(). */
  note(paths: readonly string[], why: string): void
  close(): void
}

/** What is known of paths on this machine. @throws NixError when it can't be asked */
export type AskHere = (paths: readonly string[]) => Promise<ReadonlyMap<string, KnownHere>>

/**
 * @param cache its `keep` says for how long
 * @param askHere asked before something is let go of
 */
export function uploadsTo(cache: SshCache, uid: number, askHere: AskHere): Uploads {
  let box: Daemon | undefined
  /** By the connection there is. */
  const rooted = new Set<string>()
  const daemon = async (): Promise<Daemon> => (box ??= await openBox(cache, uid, PATIENCE))
  const close = (): void => {
    box?.close()
    box = undefined
    rooted.clear()
  }
  const attempt = async (what: () => Promise<void>): Promise<string | undefined> => {
    if (cache.keep === 0) return undefined
    try {
      await what()
      return undefined
    } catch (error) {
      close()
      if (error instanceof Failure) return error.message
      throw error
    }
  }
  return {
    hold: async (paths) =>
      void (await attempt(async () => {
        const fresh = paths.filter((path) => !rooted.has(path))
        await (await daemon()).addTempRoots(fresh)
        for (const path of fresh) rooted.add(path)
      })),
    keep: async (fresh) => {
      noteGiven(ownTransfers(), cache.name, fresh, Date.now())
      unforget(ownTransfers(), cache.name, fresh)
      const problem = await attempt(async () => {
        const shore = { daemon: await daemon(), remote: remoteOf(cache) }
        const client = clientName(await ownKeyName())
        const before = unkeptPaths(ownTransfers(), cache.name)
        const paths = before.length === 0 ? fresh : [...new Set([...fresh, ...(await shore.daemon.valid(before))])]
        const { links, date } = await pin(shore, { kind: 'kept', client, paths })
        const old = expired([...links.keys()], date, cache.keep, new Date())
        if (old.length > 0) {
          await keepAnew(shore, client, await holdingsOf(shore.daemon, client, askHere))
          await letGo(shore, 'kept', client, old)
        }
        touchSocket(socketPath(uid, cache.name), uid)
      })
      if (problem === undefined) noteKept(ownTransfers(), cache.name, undefined)
      return problem
    },
    note: (paths, why) => {
      const directory = ownTransfers()
      noteKept(directory, cache.name, { why, paths: [...unkeptPaths(directory, cache.name), ...paths] })
    },
    close,
  }
}

/** What the box keeps for this client, and what of that is here. */
export type OwnHoldings = Pick<Holdings, 'links' | 'contents' | 'here'>

/** Asks both stores. @throws Failure when one of them can't be asked */
export async function holdingsOf(daemon: Daemon, client: string, askHere: AskHere): Promise<OwnHoldings> {
  const links = linksIn(await daemon.roots()).filter((link) => link.client === client)
  const contents = await contentsOf(daemon, links)
  return { links, contents, here: await askHere([...new Set([...contents.values()].flatMap((paths) => [...paths]))]) }
}

/**
 * Keeps anew what was fetched again since the box was given it.
 * @returns those paths
 * @throws Failure when it can't be kept
 */
export async function keepAnew(shore: Shore, client: string, holdings: OwnHoldings): Promise<string[]> {
  const again = await shore.daemon.valid(fetchedAgain(holdings))
  if (again.size > 0) await pin(shore, { kind: 'kept', client, paths: [...again] })
  return [...again]
}

const DAY = 86_400_000

/**
 * The days whose links are let go. None when a clock is in doubt: when the box's is behind its
 * newest link, or more than a day away from ours.
 * @param days of the links, YYYY-MM-DD
 * @param today by the box's clock
 * @param keep days; null: forever
 */
export function expired(days: readonly string[], today: string, keep: number | null, ours: Date): string[] {
  const now = Date.parse(`${today}T00:00:00Z`)
  if (keep === null || days.some((day) => day > today)) return []
  if (Math.abs(now - Date.parse(`${ours.toISOString().slice(0, 10)}T00:00:00Z`)) > DAY) return []
  return days.filter((day) => Date.parse(`${day}T00:00:00Z`) < now - keep * DAY)
}
