// What status makes of what it was told, and how that looks on a terminal.

import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { withoutEscapes } from '../../scripts/cli/text.ts'
import { fitted } from '../../scripts/cli/watch.ts'
import {
  assess,
  type CheckFacts,
  clock,
  type Facts,
  fillingOf,
  isRunning,
  plain,
  type QueueStatus,
  type Shown,
  screen,
  timestamp,
} from '../../scripts/status/status.ts'
import type { UploadState } from '../../scripts/system/upload-state.ts'

const test = suite('status')

const NOW = new Date(2026, 10, 22, 20, 30).getTime()
const AT = 'Sun 2026-11-22 18:02:00 UTC'
const ms = Date.parse('2026-11-22T18:02:00Z')
const NO = { ok: false, reason: 'nobody listens on it: the tunnel has ended', ms: 1 } as const
const YES = { ok: true, address: '/run/x.sock', ms: 12, detail: 'Nix 2.26.3' } as const
const up = { ActiveState: 'active', ActiveEnterTimestamp: AT }
const down = { ActiveState: 'inactive', InactiveEnterTimestamp: AT }
const activating = { ActiveState: 'activating', StatusText: 'waits for the nix-daemon' }
const units = (target: Record<string, string>, tunnel: Record<string, string>) => ({ target, tunnel, upload: down })
const state = { failures: 3, reason: 'Permission denied (publickey)', since: '2026-11-22T18:02:00Z', notBefore: 127 }
const facts = (more: Partial<Facts>): Facts => ({
  name: 'rpi',
  answer: NO,
  socket: false,
  units: null,
  tunnelState: undefined,
  uptime: 100,
  ...more,
})

// [what, facts, state, since, reason, tunnel's state]
const STATES: [string, Partial<Facts>, string, number | null, string | null, string | null][] = [
  ['by hand, no tunnel', {}, 'away', null, 'no tunnel; sudo nix-lan setup makes one for good, nix-lan-tunnel rpi one for now', 'inactive'],
  [
    'the same on NixOS, where there is no setup',
    { nixos: true },
    'away',
    null,
    'no tunnel; services.nix-lan.enable = true; in configuration.nix (nix/README.md has the rest) makes one for good, nix-lan-tunnel rpi one for now',
    'inactive',
  ],
  ['by hand, with a tunnel', { socket: true, answer: YES }, 'usable', null, null, 'active'],
  ['by hand, a tunnel that ended', { socket: true }, 'away', null, NO.reason, 'active'],
  ['it answers', { socket: true, answer: YES, units: units(up, up) }, 'usable', ms, null, 'active'],
  ['the check found it gone', { units: units(down, down) }, 'away', ms, 'the check could not reach it', 'inactive'],
  [
    'never there since the login',
    { units: units({ ActiveState: 'inactive', InactiveEnterTimestamp: '' }, {}) },
    'away',
    null,
    'the check could not reach it',
    'inactive',
  ],
  ['reachable, the tunnel is on its way', { units: units(up, activating) }, 'reachable', ms, 'waits for the nix-daemon', 'activating'],
  [
    'gone, and systemd has forgotten since when',
    { units: units({ ActiveState: 'inactive' }, {}), tunnelState: state },
    'away',
    ms,
    state.reason,
    'inactive',
  ],
  [
    'reachable, a tunnel that ends',
    { units: units(up, { ActiveState: 'deactivating', StatusText: 'Nix answers' }) },
    'reachable',
    ms,
    'the tunnel is on its way',
    'deactivating',
  ],
  [
    'reachable, stopped by hand',
    { units: units(up, { ActiveState: 'inactive', StatusText: 'Nix answers' }) },
    'reachable',
    ms,
    'its tunnel is stopped',
    'inactive',
  ],
  ['reachable, ssh fails', { units: units(up, activating), tunnelState: state }, 'reachable', ms, state.reason, 'activating'],
  ['reachable, a link that is unresponsive', { socket: true, units: units(up, up) }, 'reachable', ms, NO.reason, 'active'],
  ['at boot, before the first look', { units: units({}, {}), looked: false }, 'away', null, 'nothing has looked for it yet', 'inactive'],
  [
    "somebody else's tunnel",
    { hiddenBy: 'alice' },
    'unknown',
    null,
    "the tunnel is alice's, and nobody else can see it: sudo -u alice nix-lan status",
    null,
  ],
  ['a url', { socket: null, answer: YES }, 'usable', null, null, null],
  ['a url that is away', { socket: null }, 'away', null, NO.reason, null],
]
for (const [what, more, expected, since, reason, tunnel] of STATES) {
  test(what, () => {
    const found = assess(facts(more))
    assert.equal([found.state, found.since, found.reason, found.tunnel?.state ?? null], [expected, since, reason, tunnel])
  })
}

test('the next attempt is counted by the uptime, and a pause that is absurd is none', () => {
  const retry = (uptime: number) => assess(facts({ units: units(up, activating), tunnelState: state, uptime })).tunnel?.retry
  assert.equal([retry(100), retry(126.2), retry(127), retry(-1e9)], [27, 1, null, null])
})

test('timestamps of systemd', () => {
  assert.equal([timestamp(AT), timestamp(''), timestamp(undefined), timestamp('n/a')], [ms, null, null, null])
})

const sum = (paths: number) => ({ paths, bytes: paths * 2 ** 20, last: paths ? NOW - 180_000 : 0 })
const queue: QueueStatus = { queued: 0, size: 0, oldest: null, failed: [], uploading: false, upload: null, problem: null }
const shown = (more: Partial<Facts>, own: Partial<QueueStatus> = {}): Shown => ({
  status: assess(facts(more)),
  queue: { ...queue, ...own },
  uploaded: { all: sum(0), week: sum(0), today: sum(0) },
  fetched: { all: sum(30), week: sum(4), today: sum(1) },
})
const draw = (all: Shown[], check: CheckFacts | null = null, width: number | null = null, colour = false): string[] =>
  screen(all, check, { now: NOW, width, colour }).split('\n')

test('a screen', () => {
  const oldest = new Date(2026, 10, 22, 20, 25).getTime()
  const failed = [{ path: '/nix/store/00000000000000000000000000000000-bad', reason: 'lacks a\nsignature \u001b[2J' }]
  const lines = draw([shown({ socket: true, answer: YES }, { queued: 2, size: 3 * 2 ** 20, oldest, failed, uploading: true })])
  assert.equal(lines, [
    'rpi: usable; Nix 2.26.3, answers in 12 ms',
    '  tunnel    active',
    '  queue     2 paths, 3.0 MiB, the oldest since 20:25 (5m); uploading',
    '            1 path failed; nix-lan queue retry, or nix-lan queue drop --failed',
    '              bad: lacks a signature ?[2J',
    '  uploaded  nothing yet',
    '  fetched   3m ago; today 1.0 MiB, 7 days 4.0 MiB, in all 30 paths, 30.0 MiB',
    '',
  ])
})

const upload: UploadState = {
  started: NOW - 60_000,
  written: NOW - 500,
  done: { paths: 12, bytes: 2 ** 20 },
  all: { paths: 30, bytes: 3 * 2 ** 20 },
  rate: 2 ** 20,
  average: null,
  path: '/nix/store/00000000000000000000000000000000-x',
  stopped: null,
  full: null,
  failures: 0,
  retry: null,
}
const queueJson = (own: Partial<QueueStatus>): Record<string, unknown> =>
  (plain([shown({}, own)], null) as { caches: { queue: Record<string, unknown> }[] }).caches[0]?.queue ?? {}

test('an upload that runs: paths, bytes, rate, time left', () => {
  const own = { queued: 2, uploading: true, upload }
  assert.ok(draw([shown({}, own)]).includes('            12 of 30 paths, 1.0 MiB of 3.0 MiB, 1.0 MiB/s, 2s left'))
  assert.equal(queueJson(own).upload, { done: upload.done, all: upload.all, rate: 2 ** 20, path: upload.path, left: 2 })
  assert.equal([queueJson(own).waits, queueJson(own).retry], [null, null])
})

test('an upload that stopped: why it waits, and until when; not when nothing is queued', () => {
  const full = { ...upload, stopped: "the box's disk is full: x", full: { need: 9, free: 1 }, failures: 3, retry: NOW + 240_000 }
  const own = { queued: 2, upload: full }
  assert.ok(draw([shown({}, own)]).includes("            waits: the box's disk is full: x; tries again in 4m"))
  const json = queueJson(own)
  assert.equal([json.upload, json.waits, json.retry], [null, full.stopped, new Date(NOW + 240_000).toISOString()])
  assert.not(draw([shown({}, { queued: 0, upload: full })]).some((line) => line.includes('waits')))
})

test('a fetch that waits for the box, and until when; not when it is under way again', () => {
  const wait = { since: NOW - 40_000, until: NOW + 20_000, slow: false }
  const line = /^ {2}a fetch {3}waits for it since \d\d:\d\d \(40s\), for 20s more at most$/
  const lines = (more: Partial<Facts>): string[] => draw([shown(more)]).filter((text) => text.startsWith('  a fetch'))
  assert.match(lines({ wait })[0] ?? '', line)
  assert.equal(lines({ wait, socket: true, answer: YES }), [])
  assert.match(lines({ wait: { ...wait, slow: true }, socket: true, answer: YES })[0] ?? '', line)
  const [json] = (plain([shown({ wait })], null) as { caches: { waiting: unknown }[] }).caches
  assert.equal(json?.waiting, { since: new Date(NOW - 40_000).toISOString(), until: new Date(NOW + 20_000).toISOString() })
})

test('since when, how often the tunnel failed, and when it is tried again', () => {
  const [heading = '', tunnel] = draw([shown({ units: units(up, activating), tunnelState: state })])
  assert.match(heading, /^rpi: reachable since .*\d\d:\d\d \(\d+[smhd]\); Permission denied \(publickey\)$/)
  assert.is(tunnel, '  tunnel    activating; failed 3 times, next attempt in 27 s')
})

test('of what the information is', () => {
  const one = [shown({ units: units(down, down) })]
  assert.is(draw(one, { timer: true, last: NOW - 20_000 }).at(-2), 'last looked for boxes 20s ago, looks twice a minute')
  assert.match(
    draw(one, { timer: false, last: null }).at(-2) ?? '',
    /^nothing looks for boxes: systemctl --user enable --now nix-lan-check\.timer/,
  )
  assert.match(draw(one, null).at(-2) ?? '', /^ {2}fetched /, 'nothing without systemd')
})

test('no line is wider than the terminal, and colours don’t count', () => {
  const failed = Array.from({ length: 9 }, (_, i) => ({
    path: `/nix/store/0000000000000000000000000000000${i}-x`,
    reason: 'r'.repeat(200),
  }))
  for (const width of [20, 40, 80]) {
    const plainLines = draw([shown({ socket: true, answer: YES }, { failed })], { timer: true, last: NOW }, width)
    assert.ok(
      plainLines.every((line) => line.length <= width),
      plainLines.join('\n'),
    )
    assert.ok(plainLines.some((line) => line.endsWith('…') && line.length === width))
    const coloured = draw([shown({ socket: true, answer: YES }, { failed })], { timer: true, last: NOW }, width, true)
    assert.equal(
      coloured.map((line) =>
        line
          .split('\u001b')
          .map((part, at) => (at === 0 ? part : part.replace(/^\[\d+m/, '')))
          .join(''),
      ),
      plainLines,
    )
    assert.ok(coloured.join('').includes('\u001b[32musable'))
  }
})

test('on a terminal without --watch, lines are wrapped between words, below the words of the first', () => {
  const reason = 'the name pi.local does not resolve here, and no machine answers at the address of last time'
  const failed = [{ path: `/nix/store/${'0'.repeat(32)}-x`, reason: `${'r'.repeat(90)} and so on` }]
  const all = [shown({ socket: true, answer: { ok: false, reason, ms: 1 } }, { failed })]
  const look = { now: NOW, width: null, colour: false }
  const whole = screen(all, null, look)
  assert.is(screen(all, null, { ...look, wrap: 400 }), whole)
  for (const wrap of [30, 40, 60, 80]) {
    const text = screen(all, null, { ...look, wrap })
    const long = text.split('\n').filter((line) => line.length > wrap)
    assert.ok(
      long.every((line) => line.trim() === 'r'.repeat(90)),
      long.join('\n'),
    )
    assert.is(text.replaceAll(/\s+/g, ' '), whole.replaceAll(/\s+/g, ' '), 'the same words')
    const coloured = screen(all, null, { ...look, wrap, colour: true })
    assert.is(withoutEscapes(coloured), text)
  }
  assert.match(
    screen(all, null, { ...look, wrap: 40 }),
    /^ {2}fetched {3}3m ago; today 1\.0 MiB, 7\n {12}days 4\.0 MiB, in all 30\n {12}paths, 30\.0 MiB\n/m,
  )
})

test('many failures are a few lines', () => {
  const failed = Array.from({ length: 9 }, (_, i) => ({ path: `/nix/store/0000000000000000000000000000000${i}-x`, reason: '' }))
  const lines = draw([shown({}, { failed })])
  assert.is(lines.length, 11)
  assert.ok(lines.includes('              and 6 more: nix-lan queue'))
})

test('a queue that is not there says how to make it', () => {
  assert.ok(draw([shown({}, { problem: 'there is no queue for rpi yet' })]).includes('  queue     there is no queue for rpi yet'))
})

test('a time of another day has its date', () => {
  assert.is(clock(NOW - 3_600_000, NOW), '19:30')
  assert.is(clock(NOW - 86_400_000, NOW), '2026-11-21 20:30')
})

test('as JSON: times in ISO 8601, what is not known is null', () => {
  const { caches } = plain([shown({ socket: true, answer: YES, units: units(up, up) })], null) as { caches: Record<string, unknown>[] }
  const [cache = {}] = caches
  assert.is(cache.since, '2026-11-22T18:02:00.000Z')
  assert.equal(cache.uploaded, { last: null, today: { paths: 0, bytes: 0 }, week: { paths: 0, bytes: 0 }, all: { paths: 0, bytes: 0 } })
  assert.is((cache.queue as Record<string, unknown>).oldest, null)
})

test('a picture that is higher than the terminal says so in its last row', () => {
  const rows = fitted('a\nb\nc\nd\n', 3).split('\r\n')
  assert.is(rows.length, 3)
  assert.match(rows[2] ?? '', /^… 2 more lines/)
  assert.is(fitted('a\nb\n', 3).split('\r\n').length, 2)
})

test('what gc has seen last', () => {
  const gc = { at: 1_000_000, safe: { paths: 412, bytes: 3.2 * 2 ** 30 }, onlyHere: { paths: 2, bytes: 80 * 2 ** 20 }, problem: null }
  const look = { now: 1_000_000 + 3 * 3_600_000, width: null, colour: false }
  assert.is(
    screen([], null, look, { gc }),
    '\nspace: 3.2 GiB can be freed safely (nix-lan gc); 2 paths, 80.0 MiB, are only here, as of 3h ago\n',
  )
  assert.is(screen([], null, look, { gc: { ...gc, at: 0, problem: 'the box is away' } }), '\nspace: the box is away\n')
  assert.is(screen([], null, look), '')
})

const MIB = 2 ** 20
const FILLING: [string, Partial<Facts>, Partial<QueueStatus>, { free?: number; keepFree?: number }, [string, number | null] | undefined][] =
  [
    ['half in ten minutes', {}, { queued: 5, size: 50 * MIB, oldest: NOW - 600_000 }, { free: 100 * MIB }, ['rpi', 1_200_000]],
    [
      'the box is there',
      { socket: true, answer: YES },
      { queued: 5, size: 50 * MIB, oldest: NOW - 600_000 },
      { free: 100 * MIB },
      undefined,
    ],
    ['nothing waits', {}, {}, { free: MIB, keepFree: 100 * MIB }, undefined],
    ['not for weeks', {}, { queued: 5, size: MIB, oldest: NOW - 86_400_000 }, { free: 100 * MIB }, undefined],
    [
      'below the mark',
      {},
      { queued: 5, size: MIB, oldest: NOW - 86_400_000 },
      { free: 100 * MIB, keepFree: 101 * MIB },
      ['rpi', 8_640_000_000],
    ],
    ['just begun', {}, { queued: 1, size: 50 * MIB, oldest: NOW - 1000 }, { free: 100 * MIB, keepFree: 101 * MIB }, ['rpi', null]],
    ['sizes unknown', {}, { queued: 1, size: null, oldest: NOW - 600_000 }, { free: MIB, keepFree: 100 * MIB }, undefined],
    ['the disk unknown', {}, { queued: 5, size: 50 * MIB, oldest: NOW - 600_000 }, {}, undefined],
  ]
for (const [what, more, own, space, expected] of FILLING)
  test(`what fills the disk, and when: ${what}`, () => {
    const found = fillingOf([shown(more, own)], space, NOW)
    assert.equal(found && [found.cache, found.left], expected)
  })

test('what fills the disk, in words', () => {
  const all = [shown({}, { queued: 5, size: 50 * MIB, oldest: NOW - 600_000 })]
  const text = screen(all, null, { now: NOW, width: null, colour: false }, { free: 100 * MIB })
  assert.match(
    text,
    /\n\nspace: 100\.0 MiB are free, and 50\.0 MiB wait for rpi, which can't be deleted before; at this rate it is full in 20m\n$/,
  )
})

test('what the box does not keep', () => {
  const unkept = { ...shown({ socket: true, answer: YES }), notKept: 'it runs no commands' }
  assert.match(screen([unkept], null, { now: NOW, width: null, colour: false }), /^ {12}not kept: the box's own .*: it runs no commands$/m)
})

test('a queue without a cache is shown, and listed', () => {
  const strays = [{ cache: 'second', queued: 3, failed: 1 }]
  const text = screen([], null, { now: NOW, width: null, colour: false }, { strays })
  assert.is(text, '\nsecond: no cache of that name is configured, but 4 paths wait for it and stay in the store: nix-lan doctor\n')
  assert.equal((plain([], null, { strays }) as { strays: unknown }).strays, strays)
})

test('an upload that waits for its restart does not run', () => {
  const states = [
    ['active', 'running'],
    ['activating', 'start'],
    ['activating', 'auto-restart'],
    ['activating', 'auto-restart-queued'],
    ['inactive', 'dead'],
  ].map(([ActiveState = '', SubState = '']) => isRunning({ ActiveState, SubState }))
  assert.equal([...states, isRunning(undefined)], [true, true, false, false, false, false])
})

test('what is damaged on the box', () => {
  const damaged = [1, 2, 3, 4].map((n) => `/nix/store/${String(n).repeat(32)}-n${n}`)
  const one = { ...shown({ socket: true, answer: YES }), damaged }
  const text = screen([one], null, { now: NOW, width: null, colour: false })
  assert.match(
    text,
    / {2}damaged {3}4 paths on the box; nix-lan queue upload .*\n {14}n1\n {14}n2\n {14}n3\n {14}and 1 more: nix-lan queue\n/,
  )
  assert.equal((plain([one], null) as { caches: { damaged: string[] }[] }).caches[0]?.damaged, damaged)
})

test.run()
