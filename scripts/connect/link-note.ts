// Remembers, from one start of connect to the next, what is known of the link to a box: how fast it
// is, and how long the list of the box's paths is. So only the first start on a link measures it,
// and none asks for a list that would clog it.
//
// The note lies beside the tunnel's socket and is its owner's.
import { closeSync, constants, fstatSync, lstatSync, openSync, readSync, renameSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'

/** Milliseconds for which a rate is believed. */
const VALID = 10 * 60_000
const LONGEST = 1000

/** What is known of a link; undefined: nothing. */
export interface LinkFacts {
  /** Bytes of the list of the box's paths. */
  listBytes: number | undefined
  /** Bytes per millisecond; 0: so fast that it doesn't matter. */
  rate: number | undefined
}

const fileOf = (socket: string): string => `${socket}.link`

/**
 * What an earlier start has noted. A rate holds only for the same socket: a tunnel on another
 * network makes a new one. Never throws.
 * @param socket path of the tunnel's socket
 */
export function readLink(socket: string): LinkFacts {
  const facts: LinkFacts = { listBytes: undefined, rate: undefined }
  try {
    const { listBytes, rate, at, ino } = JSON.parse(read(fileOf(socket))) as Record<string, unknown>
    if (typeof listBytes === 'number' && listBytes >= 0) facts.listBytes = listBytes
    const age = typeof at === 'number' ? Date.now() - at : -1
    if (typeof rate === 'number' && rate >= 0 && age >= 0 && age < VALID && ino === lstatSync(socket).ino) facts.rate = rate
  } catch {
    // none, or none of ours
  }
  return facts
}

/**
 * Notes it for the next starts, if there is no such note yet. Never throws.
 * @param socket path of the tunnel's socket
 */
export function noteLink(socket: string, facts: LinkFacts): void {
  const { listBytes, rate } = readLink(socket)
  if (rate === facts.rate && listBytes !== undefined && Math.abs(listBytes - (facts.listBytes ?? 0)) < listBytes / 4) return
  try {
    // root writes nothing into a directory of somebody else's (see owner.ts)
    if (lstatSync(dirname(socket)).uid !== process.geteuid?.()) return
    const temporary = `${fileOf(socket)}.${process.pid}`
    const text = JSON.stringify({ ...facts, at: Date.now(), ino: lstatSync(socket).ino })
    writeFileSync(temporary, text, { mode: 0o600, flag: 'wx' })
    renameSync(temporary, fileOf(socket))
  } catch {
    // a full /run: measured anew, then
  }
}

/** @throws Error when it isn't a short file */
function read(path: string): string {
  const file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  try {
    if (!fstatSync(file).isFile()) throw new Error('no file')
    const bytes = Buffer.alloc(LONGEST)
    return bytes.toString('utf8', 0, readSync(file, bytes))
  } finally {
    closeSync(file)
  }
}
