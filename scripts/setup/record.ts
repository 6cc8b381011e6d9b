// The record of a set-up: for every path that setup may change, what was there before, written before the first change. So an
// interrupted set-up can be finished or taken back, and --undo leaves the files as they were.
import { lstatSync } from 'node:fs'
import { Failure } from '../cli/errors.ts'
import { VERSION } from '../cli/version.ts'
import { readConfigFile } from '../config/file.ts'
import { effectiveUid, type User } from '../system/users.ts'
import { inspect, isRight, markOf, put, type Seen, type Want } from './files.ts'
import type { Layout } from './layout.ts'

/** What was at a path before. A file's content lies in the backups, under this name. */
export type Before =
  | { kind: 'missing' }
  | { kind: 'link'; target: string }
  | { kind: 'directory'; mode: number; uid: number; gid: number }
  | { kind: 'file'; backup: string; mark: string; mode: number; uid: number; gid: number; mtime: number }

/** One path. `ours`: marks (see markOf) of all that setup ever put there: what is something else is somebody else's work. */
export interface Entry {
  path: string
  before: Before
  ours: string[]
}

/** What was done on the box of a cache, over ssh. */
export interface BoxDeed {
  cache: string
  /** The ssh destination, and its port. */
  ssh: string
  port: number
  /** The file there that has our block, and the keys in it. */
  conf?: string
  key?: string
  /** `USER GROUP`: who was put into which group. */
  member?: string
}

export interface Record {
  version: string
  user: string
  uid: number
  prefix: string
  /** The file that has our block. */
  nixConf: string
  entries: Entry[]
  /** Whether we switched lingering on. */
  linger: boolean
  box: BoxDeed[]
  /** Directories in the user's home that weren't there, and that programs make as they run. */
  home: string[]
}

/**
 * The record of an earlier run, if there is one. It says what is written where, so that root believes only one that nobody else can have made.
 * @throws Failure when it can't be read, or isn't root's alone: then nothing may be changed
 */
export function readRecord(file: string): Record | undefined {
  const text = readConfigFile(file, effectiveUid() === 0)
  if (text === undefined) return undefined
  try {
    const record = JSON.parse(text) as Record
    if (!Array.isArray(record.entries) || typeof record.user !== 'string') throw new SyntaxError('entries or user is missing')
    return record
  } catch (error) {
    throw new Failure(`${file}: is not what setup wrote there (${(error as Error).message}); restore it, or move it away to start anew`)
  }
}

/**
 * The record with all that is wanted now; pure. What was before the first run stays what was before.
 * @param look what lies at a path now
 */
export function extended(record: Record, wants: readonly Want[], seen: (path: string) => Seen): Record {
  const entries = record.entries.map((entry) => ({ ...entry, ours: [...entry.ours] }))
  for (const want of wants) {
    const known = entries.find(({ path }) => path === want.path)
    const mark = markOf(want)
    // One that is there is left as it is, so that there is nothing to take back: who changes its mode later means it.
    if (!known && want.kind === 'directory' && want.shared && isRight(want, seen(want.path))) continue
    if (known) {
      if (!known.ours.includes(mark)) known.ours.push(mark)
    } else {
      entries.push({ path: want.path, before: beforeOf(want.path, seen(want.path)), ours: [mark] })
    }
  }
  return { ...record, version: VERSION, entries }
}

function beforeOf(path: string, seen: Seen): Before {
  if (seen.kind === 'file') {
    const { mode, uid, gid, mtime } = seen
    const mark = markOf(seen)
    // Named after the content: one that an interrupted run left can't be taken for another.
    return { kind: 'file', backup: mark.replace('file ', ''), mark, mode, uid, gid, mtime }
  }
  if (seen.kind === 'other') throw new Failure(`${path} is neither a file, a link nor a directory; move it away`)
  return seen
}

/** Writes the record, after the content of the files that it speaks of for the first time. */
export function writeRecord(record: Record, layout: Layout, owner: { uid: number; gid: number }, seen: (path: string) => Seen): void {
  put({ path: layout.backups, kind: 'directory', mode: 0o700, ...owner })
  for (const { path, before } of record.entries) {
    if (before.kind !== 'file') continue
    const backup = `${layout.backups}/${before.backup}`
    if (markOf(inspect(backup)) === before.mark) continue
    const now = seen(path)
    if (now.kind !== 'file' || markOf(now) !== before.mark) throw new Failure(`${backup} is lost, and with it what was in ${path} before`)
    put({ path: backup, kind: 'file', content: now.content, mode: 0o600, ...owner })
  }
  put({ path: layout.record, kind: 'file', content: Buffer.from(`${JSON.stringify(record, null, 2)}\n`), mode: 0o600, ...owner })
}

/** Where what runs as the user leaves something: systemd the time of a persistent timer, uploads how much they were. Parents first. */
const HOME_DIRECTORIES = ['.local', '.local/share', '.local/share/systemd', '.local/share/systemd/timers', '.local/state']

/** A record of nothing yet. */
export function emptyRecord(user: User, prefix: string, nixConf: string): Record {
  const home = HOME_DIRECTORIES.map((name) => `${user.home}/${name}`).filter(isMissing)
  return { version: VERSION, user: user.name, uid: user.uid, prefix, nixConf, entries: [], linger: false, box: [], home }
}

/** Root may see nothing of a home on a file server. */
function isMissing(path: string): boolean {
  try {
    return lstatSync(path, { throwIfNoEntry: false }) === undefined
  } catch {
    return false
  }
}
