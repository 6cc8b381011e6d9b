// The state of the upload to a cache: what the running one has done so far, or why the last one
// stopped and when the next one will try again. Written by the upload; read by status, the list,
// and an upload that finds another one running. The file is the user's, so root reads it as warily
// as anything a user can write.
import { closeSync, constants, fstatSync, openSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { age, bytes, count } from '../cli/text.ts'
import { runtimeDir } from './paths.ts'

/** Paths and bytes of their NARs. */
export interface Amount {
  paths: number
  bytes: number
}

/** Times are milliseconds since 1970. */
export interface UploadState {
  started: number
  /** When this state was written. */
  written: number
  /** What this upload has copied, and the total it has to copy as far as is known. */
  done: Amount
  all: Amount
  /** Recent bytes per second; null: nothing sent yet. */
  rate: number | null
  /** Bytes per second of the last upload large enough to tell; null: none was. */
  average: number | null
  /** The path being copied. */
  path: string | null
  /** Why it stopped or is waiting; null: nothing is wrong. */
  stopped: string | null
  /** The box's disk is full: the bytes the path needs, and the free bytes if the box told us. */
  full: { need: number; free: number | null } | null
  /** How many uploads in a row have stopped for lack of space. */
  failures: number
  /** When the next one retries what stopped this one. */
  retry: number | null
  /**
   * Paths of which the box took nothing more, and how often that ended an upload; '': before the
   * first path. None: no such path is known.
   */
  silences?: Record<string, number>
}

/** The largest file we read, in bytes. */
const MOST = 65_536

const fileOf = (uid: number, cache: string): string => `${runtimeDir(uid)}/${cache}.upload.json`

/** Reads the state; undefined if no upload has run since login, or the file can't be a state. */
export function readUploadState(uid: number, cache: string): UploadState | undefined {
  try {
    const file = openSync(fileOf(uid, cache), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
    try {
      const stat = fstatSync(file)
      if (!stat.isFile() || stat.size > MOST) return undefined
      const found = JSON.parse(readFileSync(file, 'utf8'))
      return isState(found) ? found : undefined
    } finally {
      closeSync(file)
    }
  } catch {
    return undefined
  }
}

/**
 * Replaces the file in one step. Ignores a failed write: then the state isn't shown, but the upload
 * needn't fail.
 */
export function writeUploadState(uid: number, cache: string, state: UploadState): void {
  const file = fileOf(uid, cache)
  try {
    writeFileSync(`${file}.new`, `${JSON.stringify(state)}\n`, { mode: 0o600 })
    renameSync(`${file}.new`, file)
  } catch {
    // /run is full
  }
}

/** Milliseconds the rest will take at this rate; null if unknown. Pure. */
export function timeLeft({ done, all, rate }: Pick<UploadState, 'done' | 'all' | 'rate'>): number | null {
  return rate === null || rate <= 0 ? null : Math.max(0, ((all.bytes - done.bytes) / rate) * 1000)
}

/** `12 of 30 paths, 1.2 MiB of 3.0 MiB, 1.0 MiB/s, 2s left`. Pure. */
export function progressText(state: Pick<UploadState, 'done' | 'all' | 'rate'>): string {
  const { done, all, rate } = state
  const left = timeLeft(state)
  const parts = [`${done.paths} of ${count(all.paths, 'path')}`, `${bytes(done.bytes)} of ${bytes(all.bytes)}`]
  if (rate !== null) parts.push(`${bytes(Math.round(rate))}/s`)
  if (left !== null) parts.push(`${age(left)} left`)
  return parts.join(', ')
}

const isNumber = (value: unknown): boolean => typeof value === 'number' && Number.isFinite(value)
const isText = (value: unknown): boolean => typeof value === 'string' && value.length < 4096
const isAmount = (value: unknown): boolean =>
  typeof value === 'object' && value !== null && isNumber((value as Amount).paths) && isNumber((value as Amount).bytes)

function isState(value: unknown): value is UploadState {
  if (typeof value !== 'object' || value === null) return false
  const { started, written, done, all, rate, average, path, stopped, full, failures, retry, silences } = value as Record<string, unknown>
  const isFull = (room: unknown): boolean => {
    if (typeof room !== 'object' || room === null) return room === null
    const { need, free } = room as Record<string, unknown>
    return isNumber(need) && (free === null || isNumber(free))
  }
  return (
    [started, written, failures].every(isNumber) &&
    [rate, average, retry].every((number) => number === null || isNumber(number)) &&
    [path, stopped].every((text) => text === null || isText(text)) &&
    isAmount(done) &&
    isAmount(all) &&
    isFull(full) &&
    (silences === undefined || (typeof silences === 'object' && silences !== null && Object.values(silences).every(isNumber)))
  )
}
