// What the benchmarks have found is kept when others are measured again, wherever that is.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { merge, type Result, type Results } from '../bench/lib/results.ts'
import { whereText } from '../bench/lib/tables.ts'

const test = suite('bench')

const row = (bench: string, value: number): Result => ({
  bench,
  id: bench,
  what: bench,
  unit: 'ms',
  figures: { ours: { median: value, spread: 0, rounds: 1 } },
  goals: [],
  notes: [],
})
const run = (machine: string, date: string, ...rows: Result[]): Results => ({ machine, date, rows })
const found = ({ rows }: Results): unknown[] => rows.map(({ bench, figures, elsewhere }) => [bench, figures.ours?.median, elsewhere])
const ORDER = ['hook', 'gc', 'status']

test('rows of another machine or day stay, and say so until they are measured again', () => {
  const first = run('m1', '2026-01-01', row('hook', 1), row('gc', 2), row('gone', 3))
  const second = merge(first, run('m2', '2026-01-02', row('gc', 4)), ORDER)
  assert.equal(found(second), [
    ['hook', 1, { machine: 'm1', date: '2026-01-01' }],
    ['gc', 4, undefined],
  ])
  const third = merge(second, run('m2', '2026-01-03', row('status', 5)), ORDER)
  assert.equal(found(third), [
    ['hook', 1, { machine: 'm1', date: '2026-01-01' }],
    ['gc', 4, { machine: 'm2', date: '2026-01-02' }],
    ['status', 5, undefined],
  ])
  assert.is(whereText(third), 'Measured on 2026-01-03: m2.\n`hook` on 2026-01-01: m1.\n`gc` on 2026-01-02: m2.')
  assert.equal(found(merge(undefined, second, ORDER)), found(second))
  const same = merge(first, run('m1', '2026-01-01', row('status', 5)), ORDER)
  assert.equal([whereText(same), same.rows.length], ['Measured on 2026-01-01: m1.', 3])
})

test.run()
