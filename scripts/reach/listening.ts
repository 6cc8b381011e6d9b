// Tells whether anybody listens on a socket's file, without connecting if possible: a mere probe
// would open a channel to the box and leave an error in its nix-daemon's journal.
import { lstatSync, readFileSync } from 'node:fs'

/**
 * Whether anybody listens there: for a tunnel's socket, whether its ssh is alive. A file that ssh
 * left behind is not enough.
 */
export async function listens(socket: string): Promise<boolean> {
  if (!lstatSync(socket, { throwIfNoEntry: false })?.isSocket()) return false
  return listedIn(unixSockets(), socket) || (await accepts(socket))
}

/**
 * Whether the text of /proc/net/unix lists a listener at this path: flag 00010000 (__SO_ACCEPTCON),
 * path last (proc_pid_net(5)).
 */
export function listedIn(text: string, path: string): boolean {
  return text.split('\n').some((line) => line.endsWith(` ${path}`) && line.split(/ +/)[3] === '00010000')
}

/** Lists only the sockets of our own network namespace. */
function unixSockets(): string {
  try {
    return readFileSync('/proc/net/unix', 'utf8')
  } catch {
    return '' // no /proc, or a kernel that hides it
  }
}

/**
 * What connect(2) fails with when the listener's queue is full, or in Bun when the listener closed
 * the connection at once.
 */
const ALIVE = ['EAGAIN', 'ECONNRESET', 'EPIPE']

/** Whether a connection is accepted. */
export async function accepts(socket: string): Promise<boolean> {
  const { createConnection } = await import('node:net')
  return new Promise((resolve) => {
    const connection = createConnection(socket)
    connection.on('connect', () => resolve(true)).on('error', (error: NodeJS.ErrnoException) => resolve(ALIVE.includes(error.code ?? '')))
    connection.on('connect', () => connection.destroy())
  })
}
