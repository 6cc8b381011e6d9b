// Decides which caches nix-lan-run adds to Nix's substituters, which it leaves out, and what it
// sets in NIX_CONFIG. Pure functions of what it found out.
import { canonical, kinship } from '../config/kinship.ts'
import type { Cache } from '../config/types.ts'
import { type Assignment, type NixConf, namedSubstituters, substitutersOf, valuesOf } from '../nix/nix-conf.ts'
import type { Answer } from '../reach/reach.ts'

/** The facts about a cache. */
export interface CacheFacts {
  cache: Cache
  /** The tunnel's socket; '' for a url cache. */
  socket: string
  /** The tunnel is another user's, so that whether there is one can't be seen. */
  hidden?: true
  /** The URL for Nix, or why there is none. */
  url: { ok: true; text: string } | { ok: false; reason: string }
  /** Whether the cache can be used now. */
  usable: Answer
  /**
   * Whether the host itself answers; asked only if nix.conf names it directly and `usable` is
   * negative.
   */
  host?: Answer
}

/** Why an entry in Nix's list has to go; undefined if it may stay. */
function reasonToDrop(url: string, facts: CacheFacts): string | undefined {
  switch (kinship(url, facts)) {
    case 'socket':
      // src/libstore/uds-remote-store.hh, 2.4 to 2.35: such a store reads files from the local
      // disk, and a missing one ends the command.
      return 'Nix can fetch nothing through a unix:// store'
    case 'url':
      return facts.usable.ok ? undefined : facts.usable.reason
    case 'host':
      return facts.usable.ok || facts.host?.ok ? undefined : (facts.host ?? (facts.usable as { reason: string })).reason
    default:
      return undefined // not ours, or nix-lan-connect, which is an empty store when the box is away
  }
}

/** An entry in Nix's list that has to go: which cache's it is, why, and where it is set. */
export interface Drop {
  url: string
  name: string
  reason: string
  where: string
}

/**
 * The cache an entry refers to, if any. Prefers the one whose own URL it is to one that only shares
 * the host.
 */
function ownerOf(url: string, caches: CacheFacts[]): CacheFacts | undefined {
  const kin = caches.filter((facts) => kinship(url, facts) !== undefined)
  return kin.find((facts) => kinship(url, facts) !== 'host') ?? kin[0]
}

/** The entries named in the files that have to go if they are in force. */
export function drops(caches: CacheFacts[], assignments: Assignment[]): Drop[] {
  return namedSubstituters(assignments).flatMap(({ url, where }) => dropOf(url, where, caches))
}

function dropOf(url: string, where: string, caches: CacheFacts[]): Drop[] {
  const owner = ownerOf(url, caches)
  const reason = owner && reasonToDrop(url, owner)
  return reason === undefined ? [] : [{ url, where, name: owner?.cache.name ?? '', reason }]
}

/**
 * Whether the files name the cache's host directly; it then has to be asked when the tunnel doesn't
 * answer.
 */
export function namesHost(facts: Pick<CacheFacts, 'cache' | 'socket'>, assignments: Assignment[]): boolean {
  return namedSubstituters(assignments).some(({ url }) => kinship(url, facts) === 'host')
}

/** What happens to a cache. `there`: Nix already has it. */
export interface Decision {
  name: string
  action: 'add' | 'there' | 'leave out'
  url: string | undefined
  usable: Answer
  /** What `usable` doesn't say already, or ''. */
  reason: string
}

export interface Plan {
  /** The line for NIX_CONFIG, without an end of line; undefined if there is nothing to change. */
  setting: string | undefined
  decisions: Decision[]
  /** The entries of Nix's list to leave out. */
  dropped: Drop[]
}

/**
 * Makes the plan.
 * @param inForce Nix's list as nix itself reports it; undefined if it wasn't asked or couldn't
 *   answer: then we go by the files and leave nothing out
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
 * The entries in force that have to go. Judges them again, because nix 2.34 and later writes URL
 * parameters in its own order.
 */
function dropsOf(list: string[], caches: CacheFacts[], named: Drop[]): Drop[] {
  const whereOf = (url: string): string => named.find((drop) => canonical(drop.url) === canonical(url))?.where ?? 'nix.conf'
  return list.flatMap((url) => dropOf(url, whereOf(url), caches))
}

/** Said to a second user of the machine: nix-daemon, as root, may use the owner's tunnel. */
const FOR_ALL = 'nix-daemon asks it for everybody'

function decide(facts: CacheFacts, kept: string[]): Decision {
  const { cache, usable, url, hidden } = facts
  const name = cache.name
  const listed = kept.find((entry) => ['connect', 'url'].includes(kinship(entry, facts) ?? ''))
  if (listed !== undefined) {
    const reason = cache.kind !== 'ssh' || usable.ok ? '' : hidden ? FOR_ALL : 'nix-lan-connect is an empty store until the box is back'
    return { name, action: 'there', url: listed, usable, reason }
  }
  if (!url.ok) return { name, action: 'leave out', url: undefined, usable, reason: url.reason }
  if (!usable.ok) return { name, action: 'leave out', url: url.text, usable, reason: '' }
  if (/[\s#]/.test(url.text)) return { name, action: 'leave out', url: url.text, usable, reason: 'Nix ends a URL at a space or a #' }
  const reason = usable.slow ? 'it is slow: nix-lan-connect waits up to 30 s for its first answer' : ''
  return { name, action: 'add', url: url.text, usable, reason }
}

/** What to append to NIX_CONFIG so that the setting gets its own line. */
export function appendix(setting: string, nixConfig: string | undefined): string {
  return nixConfig === undefined || nixConfig === '' || nixConfig.endsWith('\n') ? setting : `\n${setting}`
}

/** Who runs the command, as nix-daemon sees it. */
export interface Who {
  name: string
  groups: string[]
  /** Whether Nix writes its store without nix-daemon; then trust doesn't matter. */
  direct: boolean
}

/**
 * The URLs nix-daemon would ignore because an untrusted user names them and the system's nix.conf
 * doesn't (src/libstore/daemon.cc, setSubstituters, 2.4 to 2.34).
 */
export function ignoredFor(who: Who, urls: string[], { system }: NixConf): string[] {
  const users = valuesOf(system, new Set(['trusted-users']), ['root'])
  const trusted = users.some((user) => user === '*' || user === who.name || (user.startsWith('@') && who.groups.includes(user.slice(1))))
  if (who.direct || trusted) return []
  const allowed = [...valuesOf(system, new Set(['trusted-substituters', 'trusted-binary-caches']), []), ...substitutersOf(system)]
  return urls.filter((url) => !allowed.includes(url) && !allowed.includes(`${url}/`))
}
