// Looks at what the broker of a cache needs: root's file for nix-lan-connect, the units of the
// system's systemd, the socket.
import { lstatSync, statSync } from 'node:fs'
import { type ConnectSettings, connectFileText, parseConnectFile } from '../config/connect-file.ts'
import type { SshCache } from '../config/types.ts'
import { readText } from '../nix/nix-conf.ts'
import { brokerSocket, connectFile } from '../system/paths.ts'
import { findIn } from '../system/runtime.ts'
import { DIRECTORIES } from '../system/search-path.ts'
import { brokerSocketUnit, showUnits, systemdRuns } from '../system/systemd.ts'
import { SYSTEM_UNITS } from '../system/texts.ts'
import { nameOf } from '../system/users.ts'
import type { BrokerFacts, Place } from './judge-broker.ts'
import { anywhere } from './read-automatic.ts'

/** Milliseconds. systemd answers in about 10. */
const PATIENCE = 10_000

/** @param user whose the cache is */
export async function brokerFacts(cache: SshCache, user: string): Promise<BrokerFacts> {
  const file = connectFile(cache.name)
  const socket = brokerSocketUnit(cache.name)
  const text = readText(file)
  const settings = text === undefined ? undefined : parseConnectFile(text)
  const right = parseConnectFile(connectFileText(user, cache))
  return {
    systemd: systemdRuns(),
    perl: findIn(DIRECTORIES, ['perl']) !== undefined,
    user,
    file: placeOf(file, statSync),
    settings: settings && { user: settings.user, same: textOf(settings) === textOf(right) },
    socket: placeOf(brokerSocket(cache.name), lstatSync),
    units: systemdRuns() ? await unitsOf([socket, socket.replace(/socket$/, 'service')]) : [],
  }
}

const textOf = (settings: ConnectSettings | undefined): string => JSON.stringify(Object.entries(settings ?? {}).sort())

/** @param look statSync for a file in /etc, which on NixOS is a link into the store */
function placeOf(path: string, look: typeof lstatSync | typeof statSync): Place {
  const stat = look(path, { throwIfNoEntry: false })
  if (!stat) return { path, kind: 'missing', owner: '', mode: 0 }
  return { path, kind: stat.isFile() ? 'file' : stat.isSocket() ? 'socket' : 'other', owner: nameOf(stat.uid), mode: stat.mode & 0o7777 }
}

/** The units as systemd has them, compared with the text they should have. */
async function unitsOf(names: string[]): Promise<BrokerFacts['units']> {
  const properties = ['LoadState', 'ActiveState', 'Result', 'FragmentPath', 'NeedDaemonReload', 'SocketUser', 'User']
  const found = await showUnits(names, properties, { system: true, limit: PATIENCE })
  return names.map((name, at) => {
    const { LoadState = '', ActiveState = '', Result = '', FragmentPath = '', NeedDaemonReload, SocketUser, User } = found[at] ?? {}
    const text = FragmentPath === '' ? undefined : readText(FragmentPath)
    const right = SYSTEM_UNITS[name.replace(/@.*\./, '@.')]
    const same = text === undefined || right === undefined || anywhere(text) === anywhere(right)
    return {
      name,
      loadState: LoadState,
      active: ActiveState,
      result: Result,
      file: FragmentPath,
      same,
      needsReload: NeedDaemonReload === 'yes',
      user: userIn(SocketUser || User || 'root'),
    }
  })
}

/** A user's name, where a unit may have the uid. */
const userIn = (text: string): string => (/^\d+$/.test(text) ? nameOf(Number(text)) : text)
