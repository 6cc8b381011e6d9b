// Talks to Nix: answers what a substituter is asked, from the box while there is one and as an
// empty store while there isn't, and becomes a plain pipe at any other operation. It does the
// handshake with Nix itself, so nothing that happens to the box can keep a store from opening.

import { Away, Failure } from '../cli/errors.ts'
import { isProbe, storeDir } from '../nix/store-path.ts'
import { type Box, BoxUnavailable, send } from '../protocol/box.ts'
import type { ByteReader } from '../protocol/byte-reader.ts'
import { EndOfStream } from '../protocol/byte-reader.ts'
import type { Acquaintance } from '../protocol/dial-for-client.ts'
import { NarEnd } from '../protocol/nar-end.ts'
import {
  emptyAnswer,
  IS_VALID_PATH,
  NAR_FROM_PATH,
  notValid,
  OPERATIONS,
  type Operation,
  pathInfoQuestion,
  QUERY_REALISATION,
  readInfoAnswer,
  readRequest,
  readShape,
  soundAnswer,
  soundInfo,
  takeMiss,
} from '../protocol/operations.ts'
import {
  errorAnswer,
  LATEST_VERSION,
  MAGIC_CLIENT,
  MAGIC_SERVER,
  OUR_VERSION,
  PASSED_FEATURES,
  QUERY_PATH_INFO,
  Recorder,
  readMessages,
  STDERR_LAST,
  string,
  strings,
  u64,
  VERSION_WITH_FEATURES,
  VERSION_WITH_NIX_VERSION,
  VERSION_WITH_TRUST,
} from '../protocol/wire.ts'
import { type Client, ClientGone } from './client.ts'
import { Memory } from './memory.ts'
import { type Promised, promisedBy } from './promises.ts'
import type { Upstream } from './upstream.ts'

/**
 * Seconds of silence in mid-answer before the box is given up. A disk may need them to spin up; ssh
 * notices a dead link sooner.
 */
export const SILENCE = 30

/** Fewer bytes of a NAR than this in that time count as silence: half a kilobyte a second. */
const FLOOR = 16384
/**
 * Seconds that a NAR which was lost may take for its next FLOOR bytes, however little patience is
 * left.
 */
const AGAIN = 10
/** When a NAR breaks off again this often at the same byte, it is the box's disk, not the link. */
const SAME = 2
/** Bytes of a NAR that are held back unless it is whole sooner. */
const HELD = 2 ** 20

/** Milliseconds for which a box that has closed its own direction is still sent what Nix says. */
const LAST_WORDS = 1000

/**
 * What a strict session reads; the rest is piped. It asks the box everything. QueryRealisation has
 * another form with the feature realisation-with-path-not-hash.
 */
const STRICT_OPERATIONS: typeof OPERATIONS = new Map(
  [...OPERATIONS].filter(([number]) => number !== QUERY_REALISATION).map(([number, operation]) => [number, { ...operation, local: false }]),
)

/**
 * Nix asked for a NAR that can't be delivered: the stream has to end. Nix 2.4 to 2.22 takes no
 * other answer for a failure: it drops the exception that STDERR_ERROR raises, and waits forever
 * for a NAR (2.8.0, remote-store.cc, narFromPath; fixed in 2.23.0).
 */
export class NarUndelivered extends Failure {}

/**
 * The box can't deliver a path, or delivers something else than it has promised: its copy is
 * damaged. Or it was deleted, or chance had a hand in it: it is asked once more.
 */
class Damaged extends Error {
  /** Whether the box can be asked the next question. */
  readonly inStep: boolean
  constructor(message: string, inStep = false) {
    super(message)
    this.inStep = inStep
  }
}

/** Why a box may fail to deliver a path that is fine. */
const BUSY = /Too many open files|Cannot allocate memory|Resource temporarily unavailable|[Ii]nterrupted/

/**
 * Serves Nix until it closes the connection.
 * @param memory what is known of the box already; default: nothing yet
 * @throws Failure when Nix speaks another protocol; NarUndelivered; Error when the box is lost in
 * the middle of an upload
 */
export async function serve(client: Client, upstream: Upstream, memory?: Memory): Promise<void> {
  await greet(client, memory !== undefined)
  await serveGreeted(client, upstream, memory)
}

async function serveGreeted(client: Client, upstream: Upstream, memory?: Memory): Promise<void> {
  const patience: Patience = { left: SILENCE, limit: SILENCE, listening: false, box: null, nar: false, since: 0 }
  client.whenGone?.(() => patience.box?.reader.finish(new ClientGone('Nix has closed the connection')))
  const own = new Memory(upstream, SILENCE, (reason) => patience.box?.reader.finish(reason))
  let clock: NodeJS.Timeout | undefined // one per session: one per question would cost more than the question
  try {
    await converse(client, upstream, memory ?? own, patience, () => {
      clock ??= countDown(patience)
    })
  } finally {
    clearInterval(clock)
    own.close()
  }
}

/**
 * Answers questions until Nix has no more.
 * @param startClock starts the clock that gives up a silent box
 */
async function converse(client: Client, upstream: Upstream, memory: Memory, patience: Patience, startClock: () => void): Promise<void> {
  let box: Box | null = null
  try {
    for (;;) {
      const number = await nextOperation(client)
      if (number === null) break
      const operation = upstream.strict ? STRICT_OPERATIONS.get(number) : OPERATIONS.get(number)
      if (!operation) {
        box ??= await (upstream.dialApart ?? upstream.dial)()
        await pipe(client, box, number, upstream)
        break
      }
      const request = await readRequest(client.reader, operation)
      const isDamaged = (): boolean =>
        (number === QUERY_PATH_INFO || number === IS_VALID_PATH) && upstream.damage?.has(request.first) === true
      if (isDamaged()) {
        await client.write(emptyAnswer(operation, request.first))
        continue
      }
      const known = await memory.answer(number, request.first)
      if (known) {
        if (number === QUERY_PATH_INFO && known.readUInt32LE(0) === STDERR_LAST) memory.promises.made(request.first, known.subarray(8))
        if (number === NAR_FROM_PATH) countNar(upstream, request.first, known.length - 8) // before the last byte: see relayNar()
        await client.write(known)
        continue
      }
      const question: Question = { number, operation, ...request, patience }
      if (number === NAR_FROM_PATH) question.promised = memory.promises.due(request.first)
      const shared = operation.local || number === NAR_FROM_PATH ? undefined : upstream.ask
      let asked = performance.now()
      if (shared) await answerShared(client, shared, question, upstream)
      else {
        if (!operation.local) {
          if (box && upstream.givenUp?.()) {
            box.socket.destroy() // by another session, for all
            box = null
            memory.boxLost()
          }
          box ??= await upstream.dial()
        }
        if (isDamaged()) {
          await client.write(emptyAnswer(operation, request.first)) // the notes are opened by the first dial
          continue
        }
        if (box) startClock()
        asked = performance.now()
        box = await answer(client, box, question, upstream)
        if (!box) memory.boxLost()
        else if (upstream.release) {
          patience.box = null
          box = upstream.release(box)
        }
      }
      if (question.found && upstream.damage) memory.promises.made(request.first, question.found)
      if (question.found !== undefined)
        await memory.learn(request.first, question.found, performance.now() - asked, () => client.bothWays())
    }
  } finally {
    patience.box = null
    box?.socket.destroy()
  }
}

/**
 * Serves an upload, or a person: no empty store, and errors as the box sends them. Nix and the box
 * agree on the protocol as if nobody were between them.
 * @throws Away, at once, when the box is lost
 */
export async function serveStrictly(client: Client, acquaintance: Acquaintance, fetched?: Upstream['fetched']): Promise<void> {
  const box = await introduce(client, acquaintance)
  const upstream: Upstream = {
    dial: async () => box,
    lost: ({ message }) => {
      throw new Away(message.startsWith('the box ') ? message : `the box was lost: ${message}`)
    },
    report: () => {},
    ...(fetched && { fetched }),
    strict: true,
  }
  await serveGreeted(client, upstream)
}

/**
 * The server's side of the handshake (2.34.8, worker-protocol-connection.cc,
 * BasicServerConnection).
 * @param first whether to speak first: so that the relay knows a living broker before it takes
 * anything from Nix
 */
async function greet({ reader, write }: Client, first: boolean): Promise<void> {
  const from = new Recorder(reader)
  const ours = Buffer.concat([u64(MAGIC_SERVER), u64(OUR_VERSION)])
  if (first) await write(ours)
  await readMagic(from)
  if (!first) await write(ours)
  const version = Math.min(await from.u64(), OUR_VERSION)
  await readObsolete(from)
  const parts: Buffer[] = []
  if (version >= VERSION_WITH_NIX_VERSION) parts.push(string('nix-lan')) // whose version of Nix this is
  if (version >= VERSION_WITH_TRUST) parts.push(u64(0)) // whether the client is trusted: unknown
  await write(Buffer.concat([...parts, u64(STDERR_LAST)]))
}

/**
 * The same for a strict session: passes on what either says about itself, up to the version and the
 * features that we know.
 * @throws Away when the box is lost
 */
async function introduce({ reader, write }: Client, acquaintance: Acquaintance): Promise<Box> {
  const from = new Recorder(reader)
  await readMagic(from)
  const spoken = Math.min(acquaintance.version, LATEST_VERSION)
  await write(Buffer.concat([u64(MAGIC_SERVER), u64(spoken)]))
  const version = Math.min(await from.u64(), LATEST_VERSION)
  const listed = Math.min(version, spoken) >= VERSION_WITH_FEATURES
  const features = listed ? passed(await from.strings()) : []
  const met = await acquaintance.introduce(version, features).catch((error: Error) => {
    throw new Away(error.message)
  })
  if (listed) await write(strings(passed(met.features)))
  await readObsolete(from)
  await write(met.welcome)
  return met.box
}

/** @throws Failure when this isn't Nix */
async function readMagic(from: Recorder): Promise<void> {
  if ((await from.u64()) !== MAGIC_CLIENT) throw new Failure('this is not Nix: nix-lan-connect is started by Nix, as a store; see --help')
}

/** Reads the end of Nix's hello. */
async function readObsolete(from: Recorder): Promise<void> {
  if ((await from.u64()) !== 0) await from.u64() // a CPU to run on (1.14)
  await from.u64() // whether to reserve space (1.11)
}

/** Those of the features that both sides may have. */
const passed = (features: readonly string[]): string[] => features.filter((feature) => PASSED_FEATURES.includes(feature))

/** The number of the next operation; null when Nix has closed the connection. */
async function nextOperation({ reader }: Client): Promise<number | null> {
  try {
    await reader.peek()
  } catch (error) {
    if (error instanceof EndOfStream) return null
    throw error
  }
  const chunk = reader.atHand()
  if (chunk.length < 8) return Number((await reader.take(8)).readBigUInt64LE(0))
  reader.consume(8)
  return Number(chunk.readBigUInt64LE(0))
}

interface Question {
  number: number
  operation: Operation
  bytes: Buffer
  /** The path it is about. */
  first: string
  patience: Patience
  /** What Nix was told of the path whose NAR it wants; undefined: not known here. */
  promised?: Promised | undefined
  /** Why its copy on the box seems to be damaged. */
  doubt?: string
  /**
   * What the box has said about a path, from "I have it" on; null: it lacks it; undefined: the
   * question was another, or it failed.
   */
  found?: Buffer | null
}

/**
 * How long the box may still be silent, in seconds. They are counted one by one, and only while we
 * listen: a Nix that doesn't take what came (a slow disk), or a stop of both of us (^Z), isn't held
 * against the box.
 */
interface Patience {
  left: number
  /** What `left` began with. */
  limit: number
  listening: boolean
  box: Box | null
  /** Whether it is in the middle of a NAR. */
  nar: boolean
  /** When it last got somewhere, by performance.now(): FLOOR bytes further, or asked. */
  since: number
}

/** Counts down to giving the box up, while it is listened to. The caller clears the interval. */
function countDown(patience: Patience): NodeJS.Timeout {
  return setInterval(() => {
    if (patience.listening && --patience.left <= 0) patience.box?.reader.finish(nowhere(patience))
  }, 1000)
}

/** Why a box is given up. */
function nowhere({ nar, limit }: Patience): BoxUnavailable {
  if (nar) return new BoxUnavailable('slow', `less than ${FLOOR / 1024} KiB in ${limit} s`)
  return new BoxUnavailable('unresponsive', `the box has given no answer for ${limit} s`)
}

/**
 * Answers one question. Returns the box, or null when it was lost on the way and the empty store
 * has answered instead.
 */
async function answer(client: Client, box: Box | null, question: Question, upstream: Upstream): Promise<Box | null> {
  if (question.number === NAR_FROM_PATH) return await deliver(client, box, question, upstream)
  if (!box || question.operation.local) {
    await client.write(emptyAnswer(question.operation, question.first))
    return box
  }
  const { patience } = question
  Object.assign(patience, { box, left: SILENCE, limit: SILENCE, listening: true, nar: false, since: performance.now() })
  try {
    await send(box, Buffer.concat([u64(question.number), question.bytes]))
    const found = await readAnswer(box.reader, question, upstream)
    patience.listening = false
    upstream.answered?.(false)
    await client.write(found)
    return box
  } catch (error) {
    box.socket.destroy()
    if (error instanceof ClientGone) throw error
    upstream.lost(error as Error, patience.since)
    await client.write(emptyAnswer(question.operation, question.first))
    return null
  } finally {
    patience.listening = false
  }
}

/** The same for a question asked on a connection that sessions share. */
async function answerShared(client: Client, share: NonNullable<Upstream['ask']>, question: Question, upstream: Upstream): Promise<void> {
  const { number, operation, bytes, first } = question
  let found: Buffer | null = null
  try {
    found = await share(Buffer.concat([u64(number), bytes]), (reader) => readAnswer(reader, question, upstream))
    if (found) upstream.answered?.(false)
  } catch (error) {
    upstream.lost(error as Error)
  }
  await client.write(found ?? emptyAnswer(operation, first))
}

/**
 * Gives Nix a NAR. Nix asks for one only after it has been told that the path is there, and a
 * broken promise is a failed build. So a box that is lost is waited for, which Nix puts up with,
 * and the NAR is continued where it broke off.
 * @throws NarUndelivered when the waiting is over
 */
async function deliver(client: Client, first: Box | null, question: Question, upstream: Upstream): Promise<Box> {
  const { first: path, patience } = question
  const delivered: Delivered = { bytes: 0, seen: 0 }
  let box = first
  let wait = box ? undefined : upstream.redial?.()
  let before = -1 // how much had been delivered at the last loss
  let [seen, same] = [0, 0] // where it broke off, and how often at the same byte again
  for (;;) {
    let lost: Error = new BoxUnavailable('broken', `the box is away, and can't deliver ${path}`)
    if (box) {
      try {
        await relayNar(client, box, question, upstream, delivered, wait && Math.ceil(wait.left() / 1000))
        upstream.answered?.(true)
        return box
      } catch (error) {
        if (error instanceof Damaged && error.inStep && question.doubt === undefined) {
          question.doubt = error.message
          continue
        }
        box.socket.destroy()
        if (error instanceof ClientGone || error instanceof NarUndelivered) throw error
        if (error instanceof Damaged) {
          const again = wait ?? upstream.redial?.(patience.since)
          if (!again || question.doubt !== undefined) throw damaged(question, error.message, upstream)
          question.doubt = error.message
          box = await again.next()
          if (!box) throw new NarUndelivered(error.message)
          continue
        }
        const kind = error instanceof BoxUnavailable && error.kind === 'slow' ? 'slow' : 'broken'
        const what = kind === 'slow' ? 'the box gets nowhere' : 'the box was lost'
        lost = new BoxUnavailable(kind, `${what} in the middle of ${path}: ${(error as Error).message}`)
        // patience is renewed only when the last attempt made progress
        if (delivered.bytes > before) wait = upstream.redial?.(patience.since, before >= 0)
        before = delivered.bytes
        same = delivered.seen > 0 && delivered.seen === seen ? same + 1 : 0
        seen = delivered.seen
        if (same >= SAME && kind !== 'slow')
          throw damaged(question, `the box can't read ${path}: it breaks off at the same byte each time`, upstream)
      } finally {
        patience.listening = false
      }
    }
    if (!wait || box || wait.left() > 0) upstream.lost(lost, box ? patience.since : undefined, wait)
    box = (await wait?.next()) ?? null
    if (client.gone) throw new ClientGone('Nix has closed the connection')
    if (!box) throw new NarUndelivered(lost.message)
  }
}

/** Notes that a path is damaged on the box. @returns what ends the stream */
function damaged({ first }: Question, why: string, { damage, report }: Upstream): NarUndelivered {
  if (damage) damage.found(first, why)
  else report(why)
  return new NarUndelivered(why)
}

/**
 * Reads the whole answer before passing on a byte of it, so the empty store can still answer if the
 * box is lost halfway. The box's errors (a busy database, a failing disk) must not become Nix's,
 * which would fail the build: they are a miss and a line on stderr. Nor does Nix get the box's
 * messages: some kill it (STDERR_RESULT 100 to 107 without fields; 2.8.0, 2.26.3, 2.34.8).
 */
async function readAnswer(reader: ByteReader, question: Question, upstream: Upstream): Promise<Buffer> {
  const { number, operation, first } = question
  await reader.peek()
  if (number === QUERY_PATH_INFO && takeMiss(reader)) return miss(question)
  const messages = new Recorder(reader)
  const ending = await readMessages(messages)
  if (ending.error) {
    if (upstream.strict) return messages.bytes
    if (!ending.message.includes('is not valid')) upstream.report(`${operation.name} ${first}: the box says: ${ending.message}`)
    return emptyAnswer(operation, first)
  }
  const found = new Recorder(reader)
  for (const shape of operation.answer) await readShape(found, shape)
  if (number === QUERY_PATH_INFO && found.bytes.readBigUInt64LE(0) === 0n) return miss(question)
  if (!upstream.strict && !sound(question, found.bytes)) {
    upstream.report(`${operation.name} ${first}: the box says what no Nix can read; the path counts as missing`)
    return emptyAnswer(operation, first)
  }
  if (number === QUERY_PATH_INFO) question.found = found.bytes
  return Buffer.concat([upstream.strict ? messages.bytes : u64(STDERR_LAST), found.bytes])
}

/**
 * Whether every Nix can read an answer. A question about a hash part doesn't name its store: the
 * usual one is assumed.
 */
function sound({ number, operation, first }: Question, answer: Buffer): boolean {
  if (number === QUERY_PATH_INFO) return soundInfo(answer, first)
  return soundAnswer(operation, answer, first.startsWith('/') ? first.slice(0, first.lastIndexOf('/')) : storeDir)
}

/** The answer for a path that isn't there. */
function miss(question: Question): Buffer {
  question.found = null
  return notValid(question.first)
}

/** How much of a NAR Nix has. */
interface Delivered {
  bytes: number
  /** How far the last attempt got, bytes held back or skipped included. */
  seen: number
}

/**
 * Asks for a NAR and passes it on, from where it broke off. Holds it back until it is whole or has
 * more than HELD bytes: what Nix hasn't had a byte of can't break. It is hashed on the way: Nix
 * checks it itself, but doesn't say that it was wrong.
 * @param left seconds of patience, when it was lost before
 * @throws Damaged; NarUndelivered when the box has another path by that name now, or none
 */
async function relayNar(
  client: Client,
  box: Box,
  question: Question,
  upstream: Upstream,
  delivered: Delivered,
  left = SILENCE,
): Promise<void> {
  const { first, patience } = question
  const limit = Math.min(SILENCE, Math.max(AGAIN, left))
  Object.assign(patience, { box, left: limit, limit, listening: true, nar: true, since: performance.now() })
  // What Nix was told, perhaps by another process; and whether it still holds. In the same round trip.
  const asksAgain = upstream.damage !== undefined && (question.promised === undefined || question.doubt !== undefined)
  const request = Buffer.concat([u64(question.number), question.bytes])
  await send(box, asksAgain ? Buffer.concat([pathInfoQuestion(first), request]) : request)
  const hash = upstream.damage && (await import('node:crypto')).createHash('sha256') // 3 ms, while the box answers
  if (asksAgain) {
    const now = await readInfoAnswer(box.reader)
    if (now === null) throw new NarUndelivered(`the box has deleted ${first}`)
    if (now) question.promised = promisedBy(now)
  }
  const promised = hash && question.promised
  const messages = new Recorder(box.reader)
  const ending = await readMessages(messages)
  if (ending.error) throw cannotRead(first, ending.message, upstream)
  const end = new NarEnd()
  let stray = false // what follows is no NAR: nix-daemon's error, in the middle of it
  const scan = (chunk: Buffer): number => {
    try {
      return end.scan(chunk)
    } catch {
      if (end.stray < 0) throw cannotRead(first, 'it breaks off, and something else follows', upstream)
      stray = true
      return end.stray
    }
  }
  const skip = delivered.bytes
  let held: Buffer[] | null = skip > 0 ? null : [upstream.strict ? messages.bytes : u64(STDERR_LAST)]
  let seen = 0
  let scanned = 0 // bytes seen when patience was last renewed
  delivered.seen = 0
  let wrong: string | undefined
  let late: Promise<void> | undefined
  const pass = (bytes: Buffer): void => {
    if (held) held.push(Buffer.from(bytes))
    else {
      late = client.write(bytes)
      delivered.bytes = seen
    }
    if (!held || (!end.done && seen <= HELD)) return
    late = client.write(Buffer.concat(held))
    held = null
    delivered.bytes = seen
  }
  const take = (chunk: Buffer): number => {
    const length = scan(chunk)
    const from = Math.max(0, Math.min(length, skip - seen))
    seen += length
    delivered.seen = seen
    if (seen - scanned >= FLOOR) {
      scanned = seen
      if (seen > skip) patience.limit = SILENCE
      patience.left = patience.limit
      patience.since = performance.now()
    }
    if (end.done && seen < skip) throw new NarUndelivered(`the box has another ${first} than before`)
    hash?.update(chunk.subarray(0, length))
    if (promised && seen > promised.size)
      throw new Damaged(`the box sends more of ${first} than the ${promised.size} bytes it has promised`)
    if (end.done && hash && promised && hash.digest('hex') !== promised.hash) {
      wrong = `the box sends a ${first} whose SHA-256 isn't the one it has promised`
      if (held) return length
      damaged(question, wrong, upstream) // Nix has all but the end, and will tell the user
    }
    // before the last byte: once Nix has that, it has what it wants and may kill us
    if (end.done) countNar(upstream, first, seen)
    if (from < length) pass(chunk.subarray(from, length))
    return length
  }
  const taken = async (): Promise<void> => {
    if (!late) return
    patience.listening = false
    await late
    patience.listening = true
    late = undefined
  }
  while (!end.done && !stray) {
    await box.reader.stream(take, () => end.done || stray || late !== undefined)
    await taken()
  }
  if (stray) throw cannotRead(first, await wordsOf(box), upstream)
  if (wrong !== undefined && held) throw new Damaged(wrong, true)
}

/** What nix-daemon says in the middle of a NAR (2.8.0, daemon.cc, processConnection). */
async function wordsOf(box: Box): Promise<string> {
  const ending = await readMessages(new Recorder(box.reader)).catch(() => undefined)
  return ending?.error ? ending.message : 'it breaks off, and something else follows'
}

/** The box can't read a path: its copy is damaged, unless the box is just short of something. */
function cannotRead(path: string, why: string, upstream: Upstream): Error {
  const reason = `the box can't read ${path}: ${why}`
  if (!BUSY.test(why)) return new Damaged(reason)
  upstream.report(reason)
  return new NarUndelivered(reason)
}

/**
 * Pipes bytes both ways, from an operation we don't know to the end of the connection, closing each
 * direction when its source closes.
 */
async function pipe(client: Client, box: Box | null, number: number, upstream: Upstream): Promise<void> {
  try {
    if (box) await send(box, u64(number))
  } catch (error) {
    upstream.lost(error as Error)
    return await pipe(client, null, number, upstream)
  }
  if (!box) {
    // There is no telling where an unknown operation's request ends: answer, and hang up.
    await client.write(errorAnswer('the box is away, and nix-lan is an empty store: it can be asked for paths, nothing else'))
    return
  }
  const { socket, reader } = box
  client.bothWays()
  // When Nix is killed, don't hang on for as long as the box is unresponsive. While Nix lives, the
  // box may take its time over an upload.
  const patience: Patience = { left: SILENCE, limit: SILENCE, listening: false, box, nar: false, since: 0 }
  const clock = countDown(patience)
  const up = (async () => {
    await pump(client.reader, (bytes) => write(box, bytes))
    socket.end()
    patience.listening = true
  })()
  up.catch(() => {}) // handled below; until then it must not count as unhandled
  const down = async (bytes: Buffer): Promise<void> => {
    patience.left = Number.POSITIVE_INFINITY
    await client.write(bytes)
    patience.left = SILENCE
  }
  await pump(reader, down).finally(() => clearInterval(clock))
  client.end()
  // A box that is gone takes nothing more, which ends `up`; one that merely has nothing more to say
  // still gets what is on its way.
  await Promise.race([up.catch(() => {}), new Promise((resolve) => setTimeout(resolve, LAST_WORDS))])
}

/** Passes everything on until the end of the stream, one chunk at a time. */
async function pump(from: ByteReader, write: (bytes: Buffer) => Promise<void>): Promise<void> {
  for (;;) {
    let chunk: Buffer
    try {
      chunk = await from.peek()
    } catch {
      return
    }
    await write(chunk)
    from.consume(chunk.length)
  }
}

function write(box: Box, bytes: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    box.socket.write(bytes, (error) => (error ? reject(error) : resolve()))
  })
}

/** Counts a NAR of `bytes` bytes. The doctor's probe is no transfer of the user's. */
function countNar(upstream: Pick<Upstream, 'fetched'>, path: string, bytes: number): void {
  if (!isProbe(path)) upstream.fetched?.(bytes)
}
