// Remembers, from one start of connect to the next, that the box was found away: so whatever it
// does is waited for only once, and each outage is reported only once. Several sessions may share
// one Outage.
//
// The note is a small file in a directory that only its owner can write: root's in /run/nix-lan, a
// user's in the runtime directory (system/outage-note.ts). It is opened before root's rights are
// given up. What it says of a socket holds while that is the same one, untouched: a new tunnel
// makes a new socket, and `nix-lan check` touches it when the network has changed.
import { closeSync, constants, fstatSync, ftruncateSync, lstatSync, mkdirSync, openSync, writeSync } from 'node:fs'
import type { BoxUnavailable } from '../protocol/box.ts'
import { FORGOTTEN, type Found, identity, isAlive, latestOutage, noteFile, noteFolder, readNote } from '../system/outage-note.ts'

/**
 * How long, in milliseconds, a box isn't asked again: as long as the outage has lasted when it was
 * last found, but at least and at most so long. `unresponsive`: after the least, ssh has noticed a
 * dead link (ServerAliveInterval × CountMax) and ended the tunnel. `over`: it has kept a build
 * waiting until patience ran out.
 */
const HOLD: Record<string, [least: number, most: number]> = {
  broken: [1000, 15_000],
  old: [15_000, 60_000],
  unresponsive: [15_000, 60_000],
  slow: [15_000, 60_000],
  over: [60_000, 300_000],
}
/** Milliseconds after bind(2) within which any program that will call listen(2) has done so. */
const BIND_TO_LISTEN = 2000
/**
 * Bytes at which an outage keeps only its first line and the one that says that patience has run
 * out: each start may add one. Nothing is dropped earlier, not even what is out of date: whoever
 * else finds the box away at this moment may have added a line, and both would report it.
 */
const LONG_NOTE = 4096
/** The same without a file, in lines. */
const LONG = 40

/** What may happen to a box that owes a path. */
const PROMISED = ['broken', 'slow']

/** More about how a box was found away; milliseconds since 1970. */
export interface Loss {
  /** Since when it has got nowhere, if that is known; else since now. */
  since?: number
  /** Until when somebody waits for it. */
  until?: number
}

export class Outage {
  private readonly path: string
  private readonly file: number | null
  /** What is remembered when there is no file. */
  private own: Found[] = []

  /**
   * Never throws: without a place for the note, only this process remembers.
   * @param path the tunnel's socket
   * @param folder where the note is
   */
  constructor(path: string, folder = noteFolder(process.geteuid?.() ?? 0)) {
    this.path = path
    this.file = openNote(path, folder)
  }

  /**
   * Whether asking again is pointless: the box was found away a moment ago, or the socket stale,
   * and nothing has changed since. Nobody can ever listen on a stale socket's file again, since
   * bind(2) makes a new one; only a socket that was brand new when it refused may still have been
   * about to listen.
   */
  heldBack(now: number): boolean {
    const all = this.read(now)
    const last = all.at(-1)
    if (!last || last.socket !== identity(this.path)) return false
    if (last.kind === 'refused') return last.at - lstatSync(this.path).ctimeMs > BIND_TO_LISTEN
    return holds(all, last, now)
  }

  /**
   * Whether patience with the box has run out, for whoever waits or comes later: what it has, or
   * has promised, counts as missing.
   */
  givenUp(now: number): boolean {
    const all = this.read(now)
    return holdsOver(all, all.filter(isOver).at(-1), identity(this.path), now)
  }

  /** Notes that the box is away. Returns whether that is news, for the journal. */
  began(error: BoxUnavailable, now: number, loss: Loss = {}): boolean {
    if (error.kind === 'missing') return false // the target is down: not a fault
    const socket = identity(this.path)
    // A broken promise is one outage, even if the tunnel's socket disappears meanwhile.
    const same = ({ kind, socket: meant }: Found): boolean => kind === error.kind && (PROMISED.includes(kind) || meant === socket)
    const known = this.read(now).at(-1)
    this.append({ at: now, kind: error.kind, socket, pid: process.pid, ...loss })
    return !(known && same(known)) && this.isFirst(same, now)
  }

  /**
   * Whether the first such line is ours. With `max-connections` Nix starts several of us at once,
   * and all find the same thing at the same moment: only the first line reports it.
   */
  private isFirst(same: (found: Found) => boolean, now: number): boolean {
    const first = this.read(now).find(same)
    return !first || first.pid === process.pid
  }

  /** Since when it has got nowhere, in milliseconds since 1970; undefined: not known to be away. */
  since(now: number): number | undefined {
    return startOf(this.read(now))
  }

  /** Whether it was us who found it away first, or somebody who has ended since. */
  isOurs(now: number): boolean {
    const [first] = this.read(now)
    return first !== undefined && (first.pid === process.pid || !isAlive(first.pid))
  }

  /** Whether this very tunnel's box gets nowhere in the middle of a NAR, as far as is known. */
  isStuck(now: number): boolean {
    const socket = identity(this.path)
    return this.read(now).some((found) => (found.kind === 'slow' || found.kind === 'over') && found.socket === socket)
  }

  /** Notes that patience has run out. Returns whether that is news. */
  gaveUp(now: number): boolean {
    if (this.givenUp(now)) return false
    const socket = identity(this.path)
    this.append({ at: now, kind: 'over', socket, pid: process.pid })
    const all = this.read(now)
    // whose line is first may have read the clock last
    return this.isFirst((found) => holdsOver(all, found, socket, Math.max(now, found.at)), now)
  }

  /**
   * Notes that the box has answered.
   * @param nar a whole NAR. A box that gets nowhere in the middle of one may answer questions: that
   * says nothing, unless the tunnel is another one by now.
   */
  ended(nar: boolean, now: number): void {
    if (this.read(now).length > 0 && (nar || !this.isStuck(now))) this.clear()
  }

  private read(now: number): Found[] {
    const all = this.file === null ? latestOutage(this.own) : readNote(this.file)
    const last = all.at(-1)
    return last && Math.abs(now - last.at) > FORGOTTEN ? [] : all
  }

  private append(found: Found): void {
    if (this.file === null) {
      this.own = [...(this.own.length > LONG ? this.own.slice(0, 1) : this.own), found]
      return
    }
    try {
      let line = `${JSON.stringify(found)}\n`
      if (fstatSync(this.file).size > LONG_NOTE) {
        const all = this.read(found.at)
        this.clear()
        const kept = new Set([...all.slice(0, 1), ...all.filter(isOver).slice(-1)])
        line = [...kept].map((one) => `${JSON.stringify(one)}\n`).join('') + line
      }
      writeSync(this.file, line) // O_APPEND: whole lines, in some order
    } catch {
      // /run is full: not remembered, then
    }
  }

  private clear(): void {
    this.own = []
    try {
      if (this.file !== null) ftruncateSync(this.file, 0)
    } catch {
      // as above
    }
  }
}

const startOf = (all: readonly Found[]): number | undefined => all[0]?.since ?? all[0]?.at

const isOver = ({ kind }: Found): boolean => kind === 'over'

/** Whether a line says that patience with this very socket's box has run out, and still holds. */
function holdsOver(all: readonly Found[], found: Found | undefined, socket: string, now: number): boolean {
  return found !== undefined && isOver(found) && found.socket === socket && holds(all, found, now)
}

/** Whether a line still holds; see HOLD. */
function holds(all: readonly Found[], { at, kind }: Found, now: number): boolean {
  const [least, most] = HOLD[kind] ?? [0, 0]
  const lasted = at - (startOf(all) ?? at)
  return now >= at && now - at < Math.min(most, Math.max(least, lasted))
}

function openNote(path: string, folder: string): number | null {
  const uid = process.geteuid?.() ?? 0
  try {
    if (uid === 0) mkdirSync(folder, { mode: 0o755, recursive: true })
    const stat = lstatSync(folder)
    if (!stat.isDirectory() || stat.uid !== uid || (stat.mode & 0o022) !== 0) return null
    const file = openSync(
      noteFile(folder, path),
      constants.O_RDWR | constants.O_APPEND | constants.O_CREAT | constants.O_NOFOLLOW | constants.O_NONBLOCK,
      0o644, // `nix-lan status` reads it
    )
    if (fstatSync(file).isFile()) return file
    closeSync(file)
  } catch {
    // no such folder, or a read-only one
  }
  return null
}
