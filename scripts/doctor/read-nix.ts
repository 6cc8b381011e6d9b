// Asks this machine's Nix for version, settings and daemon. Changes nothing.
import { accessSync, constants, statSync } from 'node:fs'
import { daemonSocket, isSingleUser, startOf } from '../nix/daemon.ts'
import { NixError } from '../nix/nix.ts'
import { readText } from '../nix/nix-conf.ts'
import { allPathInfos } from '../nix/path-info.ts'
import { askSettings, type Settings } from '../nix/settings.ts'
import { toSign } from '../nix/signing.ts'
import { type NixVersion, parseVersion } from '../nix/version.ts'
import { run } from '../system/exec.ts'
import { searchEnv } from '../system/search-path.ts'
import { findGroup } from '../system/users.ts'
import type { DaemonFacts } from './judge-nix.ts'
import { code } from './read-files.ts'

/**
 * Milliseconds for a program on this machine: a busy machine answers late, a hung program never.
 */
const PATIENCE = 20_000

/** The version, or why it can't be determined. */
export async function askVersion(): Promise<{ version?: NixVersion; why: string }> {
  const asked = await run('nix', ['--version'], { env: searchEnv(), timeout: PATIENCE })
  const version = parseVersion(asked.stdout)
  const why = asked.failedToStart ?? (asked.timedOut ? 'no answer' : (asked.stdout + asked.stderr).trim().split('\n')[0] || 'no answer')
  return version ? { version, why } : { why }
}

/**
 * The settings in force, or why they can't be determined.
 * @param whose system: nix.conf alone, as the daemon reads it; own: with the user's files and
 *   environment
 */
export async function settingsOf(whose: 'system' | 'own'): Promise<Settings | string> {
  // An empty list means no files (src/libstore/globals.cc, getUserConfigFiles, 2.4 to 2.34).
  const alone = whose === 'system' ? { NIX_USER_CONF_FILES: '', NIX_CONFIG: undefined, NIX_CONF_DIR: undefined } : {}
  try {
    return await askSettings({ env: { ...searchEnv(), ...alone }, timeout: PATIENCE })
  } catch (error) {
    if (error instanceof NixError) return error.message
    throw error
  }
}

/** The PATH of nix-daemon: the process's own if we are root, otherwise its unit's or systemd's. */
export async function daemonPath(pid: number | undefined): Promise<string> {
  const own = pid === undefined ? undefined : readText(`/proc/${pid}/environ`)
  const inProcess = own?.split('\0').find((line) => line.startsWith('PATH='))
  if (inProcess !== undefined) return inProcess.slice(5)
  const [unit, manager] = await Promise.all([
    run('systemctl', ['show', '--property=Environment', 'nix-daemon.service'], { env: searchEnv(), timeout: PATIENCE }),
    run('systemctl', ['show-environment'], { env: searchEnv(), timeout: PATIENCE }),
  ])
  const [, inUnit] = /[= "]PATH=([^\s"]+)/.exec(unit.stdout) ?? []
  const [, inManager] = /^PATH=(.*)$/m.exec(manager.stdout) ?? []
  return inUnit ?? inManager ?? '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
}

/** @param files the files the system's settings come from */
export async function askDaemon(user: string, files: readonly string[], pid: number | undefined): Promise<DaemonFacts> {
  const socket = daemonSocket()
  const base = { single: isSingleUser(), socket, user }
  if (base.single) return base
  const denied = access(socket)
  if (denied !== undefined) return { ...base, denied, ...groupOf(socket) }
  const started = pid === undefined ? undefined : startOf(pid)
  const changed = lastChanged(files)
  const { greetBox } = await import('../protocol/dial.ts')
  try {
    const { version } = await greetBox(socket, PATIENCE)
    return { ...base, protocol: version, ...(started === undefined ? {} : { started }), ...(changed ? { changed } : {}) }
  } catch (error) {
    return { ...base, problem: (error as Error).message }
  }
}

function access(path: string): string | undefined {
  try {
    accessSync(path, constants.W_OK)
    return undefined
  } catch (error) {
    return code(error)
  }
}

/** The group of the socket, or of the directory that hides it. */
function groupOf(socket: string): { group?: string } {
  for (const path of [socket, socket.slice(0, socket.lastIndexOf('/'))]) {
    try {
      const { gid } = statSync(path)
      const group = findGroup(gid)
      return group ? { group: group.name } : {}
    } catch {
      // hidden: try the next one
    }
  }
  return {}
}

function lastChanged(files: readonly string[]): { file: string; time: number } | undefined {
  let last: { file: string; time: number } | undefined
  for (const file of files) {
    const time = statSync(file, { throwIfNoEntry: false })?.mtimeMs
    if (time !== undefined && time > (last?.time ?? 0)) last = { file, time }
  }
  return last
}

/**
 * How many paths were built here, and which of them are unsigned.
 * @throws NixError
 */
export async function askBuilt(): Promise<{ built: number; unsigned: string[] }> {
  const infos = await allPathInfos()
  const built = [...infos.values()].filter(({ ultimate, contentAddressed }) => ultimate && !contentAddressed).length
  return { built, unsigned: toSign(infos).own }
}
