// Loads the configuration: one TOML file, found by file.ts and checked by parse.ts.
import { existsSync } from 'node:fs'
import { ConfigError } from '../cli/errors.ts'
import { onNixos, whatSetsUp } from '../system/nixos.ts'
import { effectiveUid, findUser, type User } from '../system/users.ts'
import { candidates, readConfigFile } from './file.ts'
import { didYouMean, parseConfig } from './parse.ts'
import type { Cache, Config } from './types.ts'

/**
 * Finds the configuration, checks that it can be trusted, and parses it. NIX_LAN_CONFIG if set,
 * else the first that exists of /etc/nix-lan/config.toml and ~/.config/nix-lan/config.toml; root
 * reads only the one in /etc.
 * @throws ConfigError (exit 2)
 */
export function loadConfig(): Config {
  const uid = effectiveUid()
  const privileged = uid === 0
  const { files, named } = candidates(privileged, process.env.NIX_LAN_CONFIG, process.env.HOME)
  for (const file of files) {
    const text = readConfigFile(file, privileged)
    if (text !== undefined) return parseConfig(text, file, (name) => userOf(name, uid))
  }
  if (named) throw new ConfigError(`${files[0]}: there is no such file; NIX_LAN_CONFIG names it`)
  throw new ConfigError(noConfig(files))
}

/**
 * Parses any file the caller names, wherever it is and whoever wrote it; nothing acts on it.
 * @param lookUp whether `user` must exist on this machine; if not, `~` stays as it is
 * @throws ConfigError (exit 2)
 */
export function checkConfigFile(file: string, lookUp: boolean): Config {
  const text = readConfigFile(file, false)
  if (text === undefined) throw new ConfigError(`${file}: there is no such file`)
  const anybody = (name: string | undefined): User => ({ name: name ?? '', uid: effectiveUid(), home: '~' })
  return parseConfig(text, file, lookUp ? (name) => userOf(name, effectiveUid()) : anybody)
}

/** Whether a configuration exists, valid or not. */
export function hasConfig(): boolean {
  const { files, named } = candidates(effectiveUid() === 0, process.env.NIX_LAN_CONFIG, process.env.HOME)
  return named || files.some((file) => existsSync(file))
}

/** What every command says without a configuration: where it looked, and the first step. */
export function noConfig(files: readonly string[], nixos = onNixos()): string {
  const more = nixos ? '' : ' USER@HOST; by hand: docs/by-hand.md'
  return `no configuration (looked for ${files.join(' and ')}). First step: ${whatSetsUp(nixos)}${more}`
}

// The user the file names, else the caller. Root must name one: it has no queue of its own.
function userOf(name: string | undefined, uid: number): User {
  if (name === undefined && uid === 0) {
    throw new Error('is missing, and root has to be told whose ssh key, session and queue to use; add user = "alice" at the top')
  }
  const user = findUser(name ?? uid)
  if (user) return user
  if (name !== undefined) throw new Error(`there is no user ${JSON.stringify(name)} on this machine (getent passwd ${name} finds none)`)
  throw new Error(`is missing, and your own uid ${uid} has no entry in the passwd database; add user = "alice" at the top`)
}

/**
 * The cache with this name; without one, the only cache there is.
 * @throws ConfigError that lists the names
 */
export function namedCache(config: Config, name: string | undefined): Cache {
  const names = config.caches.map((cache) => cache.name)
  const [first] = config.caches
  if (name === undefined) {
    if (first && config.caches.length === 1) return first
    throw new ConfigError(`which cache? ${config.file} has ${names.join(', ')}`)
  }
  const found = config.caches.find((cache) => cache.name === name)
  if (found) return found
  throw new ConfigError(`no cache is called ${JSON.stringify(name)}; ${config.file} has ${names.join(', ')}${didYouMean(name, names)}`)
}
