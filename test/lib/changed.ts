// A built program with other texts in the place of some: a time limit that only a hang exceeds, or a
// list of directories that this machine hasn't got.
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import * as assert from 'uvu/assert'

/**
 * Writes the changed program into a folder, which is made if need be, under its own name.
 * @returns its path @throws when there is nothing to change any more
 */
export function changed(program: string, folder: string, ...changes: [from: RegExp, to: string][]): string {
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
