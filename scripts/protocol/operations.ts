// The worker protocol's operations that are asked of a substituter: their numbers, their shapes,
// what an empty store answers, and what an answer to QueryPathInfo says. Besides this, only
// daemon-ops.ts knows operations' numbers. Sources: see wire.ts.
import type { PathInfo } from '../nix/path-info.ts'
import { isStorePath } from '../nix/store-path.ts'
import type { ByteReader } from './byte-reader.ts'
import { errorAnswer, LONGEST_STRING, QUERY_PATH_INFO, Recorder, readMessages, STDERR_LAST, string, strings, u64 } from './wire.ts'

/**
 * The parts of a request, or of an answer after its messages. `info`: a u64, followed, if it is 1,
 * by the fields of a path.
 */
type Shape = 'u64' | 'string' | 'strings' | 'pairs' | 'info' | 'nar'

export interface Operation {
  name: string
  request: readonly Shape[]
  answer: readonly Shape[]
  /**
   * What an empty store answers, after STDERR_LAST. Null: an error saying that the path, the
   * request's first string, is not valid. NarFromPath has no such answer: session.ts ends the
   * stream.
   */
  empty: Buffer | null
  /** Answered without asking the box. */
  local?: boolean
}

/** What Nix asks a substituter. `nix copy` to a store uses other operations; see session.ts. */
export const OPERATIONS: ReadonlyMap<number, Operation> = new Map<number, Operation>([
  [1, { name: 'IsValidPath', request: ['string'], answer: ['u64'], empty: u64(0) }],
  [11, { name: 'AddTempRoot', request: ['string'], answer: ['u64'], empty: u64(1) }],
  // keepFailed, keepGoing, tryFallback, verbosity, maxBuildJobs, maxSilentTime, useBuildHook,
  // verboseBuild, logType, printBuildTrace, buildCores, useSubstitutes, overrides (2.8.0,
  // remote-store.cc, setOptions). Nothing in them matters to a box that only answers questions.
  [19, { name: 'SetOptions', request: [...new Array<Shape>(12).fill('u64'), 'pairs'], answer: [], empty: Buffer.alloc(0), local: true }],
  [26, { name: 'QueryPathInfo', request: ['string'], answer: ['info'], empty: null }],
  [29, { name: 'QueryPathFromHashPart', request: ['string'], answer: ['string'], empty: string('') }],
  [31, { name: 'QueryValidPaths', request: ['strings', 'u64'], answer: ['strings'], empty: u64(0) }],
  [32, { name: 'QuerySubstitutablePaths', request: ['strings'], answer: ['strings'], empty: u64(0) }],
  [38, { name: 'NarFromPath', request: ['string'], answer: ['nar'], empty: null }],
  // A daemon without the feature ca-derivations aborts at this question (2.8.0, 2.26.3), and what
  // we upload carries no realisations.
  [43, { name: 'QueryRealisation', request: ['string'], answer: ['strings'], empty: u64(0), local: true }],
])
export const IS_VALID_PATH = 1
export const NAR_FROM_PATH = 38
export const QUERY_REALISATION = 43
/** Lists all paths of a store. Nix never asks a substituter for that; we do. */
export const QUERY_ALL_VALID_PATHS = 23
const QUERY_VALID_PATHS = 31

/**
 * Deriver, NAR hash, references, registration time, NAR size, ultimate, signatures, content address
 * (2.8.0, path-info.cc).
 */
const INFO: readonly Shape[] = ['string', 'string', 'strings', 'u64', 'u64', 'u64', 'strings', 'string']

/**
 * "I don't have that path", in the form that every Nix since 2.4 accepts without closing the
 * connection. The ordinary answer (STDERR_LAST, 0) makes Nix 2.4–2.30 restart the program for each
 * miss: it throws while it holds the connection (2.8.0, remote-store.cc:455; fixed in 2.31).
 */
export const notValid = (path: string): Buffer => errorAnswer(`path '${path}' is not valid`)

/**
 * What the empty store answers.
 * @param first the request's first string
 */
export const emptyAnswer = (operation: Operation, first: string): Buffer =>
  operation.empty ? Buffer.concat([u64(STDERR_LAST), operation.empty]) : notValid(first)

/** Reads one value of a shape. Returns its first string, if any: the path in question. */
export async function readShape(from: Recorder, shape: Shape): Promise<string | undefined> {
  switch (shape) {
    case 'u64':
      await from.u64()
      return undefined
    case 'string':
      return await from.string()
    case 'strings':
      return (await from.strings())[0]
    case 'pairs':
      for (let left = (await from.u64()) * 2; left > 0; left--) await from.string()
      return undefined
    case 'info':
      if ((await from.u64()) !== 0) for (const field of INFO) await readShape(from, field)
      return undefined
    case 'nar':
      return undefined // streamed by the caller; see session.ts
  }
}

/** What an answer to QueryPathInfo says about a path (INFO). */
export interface Fields {
  /** Whether the path is there: 1. */
  valid: number
  deriver: string
  hash: string
  references: string[]
  /** Seconds since 1970. */
  registered: number
  /** Bytes of its NAR. */
  size: number
  /** Whether it was built there: 0 or 1. */
  ultimate: number
  signatures: string[]
  contentAddress: string
  /** Whether all strings are padded with zeros. */
  padded: boolean
}

/** Reads an answer that has arrived whole. */
class Whole {
  /** Whether all strings so far are padded with zeros. */
  padded = true
  private at = 0
  private readonly answer: Buffer

  constructor(answer: Buffer) {
    this.answer = answer
  }

  number(): number {
    this.at += 8
    return Number(this.answer.readBigUInt64LE(this.at - 8))
  }

  text(): string {
    const length = this.number()
    const from = this.at
    this.at += Math.ceil(length / 8) * 8
    for (let i = from + length; i < this.at; i++) if (this.answer[i] !== 0) this.padded = false
    return this.answer.toString('latin1', from, from + length)
  }

  texts(): string[] {
    return Array.from({ length: this.number() }, () => this.text())
  }
}

/**
 * Parses the fields of an answer.
 * @param answer the complete answer, from "I have it" on, as read by Recorder
 */
export function fieldsOf(answer: Buffer): Fields {
  const whole = new Whole(answer)
  const fields = {
    valid: whole.number(),
    deriver: whole.text(),
    hash: whole.text(),
    references: whole.texts(),
    registered: whole.number(),
    size: whole.number(),
    ultimate: whole.number(),
    signatures: whole.texts(),
    contentAddress: whole.text(),
  }
  return { ...fields, padded: whole.padded }
}

/** Names that 2.26.3 and 2.34.8 refuse and 2.8.0 doesn't (libstore/path.cc, checkName). */
const DOTS = /^-\.{1,2}(-.*)?$/
/** A key's name, and 64 bytes in base 64 (2.34.8, libutil/signature/local-keys.cc). */
const SIGNATURE = /^[^:]+:[A-Za-z0-9+/]{86}==$/
/**
 * Base 32 has spare bits in its first digit, which must be zero (libutil/hash.cc). `git` is younger
 * than 2.8.0.
 */
const DIGIT = '[0-9abcdfghijklmnpqrsvwxyz]'
const SHA256 = `sha256:[01]${DIGIT}{51}`
const CONTENT_ADDRESS = new RegExp(
  `^(text:${SHA256}|fixed:(r:)?(md5:[0-7]${DIGIT}{25}|sha1:${DIGIT}{32}|${SHA256}|sha512:[0-3]${DIGIT}{102}))?$`,
)

/** Whether every Nix accepts this as a store path: 2.4 to 2.35 differ, see DOTS. */
const soundPath = (path: string, store: string): boolean => isStorePath(path, store) && !DOTS.test(path.slice(store.length + 33))

/**
 * Whether every Nix can read an answer to QueryPathInfo about `path`. Nix treats a bad one as an
 * error and fails the build (2.8.0, remote-store.cc, path-info.cc, content-address.cc; 2.26.3,
 * 2.34.8).
 * @param answer the complete answer, from "I have it" on, as read by Recorder
 */
export function soundInfo(answer: Buffer, path: string): boolean {
  const store = path.slice(0, path.lastIndexOf('/'))
  const { valid, deriver, hash, references, registered, size, ultimate, signatures, contentAddress, padded } = fieldsOf(answer)
  return (
    padded &&
    valid === 1 &&
    (deriver === '' || soundPath(deriver, store)) &&
    /^[0-9a-f]{64}$/.test(hash) &&
    references.every((reference) => soundPath(reference, store)) &&
    registered <= Number.MAX_SAFE_INTEGER &&
    size > 0 &&
    size <= Number.MAX_SAFE_INTEGER &&
    ultimate <= 1 &&
    signatures.every((signature) => SIGNATURE.test(signature)) &&
    CONTENT_ADDRESS.test(contentAddress) &&
    mayRefer(contentAddress, references, path)
  )
}

/**
 * Whether a path with this content address may have these references: else Nix dies of an
 * assertion, or throws (2.8.0, store-api.cc, makeFixedOutputPath; 2.26.3 and 2.34.8, path-info.cc,
 * contentAddressWithReferences, and store-dir-config.cc).
 */
function mayRefer(contentAddress: string, references: readonly string[], path: string): boolean {
  if (contentAddress.startsWith('text:')) return !references.includes(path)
  return contentAddress === '' || contentAddress.startsWith('fixed:r:sha256:') || references.length === 0
}

/**
 * Whether every Nix can read an answer to another question.
 * @param answer a whole one, after the messages
 * @param store the folder the paths are in
 */
export function soundAnswer(operation: Operation, answer: Buffer, store: string): boolean {
  const whole = new Whole(answer)
  const [shape] = operation.answer
  if (shape === 'u64') return whole.number() <= 1
  const paths = shape === 'strings' ? whole.texts() : [whole.text()].filter((path) => path !== '')
  return paths.every((path) => soundPath(path, store)) && whole.padded
}

/** Asks what a store knows about a path. */
export const pathInfoQuestion = (path: string): Buffer => Buffer.concat([u64(QUERY_PATH_INFO), string(path)])

/** Reads the answer to that, after the messages; null for a path that isn't valid there. */
export async function readPathInfo(from: Recorder): Promise<PathInfo | null> {
  const start = from.bytes.length
  await readShape(from, 'info')
  const answer = from.bytes.subarray(start)
  if (answer.readBigUInt64LE(0) === 0n) return null
  const { size, ultimate, signatures, contentAddress } = fieldsOf(answer)
  return { size, ultimate: ultimate !== 0, signatures, contentAddressed: /^(text|fixed):/.test(contentAddress) }
}

/** Asks for a path's NAR. */
export const narQuestion = (path: string): Buffer => Buffer.concat([u64(NAR_FROM_PATH), string(path)])

/**
 * Reads an answer to QueryPathInfo that isn't passed on. Usually it has arrived whole, and nothing
 * is awaited.
 * @returns the answer from "I have it" on; null: the store lacks the path; undefined: it can't say
 */
export async function readInfoAnswer(from: ByteReader): Promise<Buffer | null | undefined> {
  const length = infoAtHand(from.atHand())
  if (length > 0) {
    const answer = Buffer.from(from.atHand().subarray(8, length))
    from.consume(length)
    return answer
  }
  const messages = new Recorder(from)
  const ending = await readMessages(messages)
  if (ending.error) return ending.message.includes('is not valid') ? null : undefined
  const found = new Recorder(from)
  await readShape(found, 'info')
  return found.bytes.length > 8 ? Buffer.from(found.bytes) : null
}

/**
 * The length of the answer "I have it" (STDERR_LAST, 1, INFO) at the start of a chunk; 0 when there
 * is none, or only part of it.
 */
function infoAtHand(chunk: Buffer): number {
  if (chunk.length < 16 || chunk.readUInt32LE(0) !== STDERR_LAST || chunk.readUInt32LE(4) !== 0 || chunk.readBigUInt64LE(8) !== 1n) return 0
  let at = 16
  for (const field of INFO) {
    let left = 1
    if (field === 'strings') {
      left = numberAt(chunk, at)
      at += 8
    }
    for (; left > 0; left--) {
      at += field === 'u64' ? 8 : 8 + Math.ceil(numberAt(chunk, at) / 8) * 8
      if (!(at <= chunk.length)) return 0
    }
  }
  return at
}

/** The number at `at`; NaN beyond the end. */
const numberAt = (chunk: Buffer, at: number): number => (at + 8 <= chunk.length ? Number(chunk.readBigUInt64LE(at)) : Number.NaN)

/** Asks which of these paths a store has, without substituting them; the answer is paths. */
export const validPathsQuestion = (paths: readonly string[]): Buffer => Buffer.concat([u64(QUERY_VALID_PATHS), strings(paths), u64(0)])

/** The raw bytes of an operation's request, without its number, and the path it is about. */
export interface Request {
  bytes: Buffer
  first: string
}

/** Reads a request. The usual one, a path, has usually arrived whole, and nothing is awaited. */
export async function readRequest(from: ByteReader, operation: Operation): Promise<Request> {
  const whole = operation.request.length === 1 && operation.request[0] === 'string' ? stringAtHand(from) : null
  if (whole) return whole
  const recorder = new Recorder(from)
  let first: string | undefined
  for (const shape of operation.request) {
    const found = await readShape(recorder, shape)
    first ??= found
  }
  return { bytes: recorder.bytes, first: first ?? '' }
}

/**
 * A string that has arrived whole; null when part of it is missing, or when it is too long, which
 * the slow path then refuses.
 */
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

/**
 * Takes "I don't have that path" (STDERR_LAST, 0), a box's usual answer to QueryPathInfo, if that
 * has arrived; else takes nothing.
 */
export function takeMiss(from: ByteReader): boolean {
  const chunk = from.atHand()
  if (chunk.length < 16 || chunk.readUInt32LE(0) !== STDERR_LAST || chunk.readUInt32LE(4) !== 0 || chunk.readBigUInt64LE(8) !== 0n)
    return false
  from.consume(16)
  return true
}
