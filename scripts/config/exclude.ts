// Matches the globs of `exclude`: `*` is any characters, `?` exactly one, all else is literal.

/**
 * Whether a glob matches a whole name. Never becomes a regular expression, so nothing in it can be
 * special or slow: a mismatch extends only the last `*`, which bounds the steps by length × length.
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

/** The name after the hash: `abc-source` for `/nix/store/HASH-abc-source` or just its last part. */
function nameAfterHash(storePath: string): string {
  const base = storePath.slice(storePath.lastIndexOf('/') + 1)
  return /^[0-9a-z]{32}-/.test(base) ? base.slice(33) : base
}

/** Whether a store path (or its last part) matches one of a cache's `exclude` patterns. */
export function excluded(patterns: readonly string[], storePath: string): boolean {
  const name = nameAfterHash(storePath)
  return patterns.some((glob) => globMatches(glob, name))
}
