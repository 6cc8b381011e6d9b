// What Nix is answered: from a box that answers, that lacks a path, that fails, that dies at any
// byte, and without one.
import { createHash } from 'node:crypto'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { Away } from '../../scripts/cli/errors.ts'
import { NarUndelivered, serve, serveStrictly } from '../../scripts/connect/session.ts'
import type { Upstream } from '../../scripts/connect/upstream.ts'
import type { Box } from '../../scripts/protocol/box.ts'
import { ByteReader } from '../../scripts/protocol/byte-reader.ts'
import type { Acquaintance } from '../../scripts/protocol/dial-for-client.ts'
import { notValid, readShape } from '../../scripts/protocol/operations.ts'
import { errorAnswer, Recorder, readMessages, STDERR_LAST, string, strings, u64 } from '../../scripts/protocol/wire.ts'
import { infoOf } from '../lib/distant-box.ts'
import { acquaintanceOf, boxOf, clientOf, hello, nar, readerOf, SIGNATURE, same } from '../lib/wire.ts'

const test = suite('session')

const PATH = '/nix/store/00000000000000000000000000000000-x'
const LAST = u64(STDERR_LAST)
const WELCOME = Buffer.concat([u64(0x6478696f), u64(0x0123), string('nix-lan'), LAST])
/** What the box of boxOf() says, in a strict session. */
const BOX_WELCOME = Buffer.concat([u64(0x6478696f), u64(0x0122), string('2.8.0'), LAST])
const INFO = Buffer.concat([
  string(''),
  string('0'.repeat(64)),
  u64(1),
  string(PATH),
  u64(1),
  u64(120),
  u64(0),
  u64(1),
  string(SIGNATURE),
  string(''),
])
const LOG = Buffer.concat([u64(0x6f6c6d67), string('a line of the log\n')])
const ACTIVITY = Buffer.concat([
  u64(0x53545254),
  u64(1),
  u64(3),
  u64(100),
  string('busy'),
  u64(2),
  u64(0),
  u64(7),
  u64(1),
  string('s'),
  u64(0),
])
const NAR = nar({ entries: { a: { file: 'hello' }, b: { link: '(' } } })

const SET_OPTIONS = Buffer.concat([u64(19), ...new Array(12).fill(u64(0)), u64(1), string('cores'), string('4')])
const isValid = Buffer.concat([u64(1), string(PATH)])
const tempRoot = Buffer.concat([u64(11), string(PATH)])
const pathInfo = Buffer.concat([u64(26), string(PATH)])
const fromHash = Buffer.concat([u64(29), string('0'.repeat(32))])
const validPaths = Buffer.concat([u64(31), u64(2), string(PATH), string(`${PATH}y`), u64(0)])
const substitutable = Buffer.concat([u64(32), u64(1), string(PATH)])
const narFromPath = Buffer.concat([u64(38), string(PATH)])
const realisation = Buffer.concat([u64(43), string('sha256:00!out')])

interface Outcome {
  answers: Buffer
  asked: Buffer
  lines: string[]
  lost: string[]
  failed: Error | null
  noted: Noted[]
}

/** A path that was noted as damaged. */
interface Noted {
  path: string
  why: string
}

/**
 * Serves a Nix that sends these requests after its hello, with these boxes, one after the other.
 * @param waits for a box that is lost
 * @param noted as damaged; undefined: nothing is checked
 */
async function session(
  requests: Buffer[],
  boxes: (ReturnType<typeof boxOf> | null)[],
  chunk?: number,
  waits = false,
  noted?: Noted[],
): Promise<Outcome> {
  const client = clientOf(Buffer.concat([hello(), ...requests]), chunk)
  const given = [...boxes]
  const outcome: Outcome = { answers: Buffer.alloc(0), asked: Buffer.alloc(0), lines: [], lost: [], failed: null, noted: noted ?? [] }
  const upstream: Upstream = {
    dial: async () => given.shift() ?? null,
    lost: (error) => outcome.lost.push(error.message),
    report: (text) => outcome.lines.push(text),
    ...(waits && { redial: () => ({ next: async () => given.shift() ?? null, left: () => 60_000 }) }),
    ...(noted && {
      damage: {
        has: (path: string) => noted.some((one) => one.path === path),
        found: (path: string, why: string) => void noted.push({ path, why }),
      },
    }),
    strict: false,
  }
  await serve(client, upstream).catch((error) => {
    outcome.failed = error
  })
  same(client.got().subarray(0, WELCOME.length), WELCOME)
  outcome.answers = client.got().subarray(WELCOME.length)
  outcome.asked = Buffer.concat(boxes.map((box) => box?.asked() ?? Buffer.alloc(0)))
  return outcome
}

const EMPTY: [string, Buffer, Buffer][] = [
  ['SetOptions', SET_OPTIONS, LAST],
  ['IsValidPath', isValid, Buffer.concat([LAST, u64(0)])],
  ['AddTempRoot', tempRoot, Buffer.concat([LAST, u64(1)])],
  ['QueryPathInfo', pathInfo, notValid(PATH)],
  ['QueryPathFromHashPart', fromHash, Buffer.concat([LAST, string('')])],
  ['QueryValidPaths', validPaths, Buffer.concat([LAST, u64(0)])],
  ['QuerySubstitutablePaths', substitutable, Buffer.concat([LAST, u64(0)])],
  ['QueryRealisation', realisation, Buffer.concat([LAST, u64(0)])],
]
for (const [name, request, answer] of EMPTY) {
  test(`the empty store answers ${name}, and the next question too`, async () => {
    const { answers, lines, failed } = await session([request, request, isValid], [null])
    same(answers, Buffer.concat([answer, answer, LAST, u64(0)]))
    assert.equal(lines, [])
    assert.is(failed, null)
  })
}

const PASSED_ON: [string, Buffer, Buffer][] = [
  ['IsValidPath', isValid, Buffer.concat([LAST, u64(1)])],
  ['AddTempRoot', tempRoot, Buffer.concat([LAST, u64(1)])],
  ['QueryPathInfo', pathInfo, Buffer.concat([LAST, u64(1), INFO])],
  ['QueryPathFromHashPart', fromHash, Buffer.concat([LAST, string(PATH)])],
  ['QueryValidPaths', validPaths, Buffer.concat([LAST, u64(1), string(PATH)])],
  ['QuerySubstitutablePaths', substitutable, Buffer.concat([LAST, u64(1), string(PATH)])],
  ['NarFromPath', narFromPath, Buffer.concat([LAST, NAR])],
]
for (const [name, request, answer] of PASSED_ON) {
  test(`the box's answer to ${name} comes as it is, in chunks of any size`, async () => {
    for (const size of [1, 3, 8, 13, 65536]) {
      const box = boxOf(Buffer.concat([answer, LAST, u64(1)]), size)
      const { answers, asked, failed } = await session([request, isValid], [box], size)
      same(answers, Buffer.concat([answer, LAST, u64(1)]), `chunks of ${size}`)
      same(asked, Buffer.concat([request, isValid]))
      assert.is(failed, null)
    }
  })
}

test("the box's messages don't reach Nix, which some of them kill; an upload, or a person, gets them", async () => {
  for (const [request, answer] of [
    [pathInfo, Buffer.concat([LAST, u64(1), INFO])],
    [narFromPath, Buffer.concat([LAST, NAR])],
  ] as const) {
    const wire = Buffer.concat([LOG, ACTIVITY, answer])
    same((await session([request], [boxOf(wire)])).answers, answer)
    const client = clientOf(Buffer.concat([hello(), request]))
    await serveStrictly(client, acquaintanceOf(boxOf(wire)))
    same(client.got().subarray(BOX_WELCOME.length), wire)
  }
})

test('a path that the box lacks is an error that says so, not a 0', async () => {
  const box = boxOf(Buffer.concat([LOG, LAST, u64(0), LAST, u64(0)]))
  const { answers, lines } = await session([pathInfo, isValid], [box])
  same(answers, Buffer.concat([notValid(PATH), LAST, u64(0)]))
  assert.equal(lines, [])
})

test('a path that the box lacks is asked for once in a while, not each time that Nix asks', async () => {
  const box = boxOf(Buffer.concat([LAST, u64(0), LAST, u64(1)]))
  const { answers, asked } = await session([pathInfo, pathInfo, pathInfo, isValid], [box])
  same(answers, Buffer.concat([notValid(PATH), notValid(PATH), notValid(PATH), LAST, u64(1)]))
  same(asked, Buffer.concat([pathInfo, isValid]))
})

test('a clock that starts in 1970 makes nothing a miss', async () => {
  const { now } = Date
  Date.now = () => 5000
  try {
    const answer = Buffer.concat([LAST, u64(1), INFO])
    same((await session([pathInfo], [boxOf(answer)])).answers, answer)
  } finally {
    Date.now = now
  }
})

/** Runs `act` with timers that take a millisecond for a second. */
async function hurried(act: () => Promise<void>): Promise<void> {
  const { setTimeout, setInterval } = globalThis
  const fast = (real: typeof setTimeout) => (call: () => void, time: number) => real(call, time / 1000)
  Object.assign(globalThis, { setTimeout: fast(setTimeout), setInterval: fast(setInterval as typeof setTimeout) })
  try {
    await act()
  } finally {
    Object.assign(globalThis, { setTimeout, setInterval })
  }
}

test('a Nix that takes its time in mid-NAR is no silence of the box', async () => {
  const wait = globalThis.setTimeout
  await hurried(async () => {
    const client = clientOf(Buffer.concat([hello(), narFromPath, isValid]))
    const write = async (bytes: Buffer): Promise<void> => {
      await new Promise((done) => wait(done, 100)) // more than the 30 "seconds" of patience
      await client.write(bytes)
    }
    const box = boxOf(Buffer.concat([LAST, NAR, LAST, u64(1)]), 100)
    await serve({ ...client, write }, { dial: async () => box, lost: () => {}, report: () => {}, strict: false })
    same(client.got().subarray(WELCOME.length), Buffer.concat([LAST, NAR, LAST, u64(1)]))
  })
})

test('a NAR is counted before Nix has the last byte of it, and may kill us', async () => {
  for (const size of [1, 100, 65536]) {
    const client = clientOf(Buffer.concat([hello(), narFromPath]))
    const counted: number[] = []
    let missing = WELCOME.length + LAST.length + NAR.length
    const write = async (bytes: Buffer): Promise<void> => {
      missing -= bytes.length
      assert.equal(counted, missing === 0 ? [NAR.length] : [], `${missing} bytes from the end, in chunks of ${size}`)
      await client.write(bytes)
    }
    const box = boxOf(Buffer.concat([LAST, NAR]), size)
    const fetched = (bytes: number): number => counted.push(bytes)
    await serve({ ...client, write }, { dial: async () => box, lost: () => {}, report: () => {}, fetched, strict: false })
    assert.is(missing, 0)
    same(client.got().subarray(WELCOME.length), Buffer.concat([LAST, NAR]))
  }
})

test("the doctor's probe is delivered, and not counted", async () => {
  const probe = Buffer.concat([u64(38), string(`${PATH.slice(0, -1)}nix-lan-doctor`)])
  for (const [question, expected] of [
    [probe, []],
    [narFromPath, [NAR.length]],
  ] as const) {
    const client = clientOf(Buffer.concat([hello(), question]))
    const counted: number[] = []
    const fetched = (bytes: number): number => counted.push(bytes)
    await serve(client, { dial: async () => boxOf(Buffer.concat([LAST, NAR])), lost: () => {}, report: () => {}, fetched, strict: false })
    same(client.got().subarray(WELCOME.length), Buffer.concat([LAST, NAR]))
    assert.equal(counted, expected)
  }
})

test('a box that falls silent is given up, before an answer and in the middle of a NAR', async () => {
  const silent = (bytes: Buffer): ReturnType<typeof boxOf> => {
    const reader = new ByteReader({ resume: () => {} })
    reader.push(bytes)
    return { ...boxOf(Buffer.alloc(0)), reader }
  }
  await hurried(async () => {
    const { answers, lost } = await session([pathInfo], [silent(LOG)])
    same(answers, notValid(PATH))
    assert.equal(lost, ['the box has given no answer for 30 s'])
    const { failed } = await session([narFromPath], [silent(Buffer.concat([LAST, NAR.subarray(0, 40)]))])
    assert.match(failed?.message ?? '', /^the box gets nowhere in the middle of \/nix\/store\/\S+: less than 16 KiB in 30 s$/)
  })
})

test('a Nix that ends in mid-upload is not outlived by much when the box is unresponsive', async () => {
  await hurried(async () => {
    const reader = new ByteReader({ resume: () => {} })
    const { failed } = await session([u64(44), Buffer.alloc(1000)], [{ ...boxOf(Buffer.alloc(0)), reader }])
    assert.is(failed, null)
  })
})

test('what the empty store lacked is asked for when the box is back', async () => {
  const answer = Buffer.concat([LAST, u64(1), INFO])
  const { answers } = await session([pathInfo, pathInfo], [null, boxOf(answer)])
  same(answers, Buffer.concat([notValid(PATH), answer]))
})

test('an error of the box is a miss to Nix, and a line for the journal', async () => {
  const { answers, lines } = await session([pathInfo, isValid], [boxOf(Buffer.concat([errorAnswer('disk I/O error'), LAST, u64(1)]))])
  same(answers, Buffer.concat([notValid(PATH), LAST, u64(1)]))
  assert.equal(lines, [`QueryPathInfo ${PATH}: the box says: disk I/O error`])
})

test('what Nix could not read about a path, which would fail the build, is a miss and a line', async () => {
  const info = (deriver: string, hash: string, ...references: string[]): Buffer => {
    const before = [string(deriver), string(hash), strings(references)]
    return Buffer.concat([LAST, u64(1), ...before, u64(1), u64(120), u64(0), u64(0), string('')])
  }
  const good = '0'.repeat(64)
  const elsewhere = PATH.replace('/nix/store', '/other/store')
  for (const answer of [info('x', good), info('', 'zz'), info('', good, PATH, elsewhere), info(`${PATH}/y`, good)]) {
    const { answers, lines, lost } = await session([pathInfo, isValid], [boxOf(Buffer.concat([answer, LAST, u64(1)]))])
    same(answers, Buffer.concat([notValid(PATH), LAST, u64(1)]))
    assert.is(lines.length, 1)
    assert.equal(lost, [])
  }
  const whole = info(`${PATH}.drv`, good, PATH, `${PATH}y`)
  same((await session([pathInfo], [boxOf(whole)])).answers, whole)
})

interface Info {
  valid: number
  deriver: string
  hash: string
  references: string[]
  registered: bigint
  size: number
  ultimate: number
  signatures: string[]
  contentAddress: string
}
const GOOD: Info = {
  valid: 1,
  deriver: '',
  hash: '0'.repeat(64),
  references: [PATH],
  registered: 1n,
  size: 120,
  ultimate: 0,
  signatures: [SIGNATURE],
  contentAddress: '',
}
function infoWith(more: Partial<Info>): Buffer {
  const all = { ...GOOD, ...more }
  const registered = Buffer.alloc(8)
  registered.writeBigUInt64LE(all.registered)
  const before = [LAST, u64(all.valid), string(all.deriver), string(all.hash), strings(all.references), registered]
  return Buffer.concat([...before, u64(all.size), u64(all.ultimate), strings(all.signatures), string(all.contentAddress)])
}
/** Each of these makes 2.8.0, 2.26.3 or 2.34.8 fail. */
const UNSOUND: Partial<Info>[] = [
  { valid: 2 },
  { ultimate: 2 },
  { size: 0 },
  { registered: 2n ** 64n - 1n },
  { signatures: ['k:sig'] },
  { signatures: [SIGNATURE, SIGNATURE.slice(2)] },
  { contentAddress: 'fixed:' },
  { contentAddress: `fixed:git:sha1:${'0'.repeat(32)}` },
  { contentAddress: `text:sha256:z${'0'.repeat(51)}` },
  // GOOD refers to itself
  { contentAddress: `text:sha256:${'0'.repeat(52)}` },
  ...['fixed:md5:', 'fixed:sha256:', 'fixed:r:sha1:', 'fixed:r:sha512:'].map((how) => ({
    contentAddress: how + '0'.repeat({ md5: 26, sha1: 32, sha256: 52, sha512: 103 }[how.split(':').at(-2) ?? ''] ?? 0),
  })),
  { contentAddress: `fixed:sha256:${'0'.repeat(52)}`, references: [`${PATH}y`] },
  ...['-.', '-..', '-.-x', '-..-x'].map((name) => ({ references: [`/nix/store/${'0'.repeat(32)}${name}`] })),
]
for (const more of UNSOUND) {
  const what = JSON.stringify(more, (_, value) => (typeof value === 'bigint' ? String(value) : value))
  test(`some Nix fails or dies of ${what.slice(0, 90)}: it is a miss`, async () => {
    const { answers, lines, lost } = await session([pathInfo, isValid], [boxOf(Buffer.concat([infoWith(more), LAST, u64(1)]))])
    same(answers, Buffer.concat([notValid(PATH), LAST, u64(1)]))
    assert.is(lines.length, 1)
    assert.equal(lost, [])
  })
}

test('every Nix takes these, and gets them', async () => {
  const sound: Partial<Info>[] = [
    {},
    { ultimate: 1, references: [], signatures: [] },
    { deriver: `${PATH}.drv`, signatures: [SIGNATURE, `cache.example.org-1:${'z'.repeat(86)}==`] },
    { contentAddress: `text:sha256:${'0'.repeat(52)}`, references: [`${PATH}y`] },
    { contentAddress: `fixed:r:sha256:1${'b'.repeat(51)}` },
    { contentAddress: `fixed:r:sha256:1${'b'.repeat(51)}`, references: ['/nix/store/00000000000000000000000000000000-.x'] },
    { contentAddress: `fixed:md5:7${'b'.repeat(25)}`, references: [] },
    { contentAddress: `fixed:r:sha512:3${'b'.repeat(102)}`, references: [] },
  ]
  for (const more of sound)
    same((await session([pathInfo], [boxOf(infoWith(more))])).answers, infoWith(more), JSON.stringify(more.contentAddress))
})

test('padding that is not zero, and answers to other questions that no Nix can read: as from an empty store', async () => {
  const spoiled = infoWith({ deriver: `${PATH}.drv` })
  spoiled[spoiled.indexOf('.drv') + 4] = 1
  same((await session([pathInfo], [boxOf(spoiled)])).answers, notValid(PATH))
  const cases: [Buffer, Buffer, Buffer][] = [
    [isValid, Buffer.concat([LAST, u64(2)]), Buffer.concat([LAST, u64(0)])],
    [validPaths, Buffer.concat([LAST, strings([PATH, '/nix/store/x'])]), Buffer.concat([LAST, u64(0)])],
    [substitutable, Buffer.concat([LAST, strings(['/other/store/00000000000000000000000000000000-x'])]), Buffer.concat([LAST, u64(0)])],
    [fromHash, Buffer.concat([LAST, string('x')]), Buffer.concat([LAST, string('')])],
  ]
  for (const [question, wrong, empty] of cases) same((await session([question], [boxOf(wrong)])).answers, empty)
})

test('a box that is lost at any byte of its answers: Nix still gets a whole answer to each question', async () => {
  const wire = Buffer.concat([LOG, LAST, u64(1), INFO, LAST, u64(1), string(PATH)])
  for (let length = 0; length < wire.length; length++) {
    const { answers, lost, failed } = await session([pathInfo, validPaths, isValid], [boxOf(wire.subarray(0, length))])
    assert.is(failed, null)
    assert.is(lost.length, 1, `${length} bytes`)
    const reader = new Recorder(readerOf(answers))
    await answered(reader, 'info')
    await answered(reader, 'strings')
    await answered(reader, 'u64')
    assert.is(reader.bytes.length, answers.length)
  }
})

/** Reads one answer: an error, or one of that shape. */
async function answered(reader: Recorder, shape: 'info' | 'strings' | 'u64'): Promise<void> {
  if (!(await readMessages(reader)).error) await readShape(reader, shape)
}

/** An error in place of a NAR makes Nix 2.4 to 2.22 wait for ever. */
test('a NAR that the box loses, at any byte: the stream ends, Nix has not got a byte of it, and no error takes its place', async () => {
  const wire = Buffer.concat([LAST, NAR])
  for (let length = 0; length < wire.length; length++) {
    const { answers, failed, lost } = await session([narFromPath, isValid], [boxOf(wire.subarray(0, length))])
    assert.instance(failed, NarUndelivered, `${length} bytes`)
    assert.match(failed?.message ?? '', /lost in the middle of \/nix\/store/)
    assert.is(answers.length, 0)
    assert.is(lost.length, 1)
  }
})

test('a NAR that the box loses, at any byte, and has again: Nix gets it once, and the next answer after it', async () => {
  const wire = Buffer.concat([LAST, NAR])
  for (let length = 0; length < wire.length; length++) {
    const boxes = [boxOf(wire.subarray(0, length)), boxOf(Buffer.concat([wire, LAST, u64(1)]))]
    const { answers, failed } = await session([narFromPath, isValid], boxes, undefined, true)
    assert.is(failed, null, `${length} bytes`)
    same(answers, Buffer.concat([wire, LAST, u64(1)]))
  }
})

test('a large NAR that the box loses, twice, is continued from where it broke off', async () => {
  const large = nar({ entries: { a: { file: Buffer.alloc(2 ** 20, 'a') }, b: { file: Buffer.alloc(2 ** 20, 'b') }, c: { link: 'a' } } })
  const wire = Buffer.concat([LAST, large])
  const edge = 2 ** 20 + 8 // from there on Nix gets bytes
  const cuts = [edge, edge + 1, edge + 7, edge + 65536, wire.length - 1, wire.length - 8, wire.length - 17, wire.length - 300]
  for (const first of cuts) {
    for (const second of [0, 8, 1000, edge + 20, wire.length - 2]) {
      const messages = Buffer.concat([LOG, wire]) // the second time it says something else first
      const boxes = [boxOf(wire.subarray(0, first)), boxOf(messages.subarray(0, second)), boxOf(Buffer.concat([messages, LAST, u64(1)]))]
      const { answers, failed } = await session([narFromPath, isValid], boxes, undefined, true)
      assert.is(failed, null, `${first}, ${second}`)
      same(answers, Buffer.concat([wire, LAST, u64(1)]), `${first}, ${second}`)
    }
  }
})

test('a NAR that is another one when the box is back, or that it refuses then: the stream ends', async () => {
  const large = Buffer.concat([LAST, nar({ file: Buffer.alloc(3 * 2 ** 20, 'a') })])
  const cut = large.subarray(0, 2 * 2 ** 20)
  for (const then of [Buffer.concat([LAST, NAR]), errorAnswer('No such file')]) {
    const { answers, failed } = await session([narFromPath, isValid], [boxOf(cut), boxOf(then)], undefined, true)
    assert.instance(failed, NarUndelivered)
    same(answers, large.subarray(0, answers.length))
    assert.ok(answers.length <= cut.length)
  }
})

test('a path that was promised, and the box is away when it is asked for: the box is waited for', async () => {
  const { answers, failed } = await session([narFromPath], [null, boxOf(Buffer.concat([LAST, NAR]))], undefined, true)
  assert.is(failed, null)
  same(answers, Buffer.concat([LAST, NAR]))
})

test('when another session has lost patience with the box, a path is missing, and one that was promised ends the stream', async () => {
  const box = boxOf(Buffer.concat([LAST, u64(1), INFO, LAST, u64(1), INFO]))
  const client = clientOf(Buffer.concat([hello(), pathInfo, pathInfo, narFromPath]))
  let [asked, dialled] = [0, 0]
  const upstream: Upstream = {
    dial: async () => (dialled++ === 0 ? box : null),
    lost: () => {},
    report: () => {},
    givenUp: () => ++asked > 0,
    redial: () => ({ next: async () => null, left: () => 0 }),
    strict: false,
  }
  const failed = await serve(client, upstream).catch((error) => error)
  assert.instance(failed, NarUndelivered)
  same(client.got().subarray(WELCOME.length), Buffer.concat([LAST, u64(1), INFO, notValid(PATH)]))
})

test('a box that says a megabyte of messages before an answer is given up: they cost processor time', async () => {
  const stop = Buffer.concat([u64(0x53544f50), u64(1)])
  for (const [mib, expected] of [
    [0.9, Buffer.concat([LAST, u64(1), INFO])],
    [1.1, notValid(PATH)],
  ] as const) {
    const { answers, lost } = await session(
      [pathInfo],
      [boxOf(Buffer.concat([Buffer.alloc(Math.floor(mib * 2 ** 16) * 16, stop), LAST, u64(1), INFO]))],
    )
    same(answers, expected)
    assert.equal(lost, mib > 1 ? ['more than 1 MiB of messages before an answer'] : [])
  }
})

test('a box that drips is given up: a byte now and then is no answer', async () => {
  const wait = globalThis.setTimeout
  await hurried(async () => {
    const wire = Buffer.concat([LAST, nar({ file: Buffer.alloc(2 ** 20) })])
    let at = 0
    const reader: ByteReader = new ByteReader({ resume: () => {} })
    const drip = (): void => {
      if (at >= wire.length) return
      reader.push(wire.subarray(at, at + 1))
      at++
      wait(drip, 5) // as if every 5 s
    }
    drip()
    const { failed } = await session([narFromPath], [{ ...boxOf(Buffer.alloc(0)), reader }])
    assert.match(failed?.message ?? '', /gets nowhere in the middle of \/nix\/store\/\S+: less than 16 KiB in 30 s$/)
    assert.ok(at < 100, `${at} bytes`)
  })
})

test('a NAR that the box refuses, or that is asked for while it is away: the stream ends', async () => {
  const refused = await session([narFromPath, isValid], [boxOf(errorAnswer('No such file'))])
  assert.instance(refused.failed, NarUndelivered)
  assert.is(refused.answers.length, 0)
  assert.equal(refused.lines, [`the box can't read ${PATH}: No such file`])
  assert.equal(refused.lost, [])
  const away = await session([narFromPath, isValid], [null])
  assert.instance(away.failed, NarUndelivered)
  assert.is(away.answers.length, 0)
  assert.equal(away.lost, [`the box is away, and can't deliver ${PATH}`])
})

/** What a box says of a path whose NAR is `bytes`, as far as that is true. */
const infoFor = (bytes: Buffer, hash = createHash('sha256').update(bytes).digest('hex')): Buffer =>
  Buffer.concat([LAST, u64(1), infoOf({ nar: bytes, hash })])
const OTHER = nar({ entries: { a: { file: 'jello' }, b: { link: '(' } } })
const LARGE = nar({ file: Buffer.alloc(3 * 2 ** 20, 'a') })
const SPOILT = nar({ file: Buffer.alloc(3 * 2 ** 20, 'b') })
/** nix-daemon's error in the middle of a stream: it has said STDERR_LAST. */
const BROKEN_OFF = Buffer.concat([
  LAST,
  NAR.subarray(0, NAR.lastIndexOf('node') + 8),
  errorAnswer("getting status of '/nix/store/x/b': Input/output error"),
])

for (const [what, wire, why] of [
  ['other bytes', Buffer.concat([LAST, OTHER]), /SHA-256/],
  ['fewer bytes', Buffer.concat([LAST, nar({ file: '' })]), /SHA-256/],
  [
    'more bytes',
    Buffer.concat([LAST, nar({ entries: { a: { file: 'hello' }, b: { link: '(' }, c: { file: 'more' } } })]),
    /more of .* than the/,
  ],
  ['an error', errorAnswer('No such file'), /can't read .*: No such file$/],
  ['an error in the middle', BROKEN_OFF, /can't read .*: getting status of .*: Input\/output error$/],
] as const) {
  test(`a damaged copy on the box, ${what}: asked twice, then noted, and Nix gets none of it; from then on it is missing`, async () => {
    const again = Buffer.concat([infoFor(NAR), wire, LAST, u64(1)])
    const { answers, failed, noted, asked } = await session(
      [pathInfo, narFromPath],
      [boxOf(Buffer.concat([infoFor(NAR), wire, again])), boxOf(again)],
      undefined,
      true,
      [],
    )
    assert.instance(failed, NarUndelivered)
    same(answers, infoFor(NAR))
    assert.is(noted.length, 1)
    assert.match(noted[0]?.why ?? '', why)
    same(asked, Buffer.concat([pathInfo, narFromPath, pathInfo, narFromPath]), 'asked')
    const later = await session([isValid, pathInfo], [boxOf(Buffer.alloc(0))], undefined, true, noted)
    same(later.answers, Buffer.concat([LAST, u64(0), notValid(PATH)]))
    assert.is(later.asked.length, 0)
  })

  test(`${what} from the box, once: asked again, and Nix gets the good one`, async () => {
    const good = Buffer.concat([infoFor(NAR), LAST, NAR, LAST, u64(1)])
    const boxes = [boxOf(Buffer.concat([infoFor(NAR), wire, ...(/SHA/.test(String(why)) ? [good] : [])])), boxOf(good)]
    const { answers, failed, noted } = await session([pathInfo, narFromPath, isValid], boxes, undefined, true, [])
    assert.is(failed, null)
    same(answers, Buffer.concat([infoFor(NAR), LAST, NAR, LAST, u64(1)]))
    assert.equal(noted, [])
  })

  test(`${what} from the box, of a path that it has deleted meanwhile: not noted`, async () => {
    const gone = Buffer.concat([notValid(PATH), errorAnswer('No such file')]) // 2.8.0 reads what lies there
    const boxes = [boxOf(Buffer.concat([infoFor(NAR), wire, gone])), boxOf(gone)]
    const { failed, noted } = await session([pathInfo, narFromPath], boxes, undefined, true, [])
    assert.instance(failed, NarUndelivered)
    assert.equal(noted, [])
  })
}

test('a large damaged copy: Nix gets it, and rejects it itself; it is noted before the last byte', async () => {
  const box = boxOf(Buffer.concat([infoFor(LARGE), LAST, SPOILT, LAST, u64(1)]))
  const { answers, failed, noted } = await session(
    [pathInfo, narFromPath, Buffer.concat([u64(1), string(`${PATH}y`)])],
    [box],
    undefined,
    true,
    [],
  )
  assert.is(failed, null)
  same(answers, Buffer.concat([infoFor(LARGE), LAST, SPOILT, LAST, u64(1)]))
  assert.equal(
    noted.map(({ path }) => path),
    [PATH],
  )
})

test('a large NAR that is continued is checked from its first byte on', async () => {
  for (const [rest, count] of [
    [LARGE, 0],
    [SPOILT, 1],
  ] as const) {
    const first = Buffer.concat([infoFor(LARGE), LAST, LARGE]).subarray(0, -(2 ** 20))
    const { failed, noted } = await session(
      [pathInfo, narFromPath],
      [boxOf(first), boxOf(Buffer.concat([LAST, rest]))],
      undefined,
      true,
      [],
    )
    assert.is(failed, null)
    assert.is(noted.length, count)
  }
})

test('a NAR whose promise another process made: it is asked for in the same round trip', async () => {
  const box = boxOf(Buffer.concat([infoFor(NAR), LAST, NAR]))
  const { answers, asked, noted } = await session([narFromPath], [box], undefined, true, [])
  same(answers, Buffer.concat([LAST, NAR]))
  same(asked, Buffer.concat([pathInfo, narFromPath]))
  assert.equal(noted, [])
})

test('a box that is short of file descriptors has no damaged copy', async () => {
  const { failed, noted, lines } = await session(
    [narFromPath],
    [boxOf(Buffer.concat([infoFor(NAR), errorAnswer('Too many open files')]))],
    undefined,
    true,
    [],
  )
  assert.instance(failed, NarUndelivered)
  assert.equal([noted, lines], [[], [`the box can't read ${PATH}: Too many open files`]])
})

test('realisations are answered "none" without asking: a box without the feature aborts at the question', async () => {
  const { answers, asked } = await session([realisation, isValid], [boxOf(Buffer.concat([LAST, u64(1)]))])
  same(answers, Buffer.concat([LAST, u64(0), LAST, u64(1)]))
  same(asked, isValid)
})

test('a box that comes back is asked again', async () => {
  const { answers } = await session([isValid, isValid, isValid], [boxOf(LAST), null, boxOf(Buffer.concat([LAST, u64(1)]))])
  same(answers, Buffer.concat([LAST, u64(0), LAST, u64(0), LAST, u64(1)]))
})

for (const [what, wire] of [
  ['a message of an unknown type', u64(0x12345678)],
  ['a string that never ends', Buffer.concat([LAST, u64(2 ** 40)])],
] as const) {
  test(`${what} from the box: it isn't listened to any longer`, async () => {
    const { answers, lost } = await session([fromHash, isValid], [boxOf(wire)])
    same(answers, Buffer.concat([LAST, string(''), LAST, u64(0)]))
    assert.is(lost.length, 1)
  })
}

test('an operation that is not known makes it a pipe, both ways, with half-close', async () => {
  const upload = Buffer.concat([u64(44), u64(0), u64(0), Buffer.alloc(200_000, 1)])
  const box = boxOf(Buffer.concat([LAST, u64(1), Buffer.alloc(100_000, 2)]))
  const { answers, asked, failed } = await session([isValid, upload], [box])
  same(answers, Buffer.concat([LAST, u64(1), Buffer.alloc(100_000, 2)]))
  same(asked, Buffer.concat([isValid, upload]))
  assert.ok(box.ended())
  assert.is(failed, null)
})

test('an operation that is not known, and no box: an error in words', async () => {
  const { answers } = await session([u64(44), isValid], [null])
  const reader = new Recorder(readerOf(answers))
  const ending = await readMessages(reader)
  assert.ok(ending.error && /box is away/.test(ending.message))
  assert.is(reader.bytes.length, answers.length)
})

test('an older Nix gets the handshake of its own protocol', async () => {
  const welcome: [number, Buffer][] = [
    [0x0120, Buffer.concat([u64(0x6478696f), u64(0x0123), LAST])],
    [0x0121, WELCOME],
    [0x0123, Buffer.concat([u64(0x6478696f), u64(0x0123), string('nix-lan'), u64(0), LAST])],
    [0x0126, Buffer.concat([u64(0x6478696f), u64(0x0123), string('nix-lan'), u64(0), LAST])],
  ]
  for (const [version, answer] of welcome) {
    const client = clientOf(hello(version))
    await serve(client, { dial: async () => null, lost: () => {}, report: () => {}, strict: false })
    same(client.got(), answer, version.toString(16))
  }
})

test('strictly: errors come as the box sends them, and a lost box is said', async () => {
  const strictly = async (box: Box, request = pathInfo): Promise<{ answers: Buffer; failed: unknown }> => {
    const client = clientOf(Buffer.concat([hello(), request]))
    const failed = await serveStrictly(client, acquaintanceOf(box)).then(
      () => null,
      (error: unknown) => error,
    )
    return { answers: client.got().subarray(BOX_WELCOME.length), failed }
  }
  const error = errorAnswer('disk I/O error')
  same((await strictly(boxOf(error))).answers, error)
  const unread = await strictly(boxOf(error), narFromPath)
  assert.instance(unread.failed, NarUndelivered)
  assert.is(unread.answers.length, 0)
  assert.instance((await strictly(boxOf(LAST))).failed, Away)
})

test('strictly: Nix and the box agree on the lower protocol, and each hears what the other says of itself', async () => {
  const PATHS = 'realisation-with-path-not-hash'
  const trusted = (nix: string): Buffer => Buffer.concat([string(nix), u64(2), LAST])
  const cases: { client: Buffer; box: number; features?: string[]; welcome: Buffer; toBox: [number, string[]]; toNix: Buffer }[] = [
    { client: hello(0x0122), box: 0x0120, welcome: LAST, toBox: [0x0122, []], toNix: LAST },
    { client: hello(0x0120), box: 0x0126, welcome: LAST, toBox: [0x0120, []], toNix: LAST },
    { client: hello(0x0123), box: 0x0126, welcome: trusted('2.34.8'), toBox: [0x0123, []], toNix: trusted('2.34.8') },
    {
      // a feature that we don't know might change what we read
      client: Buffer.concat([u64(0x6e697863), u64(0x0127), strings([PATHS, 'signatures-as-objects']), u64(1), u64(3), u64(0)]),
      box: 0x0127,
      features: ['delete-dead-specific-referrers', 'of-tomorrow'],
      welcome: trusted('2.36.0'),
      toBox: [0x0126, [PATHS]],
      toNix: Buffer.concat([strings(['delete-dead-specific-referrers']), trusted('2.36.0')]),
    },
  ]
  for (const { client: said, box: version, features = [], welcome, toBox, toNix } of cases) {
    const box = boxOf(Buffer.concat([LAST, u64(1)]))
    const heard: unknown[] = []
    const introduce: Acquaintance['introduce'] = async (...spoken) => {
      heard.push(spoken)
      return { box, features, welcome }
    }
    const client = clientOf(Buffer.concat([said, isValid]), 7)
    await serveStrictly(client, { version, introduce })
    assert.equal(heard, [toBox])
    const own = Buffer.concat([u64(0x6478696f), u64(Math.min(version, 0x0126))])
    same(client.got(), Buffer.concat([own, toNix, LAST, u64(1)]), version.toString(16))
  }
})

test('strictly: the box is asked what an empty store answers itself', async () => {
  const answer = Buffer.concat([LAST, strings([])])
  for (const request of [SET_OPTIONS, realisation]) {
    const box = boxOf(answer)
    const client = clientOf(Buffer.concat([hello(), request]))
    await serveStrictly(client, acquaintanceOf(box))
    same(box.asked(), request)
  }
})

test('a Nix that asks nothing costs nothing and ends well', async () => {
  const { answers, failed } = await session([], [boxOf(Buffer.alloc(0))])
  assert.is(answers.length, 0)
  assert.is(failed, null)
})

test.run()
