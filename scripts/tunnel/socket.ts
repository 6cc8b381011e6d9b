// The place of a tunnel's socket: a directory that is the user's alone, in which nobody listens
// yet.
import { chmodSync, lstatSync, mkdirSync, unlinkSync } from 'node:fs'
import { dirname } from 'node:path'
import { Failure, UsageError } from '../cli/errors.ts'
import { accepts, listens } from '../reach/listening.ts'
import { socketPath } from '../system/paths.ts'

/** Bytes that a socket's path may have (unix(7): sun_path is 108, with a NUL). */
const LONGEST = 107
/**
 * Bytes that ssh puts behind a control socket's path while it makes it (OpenSSH 9.2, mux.c,
 * muxserver_listen).
 */
const CONTROL_SUFFIX = 17

/**
 * The path of the tunnel's socket.
 * @throws UsageError for one that ssh -L or Nix would take apart, or the kernel refuse
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
 * Where the ssh of a tunnel takes requests, beside the tunnel's socket; undefined where that path
 * would be too long.
 */
export function controlSocket(socket: string): string | undefined {
  const control = socket.replace(/\.sock$/, '.ctl')
  return Buffer.byteLength(control) + CONTROL_SUFFIX > LONGEST ? undefined : control
}

/**
 * Makes the directory, and removes sockets that nobody listens on any more; a live one is left
 * alone.
 * @throws Failure when a tunnel runs already, or the directory can't be trusted or made
 */
export async function makeRoom(socket: string, cache: string): Promise<void> {
  makeDirectory(dirname(socket))
  if (await alive(socket)) throw new Failure(`a tunnel for ${cache} runs already: somebody listens on ${socket}`)
  unlink(socket)
  // One that a killed ssh left behind looks like one that takes requests.
  const control = controlSocket(socket)
  if (control !== undefined && !(await alive(control))) unlink(control)
}

/**
 * Whether somebody listens there, for certain: /proc/net/unix also has the sockets of other file
 * systems with the same path (containers that share our network namespace), and what they are taken
 * for would keep a killed tunnel from ever coming back.
 */
const alive = async (socket: string): Promise<boolean> => (await listens(socket)) && (await accepts(socket))

function unlink(file: string): void {
  const stat = lstatSync(file, { throwIfNoEntry: false })
  if (stat?.isDirectory()) throw new Failure(`${file} is a directory; remove it`)
  if (stat) unlinkSync(file)
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
  if ((stat.mode & 0o777) !== 0o700) chmodSync(directory, 0o700)
}
