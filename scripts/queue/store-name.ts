// Finds the store path a person means by a word on the command line.
import { lstatSync, readlinkSync, realpathSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { UsageError } from '../cli/errors.ts'
import { isStoreName, storeDir } from '../nix/store-path.ts'

/** The number of links the kernel itself follows (path_resolution(7)). */
const MOST_LINKS = 40

/**
 * The last part of the store path a word means. The word may be a store path, something below one,
 * its last part, or a link to one.
 * @throws UsageError when it is none of these
 */
export function storeNameOf(word: string): string {
  if (isStoreName(word)) return word
  let path = resolve(word)
  for (let links = 0; links < MOST_LINKS; links++) {
    const name = path.startsWith(`${storeDir}/`) ? path.slice(storeDir.length + 1).split('/')[0] : undefined
    if (name !== undefined && isStoreName(name)) return name
    const next = follow(path)
    if (next === undefined || next === path) break
    path = next
  }
  throw new UsageError(`${word} is neither a store path nor a link to one`)
}

/** Follows one link only: a store path may itself be a link, so go no further than needed. */
function follow(path: string): string | undefined {
  try {
    return lstatSync(path).isSymbolicLink() ? resolve(dirname(path), readlinkSync(path)) : realpathSync(path)
  } catch {
    return undefined
  }
}
