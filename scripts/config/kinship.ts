// Relates a substituter in nix.conf to a cache of the configuration. Pure; store-url.ts goes the
// other way.
import { brokerSocket } from '../system/paths.ts'
import type { Cache } from './types.ts'

/**
 * How an entry in Nix's list refers to a cache: through nix-lan-connect, as a unix:// store, by the
 * host itself, or by the cache's own URL.
 */
export type Kinship = 'connect' | 'socket' | 'host' | 'url'

/**
 * How a substituter of nix.conf refers to this cache; undefined if it is something else.
 * @param socket the tunnel's; '' for a url cache
 */
export function kinship(url: string, { cache, socket }: { cache: Cache; socket: string }): Kinship | undefined {
  if (cache.kind === 'url') return canonical(url) === canonical(cache.url) ? 'url' : undefined
  const path = /^unix:\/\/([^?]*)/.exec(url)?.[1]
  if (path !== undefined) return path === socket || namesCache(path, cache) ? 'socket' : undefined
  const connect = connectIn(url)
  if (connect !== undefined) return leadsTo(connect, cache.name, socket) ? 'connect' : undefined
  const host = hostOf(url)
  return host !== undefined && [cache.host, sshHost(cache.ssh)].some((name) => name.toLowerCase() === host) ? 'host' : undefined
}

/**
 * A URL without the parts that don't change which store it is: parameters, trailing slashes, case
 * of the host, default ports.
 */
export function canonical(url: string): string {
  const [, scheme = '', host = '', path = ''] = /^([a-z0-9+.-]+:\/\/)([^/?]*)([^?]*)/i.exec(url) ?? [undefined, '', '', url]
  const start = `${scheme}${host}`.toLowerCase().replace(/^(http:\/\/.*):80$|^(https:\/\/.*):443$/, '$1$2')
  return start + path.replace(/\/+$/, '')
}

/**
 * Whether a socket's file name, in any directory, contains the cache's or the host's name as a
 * separate word, as in /tmp/nix-rpi.sock.
 */
function namesCache(path: string, { name, host }: { name: string; host: string }): boolean {
  const file = (path.split('/').at(-1) ?? '').replace(/\.(sock|socket)$/, '').toLowerCase()
  const short = /^[0-9.]+$/.test(host) ? host : (host.split('.')[0] ?? host)
  return [name, host, short].some((word) => `-${file.replace(/[_.@]/g, '-')}-`.includes(`-${word.toLowerCase().replace(/[_.]/g, '-')}-`))
}

/**
 * A nix-lan-connect that Nix starts for a URL: the program, its options, and the socket's path or
 * the cache's name.
 */
export interface ConnectUrl {
  url: string
  program: string
  options: string[]
  target: string
  /** `max-connections`; undefined without it. */
  connections?: string
}

/** The nix-lan-connect in `ssh-ng://localhost?remote-program=…`; undefined for any other store. */
export function connectIn(url: string): ConnectUrl | undefined {
  const value = /^ssh-ng:\/\/localhost\/?\?(?:.*&)?remote-program=([^&]*)/.exec(url)?.[1]
  const [program = '', ...words] = decode(value ?? '')
    .split(/\s+/)
    .filter(Boolean)
  const isTarget = (word: string, at: number): boolean => !word.startsWith('-') && !WITH_VALUES.includes(words[at - 1] ?? '')
  const target = words.find(isTarget)
  if (program.split('/').at(-1) !== 'nix-lan-connect' || target === undefined) return undefined
  const connections = /[?&]max-connections=([^&]*)/.exec(url)?.[1]
  const options = words.filter((word, at) => !isTarget(word, at))
  return { url, program, options, target, ...(connections === undefined ? {} : { connections }) }
}

/** Options of nix-lan-connect that have a value. */
const WITH_VALUES = ['--deadline', '--patience']

/**
 * Whether a nix-lan-connect is for this cache: by its name, or by one of its sockets.
 * @param socket the tunnel's
 */
export const leadsTo = ({ target }: ConnectUrl, cache: string, socket: string): boolean =>
  [cache, socket, brokerSocket(cache)].includes(target)

function decode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

/** The host a URL connects to, in lower case, without user and port. */
function hostOf(url: string): string | undefined {
  const authority = /^(?:ssh|ssh-ng|https?):\/\/([^/?]*)/i.exec(url)?.[1]
  return authority
    ?.replace(/^.*@/, '')
    .replace(/:\d+$/, '')
    .replace(/^\[(.*)\]$/, '$1')
    .toLowerCase()
}

/** The host in an ssh destination: `pi@rpi.local`, `ssh://pi@rpi.local:22` or an alias. */
const sshHost = (destination: string): string =>
  destination
    .replace(/^ssh:\/\//, '')
    .replace(/^.*@/, '')
    .replace(/:\d+$/, '')
