// A box that is slow, mute, says wrong things, or has damaged copies: between connect and a real
// nix-daemon stands something that spoils what the daemon says. Nothing hangs, and what gets into
// the store is what was promised.
import { chmodSync, chownSync, existsSync, rmSync } from 'node:fs'
import { createConnection, createServer, type Socket } from 'node:net'
import * as assert from 'uvu/assert'
import { send } from '../../scripts/protocol/box.ts'
import { ByteReader, EndOfStream } from '../../scripts/protocol/byte-reader.ts'
import { dialBox } from '../../scripts/protocol/dial.ts'
import { NarEnd } from '../../scripts/protocol/nar-end.ts'
import { type Fields, fieldsOf, NAR_FROM_PATH, OPERATIONS, readShape } from '../../scripts/protocol/operations.ts'
import {
  errorAnswer,
  MAGIC_SERVER,
  OUR_VERSION,
  QUERY_PATH_INFO,
  Recorder,
  readMessages,
  STDERR_LAST,
  string,
  strings,
  u64,
} from '../../scripts/protocol/wire.ts'
import { Random } from '../lib/random.ts'
import { DIST } from '../nix/pair.ts'
import { ALICE, DAEMON_SOCKET } from '../nix/world.ts'
import { faults, LONG, many, Stage } from './stage.ts'

const test = faults('hostile')
const HOSTILE = '/run/user/1000/nix-lan/hostile.sock'
/**
 * What a daemon of 2.8.0 says before it takes questions has at least so many bytes: both magic
 * numbers and versions, and STDERR_LAST.
 */
const GREETING = 24
/** More than that and less than an answer: the greeting of any of the three. */
const GREETED = 64

let made: Stage | undefined
const stage = async (): Promise<Stage> => {
  made ??= await Stage.make()
  return made
}

/**
 * Gets what the daemon says, with the count of bytes that it has said before on this connection,
 * and says what it likes to connect.
 */
type Spoil = (bytes: Buffer, before: number, connect: Socket) => void

interface Way {
  fallback: boolean
  /** Whether the build must end well. */
  sure?: boolean
  /** Seconds that connect waits for a box that gets nowhere. */
  patience?: number
  /** How many paths the box has; default: 6. */
  count?: number
  /** What to build instead. */
  args?: string[]
}

/** What Nix printed, and how long it took. */
interface Printed {
  output: string
  ms: number
}

/**
 * Has something stand between connect and the box's daemon while paths are built that the box has.
 * With a fallback the build must be good.
 */
async function against(meet: (connect: Socket, daemon: string) => void, way: Way): Promise<Printed> {
  const { fallback, sure = fallback, patience = 60, count = 6 } = way
  const on = await stage()
  const { pair } = on
  const args = way.args ?? (await on.published(count, 512))
  const server = createServer((connect) => meet(connect, pair.box.path(DAEMON_SOCKET)))
  const socket = pair.client.path(HOSTILE)
  if (existsSync(socket)) rmSync(socket)
  await new Promise<void>((done) => server.listen(socket, done))
  chownSync(socket, ALICE, ALICE)
  chmodSync(socket, 0o700)
  try {
    await on.configure({
      'extra-substituters': `ssh-ng://localhost?remote-program=${DIST}/nix-lan-connect%20${HOSTILE}%20--deadline%2010%20--patience%20${patience}`,
    })
    const building = on.build(args, fallback)
    const code = await building.ends()
    if (sure) assert.is(code, 0, building.output())
    return { output: building.output(), ms: building.ms }
  } finally {
    server.close()
    await on.configure({})
    await on.wellAfter(args)
  }
}

/** Has what the daemon says spoiled, whatever it is about. */
async function spoiled(spoil: () => Spoil, how: Way): Promise<Printed> {
  const meet = (connect: Socket, daemon: string): void => {
    const box = createConnection(daemon)
    const way = spoil()
    let said = 0
    connect.on('error', () => box.destroy()).on('close', () => box.destroy())
    box.on('error', () => connect.destroy()).on('close', () => connect.destroy())
    connect.on('data', (bytes) => box.write(bytes))
    box.on('data', (bytes: Buffer) => {
      way(bytes, said, connect)
      said += bytes.length
    })
  }
  return await against(meet, how)
}

const pass: Spoil = (bytes, _, connect) => void connect.write(bytes)

test.case('each answer comes 300 ms late: all is fetched', async () => {
  const late: Spoil = (bytes, _, connect) => {
    setTimeout(() => connect.write(bytes), 300)
  }
  await spoiled(() => late, { fallback: false, sure: true })
})

test.case('the handshake, then nothing more: given up, and built', async () => {
  // connect asks before it has heard all of the greeting: its end and the answer may come together
  const mute = (): Spoil => {
    let greeting = Buffer.alloc(0)
    let passed = 0
    return (bytes, _, connect) => {
      greeting = Buffer.concat([greeting, bytes])
      const last = greeting.indexOf(LAST, GREETING - LAST.length)
      const end = last < 0 ? greeting.length : last + LAST.length
      connect.write(greeting.subarray(passed, end))
      passed = end
    }
  }
  await spoiled(mute, { fallback: false, sure: true })
})

/** From so many bytes on, a byte each 10 s. */
function drip(from: number): Spoil {
  let queue = Buffer.alloc(0)
  let timer: NodeJS.Timeout | undefined
  return (bytes, before, connect) => {
    if (before < from) return pass(bytes, before, connect)
    queue = Buffer.concat([queue, bytes])
    if (timer) return
    timer = setInterval(() => {
      connect.write(queue.subarray(0, 1))
      queue = queue.subarray(1)
    }, 10_000)
    connect.on('close', () => clearInterval(timer))
  }
}

if (LONG)
  test.case('the handshake, then a byte each 10 s: given up', async () => {
    await spoiled(() => drip(GREETING), { fallback: true })
  })
// the first 100,000 bytes are what is asked of all paths, and the beginning of the first NAR
test.case('in the middle of a NAR a byte each 10 s: given up, once for all paths, and built', async () => {
  const patience = LONG ? 60 : 15
  const { ms } = await spoiled(() => drip(100_000), { fallback: true, patience })
  // 30 s below the floor
  assert.ok(ms < (30 + patience + 15 + 30) * 1000, `it took ${ms} ms`)
})

for (let round = 1; round <= many(2, 30); round++) {
  test.case(`after some bytes only noise, fallback, ${round}`, async (random) => {
    const from = random.integer(GREETED, many(3000, 3_000_000))
    const own = drawers(random)
    const noise = (): Spoil => {
      const drawn = own()
      return (bytes, before, connect) => void connect.write(before + bytes.length <= from ? bytes : noisy(bytes, from - before, drawn))
    }
    await spoiled(noise, { fallback: true })
  })

  test.case(`the connection ends after some bytes, each time, fallback, ${round}`, async (random) => {
    const at = random.integer(0, many(10_000, 3_000_000))
    const cut: Spoil = (bytes, before, connect) => {
      connect.write(bytes.subarray(0, Math.max(0, at - before)))
      if (before + bytes.length > at) connect.end()
    }
    await spoiled(() => cut, { fallback: true })
  })

  test.case(`one byte in some thousand is another, fallback, ${round}`, async (random) => {
    const one = random.integer(500, 20_000)
    const own = drawers(random)
    const flip = (): Spoil => {
      const drawn = own()
      return (bytes, before, connect) => {
        const copy = Buffer.from(bytes)
        for (let i = 0; i < copy.length; i++) if (before + i >= GREETED && drawn.integer(1, one) === 1) copy[i] = drawn.integer(0, 255)
        connect.write(copy)
      }
    }
    await spoiled(flip, { fallback: true })
  })
}

/**
 * Gets the daemon's answer about a path that it has, and the number in the path's name. Returns what
 * is said instead; null: it has said what it likes to connect, and the connection ends.
 */
type Instead = (answer: Buffer, n: number, connect: Socket, path: string) => Buffer | null

/**
 * Has what the daemon says about its paths replaced; NARs are passed on. Returns what Nix printed.
 * Without a fallback: what nobody has promised can be built.
 */
async function misinformed(count: number, instead: Instead): Promise<string> {
  const meet = (connect: Socket, daemon: string): void => {
    lying(connect, daemon, instead).catch(() => connect.destroy())
  }
  return (await against(meet, { fallback: false, sure: true, count })).output
}

/** @param always also of what the daemon lacks */
async function lying(connect: Socket, daemon: string, instead: Instead, always = false): Promise<void> {
  const reader = new ByteReader({ resume: () => {} })
  connect.on('error', () => {}).on('data', (bytes) => reader.push(bytes))
  connect.on('close', () => reader.finish(new EndOfStream('closed')))
  const hello = new Recorder(reader)
  connect.write(Buffer.concat([u64(MAGIC_SERVER), u64(OUR_VERSION)]))
  for (let words = 0; words < 4; words++) await hello.u64()
  connect.write(Buffer.concat([string('2.15.0'), u64(2), LAST]))
  const box = await dialBox(daemon, 30_000)
  connect.on('close', () => box.socket.destroy())
  for (;;) {
    const question = new Recorder(reader)
    const number = await question.u64()
    const operation = OPERATIONS.get(number) ?? { request: [], answer: ['strings'] as const } // the list of all paths
    let path = ''
    for (const shape of operation.request) path ||= (await readShape(question, shape)) ?? ''
    await send(box, question.bytes)
    const answer = new Recorder(box.reader)
    const { error } = await readMessages(answer)
    if (!error) for (const shape of operation.answer) await readShape(answer, shape)
    const has = number === QUERY_PATH_INFO && (always || answer.bytes.length > 100)
    const said = has ? instead(answer.bytes, Number(path.slice(path.lastIndexOf('-') + 1)), connect, path) : answer.bytes
    if (said === null) return void connect.end()
    connect.write(said)
    const nar = number === NAR_FROM_PATH ? new NarEnd() : undefined
    while (nar && !nar.done) {
      await box.reader.peek()
      const bytes = Buffer.from(box.reader.atHand())
      const used = nar.scan(bytes)
      connect.write(bytes.subarray(0, used))
      box.reader.consume(used)
    }
  }
}

const LAST = u64(STDERR_LAST)
const MOST = Buffer.alloc(8, 0xff) // 2^64 - 1

/** The answer again, with something else in it. */
const but = (answer: Buffer, other: Partial<Fields>): Buffer => infoOf({ ...fieldsOf(answer.subarray(8)), ...other })

/** An answer to QueryPathInfo. */
function infoOf(fields: Omit<Fields, 'padded'>): Buffer {
  const { valid, deriver, hash, references, registered, size, ultimate, signatures, contentAddress } = fields
  const number = (value: number): Buffer => (value === Number.POSITIVE_INFINITY ? MOST : u64(value))
  const before = [LAST, number(valid), string(deriver), string(hash), strings(references)]
  return Buffer.concat([...before, number(registered), number(size), number(ultimate), strings(signatures), string(contentAddress)])
}

const named = (name: string): string => `/nix/store/${'a'.repeat(32)}-${name}`

/** What makes one of the three Nixes fail, or die by a signal, when it is passed on. */
const UNREADABLE: Record<string, (answer: Buffer, path: string) => Buffer> = {
  'a content address of no kind': (answer) => but(answer, { contentAddress: 'fixed:sha256:x' }),
  'a content address that is too short': (answer) => but(answer, { contentAddress: 'fixed:r:sha256:0' }),
  // libstore/path-info.cc and store-dir-config.cc assert that, or throw
  'a text that refers to itself': (answer, path) => but(answer, { contentAddress: `text:sha256:${'0'.repeat(52)}`, references: [path] }),
  'a flat file with references': (answer) => but(answer, { contentAddress: `fixed:sha256:${'0'.repeat(52)}`, references: [named('x')] }),
  'a tree with a SHA-1 and references': (answer) =>
    but(answer, { contentAddress: `fixed:r:sha1:${'0'.repeat(32)}`, references: [named('x')] }),
  'a flat file that refers to itself': (answer, path) =>
    but(answer, { contentAddress: `fixed:sha256:${'0'.repeat(52)}`, references: [path] }),
  'a signature of our key that is no base 64': (answer) => but(answer, { signatures: ['client-1:!!!'] }),
  'a signature of our key that is too short': (answer) => but(answer, { signatures: ['client-1:AAAA'] }),
  'a signature without a name': (answer) => but(answer, { signatures: ['nonsense'] }),
  'size 0': (answer) => but(answer, { size: 0 }),
  'the last of all times': (answer) => but(answer, { registered: Number.POSITIVE_INFINITY }),
  'ultimate 2': (answer) => but(answer, { ultimate: 2 }),
  'valid 2': (answer) => but(answer, { valid: 2 }),
  // of the signature, the last string but one
  'padding that is not zero': (answer) => {
    const copy = Buffer.from(answer)
    copy[answer.length - 9] = 1
    return copy
  },
  'a reference ..': (answer) => but(answer, { references: [named('..')] }),
  'a reference .-x': (answer) => but(answer, { references: [named('.-x')] }),
  'a reference outside the store': (answer) => but(answer, { references: ['/etc/passwd'] }),
  'a deriver that is no path': (answer) => but(answer, { deriver: 'x' }),
  'a hash that is none': (answer) => but(answer, { hash: 'z'.repeat(64) }),
}

test.case('what it says of its paths no Nix can read, no fallback: all are built', async () => {
  const ways = Object.values(UNREADABLE)
  const output = await misinformed(ways.length, (answer, n, _, path) => ways[n - 1]?.(answer, path) ?? answer)
  const built = new Set(output.match(/(?<=^building '.*-)\d+(?=\.drv')/gm))
  assert.equal(
    Object.keys(UNREADABLE).filter((_, n) => !built.has(String(n + 1))),
    [],
    output,
  )
})

/** What an answer's fields may hold: good, almost good, and what the formats have ends of. */
const NUMBERS = [0, 1, 2, 120, 2 ** 31, 2 ** 32, 2 ** 53 - 1, 2 ** 53, Number.POSITIVE_INFINITY]
const HASHES = ['0'.repeat(64), 'f'.repeat(64), 'A'.repeat(64), '0'.repeat(63), '0'.repeat(52), `sha256:${'0'.repeat(52)}`, '']
const digests = (length: number): string[] => ['0', '1', '3', '7', 'z'].map((first) => first + '0'.repeat(length - 1))
const ADDRESSES = ['text:', 'fixed:', 'fixed:r:', 'fixed:git:', 'nar:', ''].flatMap((how) =>
  [...digests(52).map((digest) => `sha256:${digest}`), ...digests(32).map((digest) => `sha1:${digest}`)]
    .concat(
      digests(26).map((digest) => `md5:${digest}`),
      digests(103).map((digest) => `sha512:${digest}`),
    )
    .map((digest) => how + digest),
)
const KEYS = ['client-1', 'other-1', '', 'a b', 'ü']
const SIGNED = [`${'A'.repeat(86)}==`, `${'z'.repeat(86)}==`, `${'A'.repeat(85)}=`, 'A'.repeat(88), '']
const NAMES = ['x', 'x.drv', '.', '..', '.x', '.-x', '..-x', '-', 'a+b?c=d', 'y'.repeat(211), 'y'.repeat(212), 'a b', '']

/** An answer about a path that nobody has, with one to three fields of chance. */
function ofChance(path: string, random: Random): Buffer {
  const paths = (): string => random.pick([path, `${path}.drv`, named(random.pick(NAMES)), '/etc/passwd', '/nix/store', ''])
  const some = (one: () => string): string[] => Array.from({ length: random.integer(0, 3) }, one)
  const fields: Omit<Fields, 'padded'> = {
    ...{ valid: 1, deriver: '', hash: '0'.repeat(64), references: [], registered: 1, size: 120, ultimate: 0 },
    ...{ signatures: [`other-1:${'A'.repeat(86)}==`], contentAddress: '' },
  }
  const spoilt: (() => Partial<Fields>)[] = [
    () => ({ valid: random.pick([1, 1, 2, Number.POSITIVE_INFINITY]) }),
    () => ({ deriver: paths() }),
    () => ({ hash: random.pick(HASHES) }),
    () => ({ references: some(paths) }),
    () => ({ references: some(() => random.pick([path, named('x')])) }),
    () => ({ registered: random.pick(NUMBERS) }),
    () => ({ size: random.pick(NUMBERS) }),
    () => ({ ultimate: random.pick(NUMBERS) }),
    () => ({ signatures: some(() => `${random.pick(KEYS)}:${random.pick(SIGNED)}`) }),
    () => ({ contentAddress: random.pick(ADDRESSES) }),
    () => ({ contentAddress: random.pick(ADDRESSES), references: some(() => random.pick([path, named('x')])) }),
  ]
  for (let times = random.integer(1, 3); times > 0; times--) Object.assign(fields, random.pick(spoilt)())
  return infoOf(fields)
}

// Nobody has signed any of it, so all must be built: unless a Nix fails of what connect has passed.
test.case('what it says of paths that it lacks is of chance, no fallback: all are built', async (random) => {
  const on = await stage()
  const count = many(100, 1000)
  const meet = (connect: Socket, daemon: string): void => {
    // the short form draws the same each time: what it tries has been tried
    const draws = LONG ? random : new Random('of chance', count)
    lying(connect, daemon, (_, __, ___, path) => ofChance(path, draws), true).catch(() => connect.destroy())
  }
  const { output } = await against(meet, { fallback: false, sure: true, args: on.fresh(count) })
  assert.is(output.match(/^building /gm)?.length, count, output)
})

/** Messages before an answer that kill a Nix, or that it can't read. */
const STDERR_RESULT = u64(0x52534c54)
const STDERR_START_ACTIVITY = u64(0x53545254)
const MESSAGES = [
  ...[100, 101, 102, 103, 104, 105, 106, 107].map((type) => Buffer.concat([STDERR_RESULT, u64(1), u64(type), u64(0)])),
  // an activity of an unknown type, with a field of an unknown type
  Buffer.concat([STDERR_START_ACTIVITY, u64(1), u64(0), u64(999), string('x'), u64(1), u64(7), string('x'), u64(0)]),
]

test.case('before what it says of its paths come messages that kill Nix, no fallback: all are fetched', async () => {
  const output = await misinformed(MESSAGES.length, (answer, n) => Buffer.concat([MESSAGES[n - 1] ?? LAST, answer]))
  assert.not.match(output, /^building /m)
})

const NO_ANSWERS: Record<string, (answer: Buffer, connect: Socket, random: Random) => Buffer | null> = {
  noise: (answer, _, random) => noisy(answer, 0, random),
  'an error': () => errorAnswer('no such file'),
  'half of it, and the end': (answer, connect) => {
    connect.write(answer.subarray(0, answer.length / 2))
    return null
  },
  'the end': () => null,
}
for (const [what, say] of Object.entries(NO_ANSWERS)) {
  test.case(`instead of what it says of its paths ${what}, no fallback: built`, async (random) => {
    let said = 0
    const output = await misinformed(4, (answer, _, connect) => {
      said++
      return say(answer, connect, random)
    })
    assert.ok(said > 0)
    assert.match(output, /^building /m)
  })
}

/** What draws for each connection by itself: the bytes of several come in no certain order. */
function drawers(random: Random): () => Random {
  const seed = random.integer(0, 2 ** 30)
  let connections = 0
  return () => new Random(seed, connections++)
}

/** The bytes from a place on replaced by others. */
function noisy(bytes: Buffer, from: number, random: Random): Buffer {
  const copy = Buffer.from(bytes)
  for (let i = Math.max(0, from); i < copy.length; i++) copy[i] = random.integer(0, 255)
  return copy
}

const DAMAGES = {
  'of the right size but other bytes': 'chmod u+w "$0"; printf XXXX | dd of="$0" bs=1 seek=100 conv=notrunc status=none',
  'of 0 bytes': 'chmod u+w "$0"; : >"$0"',
  'that are missing': 'rm -f "$0"',
} as const
for (const [what, damage] of Object.entries(DAMAGES)) {
  test.case(`copies on the box ${what}: with fallback the build is good`, async () => {
    const on = await stage()
    const { box } = on.pair
    const args = await on.published(3, 256)
    const local = { env: { NIX_REMOTE: 'local' } }
    const [path = ''] = (await box.must('root', 'nix-build', args, local)).split('\n')
    await box.must('root', 'sh', ['-c', damage, path])
    const building = on.build(args, true)
    assert.is(await building.ends(), 0, building.output())
    assert.match(building.output(), /^building /m)
    assert.is((await on.pair.client.must('root', 'sh', ['-c', 'wc -c <"$0"', path])).trim(), String(256 * 1024 + 6))
    await box.must('root', 'sh', ['-c', '[ -e "$0" ] || : >"$0"; nix-store --delete "$0"', path], local)
    await on.wellAfter(args)
  })
}

test.case('a damaged copy on the box, with an HTTP cache behind, no fallback: comes from there', async () => {
  const on = await stage()
  const { box } = on.pair
  const args = await on.published(1, 256)
  const cache = await on.httpCache(args)
  try {
    const local = { env: { NIX_REMOTE: 'local' } }
    const path = (await box.must('root', 'nix-build', args, local)).trim()
    await box.must('root', 'sh', ['-c', DAMAGES['of 0 bytes'], path])
    await on.configure({ substituters: `${cache.url}?priority=40` })
    const building = on.build(args, false)
    assert.is(await building.ends(), 0, building.output())
    assert.not.match(building.output(), /^building /m)
    assert.ok(cache.asked.some((asked) => asked.endsWith('.nar')))
    await box.must('root', 'nix-store', ['--delete', path], local)
    await on.wellAfter(args)
  } finally {
    cache.close()
    await on.configure({})
  }
})

test.after(async () => await made?.close())
test.run()
