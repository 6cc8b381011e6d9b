// Asks for small NARs before Nix does, and holds each whole in memory before Nix gets a byte of it.
// Starts only with the session's first NAR: a dry run fetches nothing.
import { createHash } from 'node:crypto'
import type { ByteReader } from '../protocol/byte-reader.ts'
import { NarEnd } from '../protocol/nar-end.ts'
import { narQuestion } from '../protocol/operations.ts'
import { Recorder, readMessages, STDERR_LAST } from '../protocol/wire.ts'
import type { Link, Links } from './links.ts'
import type { Promised } from './promises.ts'

/** Larger NARs aren't read ahead: their round trip costs little compared with their bytes. */
const SMALL = 4 * 2 ** 20
/** Maximum bytes held in memory or on their way. */
const MOST = 32 * 2 ** 20
/** The limit at first; it doubles with each NAR that Nix takes. */
const FIRST = 2 ** 20
/** Milliseconds after which a NAR that Nix hasn't taken is dropped to make room. */
const UNTAKEN = 30_000
/** Milliseconds without a NAR after which nothing more is read ahead until the next. */
const OVER = 120_000
/** Maximum of paths remembered as promised: a session may last for days. */
const MOST_PROMISED = 20_000
/**
 * Bytes on their way on every connection before another is opened: about the window of an ssh
 * channel (2 MiB, OpenSSH's channels.h).
 */
const FULL = 2 * 2 ** 20
const MOST_LINKS = 3
/** Fewer bytes than this in the time that a link may be silent count as silence. */
const FLOOR = 16384

interface Ahead {
  size: number
  /** The NAR; undefined when it can't be had this way. */
  nar: Promise<Buffer | undefined>
  /** When it was complete; undefined before that. */
  since: number | undefined
}

interface Lane {
  link: Link
  /** Bytes on their way. */
  bytes: number
}

export class Nars {
  private readonly links: Links
  private lanes: Lane[] = []
  private opening = false
  /** Paths that Nix has been told are there, in the order it asked, with what was promised. */
  private readonly promised = new Map<string, Promised>()
  private readonly held = new Map<string, Ahead>()
  private used = 0
  private window = FIRST
  private begun = false
  private lastTaken = 0

  constructor(links: Links) {
    this.links = links
  }

  /** Nix has been told that this path is there. */
  promise(path: string, { size, hash }: Promised): void {
    if (size > 0 && size <= SMALL && !this.held.has(path)) this.promised.set(path, { size, hash })
    if (this.promised.size > MOST_PROMISED) this.promised.delete(this.promised.keys().next().value ?? '')
    if (this.begun) this.readOn()
  }

  /** The answer to NarFromPath: STDERR_LAST and the NAR. Undefined: not read ahead, ask the box. */
  async take(path: string): Promise<Buffer | undefined> {
    this.promised.delete(path)
    const ahead = this.held.get(path)
    if (this.begun) this.window = Math.min(MOST, 2 * this.window)
    this.begun = true
    this.lastTaken = performance.now()
    if (!ahead) {
      this.readOn()
      return undefined
    }
    const nar = await ahead.nar
    this.drop(path, ahead)
    this.readOn()
    return nar
  }

  /**
   * To be called every second. After a while without a NAR the next questions may be a dry run's
   * again.
   */
  tick(): void {
    this.dropUntaken()
    if (!this.begun || performance.now() - this.lastTaken < OVER) return
    this.begun = false
    this.window = FIRST
  }

  /** The box was lost: its promises no longer hold. What is already in memory is still good. */
  lost(): void {
    this.promised.clear()
  }

  /** Asks for as many NARs as there is room for. */
  private readOn(): void {
    this.dropUntaken()
    for (let lane = this.lane(); lane; lane = this.lane()) {
      const [next] = this.promised
      if (!next || this.used + next[1].size > this.window) return
      this.promised.delete(next[0])
      this.ask(lane, ...next)
    }
  }

  private ask(lane: Lane, path: string, promised: Promised): void {
    const { size } = promised
    this.used += size
    lane.bytes += size
    const nar = lane.link.ask(narQuestion(path), (reader, alive) => readNar(reader, promised, alive))
    const ahead: Ahead = { size, since: undefined, nar: nar.catch(() => undefined) }
    this.held.set(path, ahead)
    ahead.nar.then((got) => {
      lane.bytes -= size
      ahead.since = performance.now()
      if (!got) this.drop(path, ahead)
    })
  }

  private dropUntaken(): void {
    for (const [path, ahead] of this.held) {
      if (ahead.since === undefined || performance.now() - ahead.since < UNTAKEN) break
      this.drop(path, ahead)
    }
  }

  private drop(path: string, ahead: Ahead): void {
    if (this.held.get(path) !== ahead) return
    this.held.delete(path)
    this.used -= ahead.size
  }

  /**
   * The connection for the next question; undefined while there is none. Opens more if all are
   * busy.
   */
  private lane(): Lane | undefined {
    for (const { link } of this.lanes) if (link.stale) this.links.drop(link)
    this.lanes = this.lanes.filter(({ link }) => !link.failure)
    const [least] = this.lanes.sort((a, b) => a.bytes - b.bytes)
    if ((!least || least.bytes >= FULL) && this.lanes.length < MOST_LINKS && !this.opening) this.open()
    return least
  }

  private async open(): Promise<void> {
    this.opening = true
    const link = await this.links.another()
    this.opening = false
    if (!link) return
    this.lanes.push({ link, bytes: 0 })
    this.readOn()
  }
}

/**
 * Reads STDERR_LAST and a NAR. Returns undefined if the box refuses or it isn't the promised one:
 * the session then finds out more.
 */
async function readNar(reader: ByteReader, { size, hash }: Promised, alive: () => void): Promise<Buffer | undefined> {
  const ending = await readMessages(new Recorder(reader))
  if (ending.error) return undefined
  const answer = Buffer.allocUnsafe(8 + size)
  answer.writeBigUInt64LE(BigInt(STDERR_LAST))
  const end = new NarEnd()
  let at = 8
  let floor = FLOOR
  while (!end.done) {
    const chunk = await reader.peek()
    const length = end.scan(chunk)
    if (at + length > answer.length) throw new Error('a NAR that is larger than the box has said')
    chunk.copy(answer, at, 0, length)
    reader.consume(length)
    at += length
    if (at < floor) continue
    floor = at + FLOOR
    alive()
  }
  return at === answer.length && createHash('sha256').update(answer.subarray(8)).digest('hex') === hash ? answer : undefined
}
