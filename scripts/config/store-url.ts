// Builds the store URL by which Nix knows a cache.
import { existsSync, realpathSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { Failure } from '../cli/errors.ts'
import { brokerSocket, connectFile, socketPath } from '../system/paths.ts'
import { unusualTimes } from './connect-file.ts'
import type { Cache, SshCache } from './types.ts'

/**
 * The URL of a cache, for nix.conf, NIX_CONFIG and `nix copy --to`.
 * @param uid whose tunnel to use
 * @param socket a socket other than the tunnel's
 * @param strict for uploads: connect exits 75 when the box is away, instead of posing as an empty
 *   store
 * @param parallel as for substituterUrl(). Who doesn't know the version leaves it out: both URLs are
 *   the same store to us
 * @throws Failure when nix-lan-connect is missing, or is where Nix can't start it
 */
export function storeUrl(
  cache: Cache,
  uid: number,
  { strict = false, parallel = false, socket = socketPath(uid, cache.name) } = {},
): string {
  if (cache.kind === 'url') return cache.url
  if (strict) return connectUrl(connectProgram(), ['--strict', ...optionsOf({ deadline: unusualTimes(cache).deadline })], socket)
  return substituterUrl(cache, connectProgram(), existsSync(connectFile(cache.name)) ? brokerSocket(cache.name) : socket, parallel)
}

/**
 * The URL of a cache for nix.conf. At the broker's socket, root's file beside it has the settings
 * that connect needs (config/connect-file.ts); at the tunnel's socket, the URL itself has them.
 * @param parallel whether several connections make the Nix that reads it faster (nix/version.ts). At
 *   the broker's socket only: there a start is cheap
 * @throws Failure as connectUrl() does
 */
export function substituterUrl(
  cache: Pick<SshCache, 'name' | 'deadline' | 'patience'>,
  program: string,
  socket: string,
  parallel: boolean,
): string {
  const broker = socket === brokerSocket(cache.name)
  return connectUrl(
    program,
    broker ? [] : optionsOf(unusualTimes(cache)),
    socket,
    broker && parallel ? `max-connections=${CONNECTIONS}&` : '',
  )
}

/** Settings as options of nix-lan-connect, without those that are undefined. */
const optionsOf = (settings: Readonly<Record<string, number | undefined>>): string[] =>
  Object.entries(settings).flatMap(([key, value]) => (value === undefined ? [] : [`--${key}`, String(value)]))

/**
 * Connections that Nix may have at once. On 2.26.3 and two cores, 300 small paths came as fast with
 * four as with eight; but Nix opens them for questions, too, and each is a start: with eight, 200
 * misses and a build of 40 derivations took longer. nix/nixos.nix writes the same.
 */
export const CONNECTIONS = 4

/**
 * The store URL that makes Nix run a program on this machine. For the host name localhost Nix
 * starts the program itself instead of ssh (src/libstore/ssh.cc, 2.4–2.35): through `bash -c` up to
 * 2.19, split at spaces from 2.20. So the words must not hold any character that bash, the split or
 * a URL would interpret.
 * @param options of nix-lan-connect, each a word
 * @param parameters of the store, before the program's
 */
function connectUrl(program: string, options: readonly string[], socket: string, parameters = ''): string {
  for (const path of [program, socket]) {
    if (!/^\/[A-Za-z0-9_./+-]+$/.test(path))
      throw new Failure(`${path}: Nix can't be given a path with such characters; keep to letters, digits and . _ + -`)
  }
  // A plus sign in a URL's query may be read as a space.
  const words = [program, ...options, socket].map((word) => word.replaceAll('+', '%2B'))
  return `ssh-ng://localhost?${parameters}remote-program=${words.join('%20')}`
}

// The NixOS module's link to the package (nix/nixos.nix), by which nix.conf names connect.
const NIXOS_LINK = '/run/nix-lan-current/bin/nix-lan-connect'

/**
 * Finds nix-lan-connect next to the running program. The name we were called by comes first, so a
 * link in a stable place (/usr/local/bin) gives the URL that nix.conf has; then the file behind the
 * link. On NixOS the URL uses a link of its own.
 */
function connectProgram(): string {
  // Bun resolves links in argv; the shell head passes on how we were called.
  const self = process.env.NIX_LAN_CALLED_AS ?? process.argv[1] ?? ''
  const places = [dirname(self), dirname(realpathSync(self)), join(dirname(realpathSync(self)), '../dist')]
  for (const place of places) {
    const program = join(place, 'nix-lan-connect')
    if (!existsSync(program)) continue
    return existsSync(NIXOS_LINK) && realpathSync(NIXOS_LINK) === realpathSync(program) ? NIXOS_LINK : program
  }
  throw new Failure(`nix-lan-connect should lie beside ${self}, and doesn't; put all files of dist/ into one directory`)
}
