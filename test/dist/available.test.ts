// The contract of dist/nix-lan-available: exit code, the line or JSON for each cache, and never
// longer than the deadline. The name service is a fake getent in PATH; what listens is on loopback,
// and a black hole is a listener whose queue is full. NIX_LAN_TEST_RUNTIME: see launcher.test.ts.
import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer as createHttp } from 'node:http'
import { type AddressInfo, createConnection, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { string, u64 } from '../../scripts/protocol/wire.ts'
import { AS_USER, foldersIn, give, runtimeIn } from '../lib/as-user.ts'
import { changed } from '../lib/changed.ts'
import { needs } from '../lib/needs.ts'

const PROGRAM = resolve('dist/nix-lan-available')
const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-available-'))
chmodSync(TMP, 0o755)
const folder = foldersIn(TMP)
const RUNTIME = runtimeIn(folder)
/**
 * What a start may take, beside the deadline, on a machine that is busy with other tests; less than
 * what the fakes that hang take.
 */
const SLACK = 20_000

interface Said {
  code: number | null
  stdout: string
  stderr: string
  ms: number
}

/** A getent that prints lines, after some seconds, with an exit code. */
interface Names {
  lines?: string[]
  after?: number
  code?: number
}

let runs = 0

/** Runs nix-lan-available with a configuration and a name service. */
async function ask(toml: string, args: string[], names: Names = {}, launcher: string[] = [], program = PROGRAM): Promise<Said> {
  runs += 1
  const bin = folder(`bin${runs}`)
  const lines = [...(names.after ? [`sleep ${names.after}`] : []), ...(names.lines ?? []).map((line) => `echo '${line}'`)]
  const code = names.code ?? (names.lines ? 0 : 2)
  writeFileSync(
    join(bin, 'getent'),
    ['#!/bin/sh', `[ "$1" = ahosts ] || exec /usr/bin/getent "$@"`, ...lines, `exit ${code}`, ''].join('\n'),
  )
  chmodSync(join(bin, 'getent'), 0o755)
  const config = join(TMP, `config${runs}.toml`)
  writeFileSync(config, toml)
  give(config)
  const env = { PATH: `${bin}:${RUNTIME}:/usr/bin:/bin`, HOME: TMP, NIX_LAN_CONFIG: config, XDG_RUNTIME_DIR: RUN }
  return await say([...launcher, ...AS_USER, program, ...args], env)
}

function say(argv: string[], env: Record<string, string>): Promise<Said> {
  const started = Date.now()
  const [program = '', ...args] = argv
  const child = spawn(program, args, { env, cwd: '/', stdio: ['ignore', 'pipe', 'pipe'] })
  const said: Said = { code: null, stdout: '', stderr: '', ms: 0 }
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    said.stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said.stderr += text
  })
  return new Promise((done) => child.on('close', (code) => done({ ...said, code, ms: Date.now() - started })))
}

/** A box whose deadline nothing here exceeds, but what hangs. */
const box = (host: string, port: number, deadline = '60s', name = 'rpi'): string =>
  `[cache.${name}]\nhost = "${host}"\nport = ${port}\ndeadline = "${deadline}"\n`

/**
 * Asks with longer and longer deadlines, in seconds, until what has to come first has come in time: on
 * a busy machine the first deadline may be over before a name is resolved, or hands are shaken.
 * @param early what is said when it has not
 */
async function askedInTime(early: RegExp, ask: (seconds: number) => Promise<Said>): Promise<Said & { seconds: number }> {
  for (let seconds = 2; ; seconds *= 2) {
    const said = await ask(seconds)
    assert.ok(said.ms < 1000 * seconds + SLACK, `${said.ms} ms`)
    if (seconds > 30 || !early.test(said.stdout)) return { ...said, seconds }
  }
}

const masked = (text: string): string => text.replace(/\b\d+ ms/g, 'N ms')

const RUN = folder('run', true)
const MEMORY = folder('run/nix-lan', true)
const servers: Server[] = []
const children: ChildProcess[] = []

/** A server on loopback, or at a socket in the user's runtime directory. */
async function listen(onConnection: (socket: Socket) => void, where: string | number = 0, host = '127.0.0.1'): Promise<number> {
  const server = createServer(onConnection)
  servers.push(server)
  await new Promise<void>((done) => (typeof where === 'string' ? server.listen(where, done) : server.listen(where, host, done)))
  if (typeof where === 'string') chmodSync(where, 0o777)
  return typeof where === 'string' ? 0 : (server.address() as AddressInfo).port
}

/**
 * A port of 127.0.0.1 at which nobody ever accepts: packets to it are dropped, as from a machine
 * that is switched off.
 */
async function blackHole(): Promise<number> {
  const text = `const s = require('net').createServer().listen({ port: 0, host: '127.0.0.1', backlog: 1 }, () => {
    require('fs').writeSync(1, s.address().port + '\\n'); Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0) })`
  const child = spawn(process.execPath, ['-e', text], { stdio: ['ignore', 'pipe', 'inherit'] })
  children.push(child)
  const port = Number(await new Promise((done) => child.stdout.once('data', done)))
  for (let i = 0; i < 4; i++) createConnection(port, '127.0.0.1').on('error', () => {})
  await new Promise((done) => setTimeout(done, 200))
  return port
}

/** A port at which 127.0.0.1 accepts, and which nobody else can get: the rest of 127.0.0.0/8 refuses. */
let open = 0
let hole = 0

const test = suite('nix-lan-available')

test.before(async () => {
  open = await listen((socket) => socket.on('error', () => {}).resume())
  hole = await blackHole()
})
test.before.each(() => rmSync(join(MEMORY, 'rpi.address'), { force: true }))
process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL')
  rmSync(TMP, { recursive: true, force: true })
})

test('a literal address needs no name service', async () => {
  const { code, stdout, stderr } = await ask(box('127.0.0.1', open), [], { after: 30 })
  assert.equal([code, masked(stdout), stderr], [0, `rpi: reachable at 127.0.0.1 port ${open}, N ms\n`, ''])
})

test('of several addresses the first that accepts; what refuses or is garbage does not matter', async () => {
  const lines = ['nonsense', '127.0.0.2 STREAM pi.local', '127.0.0.2 DGRAM', '::1 STREAM', '127.0.0.1 STREAM']
  const { code, stdout } = await ask(box('pi.local', open), [], { lines })
  assert.equal([code, masked(stdout)], [0, `rpi: reachable at 127.0.0.1 port ${open}, N ms\n`])
})

test('IPv6', async () => {
  const port = await listen((socket) => socket.resume(), 0, '::1')
  const { code, stdout } = await ask(box('pi.local', port), [], { lines: ['::1 STREAM', '127.0.0.1 STREAM'] })
  assert.equal([code, masked(stdout)], [0, `rpi: reachable at ::1 port ${port}, N ms\n`])
})

test('a link-local address without its scope does not decide', async () => {
  const { code, stdout } = await ask(box('pi.local', open), [], { lines: ['fe80::1 STREAM', '127.0.0.1 STREAM'] })
  assert.equal([code, masked(stdout)], [0, `rpi: reachable at 127.0.0.1 port ${open}, N ms\n`])
})

const AWAY: [string, () => string, Names, RegExp][] = [
  ['refused', () => box('127.0.0.2', open), {}, /^rpi: away: 127\.0\.0\.2 port \d+: connection refused\n$/],
  ['no address', () => box('pi.local', open), {}, /^rpi: away: pi\.local has no address\n$/],
  ['garbage only', () => box('pi.local', open), { lines: ['hello there'] }, /^rpi: away: pi\.local has no address\n$/],
  ['a black hole', () => box('127.0.0.1', hole, '700ms'), {}, /^rpi: away: 127\.0\.0\.1 port \d+: no answer within 0\.7 s\n$/],
  ['a silent DNS server', () => box('pi.local', open, '700ms'), { after: 30 }, /^rpi: away: pi\.local was not resolved within 0\.7 s\n$/],
]
for (const [name, toml, names, expected] of AWAY) {
  test(`away: ${name}`, async () => {
    const { code, stdout, stderr, ms } = await ask(toml(), [], names)
    assert.match(stdout, expected)
    assert.equal([code, stderr], [1, ''])
    assert.ok(ms < SLACK, `${ms} ms`)
  })
}

test('away: one refuses, one is a black hole', async () => {
  const { code, stdout, stderr, seconds } = await askedInTime(/not resolved|127\.0\.0\.2 port \d+: no answer/, (limit) =>
    ask(box('pi.local', hole, `${limit}s`), [], { lines: ['127.0.0.2 STREAM', '127.0.0.1 STREAM'] }),
  )
  const reasons = `127.0.0.2 port ${hole}: connection refused; 127.0.0.1 port ${hole}: no answer within ${seconds} s`
  assert.equal([code, stdout, stderr], [1, `rpi: away: ${reasons}\n`, ''])
})

test('the address of last time is remembered, and does without a name service', async () => {
  const toml = box('pi.local', open)
  assert.is((await ask(toml, [], { lines: ['127.0.0.1 STREAM'] })).code, 0)
  assert.is(readFileSync(join(MEMORY, 'rpi.address'), 'utf8'), 'pi.local 127.0.0.1\n')
  const { code, stdout } = await ask(toml, [], { after: 30 })
  assert.equal([code, masked(stdout)], [0, `rpi: reachable at 127.0.0.1 port ${open}, N ms\n`])
  // no answer at all: the name service is out of order
  assert.is((await ask(toml, [], {})).code, 0)
  // of another host it is not the address
  assert.is((await ask(box('other.local', open, '500ms'), [], { after: 30 })).code, 1)
})

test('an address of last time that the name no longer has is given up, though somebody accepts there', async () => {
  // The name service has a quarter of a second to say so, which a busy machine may not give it.
  const patient = changed(PROGRAM, folder('patient'), [/^var CONFIRMATION = 250;$/m, 'var CONFIRMATION = 6e4;'])
  writeFileSync(join(MEMORY, 'rpi.address'), 'pi.local 127.0.0.1\n')
  const { code, stdout } = await ask(box('pi.local', open), [], { lines: ['127.0.0.2 STREAM'] }, [], patient)
  assert.equal([code, stdout], [1, `rpi: away: 127.0.0.2 port ${open}: connection refused\n`])
})

test('nothing is remembered in a directory that others can write', async () => {
  chmodSync(MEMORY, 0o777)
  try {
    await ask(box('pi.local', open), [], { lines: ['127.0.0.1 STREAM'] })
    assert.throws(() => readFileSync(join(MEMORY, 'rpi.address')), /ENOENT/)
  } finally {
    chmodSync(MEMORY, 0o700)
  }
})

test('several caches: asked at once, all must be there; JSON and quiet', async () => {
  const toml = box('127.0.0.1', open) + box('127.0.0.1', hole, '700ms', 'b') + box('127.0.0.1', hole, '700ms', 'c')
  const all = await ask(toml, ['--json'])
  assert.is(all.code, 1)
  const [first, second] = JSON.parse(all.stdout)
  assert.equal({ ...first, ms: 0 }, { cache: 'rpi', state: 'reachable', ms: 0, address: '127.0.0.1', port: open })
  assert.equal({ ...second, ms: 0 }, { cache: 'b', state: 'away', ms: 0, reason: `127.0.0.1 port ${hole}: no answer within 0.7 s` })
  assert.ok(all.ms < SLACK, `${all.ms} ms`)
  const quiet = await ask(toml, ['--quiet', 'rpi'])
  assert.equal([quiet.code, quiet.stdout, quiet.stderr], [0, '', ''])
})

test('--wait: until a box that boots is there', async () => {
  const asked = ask(box('127.0.0.3', open), ['--wait', '60'])
  await new Promise((done) => setTimeout(done, 800))
  await listen((socket) => socket.resume(), open, '127.0.0.3')
  const { code, stdout } = await asked
  servers.pop()?.close()
  assert.equal([code, masked(stdout)], [0, `rpi: reachable at 127.0.0.3 port ${open}, N ms\n`])
})

test('--wait is the limit for everything', async () => {
  const { code, ms } = await ask(box('127.0.0.1', hole, '60s'), ['--wait', '0.5'])
  assert.is(code, 1)
  assert.ok(ms < SLACK, `${ms} ms`)
})

const USAGE: [string[], RegExp][] = [
  [['--wait', 'soon'], /^nix-lan-available: --wait soon: must be a number of seconds/],
  [['--wait', '0'], /must be a number of seconds/],
  [['--quiet', '--json'], /exclude each other/],
  [['--usabel'], /did you mean --usable\?/],
  [['nas'], /no cache is called "nas"/],
]
for (const [args, expected] of USAGE) {
  test(`usage: ${args.join(' ')}`, async () => {
    const { code, stdout, stderr } = await ask(box('127.0.0.1', open), args)
    assert.equal([code, stdout], [2, ''])
    assert.match(stderr, expected)
  })
}

test('usable: no tunnel, a stale one, an unresponsive one, one that resets, one that works', async () => {
  const socket = join(MEMORY, 'rpi.sock')
  const usable = async (deadline = '60s'): Promise<Said> => await ask(box('127.0.0.1', hole, deadline), ['--usable'])
  const missing = await usable()
  assert.equal([missing.code, missing.stdout], [1, `rpi: away: ${socket} does not exist: no tunnel; nix-lan-tunnel makes one\n`])
  // a listener that was killed leaves its socket
  const killed = spawn(process.execPath, [
    '-e',
    `require('net').createServer().listen('${socket}', () => process.kill(process.pid, 'SIGKILL'))`,
  ])
  await new Promise((done) => killed.on('exit', done))
  chmodSync(socket, 0o777)
  const stale = await usable()
  assert.equal([stale.code, stale.stdout], [1, `rpi: away: nobody listens on ${socket}: the tunnel has ended\n`])
  for (const [onConnection, expected] of [
    [(one: Socket) => one.on('error', () => {}), /accepts connections, but no nix-daemon answered within 0\.7 s/],
    [(one: Socket) => one.on('error', () => {}).destroy(), /^rpi: away: /],
  ] as [(socket: Socket) => void, RegExp][]) {
    rmSync(socket, { force: true })
    await listen(onConnection, socket)
    const { code, stdout, ms } = await usable('700ms')
    servers.pop()?.close()
    assert.match(stdout, expected)
    assert.is(code, 1)
    assert.ok(ms < SLACK, `${ms} ms`)
  }
  rmSync(socket, { force: true })
  // a whole greeting of protocol 1.34: magic, version, then the version of Nix and the end of the
  // messages; and the answer that a path isn't there
  for (const answer of [Buffer.concat([u64(0x616c7473), u64(0)]), Buffer.alloc(0)]) {
    rmSync(socket, { force: true })
    await listen((one) => {
      one.on('error', () => {}).write(Buffer.concat([u64(0x6478696f), u64(0x122)]))
      let got = 0
      one.on('data', (bytes) => {
        const before = got
        got += bytes.length
        if (before === 0) one.write(Buffer.concat([string('2.8.0'), u64(0x616c7473)]))
        if (before <= 32 && got > 32) one.write(answer)
      })
    }, socket)
    if (answer.length > 0) {
      const { code, stdout } = await usable()
      assert.equal([code, masked(stdout)], [0, `rpi: usable at ${socket}, N ms (Nix 2.8.0)\n`])
    } else {
      const { code, stdout, seconds } = await askedInTime(/no nix-daemon answered/, (limit) => usable(`${limit}s`))
      assert.match(stdout, `rpi: slow: its nix-daemon shakes hands, but has answered nothing within ${seconds} s`)
      assert.is(code, 1)
    }
    servers.pop()?.close()
  }
})

test('url caches: what nix-cache-info answers', async () => {
  const answers: Record<string, [number, string]> = {
    '/nix-cache-info': [200, 'StoreDir: /nix/store\nWantMassQuery: 1\n'],
    '/portal/nix-cache-info': [200, '<html>Welcome to the hotel</html>'],
    '/gone/nix-cache-info': [404, ''],
  }
  const http = createHttp(({ url = '', headers }, response) => {
    const [status, text] = answers[url] ?? [500, '']
    if (url === '/unresponsive/nix-cache-info') return
    const phrase = status === 404 ? 'Not\u009b2JFound' : undefined // U+009B begins what ESC [ does
    response.writeHead(headers.host?.startsWith('nas.local:') ? status : 400, phrase).end(text)
  })
  servers.push(http)
  await new Promise<void>((done) => http.listen(0, '127.0.0.1', done))
  const base = `http://nas.local:${(http.address() as AddressInfo).port}`
  const names = { lines: ['127.0.0.1 STREAM'] }
  const caches = { a: base, b: `${base}/portal`, c: `${base}/gone/`, d: `${base}/unresponsive`, e: `file://${TMP}` }
  const toml = (limit: number): string =>
    Object.entries(caches)
      .map(([name, url]) => `[cache.${name}]\nurl = "${url}"\ndeadline = "${name === 'd' ? limit : 60}s"\n`)
      .join('')
  const { code, stdout, seconds } = await askedInTime(/^d: away: (?!http)/m, (limit) => ask(toml(limit), ['--usable'], names))
  const port = base.split(':').at(-1)
  const expected = [
    `a: usable at 127.0.0.1 port ${port}, N ms`,
    `b: away: ${base}/portal/nix-cache-info answers, but not as a Nix cache does (no StoreDir)`,
    `c: away: ${base}/gone/nix-cache-info answers 404 Not?2JFound`,
    `d: away: ${base}/unresponsive/nix-cache-info: no answer within ${seconds} s`,
    `e: away: ${TMP}/nix-cache-info is not there`,
  ]
  assert.equal([code, masked(stdout)], [1, `${expected.join('\n')}\n`])
  const json = await ask(toml(2), ['--usable', '--json', 'c'], names)
  assert.not.ok(json.stdout.includes('\u009b'), 'for a terminal, too')
  assert.match(JSON.parse(json.stdout)[0].reason, 'Not\u009b2JFound')
  writeFileSync(join(TMP, 'nix-cache-info'), 'StoreDir: /nix/store\n')
  const there = await ask(toml(2), ['-u', 'e', 'a'], names)
  assert.equal([there.code, masked(there.stdout)], [0, `e: usable at ${TMP}, N ms\na: usable at 127.0.0.1 port ${port}, N ms\n`])
})

test.run()

const linked = needs(suite('nix-lan-available, on a link of its own'), 'root', 'unshare', 'ip')

linked('a link-local address is tried with each interface that could lead there', async () => {
  const server = `require('net').createServer().listen(2200, 'fe80::1%lo', () => require('fs').writeSync(1, 'up\\n'))`
  const script = `ip link set lo up && ip -6 addr add fe80::1/64 dev lo nodad && ip -6 addr add fe80::2/64 dev lo nodad || exit 99
    '${process.execPath}' -e "${server}" >'${TMP}/up' & server=$!
    while ! [ -s '${TMP}/up' ]; do sleep 0.05; done
    "$@"; code=$?; kill $server; exit $code`
  const launcher = ['unshare', '--net', 'sh', '-c', script, 'sh']
  const toml = box('pi.local', 2200)
  // 192.0.2.1 (RFC 5737) has no route in there
  const there = await ask(toml, [], { lines: ['fe80::1 STREAM', '192.0.2.1 STREAM'] }, launcher)
  rmSync(join(TMP, 'up'))
  rmSync(join(MEMORY, 'rpi.address'), { force: true })
  const away = await ask(toml, [], { lines: ['fe80::2 STREAM'] }, launcher)
  if (existsSync(join(RUNTIME, 'deno'))) {
    const reasons = "fe80::1%lo port 2200: Deno can't use link-local addresses; 192.0.2.1 port 2200: no network that leads there"
    assert.equal([there.stdout, there.code], [`rpi: away: ${reasons}\n`, 1])
    return
  }
  assert.equal([there.stderr, masked(there.stdout), there.code], ['', 'rpi: reachable at fe80::1%lo port 2200, N ms\n', 0])
  const reason = 'pi.local has only the link-local address fe80::2, and nobody answers there by lo'
  assert.equal([away.stdout, away.code], [`rpi: away: ${reason}\n`, 1])
})

linked.run()
