// Gets a session to the box: dials when the box is needed, dials again after a loss, and is never
// the reason a build fails.
import { lstatSync, writeSync } from 'node:fs'
import { Away, Failure, noTunnel } from '../cli/errors.ts'
import { inSeconds, oneLine } from '../cli/text.ts'
import { type Box, BoxUnavailable } from '../protocol/box.ts'
import type { Acquaintance } from '../protocol/dial-for-client.ts'
import { fetchedBy, Transfers } from '../system/transfers.ts'
import { identity, Outage } from './outage.ts'
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
   * @param next what is done about it
   */
  lost(error: Error, next?: string): void
  /**
   * For a box that is lost while it owes Nix a path. Returns a function that dials, again and
   * again, until the box answers, or returns null once patience is over. Patience starts now if the
   * box was there, else when it was first found away, by whichever start of connect. Without this,
   * nothing is waited for.
   */
  redial?(wasThere: boolean): () => Promise<Box | null>
  report(line: string): void
  /** Called when Nix has been given a path, with the size of its NAR in bytes. */
  fetched?(bytes: number): void
  /** Opens the extra connections to read ahead on; without it nothing is read ahead. */
  further?: Further
  /** For uploads and people: pass the box's errors on as they are. */
  strict: boolean
}

/** Connects to a target, as the user who owns it, and counts what is fetched from it. */
class Dialler {
  private readonly target: Target
  private readonly transfers: Transfers

  constructor(target: Target) {
    this.target = target
    this.transfers = new Transfers(fetchedBy(target.socket))
  }

  /** @throws BoxUnavailable */
  async dial(): Promise<Box> {
    return await this.through(async (way) => {
      const { dialBox } = await import('../protocol/dial.ts')
      return await dialBox(this.target.socket, this.target.deadline, way)
    })
  }

  /** @throws BoxUnavailable */
  async dialForClient(): Promise<Acquaintance> {
    return await this.through(async (way) => {
      const { dialForClient } = await import('../protocol/dial-for-client.ts')
      return await dialForClient(this.target.socket, this.target.deadline, way)
    })
  }

  private async through<T>(connect: (way: string) => Promise<T>): Promise<T> {
    const { socket } = this.target
    const way = becomeOwner(socket, () => this.transfers.open()) // that file is root's
    try {
      if (!lstatSync(socket, { throwIfNoEntry: false })) throw new BoxUnavailable('missing', noTunnel(socket))
      return await connect(way.path)
    } finally {
      way.release()
    }
  }

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
 */
export function redialling(target: Target | null): Upstream {
  const dialler = target && new Dialler(target)
  let outage: Outage | null = null
  try {
    if (target) outage = new Outage(target.socket)
  } catch (mistake) {
    report(`this is a bug: ${(mistake as Error).message}`) // no notes, then
  }
  function lost(error: Error, next = 'going on without it'): void {
    const reason = error instanceof BoxUnavailable ? error : new BoxUnavailable('broken', error.message)
    try {
      if (outage?.began(reason, Date.now())) report(`${reason.message}; ${next}`)
    } catch (mistake) {
      report(`this is a bug: ${(mistake as Error).message}`) // taking notes must not end the conversation
    }
  }
  let again = 0 // when the next attempt is worth it, by a monotonic clock: Nix may ask a thousand things in a second
  async function dial(): Promise<Box | null> {
    if (!dialler || performance.now() < again) return null
    again = performance.now() + PAUSE
    try {
      if (outage?.heldBack(Date.now())) return null
      const box = await dialler.dial()
      Promise.resolve(box.handshake)
        .then(() => outage?.ended())
        .catch(() => {}) // lost() is told why a handshake fails
      return box
    } catch (error) {
      lost(error as Error)
      return null
    }
  }
  function redial(wasThere: boolean): () => Promise<Box | null> {
    const now = Date.now()
    const since = wasThere ? now : Math.min(now, outage?.since() ?? now)
    const end = performance.now() + (since - now) + (target?.patience ?? 0)
    let pause = 0 // before the first attempt; it grows, so a box that drops each connection isn't dialled without end either
    return async () => {
      if (!dialler || !target || performance.now() >= end) return null
      for (;;) {
        await socketChanges(target.socket, Math.min(end, performance.now() + pause))
        if (performance.now() >= end) break
        pause = Math.min(LONGEST_PAUSE, pause === 0 ? FIRST_PAUSE : 1.6 * pause)
        try {
          const box = await dialler.dial()
          await box.handshake
          outage?.ended()
          return box
        } catch {
          // still away
        }
      }
      report(`the box has not come back within ${inSeconds(target.patience)}: what it owes Nix has to come from elsewhere`)
      return null
    }
  }
  let told = false
  return {
    lost,
    redial,
    report: (text) => {
      if (!told) report(text) // a box with a broken database says so for each of a thousand paths
      told = true
    },
    ...(dialler &&
      target && { fetched: dialler.fetched, further: { dial: () => dialler.dial(), identity: () => identity(target.socket) } }),
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
