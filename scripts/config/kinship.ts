// Relates a substituter in nix.conf to a cache of the configuration. Pure; store-url.ts goes the
// other way.
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
  const program = connectWords(url)
  if (program !== undefined) return program.at(-1) === socket || program.at(-1) === cache.name ? 'connect' : undefined
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

/** The words of the program in `ssh-ng://localhost?remote-program=…` if it is nix-lan-connect. */
function connectWords(url: string): string[] | undefined {
  const value = /^ssh-ng:\/\/localhost\/?\?(?:.*&)?remote-program=([^&]*)/.exec(url)?.[1]
  if (value === undefined) return undefined
  const words = decode(value).split(/\s+/).filter(Boolean)
  return words[0]?.split('/').at(-1) === 'nix-lan-connect' ? words : undefined
}

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
