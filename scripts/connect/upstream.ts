// Gets a session to the box: dials when the box is needed, dials again after a loss, and is never
// the reason a build fails.
import { lstatSync, writeSync } from 'node:fs'
import type { Socket } from 'node:net'
import { Away, Failure, noTunnel } from '../cli/errors.ts'
import { inSeconds, oneLine } from '../cli/text.ts'
import { type Box, BoxUnavailable } from '../protocol/box.ts'
import type { ByteReader } from '../protocol/byte-reader.ts'
import type { Acquaintance } from '../protocol/dial-for-client.ts'
import { Damage } from '../system/damage.ts'
import { identity } from '../system/outage-note.ts'
import { fetchedBy, Transfers } from '../system/transfers.ts'
import { type Loss, Outage } from './outage.ts'
import { becomeOwner } from './owner.ts'
import type { Further } from './read-ahead.ts'

const LONGEST_LINE = 1000
/** Minimum milliseconds between two attempts of one process. */
const PAUSE = 1000
/**
 * Milliseconds between two attempts to get back a box that owes a path; the pauses grow. In
 * between, its socket is watched.
 */
const FIRST_PAUSE = 100
const LONGEST_PAUSE = 5000
const LOOK = 100
/**
 * Minimum milliseconds between two checks that we ask for while the tunnel's socket is missing: the
 * check starts the tunnel once the box is back, and its timer goes off twice a minute only.
 */
const CHECKS = 5000
/** Milliseconds for which a look at the note of the outage is believed, between two questions. */
const GLANCE = 200

/** Where the box is. */
export interface Target {
  /** The tunnel's socket. */
  socket: string
  /** How long to wait for the box's handshake, in milliseconds. */
  deadline: number
  /** How long to wait for a box that is lost while it owes Nix a path, in milliseconds. */
  patience: number
}

export interface Upstream {
  /**
   * Connects to the box, or says at once that it is away. Called again for each operation while
   * there is no box.
   */
  dial(): Promise<Box | null>
  /**
   * Called when a box that had answered is lost, and for anything else it did wrong.
   * @param since when it last got somewhere, by performance.now(); default: now
   * @param wait for it
   */
  lost(error: Error, since?: number, wait?: Waiting): void
  /** Called when the box has answered. @param nar with a whole NAR */
  answered?(nar: boolean): void
  /** Whether patience with the box has run out: then what it has counts as missing. */
  givenUp?(): boolean
  /**
   * For a box that is lost while it owes Nix a path. Without this, nothing is waited for.
   * @param since when it last got somewhere, by performance.now(), which is when patience begins;
   * undefined: it was away from the start, and patience began when the first start of connect found
   * it so
   * @param further whether it has got further than the last time that it was lost
   */
  redial?(since?: number, further?: boolean): Waiting
  report(line: string): void
  /** Called when Nix has been given a path, with the size of its NAR in bytes. */
  fetched?(bytes: number): void
  /**
   * Asks a question, other than for a NAR, on a connection that several sessions share; without
   * this, each asks on its own. Resolves to null when the box is away.
   * @param read reads the answer, and nothing beyond it
   * @throws what `read` throws, or why the connection was lost
   */
  ask?<T>(question: Buffer, read: (reader: ByteReader) => Promise<T>): Promise<T | null>
  /**
   * Takes back a connection between two questions, for any session to use; without this, a session
   * keeps it. Returns null.
   */
  release?(box: Box): null
  /** Connects for a pipe, whose connection no other session will use; default: dial(). */
  dialApart?(): Promise<Box | null>
  /**
   * What is damaged on the box. Without this, nothing is checked that Nix checks itself.
   */
  damage?: {
    /** Whether a path is noted as damaged: it counts as missing. */
    has(path: string): boolean
    /** Notes that a path is. @param why what the box did */
    found(path: string, why: string): void
  }
  /** Opens the extra connections to read ahead on; without it nothing is read ahead. */
  further?: Further
  /** For uploads and people: pass the box's errors on as they are. */
  strict: boolean
}

/** Waits for a box that owes a path. */
export interface Waiting {
  /** Dials, again and again, until the box shakes hands; null: patience is over. */
  next(): Promise<Box | null>
  /** How much of patience is left, in milliseconds. */
  left(): number
}

/** Connects to a target, as the user who owns it, and counts what is fetched from it. */
class Dialler {
  private readonly target: Target
  private readonly transfers: Transfers
  private readonly damage: Damage
  private dialled = false
  private readonly open = new Set<Socket>()
  /** Bytes that came on connections that are closed. */
  private before = 0

  constructor(target: Target, counts?: string) {
    this.target = target
    this.transfers = new Transfers(fetchedBy(target.socket), counts)
    this.damage = new Damage(target.socket, counts)
  }

  /** @throws BoxUnavailable */
  async dial(): Promise<Box> {
    return await this.through(async (way) => {
      const { dialBox } = await import('../protocol/dial.ts')
      const box = await dialBox(this.target.socket, this.target.deadline, way, this.received)
      this.watch(box.socket)
      return box
    })
  }

  /** Counts what comes from the box on this connection, too. */
  private watch(socket: Socket): void {
    if (socket.destroyed) return
    this.open.add(socket)
    socket.once('close', () => {
      this.open.delete(socket)
      this.before += socket.bytesRead
    })
  }

  private readonly received = (): number => [...this.open].reduce((sum, { bytesRead }) => sum + bytesRead, this.before)

  /** @throws BoxUnavailable */
  async dialForClient(): Promise<Acquaintance> {
    return await this.through(async (way) => {
      const { dialForClient } = await import('../protocol/dial-for-client.ts')
      return await dialForClient(this.target.socket, this.target.deadline, way)
    })
  }

  private async through<T>(connect: (way: string) => Promise<T>): Promise<T> {
    const { socket } = this.target
    const way = becomeOwner(socket, (owner) => {
      this.transfers.open() // that file is root's
      this.damage.open(owner)
    })
    try {
      if (!lstatSync(socket, { throwIfNoEntry: false })) throw new BoxUnavailable('missing', noTunnel(socket))
      const connection = await connect(way.path)
      this.dialled = true
      return connection
    } finally {
      way.release()
    }
  }

  /** As root it is known only once root's rights have been given up: the notes are the owner's. */
  isDamaged(path: string): boolean {
    return (this.dialled || process.geteuid?.() !== 0) && this.damage.has(path)
  }

  /** Notes a path. @returns whether that is news */
  foundDamaged = (path: string): boolean => this.damage.add(path)

  readonly fetched = (bytes: number): void => this.transfers.add(1, bytes)
}

/**
 * Dials a box for a strict session, as far as the box goes before it has heard of Nix.
 * @throws Away when the box isn't there; Failure when it is too old
 */
export async function dialOrAway(target: Target): Promise<{ box: Acquaintance; fetched(bytes: number): void }> {
  const dialler = new Dialler(target)
  try {
    return { box: await dialler.dialForClient(), fetched: dialler.fetched }
  } catch (error) {
    const message = (error as Error).message
    throw error instanceof BoxUnavailable && error.kind === 'old' ? new Failure(message) : new Away(message)
  }
}

/**
 * An upstream that never fails: whatever goes wrong is an outage, reported once, and the box is
 * dialled again later.
 * @param target null: there is no box
 * @param folder where to count what is fetched, and to take notes of outages; default:
 * ownTransfers(), and noteFolder()
 */
export function redialling(target: Target | null, folder?: string): Upstream {
  const dialler = target && new Dialler(target, folder)
  let outage: Outage | null = null
  /** Taking notes must not end the conversation. */
  function noted<T>(take: (outage: Outage) => T): T | undefined {
    try {
      return outage ? take(outage) : undefined
    } catch (mistake) {
      report(`this is a bug: ${(mistake as Error).message}`)
      return undefined
    }
  }
  try {
    if (target) outage = new Outage(target.socket, folder)
  } catch (mistake) {
    report(`this is a bug: ${(mistake as Error).message}`) // no notes, then
  }
  // By a monotonic clock: when the last attempt began, and when the next is worth it, since Nix may
  // ask a thousand things in a second.
  let attempt = 0
  let again = 0
  let owesNews = true // an answer ends an outage; the note is looked at once for each loss
  function lost(error: Error, since?: number, wait?: Waiting): void {
    owesNews = true
    again = attempt + PAUSE
    const reason = error instanceof BoxUnavailable ? error : new BoxUnavailable('broken', error.message)
    const loss: Loss = {}
    if (since !== undefined) loss.since = Math.round(Date.now() + since - performance.now())
    if (wait) loss.until = Math.round(Date.now() + wait.left())
    if (noted((outage) => outage.began(reason, Date.now(), loss)))
      report(`${reason.message}; ${wait ? 'waiting for it' : 'going on without it'}`)
  }
  /** When patience began, by performance.now(). */
  function patienceSince(since: number | undefined, further: boolean): number {
    const now = Date.now()
    const begun = noted((outage) => (since === undefined || (!further && outage.isStuck(now)) ? outage.since(now) : undefined))
    const shared = performance.now() + Math.min(0, (begun ?? now) - now)
    return Math.min(since ?? shared, shared)
  }
  async function dial(): Promise<Box | null> {
    if (!dialler || performance.now() < again) return null
    attempt = performance.now()
    try {
      if (outage?.heldBack(Date.now())) {
        again = attempt + PAUSE
        return null
      }
      return await dialler.dial()
    } catch (error) {
      lost(error as Error)
      return null
    }
  }
  let checked = 0 // when we last asked for a check, by performance.now()
  function redial(since?: number, further = false): Waiting {
    const end = patienceSince(since, further) + (target?.patience ?? 0)
    let pause = 0 // before the first attempt; it grows, so a box that drops each connection isn't dialled without end either
    const left = (): number => Math.max(0, end - performance.now())
    async function next(): Promise<Box | null> {
      if (!dialler || !target || noted((outage) => outage.givenUp(Date.now()))) return null
      // Once, however late it is: only now it is known that it was lost.
      for (let first = pause === 0 && since !== undefined; first || left() > 0; first = false) {
        if (identity(target.socket) === 'none' && performance.now() >= checked && noted((outage) => outage.isOurs(Date.now()))) {
          checked = performance.now() + CHECKS
          import('./look.ts').then(({ askForCheck }) => askForCheck(target.socket)).catch(() => {}) // without it, the timer finds the box
        }
        await socketChanges(target.socket, Math.min(end, performance.now() + pause))
        pause = Math.min(LONGEST_PAUSE, pause === 0 ? FIRST_PAUSE : 1.6 * pause)
        try {
          const box = await dialler.dial()
          await box.handshake
          return box
        } catch {
          // still away
        }
      }
      if (noted((outage) => outage.gaveUp(Date.now())))
        report(`the box has not come back within ${inSeconds(target.patience)}: what it owes Nix has to come from elsewhere`)
      return null
    }
    return { next, left }
  }
  function damaged(path: string, why: string): void {
    if (dialler?.foundDamaged(path)) report(`${path} is damaged on the box, and counts as missing from now on: ${why}`)
  }
  let told = false
  let [glanced, over] = [Number.NEGATIVE_INFINITY, false]
  return {
    lost,
    redial,
    answered: (nar) => {
      if (!owesNews && !nar) return
      owesNews = false
      noted((outage) => outage.ended(nar, Date.now()))
    },
    givenUp: () => {
      if (performance.now() - glanced < GLANCE) return over
      glanced = performance.now()
      over = noted((outage) => outage.givenUp(Date.now())) ?? false
      return over
    },
    report: (text) => {
      if (!told) report(text) // a box with a broken database says so for each of a thousand paths
      told = true
    },
    ...(dialler &&
      target && {
        damage: { has: (path: string) => dialler.isDamaged(path), found: damaged },
        fetched: dialler.fetched,
        further: { dial: () => dialler.dial(), identity: () => identity(target.socket), socket: target.socket },
      }),
    strict: false,
    dial,
  }
}

/** Waits until something happens to a socket's file, or performance.now() reaches `end`. */
async function socketChanges(socket: string, end: number): Promise<void> {
  const before = identity(socket)
  while (performance.now() < end && identity(socket) === before)
    await new Promise((resolve) => setTimeout(resolve, Math.min(LOOK, Math.max(0, end - performance.now()))))
}

/**
 * Writes one line for the journal, cut to a bearable length. It may hold the box's own words, which
 * mustn't move a terminal's cursor.
 */
export function report(line: string): void {
  const [first = ''] = line.slice(0, LONGEST_LINE).split('\n')
  try {
    writeSync(2, `nix-lan-connect: ${oneLine(first)}\n`)
  } catch {
    // nobody reads it (`nix build 2>&1 | head`)
  }
}
