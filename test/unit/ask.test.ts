// Questions to the box's nix-daemon at the tunnel's socket: that all of a call go out before the
// first answer comes, and what becomes of bad ones.
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { NixError } from '../../scripts/nix/nix.ts'
import { infosOnBox, validOnBox } from '../../scripts/protocol/ask.ts'
import { greetBox } from '../../scripts/protocol/dial.ts'
import { errorAnswer, MAGIC_SERVER, STDERR_LAST, string, strings, u64 } from '../../scripts/protocol/wire.ts'
import { hello, same } from '../lib/wire.ts'

const test = suite('ask-box')
const FOLDER = mkdtempSync(join(tmpdir(), 'nix-lan-ask-box-'))
const SOCKET = join(FOLDER, 'box.sock')
/** Milliseconds that only a hang exceeds. */
const LONG = 60_000
const LIMITS = { deadline: LONG, patience: LONG }
const A = '/nix/store/00000000000000000000000000000000-a'
const B = '/nix/store/00000000000000000000000000000000-b.drv'
const LAST = u64(STDERR_LAST)
const info = (size: number, ultimate: number, signatures: string[], ca: string): Buffer =>
  Buffer.concat([
    LAST,
    u64(1),
    string(B),
    string('0'.repeat(64)),
    strings([A, B]),
    u64(9),
    u64(size),
    u64(ultimate),
    strings(signatures),
    string(ca),
  ])
const asks = (path: string): Buffer => Buffer.concat([u64(26), string(path)])

let server: Server | undefined
let connections = 0
const sockets = new Set<Socket>()
test.before.each(() => {
  connections = 0
})
test.after.each(() => {
  for (const socket of sockets) socket.destroy()
  server?.close()
  server = undefined
  rmSync(SOCKET, { force: true })
})
test.after(() => rmSync(FOLDER, { recursive: true }))

/**
 * A nix-daemon of protocol 1.32 that answers when it has got all of `questions`, not before. The
 * end of its handshake comes when something was said after its hello, as it does when sshd's Nagle
 * waits for an acknowledgement.
 */
function daemon(questions: Buffer, answers: Buffer | ((socket: Socket) => void)): Promise<void> {
  const all = Buffer.concat([hello(0x0123), questions])
  server = createServer((socket) => {
    connections++
    sockets.add(socket)
    let got = Buffer.alloc(0)
    socket.on('error', () => {})
    socket.on('data', (bytes) => {
      const before = got.length
      got = Buffer.concat([got, bytes])
      const hellos = hello().length
      if (before < hellos && got.length >= hellos) socket.write(Buffer.concat([u64(MAGIC_SERVER), u64(0x0120)]))
      if (before <= hellos && got.length > hellos) socket.write(LAST)
      if (got.length < all.length) return
      same(got, all, 'what was asked')
      if (typeof answers === 'function') answers(socket)
      else socket.write(answers)
    })
  })
  return new Promise((resolve) => server?.listen(SOCKET, resolve))
}

test('what the box knows: all paths are asked for at once, over one connection; one that it lacks is left out', async () => {
  const answers = [info(120, 0, ['k:sig', 'l:sig'], ''), info(7, 1, [], 'fixed:r:sha256:00'), Buffer.concat([LAST, u64(0)])]
  await daemon(Buffer.concat([asks(A), asks(B), asks(`${A}a`)]), Buffer.concat(answers))
  const infos = await infosOnBox(SOCKET, [A, B, `${A}a`], LIMITS)
  assert.equal(
    [...infos],
    [
      [A, { size: 120, ultimate: false, contentAddressed: false, signatures: ['k:sig', 'l:sig'] }],
      [B, { size: 7, ultimate: true, contentAddressed: true, signatures: [] }],
    ],
  )
  assert.is(connections, 1)
})

test('what the box has: ten thousand paths a question, nothing fetched from elsewhere', async () => {
  const paths = Array.from({ length: 10_001 }, (_, n) => `/nix/store/${String(n).padStart(32, '0')}-x`)
  const question = (group: string[]): Buffer => Buffer.concat([u64(31), strings(group), u64(0)])
  const last = paths.slice(-1)
  const questions = Buffer.concat([question(paths.slice(0, -1)), question(last)])
  await daemon(questions, Buffer.concat([LAST, strings([paths[5] ?? '']), LAST, strings(last)]))
  assert.equal([...(await validOnBox(SOCKET, paths, LIMITS))], [paths[5], ...last])
  assert.is(connections, 1)
})

const NOBODYS = '/nix/store/00000000000000000000000000000000-nix-lan-asks'
for (const [what, answer] of [
  ['does not have it', Buffer.concat([LAST, u64(0)])],
  ['says so by an error', errorAnswer(`path '${NOBODYS}' is not valid`)],
] as const)
  test(`whether it answers: a question about a path that nobody has, and the box ${what}`, async () => {
    await daemon(asks(NOBODYS), answer)
    assert.equal(await greetBox(SOCKET, LONG), { version: 0x0120, nix: '' })
  })

test('an answer that lies there when the deadline is over counts: we may be late ourselves', async () => {
  const { setTimeout } = globalThis
  let over = (): void => {}
  const timer = (call: () => void, time: number) => {
    if (time === LONG) over = call
    return setTimeout(call, time)
  }
  Object.assign(globalThis, { setTimeout: timer })
  try {
    await daemon(asks(NOBODYS), (socket) => {
      socket.write(Buffer.concat([LAST, u64(0)]))
      setTimeout(over, 1)
      // so that it is over before the loop comes to reading
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20)
    })
    assert.equal(await greetBox(SOCKET, LONG), { version: 0x0120, nix: '' })
  } finally {
    Object.assign(globalThis, { setTimeout })
  }
})

test('a daemon that shakes hands and answers no question is slow; one that answers an error, or hangs up, is broken', async () => {
  const greeted = async (limit: number, deadline = LONG): Promise<string> =>
    await greetBox(SOCKET, deadline, limit).then(
      () => 'usable',
      (error) => `${error.kind}: ${error.message}`,
    )
  await daemon(asks(NOBODYS), Buffer.alloc(0))
  const started = performance.now()
  assert.match(await greeted(300), /^slow: .*shakes hands, but has answered nothing within 0\.3 s: .*waking up, or its \/nix is read-only$/)
  assert.ok(performance.now() - started < LONG / 2, 'not the deadline of the handshake')
  server?.close()
  rmSync(SOCKET, { force: true })
  await daemon(asks(NOBODYS), (socket) => setTimeout(() => socket.write(Buffer.concat([LAST, u64(0)])), 2300))
  assert.is(await greeted(LONG, 2000), 'usable', 'a first answer may be late')
  server?.close()
  rmSync(SOCKET, { force: true })
  await daemon(asks(NOBODYS), errorAnswer('opening lock file: Read-only file system'))
  assert.match(await greeted(LONG), /^broken: .*says to a question: opening lock file: Read-only file system$/)
  server?.close()
  rmSync(SOCKET, { force: true })
  await daemon(asks(NOBODYS), (socket) => socket.end())
  assert.match(await greeted(LONG), /^broken: .*hangs up at a question; on the box, journalctl -u nix-daemon says why$/)
})

test('a box that takes its time for each of many answers is not given up', async () => {
  const paths = Array.from({ length: 10 }, (_, n) => `${A}${n}`)
  let answering: NodeJS.Timeout | undefined
  await daemon(Buffer.concat(paths.map(asks)), (socket) => {
    answering = setInterval(() => socket.write(info(120, 0, ['k:sig'], '')), 500)
  })
  const infos = await infosOnBox(SOCKET, paths, { deadline: LONG, patience: 4000 }).finally(() => clearInterval(answering))
  assert.is(infos.size, 10)
})

test('no question, no connection', async () => {
  assert.equal([...(await validOnBox(SOCKET, [], LIMITS)), ...(await infosOnBox(SOCKET, [], LIMITS))], [])
})

test('an error of the box, a lost and an unresponsive one, and no tunnel: each is a NixError that says what happened', async () => {
  const refusal = async (patience = LONG): Promise<string> => {
    const error = await infosOnBox(SOCKET, [A], { deadline: LONG, patience }).then(
      () => undefined,
      (reason) => reason,
    )
    assert.instance(error, NixError)
    return error.message
  }
  assert.match(await refusal(), /box\.sock does not exist/)
  await daemon(asks(A), errorAnswer('the database is locked'))
  assert.is(await refusal(), 'the box says: the database is locked')
  server?.close()
  await daemon(asks(A), LAST)
  assert.is(await refusal(300), 'the box has not answered within 0.3 s')
  server?.close()
  await daemon(asks(A), (socket) => socket.destroy())
  assert.match(await refusal(), /^the box was lost: /)
})

test.run()
