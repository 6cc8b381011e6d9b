// The way to the box: connects to the tunnel's socket and shakes hands with the nix-daemon behind
// it, within a deadline. Loaded only when there is a socket: `net` costs a start of connect 2 ms
// and more.
import { createConnection, type Socket } from 'node:net'
import { noTunnel } from '../cli/errors.ts'
import { type Box, BoxUnavailable, send } from './box.ts'
import { ByteReader, EndOfStream } from './byte-reader.ts'
import {
  MAGIC_CLIENT,
  MAGIC_SERVER,
  OLDEST_BOX,
  OUR_VERSION,
  Recorder,
  readMessages,
  u64,
  VERSION_WITH_NIX_VERSION,
  VERSION_WITH_TRUST,
} from './wire.ts'

/**
 * Connects to a nix-daemon's socket. Comes back when the daemon has said its name and version; what
 * else it says before it takes questions comes while send() sends the first of them. Whoever has
 * none uses greetBox().
 * @param path the tunnel's socket
 * @param deadline milliseconds for everything, the rest of the handshake too
 * @param way another path to the same socket, to connect to
 * @throws BoxUnavailable, always by the deadline; so does Box.handshake, and send()
 */
export async function dialBox(path: string, deadline: number, way = path): Promise<Box> {
  const { socket, reader } = openSocket(path, way)
  const timer = setTimeout(() => {
    reader.finish(new BoxUnavailable('unresponsive', `${path} accepts connections, but no nix-daemon answered within ${deadline / 1000} s`))
  }, deadline)
  const guarded = async <T>(step: Promise<T>): Promise<T> => {
    try {
      return await step
    } catch (error) {
      clearTimeout(timer)
      socket.destroy()
      throw error instanceof BoxUnavailable
        ? error
        : new BoxUnavailable('broken', `${path} is not the socket of a nix-daemon: ${(error as Error).message}`)
    }
  }
  const greeting = new Recorder(reader)
  const box: Box = { version: await guarded(hear(socket, greeting, path)), nix: '', socket, reader, handshake: null }
  box.handshake = guarded(welcome(box, greeting)).then(() => {
    clearTimeout(timer)
    box.handshake = null
  })
  box.handshake.catch(() => {}) // whoever asks hears of it; until then it must not count as unhandled
  return box
}

/**
 * Whether a nix-daemon answers at a socket, and which: its protocol, its version of Nix. The
 * handshake is gone through to its end, since one that is broken off leaves an error in the box's
 * journal each time.
 * @param deadline milliseconds
 * @param way another path to the same socket, to connect to
 * @throws BoxUnavailable, always by the deadline
 */
export async function greetBox(path: string, deadline: number, way = path): Promise<{ version: number; nix: string }> {
  const box = await dialBox(path, deadline, way)
  // The first byte of an operation that never comes: a nix-daemon whose client ends before its
  // number is complete ends without a word (2.8.0, 2.34.8, daemon.cc, processConnection).
  await send(box, Buffer.of(0))
  box.socket.destroy()
  return { version: box.version, nix: box.nix }
}

/** Says our hello and hears the daemon's. @returns the protocol that both speak */
async function hear(socket: Socket, greeting: Recorder, path: string): Promise<number> {
  // All that we have to say at once, which saves a journey: our version, no CPU affinity (1.14), no
  // reserved space (1.11).
  socket.write(Buffer.concat([u64(MAGIC_CLIENT), u64(OUR_VERSION), u64(0), u64(0)]))
  if ((await greeting.u64()) !== MAGIC_SERVER) throw new BoxUnavailable('broken', `${path} answers, but not as a nix-daemon does`)
  const version = Math.min(await greeting.u64(), OUR_VERSION)
  if (version >= OLDEST_BOX) return version
  const spoken = `${version >> 8}.${version & 255}`
  throw new BoxUnavailable('old', `the Nix on the box is too old: it speaks protocol ${spoken}; 1.32 (Nix 2.4) is the oldest that will do`)
}

/** Hears what else the daemon says before it takes questions. */
async function welcome(box: Box, greeting: Recorder): Promise<void> {
  if (box.version >= VERSION_WITH_NIX_VERSION) box.nix = await greeting.string()
  if (box.version >= VERSION_WITH_TRUST) await greeting.u64()
  const ending = await readMessages(greeting)
  if (ending.error) throw new BoxUnavailable('broken', `the nix-daemon on the box refuses: ${ending.message}`)
}

/**
 * Shorter messages are copied out of the buffer, which is cheaper than to stop reading until they
 * are read.
 */
const SHORT = 4096

/**
 * A socket that reads into one buffer, over and over: 50 MB of memory in a transfer instead of 84
 * (Node 20).
 */
function openSocket(path: string, way: string): { socket: Socket; reader: ByteReader } {
  const onread = {
    buffer: Buffer.allocUnsafe(65536),
    callback: (length: number, buffer: Uint8Array): boolean => {
      const chunk = reader.offer(Buffer.from(buffer.buffer, buffer.byteOffset, length))
      if (chunk.length === 0) return true
      if (chunk.length <= SHORT) return reader.push(Buffer.from(chunk))
      reader.lend(chunk)
      return false
    },
  }
  const socket = createConnection({ path: way, onread, allowHalfOpen: true })
  const reader = new ByteReader({ resume: () => socket.resume() })
  socket.on('error', (error: NodeJS.ErrnoException) => reader.finish(socketError(error, path)))
  // The box closed its end. (`end` comes only when all that it sent has been read.)
  socket.on('end', () => reader.finish(new EndOfStream('the box closed the connection')))
  socket.on('close', () => reader.finish(new EndOfStream('the connection to the box is gone')))
  return { socket, reader }
}

function socketError(error: NodeJS.ErrnoException, path: string): BoxUnavailable {
  if (error.code === 'ENOENT') return new BoxUnavailable('missing', noTunnel(path))
  if (error.code === 'ECONNREFUSED') return new BoxUnavailable('refused', `nobody listens on ${path}: the tunnel has ended`)
  if (error.code === 'ECONNRESET' || error.code === 'EPIPE')
    return new BoxUnavailable('broken', `${path} was closed: the box's nix-daemon is not there`)
  return new BoxUnavailable('broken', `${path}: ${error.message}`)
}
