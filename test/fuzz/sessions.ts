// Sessions of real Nixes with real boxes, mutated: what Nix says, what the box says, or both. The
// session ends by itself, with one of the errors that it may end with; and to a Nix that speaks
// properly it gives whole answers, whatever the box has said.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Failure } from '../../scripts/cli/errors.ts'
import { NarUndelivered, serve, serveStrictly } from '../../scripts/connect/session.ts'
import { BoxUnavailable } from '../../scripts/protocol/box.ts'
import { EndOfStream } from '../../scripts/protocol/byte-reader.ts'
import { dialBox } from '../../scripts/protocol/dial.ts'
import { NarEnd } from '../../scripts/protocol/nar-end.ts'
import { QUERY_REALISATION } from '../../scripts/protocol/operations.ts'
import type { Random } from '../lib/random.ts'
import { operationsOf, type Recorded } from '../lib/recorded.ts'
import { acquaintanceOf, boxOf, clientOf, nar, type Tree } from '../lib/wire.ts'
import type { Target } from './main.ts'
import { mutated } from './mutate.ts'
import { wholeAnswers } from './whole-answers.ts'

const FIXTURES = 'test/fixtures/sessions'

/** Of chunks, in bytes. */
const SIZES = [1, 7, 64, 64, 65536, 65536]

export interface Session {
  command: string
  fromNix: Buffer
  fromBox: Buffer
  /** What the box says after its greeting. */
  answers: Buffer
  /** The numbers of the operations; undefined for an upload, which is a pipe. */
  operations: number[] | undefined
}

/** The sessions in test/fixtures. */
export function recordedSessions(): Session[] {
  const recorded = readdirSync(FIXTURES).flatMap((file) => JSON.parse(readFileSync(join(FIXTURES, file), 'utf8')) as Recorded[])
  return recorded.map((session) => {
    const fromBox = Buffer.from(session.fromBox, 'base64')
    const upload = session.command.startsWith('nix copy')
    return {
      command: session.command,
      fromNix: Buffer.from(session.fromNix, 'base64'),
      fromBox,
      answers: fromBox.subarray(fromBox.indexOf(Buffer.from('73746c6100000000', 'hex')) + 8),
      operations: upload ? undefined : operationsOf(session),
    }
  })
}

/** What a session may end with. */
function allowed(error: unknown): boolean {
  if (error instanceof Failure || error instanceof EndOfStream || error instanceof BoxUnavailable) return true
  // the readers' own: a string, an answer or a message that is too long or unknown
  return error instanceof Error && error.constructor === Error
}

export function sessions(): Target[] {
  const all = recordedSessions()
  const streams = all.flatMap(({ fromNix, answers }) => [fromNix, answers])
  const folder = mkdtempSync(join(tmpdir(), 'nix-lan-fuzz-'))
  let sockets = 0

  async function inMemory(session: Session, random: Random, spoilNix: boolean, spoilBox: boolean): Promise<void> {
    const fromNix = spoilNix ? mutated(session.fromNix, random, streams) : session.fromNix
    const answers = spoilBox ? mutated(session.answers, random, streams) : session.answers
    const strict = random.integer(0, 4) === 0
    const client = clientOf(fromNix, random.pick(SIZES))
    const boxes = [boxOf(answers, random.pick(SIZES))]
    const failed = await (strict
      ? serveStrictly(client, acquaintanceOf(boxes[0] as (typeof boxes)[0]))
      : serve(client, { dial: async () => boxes.shift() ?? null, lost: () => {}, report: () => {}, strict: false })
    ).then(
      () => undefined,
      (error: unknown) => error,
    )
    if (failed !== undefined && !allowed(failed)) throw failed
    if (spoilNix || !session.operations) return
    if (!strict && failed !== undefined && !(failed instanceof NarUndelivered)) throw failed
    // strictly, a lost box ends the session, between two answers or in a NAR
    const piped = strict ? session.operations.indexOf(QUERY_REALISATION) : -1
    const operations = piped < 0 ? session.operations : session.operations.slice(0, piped)
    const got = wholeAnswers(client.got(), operations, fromNix, strict)
    if (failed === undefined && got.answered < operations.length)
      throw new Error(`${got.answered} of ${operations.length} questions were answered`)
    if (piped < 0 && got.rest > 0 && !((strict ? failed instanceof Failure : failed instanceof NarUndelivered) && got.inNar)) {
      const where = `${strict ? 'strictly, ' : ''}${session.command}, after ${got.answered} answers, ended by ${failed}`
      throw new Error(`${got.rest} bytes of an answer that isn't whole (${got.why}): ${where}`)
    }
  }

  /** The handshake, too: over a real socket. */
  async function dialled(session: Session, random: Random): Promise<void> {
    const socket = join(folder, `${sockets++}`)
    const server = createServer((near) => {
      near.on('error', () => {}).on('data', () => {})
      near.end(mutated(session.fromBox, random, streams))
    })
    await new Promise<void>((done) => server.listen(socket, done))
    try {
      const client = clientOf(session.fromNix)
      const dial = () =>
        dialBox(socket, 2000).catch((error: unknown) => {
          if (!allowed(error)) throw error
          return null
        })
      await serve(client, { dial, lost: () => {}, report: () => {}, strict: false }).catch((error: unknown) => {
        if (!allowed(error)) throw error
      })
    } finally {
      server.close()
      rmSync(socket, { force: true })
    }
  }

  const target = (name: string, share: number, once: (random: Random) => Promise<void>): Target => ({
    name,
    share,
    once: async (random) => {
      await once(random)
      return 1
    },
  })
  return [
    target('what-nix-says', 3, (random) => inMemory(random.pick(all), random, true, false)),
    target('what-the-box-says', 5, (random) => inMemory(random.pick(all), random, false, true)),
    target('what-both-say', 2, (random) => inMemory(random.pick(all), random, true, true)),
    {
      ...target('handshake', 2, (random) => dialled(random.pick(all), random)),
      close: () => rmSync(folder, { recursive: true, force: true }),
    },
    target('nar-end', 1, async (random) => narEnd(random)),
  ]
}

/**
 * A NAR of chance, in chunks of any size, with something behind it: its end is found, to the byte.
 * Spoilt, it is refused or has an end or none.
 */
function narEnd(random: Random): void {
  const bytes = nar(tree(random, 4))
  const behind = Buffer.alloc(random.integer(0, 40), random.integer(0, 255))
  const used = scan(Buffer.concat([bytes, behind]), random)
  if (used !== bytes.length) throw new Error(`a NAR of ${bytes.length} bytes ended after ${used}`)
  try {
    scan(mutated(bytes, random, [bytes]), random)
  } catch (error) {
    if (!allowed(error)) throw error
  }
}

/** How many bytes belong to the NAR; undefined when it has no end. */
function scan(bytes: Buffer, random: Random): number | undefined {
  const end = new NarEnd()
  for (let at = 0; at < bytes.length; ) {
    const chunk = bytes.subarray(at, at + random.integer(1, random.pick([3, 40, 4000])))
    const used = end.scan(chunk)
    at += used
    if (end.done) return at
    if (used < chunk.length) throw new TypeError('it stopped before the end')
  }
  return undefined
}

function tree(random: Random, depth: number): Tree {
  const text = (): string => random.pick(['', '(', ')', 'contents', 'nix-archive-1', 'a', 'type', 'x'.repeat(random.integer(0, 100))])
  if (depth === 0 || random.integer(0, 2) === 0)
    return random.integer(0, 2) ? { file: text(), executable: random.integer(0, 1) === 1 } : { link: text() }
  const names = Array.from({ length: random.integer(0, 4) }, (_, i) => `${text()}${i}`)
  return { entries: Object.fromEntries(names.map((name) => [name, tree(random, depth - 1)])) }
}
