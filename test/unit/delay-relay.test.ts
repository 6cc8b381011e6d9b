// The relay of the tests: that a link made with it has the latency, the rate and the cuts that it
// is told, and changes no byte.
import { mkdtempSync, rmSync } from 'node:fs'
import { createConnection, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { compare } from '../lib/compare.ts'
import { type Relay, startRelay } from '../lib/delay-relay.ts'
import { pause } from '../lib/processes.ts'
import { HANGS } from '../lib/until.ts'
import { same } from '../lib/wire.ts'

const test = suite('delay relay')

const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-relay-'))
const NEAR = join(TMP, 'near')
const FAR = join(TMP, 'far')
const echo = createServer({ allowHalfOpen: true }, (socket) => {
  socket.on('error', () => {}).pipe(socket)
})
let relay: Relay

test.before(async () => {
  await new Promise<void>((done) => echo.listen(FAR, done))
  relay = await startRelay([NEAR, FAR])
})
test.before.each(async () => {
  await relay.cut('none')
  await relay.set({ delay: 0, rate: 0 })
})
test.after(() => {
  relay.close()
  echo.close()
  rmSync(TMP, { recursive: true, force: true })
})

/**
 * Sends pieces, each so many milliseconds after the one before. Returns what came back, and in how
 * many milliseconds.
 */
async function send(pieces: Buffer[], spacing = 0): Promise<{ got: Buffer; ms: number }> {
  const socket = createConnection(NEAR)
  const got: Buffer[] = []
  socket.on('data', (chunk: Buffer) => void got.push(chunk))
  const ended = new Promise((done) => socket.on('end', done))
  const started = performance.now()
  for (const piece of pieces) {
    socket.write(piece)
    if (spacing > 0) await pause(spacing)
  }
  socket.end()
  await ended
  return { got: Buffer.concat(got), ms: performance.now() - started }
}

const bytes = (length: number): Buffer => Buffer.allocUnsafe(length).map((_, i) => (i * 7 + (i >> 8)) & 255) as Buffer

test('every byte comes, in order, with a delay and without, and the end behind it', async () => {
  const large = bytes(3_000_000)
  for (const link of [
    { delay: 0, rate: 0 },
    { delay: 5, rate: 0 },
    { delay: 5, rate: 20_000_000 },
  ]) {
    await relay.set(link)
    same((await send([large])).got, large, JSON.stringify(link))
  }
})

test('a question waits for both directions; pieces in a row wait once', async () => {
  await relay.set({ delay: 100, rate: 0 })
  const one = await send([bytes(8)])
  assert.ok(one.ms >= 199, `one: ${one.ms} ms`)
  const many = await send(
    Array.from({ length: 20 }, () => bytes(8)),
    2,
  )
  assert.ok(many.ms < 20 * one.ms, `20 pieces are a pipeline: ${many.ms} ms`)
  await relay.set({ delay: 0 })
  const { none } = await compare({ none: async () => (await send([bytes(8)])).ms }, (least) => least.none < one.ms / 2)
  assert.ok(none < one.ms / 2, `without delay: ${none} ms of ${one.ms}`)
})

test('a rate is for all connections together', async () => {
  await relay.set({ delay: 0, rate: 1_000_000 })
  const started = performance.now()
  await Promise.all([send([Buffer.alloc(100_000)]), send([Buffer.alloc(100_000)])])
  assert.ok(performance.now() - started >= 199, `200 kB at 1 MB/s: ${performance.now() - started} ms`)
})

/** How a connection ends, if it does: with an error or without. */
function ends(socket: Socket): Promise<string> {
  return new Promise((resolve) => {
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? 'error'))
    socket.on('end', () => resolve('end')).resume()
    setTimeout(() => resolve('open'), HANGS).unref()
  })
}

test('cuts: silent keeps what was on its way, hard and clean end connections, new ones too', async () => {
  const socket = createConnection(NEAR)
  const heard = new Promise<void>((done) => socket.once('data', () => done()))
  await relay.cut('silent')
  socket.write('hello')
  assert.is(await Promise.race([heard.then(() => 'heard'), pause(200).then(() => 'nothing')]), 'nothing')
  await relay.cut('none')
  await heard
  const over = ends(socket) // listens before it is cut
  await relay.cut('clean')
  assert.is(await over, 'end')
  assert.is(await ends(createConnection(NEAR)), 'end')
  await relay.cut('hard')
  assert.is.not(await ends(createConnection(NEAR)), 'open')
  await relay.cut('none')
  same((await send([bytes(8)])).got, bytes(8))
})

test.run()
