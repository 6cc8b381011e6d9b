// What nix-lan-tunnel remembers from one attempt to the next under systemd: how often it has failed
// in a row, why, and until when it pauses. A small JSON file per cache in the user's runtime
// directory, written by nix-lan-tunnel and read by check, status and doctor. It disappears when the
// tunnel is ready, and at reboot.
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { runtimeDir } from '../system/paths.ts'

export interface TunnelState {
  /** Failed attempts in a row. */
  failures: number
  /** Why the last one failed, for people. */
  reason: string
  /** When the first of these attempts failed: ISO 8601, wall clock. */
  since: string
  /**
   * No new attempt before /proc/uptime, a clock nobody sets, reaches this many seconds; 0: at once.
   */
  notBefore: number
}

/** The path of the file, in a directory only the user can use. */
export const tunnelStateFile = (uid: number, cache: string): string => `${runtimeDir(uid)}/${cache}.tunnel`

/**
 * Reads the state; undefined if the tunnel is fine, or the file can't be read or isn't a state. For
 * the user themselves only: it trusts the file.
 */
export function readTunnelState(uid: number, cache: string): TunnelState | undefined {
  try {
    const { failures, reason, since, notBefore } = JSON.parse(readFileSync(tunnelStateFile(uid, cache), 'utf8')) as TunnelState
    if (typeof failures !== 'number' || typeof reason !== 'string' || typeof since !== 'string' || typeof notBefore !== 'number')
      return undefined
    return { failures, reason, since, notBefore }
  } catch {
    return undefined
  }
}

/**
 * Replaces the state in one step, so readers see the old one or the new one. Never throws: if the
 * disk is full, the next pause is shorter.
 */
export function writeTunnelState(uid: number, cache: string, state: TunnelState): void {
  const file = tunnelStateFile(uid, cache)
  try {
    const temporary = `${runtimeDir(uid)}/.${cache}.tunnel.${process.pid}`
    writeFileSync(temporary, `${JSON.stringify(state)}\n`, { mode: 0o600 })
    renameSync(temporary, file)
  } catch {
    // see above
  }
}

/** Deletes the state: the next attempt counts as the first. Never throws, as above. */
export function forgetTunnelState(uid: number, cache: string): void {
  try {
    rmSync(tunnelStateFile(uid, cache), { force: true })
  } catch {
    // /run is read-only: status shows an old reason
  }
}

/** Seconds since boot, including time asleep (proc_uptime(5)); 0 without /proc. */
export function uptime(): number {
  try {
    return Number.parseFloat(readFileSync('/proc/uptime', 'utf8')) || 0
  } catch {
    return 0
  }
}

/**
 * The longest pause in seconds. Including the time an attempt takes, an unlocked key is noticed
 * within a minute.
 */
export const LONGEST_PAUSE = 55

/**
 * Seconds as sleep(1) is told them, in tenths and never less: who wakes a moment before the end of a
 * pause starts everything once more, for nothing. Pure.
 */
export const forSleep = (seconds: number): string => (Math.ceil(seconds * 10) / 10).toFixed(1)

/**
 * The shortest pause, in seconds, after a login that the box refused. sshd counts five seconds for
 * it and one for our look at the port, and at fifteen it refuses everybody at this machine's
 * address, the user's own ssh, too (PerSourcePenalties in sshd_config(5), on by default since
 * OpenSSH 9.8; seen with 10.0 at the fourth login after 1, 2 and 4 seconds).
 */
const REFUSED_PAUSE = 8

/**
 * Seconds to wait after this many failures in a row: 1, 2, 4, …
 * @param refused the last of them was a login that the box refused
 */
export const pauseAfter = (failures: number, refused = false): number =>
  Math.min(LONGEST_PAUSE, Math.max(refused ? REFUSED_PAUSE : 1, 2 ** (failures - 1)))

/**
 * The state after a failed attempt; pure.
 * @param before the state so far
 * @param now the wall clock, for people
 * @param up see uptime()
 * @param refused see pauseAfter()
 */
export function afterFailure(before: TunnelState | undefined, reason: string, now: Date, up: number, refused = false): TunnelState {
  const failures = (before?.failures ?? 0) + 1
  return { failures, reason, since: before?.since ?? now.toISOString(), notBefore: up + pauseAfter(failures, refused) }
}

/**
 * Seconds until the next attempt; 0: at once. A time further away than any pause (a file from
 * elsewhere) counts as 0. Pure.
 */
export function pauseLeft(state: TunnelState | undefined, up: number): number {
  const left = (state?.notBefore ?? 0) - up
  return left > 0 && left <= LONGEST_PAUSE ? left : 0
}
