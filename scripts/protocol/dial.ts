// Connects to the tunnel's socket and does the handshake with the nix-daemon behind it, within a
// deadline. Loaded only when there is a socket: `net` costs each start of connect 2 ms or more.
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
  strings,
  u64,
  VERSION_WITH_NIX_VERSION,
  VERSION_WITH_TRUST,
} from './wire.ts'

/**
 * Connects to a nix-daemon's socket. Returns once the daemon has said its name and version; send()
 * reads the rest of the handshake while it sends the first question. Without a question to send,
 * use greetBox().
 * @param path the tunnel's socket
 * @param deadline milliseconds for everything, the rest of the handshake included
 * @param way another path to the same socket, to connect to
 * @throws BoxUnavailable, always by the deadline; so do Box.handshake and send()
 */
export async function dialBox(path: string, deadline: number, way = path): Promise<Box> {
  const { socket, reader } = openSocket(path, way)
  const guard = new Guard(path, socket, reader)
  guard.start(deadline)
  const greeting = new Recorder(reader)
  // Everything we have to say at once, to save a round trip.
  socket.write(Buffer.concat([u64(MAGIC_CLIENT), hello(OUR_VERSION)]))
  const spoken = await guard.watch(hear(greeting, path))
  const box: Box = { version: Math.min(spoken, OUR_VERSION), nix: '', socket, reader, handshake: null }
  box.handshake = guard.watch(welcome(box, greeting)).then(() => {
    guard.stop()
    box.handshake = null
  })
  box.handshake.catch(() => {}) // whoever awaits it gets the error; until then it must not count as unhandled
  return box
}

/** Sees to it that a handshake ends: by a deadline, and with no other error than BoxUnavailable. */
export class Guard {
  private readonly path: string
  private readonly socket: Socket
  private readonly reader: ByteReader
  private timer: NodeJS.Timeout | undefined

  constructor(path: string, socket: Socket, reader: ByteReader) {
    this.path = path
    this.socket = socket
    this.reader = reader
  }

  /** @param deadline milliseconds from now */
  start(deadline: number): void {
    this.timer = setTimeout(() => {
      const late = `${this.path} accepts connections, but no nix-daemon answered within ${deadline / 1000} s`
      this.reader.finish(new BoxUnavailable('unresponsive', late))
    }, deadline)
  }

  stop(): void {
    clearTimeout(this.timer)
  }

  /** @throws BoxUnavailable when the step fails; the connection is closed then */
  async watch<T>(step: Promise<T>): Promise<T> {
    try {
      return await step
    } catch (error) {
      this.stop()
      this.socket.destroy()
      throw error instanceof BoxUnavailable
        ? error
        : new BoxUnavailable('broken', `${this.path} is not the socket of a nix-daemon: ${(error as Error).message}`)
    }
  }
}

/**
 * Whether a nix-daemon answers at a socket, and which: its protocol, its version of Nix. Completes
 * the handshake, since each one broken off leaves an error in the box's journal.
 * @param deadline milliseconds
 * @param way another path to the same socket, to connect to
 * @throws BoxUnavailable, always by the deadline
 */
export async function greetBox(path: string, deadline: number, way = path): Promise<{ version: number; nix: string }> {
  const box = await dialBox(path, deadline, way)
  // The first byte of an operation that never comes: a nix-daemon ends silently when its client
  // goes away before the operation's number is complete (2.8.0, 2.34.8, daemon.cc,
  // processConnection).
  await send(box, Buffer.of(0))
  box.socket.destroy()
  return { version: box.version, nix: box.nix }
}

/**
 * A client's hello, after the magic number: its version, its features (1.38), no CPU affinity
 * (1.14), no reserved space (1.11).
 */
export const hello = (version: number, features?: readonly string[]): Buffer =>
  Buffer.concat([u64(version), ...(features ? [strings(features)] : []), u64(0), u64(0)])

/**
 * Reads the daemon's hello.
 * @returns the protocol version that it speaks
 */
export async function hear(greeting: Recorder, path: string): Promise<number> {
  if ((await greeting.u64()) !== MAGIC_SERVER) throw new BoxUnavailable('broken', `${path} answers, but not as a nix-daemon does`)
  const version = await greeting.u64()
  if (version >= OLDEST_BOX) return version
  const spoken = `${version >> 8}.${version & 255}`
  throw new BoxUnavailable('old', `the Nix on the box is too old: it speaks protocol ${spoken}; 1.32 (Nix 2.4) is the oldest that will do`)
}

/** Reads what else the daemon says before it takes questions. */
export async function welcome(box: Box, greeting: Recorder): Promise<void> {
  if (box.version >= VERSION_WITH_NIX_VERSION) box.nix = await greeting.string()
  if (box.version >= VERSION_WITH_TRUST) await greeting.u64()
  const ending = await readMessages(greeting)
  if (ending.error) throw new BoxUnavailable('broken', `the nix-daemon on the box refuses: ${ending.message}`)
}

/** Messages up to this size are copied out of the buffer: cheaper than to pause the socket. */
const SHORT = 4096

/**
 * A socket that reads into the same buffer again and again: 50 MB of memory in a transfer instead
 * of 84 (Node 20).
 */
export function openSocket(path: string, way: string): { socket: Socket; reader: ByteReader } {
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
  // The box closed its end. (`end` comes only when everything it sent has been read.)
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
