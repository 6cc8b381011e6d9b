// nix-lan-connect from outside: what Nix sees on stdin and stdout, what the journal gets, how it
// ends; with boxes that answer, lack, stall, die, and with none. The boxes are sockets of this
// test's. NIX_LAN_TEST_RUNTIME is a directory with the one runtime to test; default: this Node.
import { type ChildProcess, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { ByteReader, EndOfStream } from '../../scripts/protocol/byte-reader.ts'
import { NarEnd } from '../../scripts/protocol/nar-end.ts'
import { notValid, readShape } from '../../scripts/protocol/operations.ts'
import { errorAnswer, Recorder, readMessages, STDERR_LAST, string, u64 } from '../../scripts/protocol/wire.ts'
import { DistantBox } from '../lib/distant-box.ts'
import { HANGS, until } from '../lib/until.ts'
import { hello, nar, SIGNATURE, same } from '../lib/wire.ts'

const test = suite('connect')

const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-connect-'))
const CONNECT = resolve('dist/nix-lan-connect')
const PATH = '/nix/store/00000000000000000000000000000000-x'
const LAST = u64(STDERR_LAST)
const MIB = 2 ** 20

for (const name of ['run', 'lib', 'runtime', 'user', 'user/nix-lan']) mkdirSync(join(TMP, name), { mode: 0o700 })
if (!process.env.NIX_LAN_TEST_RUNTIME) symlinkSync(process.execPath, join(TMP, 'runtime/node'))
const RUNTIME = process.env.NIX_LAN_TEST_RUNTIME ?? join(TMP, 'runtime')

// --- the program ---

interface Started {
  child: ChildProcess
  reader: ByteReader
  stderr(): string
  /** Exit code, or the signal that ended it. */
  ended: Promise<number | string | null>
  send(...bytes: Buffer[]): void
}

const running = new Set<ChildProcess>()

/** Starts connect. As root it gets a /run and a /var/lib of its own, since it takes notes there. */
function start(args: string[], env: Record<string, string> = {}): Started {
  const mounts = 'mount --bind "$1/run" /run && mount --bind "$1/lib" /var/lib && shift && exec "$@"'
  const own = ['--mount', '--propagation', 'private', 'sh', '-c', mounts, 'sh', TMP]
  const [program, ...rest] = [...(process.getuid?.() === 0 ? ['unshare', ...own] : []), CONNECT, ...args]
  const child = spawn(program as string, rest, {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { PATH: `${RUNTIME}:${process.env.PATH}`, HOME: TMP, XDG_RUNTIME_DIR: join(TMP, 'user'), ...env },
  })
  running.add(child)
  let stderr = ''
  child.stderr?.on('data', (text) => {
    stderr += text
  })
  child.stdin?.on('error', () => {})
  const reader = readerOf(child.stdout as unknown as Socket)
  // Not `close`, which waits until stdout has been read.
  const said = new Promise((done) => child.stderr?.on('close', done))
  const ended = new Promise<number | string | null>((done) => {
    child.on('exit', (code, signal) => {
      running.delete(child)
      said.then(() => done(signal ?? code))
    })
  })
  return { child, reader, stderr: () => stderr, ended, send: (...bytes) => void child.stdin?.write(Buffer.concat(bytes)) }
}

function readerOf(stream: Socket): ByteReader {
  const reader: ByteReader = new ByteReader({ resume: () => stream.resume() })
  stream.on('data', (chunk: Buffer) => {
    if (!reader.push(chunk)) stream.pause()
  })
  for (const event of ['end', 'close', 'error']) stream.on(event, () => reader.finish(new EndOfStream('the end')))
  return reader
}

/**
 * Says hello as Nix does, and reads the welcome. Where the deadline isn't said, only a hang exceeds
 * it.
 */
async function greeted(args: string[], env?: Record<string, string>, by = 'nix-lan'): Promise<Started> {
  const started = start([...args, ...(args.includes('--deadline') ? [] : ['--deadline', '60']), '--stdio'], env)
  started.send(hello())
  const from = new Recorder(started.reader)
  assert.is(await from.u64(), 0x6478696f, started.stderr())
  await from.u64()
  assert.is(await from.string(), by)
  assert.is(await from.u64(), STDERR_LAST)
  return started
}

const pathInfo = (path = PATH): Buffer => Buffer.concat([u64(26), string(path)])

/** Asks whether the store has a path. */
async function has({ reader, send }: Started, path = PATH): Promise<boolean> {
  send(pathInfo(path))
  const from = new Recorder(reader)
  const ending = await readMessages(from)
  if (ending.error) {
    same(from.bytes, notValid(path))
    return false
  }
  await readShape(from, 'info')
  return true
}

/**
 * Kills it as Nix does: the process that Nix has started, which is the head, and both pipes are
 * closed.
 */
async function killed({ child, ended }: Started): Promise<number | string | null> {
  child.kill('SIGKILL')
  child.stdin?.destroy()
  child.stdout?.destroy()
  return await orHang(ended)
}

/** The process of the JavaScript, which is the head's child. */
function javascriptOf({ child }: Started): string {
  const [pid = ''] = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').split(' ')
  return pid
}

/** Closes stdin and waits. */
async function closed({ child, ended }: Started): Promise<number | string | null> {
  child.stdin?.end()
  return await ended
}

// --- boxes ---

/** What a box says of a path whose NAR is bigNar(size), from "I have it" on; a start that isn't told asks. */
const promises = new Map<number, Buffer>()
function promise(size: number): Buffer {
  const known = promises.get(size)
  if (known) return known
  const hash = createHash('sha256')
  let length = -LAST.length
  let first = LAST.length
  for (const part of bigNar(size)) {
    hash.update(part.subarray(first))
    length += part.length
    first = 0
  }
  const signed = [u64(1), string(SIGNATURE)]
  const info = Buffer.concat([u64(1), string(''), string(hash.digest('hex')), u64(0), u64(1), u64(length), u64(0), ...signed, string('')])
  promises.set(size, info)
  return info
}

/** What a box does with an operation; `null`: hang up. */
type Behaviour = (number: number, from: Recorder, socket: Socket, reader: ByteReader) => Promise<Buffer | null>

const servers: Server[] = []
let count = 0

/** A box listening on a new socket. */
async function box(
  behaviour: Behaviour,
  version = 0x0122,
  welcome: () => Buffer | Promise<Buffer> = () => LAST,
): Promise<{ socket: string; connections: () => number }> {
  let connections = 0
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    connections++
    serve(socket, behaviour, version, welcome).catch(() => socket.destroy())
  })
  return { socket: await listening(server), connections: () => connections }
}

async function listening(server: Server): Promise<string> {
  const socket = join(TMP, `${count++}.sock`)
  await new Promise<void>((done) => server.listen(socket, done))
  servers.push(server)
  return socket
}

async function serve(socket: Socket, behaviour: Behaviour, version: number, welcome: () => Buffer | Promise<Buffer>): Promise<void> {
  const reader = readerOf(socket)
  socket.on('error', () => {})
  await reader.take(8)
  socket.write(Buffer.concat([u64(0x6478696f), u64(version)]))
  await reader.take(24)
  socket.write(Buffer.concat([string('2.8.0'), await welcome()]))
  for (;;) {
    const from = new Recorder(reader)
    const answer = await behaviour(await from.u64(), from, socket, reader)
    if (!answer) return void socket.destroy()
    socket.write(answer)
  }
}

/** Has every path but those that end in "none"; a NAR is `size` bytes of a file. */
const honest = (size = 8): Behaviour => {
  promise(size) // which takes a while, better not in the middle of a conversation
  return async (number, from, socket, reader) => {
    if (number === 26) return Buffer.concat([LAST, (await from.string()).endsWith('none') ? u64(0) : promise(size)])
    if (number === 38) {
      await from.string()
      for (const part of bigNar(size)) if (!socket.write(part)) await new Promise((done) => socket.once('drain', done))
      return Buffer.alloc(0)
    }
    return await digest(socket, reader)
  }
}

/** The NAR of a file of `size` bytes (a multiple of 8), in parts of at most a MiB. */
function* bigNar(size: number): Generator<Buffer> {
  const whole = nar({ file: Buffer.alloc(8, 0x78) })
  const end = whole.length - 24 // the content, and the closing parenthesis with its length
  yield Buffer.concat([LAST, whole.subarray(0, end - 8), u64(size)])
  const block = Buffer.alloc(MIB, '(contents')
  for (let left = size; left > 0; left -= block.length) yield block.subarray(0, Math.min(left, block.length))
  yield whole.subarray(whole.length - 16)
}

/** Takes everything until the client has no more to say, then answers with its hash. */
async function digest(socket: Socket, reader: ByteReader): Promise<null> {
  const hash = createHash('sha256')
  for (;;) {
    try {
      const chunk = await reader.peek()
      hash.update(chunk)
      reader.consume(chunk.length)
    } catch {
      break
    }
  }
  await new Promise<void>((done) => socket.end(hash.digest(), done))
  return null
}

/** A socket on which nobody listens any more. */
async function stale(): Promise<string> {
  const path = join(TMP, `${count++}.sock`)
  const program = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`
  await new Promise((done) => spawn(process.execPath, ['-e', program]).on('close', done))
  return path
}

/** A socket that accepts and says nothing. */
const unresponsive = (heard = () => {}): Promise<string> =>
  listening(
    createServer((socket) => {
      socket.on('error', () => {})
      heard()
    }),
  )

// --- a box that is there ---

test('what the box has comes, what it lacks is a miss, over one connection', async () => {
  const { socket, connections } = await box(honest())
  const nix = await greeted([socket])
  // two questions: after three slow answers, which a busy machine may give, others are asked ahead
  // on connections of their own
  assert.not(await has(nix, `${PATH}-none`))
  assert.ok(await has(nix))
  assert.is(await closed(nix), 0)
  assert.is(connections(), 1)
  assert.is(nix.stderr(), '')
})

test('a large NAR arrives whole, and the next question after it', async () => {
  const size = 64 * MIB
  const { socket } = await box(honest(size))
  const nix = await greeted([socket])
  nix.send(u64(38), string(PATH))
  const expected = createHash('sha256')
  let length = 0
  for (const part of bigNar(size)) {
    expected.update(part)
    length += part.length
  }
  same(await hashOf(nix.reader, length), expected.digest())
  assert.ok(await has(nix))
  assert.is(await closed(nix), 0)
})

/** The hash of the next `length` bytes. */
async function hashOf(reader: ByteReader, length: number): Promise<Buffer> {
  const hash = createHash('sha256')
  for (let left = length; left > 0; ) {
    const chunk = (await reader.peek()).subarray(0, left)
    hash.update(chunk)
    left -= chunk.length
    reader.consume(chunk.length)
  }
  return hash.digest()
}

test('a Nix that does not read holds the box back: memory stays small', async () => {
  const size = 600 * MIB
  const { socket } = await box(honest(size))
  const nix = await greeted([socket])
  nix.send(u64(38), string(PATH))
  await nix.reader.peek()
  await new Promise((done) => setTimeout(done, 1000)) // time enough to read it all, if it did
  const peak = peakOf(nix)
  assert.ok(peak > 0 && peak < size / 2, `${Math.round(peak / MIB)} MiB at the most`)
  await killed(nix)
})

/** The most memory it has had, in bytes. */
function peakOf(nix: Started): number {
  const status = readFileSync(`/proc/${javascriptOf(nix)}/status`, 'utf8')
  return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) * 1024
}

/** Where connect counts what was fetched through a socket. */
const transfers = (): string => (process.getuid?.() === 0 ? join(TMP, 'lib/nix-lan') : join(TMP, '.local/state/nix-lan'))

/** Fetches a path. */
async function fetched(nix: Started): Promise<void> {
  nix.send(u64(38), string(PATH))
  assert.not((await readMessages(new Recorder(nix.reader))).error)
  const end = new NarEnd()
  while (!end.done) {
    const chunk = await nix.reader.peek()
    nix.reader.consume(end.scan(chunk))
  }
}

/** Fetches a path, and returns once that is counted, with all counts of the socket: paths and bytes. */
async function fetchedOnce(nix: Started, socket: string, paths: number): Promise<string[]> {
  await fetched(nix)
  await until(`${paths} counts`, () => countsOf(socket).length >= paths)
  return countsOf(socket)
}

function countsOf(socket: string): string[] {
  const file = join(transfers(), `fetched.${encodeURIComponent(socket)}.${new Date().toISOString().slice(0, 7)}`)
  const lines = existsSync(file) ? readFileSync(file, 'utf8').split('\n').slice(0, -1) : []
  return lines.map((line) => line.replace(/^\d{10} /, ''))
}

test('each path that Nix has got is counted at once, also when Nix kills connect next; one that broke off is not', async () => {
  const { socket } = await box(honest(800))
  const size = nar({ file: Buffer.alloc(800) }).length
  for (const expected of [[`1 ${size}`], [`1 ${size}`, `1 ${size}`]]) {
    const nix = await greeted([socket])
    assert.equal(await fetchedOnce(nix, socket, expected.length), expected)
    await killed(nix)
  }
  const broken = await box(async (number, from, box) => {
    await from.string()
    if (number === 26) return Buffer.concat([LAST, promise(8)])
    await new Promise<void>((done) => box.write(Buffer.concat([LAST, nar({ file: 'x' }).subarray(0, 50)]), () => done()))
    return null
  })
  const nix = await greeted([broken.socket, '--patience', '0'])
  nix.send(u64(38), string(PATH))
  assert.is(await orHang(nix.ended), 1)
  assert.equal(countsOf(broken.socket), [])
})

test('where others can write, nothing is counted, and all else goes on', async () => {
  const { socket } = await box(honest(8))
  mkdirSync(transfers(), { recursive: true })
  chmodSync(transfers(), 0o777)
  try {
    const nix = await greeted([socket])
    await fetched(nix)
    assert.ok(await has(nix))
    assert.is(await closed(nix), 0)
    assert.equal(countsOf(socket), [])
    assert.is(nix.stderr(), '')
  } finally {
    chmodSync(transfers(), 0o755)
  }
})

test('a box far away: what Nix asks for next is there already, over connections of their own', async () => {
  const far = new DistantBox(3)
  const socket = join(TMP, `${count++}.sock`)
  await far.listen(socket)
  far.knownAsFast(socket)
  const paths = Array.from({ length: 60 }, (_, n) => `/nix/store/${String(n).padStart(32, '0')}-far`)
  for (const path of paths) far.paths.set(path, { nar: nar({ file: path.repeat(500) }) })
  const nix = await greeted([socket])
  for (const path of paths) assert.ok(await has(nix, path))
  for (let n = 100; n < 150; n++) assert.not(await has(nix, `/nix/store/${String(n).padStart(32, '0')}-far`))
  for (const path of paths) {
    nix.send(u64(38), string(path))
    const expected = Buffer.concat([LAST, far.paths.get(path)?.nar ?? LAST])
    same(await nix.reader.take(expected.length), expected)
  }
  assert.is(await closed(nix), 0)
  assert.is(nix.stderr(), '')
  const waited = far.asked.filter(({ connection }) => connection === 0).length
  assert.ok(waited < 60, `${waited} of 170 questions waited for the box`)
  assert.ok(far.connections <= 6, `${far.connections} connections`)
  far.close()
})

test('an upload is piped as it is, and the answer comes after its end', async () => {
  const { socket } = await box(honest())
  const nix = await greeted([socket])
  assert.ok(await has(nix))
  const upload = Buffer.alloc(MIB, 'upload')
  const expected = createHash('sha256')
  nix.send(u64(44))
  for (let i = 0; i < 64; i++) {
    expected.update(upload)
    if (!nix.child.stdin?.write(upload)) await new Promise((done) => nix.child.stdin?.once('drain', done))
  }
  nix.child.stdin?.end()
  same(await nix.reader.take(32), expected.digest())
  assert.is(await nix.ended, 0)
})

// Under Bun 1.4 one in fifteen of this size is: oven-sh/bun#43100.
test('the end of an upload is not lost while connect is held back', async () => {
  const { socket } = await box(honest())
  for (let kib = 470; kib < 750; kib += 7) {
    const nix = await greeted([socket])
    const upload = Buffer.alloc(kib * 1024, 'upload')
    nix.send(u64(44), upload)
    nix.child.stdin?.end()
    const answer = await orHang(nix.reader.take(32))
    assert.is.not(answer, 'it hangs', `${kib} KiB`)
    same(answer as Buffer, createHash('sha256').update(upload).digest())
    assert.is(await nix.ended, 0)
  }
})

test('it ends when Nix does, in the middle of a NAR too', async () => {
  const { socket } = await box(honest(600 * MIB))
  const nix = await greeted([socket])
  nix.send(u64(38), string(PATH))
  await nix.reader.peek()
  nix.child.stdout?.destroy()
  nix.child.stdin?.destroy()
  assert.is(await orHang(nix.ended), 0)
  assert.is(nix.stderr(), '')
})

function orHang<T>(promise: Promise<T>): Promise<T | 'it hangs'> {
  return Promise.race([promise, new Promise<'it hangs'>((done) => setTimeout(done, HANGS, 'it hangs').unref())])
}

// --- a box that isn't ---

test('no socket: an empty store, and not a word', async () => {
  for (const socket of ['none.sock', 'nowhere/none.sock']) {
    const nix = await greeted([join(TMP, socket)])
    assert.not(await has(nix))
    assert.is(await closed(nix), 0)
    assert.is(nix.stderr(), '')
  }
})

test('a stale socket: an empty store, and one line for all starts', async () => {
  const socket = await stale()
  const first = await greeted([socket])
  assert.not(await has(first))
  assert.is(await closed(first), 0)
  assert.is(first.stderr(), `nix-lan-connect: nobody listens on ${socket}: the tunnel has ended; going on without it\n`)
  const second = await greeted([socket])
  assert.not(await has(second))
  await closed(second)
  assert.is(second.stderr(), '')
})

test('a socket that was stale for long is not tried again, a new one at its place is', async () => {
  const socket = await stale()
  await new Promise((done) => setTimeout(done, 2500))
  for (const lines of [2, 1]) {
    const nix = await greeted([socket])
    assert.not(await has(nix))
    await closed(nix)
    assert.is(nix.stderr().split('\n').length, lines)
  }
  // each attempt that fails is a line of the note
  const note = join(TMP, process.getuid?.() === 0 ? 'run/nix-lan' : 'user/nix-lan', `away.${encodeURIComponent(socket)}`)
  assert.is(readFileSync(note, 'utf8').split('\n').length, 2, 'one attempt')
  unlinkSync(socket)
  const { socket: other } = await box(honest())
  renameSync(other, socket)
  const nix = await greeted([socket])
  assert.ok(await has(nix))
  assert.is(await closed(nix), 0)
})

test('an unresponsive socket is waited for once; when it was touched, once more', async () => {
  let connections = 0
  const socket = await unresponsive(() => connections++)
  for (const [touch, waits] of [
    [false, true],
    [false, false],
    [true, true],
  ]) {
    if (touch) utimesSync(socket, new Date(), new Date())
    const before = connections
    const started = performance.now()
    const nix = await greeted([socket, '--deadline', '2'])
    assert.not(await has(nix))
    if (waits) assert.ok(performance.now() - started > 1900, 'it waits')
    assert.is(await closed(nix), 0)
    const line = `nix-lan-connect: ${socket} accepts connections, but no nix-daemon answered within 2 s; going on without it\n`
    assert.equal([nix.stderr(), connections - before], waits ? [line, 1] : ['', 0])
  }
})

test('a daemon that hangs up, or is none, or is too old: an empty store, and a line that says which', async () => {
  const cases: [string, RegExp][] = [
    [await listening(createServer((socket) => void socket.destroy())), /accepted the connection and closed it: .*journalctl -u nix-daemon/],
    [await listening(createServer((socket) => void socket.on('error', () => {}).end('SSH-2.0-OpenSSH\r\n'))), /not as a nix-daemon does/],
    [(await box(honest(), 0x0115)).socket, /too old: it speaks protocol 1\.21/],
  ]
  for (const [socket, line] of cases) {
    const nix = await greeted([socket])
    assert.not(await has(nix))
    assert.is(await closed(nix), 0)
    assert.match(nix.stderr(), line)
    assert.is(nix.stderr().split('\n').length, 2, nix.stderr())
  }
})

test('a daemon that refuses after its hello: away for whatever is asked, and one line in all', async () => {
  const { socket } = await box(honest(), 0x0122, () => errorAnswer('you are not welcome'))
  const lines: string[] = []
  for (const question of [pathInfo(), pathInfo(), u64(7)]) {
    const nix = await greeted([socket])
    nix.send(question)
    const ending = await readMessages(new Recorder(nix.reader))
    assert.ok(ending.error, 'a miss, or for what is no question: that the box is away')
    assert.is(await closed(nix), 0)
    lines.push(nix.stderr())
  }
  assert.equal(lines, [`nix-lan-connect: the nix-daemon on the box refuses: you are not welcome; going on without it\n`, '', ''])
})

test('a box that dies between two questions: the second is a miss', async () => {
  let asked = 0
  const { socket } = await box(async (...args) => (asked++ === 0 ? await honest()(...args) : null))
  const nix = await greeted([socket])
  assert.ok(await has(nix))
  assert.not(await has(nix))
  assert.not(await has(nix))
  assert.is(await closed(nix), 0)
  assert.match(nix.stderr(), /^nix-lan-connect: .*closed.*; going on without it\n$/)
})

/** Takes all that comes. */
async function drain({ reader }: Started): Promise<void> {
  for (;;) reader.consume((await reader.peek()).length)
}

/** Has a path of 3 MiB, and dies in the middle of it. */
const dying: Behaviour = async (number, from, box) => {
  await from.string()
  if (number === 26) return Buffer.concat([LAST, promise(3 * MIB)])
  await new Promise<void>((done) => box.write(Buffer.concat([...bigNar(3 * MIB)].slice(0, 3)), () => done()))
  return null
}

test('a box that dies in the middle of a NAR and is back a while later: Nix gets the whole', async () => {
  const { socket } = await box(dying)
  const nix = await greeted([socket])
  nix.send(u64(38), string(PATH))
  await nix.reader.peek()
  const server = servers.pop()
  server?.close()
  rmSync(socket, { force: true })
  await new Promise((done) => setTimeout(done, 500)) // the socket is missing meanwhile
  const { socket: other } = await box(honest(3 * MIB))
  renameSync(other, socket)
  const expected = Buffer.concat([...bigNar(3 * MIB)])
  same((await orHang(nix.reader.take(expected.length))) as Buffer, expected)
  assert.ok(await has(nix))
  assert.is(await closed(nix), 0)
  assert.match(nix.stderr(), /^nix-lan-connect: the box was lost in the middle of \/nix\/store\/[^\n]+; waiting for it\n$/)
})

test('a box that dies in the middle of a NAR for good: a check is asked for, connect ends and says so, and the next start waits no more', async () => {
  const { socket } = await box(dying)
  const bin = mkdtempSync(join(TMP, 'bin-'))
  writeFileSync(join(bin, 'systemctl'), `#!/bin/sh\necho "$XDG_RUNTIME_DIR $*" >>${bin}/asked\n`, { mode: 0o755 })
  const nix = await greeted([socket, '--patience', '1.5'], { PATH: `${bin}:${RUNTIME}:${process.env.PATH}` })
  nix.send(u64(38), string(PATH))
  await nix.reader.peek()
  drain(nix).catch(() => {})
  servers.pop()?.close()
  rmSync(socket, { force: true })
  assert.is(await orHang(nix.ended), 1)
  const lines =
    /^nix-lan-connect: the box was lost in the middle of [^\n]+; waiting for it\nnix-lan-connect: the box has not come back within 1.5 s[^\n]+\n$/
  assert.match(nix.stderr(), lines)
  const asked = (): string => (existsSync(join(bin, 'asked')) ? readFileSync(join(bin, 'asked'), 'utf8') : '')
  await until('the check', () => asked() !== '') // which nobody waits for
  assert.is(asked(), `${dirname(TMP)} --user --no-block start nix-lan-check.service\n`, 'once in 5 s')
  const next = await greeted([socket, '--patience', '3600'])
  next.send(u64(38), string(PATH))
  assert.is(await orHang(next.ended), 1, 'patience is over for all')
  assert.is(next.stderr(), '')
})

test('a NAR that breaks off at the same byte each time is given up soon: that is not the link', async () => {
  const { socket, connections } = await box(dying)
  const nix = await greeted([socket])
  nix.send(u64(38), string(PATH))
  drain(nix).catch(() => {})
  assert.is(await orHang(nix.ended), 1)
  assert.ok(connections() <= 5, `${connections()} connections`)
})

test('eight at once, as with max-connections, and an unresponsive box: one line for all', async () => {
  const socket = await unresponsive()
  const all = await Promise.all(Array.from({ length: 8 }, () => greeted([socket, '--deadline', '2'])))
  for (const answer of await Promise.all(all.map((nix) => has(nix)))) assert.not(answer)
  for (const nix of all) assert.is(await closed(nix), 0)
  const lines = all.map((nix) => nix.stderr()).join('')
  assert.is(lines.split('\n').length, 2, lines)
})

test('an outage that nobody wants to read about: it answers, and ends', async () => {
  const nix = await greeted([await unresponsive(), '--deadline', '1'])
  nix.child.stderr?.destroy()
  assert.not(await has(nix))
  assert.not(await has(nix))
  assert.is(await orHang(closed(nix)), 0)
})

test('a box that fails at each question: one line, however long its message, and no control characters', async () => {
  const { socket } = await box(async (_number, from) => {
    await from.string()
    return errorAnswer(`\x1b[2Jbusy\r${'x'.repeat(MIB / 2)}`)
  })
  const nix = await greeted([socket])
  nix.send(pathInfo(), pathInfo(`${PATH}y`))
  for (let left = 2; left > 0; left--) assert.ok((await readMessages(new Recorder(nix.reader))).error)
  assert.is(await closed(nix), 0)
  assert.match(nix.stderr(), /^nix-lan-connect: QueryPathInfo [^\n]*the box says: busy x{500,1000}\n$/)
})

test('a box that says nothing in millions of messages: memory stays small', async () => {
  const nothing = Buffer.concat(Array.from({ length: 2 ** 16 }, () => Buffer.concat([u64(0x53544f50), u64(1)])))
  const { socket } = await box(async (number, from, box) => {
    await from.string()
    if (number === 1) return Buffer.concat([LAST, u64(1)])
    for (let sent = 0; sent < 32 * MIB; sent += nothing.length)
      if (!box.write(nothing)) await new Promise((done) => box.once('drain', done))
    return Buffer.concat([LAST, u64(0)])
  })
  const nix = await greeted([socket])
  assert.not(await has(nix))
  const peak = peakOf(nix)
  assert.ok(peak > 0 && peak < 300 * MIB, `${Math.round(peak / MIB)} MiB at the most`)
  assert.is(await closed(nix), 0)
})

// --- how it is called ---

const config = (name: string, text: string): string => {
  const path = join(TMP, `${name}.toml`)
  writeFileSync(path, text)
  chmodSync(path, 0o644)
  return path
}

test('no configuration, a broken one, an unknown cache, strange options: an empty store and one line', async () => {
  const broken = config('broken', '[cache.rpi]\nhots = "x"\n')
  for (const [args, env] of [
    [[], {}],
    [[], { NIX_LAN_CONFIG: broken }],
    [['nothere'], { NIX_LAN_CONFIG: broken }],
    [['--deadline', 'soon', '/x/y.sock'], {}],
  ] as [string[], Record<string, string>][]) {
    const nix = await greeted(args, env)
    assert.not(await has(nix))
    assert.is(await closed(nix), 0)
    assert.match(nix.stderr(), /^nix-lan-connect: [^\n]+\n$/)
  }
  const nix = await greeted(['--an-option-of-tomorrow', join(TMP, 'none.sock')])
  assert.not(await has(nix))
  assert.is(await closed(nix), 0)
})

test('strictly: a Nix that asks late is answered, though the welcome came late too', async () => {
  const { socket } = await box(honest(), 0x0122, async () => {
    await new Promise((done) => setTimeout(done, 50))
    return LAST
  })
  const nix = await greeted(['--strict', socket, '--deadline', '3'], {}, '2.8.0')
  await new Promise((done) => setTimeout(done, 3500))
  assert.ok(await has(nix))
  assert.is(await closed(nix), 0)
  assert.is(nix.stderr(), '')
})

test('strictly: 75 when the box is away, 2 when the configuration is wrong, 1 when the box is too old', async () => {
  const cases: [string[], number, RegExp][] = [
    [[join(TMP, 'none.sock')], 75, /does not exist: no tunnel/],
    [[await stale()], 75, /nobody listens/],
    [[await unresponsive(), '--deadline', '0.3'], 75, /no nix-daemon answered within 0.3 s/],
    [[], 2, /\.toml/],
    [['--deadline', 'soon', '/x/y.sock'], 2, /--deadline soon/],
    [[(await box(honest(), 0x0115)).socket, '--deadline', '60'], 1, /too old/],
  ]
  for (const [args, code, line] of cases) {
    const nix = start(['--strict', ...args, '--stdio'], { NIX_LAN_CONFIG: '/nowhere/config.toml' })
    assert.is(await orHang(nix.ended), code, args.join(' '))
    assert.match(nix.stderr(), line)
    assert.is(nix.stderr().split('\n').length, 2, nix.stderr())
  }
})

test('Nix kills the head, the one process that it knows: the JavaScript ends, too, while it waits for a box', async () => {
  const nix = await greeted([await unresponsive(), '--deadline', '60'])
  nix.send(pathInfo())
  await new Promise((done) => setTimeout(done, 200))
  assert.is(await killed(nix), 'SIGKILL') // its stderr is closed, so nobody has it any more
})

test('something that is not Nix is told so', async () => {
  const other = start(['--stdio', join(TMP, 'none.sock')])
  other.send(Buffer.from('GET / HTTP/1.1\r\n\r\n'))
  assert.is(await orHang(other.ended), 1)
  assert.match(other.stderr(), /this is not Nix/)
})

test('--help shows the line for nix.conf', async () => {
  const help = start(['--help'])
  assert.match((await help.reader.peek()).toString(), /extra-substituters = ssh-ng:\/\/localhost\?remote-program=/)
  assert.is(await help.ended, 0)
})

if (process.getuid?.() === 0) {
  test('as root it becomes the owner of the socket’s directory, and still counts in root’s file', async () => {
    const { socket } = await box(honest(8))
    const folder = join(TMP, 'others')
    mkdirSync(folder, { mode: 0o755 })
    symlinkSync(socket, join(folder, 'link.sock'))
    chmodSync(TMP, 0o711)
    const { chownSync } = await import('node:fs')
    chownSync(folder, 65534, 65534)
    chmodSync(socket, 0o777)
    const nix = await greeted([join(folder, 'link.sock')])
    assert.ok(await has(nix))
    const uids = /Uid:\s+(\d+)\s+(\d+)\s+(\d+)/.exec(readFileSync(`/proc/${javascriptOf(nix)}/status`, 'utf8'))?.slice(1)
    assert.equal(uids, ['65534', '65534', '65534'])
    const link = join(folder, 'link.sock')
    assert.equal(await fetchedOnce(nix, link, 1), ['1 120'])
    assert.is(await closed(nix), 0)
    const [file = ''] = readdirSync(transfers()).filter((name) => name.startsWith(`fetched.${encodeURIComponent(link)}`))
    const { uid, mode } = statSync(join(transfers(), file))
    assert.equal([uid, mode & 0o777], [0, 0o644])
  })

  // Debian 13's Node
  test('as root that can’t become another: the owner’s own socket, and no other that a link leads to', async () => {
    const { chownSync } = await import('node:fs')
    const { socket } = await box(honest(8))
    const folder = join(TMP, 'theirs')
    mkdirSync(folder, { mode: 0o755 })
    renameSync(socket, join(folder, 'own.sock'))
    const { socket: roots } = await box(honest(8))
    symlinkSync(roots, join(folder, 'link.sock'))
    linkSync(roots, join(folder, 'hard.sock'))
    for (const path of [folder, join(folder, 'own.sock')]) chownSync(path, 65534, 65534)
    const runtime = join(TMP, 'stubborn')
    mkdirSync(runtime)
    writeFileSync(join(runtime, 'refuse.cjs'), "process.setgroups = () => { throw new Error('io_uring may be enabled') }\n")
    const node = `#!/bin/sh\nexec ${process.execPath} --require ${runtime}/refuse.cjs "$@"\n`
    writeFileSync(join(runtime, 'node'), node, { mode: 0o755 })
    const env = { PATH: `${runtime}:${process.env.PATH}` }
    const own = await greeted([join(folder, 'own.sock')], env)
    assert.ok(await has(own))
    assert.is(await closed(own), 0)
    assert.is(own.stderr(), '')
    for (const name of ['link.sock', 'hard.sock']) {
      const other = await greeted([join(folder, name)], env)
      assert.not.ok(await has(other), name)
      assert.is(await closed(other), 0)
      assert.match(other.stderr(), /is not a socket of the user's whose directory it is in; going on without it\n$/)
    }
  })
}

test.after(() => {
  for (const child of running) child.kill('SIGKILL')
  for (const server of servers) server.close()
  rmSync(TMP, { recursive: true, force: true })
})

test.run()
