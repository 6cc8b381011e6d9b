// Contracts that hold for an ordinary user: as root they are run as one, since root ignores
// NIX_LAN_CONFIG. And files for others than ourselves.
import { chmodSync, chownSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

export const ROOT = process.getuid?.() === 0
/** Who runs the program: nobody, or whoever runs the tests. */
export const USER = ROOT ? 65534 : (process.getuid?.() ?? 65534)
/**
 * Goes before the command. The capability: so that programs in root's folders can be run by
 * somebody else.
 */
export const AS_USER = ROOT
  ? ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--inh-caps=+dac_read_search', '--ambient-caps=+dac_read_search']
  : []

/** Makes a path the user's. */
export function give(path: string): void {
  if (ROOT) chownSync(path, USER, USER)
}

/** What makes directories below one. `mine`: it belongs to the user, and is closed to others. */
export function foldersIn(parent: string): (name: string, mine?: boolean) => string {
  return (name, mine = false) => {
    const path = join(parent, name)
    mkdirSync(path, { recursive: true })
    chmodSync(path, mine ? 0o700 : 0o755)
    if (mine) give(path)
    return path
  }
}

/**
 * The directory with the runtime under test (see launcher.test.ts), by default this Node, in a
 * directory of its own.
 */
export function runtimeIn(folder: (name: string) => string): string {
  if (process.env.NIX_LAN_TEST_RUNTIME) return process.env.NIX_LAN_TEST_RUNTIME
  const path = folder('runtime')
  symlinkSync(process.execPath, join(path, 'node'))
  return path
}

/** Writes a file of somebody's, with those folders on the way to it that aren't there. */
export function placeFile(file: string, text: string, owner: number, mode: number): void {
  const first = mkdirSync(dirname(file), { recursive: true })
  if (first) for (let folder = dirname(file); folder.length >= first.length; folder = dirname(folder)) chownSync(folder, owner, owner)
  writeFileSync(file, text)
  chmodSync(file, mode)
  chownSync(file, owner, owner)
}
