// Decides whether a cache is there: the one place that defines "reachable" (its port accepts) and
// "usable" (it answers as a store does). Never concludes from a name, a file or an old answer
// alone, and never exceeds its deadline. A hot path: what only `usable` needs is loaded late.
import { existsSync, readFileSync } from 'node:fs'
import type { Cache, UrlCache } from '../config/types.ts'
import { socketPath } from '../system/paths.ts'
import { isAddress, Race, type Winner } from './connect-race.ts'
import { type Memory, memoryOf } from './last-address.ts'

/**
 * `ms`: milliseconds from question to answer. `address`: an address, a socket's path, or a folder.
 */
export type Answer = (
  | { ok: true; address: string; port?: number; ms: number; detail?: string }
  | { ok: false; reason: string; ms: number }
) & {
  /** It shook hands, but hasn't answered in time. */
  slow?: true | undefined
}

/**
 * Milliseconds for the first answer of a box that has shaken hands, for whoever can wait: its disk
 * may have to wake up.
 */
export const FIRST_ANSWER = 30_000

/** Where a cache listens, or the folder that it is. */
export type Place = { host: string; port: number } | { folder: string }

const PORTS: Record<string, number> = { 'http:': 80, 'https:': 443, 'ssh:': 22, 'ssh-ng:': 22 }

/**
 * Where to look for a cache; pure.
 * @throws TypeError for an invalid url
 */
export function placeOf(cache: Cache): Place {
  if (cache.kind === 'ssh') return { host: cache.host, port: cache.port }
  const { protocol, hostname, port, pathname } = new URL(cache.url)
  if (protocol === 'file:') return { folder: decodeURIComponent(pathname) }
  return { host: hostname.replace(/^\[(.*)\]$/, '$1'), port: Number(port) || (PORTS[protocol] ?? 22) }
}

/** Which addresses count: IPv4, IPv6, or both. */
export type Family = 4 | 6 | undefined

/**
 * Whether the name resolves and the port accepts. Dials last time's address at once, and all
 * addresses from the name service as soon as they are known; the first that accepts wins and is
 * remembered.
 * @param deadline milliseconds for everything
 * @param family only addresses of this family count
 */
export async function reachable(cache: Cache, deadline: number, family?: Family): Promise<Answer> {
  const elapsed = stopwatch()
  try {
    const place = placeOf(cache)
    if ('folder' in place) return folderAnswer(place.folder, elapsed)
    const winner = await find(cache.name, place, deadline, family)
    if ('reason' in winner) return { ok: false, reason: winner.reason, ms: elapsed() }
    return { ok: true, address: winner.address, port: place.port, ms: elapsed() }
  } catch (error) {
    if (!(error instanceof TypeError) || cache.kind !== 'url') throw error
    return { ok: false, reason: `${cache.url} is not a valid URL`, ms: elapsed() }
  }
}

async function find(name: string, place: { host: string; port: number }, deadline: number, family: Family): Promise<Winner> {
  const literal = isAddress(place.host)
  const memory: Memory | undefined = literal ? undefined : memoryOf(name, place.host)
  const options = { scopes: linkLocalScopes, ...(family ? { family } : {}) }
  const winner = await new Race(place.host, place.port, deadline, options).run(memory?.address)
  if ('address' in winner && winner.address !== memory?.address) memory?.keep(winner.address)
  return winner
}

function folderAnswer(folder: string, elapsed: () => number): Answer {
  const file = `${folder.replace(/\/$/, '')}/nix-cache-info`
  if (existsSync(file)) return { ok: true, address: folder, ms: elapsed() }
  return { ok: false, reason: `${file} is not there`, ms: elapsed() }
}

/**
 * The interfaces with an IPv6 link-local address: another machine's can only be on one of their
 * links. From /proc/net/if_inet6 (Linux: address, index, prefix, scope, flags, name), since loading
 * node:os takes longer than everything else here.
 */
function linkLocalScopes(): string[] {
  try {
    const lines = readFileSync('/proc/net/if_inet6', 'latin1').trim().split('\n')
    return [...new Set(lines.filter((line) => line.startsWith('fe80')).map((line) => line.split(/\s+/).at(-1) ?? ''))]
  } catch {
    return [] // no IPv6
  }
}

/**
 * Whether the cache answers a question as a store: an ssh cache's nix-daemon through the tunnel's
 * socket, a url cache with its nix-cache-info. For an ssh:// or ssh-ng:// url only the port is
 * tried, since more would need its user's keys.
 * @param uid whose tunnel
 * @param deadline milliseconds for everything but a first answer that is late
 * @param late milliseconds more for that
 */
export async function usable(cache: Cache, uid: number, deadline: number, late = 0): Promise<Answer> {
  if (cache.kind === 'ssh') return await usableTunnel(socketPath(uid, cache.name), uid, deadline, late)
  if (/^https?:/i.test(cache.url)) return await usableHttp(cache, deadline)
  return await reachable(cache, deadline)
}

async function usableTunnel(socket: string, uid: number, deadline: number, late: number): Promise<Answer> {
  const elapsed = stopwatch()
  const { greetBox } = await import('../protocol/dial.ts')
  let release = (): void => {}
  try {
    let way = socket
    if (uid !== 0 && process.geteuid?.() === 0) {
      // Root must not knock wherever a user's link leads.
      const { holdSocket } = await import('../protocol/owned-socket.ts')
      ;({ path: way, release } = holdSocket(socket, uid))
    }
    const { nix } = await greetBox(socket, deadline, deadline + late, way)
    return { ok: true, address: socket, ms: elapsed(), ...(nix ? { detail: `Nix ${nix}` } : {}) }
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    return { ok: false, reason, ms: elapsed(), ...((error as { kind?: string }).kind === 'slow' && { slow: true }) }
  } finally {
    release()
  }
}

async function usableHttp(cache: UrlCache, deadline: number): Promise<Answer> {
  const elapsed = stopwatch()
  const there = await reachable(cache, deadline)
  if (!there.ok) return there
  const { cacheInfoProblem } = await import('./cache-info.ts')
  // A deadline already used up was answered above, so at least a moment is left.
  const reason = await cacheInfoProblem(cache.url, there.address, Math.max(1, deadline - elapsed()), deadline)
  return reason === undefined ? { ...there, ms: elapsed() } : { ok: false, reason, ms: elapsed() }
}

/** Whole milliseconds since it was made. */
function stopwatch(): () => number {
  const started = performance.now()
  return () => Math.round(performance.now() - started)
}
