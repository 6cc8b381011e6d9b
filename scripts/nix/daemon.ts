// Asks systemd about this machine's nix-daemon: its process, and whether it has read the current
// nix.conf.

import { accessSync, constants } from 'node:fs'
import { run } from '../system/exec.ts'
import { stateDir } from '../system/paths.ts'
import { searchEnv } from '../system/search-path.ts'
import { effectiveUid } from '../system/users.ts'
import { readText } from './nix-conf.ts'

/** Where this machine's nix-daemon listens; reads NIX_DAEMON_SOCKET_PATH as Nix does. */
export const daemonSocket = (): string => process.env.NIX_DAEMON_SOCKET_PATH || `${stateDir}/daemon-socket/socket`

/**
 * Whether Nix here writes its store itself, without a daemon (`store = auto`,
 * src/libstore/store-api.cc).
 */
export function isSingleUser(): boolean {
  if (effectiveUid() === 0) return false
  try {
    accessSync(`${stateDir}/db`, constants.W_OK)
    return true
  } catch {
    return false
  }
}

/** Milliseconds to wait for systemctl: a busy machine answers late, a hung one never. */
const PATIENCE = 20_000

/**
 * The process id of the running nix-daemon; undefined if none is running: socket activation may not
 * have started it yet.
 */
export async function daemonPid(): Promise<number | undefined> {
  const asked = await run('systemctl', ['show', '--property=MainPID', 'nix-daemon.service'], { env: searchEnv(), timeout: PATIENCE })
  const pid = Number(/^MainPID=(\d+)$/m.exec(asked.stdout)?.[1] ?? 0)
  return pid > 0 ? pid : undefined
}

/**
 * When a process started, in milliseconds since 1970, accurate to 10 ms (proc_pid_stat(5), field
 * 22; USER_HZ is 100 on all common Linux platforms); undefined if there is no such process. The
 * name in field 2 may contain spaces.
 */
export function startOf(pid: number): number | undefined {
  const stat = readText(`/proc/${pid}/stat`)
  const uptime = Number(readText('/proc/uptime')?.split(' ')[0])
  const ticks = Number(stat?.slice(stat.lastIndexOf(')') + 2).split(' ')[19])
  return Number.isNaN(uptime + ticks) ? undefined : Date.now() - uptime * 1000 + ticks * 10
}

/**
 * Whether nix-daemon is running; `outdated` if it started before its configuration last changed.
 */
export type Daemon = 'not running' | 'up to date' | 'outdated'

/**
 * Whether a nix-daemon has read its configuration as it is now.
 * @param pid of nix-daemon; undefined if it isn't running
 * @param changed when the configuration last changed, in milliseconds since 1970
 */
export function daemonState(pid: number | undefined, changed: number): Daemon {
  if (pid === undefined) return 'not running'
  const started = startOf(pid)
  return started === undefined || started <= changed ? 'outdated' : 'up to date'
}
