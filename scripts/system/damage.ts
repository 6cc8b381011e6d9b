// Notes which paths are damaged on a box: it couldn't deliver them, or delivered something else than
// it had promised. Connect notes them and treats them as missing from then on; an upload that has
// sent a good copy takes the note back. Never makes anything fail.
//
// The notes are lines in one file per tunnel, appended to, so that several may write at once. It
// lies in a directory of root's (or of a user whose Nix has no daemon), and belongs to the owner of
// the tunnel: who can already say anything in the box's name, and whom the upload runs as.
import {
  appendFileSync,
  chmodSync,
  chownSync,
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  lstatSync,
  openSync,
  readSync,
  writeSync,
} from 'node:fs'
import { brokerTransfers, ownDirectory, ownTransfers, ROOT_TRANSFERS } from './transfers.ts'

/** A box with more damage than this needs a new disk: what is beyond isn't noted. */
const MOST = 65_536
/** Milliseconds between two looks at what others have noted. */
const LOOK = 1000

const fileIn = (directory: string, socket: string): string => `${directory}/damaged.${encodeURIComponent(socket)}`

const READ_WRITE = constants.O_RDWR | constants.O_APPEND | constants.O_NOFOLLOW | constants.O_NONBLOCK

/** The notes about one box, as connect keeps them. */
export class Damage {
  private readonly socket: string
  private readonly directory: string | undefined
  private file: number | null | undefined
  private noted = new Map<string, number>()
  private looked = Number.NEGATIVE_INFINITY
  private size = 0

  /**
   * @param socket the tunnel's
   * @param directory where the notes are; undefined: only this process remembers
   */
  constructor(socket: string, directory: string | undefined = ownTransfers()) {
    this.socket = socket
    this.directory = directory
  }

  /**
   * Opens the file, making it if needed: for a root process about to become the tunnel's owner, to
   * whom a new file is given.
   */
  open(owner?: { uid: number; gid: number }): void {
    if (this.file !== undefined) return
    this.file = this.directory === undefined ? null : openNotes(this.directory, fileIn(this.directory, this.socket), owner)
  }

  /** Whether a path is noted. Others' notes are seen within a second. */
  has(path: string): boolean {
    this.look()
    return this.noted.has(path)
  }

  /** Notes a path. @returns whether that is news */
  add(path: string): boolean {
    if (this.has(path)) return false
    this.noted.set(path, Date.now())
    try {
      if (typeof this.file === 'number' && fstatSync(this.file).size < MOST) writeSync(this.file, lineOf('damaged', path))
    } catch {
      // a full disk: noted in this process only
    }
    return true
  }

  private look(): void {
    const now = performance.now()
    if (now - this.looked < LOOK) return
    this.looked = now
    this.open()
    if (typeof this.file !== 'number') return
    try {
      const { size } = fstatSync(this.file)
      if (size === this.size) return
      this.size = size
      this.noted = notesIn(this.file)
    } catch {
      // keep what is known
    }
  }
}

/** Whose notes about which box. */
export interface Tunnel {
  /** The name of the cache, for the broker's notes. */
  cache: string
  socket: string
  /** Where the user's own Nix counts, see userTransfers(). */
  own: string | undefined
}

/** Where notes about a box can be: root's daemon keeps them, the broker, and the user's own Nix. */
const filesOf = ({ cache, socket, own }: Tunnel): string[] =>
  [...new Set([ROOT_TRANSFERS, brokerTransfers(cache), ...(own === undefined ? [] : [own])])].map((directory) => fileIn(directory, socket))

/** The paths noted as damaged on a box, and since when (milliseconds since 1970). */
export function damagedOn(tunnel: Tunnel): Map<string, number> {
  const found = new Map<string, number>()
  for (const name of filesOf(tunnel)) {
    let file: number
    try {
      file = openSync(name, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
    } catch {
      continue // none
    }
    try {
      for (const [path, since] of notesIn(file)) found.set(path, Math.min(since, found.get(path) ?? since))
    } catch {
      // no notes: a directory, say
    } finally {
      closeSync(file)
    }
  }
  return found
}

/**
 * Takes the note about a path back: the box has a good copy.
 * @throws Error when that can't be written down
 */
export function takeBack(path: string, tunnel: Tunnel): void {
  for (const name of filesOf(tunnel)) {
    if (!lstatSync(name, { throwIfNoEntry: false })) continue
    const file = openSync(name, READ_WRITE)
    try {
      const notes = notesIn(file)
      if (!notes.delete(path)) continue
      if (notes.size === 0) ftruncateSync(file, 0)
      else appendFileSync(file, lineOf('good', path))
    } finally {
      closeSync(file)
    }
  }
}

const lineOf = (word: 'damaged' | 'good', path: string): string => `${Math.floor(Date.now() / 1000)} ${word} ${path}\n`

function openNotes(directory: string, name: string, owner: { uid: number; gid: number } | undefined): number | null {
  try {
    if (!ownDirectory(directory)) return null
    let file: number
    try {
      file = openSync(name, READ_WRITE)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
      file = openSync(name, READ_WRITE | constants.O_CREAT | constants.O_EXCL, 0o644)
      // by name, which every runtime can: in this directory nobody else can put anything there
      chmodSync(name, 0o644)
      if (owner) chownSync(name, owner.uid, owner.gid)
    }
    if (fstatSync(file).isFile()) return file
    closeSync(file)
  } catch {
    // such as on a read-only file system
  }
  return null
}

/** What the lines add up to. Lines that make no sense (cut off by a full disk) are left out. */
function notesIn(file: number): Map<string, number> {
  const bytes = Buffer.alloc(2 * MOST)
  const text = bytes.toString('latin1', 0, fstatSync(file).isFile() ? readSync(file, bytes, 0, bytes.length, 0) : 0)
  const notes = new Map<string, number>()
  for (const line of text.split('\n')) {
    const [, seconds, word, path] = /^(\d{10}) (damaged|good) (\/[!-~]{1,400})$/.exec(line) ?? []
    if (path === undefined) continue
    if (word === 'good') notes.delete(path)
    else if (!notes.has(path)) notes.set(path, Number(seconds) * 1000)
  }
  return notes
}
