// Small files in the user's own state directory, in which commands leave notes for `nix-lan status`
// and for each other. Replaced in one step; never make anything fail.
import { appendFileSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { readText } from '../nix/nix-conf.ts'

/** A note's text; undefined if there is none. @param directory of the user's counts, see userTransfers() */
export const readNote = (directory: string | undefined, name: string): string | undefined =>
  directory === undefined ? undefined : readText(`${directory}/${name}`)

/** Replaces a note, if it can: not on a full disk. */
export function writeNote(directory: string | undefined, name: string, text: string): void {
  if (directory === undefined) return
  const temporary = `${directory}/.${name}.${process.pid}`
  try {
    mkdirSync(directory, { recursive: true, mode: 0o755 })
    writeFileSync(temporary, text, { mode: 0o644 })
    renameSync(temporary, `${directory}/${name}`)
  } catch {
    removeFile(temporary)
  }
}

/** Adds to a note, if it can. */
export function addToNote(directory: string | undefined, name: string, text: string): void {
  if (directory === undefined) return
  try {
    mkdirSync(directory, { recursive: true, mode: 0o755 })
    appendFileSync(`${directory}/${name}`, text, { mode: 0o644 })
  } catch {
    // a full disk, say
  }
}

/** Removes a note. */
export function removeNote(directory: string | undefined, name: string): void {
  if (directory !== undefined) removeFile(`${directory}/${name}`)
}

function removeFile(file: string): void {
  try {
    rmSync(file, { force: true })
  } catch {
    // a read-only file system, say
  }
}
