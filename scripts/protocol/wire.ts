// The wire format of the Nix daemon's worker protocol: integers, strings, and the messages before
// an answer. The operations are in operations.ts; the handshakes in dial.ts (as a client) and
// connect/session.ts (as a server).
//
// Sources: Nix 2.8.0 and 2.34.8, src/libstore/worker-protocol.hh (numbers), remote-store.cc and
// worker-protocol-connection.cc (the client), daemon.cc (the server), src/libutil/serialise.hh
// (integers are u64 little-endian; a string is its length, its bytes, zeros up to a multiple of 8).
import { withoutEscapes } from '../cli/text.ts'
import type { ByteReader } from './byte-reader.ts'

/**
 * Sent by the client (worker-protocol.hh, WORKER_MAGIC_1: "nixc") and by the server
 * (WORKER_MAGIC_2: "dxio").
 */
export const MAGIC_CLIENT = 0x6e697863
export const MAGIC_SERVER = 0x6478696f

/**
 * What we speak, to Nix and to the box: 1.35 (Nix 2.15). Every Nix from 2.4 (1.32) to 2.35 agrees
 * to it, and so does Lix from 2.94, which takes nothing less. Since 1.32 the operations below are
 * the same on the wire and only the handshake has grown, so a box with 1.32 can serve a client that
 * insists on 1.35.
 */
export const OUR_VERSION = 0x0123
/** Nix 2.4. Older boxes encode errors (before 1.26) and realisations (before 1.31) differently. */
export const OLDEST_BOX = 0x0120
export const VERSION_WITH_NIX_VERSION = 0x0121
export const VERSION_WITH_TRUST = 0x0123
export const VERSION_WITH_FEATURES = 0x0126
/**
 * The latest version that a strict session lets Nix and the box agree to: 1.38 (Nix 2.24 to 2.35;
 * later changes are to come as features). operations.ts is right for all from OLDEST_BOX to this.
 */
export const LATEST_VERSION = 0x0126
/**
 * The features that Nix and the box may agree to in a strict session: those that leave alone what
 * we read ourselves (2.35.2, worker-protocol.hh).
 */
export const PASSED_FEATURES: readonly string[] = ['realisation-with-path-not-hash', 'delete-dead-specific-referrers']

/** QueryPathInfo, an operation that is asked without the rest of operations.ts, too. */
export const QUERY_PATH_INFO = 26

// Messages before an answer (worker-protocol.hh, STDERR_*).
export const STDERR_LAST = 0x616c7473
const STDERR_ERROR = 0x63787470
const STDERR_NEXT = 0x6f6c6d67
const STDERR_START_ACTIVITY = 0x53545254
const STDERR_STOP_ACTIVITY = 0x53544f50
const STDERR_RESULT = 0x52534c54

// Far more than any honest answer; a box that sends more is cut off.
export const LONGEST_STRING = 16 * 2 ** 20
const LONGEST_ANSWER = 64 * 2 ** 20
/**
 * Bytes of messages before one answer. 64 MiB of the shortest would take six seconds of processor
 * time; this much takes a sixth of one (Node 20).
 */
const LONGEST_MESSAGES = 2 ** 20

/** Encodes an unsigned 64-bit integer. */
export function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}

/** Encodes a string, with its length and padding. */
export function string(text: string): Buffer {
  const bytes = Buffer.from(text)
  const padded = Buffer.alloc(8 + Math.ceil(bytes.length / 8) * 8)
  padded.writeBigUInt64LE(BigInt(bytes.length))
  bytes.copy(padded, 8)
  return padded
}

/** Encodes several strings: how many, then each. */
export const strings = (texts: readonly string[]): Buffer => Buffer.concat([u64(texts.length), ...texts.map(string)])

/**
 * Encodes an error as the answer, in the form of protocol 1.26 and later (2.8.0, serialise.cc):
 * type, level, name, message, no position, no traces.
 */
export function errorAnswer(message: string): Buffer {
  return Buffer.concat([u64(STDERR_ERROR), string('Error'), u64(0), string('Error'), string(message), u64(0), u64(0)])
}

/**
 * Records the raw bytes it reads, to pass them on unchanged. One growing buffer: a box may say
 * nothing in millions of integers, and a buffer for each would take gigabytes.
 */
export class Recorder {
  /** Maximum of bytes recorded. */
  limit = LONGEST_ANSWER
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
    if (end > this.limit)
      throw new Error(this.limit === LONGEST_ANSWER ? 'an answer of more than 64 MiB' : 'more than 1 MiB of messages before an answer')
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
}

/** How the messages before an answer ended: with the answer, or with an error instead. */
export type Ending = { error: false } | { error: true; message: string }

/**
 * Reads the messages before an answer (2.34.8, worker-protocol-connection.cc, processStderrReturn),
 * up to and including STDERR_LAST or STDERR_ERROR.
 * @throws Error for a message that has no business in a question or an answer
 */
export async function readMessages(from: Recorder): Promise<Ending> {
  from.limit = from.bytes.length + LONGEST_MESSAGES
  try {
    return await readAll(from)
  } finally {
    from.limit = LONGEST_ANSWER
  }
}

async function readAll(from: Recorder): Promise<Ending> {
  for (;;) {
    const message = await from.u64()
    switch (message) {
      case STDERR_LAST:
        return { error: false }
      case STDERR_ERROR:
        return { error: true, message: withoutEscapes(await readError(from)) }
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
