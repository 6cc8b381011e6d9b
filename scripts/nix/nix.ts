// How Nix is asked: with options that every Nix from 2.4 to 2.35 understands, in batches that fit a command line, answers as text
// that all of them print alike. (`path-info --json` changed its shape in 2.19 and 2.33; `path-info --sigs --size` never did.)
import { Failure } from '../cli/errors.ts'
import { type Outcome, type RunOptions, run } from '../system/exec.ts'
import { searchPath } from '../system/search-path.ts'

/** The directory of the store; NIX_STORE_DIR as Nix itself reads it. */
export const storeDir = process.env.NIX_STORE_DIR || '/nix/store'

/** Arguments of one call, in bytes: far below the 128 KiB that one argument, and the 2 MiB that all of them may take. */
const ARGUMENT_BYTES = 100 * 1024

/** Nix could not answer, here or on the box. */
export class NixError extends Failure {}

/** Nix didn't start, or didn't end in time: there is no use in asking it something else. */
class NoAnswer extends NixError {}

/** What Nix knows of a valid path. */
export interface PathInfo {
  /** Bytes of its NAR. */
  size: number
  /** Built on this machine, as opposed to copied here. */
  ultimate: boolean
  /** Content-addressed: needs no signature, its name proves it. */
  contentAddressed: boolean
  /** `KEY-NAME:BASE64` each. */
  signatures: string[]
}

/** Whether this is the last part of a store path: hash, dash, name (src/libstore/path.cc; the alphabet of src/libutil/hash.cc). */
export function isStoreName(name: string): boolean {
  return /^[0-9abcdfghijklmnpqrsvwxyz]{32}-[0-9A-Za-z+\-._?=]{1,211}$/.test(name)
}

/** Whether a store path, or the last part of one, is a derivation's. */
export const isDerivation = (path: string): boolean => path.endsWith('.drv')

/** Splits paths so that each group fits a command line; `bytes` counts each path and its terminator. */
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

/** One line of `nix path-info --size --sigs`: the path, tab, size, tab, then words: `ultimate`, `ca:…`, signatures. Null if it isn't one. */
export function parsePathInfo(line: string): { path: string; info: PathInfo } | null {
  const [path, size, words] = line.split('\t')
  if (path === undefined || size === undefined || words === undefined || !/^ *\d+$/.test(size)) return null
  const info: PathInfo = { size: Number(size), ultimate: false, contentAddressed: false, signatures: [] }
  for (const word of words.split(' ')) {
    if (word === 'ultimate') info.ultimate = true
    else if (/^ca:(text|fixed):/.test(word)) info.contentAddressed = true
    else if (word !== '') info.signatures.push(word)
  }
  return { path: path.trimEnd(), info }
}

/** Nix must not run with the environment of a post-build-hook: its NIX_CONFIG names that very hook, and settings of a build. */
export function nixEnvironment(env: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  if (!/^\s*post-build-hook\s*=/m.test(env.NIX_CONFIG ?? '')) return env
  const { NIX_CONFIG: _, ...rest } = env
  return rest
}

/** Runs a program of Nix's. The PATH of sudo or of a service need not have them, where the installer put them. */
export function nixProgram(program: string, args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  return run(program, args, { env: { ...nixEnvironment(), PATH: searchPath(process.env.PATH) }, ...options })
}

/** Runs `nix SUBCOMMAND …` with the commands enabled, however nix.conf has them. */
export function nix(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  return nixProgram('nix', ['--option', 'extra-experimental-features', 'nix-command', ...args], options)
}

const nixStore = (args: readonly string[], options: RunOptions = {}): Promise<Outcome> => nixProgram('nix-store', args, options)

/** For how many milliseconds at most a question may be asked (each batch). */
export interface Asking {
  timeout?: number
}

/**
 * Those of the paths that aren't valid in a store.
 * @param store another one than this machine's
 * @throws NixError when the store can't be asked
 */
export async function invalidPaths(paths: readonly string[], { store, timeout }: Asking & { store?: string } = {}): Promise<string[]> {
  const args = [...(store ? ['--store', store] : []), '--check-validity', '--print-invalid']
  return (await inBatches(paths, timeout, (batch, limit) => nixStore([...args, ...batch], limit))).filter((line) => line !== '')
}

/** What a store knows of paths and all they refer to, and which of the paths aren't valid in it. */
export interface Closure {
  invalid: ReadonlySet<string>
  infos: Map<string, PathInfo>
}

/**
 * What this machine's store knows of paths and all they refer to. Nearly always all are valid, and one question does; Nix gives up at the
 * first one that isn't, and then those are found first.
 * @throws NixError when the store can't be asked
 */
export async function closureOf(paths: readonly string[], asking: Asking = {}): Promise<Closure> {
  try {
    return { invalid: new Set(), infos: await pathInfos(paths, { closure: true, ...asking }) }
  } catch (error) {
    if (!(error instanceof NixError) || error instanceof NoAnswer) throw error
    const invalid = new Set(await invalidPaths(paths, asking))
    const valid = paths.filter((path) => !invalid.has(path))
    return { invalid, infos: await pathInfos(valid, { closure: true, ...asking }) }
  }
}

/**
 * What this machine's store knows of these paths, all of which must be valid. Derivations stand for themselves, not for their outputs.
 * @param closure of everything they refer to as well
 * @throws NixError, also when one of them isn't valid
 */
export async function pathInfos(
  paths: readonly string[],
  { closure = false, timeout }: Asking & { closure?: boolean } = {},
): Promise<Map<string, PathInfo>> {
  const args = ['path-info', '--size', '--sigs', ...(closure ? ['--recursive'] : [])]
  const infos = new Map<string, PathInfo>()
  // Without --derivation, 2.4–2.14 take X.drv for its outputs; with it, every version takes an output for its derivation.
  for (const derivations of [false, true]) {
    const group = paths.filter((path) => isDerivation(path) === derivations)
    const flags = derivations ? ['--derivation'] : []
    for (const line of await inBatches(group, timeout, (batch, limit) => nix([...args, ...flags, ...batch], limit))) {
      const found = parsePathInfo(line)
      if (found) infos.set(found.path, found.info)
    }
  }
  return infos
}

/** What this machine's store knows of all its valid paths, derivations too: one call (`--all` means each path itself, in every version). */
export async function allPathInfos(): Promise<Map<string, PathInfo>> {
  return parsePathInfos(succeeded(await nix(['path-info', '--all', '--size', '--sigs'])))
}

/** All the lines that `nix path-info --size --sigs` prints, by path. */
export function parsePathInfos(output: string): Map<string, PathInfo> {
  const found = output.split('\n').map(parsePathInfo)
  return new Map(found.flatMap((one) => (one === null ? [] : [[one.path, one.info]])))
}

/** Sizes in bytes of NARs of valid paths, derivations too (`nix path-info X.drv` means the outputs up to 2.14, nix-store never did). */
export async function sizesOf(paths: readonly string[], { timeout }: Asking = {}): Promise<number[]> {
  const lines = await inBatches(paths, timeout, (batch, limit) => nixStore(['--query', '--size', ...batch], limit))
  return lines.filter((line) => line !== '').map(Number)
}

/** The paths themselves and everything here that refers to them, directly or not. @throws NixError when one of them isn't valid */
export async function referrersClosure(paths: readonly string[]): Promise<Set<string>> {
  return new Set(await inBatches(paths, undefined, (batch, limit) => nixStore(['--query', '--referrers-closure', ...batch], limit)))
}

/** A setting as Nix itself takes it, words split at spaces. `nix config show` from 2.20, `nix show-config` before. */
export async function setting(name: string): Promise<string[]> {
  let outcome = await nix(['config', 'show'])
  if (outcome.code !== 0) outcome = await nix(['show-config'])
  const line = succeeded(outcome)
    .split('\n')
    .find((text) => text.startsWith(`${name} =`))
  return (line ?? '')
    .slice(name.length + 2)
    .split(' ')
    .filter((word) => word !== '')
}

async function inBatches(
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

/** Its stdout. @throws NixError with Nix's own message */
function succeeded(outcome: Outcome): string {
  if (outcome.failedToStart) throw new NoAnswer(`nix can't be started (${outcome.failedToStart}): is it in PATH?`)
  if (outcome.timedOut) throw new NoAnswer('nix gave no answer in time')
  if (outcome.code !== 0) throw new NixError(errorText(outcome.stderr))
  return outcome.stdout
}

/**
 * What Nix says went wrong, on one line: what follows its last `error:`, without colours, the progress and warnings before it,
 * and the frame of blanks that it puts around the details.
 */
export function errorText(stderr: string): string {
  const lines = plain(stderr).split('\n')
  const start = lines.findIndex((line) => /^\s*error:/.test(line))
  const text = (start < 0 ? lines.filter((line) => !/^(warning:|copying )/.test(line)) : lines.slice(start))
    .map((line) => line.replace(/^\s*(error:)?\s*/, '').trimEnd())
    .filter((line) => line !== '')
    .join(' ')
  return text === '' ? 'nix failed and did not say why' : text.length > 500 ? `${text.slice(0, 499)}…` : text
}

/** The store paths that Nix's error names, without what it printed before the error, each once. */
export function pathsInError(stderr: string): string[] {
  const text = plain(stderr)
  const start = text.search(/^\s*error:/m)
  if (start < 0) return []
  const found = new Set<string>()
  const pattern = new RegExp(`${storeDir.replace(/[^A-Za-z0-9/]/g, '\\$&')}/([0-9a-z]{32}-[0-9A-Za-z+\\-._?=]{1,211})`, 'g')
  for (const [, name] of text.slice(start).matchAll(pattern)) {
    // A path at the end of a sentence, `… '/nix/store/x'.`, is in quotes; one without quotes may have the full stop at its end.
    if (name) found.add(`${storeDir}/${name}`)
  }
  return [...found]
}

// The progress bar's and colours' escape sequences.
// biome-ignore lint/suspicious/noControlCharactersInRegex: this is what they look like
const plain = (text: string): string => text.replace(/\u001b\[[0-9;?]*[A-Za-z]/g, '').replaceAll('\r', '\n')
