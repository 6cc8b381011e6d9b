// The relay in the head of nix-lan-connect, and brokers that die one after another.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { string, u64 } from '../../scripts/protocol/wire.ts'
import { needs } from '../lib/needs.ts'
import { hello } from '../lib/wire.ts'

const test = needs(suite('relay'), 'root')
const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-relay-'))
const FOLDER = join(TMP, 'nix-lan')
mkdirSync(FOLDER)
writeFileSync(join(FOLDER, 'box.up'), '')
let server: Server
test.after.each(async () => {
  await new Promise((done) => server.close(done))
})
test.after(() => rmSync(TMP, { recursive: true }))

const QUESTION = Buffer.concat([u64(26), string('/nix/store/00000000000000000000000000000000-x')])

/**
 * Listens where the broker does, and does with the nth connection, from 1, what `act` says. Returns
 * how many there were.
 */
async function brokers(act: (socket: Socket, n: number) => void): Promise<() => number> {
  let n = 0
  server = createServer((socket) => {
    socket.on('error', () => {})
    act(socket, ++n)
  })
  await new Promise<void>((done) => server.listen(join(FOLDER, 'box.sock'), done))
  return () => n
}

/** Starts the head, says hello and asks; with a /run of its own. */
function asks(): { child: ChildProcess; ended: Promise<string> } {
  const script = 'mount --bind "$0" /run && exec sh ./nix-lan-connect.sh /run/nix-lan/box.sock --stdio'
  const child = spawn('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', script, TMP], {
    cwd: 'scripts/heads',
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  let said = ''
  child.stdout.on('data', (text) => {
    said += text
  })
  child.stdin.on('error', () => {})
  child.stdin.write(Buffer.concat([hello(), QUESTION]))
  return { child, ended: new Promise((done) => child.on('close', () => done(said))) }
}

test('nine that die on the question, or before they have said hello: the tenth answers', async () => {
  let heard = 0
  const count = await brokers((socket, n) => {
    if (n > 1 && n < 6) return socket.destroy()
    socket.write('hello ')
    let bytes = 0
    socket.on('data', (more) => {
      bytes += more.length
      if (bytes < hello().length + QUESTION.length) return
      if (n < 10) return socket.destroy()
      heard = bytes
      socket.end('answer')
    })
    return undefined
  })
  const { child, ended } = asks()
  child.stdout?.on('data', () => heard > 0 && child.stdin?.end())
  assert.is(await ended, 'hello answer')
  assert.equal([count(), heard], [10, hello().length + QUESTION.length])
})

test('a question on which each of them dies: it gives up', async () => {
  const count = await brokers((socket) => {
    socket.write('hello ')
    socket.on('data', () => socket.destroy())
  })
  const { ended } = asks()
  assert.is(await ended, 'hello ')
  assert.is(count(), 11)
})

test.run()
