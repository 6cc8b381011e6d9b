// Keeps the queue on disk: a directory of symlinks NAME → /nix/store/NAME, each of them a GC root,
// and another for those that failed, where `.NAME` holds the reason. Every step is one system call
// that happens or doesn't, so nothing needs a lock and no path is ever in neither place. Never
// makes a link to anything but a store path: a loop of links stops everybody's garbage collection.
import {
  closeSync,
  constants,
  type Dirent,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname } from 'node:path'
import { Failure, UsageError } from '../cli/errors.ts'
import { isStoreName, storeDir } from '../nix/store-path.ts'
import { failedDir, queueDir } from '../system/paths.ts'

/** A store path that waits or was set aside. */
export interface Entry {
  cache: string
  /** The last part of the store path. */
  name: string
  path: string
  state: 'queued' | 'failed'
  /** When the link was made, in milliseconds since 1970. */
  added: number
  /** Why it failed. */
  reason?: string
}

/**
 * Something in either directory that nix-lan didn't put there: shown, never followed, never
 * removed.
 */
export interface Junk {
  file: string
  what: string
}

export interface Queue {
  /** Oldest first. */
  queued: Entry[]
  failed: Entry[]
  junk: Junk[]
}

/**
 * Reads both directories of a cache.
 * @param user for the message when there is no queue yet
 * @throws UsageError when the queue isn't there, Failure when it can't be read
 */
export function readQueue(cache: string, user: string): Queue {
  const junk: Junk[] = []
  const queued = readEntries(cache, 'queued', junk)
  if (!queued) throw new UsageError(howToMake(cache, user))
  return { queued, failed: readEntries(cache, 'failed', junk) ?? [], junk }
}

/** The message that tells how to make a cache's directories; their parents stay root's. */
function howToMake(cache: string, user: string): string {
  return `there is no queue for ${cache} yet; make it with: sudo install -d -o ${user} ${queueDir(cache)} ${failedDir(cache)}`
}

function readEntries(cache: string, state: Entry['state'], junk: Junk[]): Entry[] | undefined {
  const dir = directory(cache, state)
  let names: string[]
  try {
    names = readdirSync(dir)
  } catch (error) {
    if (errno(error) === 'ENOENT') return undefined
    throw new Failure(`${dir}: can't be read (${errno(error)})`)
  }
  const entries: Entry[] = []
  for (const name of names) {
    if (state === 'failed' && name.startsWith('.')) continue
    const found = readEntry(cache, state, dir, name)
    if (found && 'what' in found) junk.push(found)
    else if (found) entries.push(found)
  }
  return entries.sort((a, b) => a.added - b.added || (a.name < b.name ? -1 : 1))
}

function readEntry(cache: string, state: Entry['state'], dir: string, name: string): Entry | Junk | undefined {
  const file = `${dir}/${name}`
  const path = `${storeDir}/${name}`
  try {
    const status = lstatSync(file)
    if (!status.isSymbolicLink()) return { file, what: status.isDirectory() ? 'a directory' : 'not a link' }
    const target = readlinkSync(file)
    if (target !== path || !isStoreName(name)) return { file, what: `a link to ${target}` }
    const entry: Entry = { cache, name, path, state, added: status.mtimeMs }
    if (state === 'failed') entry.reason = readNote(`${dir}/.${name}`)
    return entry
  } catch (error) {
    return errno(error) === 'ENOENT' ? undefined : { file, what: `unreadable (${errno(error)})` } // gone meanwhile, or not ours
  }
}

/**
 * The reason beside a failed entry. The directory is a user's and the reader may be root, so it
 * opens nothing but a small regular file.
 */
function readNote(file: string): string {
  let fd: number
  try {
    fd = openSync(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  } catch {
    return ''
  }
  try {
    if (!fstatSync(fd).isFile()) return ''
    const buffer = Buffer.alloc(4096)
    return buffer.toString('utf8', 0, readSync(fd, buffer, 0, buffer.length, 0)).trim()
  } catch {
    return ''
  } finally {
    closeSync(fd)
  }
}

/**
 * Queues a store path with symlink(2), which neither follows nor replaces what is there.
 * @returns false when it was there already
 * @throws Failure when it can't, or when something else has its name
 */
export function enqueue(cache: string, name: string, user: string): boolean {
  const file = `${queueDir(cache)}/${name}`
  try {
    symlinkSync(`${storeDir}/${name}`, file)
    return true
  } catch (error) {
    if (errno(error) === 'EEXIST' && pointsRight(file, name)) return false
    if (errno(error) === 'EEXIST') throw new Failure(`${file} is in the way: it isn't a link to ${storeDir}/${name}`)
    if (errno(error) === 'ENOENT') throw new UsageError(howToMake(cache, user))
    throw cannot(error, 'add to', queueDir(cache), user)
  }
}

/** Takes an entry out if its link is still what it was. @returns whether there was one */
export function remove(entry: Entry, user: string): boolean {
  const dir = directory(entry.cache, entry.state)
  try {
    if (!pointsRight(`${dir}/${entry.name}`, entry.name)) return false
    unlinkSync(`${dir}/${entry.name}`)
    if (entry.state === 'failed') rmSync(`${dir}/.${entry.name}`, { force: true })
    return true
  } catch (error) {
    if (errno(error) === 'ENOENT') return false
    throw cannot(error, 'take anything out of', dir, user)
  }
}

/**
 * Sets a queued entry aside. Writes the note first, then moves the link with rename(2), so there is
 * always a link.
 */
export function setAside(entry: Entry, reason: string, user: string): void {
  const dir = failedDir(entry.cache)
  const link = `${queueDir(entry.cache)}/${entry.name}`
  if (!pointsRight(link, entry.name)) return
  try {
    writeFileSync(`${dir}/.${entry.name}.new`, `${reason}\n`, { mode: 0o644 })
    renameSync(`${dir}/.${entry.name}.new`, `${dir}/.${entry.name}`)
    renameSync(link, `${dir}/${entry.name}`)
  } catch (error) {
    if (errno(error) === 'ENOENT') throw new UsageError(howToMake(entry.cache, user))
    throw cannot(error, 'set anything aside in', dir, user)
  }
}

/** Puts a failed entry back into the queue. @returns false when it was gone */
export function putBack(entry: Entry, user: string): boolean {
  const dir = failedDir(entry.cache)
  try {
    renameSync(`${dir}/${entry.name}`, `${queueDir(entry.cache)}/${entry.name}`)
    rmSync(`${dir}/.${entry.name}`, { force: true })
    return true
  } catch (error) {
    if (errno(error) === 'ENOENT') return false
    throw cannot(error, 'put anything back into', queueDir(entry.cache), user)
  }
}

const directory = (cache: string, state: Entry['state']): string => (state === 'queued' ? queueDir(cache) : failedDir(cache))

function pointsRight(file: string, name: string): boolean {
  try {
    return readlinkSync(file) === `${storeDir}/${name}`
  } catch {
    return false
  }
}

const errno = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? String(error)

function cannot(error: unknown, what: string, dir: string, user: string): Failure {
  const code = errno(error)
  const way = code === 'EACCES' || code === 'EPERM' ? `; it should belong to ${user}: sudo chown ${user} ${dir}` : ''
  return new Failure(`can't ${what} ${dir} (${code})${way}`)
}

/** A queue that no cache of the configuration has. What is in it stays in the store, and goes nowhere. */
export interface Stray {
  /** What the cache was called. */
  cache: string
  queued: number
  failed: number
}

/** The queues of caches other than these. */
export function strayQueues(caches: readonly string[]): Stray[] {
  const names = [queueDir, failedDir].flatMap((dir) => entriesOf(dirname(dir('x')), (entry) => entry.isDirectory()))
  const lost = [...new Set(names)].filter((name) => !caches.includes(name)).sort()
  const links = (dir: string): number => entriesOf(dir, (entry) => entry.isSymbolicLink()).length
  return lost.map((cache) => ({ cache, queued: links(queueDir(cache)), failed: links(failedDir(cache)) }))
}

function entriesOf(directory: string, which: (entry: Dirent) => boolean): string[] {
  try {
    return readdirSync(directory, { withFileTypes: true })
      .filter(which)
      .map(({ name }) => name)
  } catch {
    return [] // not there, or not to be read
  }
}
