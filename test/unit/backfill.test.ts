// What a box could be given: how it is sorted, and what that costs.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { SshCache } from '../../scripts/config/types.ts'
import type { PathInfo } from '../../scripts/nix/path-info.ts'
import { type Backfill, type BackfillStores, sortBackfill } from '../../scripts/queue/backfill.ts'

const H = '0123456789abcdfghijklmnpqrsvwxyz'
const store = (name: string): string => `/nix/store/${H}-${name}`
const CACHE = { kind: 'ssh', name: 'rpi', derivations: true, exclude: ['*-source'] } as unknown as SshCache
const EMPTY: Backfill = { missing: [], onBox: [], unsigned: [], queued: [], failed: [], unwanted: [], elsewhere: [] }

const info = (more: Partial<PathInfo> = {}): PathInfo => ({
  size: 1,
  ultimate: true,
  contentAddressed: false,
  signatures: ['laptop-1:x'],
  ...more,
})
const all = (entries: Record<string, PathInfo>): Map<string, PathInfo> =>
  new Map(Object.entries(entries).map(([name, one]) => [store(name), one]))
const waiting = (...names: string[]): { path: string }[] => names.map((name) => ({ path: store(name) }))

/**
 * A box that has these; `referrersClosure`: path → what refers to it. Counts the paths that it is
 * asked for.
 */
function stores(has: string[], referrersClosure: Record<string, string[]> = {}): BackfillStores & { asked: string[][] } {
  const asked: string[][] = []
  return {
    asked,
    missing: async (paths) => {
      asked.push(paths)
      const there = new Set(has.map(store))
      return paths.filter((path) => !there.has(path))
    },
    referrersClosure: async (paths) => new Set(paths.flatMap((path) => [path, ...(referrersClosure[path.slice(44)] ?? []).map(store)])),
  }
}

const test = suite('what was built here')

test('built here, wanted, missing there and not in the queue yet', async () => {
  const infos = all({
    new: info(),
    'old-on-box': info(),
    queued: info(),
    failed: info(),
    'x-source': info(),
    'x.drv': info(),
    fetched: info({ ultimate: false }),
    byhash: info({ contentAddressed: true, signatures: [] }),
  })
  const queue = { queued: waiting('queued'), failed: waiting('failed') } as never
  const sorted = await sortBackfill('built', infos, CACHE, queue, stores(['old-on-box']))
  assert.equal(sorted, {
    missing: [store('new'), store('byhash')],
    onBox: [store('old-on-box')],
    unsigned: [],
    queued: [store('queued')],
    failed: [store('failed')],
    unwanted: [store('x-source')],
    elsewhere: [],
  })
})

test('unsigned, or in need of what is unsigned and missing: nothing for the queue, where it would stay for ever', async () => {
  const infos = all({
    withoutSignature: info({ signatures: [] }),
    'needs-withoutSignature': info(),
    foreign: info({ ultimate: false, signatures: [] }),
    'needs-foreign': info(),
    'withoutSignature-on-box': info({ signatures: [] }),
    'needs-withoutSignature-on-box': info(),
  })
  const referrersClosure = {
    withoutSignature: ['needs-withoutSignature'],
    foreign: ['needs-foreign'],
    'withoutSignature-on-box': ['needs-withoutSignature-on-box'],
  }
  const sorted = await sortBackfill(
    'built',
    infos,
    CACHE,
    { queued: [], failed: [] },
    stores(['withoutSignature-on-box'], referrersClosure),
  )
  assert.equal(sorted, {
    ...EMPTY,
    missing: [store('needs-withoutSignature-on-box')],
    onBox: [store('withoutSignature-on-box')],
    unsigned: [store('withoutSignature'), store('needs-withoutSignature'), store('needs-foreign')],
  })
})

test('nothing was built here: nobody is asked', async () => {
  const box = stores([])
  assert.equal(await sortBackfill('built', all({ fetched: info({ ultimate: false }) }), CACHE, { queued: [], failed: [] }, box), EMPTY)
  assert.equal(box.asked, [])
})

test('a closure: without what a cache has; all: with it, and with derivations', async () => {
  const infos = all({
    own: info(),
    'own-copied': info({ ultimate: false }),
    cached: info({ ultimate: false, signatures: ['cache.nixos.org-1:x'] }),
    'x-source': info({ ultimate: false, contentAddressed: true, signatures: [] }),
    src: info({ ultimate: false, contentAddressed: true, signatures: [] }),
    'x.drv': info({ contentAddressed: true, signatures: [] }),
    beside: info(),
  })
  const queue = { queued: [], failed: [] }
  const chosen = ['own', 'own-copied', 'cached', 'x-source', 'src', 'x.drv'].map(store)
  assert.equal(await sortBackfill('closure', infos, CACHE, queue, stores([]), chosen), {
    ...EMPTY,
    missing: ['own', 'own-copied', 'src', 'x.drv'].map(store),
    unwanted: [store('x-source')],
    elsewhere: [store('cached')],
  })
  assert.equal(await sortBackfill('all', infos, CACHE, queue, stores(['own'])), {
    ...EMPTY,
    missing: ['own-copied', 'cached', 'src', 'x.drv', 'beside'].map(store),
    onBox: [store('own')],
    unwanted: [store('x-source')],
  })
})

test('10,000 paths: the box is asked once for each, and ten times as many take about ten times as long', async () => {
  const time = async (count: number): Promise<number> => {
    const infos = new Map(Array.from({ length: count }, (_, i) => [store(`p${i}`), info(i % 2 ? {} : { signatures: [] })]))
    const queue = { queued: Array.from({ length: count / 4 }, (_, i) => ({ path: store(`p${i}`) })), failed: [] } as never
    const box = stores([])
    const before = process.cpuUsage() // not the time of day: the machine may be busy
    await sortBackfill('built', infos, CACHE, queue, box)
    const { user, system } = process.cpuUsage(before)
    const asked = box.asked.flat()
    assert.is(new Set(asked).size, asked.length)
    return (user + system) / 1000
  }
  const least = async (count: number): Promise<number> => Math.min(await time(count), await time(count), await time(count))
  const few = Math.max(1, await least(1000))
  const many = await least(10_000)
  assert.ok(many < 60 * few + 200, `${few} ms, ${many} ms`) // quadratic: 100 times
})

test.run()
