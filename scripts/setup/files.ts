// The one place where setup touches files. Each change is one rename(2), mkdir(2), unlink(2) or
// rmdir(2), so an interruption leaves each path either as it was or as it should be. The name of an
// unfinished file tells the next run to remove it.
import { createHash } from 'node:crypto'
import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  fsyncSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeSync,
} from 'node:fs'
import { basename, dirname } from 'node:path'
import { Failure } from '../cli/errors.ts'

/** What is at a path. `mtime` in seconds since 1970. */
export type Seen =
  | { kind: 'missing' }
  | { kind: 'file'; content: Buffer; mode: number; uid: number; gid: number; mtime: number }
  | { kind: 'link'; target: string }
  | { kind: 'directory'; mode: number; uid: number; gid: number }
  | { kind: 'other' }

/** What should be at a path. A `shared` directory only has to exist, with any mode and owner. */
export type Want =
  | { path: string; kind: 'file'; content: Buffer; mode: number; uid: number; gid: number }
  | { path: string; kind: 'link'; target: string }
  | { path: string; kind: 'directory'; mode: number; uid: number; gid: number; shared?: boolean }
  | { path: string; kind: 'missing' }

/**
 * What is at the path, without following a link.
 * @throws Failure if it can't be read
 */
export function inspect(path: string): Seen {
  try {
    const stat = lstatSync(path)
    const { uid, gid } = stat
    const mode = stat.mode & 0o7777
    if (stat.isSymbolicLink()) return { kind: 'link', target: readlinkSync(path) }
    if (stat.isDirectory()) return { kind: 'directory', mode, uid, gid }
    if (stat.isFile()) return { kind: 'file', content: readFileSync(path), mode, uid, gid, mtime: stat.mtimeMs / 1000 }
    return { kind: 'other' }
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ENOENT' || code === 'ENOTDIR') return { kind: 'missing' }
    throw new Failure(`${path}: can't be read (${code})`)
  }
}

/** Whether what is there is what should be there; pure. */
export function isRight(want: Want, seen: Seen): boolean {
  if (want.kind === 'missing' || seen.kind === 'missing') return want.kind === seen.kind
  if (want.kind === 'link') return seen.kind === 'link' && seen.target === want.target
  if (want.kind === 'directory' && want.shared && seen.kind === 'link') return true // such as /usr/local/man
  if (seen.kind !== want.kind) return false
  if (want.kind === 'directory' && want.shared) return true
  if (seen.mode !== want.mode || seen.uid !== want.uid || seen.gid !== want.gid) return false
  return want.kind === 'directory' || (seen.kind === 'file' && seen.content.equals(want.content))
}

/** Identifies a state: its content, not its mode or owner. */
export function markOf(state: Seen | Want): string {
  if (state.kind === 'file') return `file ${createHash('sha256').update(state.content).digest('hex')}`
  return state.kind === 'link' ? `link ${state.target}` : state.kind
}

/**
 * The name of a file until it is complete: hidden, with an extension that systemd, NetworkManager
 * and tmpfiles ignore.
 */
export const unfinished = (path: string): string => `${dirname(path)}/.${basename(path)}.nix-lan-new`

/**
 * Makes the path what it should be.
 * @param mtime seconds, for a file or link to restore
 * @throws Failure naming the path
 */
export function put(want: Want, mtime?: number): void {
  try {
    if (want.kind === 'directory') putDirectory(want)
    else if (want.kind === 'missing') remove(want.path)
    else putWhole(want, mtime)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === undefined) throw error
    throw new Failure(`${want.path}: can't be ${want.kind === 'missing' ? 'removed' : 'written'} (${code})`)
  }
}

/** Uses an open directory: chown(2) by path would follow a link put in its place. */
function putDirectory({ path, mode, uid, gid }: Want & { kind: 'directory' }): void {
  if (inspect(path).kind === 'missing') mkdirSync(path, { mode: 0o700 })
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW)
  try {
    const now = fstatSync(fd)
    if (now.uid !== uid || now.gid !== gid) fchownSync(fd, uid, gid)
    fchmodSync(fd, mode)
  } finally {
    closeSync(fd)
  }
  syncDirectory(dirname(path))
}

function putWhole(want: Want & { kind: 'file' | 'link' }, mtime: number | undefined): void {
  const temporary = unfinished(want.path)
  rmSync(temporary, { force: true })
  try {
    if (want.kind === 'link') symlinkSync(want.target, temporary)
    else writeWhole(want, temporary)
    if (mtime !== undefined) lutimesSync(temporary, mtime, mtime)
    renameSync(temporary, want.path)
  } catch (error) {
    rmSync(temporary, { force: true }) // above all on a full disk
    throw error
  }
  syncDirectory(dirname(want.path))
}

function writeWhole(want: Want & { kind: 'file' }, file: string): void {
  const fd = openSync(file, 'wx', 0o600)
  try {
    for (let at = 0; at < want.content.length; ) at += writeSync(fd, want.content, at)
    fchownSync(fd, want.uid, want.gid)
    fchmodSync(fd, want.mode)
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

/** Removes a directory only if it is empty: anything left in it is somebody else's. */
function remove(path: string): void {
  rmSync(unfinished(path), { force: true })
  const { kind } = inspect(path)
  if (kind === 'missing') return
  if (kind !== 'directory') unlinkSync(path)
  else
    try {
      rmdirSync(path)
    } catch (error) {
      if (!['ENOTEMPTY', 'EEXIST', 'EBUSY'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
      return
    }
  syncDirectory(dirname(path))
}

/** Keeps the order of changes across a power cut. */
function syncDirectory(path: string): void {
  const fd = openSync(path, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}
