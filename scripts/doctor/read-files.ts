// Looks at the files that root runs or trusts. As root, never reads anything a user could have put
// there: then it only calls lstat.
import { accessSync, constants, existsSync, lstatSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { readText } from '../nix/nix-conf.ts'
import { failedDir, queueDir, stateDir } from '../system/paths.ts'
import { findIn } from '../system/runtime.ts'
import { type Doubt, doubtAbout } from '../system/trust.ts'
import { effectiveUid } from '../system/users.ts'
import type { DispatcherFacts } from './judge-automatic.ts'
import type { DirectoryFacts, HookFacts, ProgramFacts } from './judge-files.ts'

export const code = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? String(error)

/**
 * A program that nix-daemon runs.
 * @param root whether it runs as root
 */
export function programFacts(file: string, root: boolean): ProgramFacts {
  try {
    const stat = statSync(file)
    return { file, root, executable: stat.isFile() && (stat.mode & 0o111) !== 0, ...(root ? doubtOf(file) : {}) }
  } catch (error) {
    return { file, root, missing: code(error), executable: false }
  }
}

function doubtOf(file: string): { doubt?: Doubt } {
  try {
    const doubt = doubtAbout(file)
    return doubt ? { doubt } : {}
  } catch (error) {
    return { doubt: { why: `the way to it can't be followed (${code(error)})`, fix: null } }
  }
}

/**
 * The post-build-hook of nix.conf. It is ours if its second line says so (build/bundle.ts), or if
 * its text names nix-lan.
 */
export function hookFacts(file: string, root: boolean): HookFacts {
  if (file === '') return { file, root, executable: false, ours: false }
  const program = programFacts(file, root)
  return {
    ...program,
    ours: program.missing === undefined && /nix-lan|post-build-hook; set -f/.test((readText(file) ?? '').slice(0, 65536)),
  }
}

/** The file, if it exists and we may not read it. */
export function hiddenOf(file: string): string | undefined {
  try {
    accessSync(file, constants.R_OK)
    return undefined
  } catch (error) {
    return code(error) === 'EACCES' ? file : undefined
  }
}

/**
 * The runtime a Nix package has written into one of our programs (nix/install.sh), if it exists.
 */
export function pinnedIn(program: string): string | undefined {
  const [, file] = /^nix_lan_pinned='(\/[^']*)'$/m.exec(readText(program) ?? '') ?? []
  return file !== undefined && findIn([dirname(file)], [basename(file)]) === file ? file : undefined
}

/** The directories of a cache's queue, from the top down. */
export function queueFacts(cache: string, uid: number): DirectoryFacts[] {
  const own = effectiveUid()
  // In a single-user installation, everything is the user's.
  const top = ownerOf(stateDir) === uid && uid === own ? uid : 0
  const root = `${stateDir}/gcroots/nix-lan`
  const places: [path: string, owner: number][] = [
    [root, top],
    [`${root}/queue`, top],
    [queueDir(cache), uid],
    [`${root}/failed`, top],
    [failedDir(cache), uid],
  ]
  return places.map(([path, owner]) => directoryFacts(path, owner))
}

function directoryFacts(path: string, owner: number): DirectoryFacts {
  try {
    const stat = lstatSync(path)
    return { path, kind: stat.isDirectory() ? 'directory' : 'other', uid: stat.uid, mode: stat.mode & 0o7777, owner }
  } catch (error) {
    return { path, kind: code(error) === 'ENOENT' ? 'missing' : 'hidden', uid: -1, mode: 0, owner }
  }
}

function ownerOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.uid ?? 0
}

const DISPATCHERS = ['/etc/NetworkManager/dispatcher.d', '/usr/lib/NetworkManager/dispatcher.d']

/**
 * Our NetworkManager script: found by its name, else (NixOS numbers them) by what it is or names.
 * Without NetworkManager's directory, setup installs none.
 */
export function dispatcherFacts(): DispatcherFacts {
  const [directory = ''] = DISPATCHERS
  const manager = existsSync(directory)
  for (const place of DISPATCHERS) {
    const name = namesIn(place).find((entry) => isOurs(`${place}/${entry}`))
    if (name !== undefined) return { manager: true, directory, ...programFacts(`${place}/${name}`, true) }
  }
  const network = NETWORK_LINKS.find((path) => lstatSync(path, { throwIfNoEntry: false }) !== undefined)
  return { manager, directory, executable: false, ...(network ? { network } : {}) }
}

/** Where setup and NixOS enable the unit that watches the network where NetworkManager doesn't. */
export const NETWORK_LINKS = ['/etc/systemd/user', `${process.env.HOME}/.config/systemd/user`].map(
  (directory) => `${directory}/paths.target.wants/nix-lan-network.path`,
)

function isOurs(file: string): boolean {
  if (/nix-lan/.test(file)) return true
  try {
    return (
      statSync(file).isFile() &&
      (/nix-lan/.test(realpathSync(file)) || /nix-lan-dispatcher/.test(readFileSync(file, 'utf8').slice(0, 65536)))
    )
  } catch {
    return false
  }
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory).sort()
  } catch {
    return []
  }
}

/** The last line of a file that sets one of these names. */
export function lineWith(file: string, names: readonly string[]): { file: string; number: number; text: string } | undefined {
  const lines = (readText(file) ?? '').split('\n')
  for (let at = lines.length - 1; at >= 0; at--) {
    const text = (lines[at] ?? '').trim()
    if (names.some((name) => text.startsWith(name) && /^\s*=/.test(text.slice(name.length)))) return { file, number: at + 1, text }
  }
  return undefined
}
