// What nix-lan-run decides, as pure functions of what it found out: which caches are added to Nix's
// substituters, which are left out, and what NIX_CONFIG becomes. Nothing here touches the world.
import { canonical, kinship } from '../config/kinship.ts'
import type { Cache } from '../config/types.ts'
import { type Assignment, type NixConf, namedSubstituters, substitutersOf, valuesOf } from '../nix/nix-conf.ts'
import type { Answer } from '../reach/reach.ts'

/** What was found out about a cache. */
export interface CacheFacts {
  cache: Cache
  /** The tunnel's socket; '' for a url cache. */
  socket: string
  /** The URL that Nix would be given, or why there is none. */
  url: { ok: true; text: string } | { ok: false; reason: string }
  /** Whether it can be used now. */
  usable: Answer
  /**
   * Whether the host itself answers; asked only when nix.conf names it without the tunnel and
   * `usable` says no.
   */
  host?: Answer
}

/** Why an entry of Nix's list has to go, or undefined when it may stay. */
export function reasonToDrop(url: string, facts: CacheFacts): string | undefined {
  switch (kinship(url, facts)) {
    case 'socket':
      // src/libstore/uds-remote-store.hh, 2.4 to 2.35: such a store reads the files from the own
      // disk, and a missing one ends the command.
      return 'Nix can fetch nothing through a unix:// store'
    case 'url':
      return facts.usable.ok ? undefined : facts.usable.reason
    case 'host':
      return facts.usable.ok || facts.host?.ok ? undefined : (facts.host ?? (facts.usable as { reason: string })).reason
    default:
      return undefined // someone else's; or nix-lan-connect, which is an empty store when the box is away
  }
}

/** An entry of Nix's list that has to go: whose it is, why, and where it stands. */
export interface Drop {
  url: string
  name: string
  reason: string
  where: string
}

/**
 * The cache that an entry means, if any: rather the one whose own URL it is than one that only has
 * the same host.
 */
function ownerOf(url: string, caches: CacheFacts[]): CacheFacts | undefined {
  const kin = caches.filter((facts) => kinship(url, facts) !== undefined)
  return kin.find((facts) => kinship(url, facts) !== 'host') ?? kin[0]
}

/** The entries that the files name and that have to go, if they are in force. */
export function drops(caches: CacheFacts[], assignments: Assignment[]): Drop[] {
  return namedSubstituters(assignments).flatMap(({ url, where }) => dropOf(url, where, caches))
}

function dropOf(url: string, where: string, caches: CacheFacts[]): Drop[] {
  const owner = ownerOf(url, caches)
  const reason = owner && reasonToDrop(url, owner)
  return reason === undefined ? [] : [{ url, where, name: owner?.cache.name ?? '', reason }]
}

/**
 * Whether the files name the cache's host itself, so that it has to be asked when the tunnel gives
 * no answer.
 */
export function namesHost(facts: Pick<CacheFacts, 'cache' | 'socket'>, assignments: Assignment[]): boolean {
  return namedSubstituters(assignments).some(({ url }) => kinship(url, facts) === 'host')
}

/** What becomes of a cache. `there`: Nix has it already. */
export interface Decision {
  name: string
  action: 'add' | 'there' | 'leave out'
  url: string | undefined
  usable: Answer
  /** More than `usable` says, or ''. */
  reason: string
}

export interface Plan {
  /** The line for NIX_CONFIG, without an end of line; undefined: nothing to change. */
  setting: string | undefined
  decisions: Decision[]
  /** What of Nix's list is left out. */
  dropped: Drop[]
}

/**
 * The plan.
 * @param inForce Nix's list as nix itself tells it; undefined when nobody asked, or it couldn't
 * tell: then the files are believed, and nothing is left out
 */
export function planSubstituters(caches: CacheFacts[], assignments: Assignment[], inForce: string[] | undefined): Plan {
  const list = inForce ?? substitutersOf(assignments)
  const named = drops(caches, assignments)
  const dropped = inForce === undefined ? [] : dropsOf(list, caches, named)
  const kept = list.filter((url) => !dropped.some((drop) => drop.url === url))
  const decisions = caches.map((facts) => decide(facts, kept))
  const added = decisions.flatMap(({ action, url }) => (action === 'add' && url !== undefined ? [url] : []))
  if (dropped.length > 0) return { setting: ['substituters =', ...kept, ...added].join(' '), decisions, dropped }
  return { setting: added.length > 0 ? `extra-substituters = ${added.join(' ')}` : undefined, decisions, dropped }
}

/**
 * The entries in force that have to go. From 2.34 nix writes parameters in its own order, so they
 * are judged anew.
 */
function dropsOf(list: string[], caches: CacheFacts[], named: Drop[]): Drop[] {
  const whereOf = (url: string): string => named.find((drop) => canonical(drop.url) === canonical(url))?.where ?? 'nix.conf'
  return list.flatMap((url) => dropOf(url, whereOf(url), caches))
}

function decide(facts: CacheFacts, kept: string[]): Decision {
  const { cache, usable, url } = facts
  const name = cache.name
  const listed = kept.find((entry) => ['connect', 'url'].includes(kinship(entry, facts) ?? ''))
  if (listed !== undefined) {
    const reason = cache.kind === 'ssh' && !usable.ok ? 'nix-lan-connect is an empty store until the box is back' : ''
    return { name, action: 'there', url: listed, usable, reason }
  }
  if (!url.ok) return { name, action: 'leave out', url: undefined, usable, reason: url.reason }
  if (!usable.ok) return { name, action: 'leave out', url: url.text, usable, reason: '' }
  if (/[\s#]/.test(url.text)) return { name, action: 'leave out', url: url.text, usable, reason: 'Nix ends a URL at a space or a #' }
  return { name, action: 'add', url: url.text, usable, reason: '' }
}

/** What goes to the end of NIX_CONFIG, so that the line stands on its own. */
export function appendix(setting: string, nixConfig: string | undefined): string {
  return nixConfig === undefined || nixConfig === '' || nixConfig.endsWith('\n') ? setting : `\n${setting}`
}

/** Who runs the command, as far as nix-daemon is concerned. */
export interface Who {
  name: string
  groups: string[]
  /** Whether Nix's store is written without nix-daemon: then nobody's trust is asked. */
  direct: boolean
}

/**
 * The URLs that nix-daemon would ignore, because an untrusted user names them and the system's
 * nix.conf doesn't (src/libstore/daemon.cc, setSubstituters, 2.4 to 2.34).
 */
export function ignoredFor(who: Who, urls: string[], { system }: NixConf): string[] {
  const users = valuesOf(system, new Set(['trusted-users']), ['root'])
  const trusted = users.some((user) => user === '*' || user === who.name || (user.startsWith('@') && who.groups.includes(user.slice(1))))
  if (who.direct || trusted) return []
  const allowed = [...valuesOf(system, new Set(['trusted-substituters', 'trusted-binary-caches']), []), ...substitutersOf(system)]
  return urls.filter((url) => !allowed.includes(url) && !allowed.includes(`${url}/`))
}
