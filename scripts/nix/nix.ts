// Starts Nix and queries it, with options every Nix from 2.4 to 2.35 understands, in batches that
// fit a command line, and for output that looks the same in all of them.
import { Failure } from '../cli/errors.ts'
import { withoutEscapes } from '../cli/text.ts'
import { type Outcome, type RunOptions, run } from '../system/exec.ts'
import { searchPath } from '../system/search-path.ts'
import { storePathsIn } from './store-path.ts'

/**
 * Bytes of arguments per call: far below Linux's limits of 128 KiB for one argument and 2 MiB for
 * all.
 */
const ARGUMENT_BYTES = 100 * 1024

/** Nix could not answer, here or on the box. */
export class NixError extends Failure {}

/** Nix didn't start or didn't finish in time: there is no point in asking again. */
export class NoAnswer extends NixError {}

/**
 * Splits paths into groups that each fit a command line of `bytes`, counting each path's
 * terminator.
 */
export function batches(paths: readonly string[], bytes = ARGUMENT_BYTES): string[][] {
  const groups: string[][] = []
  let room = 0
  for (const path of paths) {
    const need = path.length + 1
    const last = groups[groups.length - 1]
    if (last && need <= room) {
      last.push(path)
      room -= need
    } else {
      groups.push([path])
      room = bytes - need
    }
  }
  return groups
}

/**
 * The environment without NIX_CONFIG if a post-build-hook got it from Nix: it names that very hook
 * and the build's settings.
 */
export function nixEnvironment(env: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  if (!/^\s*post-build-hook\s*=/m.test(env.NIX_CONFIG ?? '')) return env
  const { NIX_CONFIG: _, ...rest } = env
  return rest
}

/** Runs one of Nix's programs, even if sudo's or a service's PATH lacks Nix's directory. */
export function nixProgram(program: string, args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  return run(program, args, { env: { ...nixEnvironment(), PATH: searchPath(process.env.PATH) }, ...options })
}

/** Runs `nix SUBCOMMAND …`, whether or not nix.conf enables nix-command. */
export function nix(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  return nixProgram('nix', ['--option', 'extra-experimental-features', 'nix-command', ...args], options)
}

const nixStore = (args: readonly string[], options: RunOptions = {}): Promise<Outcome> => nixProgram('nix-store', args, options)

/** `timeout`: milliseconds per batch. */
export interface Asking {
  timeout?: number
}

/**
 * The paths that aren't valid in a store.
 * @param store default: this machine's
 * @throws NixError if the store can't be queried
 */
export async function invalidPaths(paths: readonly string[], { store, timeout }: Asking & { store?: string } = {}): Promise<string[]> {
  const args = [...(store ? ['--store', store] : []), '--check-validity', '--print-invalid']
  return (await inBatches(paths, timeout, (batch, limit) => nixStore([...args, ...batch], limit))).filter((line) => line !== '')
}

/**
 * NAR sizes in bytes of valid paths and derivations. Asks nix-store, because `nix path-info X.drv`
 * means the outputs up to 2.14.
 */
export async function sizesOf(paths: readonly string[], { timeout }: Asking = {}): Promise<number[]> {
  const lines = await inBatches(paths, timeout, (batch, limit) => nixStore(['--query', '--size', ...batch], limit))
  return lines.filter((line) => line !== '').map(Number)
}

/**
 * The paths themselves and everything they refer to, directly or not. @throws NixError if one of
 * them isn't valid
 */
export async function requisites(paths: readonly string[]): Promise<Set<string>> {
  const lines = await inBatches(paths, undefined, (batch, limit) => nixStore(['--query', '--requisites', ...batch], limit))
  return new Set(lines.filter((line) => line !== ''))
}

/**
 * The paths themselves and everything here that refers to them, directly or not.
 * @throws NixError if one of them isn't valid
 */
export async function referrersClosure(paths: readonly string[]): Promise<Set<string>> {
  return new Set(await inBatches(paths, undefined, (batch, limit) => nixStore(['--query', '--referrers-closure', ...batch], limit)))
}

/** The lines Nix printed for all batches. @throws NixError with Nix's own message */
export async function inBatches(
  paths: readonly string[],
  timeout: number | undefined,
  ask: (batch: string[], limit: RunOptions) => Promise<Outcome>,
): Promise<string[]> {
  const lines: string[] = []
  for (const batch of batches(paths)) {
    const outcome = await ask(batch, timeout === undefined ? {} : { timeout })
    for (const line of succeeded(outcome).split('\n')) lines.push(line)
  }
  return lines
}

/** The stdout of a successful run. @throws NixError with Nix's own message */
export function succeeded(outcome: Outcome): string {
  if (outcome.failedToStart) throw new NoAnswer(`nix can't be started (${outcome.failedToStart}): is it in PATH?`)
  if (outcome.timedOut) throw new NoAnswer('nix gave no answer in time')
  if (outcome.code !== 0) throw new NixError(errorText(outcome.stderr))
  return outcome.stdout
}

/** Nix's error message on one line, without colours, progress, warnings and indentation. */
export function errorText(stderr: string): string {
  const lines = withoutEscapes(stderr).replaceAll('\r', '\n').split('\n')
  const start = lines.findIndex((line) => /^\s*error:/.test(line))
  const text = (start < 0 ? lines.filter((line) => !/^(warning:|copying )/.test(line)) : lines.slice(start))
    .map((line) => line.replace(/^\s*(error:)?\s*/, '').trimEnd())
    .filter((line) => line !== '')
    .join(' ')
  return text === '' ? 'nix failed and did not say why' : text.length > 500 ? `${text.slice(0, 499)}…` : text
}

/** The store paths Nix's error names, each once; ignores what it printed before the error. */
export function pathsInError(stderr: string): string[] {
  const text = withoutEscapes(stderr).replaceAll('\r', '\n')
  const start = text.search(/^\s*error:/m)
  return start < 0 ? [] : storePathsIn(text.slice(start))
}
