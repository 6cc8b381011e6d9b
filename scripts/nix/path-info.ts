// Asks this machine's store about its paths: size, where they were built, signatures. Uses
// `path-info --sigs --size`, whose output never changed; that of `--json` did in 2.19 and 2.33.
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { type Asking, inBatches, invalidPaths, NixError, NoAnswer, nix, succeeded } from './nix.ts'
import { isDerivation } from './store-path.ts'

/** What Nix knows about a valid path. */
export interface PathInfo {
  /** Bytes of its NAR. */
  size: number
  /** Built on this machine, as opposed to copied here. */
  ultimate: boolean
  /** Content-addressed: its name proves its content, so it needs no signature. */
  contentAddressed: boolean
  /** Each is `KEY-NAME:BASE64`. */
  signatures: string[]
}

/** Whether a path needs a signature and has none. */
export const unsigned = (info: PathInfo): boolean => !info.contentAddressed && info.signatures.length === 0

/**
 * Parses a line of `nix path-info --size --sigs`: path, tab, size, tab, then words: `ultimate`,
 * `ca:…`, signatures. Null if it isn't such a line.
 */
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

/**
 * What a store knows about paths and everything they refer to, and which of the paths are invalid.
 */
export interface Closure {
  invalid: ReadonlySet<string>
  /** Valid paths that Nix can't read, such as a .drv truncated by a power cut, with the error. */
  broken: ReadonlyMap<string, string>
  infos: Map<string, PathInfo>
}

/**
 * What this machine's store knows about paths and everything they refer to. Usually all are valid
 * and one query is enough. Nix fails at the first invalid one; then we sort those out first.
 * @throws NixError if the store can't be queried
 */
export async function closureOf(paths: readonly string[], asking: Asking = {}): Promise<Closure> {
  const cut = cutShort(paths)
  const whole = cut.size === 0 ? paths : paths.filter((path) => !cut.has(path))
  try {
    return { invalid: new Set(), broken: cut, infos: await pathInfos(whole, { closure: true, ...asking }) }
  } catch (error) {
    if (!(error instanceof NixError) || error instanceof NoAnswer) throw error
    const invalid = new Set(await invalidPaths(whole, asking))
    const { broken, infos } = await readableInfos(
      whole.filter((path) => !invalid.has(path)),
      asking,
    )
    return { invalid, broken: new Map([...cut, ...broken]), infos }
  }
}

/**
 * The .drv files truncated by a power cut or a full disk, and what is wrong with each. Nix must not
 * be asked about them: the parser in 2.8.0 reads past the end of the file forever
 * (libstore/derivations.cc, parseString).
 */
function cutShort(paths: readonly string[]): Map<string, string> {
  const found = new Map<string, string>()
  for (const path of paths) if (isDerivation(path) && !isWhole(path)) found.set(path, 'the file is cut short')
  return found
}

/**
 * A whole derivation ends with a closing parenthesis. If the file doesn't exist, Nix has to judge.
 */
function isWhole(path: string): boolean {
  let file: number
  try {
    file = openSync(path, 'r')
  } catch {
    return true
  }
  try {
    const last = Buffer.alloc(1)
    return readSync(file, last, 0, 1, Math.max(0, fstatSync(file).size - 1)) === 1 && last.toString() === ')'
  } catch {
    return true
  } finally {
    closeSync(file)
  }
}

/**
 * Bisects until the paths Nix can't read are isolated.
 * @throws NixError if everything turns out unreadable, judging by the first few
 */
async function readableInfos(paths: readonly string[], asking: Asking): Promise<Pick<Closure, 'broken' | 'infos'>> {
  const broken = new Map<string, string>()
  const infos = new Map<string, PathInfo>()
  const read = async (part: readonly string[]): Promise<void> => {
    try {
      for (const [path, info] of await pathInfos(part, { closure: true, ...asking })) infos.set(path, info)
    } catch (error) {
      if (!(error instanceof NixError) || error instanceof NoAnswer) throw error
      const [only] = part
      if (part.length === 1 && only !== undefined) {
        broken.set(only, error.message)
        if (broken.size >= ENOUGH_BROKEN && infos.size === 0) throw error // it can't be the paths
        return
      }
      const middle = Math.ceil(part.length / 2)
      await read(part.slice(0, middle))
      await read(part.slice(middle))
    }
  }
  if (paths.length > 0) await read(paths)
  return { broken, infos }
}

const ENOUGH_BROKEN = 8

/**
 * More paths than this are looked up in a list of the whole store: one query instead of one per
 * thousand closures.
 */
const MANY = 2000

/**
 * Like closureOf(), for any number of paths; for very many, `infos` covers the whole store, not
 * just their closures.
 */
export async function closureOrAll(paths: readonly string[], asking: Asking = {}): Promise<Closure> {
  if (paths.length <= MANY) return await closureOf(paths, asking)
  const infos = await allPathInfos(asking)
  return { invalid: new Set(paths.filter((path) => !infos.has(path))), broken: cutShort(paths), infos }
}

/**
 * What this machine's store knows about these paths, which must all be valid. A derivation stands
 * for itself, not its outputs.
 * @param closure include everything they refer to
 * @throws NixError, including if one of them isn't valid
 */
export async function pathInfos(
  paths: readonly string[],
  { closure = false, timeout }: Asking & { closure?: boolean } = {},
): Promise<Map<string, PathInfo>> {
  const args = ['path-info', '--size', '--sigs', ...(closure ? ['--recursive'] : [])]
  const infos = new Map<string, PathInfo>()
  // Without --derivation, 2.4 to 2.14 take X.drv to mean its outputs; with it, every version takes
  // an output to mean its derivation.
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

/**
 * What this machine's store knows about all its valid paths, including derivations, in one call.
 * `--all` means the paths themselves in every version.
 */
export async function allPathInfos({ timeout }: Asking = {}): Promise<Map<string, PathInfo>> {
  return parsePathInfos(succeeded(await nix(['path-info', '--all', '--size', '--sigs'], timeout === undefined ? {} : { timeout })))
}

/** Parses all lines `nix path-info --size --sigs` prints, by path. */
export function parsePathInfos(output: string): Map<string, PathInfo> {
  const found = output.split('\n').map(parsePathInfo)
  return new Map(found.flatMap((one) => (one === null ? [] : [[one.path, one.info]])))
}
