// What `nix-lan gc` has seen last, for `nix-lan status`, which asks nobody for it. A small file of
// the user's own; never makes anything fail.
import { mkdirSync, renameSync, writeFileSync } from 'node:fs'
import { readText } from '../nix/nix-conf.ts'

/** Paths and bytes of NARs. */
export interface Amount {
  paths: number
  bytes: number
}

/** One look. */
export interface Look {
  /** Milliseconds since 1970. */
  at: number
  /** What can be deleted, and had back. */
  safe: Amount
  /** Dead, and no box has it. */
  onlyHere: Amount
  /** What gc --auto could not do, if it had to. */
  problem: string | null
}

const fileIn = (directory: string): string => `${directory}/gc.json`

/** @param directory of the user's counts, see userTransfers() */
export function writeLook(directory: string, look: Look): void {
  try {
    mkdirSync(directory, { recursive: true, mode: 0o755 })
    const temporary = `${directory}/.gc.json.${process.pid}`
    writeFileSync(temporary, `${JSON.stringify(look)}\n`, { mode: 0o644 })
    renameSync(temporary, fileIn(directory))
  } catch {
    // a full disk, say: then status says nothing
  }
}

/** undefined: never looked, or a file that makes no sense. */
export function readLook(directory: string): Look | undefined {
  try {
    const { at, safe, onlyHere, problem } = JSON.parse(readText(fileIn(directory)) ?? '')
    const numbers = [at, safe.paths, safe.bytes, onlyHere.paths, onlyHere.bytes]
    if (!numbers.every((number) => Number.isSafeInteger(number) && number >= 0)) return undefined
    return { at, safe: amount(safe), onlyHere: amount(onlyHere), problem: typeof problem === 'string' ? problem.slice(0, 500) : null }
  } catch {
    return undefined
  }
}

const amount = ({ paths, bytes }: Amount): Amount => ({ paths, bytes })
