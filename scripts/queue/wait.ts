// Whether an upload that nobody asked for goes now, and how far: not while the connection is paid
// for by the byte or the battery is low, and not with what the box had no room for a moment ago.
import type { Config } from '../config/types.ts'
import { type Power, whyWait } from '../system/power.ts'
import type { UploadState } from '../system/upload-state.ts'
import type { Entry } from './queue.ts'
import type { Disk } from './upload.ts'

/** Paths of `most` bytes and more wait; or all wait, and why. */
export type Decision = { most: number } | { waits: string }

/** A box without room is asked for its free space once in so many milliseconds. */
const ASK = 100_000

/** What is known before an upload. */
export interface Circumstances {
  power: Power
  /** How the upload before this one stood. */
  before: UploadState | undefined
  /** The box's disk now; undefined: not asked, or not told. */
  disk: Disk | undefined
  now: number
}

/**
 * Whether the box's disk should be asked: the pause after it was full isn't over, and the last
 * look is some time ago. Pure.
 */
export const asksDisk = (before: UploadState | undefined, now: number): boolean =>
  before?.full != null && now < (before.retry ?? 0) && Math.abs(now - before.written) >= ASK

/** Pure. */
export function decide(
  { power, before, disk, now }: Circumstances,
  { metered, battery }: Pick<Config, 'metered' | 'battery'>,
  queued: readonly Entry[],
): Decision {
  const waits = whyWait(power, { metered: metered === 'wait', battery })
  if (waits !== undefined) return { waits }
  if (!before?.full || now >= (before.retry ?? 0)) return { most: Number.POSITIVE_INFINITY }
  if (disk && disk.free > before.full.need) return { most: Number.POSITIVE_INFINITY }
  // What came in since may be small enough.
  if (queued.some(({ added }) => added > before.started)) return { most: before.full.need }
  return { waits: before.stopped ?? "the box's disk is full" }
}
