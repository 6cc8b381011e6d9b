// Tracks how an upload goes: how much is copied, how fast, how long it still takes. Writes that
// down for status, and tells the person at the terminal, or the journal every half minute.
import { oneLine } from '../cli/text.ts'
import { type Amount, progressText, readUploadState, type UploadState, writeUploadState } from '../system/upload-state.ts'
import type { Watcher } from './stores.ts'
import type { Summary } from './upload.ts'

/** Milliseconds between lines in the journal. */
const TELL = 30_000
/** Milliseconds between writes to disk, or redraws on the terminal. */
const WRITE = 1000
/** The rate is taken over this many milliseconds. */
const WINDOW = 15_000
/** Milliseconds until an upload that found no room tries again; doubles each time. */
const FIRST_PAUSE = 30_000
const LONGEST_PAUSE = 30 * 60_000

/** Milliseconds to pause after this many uploads in a row that found no room. */
export const pauseAfter = (failures: number): number => Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (failures - 1))

/** Below this many bytes, the time says more about the start than about the rate. */
const TELLING = 2 ** 20

/** So many paths are remembered for which the box has taken nothing more. */
const MOST_SILENT = 20

/** Where an upload reports its progress. */
export type Show = 'terminal' | 'journal' | 'nobody'

export class Progress implements Watcher {
  private readonly uid: number
  private readonly cache: string
  private readonly show: Show
  private readonly state: UploadState
  /** Bytes and paths of the copies that have ended. */
  private settled: Amount = { paths: 0, bytes: 0 }
  private copied = 0
  private begun = 0
  private samples: { time: number; bytes: number }[] = []
  private told = Date.now()
  private drawn = false

  constructor(uid: number, cache: string, show: Show) {
    this.uid = uid
    this.cache = cache
    this.show = show
    const now = Date.now()
    const nothing = { paths: 0, bytes: 0 }
    const { failures = 0, average = null, silences } = readUploadState(uid, cache) ?? {}
    this.state = {
      ...{ started: now, written: now, done: nothing, all: nothing, rate: null, average, path: null },
      ...{ stopped: null, full: null, failures, retry: null },
      ...(silences && { silences }),
    }
  }

  expects({ paths, bytes }: Amount): void {
    this.state.all = { paths: this.state.all.paths + paths, bytes: this.state.all.bytes + bytes }
    this.write()
  }

  copying(path: string): void {
    this.begun += 1
    this.state.path = path
  }

  /** How often uploads have ended because the box took nothing more of this path. */
  silences(path = ''): number {
    return this.state.silences?.[path] ?? 0
  }

  /** So often now; 0: that is forgotten. */
  silent(path = '', times: number): void {
    const { [path]: _, ...others } = this.state.silences ?? {}
    this.state.silences = Object.fromEntries(
      [...Object.entries(others), ...(times > 0 ? [[path, times] as const] : [])].slice(-MOST_SILENT),
    )
    this.write()
  }

  sent(sum: number): void {
    this.copied = Math.max(this.copied, sum)
    this.count()
    this.write()
    this.draw()
    this.tell()
  }

  over(): void {
    this.settled = { paths: this.settled.paths + this.begun, bytes: this.settled.bytes + this.copied }
    this.copied = 0
    this.begun = 0
    this.count()
    this.write()
  }

  /** Caps what has gone at the total: what Nix and the protocol add is not part of any NAR. */
  private count(): void {
    const { state, settled } = this
    const most = (done: number, all: number): number => Math.min(done, Math.max(all, 0))
    state.done = {
      paths: most(settled.paths + Math.max(0, this.begun - 1), state.all.paths),
      bytes: most(settled.bytes + this.copied, state.all.bytes),
    }
    const now = Date.now()
    const last = this.samples.at(-1)
    if (!last || now - last.time >= WRITE) this.samples.push({ time: now, bytes: state.done.bytes })
    while (this.samples.length > 2 && now - (this.samples[0]?.time ?? now) > WINDOW) this.samples.shift()
    const first = this.samples[0]
    const seconds = first ? (now - first.time) / 1000 : 0
    if (first && seconds >= 1) state.rate = Math.max(0, (state.done.bytes - first.bytes) / seconds)
  }

  private write(): void {
    this.state.written = Date.now()
    writeUploadState(this.uid, this.cache, this.state)
  }

  private draw(): void {
    if (this.show !== 'terminal') return
    process.stderr.write(`\r\u001b[K${oneLine(`${this.cache}: ${progressText(this.state)}`)}`)
    this.drawn = true
  }

  /** Clears the progress line before something else is printed. */
  clear(): void {
    if (this.drawn) process.stderr.write('\r\u001b[K')
    this.drawn = false
  }

  private tell(): void {
    if (this.show !== 'journal' || Date.now() - this.told < TELL) return
    this.told = Date.now()
    process.stdout.write(oneLine(`${this.cache}: ${progressText(this.state)}`).concat('\n'))
  }

  /** Records that nothing was tried, and why. @param before the state before */
  waits(reason: string, before: UploadState | undefined): void {
    const kept = before?.full ? { full: before.full, failures: before.failures, retry: before.retry, started: before.started } : {}
    Object.assign(this.state, { stopped: reason, ...kept })
    this.write()
  }

  /**
   * Records the end, and why it stopped early if it did, for status and for the next upload.
   * @param before the state of what still waits from before, none of which was tried
   */
  ended({ stopped, full }: Pick<Summary, 'stopped' | 'full'>, before?: UploadState): void {
    this.clear()
    const { state } = this
    if (state.done.bytes >= TELLING) state.average = (state.done.bytes / Math.max(1, Date.now() - state.started)) * 1000
    state.path = null
    state.rate = null
    state.stopped = stopped ?? before?.stopped ?? null // not that a box is away: everybody sees that for themselves
    state.full = full ?? before?.full ?? null
    state.failures = full ? state.failures + 1 : before ? before.failures : 0
    state.retry = full ? Date.now() + pauseAfter(state.failures) : (before?.retry ?? null)
    this.write()
  }
}
