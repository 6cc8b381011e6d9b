// Asks this machine's store about its paths: size, where they were built, signatures. By `path-info
// --sigs --size`, whose text never changed; `--json` changed its shape in 2.19 and 2.33.
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { type Asking, inBatches, invalidPaths, NixError, NoAnswer, nix, succeeded } from './nix.ts'
import { isDerivation } from './store-path.ts'

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

/** Whether a path needs a signature and has none at all. */
export const unsigned = (info: PathInfo): boolean => !info.contentAddressed && info.signatures.length === 0

/**
 * One line of `nix path-info --size --sigs`: the path, tab, size, tab, then words: `ultimate`,
 * `ca:…`, signatures. Null if it isn't one.
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

/** What a store knows about paths and all they refer to, and which of the paths are invalid. */
export interface Closure {
  invalid: ReadonlySet<string>
  /**
   * Those that are valid, but that Nix can't read, such as a .drv cut short by a power cut, and
   * what it says.
   */
  broken: ReadonlyMap<string, string>
  infos: Map<string, PathInfo>
}

/**
 * What this machine's store knows about paths and all they refer to. Usually all are valid and one
 * question does; Nix fails at the first invalid one, and then we find those first.
 * @throws NixError when the store can't be asked
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
 * The .drv files that a power cut or a full disk left without their end, and what is wrong with
 * each. Nix must not be asked about them: the parser of 2.8.0 reads on for ever behind the end of
 * the file (libstore/derivations.cc, parseString).
 */
function cutShort(paths: readonly string[]): Map<string, string> {
  const found = new Map<string, string>()
  for (const path of paths) if (isDerivation(path) && !isWhole(path)) found.set(path, 'the file is cut short')
  return found
}

/**
 * A derivation ends with a parenthesis, which isn't in a string there. One that isn't there at all
 * is for Nix to judge.
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
 * Halves until those stand alone that Nix can't read.
 * @throws NixError when all is as unreadable as the first ones
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
        if (broken.size >= ENOUGH_BROKEN && infos.size === 0) throw error // then it isn't the paths
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
 * More paths than these are looked up among all that the store has: one question instead of one
 * for each thousand closures.
 */
const MANY = 2000

/**
 * The same for any number of paths; of very many, what is known is more than their closures: all
 * of the store.
 */
export async function closureOrAll(paths: readonly string[], asking: Asking = {}): Promise<Closure> {
  if (paths.length <= MANY) return await closureOf(paths, asking)
  const infos = await allPathInfos(asking)
  return { invalid: new Set(paths.filter((path) => !infos.has(path))), broken: cutShort(paths), infos }
}

/**
 * What this machine's store knows about these paths, all of which must be valid. A derivation
 * stands for itself, not for its outputs.
 * @param closure of everything they refer to as well
 * @throws NixError, also when one of them isn't valid
 */
export async function pathInfos(
  paths: readonly string[],
  { closure = false, timeout }: Asking & { closure?: boolean } = {},
): Promise<Map<string, PathInfo>> {
  const args = ['path-info', '--size', '--sigs', ...(closure ? ['--recursive'] : [])]
  const infos = new Map<string, PathInfo>()
  // Without --derivation, 2.4–2.14 take X.drv for its outputs; with it, every version takes an
  // output for its derivation.
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
 * What this machine's store knows about all its valid paths, derivations too, in one call. In every
 * version, `--all` means the paths themselves.
 */
export async function allPathInfos({ timeout }: Asking = {}): Promise<Map<string, PathInfo>> {
  return parsePathInfos(succeeded(await nix(['path-info', '--all', '--size', '--sigs'], timeout === undefined ? {} : { timeout })))
}

/** All the lines that `nix path-info --size --sigs` prints, by path. */
export function parsePathInfos(output: string): Map<string, PathInfo> {
  const found = output.split('\n').map(parsePathInfo)
  return new Map(found.flatMap((one) => (one === null ? [] : [[one.path, one.info]])))
}
