// How an upload tells how it goes, and when one that nobody asked for waits.
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { Progress, pauseAfter } from '../../scripts/queue/progress.ts'
import type { Entry } from '../../scripts/queue/queue.ts'
import { diskIn } from '../../scripts/queue/stores.ts'
import { asksDisk, decide } from '../../scripts/queue/wait.ts'
import { readPower, whyWait } from '../../scripts/system/power.ts'
import { progressText, readUploadState, timeLeft, type UploadState, writeUploadState } from '../../scripts/system/upload-state.ts'

const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-progress-'))
process.on('exit', () => rmSync(TMP, { recursive: true, force: true }))
const UID = process.getuid?.() ?? 0
process.env.XDG_RUNTIME_DIR = TMP
mkdirSync(join(TMP, 'nix-lan'))
const FILE = join(TMP, 'nix-lan/rpi.upload.json')

const test = suite('progress')
test.before.each(() => rmSync(FILE, { force: true }))

test('what has gone, of what, and why it stopped', () => {
  const progress = new Progress(UID, 'rpi', 'nobody')
  progress.expects({ paths: 3, bytes: 300 })
  progress.copying('/nix/store/a')
  progress.sent(50)
  const first = readUploadState(UID, 'rpi')
  assert.equal([first?.done, first?.all, first?.path], [{ paths: 0, bytes: 50 }, { paths: 3, bytes: 300 }, '/nix/store/a'])
  progress.copying('/nix/store/b')
  progress.sent(150)
  assert.equal(readUploadState(UID, 'rpi')?.done, { paths: 1, bytes: 150 })
  progress.over()
  progress.copying('/nix/store/c')
  progress.sent(1000) // the protocol's own bytes count, too
  assert.equal(readUploadState(UID, 'rpi')?.done, { paths: 2, bytes: 300 })
  progress.ended({ stopped: 'full', full: { need: 9, free: null } })
  const last = readUploadState(UID, 'rpi')
  assert.equal([last?.stopped, last?.full, last?.failures, last?.path], ['full', { need: 9, free: null }, 1, null])
  assert.ok((last?.retry ?? 0) > Date.now())
})

test('each time that there is no room the pause grows; an upload that goes through ends it', () => {
  const pauses: number[] = []
  const { now } = Date
  const time = now()
  Date.now = () => time
  try {
    for (let upload = 0; upload < 9; upload++) {
      new Progress(UID, 'rpi', 'nobody').ended({ stopped: 'full', full: { need: 9, free: null } })
      pauses.push(((readUploadState(UID, 'rpi')?.retry ?? 0) - time) / 1000)
    }
  } finally {
    Date.now = now
  }
  assert.equal(pauses, [30, 60, 120, 240, 480, 960, 1800, 1800, 1800])
  assert.is(pauseAfter(1000), 1_800_000)
  new Progress(UID, 'rpi', 'nobody').ended({})
  const state = readUploadState(UID, 'rpi')
  assert.equal([state?.failures, state?.retry, state?.full, state?.stopped], [0, null, null, null])
})

test('in the journal there is a line each half minute, and none in between', () => {
  const lines: string[] = []
  const [now, write] = [Date.now, process.stdout.write]
  let time = now()
  Date.now = () => time
  process.stdout.write = ((text: string) => lines.push(text) > 0) as typeof process.stdout.write
  try {
    const progress = new Progress(UID, 'rpi', 'journal')
    progress.expects({ paths: 2, bytes: 9000 })
    progress.copying('/nix/store/a')
    for (let second = 1; second <= 65; second++) {
      time += 1000
      progress.sent(second * 100)
    }
    new Progress(UID, 'rpi', 'nobody').sent(1)
  } finally {
    Date.now = now
    process.stdout.write = write
  }
  assert.equal(
    lines.map((line) => line.replace(/, \S+ \S+\/s.*\n/, '')),
    ['rpi: 0 of 2 paths, 2.9 KiB of 8.8 KiB', 'rpi: 0 of 2 paths, 5.9 KiB of 8.8 KiB'],
  )
})

test('what still waits is kept when other paths went meanwhile', () => {
  new Progress(UID, 'rpi', 'nobody').ended({ stopped: 'full', full: { need: 9, free: 1 } })
  const before = readUploadState(UID, 'rpi')
  new Progress(UID, 'rpi', 'nobody').ended({}, before)
  const after = readUploadState(UID, 'rpi')
  assert.equal([after?.stopped, after?.full, after?.failures, after?.retry], ['full', { need: 9, free: 1 }, 1, before?.retry])
})

test('in words', () => {
  const amounts = { done: { paths: 0, bytes: 0 }, all: { paths: 1, bytes: 1024 } }
  assert.is(progressText({ ...amounts, rate: null }), '0 of 1 path, 0 B of 1.0 KiB')
  assert.is(progressText({ ...amounts, rate: 10.24 }), '0 of 1 path, 0 B of 1.0 KiB, 10 B/s, 2m left')
  assert.equal([timeLeft({ ...amounts, rate: 0 }), timeLeft({ ...amounts, rate: 512 })], [null, 2000])
})

test('a file that can’t be a state is none; a link is not followed', () => {
  const good = { ...state(), started: 5 }
  writeUploadState(UID, 'rpi', good)
  assert.equal(readUploadState(UID, 'rpi'), good)
  for (const text of ['', '{', 'null', '[]', '{"started":1}', JSON.stringify({ ...good, retry: 'soon' }), ' '.repeat(70_000)]) {
    writeFileSync(FILE, text)
    assert.is(readUploadState(UID, 'rpi'), undefined, text.slice(0, 50))
  }
  rmSync(FILE)
  writeFileSync(join(TMP, 'other'), JSON.stringify(good))
  symlinkSync(join(TMP, 'other'), FILE)
  assert.is(readUploadState(UID, 'rpi'), undefined)
})

function state(more: Partial<UploadState> = {}): UploadState {
  const nothing = { paths: 0, bytes: 0 }
  const rest = { stopped: null, full: null, failures: 0, retry: null }
  return { started: NOW - 5000, written: NOW - 1000, done: nothing, all: nothing, rate: null, average: null, path: null, ...rest, ...more }
}
const NOW = 1_000_000_000_000
const GOOD = { metered: false, external: true, battery: 90 }
const WISHES = { metered: 'wait', battery: 20 } as const
const FULL = state({ stopped: 'full: x', full: { need: 100, free: 10 }, retry: NOW + 60_000, failures: 2 })
const entry = (added: number): Entry => ({ cache: 'rpi', name: 'x', path: '/nix/store/x', state: 'queued', added })
const now = (more: Partial<Parameters<typeof decide>[0]> = {}, wishes: Parameters<typeof decide>[1] = WISHES, queued = [entry(0)]) =>
  decide({ power: GOOD, before: undefined, disk: undefined, now: NOW, ...more }, wishes, queued)
const ALL = { most: Number.POSITIVE_INFINITY }

test('a metered connection and a low battery: it waits, unless told', () => {
  assert.equal(now(), ALL)
  assert.equal(now({ power: { ...GOOD, metered: true } }), { waits: 'the connection is metered' })
  assert.equal(now({ power: { ...GOOD, metered: true } }, { metered: 'upload', battery: 20 }), ALL)
  assert.equal(now({ power: { ...GOOD, metered: undefined, external: false, battery: 19 } }), { waits: 'the battery is at 19 %' })
  assert.equal(now({ power: { ...GOOD, external: false, battery: 20 } }), ALL)
  assert.equal(now({ power: { ...GOOD, external: true, battery: 3 } }), ALL)
  assert.equal(now({ power: { ...GOOD, external: false, battery: 3 } }, { metered: 'wait', battery: 0 }), ALL)
  assert.equal(now({ power: { metered: undefined, external: undefined, battery: undefined } }), ALL)
  assert.is(whyWait({ metered: true, external: false, battery: 1 }, { metered: false, battery: 0 }), undefined)
})

test('a box without room: it waits for the pause; what came in since is tried; room ends the pause', () => {
  assert.equal(now({ before: FULL }), { waits: 'full: x' })
  assert.equal(now({ before: FULL, now: NOW + 60_000 }), ALL)
  assert.equal(now({ before: FULL, disk: { total: 1e9, free: 101 } }), ALL)
  assert.equal(now({ before: FULL, disk: { total: 1e9, free: 100 } }), { waits: 'full: x' })
  assert.equal(now({ before: FULL }, WISHES, [entry(NOW - 4000)]), { most: 100 })
  assert.equal([asksDisk(FULL, NOW), asksDisk(FULL, FULL.written + 100_000 - 60_000), asksDisk(undefined, NOW)], [false, false, false])
  assert.ok(asksDisk({ ...FULL, retry: NOW + 1e6 }, NOW + 100_000))
  assert.not(asksDisk(state({ retry: NOW + 1e6 }), NOW + 100_000))
})

test('batteries as the kernel has them; a mouse’s isn’t one', async () => {
  const supply = (name: string, files: Record<string, string>): void => {
    mkdirSync(join(TMP, 'supplies', name), { recursive: true })
    for (const [file, text] of Object.entries(files)) writeFileSync(join(TMP, 'supplies', name, file), `${text}\n`)
  }
  assert.is((await readPower(join(TMP, 'none'))).battery, undefined)
  supply('AC', { type: 'Mains', online: '0' })
  supply('hid-mouse-battery', { type: 'Battery', scope: 'Device', capacity: '3' })
  assert.is((await readPower(join(TMP, 'supplies'))).battery, undefined)
  supply('BAT0', { type: 'Battery', capacity: '17' })
  supply('BAT1', { type: 'Battery', scope: 'System', capacity: '42' })
  assert.is((await readPower(join(TMP, 'supplies'))).battery, 42)
})

test('what df -Pk prints, of coreutils and of busybox', () => {
  const coreutils =
    'Filesystem     1024-blocks    Used Available Capacity Mounted on\n/dev/mmcblk0p2    30358436 9876543  19200000      34% /\n'
  const busybox =
    'Filesystem           1024-blocks    Used Available Capacity Mounted on\ntmpfs                     2048      0      2048   0% /nix/store\n'
  assert.equal(diskIn(coreutils), { total: 30358436 * 1024, free: 19200000 * 1024 })
  assert.equal(diskIn(busybox), { total: 2048 * 1024, free: 2048 * 1024 })
  assert.is(diskIn('df: /nix/store: No such file or directory\n'), undefined)
})

test.run()
