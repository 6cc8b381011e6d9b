// Controls the user's systemd manager: lingering, and starting and stopping our units.
import { setTimeout as sleep } from 'node:timers/promises'
import { Failure } from '../cli/errors.ts'
import { readText } from '../nix/nix-conf.ts'
import { run } from '../system/exec.ts'
import { type AskOptions, hasUserManager, problemOf, systemctl } from '../system/systemd.ts'
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
 * Reloads the units, starts the timer and asks for a check now.
 * @throws Failure with systemctl's message
 */
export async function startUnits(user: User): Promise<void> {
  await must(user, ['daemon-reload'])
  await must(user, ['start', 'nix-lan-check.timer'])
  await must(user, ['restart', '--no-block', 'nix-lan-check.service'])
}

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
  const forAll = cache === undefined ? [['nix-lan-check.timer', 'nix-lan-check.service']] : []
  for (const units of [...forAll, ofCaches.map((unit) => unit.replace('NAME', cache ?? '*'))]) {
    const stopped = await systemctl(['stop', ...units], ownerOf(user))
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
 * Starts the search for builds that were never queued, in the background; it runs until done or
 * until the box is away.
 */
export async function queueBuilt(user: User, cache: string): Promise<void> {
  await systemctl(['start', '--no-block', `nix-lan-built@${cache}.service`], ownerOf(user))
}

/** The caches whose tunnels are running. */
export async function runningTunnels(user: User): Promise<string[]> {
  const listed = await systemctl(['list-units', '--no-legend', '--plain', '--state=active', 'nix-lan-tunnel@*.service'], ownerOf(user))
  return [...listed.stdout.matchAll(/^nix-lan-tunnel@([a-z0-9-]+)\.service /gm)].map(([, cache = '']) => cache)
}

/**
 * Restarts a tunnel.
 * @throws Failure with systemctl's message
 */
export const restartTunnel = (user: User, cache: string): Promise<void> => must(user, ['try-restart', `nix-lan-tunnel@${cache}.service`])

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
