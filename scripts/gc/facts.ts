// Gathers what a plan rests on: from the local daemon, as an ordinary user, what is dead and what
// is known of it; from Nix its settings; from derivations whether their outputs are ever fetched.
// Changes nothing.
import { readFileSync, statfsSync } from 'node:fs'
import { ownKeys } from '../keep/client.ts'
import { NixError } from '../nix/nix.ts'
import { askSettings, type Settings, wordsOf } from '../nix/settings.ts'
import { isDerivation, isStorePath, storeDir } from '../nix/store-path.ts'
import type { Daemon } from '../protocol/daemon-ops.ts'
import { searchEnv } from '../system/search-path.ts'
import type { Local } from './confirm.ts'

/**
 * Nix's settings twice: as the user has them, where builds are started, and the system's alone,
 * which the daemon uses. The same for a Nix without a daemon.
 */
export interface BothSettings {
  own: Settings
  system: Settings
}

/** Milliseconds for Nix to report its settings. */
const SETTINGS = 20_000

/** Asks Nix for both kinds of settings. @throws NixError when nix can't be asked */
export async function askBothSettings(single: boolean): Promise<BothSettings> {
  const own = askSettings({ timeout: SETTINGS, env: searchEnv() })
  if (single) return { own: await own, system: await own }
  // An empty list of files means no file (src/libstore/globals.cc, getUserConfigFiles, 2.4 to
  // 2.34).
  const env = { ...searchEnv(), NIX_USER_CONF_FILES: '', NIX_CONFIG: undefined, NIX_CONF_DIR: undefined }
  const [all, system] = await Promise.all([own, askSettings({ timeout: SETTINGS, env })])
  return { own: all, system }
}

/**
 * The stores Nix asks for this user: those in the user's settings that the daemon accepts from the
 * user. None with `substitute = false`, which the daemon takes from its client (remote-store.cc,
 * setOptions).
 */
export function inForce({ own, system }: BothSettings): string[] {
  if (own.get('substitute') === 'false') return []
  const allowed = [...wordsOf(system, 'substituters'), ...wordsOf(system, 'trusted-substituters')]
  return wordsOf(own, 'substituters').filter((url) => allowed.includes(url))
}

/** Whether a store is in force. */
export const isInForce = (settings: BothSettings, isOurs: (url: string) => boolean): boolean => inForce(settings).some(isOurs)

/**
 * The public keys the daemon trusts, in its order: trusted-public-keys, then those of its own
 * secret keys (src/libstore/keys.cc, getDefaultPublicKeys). An ordinary user can't read the secret
 * keys, but setup and docs/by-hand.md write the public half beside each.
 */
export function believedKeys({ system }: BothSettings): string[] {
  return [...wordsOf(system, 'trusted-public-keys'), ...ownKeys(system)]
}

/** What is dead here, and what is known of it. */
export interface Here {
  dead: Map<string, Local>
  /** The dead paths and everything they refer to. */
  known: Map<string, Local>
  /** Names in the store directory that are no valid paths: any garbage collection removes them. */
  leftovers: number
  notFetched: Set<string>
  keepOutputs: boolean
  keepDerivations: boolean
  derivers: Map<string, string[]>
}

/** Asks the local daemon what is dead and what is known of it. @throws NixError when it can't */
export async function lookHere(daemon: Daemon, system: Settings): Promise<Here> {
  const listed = (await daemon.dead()).filter((path) => isStorePath(path, storeDir))
  const dead = await daemon.infos(listed)
  const known = new Map(dead)
  await addClosure(daemon, known)
  const keepOutputs = system.get('keep-outputs') === 'true'
  return {
    dead,
    known,
    leftovers: listed.length - dead.size,
    notFetched: system.get('always-allow-substitutes') === 'true' ? new Set() : notFetchedOf(dead),
    keepOutputs,
    // true is the default, for a Nix that doesn't say
    keepDerivations: system.get('keep-derivations') !== 'false',
    derivers: keepOutputs ? await daemon.derivers([...dead.keys()].filter((path) => !isDerivation(path))) : new Map(),
  }
}

/** Adds what the paths refer to, layer by layer. */
async function addClosure(daemon: Daemon, known: Map<string, Local>): Promise<void> {
  let layer = [...known.values()]
  while (layer.length > 0) {
    const unknown = new Set(layer.flatMap(({ references }) => references).filter((path) => !known.has(path)))
    const found = await daemon.infos([...unknown])
    for (const [path, info] of found) known.set(path, info)
    layer = [...found.values()]
  }
}

/**
 * Outputs of derivations with allowSubstitutes = false (src/libstore/parsed-derivations.cc,
 * substitutesAllowed): Nix rebuilds them, and never fetches them. An output whose derivation is no
 * longer here counts as fetched.
 */
function notFetchedOf(dead: ReadonlyMap<string, Local>): Set<string> {
  const answers = new Map<string, boolean>()
  const found = new Set<string>()
  for (const [path, { deriver }] of dead) {
    if (!isStorePath(deriver, storeDir) || !isDerivation(deriver)) continue
    let never = answers.get(deriver)
    if (never === undefined) {
      never = neverFetched(derivationText(deriver))
      answers.set(deriver, never)
    }
    if (never) found.add(path)
  }
  return found
}

function derivationText(path: string): string {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return ''
  }
}

/**
 * Whether a derivation's text says that its outputs aren't to be fetched, in its environment or its
 * structured attributes. Pure.
 */
export function neverFetched(text: string): boolean {
  const [, value] = /\("allowSubstitutes","([^"]*)"\)/.exec(text) ?? []
  if (value !== undefined) return value !== '1'
  return /\("__json","(?:[^"\\]|\\.)*\\"allowSubstitutes\\":false/.test(text)
}

/** Bytes of the store's file system, in total and free for anyone but root. */
export function space(): { free: number; total: number } {
  try {
    const { bavail, blocks, bsize } = statfsSync(storeDir)
    return { free: bavail * bsize, total: blocks * bsize }
  } catch (error) {
    throw new NixError(`${storeDir}: its file system doesn't say how much is free (${(error as NodeJS.ErrnoException).code})`)
  }
}
