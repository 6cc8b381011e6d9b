// Over a link with a delay: what Nix asks for has been asked for already, what it gets is what it
// would have got, and nothing is invented.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { NarUndelivered, serve } from '../../scripts/connect/session.ts'
import type { Upstream } from '../../scripts/connect/upstream.ts'
import { dialBox } from '../../scripts/protocol/dial.ts'
import { notValid } from '../../scripts/protocol/operations.ts'
import { errorAnswer, STDERR_LAST, string, u64 } from '../../scripts/protocol/wire.ts'
import { compare } from '../lib/compare.ts'
import { DistantBox, infoOf, type Kept } from '../lib/distant-box.ts'
import { clientOf, hello, nar, SIGNATURE, same } from '../lib/wire.ts'

const test = suite('read-ahead')
const FOLDER = mkdtempSync(join(tmpdir(), 'nix-lan-read-ahead-'))
const LAST = u64(STDERR_LAST)
/** Of each direction, in milliseconds. */
const DELAY = 2
/** No store of this machine. */
const STORE = `${FOLDER}/store`

let count = 0
const boxes: DistantBox[] = []
test.after.each(() => {
  for (const box of boxes.splice(0)) box.close()
})
test.after(() => rmSync(FOLDER, { recursive: true, force: true }))

const hash = (n: number): string => String(n).padStart(32, '0')
const pathOf = (n: number): string => `${STORE}/${hash(n)}-x`
const kept = (n: number, more: Partial<Kept> = {}): Kept => ({ nar: nar({ file: `file ${n}`.repeat(n % 50) }), ...more })
const info = (path: string): Buffer => Buffer.concat([u64(26), string(path)])
const fetch = (path: string): Buffer => Buffer.concat([u64(38), string(path)])
const has = ({ nar, ...rest }: Kept): Buffer => Buffer.concat([LAST, u64(1), infoOf({ nar, ...rest })])

/** A box with so many paths. */
function boxOf(paths: number, more: (n: number) => Partial<Kept> = () => ({})): DistantBox {
  const box = new DistantBox(DELAY)
  boxes.push(box)
  for (let n = 0; n < paths; n++) box.paths.set(pathOf(n), kept(n, more(n)))
  return box
}

interface Session {
  answers: Buffer
  /**
   * How many questions have waited for the box: it was asked for them on the session's own
   * connection.
   */
  waited: number
  lost: string[]
  lines: string[]
  fetched: number[]
  failed: unknown
}

/** A session with a Nix that asks so. */
async function session(box: DistantBox, requests: Buffer[], identity: () => string = () => '', most = 5): Promise<Session> {
  const socket = `${FOLDER}/${count++}.sock`
  await box.listen(socket)
  box.knownAsFast(socket)
  return await sessionAt(socket, box, requests, identity, most)
}

/** The same, where the box listens already. */
async function sessionAt(
  socket: string,
  box: DistantBox,
  requests: Buffer[],
  identity: () => string = () => '',
  most = 5,
): Promise<Session> {
  const client = clientOf(Buffer.concat([hello(), ...requests]))
  const dial = () => dialBox(socket, 2000)
  const outcome: Session = { answers: Buffer.alloc(0), waited: 0, lost: [], lines: [], fetched: [], failed: undefined }
  const upstream: Upstream = {
    dial: () => dial().catch(() => null),
    lost: (error) => outcome.lost.push(error.message),
    report: (line) => outcome.lines.push(line),
    fetched: (bytes) => outcome.fetched.push(bytes),
    further: { dial, identity, socket, most: () => most },
    strict: false,
  }
  await serve(client, upstream).catch((error) => {
    outcome.failed = error
  })
  outcome.answers = client.got().subarray(40)
  outcome.waited = box.asked.filter(({ connection }) => connection === 0).length
  return outcome
}

const range = (to: number): number[] => Array.from({ length: to }, (_, n) => n)

test('what the box lacks: after a few questions it is known from the list of its paths', async () => {
  // A list that fits into a socket's buffer: of one that takes several turns of the event loop, a busy
  // machine would say that the link is slow, and give it up once.
  const box = boxOf(1000)
  // so many that the list is there before half of them have been asked, on a busy machine, too
  const missing = range(3000).map((n) => pathOf(10_000 + n))
  const { answers, waited } = await session(box, missing.map(info))
  same(answers, Buffer.concat(missing.map(notValid)))
  assert.ok(waited < 1500, `${waited} waited`)
  assert.equal(box.askedFor(23).length, 1)
})

test('a flat list: infos and NARs are there when Nix asks', async () => {
  const box = boxOf(300)
  const paths = [...box.paths.keys()]
  const { answers, waited, fetched } = await session(box, [...paths.map(info), ...paths.map(fetch)])
  const all = [...box.paths.values()]
  same(answers, Buffer.concat([...all.map(has), ...all.map(({ nar }) => Buffer.concat([LAST, nar]))]))
  assert.ok(waited < 40, `${waited} waited`)
  assert.equal(
    fetched,
    all.map(({ nar }) => nar.length),
  )
  assert.ok(box.connections <= 6, `${box.connections} connections`)
})

test('the same with a box whose hello comes in one piece: no connection is dropped before it is used', async () => {
  const box = boxOf(300)
  box.inOnePiece = true
  const paths = [...box.paths.keys()]
  const { waited } = await session(box, [...paths.map(info), ...paths.map(fetch)])
  assert.ok(waited < 40, `${waited} waited`)
  assert.ok(box.connections <= 6, `${box.connections} connections`)
})

test('a chain, each path referring to the next', async () => {
  const box = boxOf(200, (n) => ({ references: n < 199 ? [pathOf(n + 1)] : [] }))
  const paths = [...box.paths.keys()]
  const { answers, waited } = await session(box, [...paths.map(info), ...paths.map(fetch)])
  const all = [...box.paths.values()]
  same(answers, Buffer.concat([...all.map(has), ...all.map(({ nar }) => Buffer.concat([LAST, nar]))]))
  assert.ok(waited < 40, `${waited} waited`)
})

test('a chain is not walked at a round trip for each path when the box can list what it has', async () => {
  const walk = async (list: boolean): Promise<number> => {
    const box = boxOf(200, (n) => ({ references: n < 199 ? [pathOf(n + 1)] : [] }))
    if (!list) box.instead = (operation) => (operation === 23 ? errorAnswer('no') : undefined)
    const started = performance.now()
    await session(box, [...box.paths.keys()].map(info))
    return performance.now() - started
  }
  const ways = { listed: () => walk(true), walked: () => walk(false) }
  const { listed, walked } = await compare(ways, (least) => least.listed < least.walked / 2, { fewest: 1 })
  assert.ok(listed < walked / 2, `${listed} ms, without a list ${walked} ms`)
})

test('what a path refers to is asked for when the path is known, though the box has far more', async () => {
  const leaves = range(50).map((n) => pathOf(1000 + n))
  const box = boxOf(20_000, (n) => (n === 5 ? { references: leaves } : {}))
  const { waited } = await session(box, [...range(10).map((n) => info(pathOf(n))), ...leaves.map(info)])
  assert.ok(waited < 25, `${waited} waited`)
})

test('a session of few questions costs no connection more, and a dry run no NAR', async () => {
  const few = boxOf(100)
  await session(few, [info(pathOf(1)), info(pathOf(200))])
  assert.equal(few.askedFor(23), [])
  assert.is(few.connections, 1)
  const dry = boxOf(100)
  await session(
    dry,
    range(100).map((n) => info(pathOf(n))),
  )
  assert.equal(dry.askedFor(38), [])
  assert.is(dry.askedFor(23).length, 1)
})

test('a path without signature and content address is asked for each time: it may get one', async () => {
  const box = boxOf(20, (n) => ({ signatures: n === 15 ? [] : [SIGNATURE] }))
  const questions = [...range(10), 15, 15, 15].map((n) => info(pathOf(n)))
  await session(box, [...questions, info(pathOf(12))])
  // one of them may have been on its way, read ahead
  assert.ok(box.askedFor(26).filter((path) => path === pathOf(15)).length >= 3)
})

test('when the socket is touched, what was put on the box meanwhile is found at once', async () => {
  const box = boxOf(1000)
  const late = pathOf(5000)
  let identity = 'before'
  const client = { touched: false }
  box.instead = (operation, path) => {
    // asked on the session's connection, once the list is there
    if (operation === 26 && path === pathOf(999)) {
      box.paths.set(late, kept(1))
      identity = 'after'
      client.touched = true
    }
    return undefined
  }
  const missing = range(100).map((n) => info(pathOf(10_000 + n)))
  const { answers } = await session(box, [...missing, info(pathOf(999)), info(late)], () => identity)
  assert.ok(client.touched)
  same(answers.subarray(-has(kept(1)).length), has(kept(1)))
})

test('the same for what the box said it lacks, before there is a list', async () => {
  for (const [touched, found] of [
    [true, true],
    [false, false],
  ]) {
    const box = boxOf(10)
    const late = pathOf(5000)
    let identity = 'before'
    box.instead = (_operation, path) => {
      if (path !== pathOf(9)) return undefined
      box.paths.set(late, kept(1))
      if (touched) identity = 'after'
      return undefined
    }
    const { answers } = await session(box, [late, pathOf(9), late].map(info), () => identity)
    same(answers, Buffer.concat([notValid(late), has(kept(9)), found ? has(kept(1)) : notValid(late)]))
    assert.is(box.connections, 1)
  }
})

test('after a fetch that has taken all connections, the list comes over one that has nothing to do', async () => {
  const box = boxOf(300)
  const paths = [...box.paths.keys()]
  let identity = 'before'
  box.instead = (operation, path) => {
    if (operation === 38 && path === paths.at(-1)) identity = 'after'
    return undefined
  }
  const missing = range(300).map((n) => pathOf(10_000 + n))
  const { waited } = await session(box, [...paths.map(info), ...paths.map(fetch), ...missing.map(info)], () => identity, 2)
  assert.is(identity, 'after')
  assert.is(box.askedFor(23).length, 2)
  assert.ok(waited < 60, `${waited} waited`)
})

test('the same for infos, when NARs have taken the only connection', async () => {
  const leaves = range(50).map((n) => pathOf(1000 + n))
  const box = boxOf(60_000, (n) => (n === 90 ? { references: leaves } : {}))
  const fetched = range(60).map(pathOf)
  const { waited } = await session(box, [...fetched.map(info), ...fetched.map(fetch), info(pathOf(90)), ...leaves.map(info)], () => '', 1)
  const lane = 2 // after the session's own connection and the list's
  assert.ok(box.asked.some(({ connection, operation }) => connection === lane && operation === 38))
  const asked = box.asked.filter(({ path }) => leaves.includes(path))
  assert.ok(asked.length >= 45, `${asked.length}`)
  assert.ok(asked.every(({ connection }) => connection === lane))
  assert.ok(waited < 130, `${waited} waited`)
})

test('a box that has moved far away is asked as much at once as one that was always there', async () => {
  const box = boxOf(3000)
  const paths = [...box.paths.keys()]
  let moved = Number.POSITIVE_INFINITY
  box.instead = (operation) => {
    if (operation !== 38) return undefined
    box.delay = 20
    moved = Math.min(moved, performance.now())
    return undefined
  }
  const identity = (): string => `${moved}`
  await session(box, [...paths.slice(0, 100).map(info), fetch(pathOf(0)), ...paths.slice(500).map(info)], identity)
  const last = box.asked
    .filter(({ operation, at }) => operation === 26 && at > moved)
    .map(({ at }) => at)
    .slice(-300)
  const most = Math.max(...last.map((from, n) => last.slice(n).filter((at) => at < from + box.delay).length))
  assert.ok(most > 60, `${most} at once`)
})

test('a list is believed for 30 s', async () => {
  const { now } = performance
  const box = boxOf(1000)
  const late = pathOf(5000)
  let ahead = 0
  performance.now = () => now.call(performance) + ahead
  box.instead = (_operation, path) => {
    if (path === pathOf(999)) {
      box.paths.set(late, kept(1))
      ahead = 31_000
    }
    return undefined
  }
  try {
    const missing = range(100).map((n) => info(pathOf(10_000 + n)))
    const { answers } = await session(box, [...missing, info(pathOf(999)), info(late)])
    same(answers.subarray(-has(kept(1)).length), has(kept(1)))
  } finally {
    performance.now = now
  }
})

test('a list that would take long is given up, and not tried again while the tunnel is the same', async () => {
  const missing = (from: number, count: number): Buffer[] => range(count).map((n) => info(pathOf(from + n)))
  const box = boxOf(4000)
  box.pace = 25 // bytes per millisecond: 0.2 Mbit/s
  const socket = `${FOLDER}/${count++}.sock`
  await box.listen(socket)
  box.knownAsFast(socket)
  await sessionAt(socket, box, missing(100_000, 60))
  assert.is(box.askedFor(23).length, 1, 'tried')
  const note = readFileSync(`${socket}.link`, 'utf8')
  const { rate, listBytes } = JSON.parse(note)
  assert.ok(rate < 200 && listBytes > 200_000, note)
  const { waited } = await sessionAt(socket, box, missing(200_000, 60))
  assert.is(box.askedFor(23).length, 1, 'not again')
  assert.is(waited, 60)
  const measured = (): number => box.askedFor(41).length
  assert.is(measured(), 0, 'the rate was known')
  // what isn't a note of this socket's is none: the link is measured, whatever that comes to on a busy machine
  for (const text of ['', '{}', '[1]', '{"rate":"9"}', note.replace(/"ino":\d+/, '"ino":1')]) {
    writeFileSync(`${socket}.link`, text)
    const before = measured()
    await sessionAt(socket, box, missing(300_000, 30))
    assert.ok(measured() > before, `measured despite ${text}`)
  }
})

for (const [what, list] of [
  ['out of order', (paths: string[]) => paths.reverse()],
  ['with something else in it', (paths: string[]) => [...paths.slice(0, 500), `${STORE}/x`, ...paths.slice(500)]],
  ['of another store', (paths: string[]) => paths.map((path) => path.replace(STORE, '/other/store'))],
] as const) {
  test(`a list ${what} makes nothing wrong`, async () => {
    const box = boxOf(1000)
    box.list = () => list([...box.paths.keys()].sort())
    const questions = range(60).flatMap((n) => [pathOf(10_000 + n), pathOf(997 - n)])
    const { answers } = await session(box, questions.map(info))
    same(answers, Buffer.concat(questions.map((path) => (box.paths.has(path) ? has(box.paths.get(path) as Kept) : notValid(path)))))
  })
}

test('a NAR that is not as large as the box said, that it refuses, or that is none: what comes is what would have come, and others arrive', async () => {
  const refused = errorAnswer('No such file')
  for (const [what, wrong] of [
    ['smaller', { size: 1200 }],
    ['larger', { size: 8 }],
  ] as const) {
    const box = boxOf(30, (n) => (n === 20 ? wrong : {}))
    const paths = [...box.paths.keys()]
    const { answers } = await session(box, [...paths.map(info), ...paths.map(fetch)])
    const all = [...box.paths.values()]
    same(answers, Buffer.concat([...all.map(has), ...all.map(({ nar }) => Buffer.concat([LAST, nar]))]), what)
  }
  const box = boxOf(30)
  box.instead = (operation, path) => (operation === 38 && path === pathOf(20) ? refused : undefined)
  const paths = [...box.paths.keys()]
  const { answers, failed } = await session(box, [...paths.map(info), ...paths.map(fetch)])
  assert.instance(failed, NarUndelivered)
  const all = [...box.paths.values()]
  same(answers, Buffer.concat([...all.map(has), ...all.slice(0, 20).map(({ nar }) => Buffer.concat([LAST, nar]))]))
})

test('a box that hangs up on every further connection is asked as ever', async () => {
  const box = boxOf(60)
  box.instead = (_operation, _path, connection) => (connection === 0 ? undefined : null)
  const paths = [...box.paths.keys()]
  const { answers, lost } = await session(box, [...paths.map(info), ...paths.map(fetch)])
  const all = [...box.paths.values()]
  same(answers, Buffer.concat([...all.map(has), ...all.map(({ nar }) => Buffer.concat([LAST, nar]))]))
  assert.equal(lost, [])
  assert.ok(box.connections < 8, `${box.connections} connections`)
})

test('a mistake of ours in reading ahead is a line, and the box is asked from then on', async () => {
  for (const good of [0, 1, 20]) {
    const box = boxOf(40)
    const paths = [...box.paths.keys()]
    let calls = 0
    const identity = (): string => {
      if (calls++ >= good) throw new Error('planted')
      return ''
    }
    const { answers, lines } = await session(box, [...paths.map(info), ...paths.slice(0, 5).map(fetch)], identity)
    const all = [...box.paths.values()]
    same(answers, Buffer.concat([...all.map(has), ...all.slice(0, 5).map(({ nar }) => Buffer.concat([LAST, nar]))]))
    assert.equal(lines, ['this is a bug: planted'])
  }
})

test('no more NARs are held than the window has room for, and large ones are not read ahead', async () => {
  const size = 2 ** 18
  const box = boxOf(0)
  for (let n = 0; n < 40; n++) box.paths.set(pathOf(n), { nar: nar({ file: Buffer.alloc(n === 5 ? 5 * 2 ** 20 : size) }) })
  const paths = [...box.paths.keys()]
  const before = [...paths.map(info), fetch(pathOf(0))]
  // a Nix that takes one, and then only asks
  const isValid = Buffer.concat([u64(1), string(pathOf(0))])
  await session(box, [...before, ...range(40).map(() => isValid)])
  const asked = box.askedFor(38)
  assert.ok(asked.length <= 1 + 2 ** 20 / size, `${asked.length} asked`)
  assert.ok(asked.length > 1, 'something was read ahead')
  assert.not(asked.includes(pathOf(5)))
})

test.run()
