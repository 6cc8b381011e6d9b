// Finds the JavaScript runtime the same way the heads do (scripts/heads/runtime.sh).
import { accessSync, constants, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { shellWord } from '../cli/text.ts'
import { DIRECTORIES } from './search-path.ts'

/** The oldest versions that run dist/, in search order. */
const OLDEST: Record<string, readonly [major: number, minor: number]> = { node: [18, 19], deno: [2, 0], bun: [1, 0] }

export const RUNTIMES = Object.keys(OLDEST)

/**
 * The oldest version that works, such as `node 18.19`; undefined if this one does. Pure.
 * @param output what `PROGRAM --version` printed
 */
export function needsNewer(program: string, output: string): string | undefined {
  const name = program.slice(program.lastIndexOf('/') + 1)
  const [, major = '0', minor = '0'] = /(\d+)\.(\d+)/.exec(output) ?? []
  const [leastMajor, leastMinor] = OLDEST[name] ?? [0, 0]
  const enough = Number(major) > leastMajor || (Number(major) === leastMajor && Number(minor) >= leastMinor)
  return enough ? undefined : `${name} ${leastMajor}.${leastMinor}`
}

/**
 * The first program with one of these names, searched by directory, then by name. Skips relative
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
 * Commands that install a runtime system-wide, each with a comment; any one will do. It has to be
 * the system's runtime or a copy: sudo drops what nvm and the like add to PATH, and a link into a
 * home directory would let its owner change what root runs.
 * @param own the runtime running us: Node, Deno and Bun are each a single file that runs from
 *   anywhere
 */
export function waysToInstall(own: string): string[] {
  return [
    'sudo apt install nodejs    # Debian 12, Ubuntu 24.04 and later',
    'sudo dnf install nodejs    # Fedora',
    'sudo pacman -S nodejs    # Arch',
    // sudo's PATH may lack Nix's programs.
    `sudo "$(command -v nix)" --extra-experimental-features 'nix-command flakes' profile install --profile /nix/var/nix/profiles/default nixpkgs#nodejs`,
    ...(DIRECTORIES.includes(dirname(own)) || !own.startsWith('/')
      ? []
      : [`sudo install -m 755 ${shellWord(own)} /usr/local/bin/    # a copy of yours`]),
  ]
}
