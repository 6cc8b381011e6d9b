// Gathers the facts that the checks look at. Asks each question at most once, and all the cheap
// ones at the start. checks.ts joins reading and judging.

import { existsSync } from 'node:fs'
import { ConfigError, Failure } from '../cli/errors.ts'
import { hasConfig, loadConfig } from '../config/config.ts'
import { storeUrl } from '../config/store-url.ts'
import { type Config, isSsh, type SshCache } from '../config/types.ts'
import { daemonPid, isSingleUser } from '../nix/daemon.ts'
import { type NixConf, readNixConf, readText } from '../nix/nix-conf.ts'
import type { Settings } from '../nix/settings.ts'
import { gainsFromConnections, type NixVersion } from '../nix/version.ts'
import type { Answer } from '../reach/reach.ts'
import { onNixos } from '../system/nixos.ts'
import { findBox } from '../tunnel/attempt.ts'
import type { Machine } from './fixes.ts'
import type { DaemonFacts } from './judge-nix.ts'
import { serviceAgent, sessionState, timerFacts, unitFacts } from './read-automatic.ts'
import { type Probe, probeBox } from './read-box.ts'
import { askDaemon, askVersion, daemonPath, settingsOf } from './read-nix.ts'

export interface Facts {
  /** Undefined if it can't be read; then `problem` says why. */
  config: Config | undefined
  problem: string
  /** Whether there is no configuration at all. */
  none: boolean
  /**
   * What fixes depend on. In a Nix without a daemon (single), store and settings are the user's,
   * and nothing runs as root.
   */
  machine: Machine
  nix(): Promise<{ version?: NixVersion; why: string }>
  /** The settings as nix-daemon reads them; without a daemon, the user's own. */
  system(): Promise<Settings | string>
  own(): Promise<Settings | string>
  /** The assignments in the files; `system` is what system() comes from. */
  conf(): NixConf
  daemon(): Promise<DaemonFacts>
  /** The PATH of the process that starts the hook and connect. */
  daemonPath(): Promise<string>
  session(): Promise<string>
  units(): ReturnType<typeof unitFacts>
  timer(): ReturnType<typeof timerFacts>
  reach(cache: SshCache): Promise<Answer>
  probe(cache: SshCache): Promise<Probe>
}

/** @param uid our own */
export function gatherFacts(uid: number, user: string): Facts {
  const { config, problem, none } = readConfig()
  const nix = once(askVersion)
  const single = isSingleUser()
  const conf = once(() => {
    const { system, all } = readNixConf(process.env)
    return { system: single ? all : system, all }
  })
  const own = once(() => settingsOf('own'))
  const pid = once(daemonPid)
  const caches = (config?.caches ?? []).filter(isSsh)
  const facts: Facts = {
    config,
    problem,
    none,
    machine: { kind: kindOf(single), user, conf: confFileOf(single, conf().system), recorded: isRecorded(single) },
    nix,
    conf,
    system: single ? own : once(() => settingsOf('system')),
    own,
    daemon: once(
      async () =>
        await askDaemon(
          user,
          conf().system.map(({ where }) => where),
          await pid(),
        ),
    ),
    daemonPath: once(async () => (single ? (process.env.PATH ?? '') : await daemonPath(await pid()))),
    session: once(sessionState),
    units: once(() => unitFacts(caches)),
    timer: once(timerFacts),
    reach: perCache(async (cache) => (await findBox(cache)).answer),
    probe: perCache(async (cache) => await probeBox(cache, uid, await serviceAgent())),
  }
  return facts
}

/**
 * Starts the programs that most checks wait for, all at once. A failure is reported by the check
 * that asks again.
 */
export function askAhead(facts: Facts): void {
  const asked: Promise<unknown>[] = [facts.nix(), facts.system(), facts.own(), facts.daemon(), facts.daemonPath(), facts.session()]
  if (facts.config) asked.push(facts.units(), facts.timer())
  for (const answer of asked) answer.catch(() => {})
}

/** Determinate's installer owns nix.conf, and includes another file for the user. */
function confFileOf(single: boolean, system: NixConf['system']): string {
  if (single) return `${process.env.HOME ?? '~'}/.config/nix/nix.conf`
  const custom = '/etc/nix/nix.custom.conf'
  return system.some(({ where }) => where === custom) || includesIn(MAIN).some((line) => /\snix\.custom\.conf\s*$/.test(line))
    ? custom
    : MAIN
}

const MAIN = '/etc/nix/nix.conf'

const kindOf = (single: boolean): Machine['kind'] => (single ? 'single' : onNixos() ? 'nixos' : 'daemon')

/** Whether setup left its record (setup/layout.ts), which only its owner can read. */
const isRecorded = (single: boolean): boolean =>
  existsSync(single ? `${process.env.HOME ?? ''}/.config/nix-lan/setup.json` : '/etc/nix-lan/setup.json')

function readConfig(): { config: Config | undefined; problem: string; none: boolean } {
  try {
    return { config: loadConfig(), problem: '', none: false }
  } catch (error) {
    if (error instanceof ConfigError) return { config: undefined, problem: error.message, none: !hasConfig() }
    throw error
  }
}

/** Asks a question once and keeps the answer. */
function once<T>(ask: () => T): () => T {
  let answer: { is: T } | undefined
  return () => {
    answer ??= { is: ask() }
    return answer.is
  }
}

function perCache<T>(ask: (cache: SshCache) => T): (cache: SshCache) => T {
  const answers = new Map<string, () => T>()
  return (cache) => {
    const found = answers.get(cache.name) ?? once(() => ask(cache))
    answers.set(cache.name, found)
    return found()
  }
}

/**
 * The substituter that nix.conf should have, or why it can't be determined.
 * @param version of the Nix that reads it
 */
export function rightUrl(cache: SshCache, uid: number, version?: NixVersion): string {
  try {
    return storeUrl(cache, uid, { parallel: gainsFromConnections(version) })
  } catch (error) {
    if (error instanceof Failure) return error.message
    throw error
  }
}

/** The `include` lines of a file in nix.conf's format. */
export const includesIn = (file: string): string[] => (readText(file) ?? '').split('\n').filter((line) => /^\s*!?include\s/.test(line))
