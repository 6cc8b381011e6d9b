// What the sh head of post-build-hook can't do safely: read any .drv file, and plan the directories of the queue.
// Pure; the effects are in scripts/bin/post-build-hook.ts.

import { isStorePath } from '../nix/store-path.ts'

/**
 * The output paths of a derivation, from the text of its .drv file (an ATerm; libstore/derivations.cc, 2.8.0 and 2.34.8):
 *     Derive([("out","/nix/store/…","",""),…],…     DrvWithVersion("xp-dyn-drv",[("out",…
 * Undefined when it is no derivation, or has an output whose path only the store's database knows: that of an output which
 * depends on its content stands there as "".
 */
export function outputsOf(text: string, store: string): string[] | undefined {
  const head = /^(?:Derive\(|DrvWithVersion\("[^"\\]*",)\[/.exec(text)
  if (!head) return undefined
  const tuple = /\("(?:[^"\\]|\\.)*","((?:[^"\\]|\\.)*)","(?:[^"\\]|\\.)*","(?:[^"\\]|\\.)*"\)([,\]])/sy
  tuple.lastIndex = head[0].length
  const paths: string[] = []
  for (;;) {
    const found = tuple.exec(text)
    const path = found?.[1] ?? ''
    if (!found || !isStorePath(path, store)) return undefined
    paths.push(path)
    if (found[2] === ']') return paths
  }
}

/** What `nix-store --query --outputs` printed; a line that is no store path is left out. */
export function outputsPrinted(text: string, store: string): string[] {
  return text.split('\n').filter((line) => isStorePath(line, store))
}

/** What lstat says of a directory of the queue, or that there is nothing. */
export interface Entry {
  kind: 'directory' | 'other' | 'missing'
  uid: number
}

/** What is to be done with a directory: `nothing`, `make` it, `give` it to its owner, or, as text, what is wrong with it. */
export type Step = 'nothing' | 'make' | 'give' | { wrong: string }

/**
 * Decides about one directory that should belong to `owner`. Only what root itself made is given away: in a parent that is root's,
 * nobody else can have put it there.
 * @param self our own user id
 */
export function planDirectory(path: string, entry: Entry, owner: number, self: number): Step {
  if (entry.kind === 'missing') return 'make'
  if (entry.kind === 'other') return { wrong: `${path} is not a directory; remove it` }
  if (entry.uid === owner) return 'nothing'
  if (self === 0 && entry.uid === 0) return 'give'
  return { wrong: `${path} belongs to user ${entry.uid}, not ${owner}; try: sudo chown ${owner} ${path}` }
}
