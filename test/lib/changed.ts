// A built program with other texts in the place of some: a time limit that only a hang exceeds, or a
// list of directories that this machine hasn't got.
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import * as assert from 'uvu/assert'

/** A text of a program, and what stands there instead. */
export type Change = [from: RegExp, to: string]

/** The limits of post-build-hook that only a hang exceeds: its runtime's, and nix-store's. */
export const PATIENT_HOOK: { runtime: Change; store: Change } = {
  runtime: [/ -s KILL 0\.9 /, ' -s KILL 60 '],
  store: [/^var LIMIT = 600;$/m, 'var LIMIT = 6e4;'],
}

/**
 * Writes the changed program into a folder, which is made if need be, under its own name.
 * @returns its path @throws when there is nothing to change any more
 */
export function changed(program: string, folder: string, ...changes: Change[]): string {
  let text = readFileSync(program, 'utf8')
  for (const [from, to] of changes) {
    assert.match(text, from)
    text = text.replace(from, to)
  }
  mkdirSync(folder, { recursive: true })
  const path = join(folder, basename(program))
  writeFileSync(path, text)
  chmodSync(path, 0o755)
  return path
}
