// Keeps what is uploaded from the box's own garbage collection: held by temporary roots while it is
// on its way, and from then on by the link of the day (keep.ts). A fault here never fails an
// upload: what it means is said, and the upload counts.
import { Failure } from '../cli/errors.ts'
import type { SshCache } from '../config/types.ts'
import { type Daemon, openDaemon } from '../protocol/daemon-ops.ts'
import { socketPath } from '../system/paths.ts'
import { ownTransfers } from '../system/transfers.ts'
import { ownKeyName } from './client.ts'
import { clientName, letGo, pin } from './keep.ts'
import { noteKept } from './outcome.ts'
import { remoteOf } from './remote.ts'

/** Milliseconds between two answers of a box. */
const PATIENCE = 120_000

/** The uploads of one run. */
export interface Uploads {
  /** Roots these paths, which are about to be uploaded, until close(). */
  hold(paths: readonly string[]): Promise<void>
  /** Keeps what was uploaded. @returns why it can't; undefined: it is kept */
  keep(paths: readonly string[]): Promise<string | undefined>
  close(): void
}

/** @param cache whose `keep` is for how long */
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
      })
      noteKept(ownTransfers(), cache.name, problem)
      return problem
    },
    close,
  }
}

const DAY = 86_400_000

/**
 * The days whose links are let go. None when a clock is in doubt: the box's stands behind its
 * newest link, or a day and more away from ours.
 * @param days of the links, YYYY-MM-DD
 * @param today the box's
 * @param keep days; null: for ever
 */
export function expired(days: readonly string[], today: string, keep: number | null, ours: Date): string[] {
  const now = Date.parse(`${today}T00:00:00Z`)
  if (keep === null || days.some((day) => day > today)) return []
  if (Math.abs(now - Date.parse(`${ours.toISOString().slice(0, 10)}T00:00:00Z`)) > DAY) return []
  return days.filter((day) => Date.parse(`${day}T00:00:00Z`) < now - keep * DAY)
}
