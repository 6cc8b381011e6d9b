// A box that is slow, mute, says wrong things, or has damaged copies: between connect and a real
// nix-daemon stands something that spoils what the daemon says. Nothing hangs, and what gets into
// the store is what was promised.
import { chmodSync, chownSync, existsSync, rmSync } from 'node:fs'
import { createConnection, createServer, type Socket } from 'node:net'
import * as assert from 'uvu/assert'
import type { Random } from '../lib/random.ts'
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
}

/**
 * Has what the daemon says spoiled while something is built of which the box has all. Returns the
 * exit code, with fallback 0.
 */
async function spoiled(spoil: () => Spoil, { fallback, sure = fallback, patience = 60 }: Way): Promise<number | null> {
  const on = await stage()
  const { pair } = on
  const args = await on.published(6, 512)
  const server = createServer((connect) => {
    const box = createConnection(pair.box.path(DAEMON_SOCKET))
    const way = spoil()
    let said = 0
    connect.on('error', () => box.destroy()).on('close', () => box.destroy())
    box.on('error', () => connect.destroy()).on('close', () => connect.destroy())
    connect.on('data', (bytes) => box.write(bytes))
    box.on('data', (bytes: Buffer) => {
      way(bytes, said, connect)
      said += bytes.length
    })
  })
  const socket = pair.client.path(HOSTILE)
  if (existsSync(socket)) rmSync(socket)
  await new Promise<void>((done) => server.listen(socket, done))
  chownSync(socket, ALICE, ALICE)
  chmodSync(socket, 0o700)
  try {
    await on.configure({
      'extra-substituters': `ssh-ng://localhost?remote-program=${DIST}/nix-lan-connect%20${HOSTILE}%20--patience%20${patience}`,
    })
    const building = on.build(args, fallback)
    const code = await building.ends()
    if (sure) assert.is(code, 0, building.output())
    return code
  } finally {
    server.close()
    await on.configure({})
    await on.wellAfter(args)
  }
}

const pass: Spoil = (bytes, _, connect) => void connect.write(bytes)

test.case('each answer comes 300 ms late: all is fetched', async () => {
  const late: Spoil = (bytes, _, connect) => {
    setTimeout(() => connect.write(bytes), 300)
  }
  await spoiled(() => late, { fallback: false, sure: true })
})

test.case('the handshake, then nothing more: given up, and built', async () => {
  const mute: Spoil = (bytes, before, connect) => {
    if (before < GREETING) pass(bytes, before, connect)
  }
  await spoiled(() => mute, { fallback: false, sure: true })
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
  const started = Date.now()
  const patience = LONG ? 60 : 15
  await spoiled(() => drip(100_000), { fallback: true, patience })
  // 30 s below the floor
  assert.ok(Date.now() - started < (30 + patience + 15 + 30) * 1000)
})

for (let round = 1; round <= many(2, 30); round++) {
  test.case(`after some bytes only noise, fallback, ${round}`, async (random) => {
    const from = random.integer(GREETED, many(3000, 3_000_000))
    const noise: Spoil = (bytes, before, connect) =>
      void connect.write(before + bytes.length <= from ? bytes : noisy(bytes, from - before, random))
    await spoiled(() => noise, { fallback: true })
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
    const flip: Spoil = (bytes, before, connect) => {
      const copy = Buffer.from(bytes)
      for (let i = 0; i < copy.length; i++) if (before + i >= GREETED && random.integer(1, one) === 1) copy[i] = random.integer(0, 255)
      connect.write(copy)
    }
    await spoiled(() => flip, { fallback: true })
  })
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

test.after(async () => await made?.close())
test.run()
