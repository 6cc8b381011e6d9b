// Remembers what `nix-lan gc` saw last for `nix-lan status`, which asks nobody for it.
import { readNote, writeNote } from './notes.ts'

/** Paths and bytes of NARs. */
export interface Amount {
  paths: number
  bytes: number
}

/** What gc saw at one time. */
export interface Look {
  /** Milliseconds since 1970. */
  at: number
  /** What can be deleted and had back. */
  safe: Amount
  /** What is dead and on no box. */
  onlyHere: Amount
  /** What gc --auto had to do but couldn't. */
  problem: string | null
}

const NAME = 'gc.json'

/** Saves a look, if it can. @param directory of the user's counts, see userTransfers() */
export const writeLook = (directory: string, look: Look): void => writeNote(directory, NAME, `${JSON.stringify(look)}\n`)

/** The last look; undefined if there was none, or if the file makes no sense. */
export function readLook(directory: string): Look | undefined {
  try {
    const { at, safe, onlyHere, problem } = JSON.parse(readNote(directory, NAME) ?? '')
    if (!isCount(at) || !isAmount(safe) || !isAmount(onlyHere)) return undefined
    return { at, safe: amount(safe), onlyHere: amount(onlyHere), problem: typeof problem === 'string' ? problem.slice(0, 500) : null }
  } catch {
    return undefined
  }
}

/** Whether a value from a file is a whole number of something. */
export const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

/** Whether a value from a file is an amount. */
export const isAmount = (value: unknown): value is Amount =>
  typeof value === 'object' && value !== null && isCount((value as Amount).paths) && isCount((value as Amount).bytes)

const amount = ({ paths, bytes }: Amount): Amount => ({ paths, bytes })
