// What the daily look at a box finds, for `nix-lan status` and `nix-lan doctor`: how much of what was
// uploaded it still has, what it keeps, what it will let go of soon, how full its disk is. The
// judgments are pure; the answer is kept in a small file of the user's own.
import { bytes, count } from '../cli/text.ts'
import { type Amount, isAmount, isCount } from './gc-look.ts'
import type { Link } from './keep.ts'
import { readNote, writeNote } from './notes.ts'

/** What a look has found. */
export interface BoxLook {
  /** Milliseconds since 1970. */
  at: number
  /** Of so many uploaded paths, chosen at random, so many were there; null: nothing was uploaded. */
  sample: { asked: number; there: number } | null
  /** What it keeps of this client's uploads. */
  kept: Amount
  /** What `nix-lan gc` deleted here, and it keeps. */
  only: Amount
  /** What it will let go of within a week; null: nothing. */
  leaving: Leaving | null
  /** Bytes of the disk of its store; null: not known. */
  disk: { total: number; free: number } | null
}

/** What a box will let go of. */
export interface Leaving extends Amount {
  /** The first day on which it may, YYYY-MM-DD by the box's clock. */
  day: string
  /** How much of that is no longer on this machine. */
  gone: Amount
}

const nameFor = (cache: string): string => `box.${cache}.json`

/** Saves a look, if it can. @param directory of the user's counts, see userTransfers() */
export const writeBoxLook = (directory: string | undefined, cache: string, look: BoxLook): void =>
  writeNote(directory, nameFor(cache), `${JSON.stringify(look)}\n`)

/** The last look; undefined if there was none, or if the file makes no sense. */
export function readBoxLook(directory: string | undefined, cache: string): BoxLook | undefined {
  try {
    const look = JSON.parse(readNote(directory, nameFor(cache)) ?? '') as BoxLook
    return isLook(look) ? look : undefined
  } catch {
    return undefined
  }
}

function isLook({ at, sample, kept, only, leaving, disk }: BoxLook): boolean {
  return (
    isCount(at) &&
    isAmount(kept) &&
    isAmount(only) &&
    (sample === null || (isCount(sample.asked) && isCount(sample.there) && sample.there <= sample.asked)) &&
    (leaving === null || (isAmount(leaving) && isAmount(leaving.gone) && /^\d{4}-\d\d-\d\d$/.test(leaving.day))) &&
    (disk === null || (isCount(disk.total) && isCount(disk.free) && disk.free <= disk.total))
  )
}

const DAY = 86_400_000

/** How many days before it is let go status speaks of it. */
const SOON = 7

/** What is known here of a path, as far as this needs it. */
export interface KnownHere {
  /** Seconds since 1970, by this machine's clock. */
  registered: number
  /** Built here, as opposed to copied here. */
  ultimate: boolean
}

/** What a box keeps, and what is here of that. */
export interface Holdings {
  /** Of this client. */
  links: readonly Link[]
  /** Link → paths. */
  contents: ReadonlyMap<string, ReadonlySet<string>>
  /** What the box says of the sizes. */
  sizes: ReadonlyMap<string, { size: number }>
  /** Those of the paths that are valid here. */
  here: ReadonlyMap<string, KnownHere>
}

const timeOf = (day: string): number => Date.parse(`${day}T00:00:00Z`)

const amountOf = (paths: ReadonlySet<string> | readonly string[], sizes: Holdings['sizes']): Amount => ({
  paths: [...paths].length,
  bytes: [...paths].reduce((sum, path) => sum + (sizes.get(path)?.size ?? 0), 0),
})

/** All the paths of the links of a kind. */
function pathsIn({ links, contents }: Holdings, which: (link: Link) => boolean): Set<string> {
  return new Set(links.filter(which).flatMap(({ link }) => [...(contents.get(link) ?? [])]))
}

/** How much a box keeps. */
export const keptIn = (holdings: Holdings): Pick<BoxLook, 'kept' | 'only'> => ({
  kept: amountOf(
    pathsIn(holdings, ({ kind }) => kind === 'kept'),
    holdings.sizes,
  ),
  only: amountOf(
    pathsIn(holdings, ({ kind }) => kind === 'only'),
    holdings.sizes,
  ),
})

/**
 * What the box will let go of within a week and keeps for no other reason.
 * @param keep days; null: forever
 * @param now milliseconds since 1970
 */
export function leavingIn(holdings: Holdings, keep: number | null, now: number): Leaving | null {
  if (keep === null) return null
  const goes = (day: string): number => timeOf(day) + (keep + 1) * DAY
  const soon = ({ kind, day }: Link): boolean => kind === 'kept' && goes(day) <= now + SOON * DAY
  const stays = pathsIn(holdings, (link) => !soon(link))
  const paths = [...pathsIn(holdings, soon)].filter((path) => !stays.has(path))
  if (paths.length === 0) return null
  const first = Math.min(...holdings.links.filter(soon).map(({ day }) => goes(day)))
  const gone = paths.filter((path) => !holdings.here.has(path))
  return { day: new Date(first).toISOString().slice(0, 10), ...amountOf(paths, holdings.sizes), gone: amountOf(gone, holdings.sizes) }
}

/**
 * The paths that were fetched again after the last day for which the box keeps them: these are in
 * use, so they are to be kept anew. What was built here again has been uploaded again, too.
 */
export function fetchedAgain({ links, contents, here }: Pick<Holdings, 'links' | 'contents' | 'here'>): string[] {
  const newest = new Map<string, string>()
  for (const { kind, day, link } of links)
    if (kind === 'kept') for (const path of contents.get(link) ?? []) if (day > (newest.get(path) ?? '')) newest.set(path, day)
  return [...newest].flatMap(([path, day]) => {
    const known = here.get(path)
    return known && !known.ultimate && known.registered * 1000 >= timeOf(day) + DAY ? [path] : []
  })
}

const amountText = ({ paths, bytes: size }: Amount): string => `${count(paths, 'path')}, ${bytes(size)}`

/** A look in words: what it keeps, what of that is in doubt, what goes. */
export function wordsOf({ kept, only, sample, disk, leaving }: BoxLook): { text: string; bad: boolean }[] {
  const lines = [
    { text: `${amountText(kept)}${only.paths === 0 ? '' : `; for good ${amountText(only)}, which nix-lan gc deleted here`}`, bad: false },
  ]
  if (sample)
    lines.push({
      text:
        sample.there === sample.asked
          ? `a sample of ${count(sample.asked, 'uploaded path')}: all there`
          : `a sample of ${count(sample.asked, 'uploaded path')}: ${sample.asked - sample.there} gone`,
      bad: sample.there < sample.asked,
    })
  if (disk) lines.push({ text: `its disk is ${percentFull(disk)} % full, ${bytes(disk.free)} are free`, bad: isNearlyFull(disk) })
  if (leaving) {
    const { day, gone } = leaving
    const lost =
      gone.paths === 0 ? 'all of them are still here' : `${amountText(gone)} of that ${gone.paths === 1 ? 'is' : 'are'} no longer here`
    lines.push({ text: `from ${day} on it lets go of ${amountText(leaving)}; ${lost}`, bad: gone.paths > 0 })
  }
  return lines
}

/** How full a disk is. */
export const percentFull = ({ total, free }: { total: number; free: number }): number =>
  total === 0 ? 100 : Math.floor(((total - free) / total) * 100)

/** Whether uploads will soon find no room. */
export const isNearlyFull = (disk: { total: number; free: number }): boolean => percentFull(disk) >= 95
