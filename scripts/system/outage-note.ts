// The note of an outage: what nix-lan-connect writes (connect/outage.ts), and `nix-lan status` reads.
import { closeSync, constants, fstatSync, lstatSync, openSync, readSync } from 'node:fs'
import { runtimeDir } from './paths.ts'

/** More than a note ever has, in bytes. */
const LONGEST = 8192

/** Milliseconds after which a line says nothing any more: longer than any box is left alone. */
export const FORGOTTEN = 600_000

/** A line of the note. */
export interface Found {
  /** When it was found away, in milliseconds since 1970. */
  at: number
  /** The kind of BoxUnavailable; `over`: patience has run out. */
  kind: string
  /** Identity of the socket it was about. */
  socket: string
  /** Who found it: a process id. */
  pid: number
  /** Since when it has got nowhere, if that is before `at`. */
  since?: number
  /** Until when that process waits for it. */
  until?: number
}

/** Where a user's processes keep their notes. */
export const noteFolder = (uid: number): string => (uid === 0 ? '/run/nix-lan' : runtimeDir(uid))

/** The note about a tunnel's socket. */
export const noteFile = (folder: string, socket: string): string => `${folder}/away.${encodeURIComponent(socket)}`

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

/**
 * The lines of the latest outage in an open note; none when it isn't ours, or truncated: as if there
 * were no outage.
 */
export function readNote(file: number): Found[] {
  try {
    const bytes = Buffer.alloc(LONGEST)
    const text = bytes.toString('utf8', 0, readSync(file, bytes, 0, bytes.length, 0))
    return latestOutage(text.split('\n').slice(0, -1).map(readLine))
  } catch {
    return []
  }
}

/** The lines since nothing had been found for so long that it was forgotten. */
export function latestOutage(all: readonly Found[]): Found[] {
  const begins = all.map(({ at }, n) => Math.abs(at - (all[n - 1]?.at ?? at)) > FORGOTTEN).lastIndexOf(true)
  return all.slice(Math.max(0, begins))
}

/** @throws Error for a line that isn't from a note */
function readLine(line: string): Found {
  const found = JSON.parse(line) as Found
  const { at, kind, socket, since = 0, until = 0 } = found
  if ([at, since, until].some((time) => typeof time !== 'number') || typeof kind !== 'string' || typeof socket !== 'string')
    throw new Error('no note')
  return found
}

/** Somebody's fetch that waits for a lost box; milliseconds since 1970. */
export interface Wait {
  since: number
  /** When its patience is over. */
  until: number
  /** Whether the box answers, but gets nowhere. */
  slow: boolean
}

/**
 * Whether a fetch waits for the box behind a socket now.
 * @param folders whose processes'; root doesn't look into a user's
 */
export function whoWaits(folders: readonly string[], socket: string, now: number): Wait | undefined {
  for (const folder of folders) {
    const all = notesIn(noteFile(folder, socket))
    const last = all.filter(({ until = 0, kind, pid }) => kind === 'over' || (until > now && isAlive(pid))).at(-1)
    if (last?.until !== undefined) return { since: all[0]?.since ?? all[0]?.at ?? last.at, until: last.until, slow: last.kind === 'slow' }
  }
  return undefined
}

function notesIn(path: string): Found[] {
  let file: number | undefined
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
    return fstatSync(file).isFile() ? readNote(file) : []
  } catch {
    return [] // none, or not for us to read
  } finally {
    if (file !== undefined) closeSync(file)
  }
}

/** Whether a process lives; one that isn't ours counts, too (kill(2), EPERM). */
export function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
