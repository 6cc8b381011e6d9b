// A box at the other end of a link with a delay: a server in this process that knows some paths and
// their NARs, and counts what it is asked.
import { createHash } from 'node:crypto'
import { lstatSync, writeFileSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { ByteReader, EndOfStream } from '../../scripts/protocol/byte-reader.ts'
import { errorAnswer, MAGIC_SERVER, Recorder, STDERR_LAST, string, strings, u64 } from '../../scripts/protocol/wire.ts'
import { SIGNATURE } from './wire.ts'

const LAST = u64(STDERR_LAST)
/** Milliseconds between two pieces of a list that comes slowly. */
const PIECE = 20

/** What the box has under a path. */
export interface Kept {
  nar: Buffer
  references?: readonly string[]
  /** Default: one. */
  signatures?: readonly string[]
  /** What the box says of the NAR's size and SHA-256 (base 16); default: the truth. */
  size?: number
  hash?: string
}

export interface Asked {
  /** Which connection, from 0 on. */
  connection: number
  operation: number
  path: string
  /** Milliseconds, of performance.now(). */
  at: number
}

export class DistantBox {
  readonly paths = new Map<string, Kept>()
  readonly asked: Asked[] = []
  connections = 0
  /** Answers in another way: undefined: as usual; null: hangs up. */
  instead: (operation: number, path: string, connection: number) => Buffer | null | undefined = () => undefined
  /** Bytes per millisecond at which that list comes; default: all at once. */
  pace = Number.POSITIVE_INFINITY
  /** Says hello in one piece, as it comes through ssh on a link with a delay. */
  inOnePiece = false
  /** The list of all paths; default: in order. */
  list: () => Iterable<string> = () => [...this.paths.keys()].sort()
  /** Of each direction, in milliseconds. */
  delay: number
  private readonly server: Server
  private readonly sockets = new Set<Socket>()

  /** @param delay of each direction, in milliseconds */
  constructor(delay: number) {
    this.delay = delay
    this.server = createServer((socket) => {
      this.sockets.add(socket)
      this.serve(socket, this.connections++).catch(() => socket.destroy())
    })
  }

  listen(path: string): Promise<void> {
    return new Promise((resolve) => this.server.listen(path, resolve))
  }

  /**
   * The link to it is known to be fast: notes so, as an earlier start would have. What a start
   * measures on a busy machine may be anything.
   */
  knownAsFast(path: string): void {
    writeFileSync(`${path}.link`, JSON.stringify({ listBytes: 10_000, rate: 0, at: Date.now(), ino: lstatSync(path).ino }))
  }

  /** Cuts every connection, and takes no more. */
  close(): void {
    for (const socket of this.sockets) socket.destroy()
    this.server.close()
  }

  /** How many connections are open. */
  get open(): number {
    return this.sockets.size
  }

  /** Closes every connection; new ones are taken. */
  hangUp(): void {
    for (const socket of this.sockets) socket.end()
  }

  /** The paths that an operation was asked for. */
  askedFor(operation: number): string[] {
    return this.asked.filter((asked) => asked.operation === operation).map(({ path }) => path)
  }

  private async serve(socket: Socket, connection: number): Promise<void> {
    const reader = new ByteReader({ resume: () => {} })
    socket.on('error', () => {})
    const there = new Delay(() => this.delay)
    const back = new Delay(() => this.delay)
    socket.on('data', (bytes) => there.hold(() => reader.push(bytes)))
    socket.on('close', () => {
      this.sockets.delete(socket)
      reader.finish(new EndOfStream('closed'))
    })
    const write = (bytes: Buffer): void => back.hold(() => socket.write(bytes))
    const client = new Recorder(reader)
    const greeting = [u64(MAGIC_SERVER), u64(0x0123)]
    const welcome = [string('2.15.0'), u64(2), LAST]
    if (!this.inOnePiece) write(Buffer.concat(greeting))
    for (let words = 0; words < 4; words++) await client.u64()
    write(Buffer.concat(this.inOnePiece ? [...greeting, ...welcome] : welcome))
    for (;;) {
      const from = new Recorder(reader)
      const operation = await from.u64()
      const path = operation === 23 ? '' : await from.string()
      this.asked.push({ connection, operation, path, at: performance.now() })
      const answer = this.instead(operation, path, connection)
      if (answer === null) return void socket.destroy()
      if (operation === 23) this.drip(socket, answer ?? this.answer(operation, path))
      else write(answer ?? this.answer(operation, path))
    }
  }

  /** Writes at the pace of the list. */
  private drip(socket: Socket, bytes: Buffer): void {
    const size = Math.ceil(Math.min(bytes.length, PIECE * this.pace))
    for (let at = 0; at < bytes.length; at += size)
      setTimeout(() => socket.destroyed || socket.write(bytes.subarray(at, at + size)), this.delay + at / this.pace).unref()
  }

  private answer(operation: number, path: string): Buffer {
    const kept = this.paths.get(path)
    if (operation === 23) return Buffer.concat([LAST, strings([...this.list()])])
    if (operation === 1) return Buffer.concat([LAST, u64(kept ? 1 : 0)])
    if (operation === 26) return Buffer.concat([LAST, ...(kept ? [u64(1), infoOf(kept)] : [u64(0)])])
    if (operation === 41) return errorAnswer(`path '${path}' does not exist`)
    if (operation === 38 && kept) return Buffer.concat([LAST, kept.nar])
    throw new Error(`operation ${operation}`)
  }
}

/**
 * Holds one direction of a link back, in order. setTimeout() alone counts from the time at which the
 * event loop woke up: on a busy machine that is long ago, and there would be no delay at all.
 */
class Delay {
  private readonly ms: () => number
  private readonly held: { due: number; act: () => void }[] = []

  constructor(ms: () => number) {
    this.ms = ms
  }

  hold(act: () => void): void {
    this.held.push({ due: performance.now() + this.ms(), act })
    if (this.held.length === 1) this.wait()
  }

  private wait(): void {
    const [next] = this.held
    if (next) setTimeout(() => this.pass(), Math.max(1, Math.ceil(next.due - performance.now())))
  }

  private pass(): void {
    while (this.held[0] && this.held[0].due <= performance.now()) this.held.shift()?.act()
    this.wait()
  }
}

/** What follows "I have it" in the answer to QueryPathInfo. */
export function infoOf({ nar, references = [], signatures = [SIGNATURE], size = nar.length, hash }: Kept): Buffer {
  const sha256 = hash ?? createHash('sha256').update(nar).digest('hex')
  const before = [string(''), string(sha256), strings([...references])]
  return Buffer.concat([...before, u64(1), u64(size), u64(0), strings([...signatures]), string('')])
}
