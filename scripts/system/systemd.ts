// Asks a user's systemd about units, and to start, stop and restart them; or the system's, if told
// so. Every call has a time limit: a busy, stopped or missing manager must not keep anybody waiting.
import { existsSync } from 'node:fs'
import { dirname } from 'node:path'
import { Failure } from '../cli/errors.ts'
import { type Outcome, run } from './exec.ts'
import { runtimeDir } from './paths.ts'
import { systemPath } from './search-path.ts'

/** Whose manager root asks; default: our own. */
export interface Owner {
  name: string
  uid: number
}

export interface AskOptions {
  /** Milliseconds until systemctl is killed; default 2000. It answers in about 10. */
  limit?: number
  /**
   * For root: whose manager to ask. Connects as that user, because root must not trust their
   * runtime directory.
   */
  owner?: Owner
  /** Asks the system's systemd. */
  system?: boolean
}

/**
 * Properties of a unit as `systemctl show` prints them, by name; those this systemd doesn't know
 * are missing.
 */
export type UnitFacts = Readonly<Record<string, string>>

const SYSTEMCTL_LIMIT = 2000

/** The units of a cache. Its name, %i, never needs escaping (config/parse.ts, checkName). */
export const targetOf = (cache: string): string => `nix-lan@${cache}.target`
export const tunnelUnitOf = (cache: string): string => `nix-lan-tunnel@${cache}.service`

/** The unit of the system's systemd that holds the broker's socket; the service has the same name. */
export const brokerSocketUnit = (cache: string): string => `nix-lan-broker@${cache}.socket`

/** Whether systemd runs this machine (sd_booted(3)). */
export const systemdRuns = (): boolean => existsSync('/run/systemd/system')

/**
 * Whether we, or the owner, have a systemd user manager. Checks for the socket through which
 * systemctl reaches it (systemd, src/shared/bus-util.c, bus_connect_user_systemd; the same from 247
 * to 258). There is none in a container, with another init, or if that user neither is logged in
 * nor lingers.
 */
export function hasUserManager({ owner }: Pick<AskOptions, 'owner'> = {}): boolean {
  const uid = process.getuid?.()
  if (owner) return existsSync(`/run/user/${owner.uid}/systemd/private`)
  return uid !== undefined && existsSync(`${dirname(runtimeDir(uid))}/systemd/private`)
}

/**
 * Whether the user's systemd starts at boot, without a login. Reads logind's own record (systemd,
 * src/login/logind-user.c).
 */
export const lingers = (user: string): boolean => existsSync(`/var/lib/systemd/linger/${user}`)

/**
 * Runs `systemctl --user ARGS…`, or without --user for the system's, and waits for it to end. Never
 * throws: the outcome tells what happened.
 */
export function systemctl(args: readonly string[], { limit = SYSTEMCTL_LIMIT, owner, system = false }: AskOptions = {}): Promise<Outcome> {
  if (system) return bounded(['systemctl', '--no-pager', ...args], { ...process.env, PATH: systemPath(), TZ: 'UTC' }, limit)
  const uid = owner?.uid ?? process.getuid?.() ?? 0
  // Only names the directory: root looks at nothing of the user's. runuser is in sbin.
  const XDG_RUNTIME_DIR = owner ? `/run/user/${uid}` : dirname(runtimeDir(uid))
  const PATH = systemPath()
  const command = ['systemctl', '--user', '--no-pager', ...args]
  // TZ=UTC gives times we can parse; LC_ALL doesn't affect them (systemd, src/basic/time-util.c,
  // format_timestamp_style).
  if (!owner) return bounded(command, { ...process.env, PATH, XDG_RUNTIME_DIR, TZ: 'UTC' }, limit)
  // `systemctl --user --machine=USER@` only works since systemd 248.
  return bounded(['runuser', '-u', owner.name, '--', 'env', `XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR}`, 'TZ=UTC', ...command], { PATH }, limit)
}

/** Kills the whole group at the time limit, because runuser waits for its child. */
function bounded([program = '', ...args]: string[], env: Record<string, string | undefined>, limit: number): Promise<Outcome> {
  return run(program, args, { env, timeout: limit, group: true })
}

/**
 * Gets properties of several units in one call.
 * @returns the facts of each unit, in the order of `units`; one that isn't installed has LoadState
 *   `not-found` and ActiveState `inactive`
 * @throws Failure (exit 1) if systemd does not answer
 */
export async function showUnits(units: readonly string[], properties: readonly string[], options: AskOptions = {}): Promise<UnitFacts[]> {
  if (units.length === 0) return []
  const asked = await systemctl(['show', `--property=${properties.join(',')}`, '--', ...units], options)
  const found = asked.code === 0 ? parseShow(asked.stdout) : []
  if (found.length === units.length) return found
  throw new Failure(`systemd's ${options.system ? '' : 'user '}manager does not say how ${units.join(', ')} are: ${problemOf(asked)}`)
}

/**
 * Parses the output of `systemctl show`: NAME=VALUE lines, with an empty line between units. Pure.
 */
export function parseShow(output: string): UnitFacts[] {
  const blocks = output.split(/\n\n+/).filter((block) => block.trim() !== '')
  return blocks.map((block) =>
    Object.fromEntries(
      block
        .split('\n')
        .filter((line) => line.includes('='))
        .map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
    ),
  )
}

/**
 * Asks systemd to start, stop or restart units, without waiting until it is done: a check that
 * stops its own unit or waits for a tunnel would hang.
 * @throws Failure (exit 1) if systemd refuses or does not answer
 */
export async function ask(verb: 'start' | 'stop' | 'restart', units: readonly string[], options: AskOptions = {}): Promise<void> {
  if (units.length === 0) return
  const asked = await systemctl([verb, '--no-block', '--', ...units], options)
  if (asked.code !== 0) throw new Failure(`systemd's user manager does not ${verb} ${units.join(', ')}: ${problemOf(asked)}`)
}

/** Why systemctl failed, in one line. */
export function problemOf(asked: Outcome): string {
  if (asked.failedToStart) return `systemctl can't be started (${asked.failedToStart})`
  if (asked.timedOut) return 'no answer in time'
  const said = asked.stderr.trim().split('\n')[0]
  return said || (asked.signal ? `systemctl was ended by ${asked.signal}` : `systemctl ended with exit code ${asked.code}`)
}
