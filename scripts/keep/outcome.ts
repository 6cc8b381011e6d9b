// Remembers whether the box keeps what was uploaded last, for `nix-lan status`.
import { readNote, removeNote, writeNote } from './notes.ts'

const nameFor = (cache: string): string => `unkept.${cache}`

/**
 * Notes why a box keeps nothing, or that it does keep.
 * @param directory of the user's counts, see userTransfers()
 * @param problem undefined: it keeps what was uploaded
 */
export function noteKept(directory: string | undefined, cache: string, problem: string | undefined): void {
  if (problem === undefined) removeNote(directory, nameFor(cache))
  else writeNote(directory, nameFor(cache), `${problem}\n`)
}

/** Why the box keeps nothing of what was uploaded last; undefined if no problem is known. */
export const notKept = (directory: string | undefined, cache: string): string | undefined =>
  readNote(directory, nameFor(cache))?.trim().slice(0, 500) || undefined
