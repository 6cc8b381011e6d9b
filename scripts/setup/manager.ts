// Controls the user's systemd manager: lingering, and starting and stopping our units. And the
// system's, for the broker's units.
import { setTimeout as sleep } from 'node:timers/promises'
import { Failure } from '../cli/errors.ts'
import { readText } from '../nix/nix-conf.ts'
import { run } from '../system/exec.ts'
import { type AskOptions, brokerSocketUnit, hasUserManager, problemOf, systemctl, targetOf } from '../system/systemd.ts'
import { effectiveUid, type User } from '../system/users.ts'

/**
 * Enables or disables lingering.
 * @throws Failure with loginctl's message
 */
export async function setLinger(user: User, on: boolean): Promise<void> {
  const verb = on ? 'enable-linger' : 'disable-linger'
  const done = await run('loginctl', [verb, user.name], { timeout: 30_000 })
  if (done.code !== 0) throw new Failure(`loginctl ${verb} ${user.name} failed: ${done.stderr.trim() || done.failedToStart}`)
}

const ownerOf = (user: User): AskOptions => (effectiveUid() === user.uid ? { limit: 20_000 } : { owner: user, limit: 20_000 })

/** Whether the user's systemd manager is running. */
export const hasManager = (user: User): boolean => hasUserManager({ owner: user })

/**
 * Waits for the manager, which starts a moment after lingering is enabled.
 * @returns whether it started
 */
export async function managerCame(user: User, limit = 15_000): Promise<boolean> {
  for (const until = Date.now() + limit; !hasManager(user); await sleep(100)) if (Date.now() > until) return false
  return true
}

/**
 * Reloads the units, and starts the timer and what else starts by itself.
 * @throws Failure with systemctl's message
 */
export async function startUnits(user: User, more: readonly string[]): Promise<void> {
  await must(user, ['daemon-reload'])
  await must(user, ['start', 'nix-lan-check.timer', ...more])
}

/**
 * Has the boxes checked, and waits for it: the targets of those that are there have started then.
 * If the check takes longer than 20 seconds, it goes on by itself. A `restart`, since one that runs
 * already may not know of a box that has just been configured.
 */
export async function checkNow(user: User): Promise<void> {
  await systemctl(['restart', 'nix-lan-check.service'], ownerOf(user))
}

/** Longer, in milliseconds, than any TimeoutStopSec= of our units. */
const LONGEST_STOP = 60_000

/**
 * Stops all our units, and with them the tunnels. Missing units (exit code 5) are no failure, nor
 * is a manager that is shutting down.
 */
export async function stopUnits(user: User, cache?: string): Promise<void> {
  const ofCaches = [
    'nix-lan@NAME.target',
    'nix-lan-tunnel@NAME.service',
    'nix-lan-upload@NAME.*',
    'nix-lan-built@NAME.*',
    'nix-lan-gc@NAME.*',
  ]
  const forAll = cache === undefined ? [['nix-lan-check.timer', 'nix-lan-check.service'], ['nix-lan-network.*']] : []
  for (const units of [...forAll, ofCaches.map((unit) => unit.replace('NAME', cache ?? '*'))]) {
    const stopped = await systemctl(['stop', ...units], { ...ownerOf(user), limit: LONGEST_STOP })
    if (stopped.code !== 0 && stopped.code !== 5 && !(await managerEnds(user)))
      throw new Failure(`systemctl --user stop: ${problemOf(stopped)}`)
  }
}

/** A manager whose last session has ended keeps its socket for a moment. */
async function managerEnds(user: User): Promise<boolean> {
  for (let tries = 0; tries < 50 && hasManager(user); tries++) await sleep(100)
  return !hasManager(user)
}

/**
 * Makes the manager forget removed and failed units. If it doesn't answer, it forgets them on its
 * next reload.
 */
export async function forgetUnits(user: User): Promise<void> {
  await systemctl(['daemon-reload'], ownerOf(user))
  await systemctl(['reset-failed', 'nix-lan*'], ownerOf(user))
}

/**
 * Starts the search for builds that were never queued, in the background: it waits for the tunnel,
 * and runs until done or until the box is away. While the box's target is down, systemd refuses to
 * start the tunnel (Requisite=) and, in silence, what is bound to it.
 * @returns whether it started
 */
export async function queueBuilt(user: User, cache: string): Promise<boolean> {
  if ((await systemctl(['is-active', targetOf(cache)], ownerOf(user))).code !== 0) return false
  return (await systemctl(['start', '--no-block', `nix-lan-built@${cache}.service`], ownerOf(user))).code === 0
}

/** The caches whose tunnels are running. */
export const runningTunnels = (user: User): Promise<string[]> => running('nix-lan-tunnel', ownerOf(user))

async function running(template: string, whose: AskOptions): Promise<string[]> {
  const listed = await systemctl(['list-units', '--no-legend', '--plain', '--state=active', `${template}@*.service`], whose)
  return [...listed.stdout.matchAll(new RegExp(`^${template}@([a-z0-9-]+)\\.service `, 'gm'))].map(([, cache = '']) => cache)
}

/**
 * Restarts a tunnel.
 * @throws Failure with systemctl's message
 */
export const restartTunnel = (user: User, cache: string): Promise<void> => must(user, ['try-restart', `nix-lan-tunnel@${cache}.service`])

const SYSTEM: AskOptions = { system: true, limit: 20_000 }

/** The caches among these whose broker's socket isn't there. */
export async function brokersDown(caches: readonly string[]): Promise<string[]> {
  const down: string[] = []
  for (const cache of caches) if ((await systemctl(['is-active', brokerSocketUnit(cache)], SYSTEM)).code !== 0) down.push(cache)
  return down
}

/**
 * Makes systemd read the broker's units, and listen at these caches' sockets.
 * @throws Failure with systemctl's message
 */
export async function startBrokers(caches: readonly string[]): Promise<void> {
  const steps = [['daemon-reload'], ...(caches.length > 0 ? [['start', ...caches.map(brokerSocketUnit)]] : [])]
  for (const args of steps) {
    const asked = await systemctl(args, SYSTEM)
    if (asked.code !== 0) throw new Failure(`systemctl ${args.join(' ')}: ${problemOf(asked)}`)
  }
}

/**
 * Stops brokers and no longer listens; by pattern, since units that aren't there keep systemd 262
 * from stopping the others. No failure without systemd.
 * @param cache '*' for all
 */
export async function stopBrokers(cache: string): Promise<void> {
  await systemctl(['stop', `nix-lan-broker@${cache}.socket`, `nix-lan-broker@${cache}.service`], SYSTEM)
}

/** Makes the system's systemd forget the broker's units. */
export async function forgetBrokers(): Promise<void> {
  await systemctl(['daemon-reload'], SYSTEM)
  await systemctl(['reset-failed', 'nix-lan-broker@*'], SYSTEM)
}

/** The caches whose brokers are running. */
export const runningBrokers = (): Promise<string[]> => running('nix-lan-broker', SYSTEM)

/**
 * Ends a running broker; its socket stays, and starts the next one.
 * @throws Failure with systemctl's message
 */
export async function endBroker(cache: string): Promise<void> {
  const args = ['stop', brokerSocketUnit(cache).replace(/socket$/, 'service')]
  const asked = await systemctl(args, SYSTEM)
  if (asked.code !== 0) throw new Failure(`systemctl ${args.join(' ')}: ${problemOf(asked)}`)
}

/** Whether the timer is running. */
export async function timerRuns(user: User): Promise<boolean> {
  return (await systemctl(['is-active', 'nix-lan-check.timer'], ownerOf(user))).code === 0
}

async function must(user: User, args: string[]): Promise<void> {
  const done = await systemctl(args, ownerOf(user))
  if (done.code !== 0) throw new Failure(`systemctl --user ${args.join(' ')}: ${problemOf(done)}`)
}

/** Whether somebody is connected to a socket: /proc/net/unix, state 03 (proc(5)). */
export function inUse(socket: string): boolean {
  return (readText('/proc/net/unix') ?? '').split('\n').some((line) => line.endsWith(` ${socket}`) && line.split(/\s+/)[5] === '03')
}
