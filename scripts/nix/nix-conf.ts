// Reads nix.conf files without Nix to see which substituters they name: if none is ours,
// nix-lan-run needn't start nix. Never decides what is in force: Nix does (wrapper/facts.ts).
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { effectiveUid, findUser } from '../system/users.ts'

/**
 * A setting as written in a file or in NIX_CONFIG: `extra-substituters = a b` has the key
 * `extra-substituters` and two values.
 */
export interface Assignment {
  key: string
  values: string[]
  /** The file's path, or `NIX_CONFIG`. */
  where: string
}

/**
 * What the files say, in the order Nix applies them; `system` is the part nix-daemon reads, too.
 */
export interface NixConf {
  system: Assignment[]
  all: Assignment[]
}

/** The text of a file; undefined if it can't be read: Nix skips those, too. */
export type ReadFile = (path: string) => string | undefined

/** Nix's default (src/libstore/globals.hh, 2.4 to 2.34). */
const DEFAULT_SUBSTITUTERS = ['https://cache.nixos.org/']

/**
 * Files that one file may include, themselves or through others. Nix knows no limit: a file that
 * includes itself ends it by a signal (src/libutil/config.cc, 2.8.0; configuration.cc, 2.35.2).
 */
const MAX_INCLUDES = 1000

/** What is being read: the files that include each other, and how many more may be included. */
interface Reading {
  within: readonly string[]
  budget: { left: number }
}

/**
 * The assignments in a file and the files it includes, in order. Skips lines Nix would refuse: Nix
 * reports those itself. Skips a file that includes itself, too.
 * @param where the file's path, for relative includes and for `where`
 */
export function parseNixConf(
  text: string,
  where: string,
  read: ReadFile,
  { within, budget }: Reading = { within: [where], budget: { left: MAX_INCLUDES } },
): Assignment[] {
  return text.split('\n').flatMap((line) => {
    const [key = '', second = '', ...values] = line
      .replace(/#.*/, '')
      .split(/[ \t\r]+/)
      .filter(Boolean)
    if (key === 'include' || key === '!include') {
      const path = resolve(dirname(where), second)
      if (within.includes(path) || --budget.left < 0) return []
      return parseNixConf(read(path) ?? '', path, read, { within: [...within, path], budget })
    }
    return second === '=' ? [{ key, values, where }] : []
  })
}

function readFrom(path: string, read: ReadFile): Assignment[] {
  return parseNixConf(read(path) ?? '', path, read)
}

/**
 * Everything set in the system's nix.conf, the user's files (the one with the highest priority
 * last) and NIX_CONFIG (src/libstore/globals.cc, loadConfFile and getUserConfigFiles, 2.4 to 2.34).
 */
export function readNixConf(env: NodeJS.ProcessEnv, read: ReadFile = readText): NixConf {
  const system = readFrom(`${env.NIX_CONF_DIR || '/etc/nix'}/nix.conf`, read)
  const users = userFiles(env)
    .reverse()
    .flatMap((file) => readFrom(file, read))
  return { system, all: [...system, ...users, ...parseNixConf(env.NIX_CONFIG ?? '', 'NIX_CONFIG', read)] }
}

/**
 * The user's files, highest priority first. 2.8 doesn't know NIX_CONFIG_HOME yet
 * (src/libutil/users.cc, 2.26).
 */
function userFiles(env: NodeJS.ProcessEnv): string[] {
  if (env.NIX_USER_CONF_FILES !== undefined) return env.NIX_USER_CONF_FILES.split(':').filter(Boolean)
  const own = env.NIX_CONFIG_HOME || `${env.XDG_CONFIG_HOME || `${home()}/.config`}/nix`
  const others = (env.XDG_CONFIG_DIRS || '/etc/xdg').split(':').filter(Boolean)
  return [own, ...others.map((directory) => `${directory}/nix`)].map((directory) => `${directory}/nix.conf`)
}

/** As in Nix: $HOME, else the home in the passwd database. */
const home = (): string => process.env.HOME || (findUser(effectiveUid())?.home ?? '')

/**
 * The settings that can put a substituter on the list; `binary-caches` is an old name Nix still
 * accepts.
 */
const SUBSTITUTERS = new Set(['substituters', 'binary-caches'])
const isExtra = (key: string): boolean => key.startsWith('extra-')
const baseKey = (key: string): string => key.replace(/^extra-/, '')

/**
 * Every substituter named anywhere, even if a later line drops it: whatever might be on the list.
 */
export function namedSubstituters(assignments: Assignment[]): { url: string; where: string }[] {
  return assignments
    .filter(({ key }) => SUBSTITUTERS.has(baseKey(key)))
    .flatMap(({ values, where }) => values.map((url) => ({ url, where })))
}

/**
 * The substituters in force, judging by the text: a later `substituters =` replaces the list,
 * `extra-substituters` adds to it.
 */
export function substitutersOf(assignments: Assignment[]): string[] {
  return valuesOf(assignments, SUBSTITUTERS, DEFAULT_SUBSTITUTERS)
}

/** The values in force of a list setting known by these names. */
export function valuesOf(assignments: Assignment[], names: Set<string>, defaults: string[]): string[] {
  let list = defaults
  for (const { key, values } of assignments) {
    if (names.has(baseKey(key))) list = isExtra(key) ? list.concat(values) : values
  }
  return list
}

/**
 * Where `substitute = false` is set, under either name (src/libstore/globals.hh), if in force. Nix
 * takes no and 0 for false, too (src/libutil/config.cc, BaseSetting<bool>::set).
 */
export function noSubstitution(assignments: readonly Assignment[]): string | undefined {
  const last = assignments.filter(({ key }) => key === 'substitute' || key === 'build-use-substitutes').at(-1)
  return last && ['false', 'no', '0'].includes(last.values[0] ?? '') ? last.where : undefined
}

/** A file's text; undefined if it is missing or unreadable. */
export function readText(path: string): string | undefined {
  let file: number | undefined
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK) // a FIFO somebody put there would block us
    return fstatSync(file).isCharacterDevice() ? undefined : readFileSync(file, 'utf8') // /dev/zero has no end
  } catch {
    return undefined
  } finally {
    if (file !== undefined) closeSync(file)
  }
}
