// Remembers, from one start of connect to the next, that the box was found away: so an unresponsive
// box is waited for only once, and each outage is reported only once.
//
// The note is a small file in a directory that only its owner can write: root's in /run/nix-lan, a
// user's in the runtime directory. It is opened before root's rights are given up. It is valid only
// while the tunnel's socket is the same one, untouched: a new tunnel makes a new socket, and
// `nix-lan check` touches it when the network has changed.
import { closeSync, constants, fstatSync, ftruncateSync, lstatSync, mkdirSync, openSync, readSync, writeSync } from 'node:fs'
import type { BoxUnavailable } from '../protocol/box.ts'
import { runtimeDir } from '../system/paths.ts'

/**
 * How long, in milliseconds, an unresponsive box isn't tried again: by then ssh has noticed a dead
 * link (ServerAliveInterval × CountMax) and ended the tunnel.
 */
const HOLD = 15_000
/** Milliseconds after bind(2) within which any program that will call listen(2) has done so. */
const BIND_TO_LISTEN = 2000
/**
 * Bytes at which a note starts over: it gets a line from each start that waited for an unresponsive
 * box, or met a stale socket.
 */
const LONG_NOTE = 4096

/** A line of the note. */
interface Found {
  /** When it was found away, in milliseconds since 1970. */
  at: number
  kind: string
  /** Identity of the socket it was about. */
  socket: string
  /** Who found it: a process id. */
  pid: number
}

export class Outage {
  private readonly path: string
  private readonly file: number | null
  /** What is remembered when there is no file. */
  private own: Found[] = []

  /**
   * Never throws: without a place for the note, only this process remembers.
   * @param path the tunnel's socket
   */
  constructor(path: string) {
    this.path = path
    this.file = openNote(path)
  }

  /**
   * Whether asking again is pointless: the box was found unresponsive a moment ago, or the socket
   * stale, and nothing has changed since. Nobody can ever listen on a stale socket's file again,
   * since bind(2) makes a new one; only a socket that was brand new when it refused may still have
   * been about to listen.
   */
  heldBack(now: number): boolean {
    const last = this.read().at(-1)
    if (!last || last.socket !== identity(this.path)) return false
    if (last.kind === 'refused') return last.at - lstatSync(this.path).ctimeMs > BIND_TO_LISTEN
    return last.kind === 'unresponsive' && now >= last.at && now - last.at < HOLD
  }

  /** Notes that the box is away. Returns whether that is news, for the journal. */
  began(error: BoxUnavailable, now: number): boolean {
    if (error.kind === 'missing') return false // the target is down: not a fault
    const socket = identity(this.path)
    // A broken promise is one outage, even if the tunnel's socket disappears meanwhile.
    const same = ({ kind, socket: meant }: Found): boolean => kind === error.kind && (kind === 'broken' || meant === socket)
    const known = this.read().at(-1)
    this.append({ at: now, kind: error.kind, socket, pid: process.pid })
    if (known && same(known)) return false
    // With `max-connections` Nix starts several of us at once, and all find the same thing at the
    // same moment: only the first line reports it.
    const first = this.read().find(same)
    return !first || first.pid === process.pid
  }

  /** When it was first found away, in milliseconds since 1970; undefined: not known to be away. */
  since(): number | undefined {
    return this.read()[0]?.at
  }

  /** Notes that the box answers. */
  ended(): void {
    if (this.read().length > 0) this.clear()
  }

  private read(): Found[] {
    return this.file === null ? this.own : readNote(this.file)
  }

  private append(found: Found): void {
    if (this.file === null) {
      this.own = [found]
      return
    }
    try {
      if (fstatSync(this.file).size > LONG_NOTE) this.clear()
      writeSync(this.file, `${JSON.stringify(found)}\n`) // O_APPEND: whole lines, in some order
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

/**
 * Which socket this is, and when it was last touched. lstat: a link that a user planted must reveal
 * nothing about another file.
 */
export function identity(path: string): string {
  try {
    const stat = lstatSync(path)
    return `${stat.ino} ${stat.mtimeMs} ${stat.ctimeMs}`
  } catch {
    return 'none'
  }
}

function openNote(path: string): number | null {
  const uid = process.geteuid?.() ?? 0
  const directory = uid === 0 ? '/run/nix-lan' : runtimeDir(uid)
  try {
    if (uid === 0) mkdirSync(directory, { mode: 0o755, recursive: true })
    const stat = lstatSync(directory)
    if (!stat.isDirectory() || stat.uid !== uid || (stat.mode & 0o022) !== 0) return null
    const file = openSync(
      `${directory}/away.${encodeURIComponent(path)}`,
      constants.O_RDWR | constants.O_APPEND | constants.O_CREAT | constants.O_NOFOLLOW | constants.O_NONBLOCK,
      0o600,
    )
    if (fstatSync(file).isFile()) return file
    closeSync(file)
  } catch {
    // no such directory, or a read-only one
  }
  return null
}

function readNote(file: number): Found[] {
  try {
    const bytes = Buffer.alloc(2 * LONG_NOTE)
    const text = bytes.toString('utf8', 0, readSync(file, bytes, 0, bytes.length, 0))
    return text.split('\n').slice(0, -1).map(readLine)
  } catch {
    return [] // not ours, or truncated: as if there had been no outage
  }
}

/** @throws Error for a line that isn't from a note */
function readLine(line: string): Found {
  const { at, kind, socket, pid } = JSON.parse(line) as Found
  if (typeof at !== 'number' || typeof kind !== 'string' || typeof socket !== 'string') throw new Error('no note')
  return { at, kind, socket, pid }
}
