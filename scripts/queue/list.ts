// Builds what `nix-lan queue list` shows: rows from the queue's directories and, where that is
// cheap, from Nix.
import { age, bytes, oneLine } from '../cli/text.ts'
import type { SshCache } from '../config/types.ts'
import { closureOrAll, unsigned } from '../nix/path-info.ts'
import type { Entry, Junk, Queue } from './queue.ts'
import { wanted } from './upload.ts'

/** One line of the list. */
export interface Row {
  cache: string
  /**
   * `invalid`: no longer in the store. `unsigned`: it, or something it needs, carries no signature.
   */
  state: 'queued' | 'failed' | 'unsigned' | 'invalid' | 'junk'
  path: string
  /** When it was queued (milliseconds since 1970); null for junk. */
  added: number | null
  /** Bytes of its NAR; null when not asked or not known. */
  size: number | null
  error: string | null
}

/**
 * Up to this many entries, Nix is asked for sizes and signatures unprompted: it takes some tenths
 * of a second.
 */
export const CHEAP = 1000

// Nix may be waiting for a hung daemon; the list is not worth more.
const PATIENCE = 10_000

/** What Nix knows of a list's entries. */
export interface Known {
  sizes: ReadonlyMap<string, number>
  unsigned: ReadonlySet<string>
  invalid: ReadonlySet<string>
  /** What Nix says of those it can't read. */
  broken: ReadonlyMap<string, string>
}

export const NOTHING_KNOWN: Known = { sizes: new Map(), unsigned: new Set(), invalid: new Set(), broken: new Map() }

/**
 * Asks Nix about entries: a handful of processes per thousand.
 * @param timeout milliseconds for each of them
 * @throws NixError
 */
export async function askNix(
  entries: readonly Entry[],
  referrersClosure: (paths: string[]) => Promise<Set<string>>,
  timeout = PATIENCE,
): Promise<Known> {
  const paths = [...new Set(entries.map((entry) => entry.path))]
  const { invalid, broken, infos } = await closureOrAll(paths, { timeout })
  const sizes = new Map([...infos].map(([path, { size }]) => [path, size]))
  const withoutSignature = [...infos].filter(([, info]) => unsigned(info)).map(([path]) => path)
  return { sizes, invalid, broken, unsigned: withoutSignature.length > 0 ? await referrersClosure(withoutSignature) : new Set() }
}

/** The queue without what the configuration excludes, which will be dropped silently. */
export const shown = (queue: Queue, cache: SshCache): Queue => ({
  ...queue,
  queued: queue.queued.filter((entry) => wanted(cache, entry.path)),
})

/** A cache's rows: what waits, oldest first, then what failed, then what doesn't belong there. */
export function rowsOf(cache: string, queue: Queue, known: Known): Row[] {
  const junkRow = ({ file, what }: Junk): Row => ({
    cache,
    state: 'junk',
    path: file,
    added: null,
    size: null,
    error: `${what}: remove it by hand`,
  })
  return [
    ...queue.queued.map((entry) => rowOf(entry, known)),
    ...queue.failed.map((entry) => rowOf(entry, known)),
    ...queue.junk.map(junkRow),
  ]
}

function rowOf(entry: Entry, known: Known): Row {
  const base = { cache: entry.cache, path: entry.path, added: entry.added, size: known.sizes.get(entry.path) ?? null }
  if (known.invalid.has(entry.path)) return { ...base, state: 'invalid', error: entry.reason ?? 'not in the store any more' }
  if (entry.state === 'failed') return { ...base, state: 'failed', error: entry.reason ?? '' }
  const broken = known.broken.get(entry.path)
  if (broken !== undefined) return { ...base, state: 'queued', error: `Nix can't read it: ${broken}` }
  if (known.unsigned.has(entry.path)) return { ...base, state: 'unsigned', error: 'the path or one of its dependencies is unsigned' }
  return { ...base, state: 'queued', error: null }
}

/**
 * The table, with a heading and without the cache; an empty string for no rows. An error gets a
 * line of its own, since paths leave no room beside them in 80 columns; the one for `unsigned` is
 * explained once, below the table.
 * @param now milliseconds since 1970
 */
export function table(rows: readonly Row[], now: number): string {
  if (rows.length === 0) return ''
  const cells = rows.map((row) => [
    row.state,
    row.added === null ? '-' : age(now - row.added),
    row.size === null ? '-' : bytes(row.size),
    oneLine(row.path),
  ])
  const all = [['STATE', 'AGE', 'SIZE', 'PATH'], ...cells]
  const widths = [0, 1, 2].map((column) => width(all, column))
  const lines = all.map((row) => row.map((cell, column) => pad(cell, column, widths)).join('  '))
  return lines.map((line, at) => `${line}\n${trouble(rows[at - 1])}`).join('')
}

const trouble = (row: Row | undefined): string => (row?.error && row.state !== 'unsigned' ? `    ${oneLine(row.error)}\n` : '')

// Not Math.max(...): it takes its arguments on the stack, and a list may have 100,000 rows.
const width = (rows: readonly string[][], column: number): number =>
  rows.reduce((most, row) => Math.max(most, (row[column] ?? '').length), 0)

const pad = (cell: string, column: number, widths: readonly number[]): string =>
  column === 1 || column === 2 ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0)
