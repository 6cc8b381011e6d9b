// Where a NAR ends, however it is cut into chunks and whatever its names and contents look like.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { NarEnd } from '../../scripts/protocol/nar-end.ts'
import { string } from '../../scripts/protocol/wire.ts'
import { nar, type Tree } from '../lib/wire.ts'

const test = suite('nar')

const TREES: Record<string, Tree> = {
  'an empty file': { file: '' },
  'a file that is a parenthesis': { file: ')' },
  'an executable': { file: '#!/bin/sh\n', executable: true },
  'a link to a parenthesis': { link: '(' },
  'an empty directory': { entries: {} },
  'names and contents that look like structure': {
    entries: { '(': { file: ')' }, ')': { link: ')' }, contents: { file: '(' }, entry: { entries: { node: { file: 'nix-archive-1' } } } },
  },
  'lengths around the padding': {
    entries: Object.fromEntries([0, 1, 7, 8, 9, 15, 16, 17].map((n) => [`f${n}`, { file: Buffer.alloc(n, 0x29) }])),
  },
}

for (const [name, tree] of Object.entries(TREES)) {
  test(`${name}: every chunk size finds the same end`, () => {
    const whole = nar(tree)
    const stream = Buffer.concat([whole, string('(')]) // what follows isn't the NAR's
    for (let size = 1; size <= 40; size++) assert.is(lengthOf(stream, size), whole.length, `chunks of ${size}`)
    assert.is(lengthOf(stream, stream.length), whole.length)
  })
}

test('a NAR that is cut off has no end', () => {
  const whole = nar({ entries: { a: { file: 'x' } } })
  for (let length = 0; length < whole.length; length++) {
    const end = new NarEnd()
    assert.is(end.scan(whole.subarray(0, length)), length)
    assert.not(end.done, `${length} of ${whole.length} bytes`)
  }
})

test('something else is refused', () => {
  assert.throws(() => new NarEnd().scan(string('hello')), /no NAR/)
  assert.throws(() => new NarEnd().scan(Buffer.alloc(8, 0xff)), /no NAR/)
  assert.throws(() => new NarEnd().scan(string('(')), /no NAR/)
  assert.throws(() => new NarEnd().scan(Buffer.concat([string('nix-archive-1'), string('type')])), /no NAR/)
})

/** How many bytes of the stream belong to the NAR, fed in chunks of `size`. */
function lengthOf(stream: Buffer, size: number): number {
  const end = new NarEnd()
  let length = 0
  for (let at = 0; at < stream.length && !end.done; at += size) length += end.scan(stream.subarray(at, at + size))
  assert.ok(end.done)
  return length
}

test.run()
