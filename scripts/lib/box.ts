// The way to the box: connects to the tunnel's socket and shakes hands with the nix-daemon behind it, within a deadline. Loaded only when there
// is a socket: `net` costs a start of connect 2 ms and more.
import { createConnection, type Socket } from 'node:net'
import { ByteReader, EndOfStream } from './bytes.ts'
import { noTunnel } from './errors.ts'
import {
  type Box,
  MAGIC_CLIENT,
  MAGIC_SERVER,
  NoBox,
  OLDEST_BOX,
  OUR_VERSION,
  Recorder,
  readMessages,
  u64,
  VERSION_WITH_NIX_VERSION,
  VERSION_WITH_TRUST,
} from './worker.ts'

/**
 * Connects to a nix-daemon's socket and goes through the whole handshake: one that is broken off leaves an error in the box's journal each time.
 * @param path the tunnel's socket
 * @param deadline milliseconds for everything
 * @param way another path to the same socket, to connect to
 * @throws NoBox, always by the deadline
 */
export async function dialBox(path: string, deadline: number, way = path): Promise<Box> {
  const { socket, reader } = openSocket(path, way)
  const timer = setTimeout(() => {
    reader.finish(new NoBox('mute', `${path} accepts connections, but no nix-daemon answered within ${deadline / 1000} s`))
  }, deadline)
  try {
    return await shakeHands(socket, reader, path)
  } catch (error) {
    socket.destroy()
    throw error instanceof NoBox ? error : new NoBox('broken', `${path} is not the socket of a nix-daemon: ${(error as Error).message}`)
  } finally {
    clearTimeout(timer)
  }
}

async function shakeHands(socket: Socket, reader: ByteReader, path: string): Promise<Box> {
  // All that we have to say at once: our version, no CPU affinity (1.14), no reserved space (1.11). Not only does that save a journey: a daemon that is told
  // piece by piece answers piece by piece, and sshd, which leaves Nagle's algorithm on for forwarded sockets, holds the last piece back for 40 ms.
  socket.write(Buffer.concat([u64(MAGIC_CLIENT), u64(OUR_VERSION), u64(0), u64(0)]))
  const greeting = new Recorder(reader)
  if ((await greeting.u64()) !== MAGIC_SERVER) throw new NoBox('broken', `${path} answers, but not as a nix-daemon does`)
  const version = Math.min(await greeting.u64(), OUR_VERSION)
  if (version < OLDEST_BOX) {
    const spoken = `${version >> 8}.${version & 255}`
    throw new NoBox('old', `the Nix on the box is too old: it speaks protocol ${spoken}; 1.32 (Nix 2.4) is the oldest that will do`)
  }
  const nix = version >= VERSION_WITH_NIX_VERSION ? await greeting.string() : ''
  if (version >= VERSION_WITH_TRUST) await greeting.u64()
  const ending = await readMessages(greeting)
  if (ending.error) throw new NoBox('broken', `the nix-daemon on the box refuses: ${ending.message}`)
  return { version, nix, socket, reader }
}

/** Shorter messages are copied out of the buffer, which is cheaper than to stop reading until they are read. */
const SHORT = 4096

/** A socket that reads into one buffer, over and over: 50 MB of memory in a transfer instead of 84 (Node 20). */
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

function socketError(error: NodeJS.ErrnoException, path: string): NoBox {
  if (error.code === 'ENOENT') return new NoBox('missing', noTunnel(path))
  if (error.code === 'ECONNREFUSED') return new NoBox('refused', `nobody listens on ${path}: the tunnel has ended`)
  if (error.code === 'ECONNRESET' || error.code === 'EPIPE')
    return new NoBox('broken', `${path} was closed: the box's nix-daemon is not there`)
  return new NoBox('broken', `${path}: ${error.message}`)
}
