// Keeps the record of a setup: what was at every path it may change, written before the first
// change. With it, an interrupted setup can be finished or undone, and --undo restores the files.
import { lstatSync } from 'node:fs'
import { Failure } from '../cli/errors.ts'
import { VERSION } from '../cli/version.ts'
import { readConfigFile } from '../config/file.ts'
import { effectiveUid, type User } from '../system/users.ts'
import { inspect, isRight, markOf, put, type Seen, type Want } from './files.ts'
import type { Layout } from './layout.ts'

/** What was at a path before. `backup`: the name of a file's content in the backups. */
export type Before =
  | { kind: 'missing' }
  | { kind: 'link'; target: string }
  | { kind: 'directory'; mode: number; uid: number; gid: number }
  | { kind: 'file'; backup: string; mark: string; mode: number; uid: number; gid: number; mtime: number }

/**
 * One path. `ours`: marks (see markOf) of everything setup ever put there; anything else is
 * somebody else's.
 */
export interface Entry {
  path: string
  before: Before
  ours: string[]
}

/** What setup did on the box of a cache, over ssh. */
export interface BoxDeed {
  cache: string
  /** The ssh destination, and its port. */
  ssh: string
  port: number
  /** The machine that must be reachable: the box, or a jump host. */
  host?: string
  /** The file on the box that has our block, and the keys in it. */
  conf?: string
  key?: string
  /** Earlier values of `key`, from before a key was lost and replaced. */
  formerKeys?: string[]
  /** Whether setup created the file. */
  made?: boolean
  /** `USER GROUP`: the user that setup added to a group. */
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
  /** Whether setup enabled lingering. */
  linger: boolean
  box: BoxDeed[]
  /** The last --fallback. */
  fallback?: 'keep' | 'set'
  /** Directories in the user's home that didn't exist and that our programs create as they run. */
  home: string[]
}

/**
 * The record of an earlier run, if there is one. Root writes where the record says, so it trusts
 * only a record that nobody else can have written.
 * @throws Failure if it can't be read or somebody else could have written it; then nothing may
 *   change
 */
export function readRecord(file: string): Record | undefined {
  const text = readConfigFile(file, effectiveUid() === 0)
  if (text === undefined) return undefined
  try {
    const record = JSON.parse(text) as Record
    if (!Array.isArray(record.entries) || typeof record.user !== 'string') throw new SyntaxError('entries or user is missing')
    return record
  } catch (error) {
    throw new Failure(`${file}: is not what setup wrote there (${(error as Error).message}); restore it, or move it away to start afresh`)
  }
}

/**
 * The record with a new plan's paths added; pure. What was there before the first run stays
 * recorded.
 * @param seen what is at a path now
 */
export function extended(record: Record, wants: readonly Want[], seen: (path: string) => Seen): Record {
  const entries = record.entries.map((entry) => ({ ...entry, ours: [...entry.ours] }))
  for (const want of wants) {
    const known = entries.find(({ path }) => path === want.path)
    const mark = markOf(want)
    // Setup leaves an existing shared directory alone, so there is nothing to undo.
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
    // Named after the content, so an interrupted run's backup can't be mistaken for another.
    return { kind: 'file', backup: mark.replace('file ', ''), mark, mode, uid, gid, mtime }
  }
  if (seen.kind === 'other') throw new Failure(`${path} is not a file, a link or a directory; move it away`)
  return seen
}

/** Writes the record, after backing up the files it names for the first time. */
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

/**
 * Where programs that run as the user leave files: systemd the time of a persistent timer, uploads
 * their counts. Parents first.
 */
const HOME_DIRECTORIES = ['.local', '.local/share', '.local/share/systemd', '.local/share/systemd/timers', '.local/state']

/** A record without any paths. */
export function emptyRecord(user: User, prefix: string, nixConf: string): Record {
  const home = HOME_DIRECTORIES.map((name) => `${user.home}/${name}`).filter(isMissing)
  return { version: VERSION, user: user.name, uid: user.uid, prefix, nixConf, entries: [], linger: false, box: [], home }
}

/** False if it can't be told: root may not be able to read a home on a file server. */
function isMissing(path: string): boolean {
  try {
    return lstatSync(path, { throwIfNoEntry: false }) === undefined
  } catch {
    return false
  }
}
