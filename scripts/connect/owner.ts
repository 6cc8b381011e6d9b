// Giving up root's rights: connect is started by root's nix-daemon, and what it connects to lies in
// a folder of a user's.
import { lstatSync } from 'node:fs'
import { dirname } from 'node:path'
import { noTunnel } from '../cli/errors.ts'
import { BoxUnavailable } from '../protocol/box.ts'
import { type HeldSocket, holdSocket } from '../protocol/owned-socket.ts'

/**
 * Root is needed for nothing here: become whoever owns the socket's directory, so that a socket or
 * link which a user planted can do no more than that user. Where nobody but root owns it we stay
 * who we are.
 * @param beforehand what still has to be done as root, when there is a socket
 * @returns what to connect to, to be released then
 * @throws BoxUnavailable
 */
export function becomeOwner(socket: string, beforehand: () => void): HeldSocket {
  const plain: HeldSocket = { path: socket, release: () => {} }
  if (process.geteuid?.() !== 0) return plain
  const owner = lstatSync(dirname(socket), { throwIfNoEntry: false })
  // Not to be looked for as root: it may be made, with a link in it, in this very moment.
  if (!owner) throw new BoxUnavailable('missing', noTunnel(socket))
  if (owner.uid === 0) return plain
  if (lstatSync(socket, { throwIfNoEntry: false })) beforehand()
  try {
    process.setgroups?.([owner.gid])
    process.setgid?.(owner.gid)
    process.setuid?.(owner.uid)
    return plain
  } catch {
    return holdSocket(socket, owner.uid) // as root for good, see there
  }
}
