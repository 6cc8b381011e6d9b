// Remembers whether the box keeps what was uploaded last, for `nix-lan status`, in a small file of
// the user's own. Never makes anything fail.
import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { readText } from '../nix/nix-conf.ts'

const fileFor = (directory: string, cache: string): string => `${directory}/unkept.${cache}`

/**
 * Notes why a box keeps nothing, or that it does keep.
 * @param directory of the user's counts, see userTransfers()
 * @param problem undefined: it keeps what was uploaded
 */
export function noteKept(directory: string | undefined, cache: string, problem: string | undefined): void {
  if (directory === undefined) return
  const file = fileFor(directory, cache)
  try {
    if (problem === undefined) {
      rmSync(file, { force: true })
      return
    }
    mkdirSync(directory, { recursive: true, mode: 0o755 })
    writeFileSync(`${file}.${process.pid}`, `${problem}\n`, { mode: 0o644 })
    renameSync(`${file}.${process.pid}`, file)
  } catch {
    // a full disk, say: the upload has said so too
  }
}

/** Why the box keeps nothing of what was uploaded last; undefined if no problem is known. */
export const notKept = (directory: string | undefined, cache: string): string | undefined =>
  directory === undefined ? undefined : readText(fileFor(directory, cache))?.trim().slice(0, 500) || undefined
