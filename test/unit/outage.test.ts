// What nix-lan-connect remembers of a lost box from one start to the next, and what `nix-lan
// status` reads of it.
import { mkdtempSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { Outage } from '../../scripts/connect/outage.ts'
import { redialling } from '../../scripts/connect/upstream.ts'
import { BoxUnavailable } from '../../scripts/protocol/box.ts'
import { noteFile, whoWaits } from '../../scripts/system/outage-note.ts'

const test = suite('outage')
const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-outage-'))
test.after(() => rmSync(TMP, { recursive: true }))

const NOW = 1_800_000_000_000
let made = 0
/** A new socket, as a file, and two starts of connect that look at it. */
function starts(): { socket: string; one: Outage; other: Outage } {
  const socket = join(TMP, `${++made}.sock`)
  writeFileSync(socket, '')
  return { socket, one: new Outage(socket, TMP), other: new Outage(socket, TMP) }
}
const lost = (kind: BoxUnavailable['kind']): BoxUnavailable => new BoxUnavailable(kind, kind)

test('whatever happened to the box, the next start is held back, for as long as the outage has lasted', () => {
  for (const [kind, lasted, held, free] of [
    ['broken', 0, 900, 1100],
    ['broken', 5000, 4900, 5100],
    ['broken', 900_000, 14_900, 15_100],
    ['old', 0, 14_900, 15_100],
    ['unresponsive', 2000, 14_900, 15_100],
    ['unresponsive', 30_000, 29_900, 30_100],
    ['slow', 30_000, 29_900, 30_100],
  ] as const) {
    const { one, other, socket } = starts()
    assert.ok(one.began(lost(kind), NOW, { since: NOW - lasted }), 'news')
    assert.not(other.began(lost('missing'), NOW), 'no fault')
    assert.ok(other.heldBack(NOW + held), `${kind} ${held}`)
    assert.not(other.heldBack(NOW + free), `${kind} ${free}`)
    utimesSync(socket, 1, 1)
    assert.not(other.heldBack(NOW + 1), 'the socket was touched')
  }
})

test('patience that has run out has run out for all, until the tunnel is another one or a NAR came whole', () => {
  const { one, other, socket } = starts()
  one.began(lost('slow'), NOW, { since: NOW - 30_000, until: NOW + 30_000 })
  assert.not(other.givenUp(NOW))
  assert.is(other.since(NOW), NOW - 30_000)
  assert.ok(one.gaveUp(NOW + 30_000))
  assert.not(other.gaveUp(NOW + 30_001), 'no news')
  assert.ok(other.givenUp(NOW + 80_000))
  other.ended(false, NOW + 80_000)
  assert.ok(other.givenUp(NOW + 80_000), 'a box that drips in the middle of a NAR may answer questions')
  assert.not(other.givenUp(NOW + 91_000), 'it is tried again')
  assert.is(other.since(NOW + 91_000), NOW - 30_000, 'without new patience')
  other.ended(true, NOW + 91_000)
  assert.is(other.since(NOW + 91_000), undefined)
  one.gaveUp(NOW + 100_000)
  utimesSync(socket, 1, 1)
  assert.not(other.givenUp(NOW + 100_001))
  other.ended(false, NOW + 100_001)
  assert.is(other.since(NOW + 100_001), undefined)
})

test('without a place for the note, one process remembers as much', () => {
  const socket = join(TMP, 'no-note.sock')
  writeFileSync(socket, '')
  const alone = new Outage(socket, join(TMP, 'nowhere'))
  alone.began(lost('slow'), NOW, { since: NOW - 30_000 })
  assert.ok(alone.gaveUp(NOW))
  alone.began(lost('broken'), NOW + 1)
  assert.ok(alone.givenUp(NOW + 2))
  for (let n = 0; n < 100; n++) alone.began(lost('broken'), NOW + n)
  assert.is(alone.since(NOW + 100), NOW - 30_000)
})

test('an answer ends an outage of any other kind; an old note says nothing; a long one keeps its beginning', () => {
  const { one, other } = starts()
  one.began(lost('broken'), NOW)
  other.ended(false, NOW + 1)
  assert.is(one.since(NOW + 2), undefined)
  for (let second = 0; second < 200; second++) one.began(lost('unresponsive'), NOW + second * 1000)
  assert.is(other.since(NOW + 200_000), NOW)
  assert.ok(other.heldBack(NOW + 210_000))
  assert.is(other.since(NOW + 2_000_000), undefined)
  assert.not(other.heldBack(NOW + 2_000_000))
  assert.ok(other.began(lost('unresponsive'), NOW + 2_000_000), 'news again')
  assert.is(other.since(NOW + 2_000_001), NOW + 2_000_000)
})

test('several lose it, or patience, at the same moment: the first line in the note is the one that tells', () => {
  const { one, other, socket } = starts()
  const file = noteFile(TMP, socket)
  one.began(lost('unresponsive'), NOW)
  const old = readFileSync(file, 'utf8')
  const later = NOW + 2_000_000
  assert.ok(one.began(lost('unresponsive'), later))
  // truncated, it could lose the line of another one that has looked at the same time, and both would tell
  assert.ok(readFileSync(file, 'utf8').startsWith(old), 'what is out of date stays')
  assert.is(one.since(later + 1), later)
  assert.is(whoWaits([TMP], socket, later), undefined)
  // another process, which has read the clock a little later but was first in the note
  const theirs = JSON.parse(readFileSync(file, 'utf8').trimEnd().split('\n')[1] ?? '')
  writeFileSync(file, `${JSON.stringify({ ...theirs, at: later + 2, kind: 'over', pid: 1 })}\n`, { flag: 'a' })
  assert.not(other.gaveUp(later + 1))
  assert.ok(other.gaveUp(later + 400_000), 'news again')
})

test('a long note keeps its beginning, and that patience has run out', () => {
  const { one, other, socket } = starts()
  const size = () => statSync(noteFile(TMP, socket)).size
  one.began(lost('broken'), NOW, { since: NOW - 5000 })
  assert.ok(one.gaveUp(NOW + 1))
  let most = 0
  for (let n = 2; n < 200; n++) {
    other.began(lost('broken'), NOW + n)
    most = Math.max(most, size())
    assert.ok(one.givenUp(NOW + n), `${n}: ${size()} bytes`)
    assert.is(one.since(NOW + n), NOW - 5000)
  }
  assert.ok(size() < most && most < 8192, String(most))
})

test('status is told who waits, and until when', () => {
  const { one, socket } = starts()
  assert.is(whoWaits([TMP], socket, NOW), undefined)
  one.began(lost('broken'), NOW, { since: NOW - 1000, until: NOW + 60_000 })
  assert.equal(whoWaits(['/nowhere', TMP], socket, NOW), { since: NOW - 1000, until: NOW + 60_000, slow: false })
  assert.is(whoWaits([TMP], socket, NOW + 60_001), undefined)
  one.gaveUp(NOW + 10_000)
  assert.is(whoWaits([TMP], socket, NOW + 10_001), undefined)
  writeFileSync(
    noteFile(TMP, socket),
    `${readFileSync(noteFile(TMP, socket), 'utf8').split('\n')[0]}\n`.replace(/"pid":\d+/, '"pid":4194305'),
  )
  assert.is(whoWaits([TMP], socket, NOW), undefined, 'that process is gone')
  writeFileSync(noteFile(TMP, socket), '\u0000 no note')
  assert.is(whoWaits([TMP], socket, NOW), undefined)
})

test('patience counts from the last progress: who finds the loss late still tries once, and who comes later not at all', async () => {
  const socket = join(TMP, 'nobody.sock')
  const patience = 60_000
  const upstream = redialling({ socket, deadline: 100, patience })
  const waiting = upstream.redial?.(performance.now() - patience - 1000)
  assert.is(waiting?.left(), 0)
  const begun = performance.now()
  assert.is(await waiting?.next(), null)
  assert.is(
    await redialling({ socket, deadline: 100, patience: 2 * patience })
      .redial?.()
      .next(),
    null,
    'for all',
  )
  assert.ok(performance.now() - begun < patience / 2, 'at once')
})

test('without a box nothing is waited for', async () => {
  const upstream = redialling(null)
  assert.is(await upstream.dial(), null)
  assert.is(await upstream.redial?.(performance.now()).next(), null)
  assert.not(upstream.givenUp?.())
})

test.run()
