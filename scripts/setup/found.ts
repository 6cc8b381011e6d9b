// Finds what setup installed when its record is gone: somebody removed /etc/nix-lan, or the files
// in it. Counts only what proves to be ours by both its place and its content.
import { existsSync, readdirSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import type { SshCache } from '../config/types.ts'
import { readText } from '../nix/nix-conf.ts'
import { connectFile, failedDir, queueDir, stateDir } from '../system/paths.ts'
import { findUser, type User } from '../system/users.ts'
import { formerIn } from './conf.ts'
import { inspect, markOf } from './files.ts'
import type { Layout } from './layout.ts'
import { type Entry, emptyRecord, type Record } from './record.ts'

/**
 * The prefix named by nix.conf or a unit; undefined if neither names one.
 * @param texts of both
 */
export function prefixIn(texts: readonly string[]): string | undefined {
  const pattern = /(?:[= ])((?:\/[A-Za-z0-9_.+-]+)+)\/(?:bin\/nix-lan-connect|lib\/nix-lan\/(?:nix-lan|post-build-hook))\b/
  return texts.map((text) => pattern.exec(text)?.[1]).find((prefix) => prefix !== undefined)
}

/** The user an unrecorded setup was for: the one whose timer is enabled, or who owns a queue. */
export function foundUser(layout: Layout): User | undefined {
  const [, uid] = /^ConditionUser=(\d+)$/m.exec(readText(`${layout.units}/nix-lan-check.timer.d/user.conf`) ?? '') ?? []
  const [queue] = below(dirname(queueDir('x')))
  const owner = uid === undefined ? queue && statSync(queue).uid : Number(uid)
  return owner === undefined || owner === 0 ? undefined : findUser(owner)
}

/** A record of what is there; undefined if nothing is. `box` lists every configured cache. */
export function foundRecord(layout: Layout, user: User, nixConf: string, caches: readonly SshCache[]): Record | undefined {
  const paths = [
    ...programs(layout),
    ...links(layout),
    ...units(layout),
    ...brokers(layout),
    ...[layout.config, layout.tmpfiles ?? ''].filter(isMarked),
    ...[`${layout.etc}/post-build-hook`].filter((path) => formerIn(readText(path) ?? '') !== undefined),
    ...[layout.secretKey, layout.publicKey].filter((path) => existsSync(path)),
    ...queues(),
  ]
  if (paths.length === 0) return undefined
  const [key] = (readText(layout.publicKey) ?? '').trim().split(/\s+/)
  const box = caches.map(({ name, ssh, port }) => ({ cache: name, ssh, port, ...(key ? { key } : {}) }))
  const record = { ...emptyRecord(user, layout.prefix, nixConf), home: [], box }
  return { ...record, entries: [...new Set([layout.etc, ...paths])].flatMap(entryOf) }
}

function entryOf(path: string): Entry[] {
  const seen = inspect(path)
  return seen.kind === 'missing' || seen.kind === 'other' ? [] : [{ path, before: { kind: 'missing' }, ours: [markOf(seen)] }]
}

/** Parents before their contents. */
function tree(directory: string): string[] {
  if (inspect(directory).kind !== 'directory') return []
  return [directory, ...below(directory).flatMap((path) => (inspect(path).kind === 'directory' ? tree(path) : [path]))]
}

const below = (directory: string): string[] => (existsSync(directory) ? readdirSync(directory).map((name) => `${directory}/${name}`) : [])

/** Our directory, if the hook in it is ours. */
function programs({ lib }: Layout): string[] {
  return readText(`${lib}/post-build-hook`)?.split('\n')[1]?.startsWith("':' // post-build-hook;") ? tree(lib) : []
}

/** Links into our directory. */
function links({ lib, bin, man, completions, dispatchers, units }: Layout): string[] {
  const places = [bin, man, `${dirname(man)}/man5`, ...Object.values(completions), ...(dispatchers ? [dispatchers] : [])]
  const leads = (path: string, to: string): boolean => {
    const seen = inspect(path)
    return seen.kind === 'link' && seen.target.startsWith(to)
  }
  return [
    ...places.flatMap(below).filter((path) => leads(path, `${lib}/`)),
    ...['timers', 'paths'].flatMap((kind) => below(`${units}/${kind}.target.wants`)).filter((path) => leads(path, `${units}/nix-lan-`)),
  ]
}

/**
 * Units that start our programs, those that go with them, and the file setup writes beside them.
 */
function units({ units: directory, lib }: Layout): string[] {
  const own = below(directory).filter((path) => /\/nix-lan[^/]*\.(service|timer|path|target)$/.test(path) && inspect(path).kind === 'file')
  if (!own.some((path) => readText(path)?.includes(`${lib}/nix-lan`))) return []
  const drops = ['nix-lan-check.timer.d', 'nix-lan-network.path.d'].map((name) => `${directory}/${name}`)
  return [...own, ...drops.flatMap((drop) => (isMarked(`${drop}/user.conf`) ? [drop, `${drop}/user.conf`] : []))]
}

/** The broker's units, and what setup writes for each box. */
function brokers({ systemUnits, lib }: Layout): string[] {
  if (systemUnits === undefined) return []
  if (!readText(`${systemUnits}/nix-lan-broker@.service`)?.includes(`${lib}/nix-lan`)) return []
  const own = (directory: string): string[] => below(directory).filter((path) => /\/nix-lan-broker@[^/]*$/.test(path))
  return [
    ...own(systemUnits).flatMap((path) => {
      if (inspect(path).kind === 'file') return [path]
      return isMarked(`${path}/nix-lan.conf`) ? [path, `${path}/nix-lan.conf`] : []
    }),
    ...own(`${systemUnits}/sockets.target.wants`),
    ...tree(dirname(connectFile('x'))),
  ]
}

const isMarked = (path: string): boolean => (readText(path) ?? '').startsWith('# Written by `nix-lan setup`')

function queues(): string[] {
  const parents = [dirname(queueDir('x')), dirname(failedDir('x'))].filter((path) => existsSync(path))
  if (parents.length === 0) return []
  return [`${stateDir}/gcroots/nix-lan`, ...parents, ...parents.flatMap(below).filter((path) => inspect(path).kind === 'directory')]
}
