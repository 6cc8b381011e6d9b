// Remembers the names of what was uploaded to a box, so that it can be asked how much of that it
// still has, and of what the user had it forget, so that this isn't queued again by itself.
import { isStoreName, storeDir } from '../nix/store-path.ts'
import { addToNote, readNote, removeNote, writeNote } from './notes.ts'

/** An uploaded path, and when. */
export interface Given {
  path: string
  /** Milliseconds since 1970, to the day. */
  day: number
}

const DAY = 86_400_000
/** More names than this are thinned out: a sample of them is as good. */
const MOST = 20_000

const uploads = (cache: string): string => `uploads.${cache}`
const forgotten = (cache: string): string => `forgotten.${cache}`

const nameOf = (path: string): string => path.slice(storeDir.length + 1)

/** Notes what was uploaded just now. @param directory of the user's counts, see userTransfers() */
export function noteGiven(directory: string | undefined, cache: string, paths: readonly string[], now: number): void {
  const day = Math.floor(now / DAY)
  if (paths.length > 0) addToNote(directory, uploads(cache), paths.map((path) => `${day} ${nameOf(path)}\n`).join(''))
}

/** What was uploaded to a cache, as far as it is noted; the newest of several uploads of a path. */
function readGiven(directory: string | undefined, cache: string): Given[] {
  const found = new Map<string, number>()
  for (const line of (readNote(directory, uploads(cache)) ?? '').split('\n')) {
    const [, day, name = ''] = /^(\d{4,6}) (\S+)$/.exec(line) ?? []
    if (day !== undefined && isStoreName(name)) found.set(`${storeDir}/${name}`, Number(day) * DAY)
  }
  return [...found].map(([path, day]) => ({ path, day }))
}

/**
 * Drops from the note what the box needn't have any more, and from a very long one the excess, at
 * random.
 * @param keep days; null: forever
 */
export function pruneGiven(directory: string | undefined, cache: string, keep: number | null, now: number): Given[] {
  const gone = new Set(readForgotten(directory, cache))
  const all = readGiven(directory, cache)
  const owed = all.filter(({ path, day }) => !gone.has(path) && (keep === null || day > now - keep * DAY))
  const left = sampleOf(owed, MOST)
  if (left.length < all.length)
    writeNote(directory, uploads(cache), left.map(({ path, day }) => `${Math.floor(day / DAY)} ${nameOf(path)}\n`).join(''))
  return left
}

/** At most so many of a list, chosen at random (Fisher and Yates, cut short). */
export function sampleOf<T>(list: readonly T[], most: number, random: () => number = Math.random): T[] {
  const all = [...list]
  const size = Math.min(most, all.length)
  for (let at = 0; at < size; at++) {
    const other = at + Math.floor(random() * (all.length - at))
    const swapped = all[at] as T
    all[at] = all[other] as T
    all[other] = swapped
  }
  return all.slice(0, size)
}

/** What the user had a box forget, and has not queued since. */
export function readForgotten(directory: string | undefined, cache: string): string[] {
  const names = (readNote(directory, forgotten(cache)) ?? '').split('\n').filter(isStoreName)
  return [...new Set(names)].map((name) => `${storeDir}/${name}`)
}

/** Notes what the user has had a box forget. */
export function noteForgotten(directory: string | undefined, cache: string, paths: readonly string[]): void {
  if (paths.length > 0) addToNote(directory, forgotten(cache), paths.map((path) => `${nameOf(path)}\n`).join(''))
}

/** Takes paths out of that note again, since the user wants them there after all. */
export function unforget(directory: string | undefined, cache: string, paths: readonly string[]): void {
  const before = readForgotten(directory, cache)
  if (before.length === 0) return
  const wanted = new Set(paths)
  const left = before.filter((path) => !wanted.has(path))
  if (left.length === before.length) return
  if (left.length === 0) removeNote(directory, forgotten(cache))
  else writeNote(directory, forgotten(cache), left.map((path) => `${nameOf(path)}\n`).join(''))
}
