// The worker protocol of the Nix daemon, as far as a substituter uses it: wire format, and a few operations.
// Nothing else of nix-lan knows a number of it. The handshakes are in box.ts (as a client) and session.ts (as a server).
//
// Sources: Nix 2.8.0 and 2.34.8, src/libstore/worker-protocol.hh (numbers), remote-store.cc and worker-protocol-connection.cc (the client),
// daemon.cc (the server), src/libutil/serialise.hh (integers are u64 little-endian; a string is its length, its bytes, zeros up to a multiple of 8).
import type { Socket } from 'node:net'
import type { PathInfo } from '../nix/nix.ts'
import { isStorePath } from '../queue/directories.ts'
import type { ByteReader } from './byte-reader.ts'

/** Sent by the client (worker-protocol.hh, WORKER_MAGIC_1: "nixc") and by the server (WORKER_MAGIC_2: "dxio"). */
export const MAGIC_CLIENT = 0x6e697863
export const MAGIC_SERVER = 0x6478696f

/**
 * What we speak, to Nix and to the box: 1.35 (Nix 2.15). Every Nix from 2.4 (1.32) to 2.35 and Lix from 2.94, which takes nothing less, agrees to
 * it. From 1.32 on the operations below are the same on the wire, only the handshake grew: so a box with 1.32 can serve a client that insists on 1.35.
 */
export const OUR_VERSION = 0x0123
/** Nix 2.4. An older box has other forms of errors (before 1.26) and realisations (before 1.31). */
export const OLDEST_BOX = 0x0120
export const VERSION_WITH_NIX_VERSION = 0x0121
export const VERSION_WITH_TRUST = 0x0123

// Messages that come before an answer (worker-protocol.hh, STDERR_*).
export const STDERR_LAST = 0x616c7473
const STDERR_ERROR = 0x63787470
const STDERR_NEXT = 0x6f6c6d67
const STDERR_START_ACTIVITY = 0x53545254
const STDERR_STOP_ACTIVITY = 0x53544f50
const STDERR_RESULT = 0x52534c54

// Far more than any honest answer; a box that sends more is not listened to any longer.
const LONGEST_STRING = 16 * 2 ** 20
const LONGEST_ANSWER = 64 * 2 ** 20

/** What an operation is asked with, or answered with, after the messages. `info`: a u64, and when it is 1 the fields of a path. */
type Shape = 'u64' | 'string' | 'strings' | 'pairs' | 'info' | 'nar'

export interface Operation {
  name: string
  request: readonly Shape[]
  answer: readonly Shape[]
  /** What a store with nothing in it answers: bytes after STDERR_LAST; null: an error saying that the path, the request's first string, is not valid. NarFromPath has no such answer: session.ts ends the stream. */
  empty: Buffer | null
  /** Answered without asking the box. */
  local?: boolean
}

/** The operations that Nix uses on a substituter. `nix copy` to a store uses others; see session.ts. */
export const OPERATIONS: ReadonlyMap<number, Operation> = new Map<number, Operation>([
  [1, { name: 'IsValidPath', request: ['string'], answer: ['u64'], empty: u64(0) }],
  [11, { name: 'AddTempRoot', request: ['string'], answer: ['u64'], empty: u64(1) }],
  // keepFailed, keepGoing, tryFallback, verbosity, maxBuildJobs, maxSilentTime, useBuildHook, verboseBuild, logType, printBuildTrace, buildCores,
  // useSubstitutes, overrides (2.8.0, remote-store.cc, setOptions). Nothing in them matters to a box that only answers questions.
  [19, { name: 'SetOptions', request: [...new Array<Shape>(12).fill('u64'), 'pairs'], answer: [], empty: Buffer.alloc(0), local: true }],
  [26, { name: 'QueryPathInfo', request: ['string'], answer: ['info'], empty: null }],
  [29, { name: 'QueryPathFromHashPart', request: ['string'], answer: ['string'], empty: string('') }],
  [31, { name: 'QueryValidPaths', request: ['strings', 'u64'], answer: ['strings'], empty: u64(0) }],
  [32, { name: 'QuerySubstitutablePaths', request: ['strings'], answer: ['strings'], empty: u64(0) }],
  [38, { name: 'NarFromPath', request: ['string'], answer: ['nar'], empty: null }],
  // A daemon without the feature ca-derivations aborts at this question (2.8.0, 2.26.3), and what we upload carries no realisations.
  [43, { name: 'QueryRealisation', request: ['string'], answer: ['strings'], empty: u64(0), local: true }],
])
export const QUERY_PATH_INFO = 26
const QUERY_VALID_PATHS = 31

/** Deriver, NAR hash, references, registration time, NAR size, ultimate, signatures, content address (2.8.0, path-info.cc). */
const INFO: readonly Shape[] = ['string', 'string', 'strings', 'u64', 'u64', 'u64', 'strings', 'string']

// --- writing ---

/** An unsigned 64-bit integer. */
export function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}

/** A string with its length and padding. */
export function string(text: string): Buffer {
  const bytes = Buffer.from(text)
  const padded = Buffer.alloc(8 + Math.ceil(bytes.length / 8) * 8)
  padded.writeBigUInt64LE(BigInt(bytes.length))
  bytes.copy(padded, 8)
  return padded
}

/** Several strings: how many, then each. */
export const strings = (texts: readonly string[]): Buffer => Buffer.concat([u64(texts.length), ...texts.map(string)])

/** The answer "that is an error", in the form of protocol 1.26 and later (2.8.0, serialise.cc): type, level, name, message, no position, no traces. */
export function errorAnswer(message: string): Buffer {
  return Buffer.concat([u64(STDERR_ERROR), string('Error'), u64(0), string('Error'), string(message), u64(0), u64(0)])
}

/**
 * "I don't have that path", as every Nix from 2.4 on takes it without closing the connection. The ordinary answer (STDERR_LAST, 0) makes Nix 2.4–2.30 start
 * the program anew for each miss: it throws while it holds the connection (2.8.0, remote-store.cc:455; mended in 2.31).
 */
export const notValid = (path: string): Buffer => errorAnswer(`path '${path}' is not valid`)

/** What the empty store answers. `first` is the request's first string. */
export const emptyAnswer = (operation: Operation, first: string): Buffer =>
  operation.empty ? Buffer.concat([u64(STDERR_LAST), operation.empty]) : notValid(first)

// --- reading ---

/**
 * Collects the raw bytes of what it reads, so that they can be passed on as they came: in one buffer that grows, since a piece of its own for each
 * of the millions of integers in which a box may say nothing would take gigabytes.
 */
export class Recorder {
  private buffer: Buffer = Buffer.allocUnsafe(256)
  private length = 0
  private readonly from: ByteReader

  constructor(from: ByteReader) {
    this.from = from
  }

  get bytes(): Buffer {
    return this.buffer.subarray(0, this.length)
  }

  private async raw(length: number): Promise<Buffer> {
    const end = this.length + length
    if (end > LONGEST_ANSWER) throw new Error('an answer of more than 64 MiB')
    const bytes = await this.from.take(length)
    if (end > this.buffer.length) this.buffer = Buffer.concat([this.bytes], Math.max(end, 2 * this.buffer.length))
    bytes.copy(this.buffer, this.length)
    this.length = end
    return bytes
  }

  async u64(): Promise<number> {
    return Number((await this.raw(8)).readBigUInt64LE(0))
  }

  async string(): Promise<string> {
    const length = await this.u64()
    if (length > LONGEST_STRING) throw new Error(`a string of ${length} bytes`)
    return (await this.raw(Math.ceil(length / 8) * 8)).toString('utf8', 0, length)
  }

  async strings(): Promise<string[]> {
    const result: string[] = []
    for (let left = await this.u64(); left > 0; left--) result.push(await this.string())
    return result
  }

  /** Reads one thing of a shape. What comes back is the first string in it, if there is one: the path that is asked for. */
  async shape(shape: Shape): Promise<string | undefined> {
    switch (shape) {
      case 'u64':
        await this.u64()
        return undefined
      case 'string':
        return await this.string()
      case 'strings':
        return (await this.strings())[0]
      case 'pairs':
        for (let left = (await this.u64()) * 2; left > 0; left--) await this.string()
        return undefined
      case 'info':
        if ((await this.u64()) !== 0) for (const field of INFO) await this.shape(field)
        return undefined
      case 'nar':
        return undefined // streamed by whoever asked; see session.ts
    }
  }
}

/** What an answer to QueryPathInfo says of a path (INFO), as far as anybody here wants to know it. */
interface Fields {
  deriver: string
  hash: string
  references: string[]
  size: number
  ultimate: boolean
  signatures: string[]
  contentAddress: string
}

/** @param answer a whole one that says "I have it", as Recorder has collected it */
function fieldsOf(answer: Buffer): Fields {
  let at = 8 // after "I have it"
  const number = (): number => {
    at += 8
    return Number(answer.readBigUInt64LE(at - 8))
  }
  const text = (): string => {
    const length = number()
    const from = at
    at += Math.ceil(length / 8) * 8
    return answer.toString('latin1', from, from + length)
  }
  const texts = (): string[] => Array.from({ length: number() }, text)
  const [deriver, hash, references] = [text(), text(), texts()]
  number() // when it was registered
  return { deriver, hash, references, size: number(), ultimate: number() !== 0, signatures: texts(), contentAddress: text() }
}

/**
 * Whether an answer to QueryPathInfo about `path` can be read by Nix, which takes a bad one for an error and fails the build (2.8.0, remote-store.cc,
 * path-info.cc): deriver and references are paths of the same store, the NAR's hash is SHA-256 in base 16.
 * @param answer a whole one, as Recorder has collected it
 */
export function soundInfo(answer: Buffer, path: string): boolean {
  const store = path.slice(0, path.lastIndexOf('/'))
  const { deriver, hash, references } = fieldsOf(answer)
  const sound = (deriver === '' || isStorePath(deriver, store)) && /^[0-9a-f]{64}$/.test(hash)
  return sound && references.every((reference) => isStorePath(reference, store))
}

/** The question what a store knows of a path. */
export const pathInfoQuestion = (path: string): Buffer => Buffer.concat([u64(QUERY_PATH_INFO), string(path)])

/** Its answer, after the messages; null for a path that isn't valid there. */
export async function readPathInfo(from: Recorder): Promise<PathInfo | null> {
  const start = from.bytes.length
  await from.shape('info')
  const answer = from.bytes.subarray(start)
  if (answer.readBigUInt64LE(0) === 0n) return null
  const { size, ultimate, signatures, contentAddress } = fieldsOf(answer)
  return { size, ultimate, signatures, contentAddressed: /^(text|fixed):/.test(contentAddress) }
}

/** The question which of these paths a store has, without looking for them elsewhere; the answer is paths. */
export const validPathsQuestion = (paths: readonly string[]): Buffer => Buffer.concat([u64(QUERY_VALID_PATHS), strings(paths), u64(0)])

/** How the messages before an answer ended: with the answer, or with an error in its place. */
export type Ending = { error: false } | { error: true; message: string }

/**
 * Reads the messages that come before an answer (2.34.8, worker-protocol-connection.cc, processStderrReturn), up to and with STDERR_LAST or STDERR_ERROR.
 * @throws Error for a message that has no business in a question or an answer
 */
export async function readMessages(from: Recorder): Promise<Ending> {
  for (;;) {
    const message = await from.u64()
    switch (message) {
      case STDERR_LAST:
        return { error: false }
      case STDERR_ERROR:
        return { error: true, message: await readError(from) }
      case STDERR_NEXT:
        await from.string()
        break
      case STDERR_START_ACTIVITY:
        for (let i = 0; i < 3; i++) await from.u64() // id, level, type
        await from.string()
        await readFields(from)
        await from.u64() // parent
        break
      case STDERR_STOP_ACTIVITY:
        await from.u64()
        break
      case STDERR_RESULT:
        for (let i = 0; i < 2; i++) await from.u64() // id, type
        await readFields(from)
        break
      default:
        throw new Error(`a message of the unknown type 0x${message.toString(16)}`)
    }
  }
}

/** 2.8.0, serialise.cc, readError: type, level, name, message, position, traces. */
async function readError(from: Recorder): Promise<string> {
  await from.string()
  await from.u64()
  await from.string()
  const message = await from.string()
  await from.u64()
  for (let left = await from.u64(); left > 0; left--) {
    await from.u64()
    await from.string()
  }
  return message
}

async function readFields(from: Recorder): Promise<void> {
  for (let left = await from.u64(); left > 0; left--) {
    if ((await from.u64()) === 0) await from.u64()
    else await from.string()
  }
}

/** The raw bytes of an operation's request, without its number, and the path it is about. */
export interface Request {
  bytes: Buffer
  first: string
}

/** Reads a request. The usual one, a path, is mostly there already, whole: then nothing is waited for. */
export async function readRequest(from: ByteReader, operation: Operation): Promise<Request> {
  const whole = operation.request.length === 1 && operation.request[0] === 'string' ? stringAtHand(from) : null
  if (whole) return whole
  const recorder = new Recorder(from)
  let first: string | undefined
  for (const shape of operation.request) {
    const found = await recorder.shape(shape)
    first ??= found
  }
  return { bytes: recorder.bytes, first: first ?? '' }
}

/** A string that has come whole; null when some of it is missing, or it is one that the long way has to refuse. */
function stringAtHand(from: ByteReader): Request | null {
  const chunk = from.atHand()
  if (chunk.length < 8) return null
  const length = Number(chunk.readBigUInt64LE(0))
  const end = 8 + Math.ceil(length / 8) * 8
  if (length > LONGEST_STRING || chunk.length < end) return null
  const request = { bytes: Buffer.from(chunk.subarray(0, end)), first: chunk.toString('utf8', 8, 8 + length) }
  from.consume(end)
  return request
}

/** Takes "I don't have that path" (STDERR_LAST, 0), the usual answer of a box to QueryPathInfo, if that is what has come; else nothing. */
export function takeMiss(from: ByteReader): boolean {
  const chunk = from.atHand()
  if (chunk.length < 16 || chunk.readUInt32LE(0) !== STDERR_LAST || chunk.readUInt32LE(4) !== 0 || chunk.readBigUInt64LE(8) !== 0n)
    return false
  from.consume(16)
  return true
}

// --- the box ---

export interface Box {
  /** The protocol that was agreed on, for example 0x0122 for 1.34. */
  version: number
  /** The box's version of Nix, when the handshake has ended; empty when it is too old to say. */
  nix: string
  socket: Socket
  reader: ByteReader
  /** What the daemon has yet to say before it takes questions; null when it has said all. Rejects with BoxUnavailable. */
  handshake: Promise<void> | null
}

/**
 * Sends a box the first bytes of an operation or more, and has its handshake behind it then. sshd leaves Nagle's algorithm on for forwarded sockets
 * (RFC 896), and so holds back each small piece that follows another until that is acknowledged, which the other end puts off for 40 ms, unless
 * it has something to say itself. So the first byte goes ahead, and acknowledges the daemon's hello.
 * @throws BoxUnavailable when the handshake fails
 */
export async function send(box: Box, bytes: Buffer): Promise<void> {
  if (!box.handshake) {
    box.socket.write(bytes)
    return
  }
  box.socket.write(bytes.subarray(0, 1))
  await box.handshake
  box.socket.write(bytes.subarray(1))
}

/** Why there is no box behind a socket. `unresponsive`: it accepted and said nothing until the deadline. */
export class BoxUnavailable extends Error {
  readonly kind: 'missing' | 'refused' | 'unresponsive' | 'broken' | 'old'
  constructor(kind: BoxUnavailable['kind'], message: string) {
    super(message)
    this.kind = kind
  }
}
