// What is counted for `nix-lan status`: by several at once, month by month, and where it must not
// be.
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { counted, fetchedBy, Transfers, userTransfers } from '../../scripts/system/transfers.ts'

const test = suite('transfers')
const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-transfers-'))
const NAME = fetchedBy('/run/user/1000/nix-lan/rpi.sock')
const DAY = 86_400_000
let folders = 0
const fresh = (): string => join(TMP, `state${folders++}`, 'nix-lan')
const month = (time: number): string => new Date(time).toISOString().slice(0, 7)

test('what several count at once is all there, in a directory that is made', () => {
  const directory = fresh()
  const counters = [1, 2, 3].map(() => new Transfers(NAME, directory))
  for (let i = 0; i < 100; i++) for (const counter of counters) counter.add(2, 1000)
  const { all, week } = counted(NAME, [directory], Date.now())
  assert.equal([all.paths, all.bytes], [600, 300_000])
  assert.equal(week, all)
  assert.ok(Date.now() - all.last < 60_000)
  assert.equal(readdirSync(directory), [`${NAME}.${month(Date.now())}`])
})

test('a name that another begins with is another', () => {
  const directory = fresh()
  new Transfers('uploaded.rpi', directory).add(1, 1)
  new Transfers('uploaded.rpi-2', directory).add(2, 2)
  assert.is(counted('uploaded.rpi', [directory], Date.now()).all.paths, 1)
})

test('today, the last seven days, ever', () => {
  const directory = fresh()
  mkdirSync(directory, { recursive: true })
  const noon = new Date(2026, 4, 20, 12).getTime()
  const lines = [noon - 3_600_000, noon - 13 * 3_600_000, noon - 6 * DAY, noon - 8 * DAY].map((time) => `${time / 1000} 1 10\n`)
  writeFileSync(join(directory, `${NAME}.2026-05`), lines.join(''))
  writeFileSync(join(directory, `${NAME}.2025-01`), '1737000000 5 50\n')
  const { all, week, today } = counted(NAME, [directory, join(TMP, 'none')], noon)
  assert.equal([all.paths, week.paths, today.paths], [9, 3, 1])
  assert.is(all.last, noon - 3_600_000)
})

test('what is no count (cut off, not ours) is left out', () => {
  const directory = fresh()
  mkdirSync(directory, { recursive: true })
  writeFileSync(
    join(directory, `${NAME}.2026-05`),
    '17900000001790000001 1 10\n1790000000 1 10\n1790000000 1\n\n-1 2 3\n1790000000 x 1\n1790',
  )
  assert.equal(counted(NAME, [directory], Date.now()).all, { paths: 1, bytes: 10, last: 1_790_000_000_000 })
})

test('a new month: those that nobody can be counting in any more become one line, the sum stays', () => {
  const directory = fresh()
  mkdirSync(directory, { recursive: true })
  const now = Date.now()
  const before = Date.parse(`${month(now)}-01T00:00:00Z`) - DAY
  const file = (time: number): string => join(directory, `${NAME}.${month(time)}`)
  const old = now - 100 * DAY
  for (const time of [old, before]) writeFileSync(file(time), `${Math.floor(time / 1000)} 1 10\n`.repeat(3))
  new Transfers(NAME, directory).add(1, 10)
  assert.is(readFileSync(file(old), 'utf8'), `${Math.floor(old / 1000)} 3 30\n`)
  assert.is(readFileSync(file(before), 'utf8').split('\n').length, 4)
  assert.is(counted(NAME, [directory], now).all.paths, 7)
  assert.is(readdirSync(directory).length, 3)
})

test('where others can write, or where a link stands, nothing is written', () => {
  const shared = fresh()
  mkdirSync(shared, { recursive: true })
  chmodSync(shared, 0o777)
  new Transfers(NAME, shared).add(1, 1)
  assert.equal(readdirSync(shared), [])
  const linked = fresh()
  const target = fresh()
  mkdirSync(target, { recursive: true })
  mkdirSync(join(linked, '..'), { recursive: true })
  symlinkSync(target, linked)
  new Transfers(NAME, linked).add(1, 1)
  assert.equal(readdirSync(target), [])
  const own = fresh()
  mkdirSync(own, { recursive: true })
  symlinkSync(join(TMP, 'elsewhere'), join(own, `${NAME}.${month(Date.now())}`))
  new Transfers(NAME, own).add(1, 1)
  assert.not(existsSync(join(TMP, 'elsewhere')))
})

test('nowhere to count is no error', () => {
  writeFileSync(join(TMP, 'file'), '')
  new Transfers(NAME, join(TMP, 'file/nix-lan')).add(1, 1)
  assert.is(counted(NAME, [join(TMP, 'file/nix-lan')], Date.now()).all.paths, 0)
  assert.equal(
    [
      userTransfers('/home/a', undefined),
      userTransfers('/home/a', '/s'),
      userTransfers('/home/a', 'relative'),
      userTransfers(undefined, undefined),
    ],
    ['/home/a/.local/state/nix-lan', '/s/nix-lan', '/home/a/.local/state/nix-lan', undefined],
  )
})

test.after(() => rmSync(TMP, { recursive: true, force: true }))

test.run()
