// Decides whether an upload nobody asked for goes now, and how far: not while the connection is
// metered or the battery low, and not with what the box had no room for a moment ago.
import type { Config } from '../config/types.ts'
import { type Power, whyWait } from '../system/power.ts'
import type { UploadState } from '../system/upload-state.ts'
import type { Entry } from './queue.ts'
import type { Disk } from './upload.ts'

/** Paths of `most` bytes and more wait; or everything waits, and why. */
export type Decision = { most: number } | { waits: string }

/** Milliseconds between questions about free space to a box without room. */
const ASK = 100_000

/** What is known before an upload. */
export interface Circumstances {
  power: Power
  /** The state the previous upload left. */
  before: UploadState | undefined
  /** The box's disk now; undefined if it wasn't asked or didn't say. */
  disk: Disk | undefined
  now: number
}

/**
 * Whether to ask about the box's disk: the pause after it was full isn't over, and the last look
 * was some time ago. Pure.
 */
export const asksDisk = (before: UploadState | undefined, now: number): boolean =>
  before?.full != null && now < (before.retry ?? 0) && Math.abs(now - before.written) >= ASK

/** Decides whether to upload, and up to what size. Pure. */
export function decide(
  { power, before, disk, now }: Circumstances,
  { metered, battery }: Pick<Config, 'metered' | 'battery'>,
  queued: readonly Entry[],
): Decision {
  const waits = whyWait(power, { metered: metered === 'wait', battery })
  if (waits !== undefined) return { waits }
  if (!before?.full || now >= (before.retry ?? 0)) return { most: Number.POSITIVE_INFINITY }
  if (disk && disk.free > before.full.need) return { most: Number.POSITIVE_INFINITY }
  // What has come in since may be small enough.
  if (queued.some(({ added }) => added > before.started)) return { most: before.full.need }
  return { waits: before.stopped ?? "the box's disk is full" }
}
