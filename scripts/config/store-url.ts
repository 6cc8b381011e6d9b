// The store URL that Nix knows a cache by.
import { existsSync, realpathSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { Failure } from '../cli/errors.ts'
import { socketPath } from '../system/paths.ts'
import type { Cache } from './types.ts'

/**
 * The URL of a cache as nix.conf, NIX_CONFIG and `nix copy --to` take it.
 * @param uid whose tunnel is meant
 * @param socket another than the tunnel's
 * @param strict for uploads: connect exits 75 when the box is away, instead of posing as an empty
 *   store
 * @throws Failure when nix-lan-connect is missing, or lies where Nix can't start it
 */
export function storeUrl(cache: Cache, uid: number, { strict = false, socket = socketPath(uid, cache.name) } = {}): string {
  return cache.kind === 'url' ? cache.url : connectUrl(connectProgram(), socket, strict)
}

/**
 * The store URL by which Nix runs a program on this machine. For the host name localhost Nix starts
 * no ssh but the program itself (src/libstore/ssh.cc, 2.4–2.35): through `bash -c` up to 2.19,
 * split at spaces from 2.20. So the paths may hold no character that bash, the split or a URL would
 * interpret.
 */
export function connectUrl(program: string, socket: string, strict: boolean): string {
  for (const path of [program, socket]) {
    if (!/^\/[A-Za-z0-9_./+-]+$/.test(path))
      throw new Failure(`${path}: Nix can't be given a path with such characters; keep to letters, digits and . _ + -`)
  }
  // In a URL's query a plus sign may be read as a space.
  const word = (text: string): string => text.replaceAll('+', '%2B')
  return `ssh-ng://localhost?remote-program=${word(program)}%20${strict ? '--strict%20' : ''}${word(socket)}`
}

// The NixOS module's link to the package (nix/nixos.nix): nix.conf names connect by it.
const NIXOS_LINK = '/run/nix-lan-current/bin/nix-lan-connect'

/**
 * Finds nix-lan-connect beside the program that runs. The name it was called by comes first, so
 * that a link in a stable place (/usr/local/bin) gives the URL that nix.conf has; then the file
 * behind the link. On NixOS the URL has a link of its own.
 */
function connectProgram(): string {
  // Bun resolves links in argv; the head says how it was called.
  const self = process.env.NIX_LAN_CALLED_AS ?? process.argv[1] ?? ''
  const places = [dirname(self), dirname(realpathSync(self)), join(dirname(realpathSync(self)), '../dist')]
  for (const place of places) {
    const program = join(place, 'nix-lan-connect')
    if (!existsSync(program)) continue
    return existsSync(NIXOS_LINK) && realpathSync(NIXOS_LINK) === realpathSync(program) ? NIXOS_LINK : program
  }
  throw new Failure(`nix-lan-connect should lie beside ${self}, and doesn't; put all files of dist/ into one directory`)
}
