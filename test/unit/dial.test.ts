// The deadline of a handshake, and a link that is full with what the box sends us otherwise.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { type Box, BoxUnavailable } from '../../scripts/protocol/box.ts'
import { dialBox } from '../../scripts/protocol/dial.ts'

const DEADLINE = 2000
/**
 * A box in a process of its own, so that it goes on when we are held up. It greets its first
 * connection at once, as a nix-daemon of protocol 1.35 does (Nix 2.14, src/libstore/daemon.cc,
 * processConnection), and sends it so many bytes every 100 ms from then on; the second one is greeted
 * after more than two deadlines.
 */
const BOX = `
const [path, bytes] = process.argv.slice(1)
const u64 = (value) => Buffer.from(new BigUint64Array([BigInt(value)]).buffer)
const greeting = Buffer.concat([u64(0x6478696f), u64(0x0123), u64(6), Buffer.from('2.14.0\\0\\0'), u64(2), u64(0x616c7473)])
let connections = 0
require('net').createServer((socket) => {
  socket.on('error', () => {}).resume()
  if (connections++ > 0) return setTimeout(() => socket.write(greeting), ${DEADLINE * 2.5})
  socket.write(greeting)
  setInterval(() => socket.write(Buffer.alloc(Number(bytes))), 100)
}).listen(path, () => console.log('listens'))
`

const test = suite('handshake')
const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-dial-'))
process.on('exit', () => rmSync(TMP, { recursive: true }))

/** Dials a box twice, with what it sends on the first connection. @returns the second, or why not */
async function second(name: string, bytes: number): Promise<Box | Error> {
  const path = join(TMP, name)
  const server: ChildProcess = spawn(process.execPath, ['-e', BOX, path, String(bytes)], { stdio: ['ignore', 'pipe', 'inherit'] })
  const opened: Box[] = []
  try {
    await new Promise((resolve) => server.stdout?.once('data', resolve))
    const busy = await dialBox(path, 10 * DEADLINE)
    opened.push(busy)
    await busy.handshake
    void taken(busy)
    const box = await dialBox(path, DEADLINE, path, () => busy.socket.bytesRead)
    opened.push(box)
    await box.handshake
    return box
  } catch (error) {
    return error as Error
  } finally {
    for (const { socket } of opened) socket.destroy()
    server.kill('SIGKILL')
  }
}

/** Takes whatever comes. */
async function taken({ reader }: Box): Promise<void> {
  try {
    for (;;) reader.consume((await reader.peek()).length)
  } catch {
    // the end
  }
}

test('begins anew while a box sends much on another connection: it is the link that is full', async () => {
  const box = await second('busy', 65_536)
  assert.not.instance(box, Error, String(box))
  assert.is((box as Box).nix, '2.14.0')
})

test('holds for a box that sends next to nothing', async () => {
  const why = await second('drips', 8)
  assert.instance(why, BoxUnavailable, String(why))
  assert.is((why as BoxUnavailable).kind, 'unresponsive')
})

test.run()
