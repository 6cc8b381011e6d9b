// Finds out what nix-lan-run needs to know: whether each cache can be used now, which settings Nix
// has in force, who is running it. A hot path: it runs before every nix command, so rarely needed
// modules are imported late.
import { accessSync, constants, existsSync } from 'node:fs'
import { Failure, noTunnel } from '../cli/errors.ts'
import { VERSION } from '../cli/version.ts'
import { storeUrl } from '../config/store-url.ts'
import type { Cache, Config } from '../config/types.ts'
import type { NixConf } from '../nix/nix-conf.ts'
import { socketPath, stateDir } from '../system/paths.ts'
import { ASKED } from './environment.ts'
import { findProgram } from './program.ts'
import { type CacheFacts, drops, namesHost, type Plan, planSubstituters, type Who } from './substituters.ts'

/**
 * The plan for these caches. Asks all caches at once, and nix only if its list may hold an entry
 * that has to go. `problem` is set if nix could not give its list.
 */
export async function outlook(config: Config, conf: NixConf): Promise<{ plan: Plan; problem?: string }> {
  const facts = await Promise.all(config.caches.map((cache) => factsOf(cache, config, conf)))
  if (drops(facts, conf.all).length === 0) return { plan: planSubstituters(facts, conf.all, undefined) }
  const asked = await askNix()
  const plan = planSubstituters(facts, conf.all, asked.ok ? asked.list : undefined)
  return asked.ok ? { plan } : { plan, problem: `${asked.reason}, so the substituters of nix.conf stay as they are` }
}

async function factsOf(cache: Cache, config: Config, conf: NixConf): Promise<CacheFacts> {
  const socket = cache.kind === 'ssh' ? socketPath(config.uid, cache.name) : ''
  const usable = await usableNow(cache, config, socket)
  const facts: CacheFacts = { cache, socket, url: urlOf(cache, config.uid), usable, ...(isHidden(cache, config) && { hidden: true }) }
  // Even without the tunnel, a host that nix.conf names directly may answer.
  if (!facts.usable.ok && namesHost(facts, conf.all))
    facts.host = await (await import('../reach/reach.ts')).reachable(cache, cache.deadline)
  return facts
}

/**
 * Without a tunnel, the usual case away from home, no network code is loaded: that is a fifth of
 * node's running time.
 */
async function usableNow(cache: Cache, config: Config, socket: string): Promise<CacheFacts['usable']> {
  if (isHidden(cache, config))
    return { ok: false, reason: `the tunnel is ${config.user}'s, and only ${config.user} can see and use it`, ms: 0 }
  if (cache.kind === 'ssh' && !existsSync(socket)) return { ok: false, reason: noTunnel(socket), ms: 0 }
  const answer = await (await import('../reach/reach.ts')).usable(cache, config.uid, cache.deadline)
  // Nix may use it: nix-lan-connect waits for its first answer.
  return answer.slow ? { ok: true, address: socket, ms: answer.ms, slow: true } : answer
}

/** Whether the tunnel is another user's: their directory looks empty to us. */
const isHidden = ({ kind }: Cache, { uid }: Config): boolean => kind === 'ssh' && ![uid, 0].includes(process.geteuid?.() ?? uid)

function urlOf(cache: Cache, uid: number): CacheFacts['url'] {
  try {
    return { ok: true, text: storeUrl(cache, uid) }
  } catch (error) {
    return { ok: false, reason: firstLine(error) }
  }
}

/** An error in one line. */
export function firstLine(error: unknown): string {
  const [first = ''] = (error instanceof Error ? error.message : String(error)).split('\n')
  return error instanceof Failure ? first : `this is a bug in nix-lan ${VERSION}: ${first}`
}

/** Asks Nix which substituters are in force. */
async function askNix(): Promise<{ ok: true; list: string[] } | { ok: false; reason: string }> {
  const nix = findProgram('nix')
  if (!nix.ok) return { ok: false, reason: nix.reason }
  const { askSettings, wordsOf } = await import('../nix/settings.ts')
  try {
    const settings = await askSettings({ program: nix.program, env: { ...process.env, [ASKED]: '1' }, timeout: 10_000 })
    if (settings.has('substituters')) return { ok: true, list: wordsOf(settings, 'substituters') }
  } catch (error) {
    if (!(error instanceof Failure)) throw error
  }
  return { ok: false, reason: `${nix.program} did not tell its substituters (nix show-config)` }
}

/** Who is running this, to compare with Nix's trusted-users. */
export async function who(): Promise<Who> {
  const { effectiveUid, findUser, localGroups } = await import('../system/users.ts')
  const uid = effectiveUid()
  const ids = new Set(process.getgroups?.() ?? [])
  // Groups known only to a directory service are missing.
  const groups = localGroups().flatMap(({ name, gid }) => (ids.has(gid) ? [name] : []))
  return { name: findUser(uid)?.name ?? String(uid), groups, direct: uid === 0 || writable(`${stateDir}/db`) }
}

function writable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK)
    return true
  } catch {
    return false
  }
}
