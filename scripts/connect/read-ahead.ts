// Asks the box for what Nix is about to ask for, so Nix doesn't wait for a round trip each time:
// which paths exist (and so which are missing), what the box knows about them, and small NARs. A
// hit is always the box's own answer; only misses come from the list.
import { lstatSync } from 'node:fs'
import { type Box, BoxUnavailable } from '../protocol/box.ts'
import { type Fields, fieldsOf, pathInfoQuestion, QUERY_ALL_VALID_PATHS, readInfoAnswer, soundInfo } from '../protocol/operations.ts'
import { u64 } from '../protocol/wire.ts'
import type { Infos } from './infos.ts'
import { type Link, Links } from './links.ts'
import { Nars } from './nars.ts'
import { type PathIndex, type Progress, readPathIndex } from './path-index.ts'

/**
 * How long, in milliseconds, the list of paths is believed: what another machine puts there shows
 * up only after that.
 */
const BELIEVED = 30_000
/** Age in milliseconds at which a list that was useful is fetched again. */
const STALE = 20_000
/** Milliseconds a list may always take; more only if as much has been lost waiting without it. */
const CHEAP = 300
/** Milliseconds before the rate of an arriving list means anything: TCP starts slowly. */
const SLOW_START = 100
/**
 * Milliseconds that the box and we need to handle one info, and its bytes on the wire: measured on
 * real stores (20,000 paths).
 */
const INFO_TIME = 0.05
const INFO_BYTES = 300
/**
 * Share of the time that all infos take: once waiting for single ones has cost that, ask for all.
 */
const WORTH = 0.15
/** Questions in flight at once while all infos are requested: initially, at least, at most. */
const WINDOW = { first: 64, least: 16, most: 2000 }
/** Maximum of files looked for in one turn of the event loop. */
const LOOKS = 500
/** After this many failed connections, nothing more is read ahead. */
const MOST_FAILURES = 3

/** How to reach the box. */
export interface Further {
  /**
   * Another connection to the box.
   * @throws when there is none to be had
   */
  dial(): Promise<Box>
  /** Changes when something has been put on the box from here, or may have been: see Infos. */
  identity(): string
}

export class ReadAhead {
  private readonly silent: (reason: Error) => void
  private readonly infos: Infos
  private readonly links: Links
  private readonly nars: Nars
  private readonly clock: NodeJS.Timeout
  /** That many changes on the box are taken into account, see Infos. */
  private changes: number
  private failures = 0
  /**
   * Milliseconds that Nix has waited for infos: for all of them, and for those of paths that exist,
   * since the last NAR.
   */
  private waited = 0
  private waitedForHits = 0

  private index: { paths: PathIndex; asked: number; took: number } | null = null
  private indexing = false
  /** How long the list will take, in milliseconds, as far as is known. */
  private indexCost = 0
  /** Bytes per millisecond at which the list came. */
  private rate = 0

  private link: Promise<Link | null> | null = null
  private readonly pending = new Map<string, Promise<Buffer | null | undefined>>()
  /** The box's paths not yet asked about. */
  private all: string[] = []
  private allGoing = false
  private window = WINDOW.first
  private fastest = Number.POSITIVE_INFINITY

  /**
   * @param infos what the session remembers
   * @param silence seconds of silence before a connection is given up
   * @param silent called when that happens
   */
  constructor(further: Further, infos: Infos, silence: number, silent: (reason: Error) => void) {
    this.silent = silent
    this.infos = infos
    this.changes = infos.changes
    this.links = new Links(further.dial, (reason) => this.failed(reason))
    this.nars = new Nars(this.links)
    this.clock = setInterval(() => this.links.tick(silence), 1000)
    this.fetchIndex()
  }

  close(): void {
    clearInterval(this.clock)
    this.links.close()
  }

  /**
   * What is known of a path, from "I have it" on; null: the box lacks it; undefined: ask. Waits for
   * an answer that is already on its way.
   */
  async info(path: string): Promise<Buffer | null | undefined> {
    this.lookAround()
    let known = this.infos.get(path)
    if (known === undefined) known = this.lacks(path) ? null : await this.underWay(path)
    if (known) this.promised(path, known)
    return known
  }

  /** The answer that is on its way, if one is. */
  private async underWay(path: string): Promise<Buffer | null | undefined> {
    const pending = this.pending.get(path)
    if (!pending) return undefined
    const start = performance.now()
    const answer = await pending
    this.hasWaited(performance.now() - start, answer)
    return answer
  }

  /** Whether the box is known to lack a path. */
  lacks(path: string): boolean {
    const { index } = this
    if (!index) return false
    this.lookAround()
    const age = performance.now() - index.asked
    if (age > STALE && index.took < CHEAP) this.fetchIndex()
    if (age >= BELIEVED) {
      this.index = null
      this.waited = 0
    }
    return this.index === index && index.paths.lacks(path)
  }

  /** The answer to NarFromPath, if the NAR has been read ahead. */
  async nar(path: string): Promise<Buffer | undefined> {
    this.waitedForHits = 0
    this.allGoing = false // by now Nix has asked what there is
    return await this.nars.take(path)
  }

  /**
   * Nix is given this answer.
   * @param answer from "I have it" on
   */
  private promised(path: string, answer: Buffer): void {
    const fields = fieldsOf(answer)
    this.nars.promise(path, fields.size)
    this.readReferences(fields)
  }

  /**
   * The box has answered Nix's question, after `ms` milliseconds.
   * @param answer from "I have it" on; null: it lacks the path
   */
  answered(path: string, answer: Buffer | null, ms: number): void {
    if (answer) {
      this.remember(path, answer)
      this.promised(path, answer)
    }
    this.hasWaited(ms, answer)
  }

  /** Nix has waited `ms` milliseconds for an answer; see answered(). */
  private hasWaited(ms: number, answer: Buffer | null | undefined): void {
    this.waited += ms
    if (!this.index && this.waited > this.indexCost) this.fetchIndex()
    if (!answer) return
    this.waitedForHits += ms
    this.readAll()
  }

  /** Forgets everything when something may have been put on the box. */
  private lookAround(): void {
    this.infos.lookAround()
    const { changes } = this.infos
    if (changes === this.changes) return
    this.changes = changes
    this.forget()
  }

  private forget(): void {
    this.index = null
    this.infos.clear()
    this.all = []
    this.allGoing = false
  }

  /** The box was lost: nothing it has said is a promise any more. */
  boxLost(): void {
    this.forget()
    this.nars.lost()
  }

  private failed(reason: Error): void {
    if (reason instanceof BoxUnavailable && reason.kind === 'unresponsive') this.silent(reason)
    this.link = null
    this.boxLost()
    if (++this.failures >= MOST_FAILURES) this.links.close()
  }

  // --- the list of paths ---

  private async fetchIndex(): Promise<void> {
    if (this.indexing) return
    this.indexing = true
    const { changes } = this.infos
    const link = await this.links.another()
    try {
      const asked = performance.now()
      const paths = await link?.ask(u64(QUERY_ALL_VALID_PATHS), (reader) => readPathIndex(reader, this.judge()))
      if (!paths || changes !== this.infos.changes) return
      this.index = { paths, asked, took: performance.now() - asked }
      this.all = paths.takeNames() ?? []
    } catch {
      // not worth it, or not a list: later, or never
    } finally {
      if (link) this.links.drop(link)
      this.indexing = false
    }
  }

  /** Measures a list as it arrives, and gives it up when it takes longer than it may. */
  private judge(): (progress: Progress) => void {
    let start = 0
    let last = { at: 0, bytes: 0 }
    let rate = 0
    return ({ paths, total, bytes }) => {
      const now = performance.now()
      start ||= now
      if (last.at === 0) last = { at: now, bytes }
      if (now - last.at < SLOW_START / 2) return
      rate = Math.max(rate, (bytes - last.bytes) / (now - last.at))
      last = { at: now, bytes }
      if (now - start < SLOW_START) return
      this.rate = rate
      this.indexCost = (bytes / paths) * (total / rate)
      const left = this.indexCost * (1 - paths / total)
      if (left > Math.max(CHEAP, this.waited)) throw new Error('a list that takes too long')
    }
  }

  // --- infos ---

  /**
   * Keeps what this machine may believe: Nix takes no path without a signature or a content
   * address, and a path that lacks both may still get one.
   */
  private remember(path: string, answer: Buffer): void {
    const { signatures, contentAddress } = fieldsOf(answer)
    if (signatures.length > 0 || contentAddress !== '') this.infos.hit(path, answer)
  }

  /** Asks for the references that aren't here, and for theirs in turn. */
  private readReferences({ references }: Fields): void {
    for (const reference of references) {
      if (this.pending.has(reference) || this.infos.get(reference) !== undefined || here(reference)) continue
      this.ask(reference).then((answer) => answer && this.readReferences(fieldsOf(answer)))
    }
  }

  /** Asks for an info ahead of Nix. Never rejects; undefined when it can't be had. */
  private ask(path: string): Promise<Buffer | null | undefined> {
    const asked = this.askNow(path).catch(() => undefined)
    this.pending.set(path, asked)
    asked.then(() => this.pending.delete(path))
    return asked
  }

  private async askNow(path: string): Promise<Buffer | null | undefined> {
    this.link ??= this.links.another()
    const link = await this.link
    if (!link) return undefined
    const { changes } = this.infos
    const asked = performance.now()
    const answer = await link.ask(pathInfoQuestion(path), readInfoAnswer)
    this.pace(performance.now() - asked)
    if (changes !== this.infos.changes) return undefined
    if (answer === null) this.infos.miss(path)
    if (!answer) return answer
    if (!soundInfo(answer, path)) return undefined
    this.remember(path, answer)
    return answer
  }

  // --- all infos ---

  /** Starts asking for all infos that may be wanted, once that pays. */
  private readAll(): void {
    if (this.allGoing || this.all.length === 0) return
    const cost = this.all.length * (INFO_TIME + (this.rate > 0 ? INFO_BYTES / this.rate : 0))
    if (this.waitedForHits < WORTH * cost) return
    this.allGoing = true
    this.readMore()
  }

  private readMore(): void {
    for (let looks = 0; this.allGoing && this.pending.size < this.window; looks++) {
      if (looks >= LOOKS) {
        setImmediate(() => this.readMore())
        return
      }
      const path = this.all.pop()
      if (path === undefined) {
        this.allGoing = false
        return
      }
      if (this.pending.has(path) || this.infos.get(path) !== undefined || here(path)) continue
      this.ask(path).then(() => this.readMore())
    }
  }

  /**
   * Keeps the link and the box free for what Nix is waiting for: no more questions at once than are
   * answered about as fast as a single one.
   */
  private pace(ms: number): void {
    this.fastest = Math.min(this.fastest, ms)
    if (ms > 3 * this.fastest + 20) this.window = Math.max(WINDOW.least, this.window * 0.98)
    else this.window = Math.min(WINDOW.most, this.window + 1)
  }
}

/** Whether a path is in this machine's store, as far as can be seen. */
function here(path: string): boolean {
  try {
    return lstatSync(path, { throwIfNoEntry: false }) !== undefined
  } catch {
    return true // can't be seen: assume so, and read nothing ahead
  }
}
