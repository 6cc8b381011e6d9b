// Protects uploads from the box's own garbage collection: temporary roots hold them while on their
// way, then the day's link does (keep.ts). A fault here never fails an upload: its consequence is
// reported, and the upload counts.
import { Failure } from '../cli/errors.ts'
import type { SshCache } from '../config/types.ts'
import { type Daemon, openDaemon } from '../protocol/daemon-ops.ts'
import { socketPath } from '../system/paths.ts'
import { touchSocket } from '../system/touch.ts'
import { ownTransfers } from '../system/transfers.ts'
import { ownKeyName } from './client.ts'
import { clientName, letGo, pin } from './keep.ts'
import { noteKept } from './outcome.ts'
import { remoteOf } from './remote.ts'

/** Milliseconds between two answers from a box. */
const PATIENCE = 120_000

/** The uploads of one run. */
export interface Uploads {
  /** Roots these paths, which are about to be uploaded, until close(). */
  hold(paths: readonly string[]): Promise<void>
  /** Keeps what was uploaded. @returns why it can't; undefined if it is kept */
  keep(paths: readonly string[]): Promise<string | undefined>
  close(): void
}

/** @param cache its `keep` says for how long */
export function uploadsTo(cache: SshCache, uid: number): Uploads {
  let box: Daemon | undefined
  const daemon = async (): Promise<Daemon> =>
    (box ??= await openDaemon(socketPath(uid, cache.name), 'the box', { deadline: cache.deadline, patience: PATIENCE }))
  const close = (): void => {
    box?.close()
    box = undefined
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
    hold: async (paths) => void (await attempt(async () => await (await daemon()).addTempRoots(paths))),
    keep: async (paths) => {
      const problem = await attempt(async () => {
        const remote = remoteOf(cache)
        const client = clientName(await ownKeyName())
        const { links, date } = await pin({ daemon: await daemon(), remote }, { kind: 'kept', client, paths })
        const old = expired([...links.keys()], date, cache.keep, new Date())
        if (old.length > 0) await letGo(remote, 'kept', client, old)
        touchSocket(socketPath(uid, cache.name), uid)
      })
      noteKept(ownTransfers(), cache.name, problem)
      return problem
    },
    close,
  }
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
