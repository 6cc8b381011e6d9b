// Lets root connect to a socket in a user's directory: to that user's own socket and nothing else.
import { closeSync, constants, fstatSync, lstatSync, openSync } from 'node:fs'
import { noTunnel } from '../cli/errors.ts'
import { BoxUnavailable } from './box.ts'

/** open(2): only a handle on the file, not for reading; node:fs has no name for it. */
const O_PATH = 0o10000000

/** A socket that stays the same, wherever links may lead by the time we connect. */
export interface HeldSocket {
  /** The path to connect to. */
  path: string
  /** Lets go of it, once connected. */
  release(): void
}

/**
 * Holds on to a socket that must be this user's; refuses a link, or somebody else's socket that the
 * user put there. Works without switching user ids, which Node 20 with a system libuv (Debian 13)
 * can't do since CVE-2024-22017.
 * @throws BoxUnavailable
 */
export function holdSocket(socket: string, uid: number): HeldSocket {
  if (!lstatSync(socket, { throwIfNoEntry: false })) throw new BoxUnavailable('missing', noTunnel(socket))
  const held = open(socket)
  const stat = held === undefined ? undefined : fstatSync(held)
  if (held !== undefined && stat?.isSocket() && stat.uid === uid) return { path: `/proc/self/fd/${held}`, release: () => closeSync(held) }
  if (held !== undefined) closeSync(held)
  throw new BoxUnavailable('broken', `${socket} is not a socket of the user's whose directory it is in`)
}

function open(socket: string): number | undefined {
  try {
    return openSync(socket, O_PATH | constants.O_NOFOLLOW)
  } catch {
    return undefined
  }
}
