// Asks the box for what Nix is about to ask for, so Nix doesn't wait for a round trip each time:
// which paths exist (and so which are missing), what the box knows about them, and small NARs. A
// hit is always the box's own answer; only misses come from the list.
import { lstatSync } from 'node:fs'
import { type Box, BoxUnavailable } from '../protocol/box.ts'
import { type Fields, fieldsOf, pathInfoQuestion, QUERY_ALL_VALID_PATHS, readInfoAnswer, soundInfo } from '../protocol/operations.ts'
import { u64 } from '../protocol/wire.ts'
import type { Infos } from './infos.ts'
import { type LinkFacts, noteLink, readLink } from './link-note.ts'
import { type Link, Links } from './links.ts'
import { Nars } from './nars.ts'
import { type PathIndex, type Progress, readPathIndex } from './path-index.ts'
import { measureRate } from './rate.ts'

/**
 * How long, in milliseconds, the list of paths is believed: what another machine puts there shows
 * up only after that.
 */
const BELIEVED = 30_000
/** Age in milliseconds at which a list that was useful is fetched again. */
const STALE = 20_000
/**
 * Milliseconds a list may always take. While it comes, it delays the answers that Nix waits for by
 * up to that, so one that takes longer has to wait until DEAR times as long has been lost without
 * it: then it costs a tenth at most.
 */
const CHEAP = 300
const DEAR = 10
/** Bytes of a list whose length isn't known: of a box of 4,000 paths. */
const GUESS = 264_000
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
 * If they take longer than CHEAP_INFOS milliseconds, DEAR times that time.
 */
const WORTH = 0.15
const CHEAP_INFOS = 2000
/** Questions in flight at once while all infos are requested: initially, at least, at most. */
const WINDOW = { first: 64, least: 16, most: 2000 }
/**
 * Milliseconds for which the fastest answer is the measure of others: Wi-Fi that begins to save
 * power, or a laptop that has been carried away, answers ten times later for good.
 */
const MEASURE = 10_000
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
  /** How many there may be at once; default: see Links. */
  most?(): number
  /** Changes when something has been put on the box from here, or may have been: see Infos. */
  identity(): string
  /** Path of the tunnel's socket. */
  readonly socket: string
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
  private facts: LinkFacts
  private readonly socket: string

  private link: Promise<Link | null> | null = null
  private readonly pending = new Map<string, Promise<Buffer | null | undefined>>()
  /** The box's paths not yet asked about. */
  private all: string[] = []
  private allGoing = false
  private window = WINDOW.first
  private fastest = { ms: Number.POSITIVE_INFINITY, at: Number.NEGATIVE_INFINITY }

  /**
   * @param infos what the session remembers
   * @param silence seconds of silence before a connection is given up
   * @param silent called when that happens
   */
  constructor(further: Further, infos: Infos, silence: number, silent: (reason: Error) => void) {
    this.silent = silent
    this.infos = infos
    this.changes = infos.changes
    this.links = new Links(further.dial, (reason) => this.failed(reason), further.most)
    this.nars = new Nars(this.links)
    this.clock = setInterval(() => {
      this.links.tick(silence)
      this.nars.tick()
    }, 1000)
    this.socket = further.socket
    this.facts = readLink(further.socket)
    this.fetchIndexIfWorth()
  }

  /** Whether it has failed so often that nothing more is read ahead. */
  get spent(): boolean {
    return this.failures >= MOST_FAILURES
  }

  /** How many connections it has. */
  get connections(): number {
    return this.links.size
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
    this.nars.promise(path, fields)
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
    this.fetchIndexIfWorth()
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
    this.fastest.at = Number.NEGATIVE_INFINITY
    this.facts = readLink(this.socket)
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
    this.failures++
    if (this.spent) this.links.close()
  }

  // --- the list of paths ---

  private fetchIndexIfWorth(): void {
    if (!this.index && this.affordable(this.facts.listBytes ?? GUESS)) this.fetchIndex()
  }

  /** Milliseconds that so many bytes take, as far as is known. */
  private timeOf(bytes: number): number {
    return this.facts.rate ? bytes / this.facts.rate : 0
  }

  /** Whether so many bytes of the list may be asked for by now. */
  private affordable(bytes: number): boolean {
    return this.timeOf(bytes) <= Math.max(CHEAP, this.waited / DEAR)
  }

  private async fetchIndex(): Promise<void> {
    if (this.indexing) return
    this.indexing = true
    const { changes } = this.infos
    const own = await this.links.another()
    const shared = own ? null : this.links.leastBusy()
    const link = own ?? (shared?.pending === 0 ? shared : null)
    let useless = own
    try {
      if (link) this.facts.rate ??= await measureRate(link)
      if (!this.affordable(this.facts.listBytes ?? GUESS)) return
      const asked = performance.now()
      useless = link // the rest of a list that is given up would still come
      const paths = await link?.ask(u64(QUERY_ALL_VALID_PATHS), (reader) => readPathIndex(reader, this.judge()))
      if (paths) useless = own
      if (!paths || changes !== this.infos.changes) return
      this.index = { paths, asked, took: performance.now() - asked }
      this.all = paths.takeNames() ?? []
    } catch {
      // not a list: later, or never
    } finally {
      if (useless) this.links.drop(useless)
      noteLink(this.socket, this.facts)
      this.indexing = false
    }
  }

  /** Measures a list as it arrives, and says whether to go on: it may take only so long. */
  private judge(): (progress: Progress) => boolean {
    let start = 0
    let last = { at: 0, bytes: 0 }
    let rate = 0
    return ({ paths, total, bytes }) => {
      const all = (bytes / paths) * total
      this.facts.listBytes = all
      const now = performance.now()
      start ||= now
      if (last.at === 0) last = { at: now, bytes }
      if (now - last.at < SLOW_START / 2) return true
      rate = Math.max(rate, (bytes - last.bytes) / (now - last.at))
      last = { at: now, bytes }
      if (now - start < SLOW_START) return true
      this.facts.rate = rate
      return this.affordable(all - bytes)
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

  private async linked(): Promise<Link | null> {
    // after a fetch there may be as many as there may be, with nothing to do
    this.link ??= this.links.another().then((link) => link ?? this.links.leastBusy())
    const { link } = this
    const linked = await link
    if (linked && !linked.stale) return linked
    if (linked) this.links.drop(linked) // closed after a while of idleness, or by the box meanwhile
    if (this.link === link) this.link = null
    return linked && (await this.linked())
  }

  private async askNow(path: string): Promise<Buffer | null | undefined> {
    const link = await this.linked()
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
    const cost = this.all.length * INFO_TIME + this.timeOf(this.all.length * INFO_BYTES)
    if (this.waitedForHits < cost * (cost <= CHEAP_INFOS ? WORTH : DEAR)) return
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
    const now = performance.now()
    const outdated = now - this.fastest.at > MEASURE
    if (outdated) this.window = WINDOW.first
    if (outdated || ms < this.fastest.ms) this.fastest = { ms, at: now }
    if (ms > 3 * this.fastest.ms + 20) this.window = Math.max(WINDOW.least, this.window * 0.98)
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
