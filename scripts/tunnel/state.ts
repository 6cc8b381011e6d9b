// What nix-lan-tunnel remembers under systemd from one attempt to the next: how often it has failed
// in a row, why, and until when it pauses. One small JSON file for each cache, in the user's
// runtime directory; written by nix-lan-tunnel, read by check, status and doctor. It is gone when
// the tunnel is ready, and at the next boot.
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { runtimeDir } from '../system/paths.ts'

export interface TunnelState {
  /** Attempts that failed in a row. */
  failures: number
  /** Why the last one failed, for people. */
  reason: string
  /** When the first one in this row failed: ISO 8601, by the wall clock. */
  since: string
  /**
   * Not tried again before /proc/uptime says so many seconds (a clock that nobody sets); 0: at
   * once.
   */
  notBefore: number
}

/** The file, in a directory that is the user's alone. */
export const tunnelStateFile = (uid: number, cache: string): string => `${runtimeDir(uid)}/${cache}.tunnel`

/**
 * What is remembered; undefined when the tunnel is well, or what is there is not readable or no
 * such file. Only for the user's own.
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
 * Writes it whole: who reads meanwhile sees the old one or the new one. Never throws: with a full
 * disk, the next pause is shorter.
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

/** Forgets it: the next attempt is a first one. */
export function forgetTunnelState(uid: number, cache: string): void {
  rmSync(tunnelStateFile(uid, cache), { force: true })
}

/**
 * Seconds since the boot, the time in which the machine slept included (proc_uptime(5)). 0 where
 * there is no /proc.
 */
export function uptime(): number {
  try {
    return Number.parseFloat(readFileSync('/proc/uptime', 'utf8')) || 0
  } catch {
    return 0
  }
}

/**
 * The longest pause, in seconds: with the time that an attempt takes, a key that is unlocked is
 * seen within a minute.
 */
export const LONGEST_PAUSE = 55

/** Seconds to wait after so many failures in a row: 1, 2, 4, … */
export const pauseAfter = (failures: number): number => Math.min(LONGEST_PAUSE, 2 ** (failures - 1))

/**
 * What to remember after an attempt that failed; pure.
 * @param before what was remembered
 * @param now the wall clock, for people
 * @param up see uptime()
 */
export function afterFailure(before: TunnelState | undefined, reason: string, now: Date, up: number): TunnelState {
  const failures = (before?.failures ?? 0) + 1
  return { failures, reason, since: before?.since ?? now.toISOString(), notBefore: up + pauseAfter(failures) }
}

/**
 * Seconds until the next attempt, 0 for at once; a time further away than any pause (a file from
 * elsewhere) counts as 0. Pure.
 */
export function pauseLeft(state: TunnelState | undefined, up: number): number {
  const left = (state?.notBefore ?? 0) - up
  return left > 0 && left <= LONGEST_PAUSE ? left : 0
}
