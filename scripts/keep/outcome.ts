// Remembers whether the box keeps what was uploaded, for `nix-lan status`, and what it doesn't keep
// yet, for the next upload.
import { isStorePath, storeDir } from '../nix/store-path.ts'
import { readNote, removeNote, writeNote } from './notes.ts'

const nameFor = (cache: string): string => `unkept.${cache}`

/** What a box doesn't keep, and why. */
export interface Unkept {
  why: string
  paths: readonly string[]
}

/** The most paths to remember: 100,000 take some 8 MB. */
const MOST = 100_000

/**
 * Notes why a box doesn't keep what was uploaded, or that it does keep all of it.
 * @param directory of the user's counts, see userTransfers()
 * @param unkept undefined: it keeps everything
 */
export function noteKept(directory: string | undefined, cache: string, unkept: Unkept | undefined): void {
  const text = unkept && [unkept.why.replace(/\s+/g, ' '), ...[...new Set(unkept.paths)].slice(-MOST), ''].join('\n')
  if (text === undefined) removeNote(directory, nameFor(cache))
  else writeNote(directory, nameFor(cache), text)
}

/** Why the box doesn't keep all of what was uploaded; undefined if no problem is known. */
export const notKept = (directory: string | undefined, cache: string): string | undefined =>
  linesIn(directory, cache)[0]?.trim().slice(0, 500) || undefined

/** What was uploaded and the box doesn't keep yet. */
export const unkeptPaths = (directory: string | undefined, cache: string): string[] =>
  linesIn(directory, cache)
    .slice(1)
    .filter((path) => isStorePath(path, storeDir))

const linesIn = (directory: string | undefined, cache: string): string[] => readNote(directory, nameFor(cache))?.split('\n') ?? []
