// Gives up root's rights: root's nix-daemon starts connect, which dials a socket in a user's
// folder.
import { lstatSync } from 'node:fs'
import { dirname } from 'node:path'
import { noTunnel } from '../cli/errors.ts'
import { BoxUnavailable } from '../protocol/box.ts'
import { type HeldSocket, holdSocket } from '../protocol/owned-socket.ts'

/**
 * Nothing here needs root: becomes the owner of the socket's directory, so a socket or link that a
 * user planted can do no more than that user. If that is root, nothing changes.
 * @param beforehand what still has to be done as root, if there is a socket
 * @returns what to connect to; release it afterwards
 * @throws BoxUnavailable
 */
export function becomeOwner(socket: string, beforehand: (owner: { uid: number; gid: number }) => void): HeldSocket {
  const plain: HeldSocket = { path: socket, release: () => {} }
  if (process.geteuid?.() !== 0) return plain
  const owner = lstatSync(dirname(socket), { throwIfNoEntry: false })
  // Don't look for the socket as root: the directory may be appearing right now, with a link in it.
  if (!owner) throw new BoxUnavailable('missing', noTunnel(socket))
  if (owner.uid === 0) return plain
  if (lstatSync(socket, { throwIfNoEntry: false })) beforehand(owner)
  try {
    process.setgroups?.([owner.gid])
    process.setgid?.(owner.gid)
    process.setuid?.(owner.uid)
    return plain
  } catch {
    return holdSocket(socket, owner.uid) // root for good, see there
  }
}
