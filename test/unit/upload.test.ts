// The rules of draining, with two stores in memory that behave as Nix's do: a copy of many paths
// fails as a whole and names one path, or none.
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { UsageError } from '../../scripts/cli/errors.ts'
import type { SshCache } from '../../scripts/config/types.ts'
import { NixError } from '../../scripts/nix/nix.ts'
import type { Closure, PathInfo } from '../../scripts/nix/path-info.ts'
import type { Entry } from '../../scripts/queue/queue.ts'
import { copyTo } from '../../scripts/queue/stores.ts'
import {
  acceptable,
  boxIsAtFault,
  type Disk,
  drain,
  exitCode,
  type Ledger,
  type Patience,
  patienceFor,
  Silence,
  type Stores,
  type Summary,
  wanted,
} from '../../scripts/queue/upload.ts'
import { until } from '../lib/until.ts'

const cache = (more: Partial<SshCache> = {}): SshCache => ({
  kind: 'ssh',
  name: 'rpi',
  host: 'rpi',
  ssh: 'rpi',
  port: 22,
  daemonSocket: '/s',
  envFile: '/e',
  derivations: true,
  exclude: [],
  keep: 60,
  deadline: 2000,
  patience: 60_000,
  ...more,
})

const store = (name: string): string =>
  `/nix/store/${'a'.repeat(32 - name.length)}${name.replace(/[^0-9a-df-np-sv-z]/g, '0').slice(0, 32)}-${name}`
const entry = (name: string): Entry => ({ cache: 'rpi', name: store(name).slice(11), path: store(name), state: 'queued', added: 0 })
const info = (more: Partial<PathInfo> = {}): PathInfo => ({
  size: 1,
  ultimate: true,
  contentAddressed: false,
  signatures: ['me-1:x'],
  ...more,
})

/** A path here: what it needs, and what is known of it. */
interface Made {
  needs?: string[]
  info?: Partial<PathInfo>
  /** A copy that holds it fails with this on stderr. */
  breaks?: string
  /** The box takes nothing of it. */
  mute?: boolean
}

/** Two stores. `calls` are the copies, by names. */
class Fake implements Stores {
  readonly made: Record<string, Made>
  readonly box = new Map<string, PathInfo>()
  readonly calls: string[][] = []
  reason: string | undefined
  /** The box goes away at the copy with this number. */
  awayAt = Number.POSITIVE_INFINITY
  /** Every copy fails with this. */
  always: string | undefined
  accepts = true
  /** The box has room for no path of so many bytes. */
  room = Number.POSITIVE_INFINITY
  /** What copies that found no room have left: while it is there, nothing fits. */
  readonly leftovers = new Set<string>()
  space: Disk | undefined
  /** What Nix here says of paths that it can't read. */
  readonly broken = new Map<string, string>()
  trusted = ['me-1']

  constructor(made: Record<string, Made>) {
    this.made = made
  }

  private reach(paths: string[]): Set<string> {
    const all = new Set<string>()
    const visit = (path: string): void => {
      if (all.has(path)) return
      all.add(path)
      for (const name of this.made[path.slice(44)]?.needs ?? []) visit(store(name))
    }
    for (const path of paths) visit(path)
    return all
  }

  private infoOf(path: string): PathInfo {
    return info(path.endsWith('.drv') ? { contentAddressed: true, signatures: [] } : this.made[path.slice(44)]?.info)
  }

  away = async (): Promise<string | undefined> => this.reason
  invalid = async (paths: string[]): Promise<string[]> => paths.filter((path) => !this.made[path.slice(44)])
  async closure(paths: string[]): Promise<Closure> {
    const invalid = new Set(await this.invalid(paths))
    const valid = paths.filter((path) => !invalid.has(path))
    const infos = new Map([...this.reach(valid)].map((path) => [path, this.infoOf(path)]))
    return { invalid, broken: this.broken, infos }
  }
  missing = async (paths: string[]): Promise<string[]> => paths.filter((path) => !this.box.has(path))
  onBox = async (paths: string[]) => new Map([...this.box].filter(([path]) => paths.includes(path)))
  trustedKeys = async (): Promise<string[]> => this.trusted
  mustTakeNix = async (): Promise<void> => {}
  disk = async (): Promise<Disk | undefined> => this.space
  async discard(paths: string[]): Promise<void> {
    for (const path of paths) this.leftovers.delete(path)
  }

  async referrersClosure(paths: string[]): Promise<Set<string>> {
    const all = Object.keys(this.made).map(store)
    return new Set(all.filter((path) => [...this.reach([path])].some((inner) => paths.includes(inner))))
  }

  async deliver(paths: string[]): Promise<string | undefined> {
    if (!this.accepts) return 'you are not privileged to add signatures'
    for (const path of paths) this.box.set(path, this.infoOf(path))
    return undefined
  }

  async copy(paths: string[], derivations: boolean, patience: Patience): Promise<string | undefined> {
    this.calls.push(paths.map((path) => path.slice(44)))
    assert.ok(paths.every((path) => path.endsWith('.drv') === derivations))
    if (this.calls.length >= this.awayAt) this.reason = 'no route'
    if (this.reason) return 'error: unexpected end-of-file'
    if (this.always) return this.always
    for (const path of [...this.reach(paths)].reverse()) {
      if (this.box.has(path)) continue
      const { breaks, mute } = this.made[path.slice(44)] ?? {}
      if (mute) throw new Silence(path, patience(path))
      if (breaks) return breaks
      const one = this.infoOf(path)
      if (one.size >= this.room || this.leftovers.size > 0) {
        this.leftovers.add(path)
        return `copying path '${path}'...\nerror: writing to file: No space left on device`
      }
      if (one.signatures.length === 0 && !one.contentAddressed) return `error: cannot add path '${path}' because it lacks a valid signature`
      this.box.set(path, one)
    }
    return undefined
  }
}

const names = (paths: string[]): string[] => paths.map((path) => path.slice(44)).sort()

/**
 * Drains these, and checks that each entry has exactly one fate, told to the ledger as it stands in
 * the summary.
 */
async function drained(fake: Fake, entries: string[], config = cache()): Promise<Summary> {
  const told: Record<'uploaded' | 'failed' | 'invalid' | 'unwanted', string[]> = { uploaded: [], failed: [], invalid: [], unwanted: [] }
  const ledger: Ledger = {
    expects: () => {},
    uploaded: (done) => void told.uploaded.push(...done.map(({ path }) => path)),
    failed: ({ path }) => void told.failed.push(path),
    invalid: ({ path }) => void told.invalid.push(path),
    unwanted: ({ path }) => void told.unwanted.push(path),
  }
  const summary = await drain(entries.map(entry), config, fake, ledger)
  const { uploaded, failed, invalid, unwanted, unsigned } = summary
  assert.equal({ uploaded, failed: failed.map(({ path }) => path), invalid, unwanted }, told)
  const fates = [...uploaded, ...told.failed, ...invalid, ...unwanted, ...unsigned]
  assert.is(new Set(fates).size, fates.length, 'two fates')
  for (const path of uploaded) assert.ok(fake.box.has(path), `${path} left the queue and isn't on the box`)
  return summary
}

const drains = suite('drain')

drains('one copy for all outputs, one for all derivations', async () => {
  const fake = new Fake({ a: {}, b: { needs: ['a'] }, 'a.drv': {}, 'b.drv': {} })
  const summary = await drained(fake, ['a', 'a.drv', 'b', 'b.drv'])
  assert.equal(names(summary.uploaded), ['a', 'a.drv', 'b', 'b.drv'])
  assert.equal(fake.calls, [
    ['a', 'b'],
    ['a.drv', 'b.drv'],
  ])
})

drains('derivations and exclude: taken out of the queue, not uploaded; what is excluded still goes along when needed', async () => {
  const fake = new Fake({ 'a-source': {}, b: { needs: ['a-source'] }, 'b.drv': {} })
  const summary = await drained(fake, ['a-source', 'b', 'b.drv'], cache({ derivations: false, exclude: ['*-source'] }))
  assert.equal(names(summary.unwanted), ['a-source', 'b.drv'])
  assert.equal(names(summary.uploaded), ['b'])
  assert.ok(fake.box.has(store('a-source')))
})

drains('what is unwanted goes although the box is away', async () => {
  const fake = new Fake({ 'a.drv': {} })
  fake.reason = 'no route'
  const summary = await drained(fake, ['a.drv'], cache({ derivations: false }))
  assert.equal([names(summary.unwanted), summary.away], [['a.drv'], undefined])
})

drains('the box is away: nothing is tried', async () => {
  const fake = new Fake({ a: {} })
  fake.reason = 'no route'
  assert.is((await drained(fake, ['a'])).away, 'no route')
  assert.equal(fake.calls, [])
})

drains('the box goes away in mid-copy: nothing is a failure, nothing more is tried', async () => {
  const fake = new Fake({ a: {}, b: {}, 'a.drv': {} })
  fake.awayAt = 1
  const summary = await drained(fake, ['a', 'b', 'a.drv'])
  assert.equal([summary.away, summary.uploaded, summary.failed], ['no route', [], []])
  assert.is(fake.calls.length, 1)
})

drains('the box was away for a moment: the same again, once', async () => {
  const fake = new Fake({ a: {}, b: {} })
  const copy = fake.copy.bind(fake)
  let first = true
  fake.copy = async (...asked) => {
    if (!first) return await copy(...asked)
    first = false
    return 'error: unexpected end-of-file'
  }
  assert.equal(names((await drained(fake, ['a', 'b'])).uploaded), ['a', 'b'])
  assert.is(fake.calls.length, 1)
})

drains('Nix names a path: every entry that holds it is set aside with the message, the others go on in one copy', async () => {
  const message = `copying path '${store('c')}'...\nerror: hash mismatch importing path '${store('bad')}'`
  const fake = new Fake({ bad: { breaks: message }, a: { needs: ['bad'] }, b: { needs: ['a'] }, c: {}, d: {} })
  const summary = await drained(fake, ['a', 'b', 'c', 'd'])
  assert.equal(names(summary.uploaded), ['c', 'd'])
  assert.equal(
    summary.failed.map(({ path, reason }) => [path.slice(44), reason]),
    [
      ['a', `hash mismatch importing path '${store('bad')}'`],
      ['b', `hash mismatch importing path '${store('bad')}'`],
    ],
  )
  assert.is(fake.calls.length, 2)
})

drains('Nix names none: halves, until the culprits stand alone', async () => {
  const many = Object.fromEntries(Array.from({ length: 16 }, (_, i) => [`p${i}`, i === 5 || i === 11 ? { breaks: 'error: boom' } : {}]))
  const fake = new Fake(many)
  const summary = await drained(fake, Object.keys(many))
  assert.equal(names(summary.failed.map(({ path }) => path)), ['p11', 'p5'])
  assert.is(summary.uploaded.length, 14)
  assert.ok(fake.calls.length < 20, `${fake.calls.length} copies`)
})

drains('a path that no entry holds is no culprit', async () => {
  const fake = new Fake({ a: { breaks: `error: while at '${store('elsewhere')}': boom` }, b: {} })
  assert.equal(names((await drained(fake, ['a', 'b'])).failed.map(({ path }) => path)), ['a'])
})

drains('everything fails alike: the paths are not to blame, all stay queued, and it is not tried for ever', async () => {
  const fake = new Fake(Object.fromEntries(Array.from({ length: 64 }, (_, i) => [`p${i}`, {}])))
  fake.always = 'error: protocol mismatch'
  const summary = await drained(fake, Object.keys(fake.made))
  assert.equal([summary.stopped, summary.failed], ['protocol mismatch', []])
  assert.ok(fake.calls.length < 15, `${fake.calls.length} copies`)
})

drains('two paths, both fail alike, nothing else goes: not to blame either', async () => {
  const fake = new Fake({ a: {}, b: {} })
  fake.always = 'error: protocol mismatch'
  const summary = await drained(fake, ['a', 'b'])
  assert.equal([summary.stopped, summary.failed], ['protocol mismatch', []])
})

drains('a single path fails, and the box cannot be asked either: the path is not to blame', async () => {
  const fake = new Fake({ a: {} })
  fake.always = 'error: program ended'
  fake.mustTakeNix = async () => {
    throw new NixError('program ended')
  }
  const summary = await drained(fake, ['a'])
  assert.equal([summary.stopped, summary.failed], ['program ended', []])
})

drains('unsigned, and needed by a derivation: the derivation waits too', async () => {
  const fake = new Fake({ old: { info: { signatures: [] } }, 'a.drv': { needs: ['old'] }, 'b.drv': {} })
  const summary = await drained(fake, ['a.drv', 'b.drv'])
  assert.equal([names(summary.unsigned), names(summary.uploaded), summary.failed], [['a.drv'], ['b.drv'], []])
})

const sized = (size: number, more: Made = {}): Made => ({ ...more, info: { size } })

drains('the box is full: what fits goes, the smallest first; nothing larger is tried, and nothing failed', async () => {
  const fake = new Fake({ huge: sized(9e9), big: sized(5e8), a: sized(10), b: sized(20), 'a.drv': {} })
  fake.room = 4e8
  fake.space = { total: 1e10, free: 3e8 }
  const summary = await drained(fake, ['huge', 'big', 'b', 'a', 'a.drv'])
  assert.equal([names(summary.uploaded), summary.failed, summary.full], [['a', 'a.drv', 'b'], [], { need: 5e8, free: 3e8 }])
  assert.match(summary.stopped ?? '', /^the box's disk is full: big needs 476\.8 MiB, 286\.1 MiB are free \(.*No space left on device\)$/)
  assert.equal(fake.calls, [['a', 'b'], ['big'], ['a.drv']])
})

drains('the box is full in the midst of many small ones: as many of them go as fit', async () => {
  const fake = new Fake(Object.fromEntries(Array.from({ length: 32 }, (_, i) => [`p${i}`, sized(100 + i)])))
  fake.room = 120
  const summary = await drained(fake, Object.keys(fake.made))
  assert.is(summary.uploaded.length, 20)
  assert.ok(fake.calls.length < 12, `${fake.calls.length} copies`)
})

drains('what the box had no room for isn’t sent again, nor what needs it; the rest is', async () => {
  const fake = new Fake({ big: sized(500), small: sized(1), needy: sized(1, { needs: ['big'] }) })
  fake.room = 500
  const ledger: Ledger = { expects: () => {}, uploaded: () => {}, failed: () => {}, invalid: () => {}, unwanted: () => {} }
  const summary = await drain(['big', 'small', 'needy'].map(entry), cache(), fake, ledger, 500)
  assert.equal([names(summary.uploaded), summary.stopped, fake.calls], [['small'], undefined, [['small']]])
})

drains('a path that is larger than the disk of the box: set aside alone; the others go', async () => {
  const fake = new Fake({ huge: sized(9e9), a: {} })
  fake.room = 8e9
  fake.space = { total: 8e9, free: 1e9 }
  const summary = await drained(fake, ['huge', 'a'])
  assert.equal([names(summary.uploaded), names(summary.failed.map(({ path }) => path)), summary.stopped], [['a'], ['huge'], undefined])
  assert.is(summary.failed[0]?.reason, "too large for the box: huge needs 8.4 GiB, and the disk of the box's store has 7.5 GiB in all")
})

drains('a .drv that Nix here can’t read: set aside alone', async () => {
  const fake = new Fake({ 'a.drv': {}, 'b.drv': {} })
  fake.broken.set(store('a.drv'), "error parsing derivation: expected string 'D'")
  const summary = await drained(fake, ['a.drv', 'b.drv'])
  assert.equal(names(summary.uploaded), ['b.drv'])
  assert.equal(summary.failed, [
    { path: store('a.drv'), reason: "this machine's Nix can't read it: error parsing derivation: expected string 'D'" },
  ])
})

drains('paths that need a feature which the box lacks: each set aside, with the way out, though no other goes', async () => {
  const breaks =
    "error: experimental Nix feature 'ca-derivations' is disabled; use '--extra-experimental-features ca-derivations' to override"
  const fake = new Fake({ 'a.drv': { breaks }, 'b.drv': { breaks }, 'c.drv': { breaks }, 'd.drv': { breaks } })
  const summary = await drained(fake, ['a.drv', 'b.drv', 'c.drv', 'd.drv'])
  assert.equal([summary.failed.length, summary.stopped], [4, undefined])
  assert.match(summary.failed[0]?.reason ?? '', /on the box: add extra-experimental-features = ca-derivations to nix\.conf, then retry/)
})

drains('a path that invalid is dropped', async () => {
  const summary = await drained(new Fake({ a: {} }), ['a', 'gone'])
  assert.equal([names(summary.invalid), names(summary.uploaded)], [['gone'], ['a']])
})

drains('unsigned: stays queued with all that need it; the others go', async () => {
  const fake = new Fake({ old: { info: { signatures: [] } }, a: { needs: ['old'] }, b: {} })
  const summary = await drained(fake, ['old', 'a', 'b'])
  assert.equal([names(summary.unsigned), names(summary.uploaded), summary.failed], [['a', 'old'], ['b'], []])
  assert.equal(fake.calls, [['b']])
})

drains('unsigned here, but on the box already: what needs it goes', async () => {
  const fake = new Fake({ old: { info: { signatures: [] } }, a: { needs: ['old'] } })
  fake.box.set(store('old'), info({ signatures: [] }))
  assert.equal(names((await drained(fake, ['a'])).uploaded), ['a'])
})

drains('unsigned on both sides: could never come back, so it stays, unsigned', async () => {
  const fake = new Fake({ old: { info: { signatures: [] } } })
  fake.box.set(store('old'), info({ signatures: [] }))
  const summary = await drained(fake, ['old'])
  assert.equal([names(summary.unsigned), summary.uploaded], [['old'], []])
})

drains('content-addressed paths need no signature', async () => {
  const fake = new Fake({ src: { info: { signatures: [], contentAddressed: true } } })
  assert.equal(names((await drained(fake, ['src'])).uploaded), ['src'])
})

drains('the box built it itself: the signature is delivered', async () => {
  const fake = new Fake({ a: {} })
  fake.box.set(store('a'), info({ signatures: [] }))
  assert.equal(names((await drained(fake, ['a'])).uploaded), ['a'])
  assert.equal(fake.box.get(store('a'))?.signatures, ['me-1:x'])
})

drains('… or refused: set aside with the reason and the cure', async () => {
  const fake = new Fake({ a: {}, b: {} })
  fake.accepts = false
  fake.box.set(store('a'), info({ signatures: [] }))
  const summary = await drained(fake, ['a', 'b'])
  assert.equal(names(summary.uploaded), ['b'])
  assert.match(summary.failed[0]?.reason ?? '', /not privileged.*nix-store --delete/)
})

drains('the box deletes it at once: still queued, no failure', async () => {
  const fake = new Fake({ a: {} })
  fake.onBox = async () => new Map()
  const summary = await drained(fake, ['a'])
  assert.equal([summary.uploaded, summary.failed, summary.unsigned], [[], [], []])
})

drains('a key that the box does not know is named', async () => {
  const fake = new Fake({
    a: { info: { signatures: ['other-1:y'] }, breaks: `error: cannot add path '${store('a')}' because it lacks a valid signature` },
  })
  assert.match(
    (await drained(fake, ['a'])).failed[0]?.reason ?? '',
    /signed by other-1: sudo nix-lan setup .*, in place of any other other-1, since of two/,
  )
})

drains('a question that Nix does not answer stops it: away if the box is away, else with the message; a bug is not swallowed', async () => {
  const fake = new Fake({ a: {} })
  fake.closure = async () => {
    throw new NixError('daemon is down')
  }
  assert.is((await drained(fake, ['a'])).stopped, 'daemon is down')
  fake.onBox = async () => {
    fake.reason = 'gone'
    throw new NixError('eof')
  }
  fake.closure = async () => ({ invalid: new Set(), broken: new Map(), infos: new Map([[store('a'), info()]]) })
  const summary = await drained(fake, ['a'])
  assert.equal([summary.away, summary.stopped], ['gone', undefined])
  fake.reason = undefined
  fake.onBox = async () => {
    throw new TypeError('bug')
  }
  let caught: unknown
  await drained(fake, ['a']).catch((error) => {
    caught = error
  })
  assert.instance(caught, TypeError)
})

drains('an entry that cannot be set aside stays, is not counted, and holds up no other', async () => {
  const fake = new Fake({ a: { breaks: `error: boom '${store('a')}'` }, b: {} })
  const ledger: Ledger = {
    expects: () => {},
    uploaded: () => {},
    invalid: () => {},
    unwanted: () => {},
    failed: () => {
      throw new UsageError('no directory')
    },
  }
  const summary = await drain([entry('a'), entry('b')], cache(), fake, ledger)
  assert.equal([summary.stopped, summary.failed, names(summary.uploaded)], ['no directory', [], ['b']])
})

drains(
  'a box that takes nothing more of a path: the upload ends, twice, with more patience; then it is set aside with what needs it',
  async () => {
    const mebibytes = (size: number): Made => ({ info: { size: size * 2 ** 20 } })
    const fake = new Fake({
      small: {},
      mute: { ...mebibytes(3), mute: true },
      needy: { ...mebibytes(4), needs: ['mute'] },
      large: mebibytes(1000),
    })
    const met = new Map<string | undefined, number>()
    const failed: [string, string][] = []
    const ledger: Ledger = {
      ...{ expects: () => {}, uploaded: () => {}, invalid: () => {}, unwanted: () => {} },
      failed: ({ path }, reason) => void failed.push([path.slice(44), reason]),
      silences: (path) => met.get(path) ?? 0,
      silent: (path, times) => void met.set(path, times),
    }
    const upload = (): Promise<Summary> => drain(['small', 'mute', 'needy', 'large'].map(entry), cache(), fake, ledger)
    for (const minutes of ['10m', '20m']) {
      const { stopped, failed, away } = await upload()
      assert.equal([stopped, failed, away], [`the box takes nothing more of mute: no progress for ${minutes}`, [], undefined])
    }
    assert.is(met.get(store('mute')), 2)
    const last = await upload()
    const why = 'the box takes nothing more of mute: no progress for 40m'
    assert.equal(
      [failed.sort(), last.stopped],
      [
        [
          ['mute', why],
          ['needy', why],
        ],
        undefined,
      ],
    )
    assert.ok(fake.box.has(store('large')), 'what comes after it goes')
    assert.is(met.get(store('mute')), 0, 'a retry starts anew')
  },
)

drains('ten thousand entries: as many copies as command lines', async () => {
  const fake = new Fake(Object.fromEntries(Array.from({ length: 10_000 }, (_, i) => [`p${i}`, {}])))
  assert.is((await drained(fake, Object.keys(fake.made))).uploaded.length, 10_000)
  assert.ok(fake.calls.length <= 6, `${fake.calls.length} copies`)
})

drains.run()

const pure = suite('upload')

pure('wanted', () => {
  const table: [path: string, more: Partial<SshCache>, expected: boolean][] = [
    ['a', {}, true],
    ['a.drv', {}, true],
    ['a.drv', { derivations: false }, false],
    ['a-source', { exclude: ['*-source'] }, false],
    ['a-source-b', { exclude: ['*-source'] }, true],
  ]
  for (const [name, more, expected] of table) assert.is(wanted(cache(more), store(name)), expected, name)
})

pure('faults of the box, as Nix 2.8.0 and 2.34.8 report them', () => {
  for (const text of ['error: writing to file: No space left on device', 'error: write of 28672 bytes: No space left on device']) {
    assert.ok(boxIsAtFault(text), text)
  }
  assert.not(boxIsAtFault('error: unexpected end-of-file'))
})

pure('acceptable', () => {
  const table: [box: string[], here: string[] | undefined, trusted: string[], expected: boolean][] = [
    [[], ['me-1:x'], ['me-1'], false],
    [['me-1:x'], ['me-1:x'], [], true],
    [['box-1:y'], ['me-1:x'], ['me-1'], false],
    [['box-1:y'], ['me-1:x'], ['me-1', 'box-1'], true],
    [['box-1:y'], undefined, ['box-1'], true],
  ]
  for (const [box, here, trusted, expected] of table) {
    assert.is(
      acceptable(info({ signatures: box }), here && info({ signatures: here }), trusted),
      expected,
      JSON.stringify([box, here, trusted]),
    )
  }
  assert.ok(acceptable(info({ signatures: [], contentAddressed: true }), undefined, []))
})

pure('exit code', () => {
  const summary = (failed: number): Summary => ({
    uploaded: [],
    failed: Array(failed).fill({ path: '', reason: '' }),
    invalid: [],
    unwanted: [],
    unsigned: [],
  })
  const table: [failed: number, left: number, junk: number, code: number][] = [
    [0, 0, 0, 0],
    [1, 0, 0, 1],
    [0, 0, 1, 1],
    [0, 1, 0, 75],
    [1, 1, 1, 75],
  ]
  for (const [failed, left, junk, code] of table) assert.is(exitCode(summary(failed), left, junk), code, `${failed} ${left} ${junk}`)
})

pure('patience: ten minutes, a second for each MiB, doubled each time that it was not enough', () => {
  const all = [patienceFor(0, 0), patienceFor(2 ** 30, 0), patienceFor(2 ** 30, 1), patienceFor(1, 2)]
  assert.equal(all, [600_000, 1_624_000, 3_248_000, 2_404_000])
})

pure('a copy that gets nowhere is ended, and one that does goes on', async () => {
  const { setInterval } = globalThis
  const folder = mkdtempSync(join(tmpdir(), 'nix-lan-silence-'))
  const path = store('slow')
  const before = process.env.PATH
  const copying = `echo "copying path '${path}' to 'ssh-ng://localhost'..." >&2`
  const nix = (script: string): void => writeFileSync(join(folder, 'nix'), `#!/bin/sh\n${copying}\n${script}\n`, { mode: 0o755 })
  process.env.PATH = `${folder}:${before}`
  try {
    // looks, each for a second, as we say; in between it goes on
    let look = (): void => {}
    Object.assign(globalThis, {
      setInterval(call: () => void) {
        look = call
        return setInterval(() => {}, 1000)
      },
    })
    nix(`for i in 1 2 3; do until [ -e ${folder}/$i ]; do sleep 0.01; done; echo x; : >${folder}/$i.done; done`)
    const copied = copyTo('x', [path], false, () => 50_000)
    for (const i of [1, 2, 3]) {
      for (let looks = 0; looks < 45; looks++) look()
      writeFileSync(`${folder}/${i}`, '')
      await until('more', () => existsSync(`${folder}/${i}.done`))
    }
    assert.is(await copied, undefined)
    // a look every 20 ms instead of every second
    Object.assign(globalThis, { setInterval: (call: () => void, time: number) => setInterval(call, time / 50) })
    nix('exec sleep 60')
    const asked = new Set<string | undefined>()
    const failure = await copyTo('x', [path], false, (one) => {
      asked.add(one)
      return one === undefined ? 1_000_000 : 3000
    }).catch((error) => error)
    assert.instance(failure, Silence)
    assert.is(failure.message, 'the box takes nothing more of slow: no progress for 3s')
    assert.ok(asked.has(path))
  } finally {
    Object.assign(globalThis, { setInterval })
    process.env.PATH = before
    rmSync(folder, { recursive: true })
  }
})

pure.run()
