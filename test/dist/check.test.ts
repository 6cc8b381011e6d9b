// The contract of `nix-lan check`: what it asks of systemd for each box, what it says and when it
// says nothing, exit code, and never longer than the deadline. systemctl is a sh script that
// answers from files; boxes are listeners on loopback. NIX_LAN_TEST_RUNTIME: see launcher.test.ts.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import {
  chmodSync,
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { type AddressInfo, createConnection, createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { uptime } from '../../scripts/tunnel/state.ts'
import { AS_USER, foldersIn, give, runtimeIn } from '../lib/as-user.ts'
import { needs } from '../lib/needs.ts'

const PROGRAM = resolve('dist/nix-lan')
const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-check-'))
chmodSync(TMP, 0o755)
const folder = foldersIn(TMP)
const RUNTIME = runtimeIn(folder)
/**
 * What a start may take, beside the deadline, on a machine that is busy with other tests; less than
 * what the fakes that hang take.
 */
const SLACK = 20_000

function file(path: string, text: string): string {
  writeFileSync(path, text)
  give(path)
  return path
}

/**
 * What the fake systemctl knows: `rpi.target`, `rpi.tunnel` (their properties), `refuse`, `hang`,
 * `other` (runs at each show); `log`: its calls.
 */
const WORLD = folder('world', true)
const BIN = folder('bin')
writeFileSync(
  join(BIN, 'systemctl'),
  `#!/bin/sh
W=${WORLD}
shift 2
echo "$*" >>$W/log
[ ! -e $W/hang ] || sleep 60
case $1 in
show)
  for unit; do case $unit in
    nix-lan@*) n=\${unit#*@}; cat $W/\${n%.*}.target; echo;;
    nix-lan-tunnel@*) n=\${unit#*@}; cat $W/\${n%.*}.tunnel; echo;;
  esac; done
  [ ! -e $W/other ] || . $W/other;;
*) [ ! -e $W/refuse ] || { echo "Failed to connect: no such luck" >&2; exit 1; };;
esac
`,
)
chmodSync(join(BIN, 'systemctl'), 0o755)

const RUN = folder('run', true)
const NOTES = folder('run/nix-lan', true)
const SOCKET = join(NOTES, 'rpi.sock')
const STATE = join(NOTES, 'rpi.tunnel')

/** How the units are: ActiveState of target and tunnel of a box. */
function units(target: string, tunnel: string, box = 'rpi'): void {
  const text = (state: string, load = 'loaded') => `LoadState=${load}\nActiveState=${state}\nStateChangeTimestampMonotonic=1\n`
  file(join(WORLD, `${box}.target`), target === 'none' ? text('inactive', 'not-found') : text(target))
  file(join(WORLD, `${box}.tunnel`), text(tunnel))
}

/** A box whose deadline nothing here exceeds, but what hangs. */
const box = (port: number, name = 'rpi', deadline = '60s', host = '127.0.0.1'): string =>
  `[cache.${name}]\nhost = "${host}"\nport = ${port}\ndeadline = "${deadline}"\n`
/** A box that refuses: nobody else can get a port that somebody has on another address. */
const away = (name = 'rpi'): string => box(here, name, '60s', '127.0.0.2')

interface Said {
  code: number | null
  stdout: string
  stderr: string
  ms: number
  /** What systemctl was asked, but for `show`. */
  asked: string[]
}

interface Setting {
  args?: string[]
  env?: Record<string, string>
  /** stdout is the journal. */
  journal?: boolean
}

let runs = 0

/** Runs `nix-lan check` with a configuration, which is an hour old. */
async function check(toml: string, { args = [], env = {}, journal = false }: Setting = {}): Promise<Said> {
  const id = ++runs
  const config = file(join(TMP, `config${id}.toml`), toml)
  const out = join(TMP, `out${id}`)
  const fd = openSync(out, 'w')
  const { dev, ino } = statSync(out, { bigint: true })
  const all = {
    PATH: `${BIN}:${RUNTIME}:/usr/bin:/bin`,
    HOME: TMP,
    NIX_LAN_CONFIG: config,
    XDG_RUNTIME_DIR: RUN,
    JOURNAL_STREAM: journal ? `${dev}:${ino}` : '8:9999',
    ...env,
  }
  const [program = '', ...rest] = [...AS_USER, PROGRAM, 'check', ...args]
  const started = Date.now()
  const child = spawn(program, rest, { env: all, cwd: '/', stdio: ['ignore', fd, 'pipe'] })
  closeSync(fd)
  let stderr = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  const code = await new Promise<number | null>((done) => child.on('close', done))
  const asked = calls().filter((line) => !line.startsWith('show'))
  return { code, stdout: readFileSync(out, 'utf8').replace(/\b\d+ ms/g, 'N ms'), stderr, ms: Date.now() - started, asked }
}

const calls = (): string[] => (existsSync(join(WORLD, 'log')) ? readFileSync(join(WORLD, 'log'), 'utf8').trim().split('\n') : [])
/** As systemd starts it when the timer elapses, which it does at another time each time. */
let elapsed = 8_200_000
function byTimer(): Setting {
  elapsed += 30_000_000
  return { journal: true, env: { TRIGGER_UNIT: 'nix-lan-check.timer', TRIGGER_TIMER_MONOTONIC_USEC: String(elapsed) } }
}

const children: ChildProcess[] = []
const servers: Server[] = []
let here = 0 // a box that is there
let dials = 0 // how often somebody has knocked there
let hole = 0 // a port that drops every packet

async function listen(where: string | number, onConnection: () => void = () => {}): Promise<number> {
  const server = createServer((socket) => {
    socket.on('error', () => {}).destroy()
    onConnection()
  })
  servers.push(server)
  await new Promise<void>((done) => (typeof where === 'string' ? server.listen(where, done) : server.listen(where, '127.0.0.1', done)))
  if (typeof where !== 'string') return (server.address() as AddressInfo).port
  give(where)
  return 0
}

/** A tunnel's ssh that is alive. Returns how often somebody has connected to it. */
async function sshAlive(): Promise<() => number> {
  let count = 0
  await listen(SOCKET, () => count++)
  return () => count
}

/** A port of 127.0.0.1 at which nobody ever accepts: the queue of its listener is full. */
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

const test = suite('nix-lan check')

test.before(async () => {
  here = await listen(0, () => dials++)
  hole = await blackHole()
})
test.before.each(() => {
  for (const name of ['log', 'refuse', 'hang', 'other']) rmSync(join(WORLD, name), { force: true })
  for (const path of [SOCKET, STATE]) rmSync(path, { force: true })
  mkdirSync(join(RUN, 'systemd'), { recursive: true })
  file(join(RUN, 'systemd/private'), '')
  give(join(RUN, 'systemd'))
  units('inactive', 'inactive')
  dials = 0
})
test.after.each(() => {
  for (const server of servers.splice(1)) server.close()
})
process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL')
  rmSync(TMP, { recursive: true, force: true })
})

const FOUND = (port: number): string => `rpi: reachable at 127.0.0.1 port ${port} (N ms)`
const REFUSED = (): string => `rpi: away: 127.0.0.2 port ${here}: connection refused`
const PAUSE = { failures: 5, reason: 'Permission denied', since: '2026-01-01T00:00:00Z', notBefore: 0 }

test('a box that has come: its target starts, and the failures of before are forgotten', async () => {
  file(STATE, JSON.stringify(PAUSE))
  const { code, stdout, stderr, asked } = await check(box(here))
  assert.equal([code, stdout, stderr], [0, `${FOUND(here)}; starting its tunnel\n`, ''])
  assert.equal(asked, ['start --no-block -- nix-lan@rpi.target'])
  assert.not.ok(existsSync(STATE))
})

test('a box that is away is no failure', async () => {
  const { code, stdout, stderr, asked } = await check(away())
  assert.equal([code, stdout, stderr, asked], [0, `${REFUSED()}\n`, '', []])
})

test('a box that has gone: its target stops', async () => {
  units('active', 'activating')
  const { code, stdout, asked } = await check(away())
  assert.equal([code, stdout, asked], [0, `${REFUSED()}; stopping its tunnel\n`, ['stop --no-block -- nix-lan@rpi.target']])
})

test('a stale socket keeps no target up', async () => {
  units('active', 'activating')
  await listen(SOCKET)
  renameSync(SOCKET, `${SOCKET}.kept`) // close() would remove it
  servers.pop()?.close()
  renameSync(`${SOCKET}.kept`, SOCKET)
  assert.ok(lstatSync(SOCKET).isSocket())
  assert.equal((await check(away())).asked, ['stop --no-block -- nix-lan@rpi.target'])
})

test('an ssh that is alive is left alone when the box does not answer, and not connected to', async () => {
  units('active', 'active')
  const connections = await sshAlive()
  const { code, stdout, asked } = await check(box(hole, 'rpi', '1s'))
  assert.equal([code, asked, connections()], [0, [], 0])
  assert.is(stdout, `rpi: away: 127.0.0.1 port ${hole}: no answer within 1 s; its ssh is alive, and will notice by itself\n`)
})

test('what another check started meanwhile is not stopped', async () => {
  units('active', 'activating')
  file(join(WORLD, 'other'), `sed -i s/Monotonic=1/Monotonic=2/ $W/rpi.target; rm $W/other`)
  assert.equal((await check(away())).asked, [])
})

test('an ssh that came alive meanwhile is not stopped', async () => {
  units('active', 'activating')
  await listen(`${SOCKET}.new`)
  // with the second show, the one before the stop
  file(join(WORLD, 'other'), `echo 'mv ${SOCKET}.new ${SOCKET}; rm $W/other' >$W/other.new; mv $W/other.new $W/other`)
  const { asked, stdout } = await check(away())
  assert.equal(asked, [])
  assert.is(stdout, `${REFUSED()}\n`)
})

test('two at once do no harm', async () => {
  const [one, two] = await Promise.all([check(box(here)), check(box(here))])
  for (const { code, stdout, stderr } of [one, two]) assert.equal([code, stdout, stderr], [0, `${FOUND(here)}; starting its tunnel\n`, ''])
  const starts = calls().filter((line) => line === 'start --no-block -- nix-lan@rpi.target')
  assert.is(starts.length, 2)
})

test('two boxes: one has come, one has gone; units are asked about once', async () => {
  units('active', 'activating', 'nas')
  const { code, stdout, asked } = await check(box(here) + box(hole, 'nas', '500ms'))
  assert.is(code, 0)
  assert.is(stdout, `${FOUND(here)}; starting its tunnel\nnas: away: 127.0.0.1 port ${hole}: no answer within 0.5 s; stopping its tunnel\n`)
  assert.equal(asked, ['start --no-block -- nix-lan@rpi.target', 'stop --no-block -- nix-lan@nas.target'])
  const [show = '', ...more] = calls().filter((line) => line.startsWith('show'))
  assert.match(show, / -- nix-lan@rpi\.target nix-lan-tunnel@rpi\.service nix-lan@nas\.target nix-lan-tunnel@nas\.service$/)
  assert.is(more.length, 1) // before the stop, about the one box
})

test('only the caches that are named', async () => {
  units('inactive', 'inactive', 'nas')
  const { stdout, asked } = await check(box(here) + box(here, 'nas'), { args: ['nas', 'nas'] })
  assert.equal([stdout.split(':')[0], asked], ['nas', ['start --no-block -- nix-lan@nas.target']])
  const wrong = await check(box(here), { args: ['nsa'] })
  assert.is(wrong.code, 2)
  assert.match(wrong.stderr, /no cache is called "nsa"/)
})

test('a network without answers: no longer than the longest deadline', async () => {
  units('active', 'activating', 'nas')
  const { code, ms, stdout } = await check(box(hole, 'rpi', '1s') + box(hole, 'nas', '2s') + box(hole, 'rpi2', '2s'))
  assert.is(code, 1) // the fake knows no rpi2: systemd does not say how it is
  const fine = await check(box(hole, 'rpi', '1s') + box(hole, 'nas', '2s'))
  assert.is(fine.code, 0)
  assert.is(stdout, '')
  for (const time of [ms, fine.ms]) assert.ok(time < 2000 + SLACK, `${time} ms`)
  assert.ok(fine.ms > 1900, `${fine.ms} ms`)
})

test('a systemd that hangs: an error, and an end', async () => {
  file(join(WORLD, 'hang'), '')
  const { code, stderr, ms } = await check(box(here))
  assert.equal([code, stderr.split('\n').length], [1, 2])
  assert.match(stderr, /^nix-lan check: systemd's user manager does not say how .*: no answer in time\n$/)
  assert.ok(ms < 10_000 + SLACK, `${ms} ms`)
})

test('a systemd that refuses: what it said, exit 1', async () => {
  file(join(WORLD, 'refuse'), '')
  const { code, stdout, stderr } = await check(box(here))
  assert.equal([code, stdout], [1, ''])
  assert.is(stderr, "nix-lan check: systemd's user manager does not start nix-lan@rpi.target: Failed to connect: no such luck\n")
})

test('without a user manager it only tells', async () => {
  rmSync(join(RUN, 'systemd'), { recursive: true })
  const { code, stdout, stderr, asked } = await check(box(here) + away('nas'))
  assert.equal([code, asked, calls()], [0, [], []])
  assert.is(stdout, `${FOUND(here)}\n${REFUSED().replace('rpi', 'nas')}\n`)
  assert.match(stderr, /^nix-lan check: you have no systemd user manager here .*nothing was switched; by hand: nix-lan-tunnel\n$/)
})

test('without the units it only tells', async () => {
  units('none', 'inactive')
  const { code, stdout, stderr, asked } = await check(box(here))
  assert.equal([code, stdout, asked], [0, `${FOUND(here)}\n`, []])
  assert.match(stderr, /^nix-lan check: the systemd units of nix-lan are not installed, so nothing was switched/)
})

test('a URL is told about, but nothing is switched for it', async () => {
  const { code, stdout, stderr } = await check(`[cache.web]\nurl = "http://127.0.0.1:${here}"\ndeadline = "60s"\n`)
  assert.equal([code, stdout, stderr], [0, `web: reachable at 127.0.0.1 port ${here} (N ms)\n`, ''])
})

test('--json', async () => {
  units('active', 'active', 'nas')
  await listen(join(NOTES, 'nas.sock'))
  const { code, stdout } = await check(`${away()}${box(here, 'nas')}[cache.web]\nurl = "http://127.0.0.1:${here}"\ndeadline = "60s"\n`, {
    args: ['--json'],
  })
  assert.is(code, 0)
  const found = JSON.parse(stdout).map(({ ms, ...rest }: { ms: number }) => [typeof ms, rest])
  const reason = `127.0.0.2 port ${here}: connection refused`
  assert.equal(found, [
    ['number', { cache: 'rpi', state: 'away', reason, tunnel: 'inactive', action: 'none' }],
    ['number', { cache: 'nas', state: 'reachable', address: '127.0.0.1', port: here, tunnel: 'active', action: 'none' }],
    ['number', { cache: 'web', state: 'reachable', address: '127.0.0.1', port: here }],
  ])
})

// ---- in the journal

test('in the journal there is no line without news', async () => {
  const away2 = `${away()}[cache.web]\nurl = "http://127.0.0.1:${here}"\ndeadline = "60s"\n`
  assert.equal([(await check(away2, { journal: true })).stdout, dials], ['', 0])
  units('active', 'active')
  assert.is((await check(box(here), { journal: true })).stdout, '')
  units('inactive', 'inactive')
  assert.is((await check(box(here), { journal: true })).stdout, `${FOUND(here)}; starting its tunnel\n`)
})

test('the timer asks no box whose tunnel is well; everybody else does', async () => {
  units('active', 'active')
  await sshAlive()
  assert.equal([(await check(box(here), byTimer())).code, dials], [0, 0])
  assert.equal([(await check(box(here), { journal: true })).code, dials], [0, 1])
  assert.equal([(await check(box(here), { env: byTimer().env ?? {} })).code, dials], [0, 2]) // a shell that a timer's unit started
  units('active', 'activating')
  assert.equal([(await check(box(here), byTimer())).code, dials], [0, 3])
})

// ---- pauses

/**
 * The tunnel has failed so many seconds ago, and pauses, for as long as from now. Returns until
 * when.
 */
function pauses(seconds: number, length = 50): number {
  units('active', 'activating')
  const end = uptime() + length
  file(STATE, JSON.stringify({ ...PAUSE, notBefore: end }))
  const then = Date.now() / 1000 - seconds
  utimesSync(STATE, then, then)
  return end
}
const notBefore = (): number => JSON.parse(readFileSync(STATE, 'utf8')).notBefore

test('a pause ends when somebody asks, not by the timer', async () => {
  const end = pauses(20)
  assert.equal([(await check(box(here), byTimer())).asked, notBefore()], [[], end])
  const { stdout, asked } = await check(box(here), { journal: true })
  assert.is(stdout, `${FOUND(here)}; its tunnel tries again at once (Permission denied)\n`)
  assert.equal([asked, notBefore()], [['restart --no-block -- nix-lan-tunnel@rpi.service'], 0])
  assert.is(JSON.parse(readFileSync(STATE, 'utf8')).failures, 5)
})

test('a pause longer than any is a mistake, and none: the tunnel tries again by itself', async () => {
  const end = pauses(20, 3600)
  const { stdout, asked } = await check(box(here))
  assert.equal([asked, notBefore()], [[], end])
  assert.is(stdout, `${FOUND(here)}; its tunnel is being made\n`)
})

test('a tunnel that has failed this moment keeps its pause', async () => {
  const end = pauses(-SLACK / 1000) // so that it is no more than a moment ago even when the check starts late
  const { stdout, asked } = await check(box(here))
  assert.equal([asked, notBefore()], [[], end])
  assert.match(stdout, /; its tunnel tries again in \d+ s: Permission denied\n$/)
})

test('a tunnel that was given up is started again; by the timer only when the configuration is new', async () => {
  units('active', 'failed')
  const { asked } = await check(box(here)) // the test wrote the configuration just now
  assert.equal(asked, ['start --no-block -- nix-lan-tunnel@rpi.service'])
  assert.is((await check(box(here), byTimer())).asked.length, 2)
})

// ---- the socket's times, which end what nix-lan-connect remembers

/**
 * Sets the time of a socket, or of what lies in its place, back; returns whether the check brings
 * it forward.
 */
async function touches(path: string, setting: Setting): Promise<boolean> {
  utimesSync(path, 1000, 1000)
  assert.is((await check(box(here), setting)).code, 0)
  return lstatSync(path).mtimeMs !== 1_000_000
}

test('the socket is touched when the network may have changed, not by the timer', async () => {
  units('active', 'active')
  await sshAlive()
  assert.is(await touches(SOCKET, {}), true)
  assert.is(await touches(SOCKET, { journal: true }), true)
  assert.is(await touches(SOCKET, byTimer()), false)
})

test('what the timer has triggered is its own once: systemd tells it to later starts, too', async () => {
  units('active', 'active')
  await sshAlive()
  const timers = byTimer()
  assert.equal([await touches(SOCKET, timers), await touches(SOCKET, timers)], [false, true])
  assert.is(await touches(SOCKET, byTimer()), false)
})

test('nothing is touched in the place of a socket: no link is followed', async () => {
  units('active', 'active')
  const treasure = join(NOTES, 'treasure.sock')
  await listen(treasure)
  symlinkSync(treasure, SOCKET)
  assert.is(await touches(treasure, {}), false)
  unlinkSync(SOCKET)
  file(SOCKET, 'not a socket')
  assert.is(await touches(SOCKET, {}), false)
})

// ---- who runs it

test("somebody else's configuration: who should run it, exit 2", async () => {
  const { code, stdout, stderr } = await check(`user = "daemon"\n${box(here)}`)
  assert.equal([code, stdout], [2, ''])
  assert.match(stderr, /^nix-lan check: the tunnels are daemon's \(user in .*\); run it as daemon: /)
  assert.ok(stderr.endsWith(` sudo -u daemon ${PROGRAM} check\n`), stderr)
})

const asRoot = needs(suite('nix-lan check as root'), 'root', 'unshare')

asRoot('names the user, and does nothing', () => {
  const etc = join(TMP, 'etc')
  const script = `mkdir -p ${etc}/nix-lan; cp -L /etc/passwd ${etc}; printf 'user = "nobody"\\n${box(here).replaceAll('\n', '\\n')}' >${etc}/nix-lan/config.toml
mount --bind ${etc} /etc; exec ${PROGRAM} check`
  const done = spawnSync('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', script], {
    env: { PATH: `${BIN}:${RUNTIME}:/usr/sbin:/usr/bin:/bin`, HOME: '/' },
    encoding: 'utf8',
    timeout: 60_000,
  })
  assert.equal([done.status, done.stdout], [2, ''])
  const where = '/etc/nix-lan/config.toml'
  assert.is(done.stderr, `nix-lan check: the tunnels are nobody's (user in ${where}); run it as nobody: sudo -u nobody ${PROGRAM} check\n`)
})

test.run()
asRoot.run()
