// Connects to the tunnel's socket and does the handshake with the nix-daemon behind it, within a
// deadline. Loaded only when there is a socket: `net` costs each start of connect 2 ms or more.
import { createConnection, type Socket } from 'node:net'
import { noTunnel } from '../cli/errors.ts'
import { inSeconds } from '../cli/text.ts'
import { storeDir } from '../nix/store-path.ts'
import { type Box, BoxUnavailable } from './box.ts'
import { ByteReader, EndOfStream } from './byte-reader.ts'
import {
  MAGIC_CLIENT,
  MAGIC_SERVER,
  OLDEST_BOX,
  OUR_VERSION,
  QUERY_PATH_INFO,
  Recorder,
  readMessages,
  string,
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
 * @param received see Guard.start()
 * @throws BoxUnavailable, always by the deadline; so do Box.handshake and send()
 */
export async function dialBox(path: string, deadline: number, way = path, received?: () => number): Promise<Box> {
  const { socket, reader } = openSocket(path, way)
  const guard = new Guard(path, socket, reader)
  guard.start(deadline, received)
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

/**
 * Milliseconds for which a box that is busy with us may keep a handshake waiting. ssh lets two
 * mebibytes of each channel be on their way (channels.h, CHAN_TCP_WINDOW_DEFAULT), so on a slow link
 * each round trip takes as long as they do: at 4 Mbit/s a handshake took 9.7 s during a fetch.
 */
const BUSY = 30_000
/** A box that sends fewer bytes than this within a deadline isn't busy. */
const MUCH = 16_384

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

  /**
   * @param deadline milliseconds from now; what lies in the socket by then is still read: on a busy
   *   machine it may be us who are late (a runtime runs timers before it reads)
   * @param received how many bytes have come from the box on other connections; while they are many,
   *   the deadline begins anew: it isn't the box that is late, but the link that is full
   * @param end when it no longer begins anew, by performance.now()
   */
  start(deadline: number, received = () => 0, end = performance.now() + BUSY): void {
    const before = received()
    const timer = setTimeout(() => {
      setImmediate(() => {
        if (this.timer !== timer) return
        if (received() - before >= MUCH && performance.now() < end) return this.start(deadline, received, end)
        const late = `${this.path} accepts connections, but no nix-daemon answered within ${deadline / 1000} s`
        this.reader.finish(new BoxUnavailable('unresponsive', late))
      })
    }, deadline)
    this.timer = timer
  }

  stop(): void {
    clearTimeout(this.timer)
    this.timer = undefined
  }

  /** @throws BoxUnavailable when the step fails; the connection is closed then */
  async watch<T>(step: Promise<T>): Promise<T> {
    try {
      return await step
    } catch (error) {
      this.stop()
      this.socket.destroy()
      throw error instanceof BoxUnavailable ? error : new BoxUnavailable('broken', notDaemon(this.path, error as Error))
    }
  }
}

/** A path that no store has. */
const NOBODYS = `${storeDir}/00000000000000000000000000000000-nix-lan-asks`

/**
 * Whether a nix-daemon answers a question at a socket, and which: its protocol, its version of Nix.
 * To shake hands isn't enough: one whose disk sleeps answers late, and one whose /nix is read-only
 * connects to itself without end and never answers (2.8.0).
 * @param deadline milliseconds for the handshake
 * @param limit milliseconds for the answer, too
 * @param way another path to the same socket, to connect to
 * @throws BoxUnavailable, always by the limit; `slow`: there was a handshake, but no answer
 */
export async function greetBox(path: string, deadline: number, limit = deadline, way = path): Promise<{ version: number; nix: string }> {
  const end = performance.now() + limit
  const box = await dialBox(path, deadline, way)
  let timer: NodeJS.Timeout | undefined
  try {
    // Before the end of the handshake: it saves a round trip, and acknowledges the daemon's hello
    // (see send()).
    box.socket.write(Buffer.concat([u64(QUERY_PATH_INFO), string(NOBODYS)]))
    await box.handshake
    const slow = new BoxUnavailable('slow', `its nix-daemon shakes hands, but has answered nothing within ${inSeconds(limit)}: ${SLOW}`)
    timer = setTimeout(() => setImmediate(() => box.reader.finish(slow)), Math.max(1, end - performance.now())) // see Guard
    const answer = new Recorder(box.reader)
    const ending = await readMessages(answer)
    if (!ending.error) await answer.u64()
    else if (!ending.message.includes('is not valid'))
      throw new BoxUnavailable('broken', `the box's nix-daemon shakes hands, but says to a question: ${ending.message}`)
    return { version: box.version, nix: box.nix }
  } catch (error) {
    if (error instanceof BoxUnavailable) throw error
    throw new BoxUnavailable('broken', `the box's nix-daemon shakes hands, and hangs up at a question; ${JOURNAL}`)
  } finally {
    clearTimeout(timer)
    box.socket.destroy()
  }
}

const JOURNAL = 'on the box, journalctl -u nix-daemon says why'
const SLOW = "the box's disk may be waking up, or its /nix is read-only"

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
      if (chunk.length === 0) return !reader.full
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

/** ssh accepts whether or not there is a daemon, and closes what it can't pass on. */
const hungUp = (path: string): string => `${path} accepted the connection and closed it: no nix-daemon is there, or it hung up; ${JOURNAL}`

/** Why a handshake failed. */
const notDaemon = (path: string, error: Error): string =>
  error instanceof EndOfStream ? hungUp(path) : `${path} is not the socket of a nix-daemon: ${error.message}`

function socketError(error: NodeJS.ErrnoException, path: string): BoxUnavailable {
  if (error.code === 'ENOENT') return new BoxUnavailable('missing', noTunnel(path))
  if (error.code === 'EACCES') return new BoxUnavailable('missing', `${path} is another user's, and only they can see and use it`)
  if (error.code === 'ECONNREFUSED') return new BoxUnavailable('refused', `nobody listens on ${path}: the tunnel has ended`)
  if (error.code === 'ECONNRESET' || error.code === 'EPIPE') return new BoxUnavailable('broken', hungUp(path))
  return new BoxUnavailable('broken', `${path}: ${error.message}`)
}
