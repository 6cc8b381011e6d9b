// Giving up root's rights: connect is started by root's nix-daemon, and what it connects to lies in a folder of a user's.
import { closeSync, constants, fstatSync, lstatSync, openSync } from 'node:fs'
import { dirname } from 'node:path'
import { noTunnel } from '../cli/errors.ts'
import { BoxUnavailable } from '../protocol/box.ts'

/** open(2): only the file itself, not to be read; node:fs has no name for it. */
const O_PATH = 0o10000000

/**
 * Root is needed for nothing here: become whoever owns the socket's directory, so that a socket or link which a user planted can
 * do no more than that user. Where nobody but root owns it we stay who we are.
 * @param beforehand what still has to be done as root, when there is a socket
 * @returns what to connect to
 * @throws BoxUnavailable
 */
export function becomeOwner(socket: string, beforehand: () => void): string {
  if (process.geteuid?.() !== 0) return socket
  const owner = lstatSync(dirname(socket), { throwIfNoEntry: false })
  // Not to be looked for as root: it may be made, with a link in it, in this very moment.
  if (!owner) throw new BoxUnavailable('missing', noTunnel(socket))
  if (owner.uid === 0) return socket
  if (lstatSync(socket, { throwIfNoEntry: false })) beforehand()
  try {
    process.setgroups?.([owner.gid])
    process.setgid?.(owner.gid)
    process.setuid?.(owner.uid)
    return socket
  } catch {
    return ownedBy(owner.uid, socket)
  }
}

/**
 * As root for good: Node 20 with a libuv of the system's (Debian 13) doesn't change users, because of CVE-2024-22017. So hold on to the socket itself,
 * see that it is that user's, and connect to just this one, wherever links lead by then.
 * @throws BoxUnavailable
 */
function ownedBy(uid: number, socket: string): string {
  if (!lstatSync(socket, { throwIfNoEntry: false })) throw new BoxUnavailable('missing', noTunnel(socket))
  const held = openSync(socket, O_PATH | constants.O_NOFOLLOW)
  const stat = fstatSync(held)
  if (stat.isSocket() && stat.uid === uid) return `/proc/self/fd/${held}`
  closeSync(held)
  throw new BoxUnavailable('broken', `${socket} is not a socket of the user's whose directory it is in`)
}
