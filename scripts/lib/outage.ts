// Remembers, from one start of connect to the next, that a box was found away: a mute one is waited for once, and each outage is reported once.
//
// The note is a small file in a directory that only its owner can write: root's in /run/nix-lan, a user's in the runtime directory. It is opened before
// root's rights are given up. It holds only as long as the tunnel's socket is the same one, untouched: a new tunnel makes a new socket, and
// `nix-lan check` touches it when the network has changed.
import { closeSync, constants, fstatSync, ftruncateSync, lstatSync, mkdirSync, openSync, readSync, writeSync } from 'node:fs'
import { runtimeDir } from './paths.ts'
import type { NoBox } from './worker.ts'

/** For how long, in milliseconds, a mute box isn't tried again: by then ssh has noticed a dead link (ServerAliveInterval × CountMax) and ended the tunnel. */
const HOLD = 15_000
const LONGEST_NOTE = 4096

interface Note {
  /** When it was found away, in milliseconds since 1970. */
  at: number
  kind: string
  /** Which socket was meant. */
  socket: string
}

export class Outage {
  private readonly path: string
  private readonly file: number | null
  private note: Note | null

  /** @param path the tunnel's socket. Never throws: without a place for the note, nothing is remembered. */
  constructor(path: string) {
    this.path = path
    this.file = openNote(path)
    this.note = this.file === null ? null : readNote(this.file)
  }

  /** Whether the box was found mute a moment ago and nothing has changed since. */
  heldBack(now: number): boolean {
    const note = this.read()
    return note?.kind === 'mute' && note.socket === identity(this.path) && now >= note.at && now - note.at < HOLD
  }

  /** Takes down that the box is away. Returns whether it is news, for the journal. */
  began(error: NoBox, now: number): boolean {
    if (error.kind === 'missing') return false // the target is down: that is no fault
    const socket = identity(this.path)
    const note = this.read()
    const news = note?.kind !== error.kind || note.socket !== socket
    this.write({ at: now, kind: error.kind, socket })
    return news
  }

  /** Takes down that the box answers. */
  ended(): void {
    if (this.read()) this.write(null)
  }

  /** The note as it is now: with `max-connections` Nix starts several of us at once, and all of them wait for the same mute box. */
  private read(): Note | null {
    if (this.file !== null) this.note = readNote(this.file) ?? this.note
    return this.note
  }

  private write(note: Note | null): void {
    this.note = note
    if (this.file === null) return
    try {
      ftruncateSync(this.file, 0)
      if (note) writeSync(this.file, JSON.stringify(note), 0)
    } catch {
      // a full /run: then it is not remembered
    }
  }
}

/** Which socket this is, and when it was last touched. lstat: a link that a user planted says nothing about another file. */
function identity(path: string): string {
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
      constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW | constants.O_NONBLOCK,
      0o600,
    )
    if (fstatSync(file).isFile()) return file
    closeSync(file)
  } catch {
    // no such directory, or a read-only one
  }
  return null
}

function readNote(file: number): Note | null {
  try {
    const bytes = Buffer.alloc(LONGEST_NOTE)
    const note = JSON.parse(bytes.toString('utf8', 0, readSync(file, bytes, 0, LONGEST_NOTE, 0))) as Note
    return typeof note.at === 'number' && typeof note.kind === 'string' && typeof note.socket === 'string' ? note : null
  } catch {
    return null // empty: there was no outage
  }
}
