// Turns what `nix-lan status` was told into the state of each cache, in one word with a reason, and
// one screen of text. Pure; commands/status.ts asks the world.

import { age, bytes, count, oneLine, wrapped } from '../cli/text.ts'
import { type BoxLook, wordsOf } from '../keep/daily.ts'
import type { Look as GcLook } from '../keep/gc-look.ts'
import type { Answer } from '../reach/reach.ts'
import { whatSetsUp } from '../system/nixos.ts'
import type { Wait } from '../system/outage-note.ts'
import type { UnitFacts } from '../system/systemd.ts'
import type { Counted } from '../system/transfers.ts'
import { progressText, timeLeft, type UploadState } from '../system/upload-state.ts'
import { pauseLeft, type TunnelState } from '../tunnel/state.ts'

/** What the user's systemd says of a cache's units. */
export interface UnitsOf {
  target: UnitFacts
  tunnel: UnitFacts
  upload: UnitFacts
}

/** What systemd says of the check that looks for boxes. */
export interface CheckFacts {
  /** Whether the timer that starts it twice a minute is running. */
  timer: boolean
  /**
   * When it last finished, in milliseconds since 1970; null: not since the user's systemd started.
   */
  last: number | null
}

/** What is known of one cache. */
export interface Facts {
  name: string
  /** Whether Nix's question was answered just now, through the tunnel or at the URL. */
  answer: Answer
  /** Whether the tunnel's socket exists; null: no tunnel is needed. */
  socket: boolean | null
  /** null: no systemd here, units not installed, or no permission to ask. */
  units: UnitsOf | null
  tunnelState: TunnelState | undefined
  /** Seconds since boot, the clock of `notBefore`. */
  uptime: number
  /** Who owns the tunnel, if somebody else does: only they can see it. */
  hiddenBy?: string
  nixos?: boolean
  /** Whether the check has looked for boxes since the user's systemd started. */
  looked?: boolean
  /** A fetch that waits for the box. */
  wait?: Wait
}

export type State = 'usable' | 'slow' | 'reachable' | 'away' | 'unknown'

/** One cache, as --json gives it. */
export interface CacheStatus {
  cache: string
  state: State
  /** Since when it has been in this state, in milliseconds since 1970; null: not known. */
  since: number | null
  /** Why it isn't usable; null when it is. */
  reason: string | null
  /** How it answered: "Nix 2.26.3"; null: not known. */
  detail: string | null
  /** How long it took to answer just now, in milliseconds. */
  ms: number | null
  tunnel: Tunnel | null
  /** A fetch that waits for the box, in milliseconds since 1970; null: none does. */
  waiting: { since: number; until: number } | null
}

export interface Tunnel {
  /** systemd's ActiveState, or without systemd `active` and `inactive`. */
  state: string
  /** What the unit says of itself. */
  status: string | null
  failures: number
  /** Seconds until the next attempt. */
  retry: number | null
}

/**
 * Parses the time in `ActiveEnterTimestamp=Sun 2026-11-22 20:35:12 UTC` (systemctl with TZ=UTC) to
 * milliseconds since 1970.
 */
export function timestamp(text: string | undefined): number | null {
  const [, day, time] = /(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d) UTC$/.exec(text ?? '') ?? []
  return day === undefined ? null : Date.parse(`${day}T${time}Z`)
}

/**
 * Whether a service runs. One that waits for its restart is `activating` too, in systemd's words,
 * but nothing runs (SubState `auto-restart`, or since systemd 254 `auto-restart-queued`).
 */
export const isRunning = (unit: UnitFacts | undefined): boolean =>
  /^activ/.test(unit?.ActiveState ?? '') && !/^auto-restart/.test(unit?.SubState ?? '')

/**
 * The state of one cache.
 * - usable: it answered just now.
 * - slow: its nix-daemon shook hands just now, but has answered nothing yet.
 * - reachable: systemd's target says the check found the box, but nothing answers.
 * - unknown: the tunnel is somebody else's.
 * - away: everything else.
 */
export function assess(facts: Facts): CacheStatus {
  const { name, answer, units, wait } = facts
  const reachable = units?.target.ActiveState === 'active'
  const state = stateOf(facts, reachable)
  return {
    cache: name,
    state,
    since: sinceWhen(state, units, facts.tunnelState),
    reason: answer.ok ? null : reasonOf(facts, answer.reason, reachable),
    detail: (answer.ok && answer.detail) || null,
    ms: answer.ok ? answer.ms : null,
    tunnel: facts.socket === null || facts.hiddenBy !== undefined ? null : tunnelOf(facts),
    // what is under way again still has its note
    waiting: wait && (!answer.ok || wait.slow) ? { since: wait.since, until: wait.until } : null,
  }
}

function stateOf({ answer, hiddenBy }: Facts, reachable: boolean): State {
  if (answer.ok) return 'usable'
  if (hiddenBy !== undefined) return 'unknown'
  if (answer.slow) return 'slow'
  return reachable ? 'reachable' : 'away'
}

/**
 * systemd forgets the times of a stopped unit that nothing refers to; the tunnel's state file
 * remains.
 */
function sinceWhen(state: State, units: UnitsOf | null, tunnelState: TunnelState | undefined): number | null {
  if (!units) return null
  if (state === 'usable' || state === 'slow') return timestamp(units.tunnel.ActiveEnterTimestamp)
  if (state === 'reachable') return timestamp(units.target.ActiveEnterTimestamp)
  const failed = Date.parse(tunnelState?.since ?? '')
  return timestamp(units.target.InactiveEnterTimestamp) ?? (Number.isNaN(failed) ? null : failed)
}

function reasonOf(
  { name, socket, units, tunnelState, hiddenBy, looked, nixos = false }: Facts,
  answered: string,
  reachable: boolean,
): string {
  if (hiddenBy !== undefined) return `the tunnel is ${hiddenBy}'s, and nobody else can see it: sudo -u ${hiddenBy} nix-lan status`
  if (socket !== false) return answered
  if (tunnelState) return tunnelState.reason
  // What a stopped tunnel said last is out of date.
  if (reachable && units?.tunnel.ActiveState === 'inactive') return 'its tunnel is stopped'
  if (reachable) return (units?.tunnel.ActiveState === 'activating' && units.tunnel.StatusText) || 'the tunnel is on its way'
  if (units) return looked === false ? 'nothing has looked for it yet' : 'the check could not reach it'
  return `no tunnel; ${whatSetsUp(nixos)} makes one for good, nix-lan-tunnel ${name} one for now`
}

function tunnelOf({ socket, units, tunnelState, uptime }: Facts): Tunnel {
  const wait = Math.ceil(pauseLeft(tunnelState, uptime))
  return {
    state: units?.tunnel.ActiveState ?? (socket ? 'active' : 'inactive'),
    status: (units?.tunnel.ActiveState !== 'inactive' && units?.tunnel.StatusText) || null, // systemd keeps the status of a unit that has ended
    failures: tunnelState?.failures ?? 0,
    retry: wait > 0 ? wait : null,
  }
}

/** The queue of a cache. */
export interface QueueStatus {
  queued: number
  /** Bytes of the NARs of what is queued; null: not known. */
  size: number | null
  /** When the oldest was queued, in milliseconds since 1970; null when nothing is. */
  oldest: number | null
  failed: { path: string; reason: string }[]
  uploading: boolean
  /** How the running upload goes, or how the last one stopped; null: not known. */
  upload: UploadState | null
  /** Why there is no queue to look at; null when there is one. */
  problem: string | null
}

/**
 * Everything the screen shows of one cache; `queue` and `uploaded` are null if it takes no uploads.
 */
export interface Shown {
  status: CacheStatus
  queue: QueueStatus | null
  fetched: Counted | null
  uploaded: Counted | null
  /** Why the box keeps nothing of what was uploaded last; undefined if no problem is known. */
  notKept?: string
  /** What the daily look at the box found; undefined if there was none yet. */
  box?: BoxLook
  /** Paths that are damaged on the box, as far as a fetch has met them. */
  damaged?: readonly string[]
}

/** How the screen is drawn. */
export interface Look {
  /** Milliseconds since 1970. */
  now: number
  /** Columns at which lines are cut, since --watch counts them; null: nothing is cut. */
  width: number | null
  /** Columns at which lines are wrapped, between words; null: they aren't. */
  wrap?: number | null
  colour: boolean
}

const COLOURS = { bold: '1', dim: '2', red: '31', green: '32', yellow: '33' } as const
type Colour = keyof typeof COLOURS

/** A line in parts, each with its colour, so it can be cut by its visible length. */
type Part = string | [text: string, colour: Colour]

/** At most this many failed paths are shown; `nix-lan queue` lists the rest. */
const MOST_FAILED = 3

/** A queue that no cache of the configuration has. */
export interface Stray {
  /** What the cache was called. */
  cache: string
  queued: number
  failed: number
}

/** What is known of this machine's disk. */
export interface Space {
  /** What `nix-lan gc` saw last. */
  gc?: GcLook | undefined
  /** Bytes free on the file system of the store. */
  free?: number | undefined
  /** Bytes that `nix-lan gc --auto` keeps free. */
  keepFree?: number | undefined
  /** Queues without a cache: what is in them stays. */
  strays?: readonly Stray[]
}

/** The screen. @param check null: no systemd to ask */
export function screen(all: readonly Shown[], check: CheckFacts | null, look: Look, space: Space = {}): string {
  const lines = all.flatMap((shown, at) => [...(at > 0 ? [['']] : []), ...linesOf(shown, look.now)])
  const ofSpace = [...gcLines(space.gc, look.now), ...fillLines(fillingOf(all, space, look.now)), ...strayLines(space.strays ?? [])]
  return [...lines, ...(ofSpace.length > 0 ? [[''], ...ofSpace] : []), ...footer(all, check, look.now)]
    .flatMap((parts) => folded(parts, look.wrap ?? Number.POSITIVE_INFINITY))
    .map((parts) => `${draw(parts, look)}\n`)
    .join('')
}

/** A line as lines of at most `width` columns, those that follow below the first one's words. */
function folded(parts: readonly Part[], width: number): (readonly Part[])[] {
  const whole = parts.map(textOf).join('')
  if (whole.length <= width) return [parts]
  const indent = /^ *(\S+ {2,})?/.exec(whole)?.[0].length ?? 0
  let at = indent
  return wrapped(whole.slice(indent), width - indent).map((line, number) => {
    const from = at
    at += line.length + 1 // and the blank at which it ends
    return number === 0 ? slice(parts, 0, from + line.length) : [' '.repeat(indent), ...slice(parts, from, from + line.length)]
  })
}

/** What stands from one column to another. */
function slice(parts: readonly Part[], from: number, to: number): Part[] {
  let at = 0
  return parts.map((part): Part => {
    const text = textOf(part)
    const cut = text.slice(Math.max(0, from - at), Math.max(0, to - at))
    at += text.length
    return typeof part === 'string' ? cut : [cut, part[1]]
  })
}

/** What `nix-lan gc` saw last. */
function gcLines(gc: GcLook | undefined, now: number): Part[][] {
  if (!gc) return []
  const { at, safe, onlyHere, problem } = gc
  const seen = at === 0 ? '' : `, as of ${age(now - at)} ago`
  const only =
    onlyHere.paths === 0 ? '' : `; ${paths(onlyHere.paths)}, ${bytes(onlyHere.bytes)}, ${onlyHere.paths === 1 ? 'is' : 'are'} only here`
  const lines: Part[][] = at === 0 ? [] : [[`space: ${bytes(safe.bytes)} can be freed safely (nix-lan gc)${only}${seen}`]]
  if (problem !== null)
    lines.push([
      ['space: ', 'yellow'],
      [problem, 'yellow'],
    ])
  return lines
}

/** Queues that no cache has. */
function strayLines(strays: readonly Stray[]): Part[][] {
  return strays.map(({ cache, queued, failed }) => [
    [`${cache}: `, 'bold'],
    [`no cache of that name is configured, but ${paths(queued + failed)} ${queued + failed === 1 ? 'waits' : 'wait'} for it`, 'yellow'],
    ' and stay in the store: nix-lan doctor',
  ])
}

/** What fills the disk while a box is away: what waits for it is rooted, so that no gc may take it. */
export interface Filling {
  /** The box that most waits for. */
  cache: string
  /** Bytes of what waits. */
  size: number
  free: number
  /** Milliseconds until the disk is full, if it goes on so; null: can't be told. */
  left: number | null
}

/** Nobody need hear of a disk that is full in more than this. */
const SOON = 3 * 86_400_000
/** What came in less time tells nothing of how it goes on, in milliseconds. */
const TELLING = 60_000

/** Whether, and when, what waits for a box that is away fills this machine's disk. */
export function fillingOf(all: readonly Shown[], { free, keepFree = 0 }: Space, now: number): Filling | undefined {
  if (free === undefined) return undefined
  const waiting = all.flatMap(({ status, queue }) => {
    const { size = 0, oldest = null } = queue ?? {}
    return status.state === 'usable' || !size || oldest === null ? [] : [{ cache: status.cache, size, oldest }]
  })
  const most = waiting.sort((a, b) => b.size - a.size)[0]
  if (!most) return undefined
  const { cache, size, oldest } = most
  const left = now - oldest < TELLING ? null : Math.round((free * (now - oldest)) / size)
  return free < keepFree || (left !== null && left < SOON) ? { cache, size, free, left } : undefined
}

function fillLines(filling: Filling | undefined): Part[][] {
  if (!filling) return []
  const { cache, size, free, left } = filling
  const when = left === null ? '' : `; at this rate it is full in ${age(left)}`
  return [[[`space: ${bytes(free)} are free, and ${bytes(size)} wait for ${cache}, which can't be deleted before${when}`, 'yellow']]]
}

function linesOf({ status, queue, fetched, uploaded, notKept, box, damaged = [] }: Shown, now: number): Part[][] {
  const lines = [heading(status, now)]
  if (status.waiting) lines.push(['  ', ['a fetch', 'yellow'], '   ', waitingLine(status.waiting, now)])
  if (status.tunnel) lines.push(['  tunnel    ', ...tunnelLine(status.tunnel)])
  if (queue) lines.push(...queueLines(queue, now))
  if (uploaded) lines.push(['  uploaded  ', countsLine(uploaded, now)])
  if (notKept) lines.push(['            ', ["not kept: the box's own garbage collection may delete it", 'yellow'], `: ${notKept}`])
  if (box) lines.push(...keptLines(box, now))
  if (fetched) lines.push(['  fetched   ', countsLine(fetched, now)])
  if (damaged.length > 0) lines.push(...damagedLines(damaged))
  return lines
}

function keptLines(box: BoxLook, now: number): Part[][] {
  const words = wordsOf(box)
  return words.map(({ text, bad }, at) => [
    at === 0 ? '  kept      ' : '            ',
    bad ? [text, 'yellow'] : text,
    at === words.length - 1 ? `, as of ${age(now - box.at)} ago` : '',
  ])
}

const STATE_COLOURS: Record<State, Colour> = { usable: 'green', slow: 'yellow', reachable: 'yellow', away: 'red', unknown: 'yellow' }

function heading({ cache, state, since, reason, detail, ms }: CacheStatus, now: number): Part[] {
  const when = since === null ? '' : ` since ${clock(since, now)} (${age(now - since)})`
  const how = [detail ?? '', ms === null ? '' : `answers in ${ms} ms`].filter((text) => text !== '').join(', ')
  const rest = reason ?? how
  return [[cache, 'bold'], ': ', [state, STATE_COLOURS[state]], `${when}${rest === '' ? '' : `; ${rest}`}`]
}

const waitingLine = ({ since, until }: { since: number; until: number }, now: number): string =>
  `waits for it since ${clock(since, now)} (${age(now - since)}), for ${age(until - now)} more at most`

function tunnelLine({ state, status, failures, retry }: Tunnel): Part[] {
  const more = [
    failures > 0 ? `failed ${times(failures)}` : '',
    retry === null ? '' : `next attempt in ${retry} s`,
    status !== null && state !== 'active' && retry === null ? status : '',
  ].filter((text) => text !== '')
  const shown: Part = state === 'failed' ? [state, 'red'] : state
  return [shown, ...(more.length > 0 ? [`; ${more.join(', ')}`] : [])]
}

const times = (count: number): string => (count === 1 ? 'once' : `${count} times`)

function queueLines({ queued, size, oldest, failed, uploading, upload, problem }: QueueStatus, now: number): Part[][] {
  if (problem !== null) return [['  queue     ', [problem, 'red']]]
  const counts = queued === 0 ? 'empty' : `${paths(queued)}${size === null ? '' : `, ${bytes(size)}`}`
  const waits =
    oldest === null || queued === 0 ? '' : `, ${queued === 1 ? '' : 'the oldest '}since ${clock(oldest, now)} (${age(now - oldest)})`
  const lines: Part[][] = [['  queue     ', `${counts}${waits}`, ...(uploading ? ['; ', ['uploading', 'green'] as Part] : [])]]
  if (upload && uploading && upload.all.paths > 0) lines.push([`            ${progressText(upload)}`])
  else if (upload?.stopped && queued > 0)
    lines.push(['            ', ['waits', 'yellow'], `: ${upload.stopped}${nextTry(upload.retry, now)}`])
  if (failed.length === 0) return lines
  const word = `${paths(failed.length)} failed`
  lines.push(['            ', [word, 'red'], '; nix-lan queue retry, or nix-lan queue drop --failed'])
  for (const { path, reason } of failed.slice(0, MOST_FAILED))
    lines.push(['              ', nameOf(path), reason === '' ? '' : `: ${reason}`])
  if (failed.length > MOST_FAILED) lines.push([`              and ${failed.length - MOST_FAILED} more: nix-lan queue`])
  return lines
}

function damagedLines(damaged: readonly string[]): Part[][] {
  const way = '; nix-lan queue upload replaces what is here, a build replaces the rest'
  const lines: Part[][] = [['  damaged   ', [`${paths(damaged.length)} on the box`, 'red'], way]]
  for (const path of damaged.slice(0, MOST_FAILED)) lines.push(['              ', nameOf(path)])
  if (damaged.length > MOST_FAILED) lines.push([`              and ${damaged.length - MOST_FAILED} more: nix-lan queue`])
  return lines
}

const nextTry = (retry: number | null, now: number): string => (retry !== null && retry > now ? `; tries again in ${age(retry - now)}` : '')

/** A store path without the part that all of them share. */
const nameOf = (path: string): string => path.slice(path.lastIndexOf('/') + 34)

const paths = (number: number): string => count(number, 'path')

function countsLine({ all, week, today }: Counted, now: number): string {
  if (all.paths === 0) return 'nothing yet'
  // Leaves out a period that says the same as the next longer one.
  const parts = [
    today.paths > 0 && today.paths < week.paths ? `today ${bytes(today.bytes)}, ` : '',
    week.paths > 0 && week.paths < all.paths ? `7 days ${bytes(week.bytes)}, ` : '',
  ]
  return `${age(now - all.last)} ago; ${parts.join('')}in all ${paths(all.paths)}, ${bytes(all.bytes)}`
}

/** When boxes were last looked for, which is what "away" rests on. */
function footer(all: readonly Shown[], check: CheckFacts | null, now: number): Part[][] {
  if (!check || all.every(({ status }) => status.tunnel === null)) return []
  const last = check.last === null ? 'not looked for boxes yet' : `last looked for boxes ${age(now - check.last)} ago`
  if (check.timer) return [[''], [[`${last}, looks twice a minute`, 'dim']]]
  return [[''], [['nothing looks for boxes', 'yellow'], `: systemctl --user enable --now nix-lan-check.timer (${last})`]]
}

/**
 * A time of day, with the date if it isn't today's. Without Intl, which takes longer than
 * everything else.
 */
export function clock(time: number, now: number): string {
  const date = new Date(time)
  const today = new Date(now)
  const two = (part: number): string => String(part).padStart(2, '0')
  const hour = `${two(date.getHours())}:${two(date.getMinutes())}`
  if (date.toDateString() === today.toDateString()) return hour
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${hour}`
}

/**
 * A line as the terminal gets it. Lets no control character through: the text may come from a box
 * or from Nix.
 */
function draw(parts: readonly Part[], { width, colour }: Look): string {
  let left = width ?? Number.POSITIVE_INFINITY
  let line = ''
  const total = parts.reduce((sum, part) => sum + textOf(part).length, 0)
  if (total > left) left -= 1 // for the sign that it is cut
  for (const part of parts) {
    const text = textOf(part).slice(0, left)
    left -= text.length
    line += colour && typeof part !== 'string' && text !== '' ? `\u001b[${COLOURS[part[1]]}m${text}\u001b[0m` : text
  }
  return (total > (width ?? total) ? `${line}…` : line).trimEnd()
}

const textOf = (part: Part): string => oneLine(typeof part === 'string' ? part : part[0])

/** A time for JSON; null stays null. */
export const iso = (time: number | null): string | null => (time === null || time === 0 ? null : new Date(time).toISOString())

/** How the upload goes, and why it waits, for --json. */
function uploadJson({ uploading, upload, queued }: QueueStatus): object {
  const left = upload && timeLeft(upload)
  const { done, all, rate, path } = upload ?? { done: null, all: null, rate: null, path: null }
  const running = uploading && all !== null && all.paths > 0
  return {
    upload: running ? { done, all, rate, path, left: left === null ? null : Math.round(left / 1000) } : null,
    waits: !running && queued > 0 ? (upload?.stopped ?? null) : null,
    retry: !running && queued > 0 ? iso(upload?.retry ?? null) : null,
  }
}

/** What --json prints; times are ISO 8601. */
export function plain(all: readonly Shown[], check: CheckFacts | null, space: Space = {}, now = Date.now()): object {
  const { gc } = space
  const sums = (counted: Counted | null): object | null =>
    counted && {
      last: iso(counted.all.last),
      ...Object.fromEntries(
        Object.entries({ today: counted.today, week: counted.week, all: counted.all }).map(([name, { paths, bytes }]) => [
          name,
          { paths, bytes },
        ]),
      ),
    }
  return {
    check: check && { timer: check.timer, last: iso(check.last) },
    gc: gc ? { ...gc, at: iso(gc.at) } : null,
    filling: fillingOf(all, space, now) ?? null,
    strays: space.strays ?? [],
    caches: all.map(({ status, queue, fetched, uploaded, notKept, box, damaged }) => ({
      ...status,
      since: iso(status.since),
      waiting: status.waiting && { since: iso(status.waiting.since), until: iso(status.waiting.until) },
      queue: queue && { ...queue, oldest: iso(queue.oldest), ...uploadJson(queue) },
      uploaded: sums(uploaded),
      notKept: notKept ?? null,
      box: box ? { ...box, at: iso(box.at) } : null,
      damaged: damaged ?? [],
      fetched: sums(fetched),
    })),
  }
}
