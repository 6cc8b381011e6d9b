// The globs of `exclude`: `*` any characters, `?` exactly one; everything else stands for itself.
import type { Cache } from './config.ts'

/**
 * Whether a glob matches a whole name. No regular expression is made of it, so nothing in it can be special or slow:
 * on a mismatch only the last `*` takes one character more, which is at most length × length steps.
 */
export function globMatches(glob: string, name: string): boolean {
  let g = 0
  let n = 0
  let star = -1
  let from = 0
  while (n < name.length) {
    if (glob[g] === '*') {
      star = g++
      from = n
    } else if (g < glob.length && (glob[g] === '?' || glob[g] === name[n])) {
      g++
      n++
    } else if (star >= 0) {
      g = star + 1
      n = ++from
    } else return false
  }
  while (glob[g] === '*') g++
  return g === glob.length
}

/** What stands after the hash: `/nix/store/HASH-abc-source`, or just its last part, gives `abc-source`. */
export function nameAfterHash(storePath: string): string {
  const base = storePath.slice(storePath.lastIndexOf('/') + 1)
  return /^[0-9a-z]{32}-/.test(base) ? base.slice(33) : base
}

/** Whether a cache's `exclude` keeps a store path (or its last part) from being uploaded. A `url` cache gets no uploads at all. */
export function excluded(cache: Cache, storePath: string): boolean {
  const name = nameAfterHash(storePath)
  return cache.kind === 'ssh' && cache.exclude.some((glob) => globMatches(glob, name))
}
