// Finds the JavaScript runtime as the heads do (scripts/heads/runtime.sh).
import { accessSync, constants, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { shellWord } from '../cli/text.ts'
import { DIRECTORIES } from './search-path.ts'

/** The oldest versions that run dist/, in the order of the search. */
const OLDEST: Record<string, readonly [major: number, minor: number]> = { node: [18, 19], deno: [2, 0], bun: [1, 0] }

export const RUNTIMES = Object.keys(OLDEST)

/**
 * The oldest version that will do, such as `node 18.19`; undefined when this one will do. Pure.
 * @param output of `PROGRAM --version`
 */
export function needsNewer(program: string, output: string): string | undefined {
  const name = program.slice(program.lastIndexOf('/') + 1)
  const [, major = '0', minor = '0'] = /(\d+)\.(\d+)/.exec(output) ?? []
  const [leastMajor, leastMinor] = OLDEST[name] ?? [0, 0]
  const enough = Number(major) > leastMajor || (Number(major) === leastMajor && Number(minor) >= leastMinor)
  return enough ? undefined : `${name} ${leastMajor}.${leastMinor}`
}

/**
 * The first program with one of these names, by directory, then by name. Skips relative
 * directories.
 */
export function findIn(directories: readonly string[], names: readonly string[]): string | undefined {
  const places = directories.filter((directory) => directory.startsWith('/'))
  return places.flatMap((directory) => names.map((name) => `${directory}/${name}`)).find(isProgram)
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return statSync(path).isFile()
  } catch {
    return false
  }
}

/**
 * Commands that install a runtime for the whole system, each with a comment; any one will do. sudo
 * drops what nvm and the like add to PATH, and a link into a home directory would let its owner
 * change what root runs; hence the system's runtime, or a copy.
 * @param own the runtime that runs us: Node, Deno and Bun are each one file that runs from
 *   anywhere
 */
export function waysToInstall(own: string): string[] {
  return [
    'sudo apt install nodejs    # Debian 12, Ubuntu 24.04 and later',
    'sudo dnf install nodejs    # Fedora',
    'sudo pacman -S nodejs    # Arch',
    // sudo's PATH need not have Nix's programs.
    `sudo "$(command -v nix)" --extra-experimental-features 'nix-command flakes' profile install --profile /nix/var/nix/profiles/default nixpkgs#nodejs`,
    ...(DIRECTORIES.includes(dirname(own)) || !own.startsWith('/')
      ? []
      : [`sudo install -m 755 ${shellWord(own)} /usr/local/bin/    # a copy of yours`]),
  ]
}
