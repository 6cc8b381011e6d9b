// Prepares the place for a tunnel's socket: a directory only the user can use, where nobody listens
// yet. Never removes a socket that is in use.
import { chmodSync, lstatSync, mkdirSync, unlinkSync } from 'node:fs'
import { dirname } from 'node:path'
import { Failure, UsageError } from '../cli/errors.ts'
import { accepts, listens } from '../reach/listening.ts'
import { socketPath } from '../system/paths.ts'

/** The most bytes a socket's path may have (unix(7): sun_path is 108, including a NUL). */
const LONGEST = 107
/**
 * Bytes ssh appends to a control socket's path while creating it (OpenSSH 9.2, mux.c,
 * muxserver_listen).
 */
const CONTROL_SUFFIX = 17

/**
 * The path of the tunnel's socket.
 * @throws UsageError if ssh -L or Nix would split the path, or the kernel would refuse it
 */
export function tunnelSocket(uid: number, cache: string): string {
  const socket = socketPath(uid, cache)
  if (!/^\/[A-Za-z0-9_./+-]+$/.test(socket))
    throw new UsageError(`${socket}: XDG_RUNTIME_DIR may only have letters, digits and . _ + - in it`)
  if (Buffer.byteLength(socket) > LONGEST)
    throw new UsageError(`${socket}: too long for a socket (${LONGEST} bytes, unix(7)); XDG_RUNTIME_DIR must be shorter`)
  return socket
}

/**
 * The socket on which a tunnel's ssh takes requests, next to the tunnel's own; undefined if its
 * path would be too long.
 */
export function controlSocket(socket: string): string | undefined {
  const control = socket.replace(/\.sock$/, '.ctl')
  return Buffer.byteLength(control) + CONTROL_SUFFIX > LONGEST ? undefined : control
}

/**
 * Creates the directory and removes sockets nobody listens on any more; leaves a live one alone.
 * @throws Failure if a tunnel is already running, or the directory can't be trusted or created
 */
export async function makeRoom(socket: string, cache: string): Promise<void> {
  makeDirectory(dirname(socket))
  if (await alive(socket)) throw new Failure(`a tunnel for ${cache} runs already: somebody listens on ${socket}`)
  unlink(socket)
  // A control socket left behind by a killed ssh looks like a working one.
  const control = controlSocket(socket)
  if (control !== undefined && !(await alive(control))) unlink(control)
}

/**
 * Whether somebody really listens there. /proc/net/unix also lists sockets with the same path on
 * other file systems (containers that share our network namespace); mistaking one of those for ours
 * would keep a killed tunnel from ever coming back.
 */
const alive = async (socket: string): Promise<boolean> => (await listens(socket)) && (await accepts(socket))

function unlink(file: string): void {
  const stat = lstatSync(file, { throwIfNoEntry: false })
  if (stat?.isDirectory()) throw new Failure(`${file} is a directory; remove it`)
  try {
    if (stat) unlinkSync(file)
  } catch (error) {
    throw new Failure(`${file} is left over, and can't be removed (${(error as NodeJS.ErrnoException).code})`)
  }
}

function makeDirectory(directory: string): void {
  try {
    mkdirSync(directory, { mode: 0o700 })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') {
      throw new Failure(`${dirname(directory)} does not exist: a login makes it, or without a login: sudo loginctl enable-linger $USER`)
    }
    if (code !== 'EEXIST') throw new Failure(`${directory} can't be made (${code})`)
  }
  const stat = lstatSync(directory)
  if (!stat.isDirectory()) throw new Failure(`${directory} is not a directory, so sockets in it can't be trusted; remove it`)
  if (stat.uid !== process.getuid?.()) throw new Failure(`${directory} belongs to somebody else (uid ${stat.uid}); remove it`)
  try {
    if ((stat.mode & 0o777) !== 0o700) chmodSync(directory, 0o700)
  } catch (error) {
    throw new Failure(`${directory} is open to others, and can't be closed (${(error as NodeJS.ErrnoException).code})`)
  }
}
