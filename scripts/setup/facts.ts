// Gathers what setup needs to know about this machine before planning. Changes nothing.
import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs'
import { hostname } from 'node:os'
import { dirname, join } from 'node:path'
import { Failure, UsageError } from '../cli/errors.ts'
import { nix } from '../nix/nix.ts'
import type { ReadFile } from '../nix/nix-conf.ts'
import { parsePathInfos } from '../nix/path-info.ts'
import { type NixVersion, upTo } from '../nix/version.ts'
import { run } from '../system/exec.ts'
import { realPath } from '../system/files.ts'
import { onNixos } from '../system/nixos.ts'
import { findIn, needsNewer, RUNTIMES, waysToInstall } from '../system/runtime.ts'
import { DIRECTORIES } from '../system/search-path.ts'
import { doubtAbout } from '../system/trust.ts'
import type { User } from '../system/users.ts'
import type { ConfFile } from './conf.ts'

/** Kinds of Nix installation that setup treats differently. */
export type Installation = 'daemon' | { owner: number } | 'nixos' | 'none'

/**
 * The kind of Nix on this machine.
 * @param owner of /nix/store, undefined if there is none
 */
export function installation(nixos: boolean, daemon: boolean, owner: number | undefined): Installation {
  if (nixos) return 'nixos'
  if (daemon || owner === 0) return 'daemon'
  return owner === undefined ? 'none' : { owner }
}

/** Determines it. Debian's Nix has a daemon socket, but no /nix/store before the first build. */
export function findInstallation(): Installation {
  const units = ['/etc/systemd/system', '/usr/lib/systemd/system', '/lib/systemd/system', '/usr/local/lib/systemd/system']
  const daemon = existsSync('/nix/var/nix/daemon-socket') || units.some((unit) => existsSync(`${unit}/nix-daemon.service`))
  const owner = ['/nix/store', '/nix'].map((path) => statSync(path, { throwIfNoEntry: false })?.uid).find((uid) => uid !== undefined)
  return installation(onNixos(), daemon, owner)
}

/** Why this Nix is too old; undefined if it isn't. Pure. */
export function nixTooOld(version: NixVersion | undefined): string | undefined {
  if (version === undefined || !upTo(version, 3)) return undefined
  return `this is Nix ${version.text}, which can't start a program as a store; nix-lan needs Nix 2.4 or later`
}

/**
 * Why a runtime is unsuitable; undefined if it will do. Pure.
 * @param output of `PROGRAM --version`
 */
export function runtimeProblem(program: string, output: string): string | undefined {
  const needed = needsNewer(program, output)
  return needed && `${program} is ${output.trim().split('\n')[0] || 'of no version'}, and nix-lan needs ${needed} or later`
}

/**
 * Checks the runtime that programs started by nix-daemon will find: the first in the list that the
 * sh heads search, whatever our own PATH is.
 * @throws Failure that says what to do if there is none, it is too old, or not only root can change
 *   it
 */
export async function mustHaveRuntime(directories = DIRECTORIES): Promise<void> {
  const program = findIn(directories, RUNTIMES)
  if (!program) {
    throw new Failure(`nix-daemon would find no node, deno or bun: it looks only in ${directories.join(', ')}.${wayOut()}`)
  }
  const doubt = doubtAbout(program)
  if (doubt) throw new Failure(`nix-daemon would run ${program} as root, but ${doubt.why}.${wayOut()}`)
  const asked = await run(program, ['--version'], { timeout: 10_000 })
  const problem =
    asked.code === 0 ? runtimeProblem(program, asked.stdout) : `${program} doesn't run: ${asked.stderr || asked.failedToStart}`
  if (problem) throw new Failure(`${problem}.${wayOut()}`)
}

/** How to get a runtime. */
const wayOut = (): string =>
  ` sudo and services drop the PATH of nvm, fnm and volta. Install one for the whole system; one of:\n${waysToInstall(process.execPath)
    .map((line) => `  ${line}`)
    .join('\n')}`

/** A file of dist/, by its path there. */
export interface DistFile {
  path: string
  content: Buffer
  executable: boolean
}

/**
 * The files in the directory of the running program.
 * @throws Failure if that isn't a complete dist/
 */
export function readDist(): DistFile[] {
  const directory = dirname(realpathSync(process.argv[1] ?? ''))
  const files = readBelow(directory, '').filter(({ path }) => path !== 'demo')
  const missing = ['nix-lan', 'nix-lan-connect', 'nix-lan-tunnel', 'post-build-hook', 'package.json'].filter(
    (name) => !files.some(({ path }) => path === name),
  )
  if (missing.length > 0) throw new Failure(`${directory} lacks ${missing.join(', ')}; run setup from a complete dist/, which it copies`)
  return files
}

function readBelow(directory: string, below: string): DistFile[] {
  const entries = readdirSync(join(directory, below), { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))
  return entries.flatMap((entry) => {
    const path = join(below, entry.name)
    if (entry.isDirectory()) return readBelow(directory, path)
    if (!entry.isFile() || entry.name.startsWith('.')) return []
    const file = join(directory, path)
    return [{ path, content: readFileSync(file), executable: (statSync(file).mode & 0o111) !== 0 }]
  })
}

/** The name of this machine. */
export const hostName = (): string => hostname()

/**
 * The file that gets our block: nix.conf, or the file it includes where Determinate's installer
 * owns nix.conf.
 */
export function findNixConf(top: string, read: ReadFile): ConfFile {
  const custom = join(dirname(top), 'nix.custom.conf')
  const includes = /^\s*!?include\s+(\S*\/)?nix\.custom\.conf\s*(#.*)?$/m.test(read(top) ?? '')
  const named = includes ? custom : top
  return { top, named, file: realPath(named), read }
}

/**
 * The paths built here that none of our keys has signed, from the lines of
 * `nix path-info --all --size --sigs`; pure. A lost key doesn't count: nobody trusts a new key of
 * the same name.
 */
export function unsignedBuilds(output: string, keyNames: readonly string[]): { path: string; size: number }[] {
  const ours = (signature: string): boolean => keyNames.includes(signature.slice(0, signature.indexOf(':')))
  return [...parsePathInfos(output)]
    .filter(([, info]) => info.ultimate && !info.contentAddressed && !info.signatures.some(ours))
    .map(([path, { size }]) => ({ path, size }))
}

/** The unsigned builds in this machine's store; none if Nix doesn't answer. */
export async function findUnsignedBuilds(keyNames: readonly string[]): Promise<{ path: string; size: number }[]> {
  return unsignedBuilds((await nix(['path-info', '--all', '--size', '--sigs'])).stdout, keyNames)
}

/** The group of a user, from passwd(5). */
export async function groupOf(user: User): Promise<number> {
  const asked = await run('id', ['-g', user.name], { timeout: 5000 })
  const gid = Number(asked.stdout.trim() || Number.NaN)
  if (Number.isNaN(gid)) throw new UsageError(`can't find the group of ${user.name}: ${asked.stderr.trim()}`)
  return gid
}
