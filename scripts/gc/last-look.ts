// Remembers what `nix-lan gc` saw last for `nix-lan status`, which asks nobody for it, in a small
// file of the user's own. Never makes anything fail.
import { mkdirSync, renameSync, writeFileSync } from 'node:fs'
import { readText } from '../nix/nix-conf.ts'

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

const fileIn = (directory: string): string => `${directory}/gc.json`

/** Saves a look, if it can. @param directory of the user's counts, see userTransfers() */
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

/** The last look; undefined if there was none, or if the file makes no sense. */
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
