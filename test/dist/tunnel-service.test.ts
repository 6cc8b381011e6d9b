// The contract of `nix-lan-tunnel --service`, with a fake ssh, ssh-add, systemd-notify and
// systemctl: what systemd is told and when, what the journal gets, what is remembered, and that it
// neither ends nor tries too often. The lab has the real ones. NIX_LAN_TEST_RUNTIME: see
// launcher.test.ts.
import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { AS_USER, foldersIn, give, runtimeIn } from '../lib/as-user.ts'
import { changed } from '../lib/changed.ts'
import { until as waited } from '../lib/until.ts'

const TMP = mkdtempSync(join(tmpdir(), 'nl-service-'))
chmodSync(TMP, 0o755)
const folder = foldersIn(TMP)
/** nix-lan-tunnel, but only what hangs is too late for it, and it soon logs in again. */
const PROGRAM = changed(
  resolve('dist/nix-lan-tunnel'),
  folder('program'),
  [/\b(AGENT_LIMIT = )2e3;/, '$16e4;'],
  [/\b(SYSTEMCTL_LIMIT = )2e3;/, '$16e4;'],
  [/\b(NOTIFY_LIMIT = )2e3;/, '$16e4;'],
  [/\b(REFUSED_PAUSE = )8;/, '$11;'],
)
const BIN = folder('bin')
const RUNTIME = runtimeIn(folder)
const RUN = folder('run', true)
const DIRECTORY = join(RUN, 'nix-lan')
const SOCKET = join(DIRECTORY, 'pi.sock')
const STATE = join(DIRECTORY, 'pi.tunnel')
/**
 * `calls`: what the fakes were called with. `ssh`: what ssh writes down before it exits with 255;
 * not there: it listens. `unresponsive`: but nobody answers.
 */
const WORLD = folder('world', true)

function own(path: string, text: string): void {
  writeFileSync(path, text)
  give(path)
}

const tell = (name: string, text: string): void => own(join(WORLD, name), text)

function script(name: string, text: string): void {
  writeFileSync(join(BIN, name), `#!/bin/sh\nW=${WORLD}\n${text}\n`)
  chmodSync(join(BIN, name), 0o755)
}

/**
 * Greets and answers a question as a nix-daemon of protocol 1.35 does (Nix 2.14, src/libstore/daemon.cc,
 * processConnection), unless it is to be unresponsive.
 */
const DAEMON = `
const u64 = (value) => Buffer.from(new BigUint64Array([BigInt(value)]).buffer)
process.on('SIGTERM', () => process.exit(0))
require('net').createServer((socket) => {
  socket.on('error', () => {})
  if (require('fs').existsSync('${WORLD}/unresponsive')) return
  socket.write(Buffer.concat([u64(0x6478696f), u64(0x0123)]))
  let got = 0
  socket.on('data', (data) => {
    const before = got
    got += data.length
    if (before < 32 && got >= 32) socket.write(Buffer.concat([u64(6), Buffer.from('2.14.0\\0\\0'), u64(2), u64(0x616c7473)]))
    if (before <= 32 && got > 32) socket.write(Buffer.concat([u64(0x616c7473), u64(0)])) // it hasn't got the path
  })
}).listen(process.argv[2])
`

function fakes(): void {
  writeFileSync(join(BIN, 'daemon.cjs'), DAEMON)
  script(
    'ssh',
    `[ "$1" != -G ] || { echo hostname 127.0.0.1; exit; }
for word; do case $last in -L) socket=\${word%%:*} ;; -E) log=$word ;; esac; last=$word; done
echo "ssh agent=\${SSH_AUTH_SOCK-}" >>$W/calls
if [ -e $W/ssh ]; then cat $W/ssh >>"$log"; exit 255; fi
echo $$ >$W/pid
exec '${process.execPath}' ${BIN}/daemon.cjs "$socket"`,
  )
  script('ssh-add', 'echo "ssh-add $SSH_AUTH_SOCK" >>$W/calls; exit "$(cat $W/agent)"')
  script('systemd-notify', 'printf "notify %s\\n" "$*" >>$W/calls')
  script('systemctl', 'printf "systemctl %s\\n" "$*" >>$W/calls')
}

interface Unit {
  child: ChildProcess
  /** What the journal gets. */
  journal(): string
  ended: Promise<number | string>
}

const started: Unit[] = []

/**
 * As systemd starts it: a process group stands for the control group. The deadline is for where
 * nobody answers; elsewhere only a hang exceeds it.
 */
function start(port: number, { args = ['--service', 'pi'], host = '127.0.0.1', deadline = '60s' } = {}): Unit {
  own(
    join(TMP, 'config.toml'),
    `[cache.pi]\nhost = "${host}"\nport = ${port}\nenv-file = "${TMP}/env"\ndeadline = "${deadline}"\nssh = "pi@127.0.0.1"\n`,
  )
  const env = { PATH: `${BIN}:${RUNTIME}:/usr/bin:/bin`, HOME: TMP, NIX_LAN_CONFIG: join(TMP, 'config.toml'), XDG_RUNTIME_DIR: RUN }
  const [program = '', ...words] = [...AS_USER, PROGRAM, ...args]
  const child = spawn(program, words, { env, cwd: '/', stdio: ['ignore', 'pipe', 'pipe'], detached: true })
  let text = ''
  for (const stream of [child.stdout, child.stderr]) stream?.setEncoding('utf8').on('data', (more: string) => (text += more))
  const ended = new Promise<number | string>((done) => child.on('close', (code, signal) => done(code ?? signal ?? '')))
  const unit = { child, journal: () => text, ended }
  started.push(unit)
  return unit
}

/** As systemd stops it. */
async function stop({ child, ended }: Unit, signal: NodeJS.Signals = 'SIGTERM'): Promise<number | string> {
  try {
    process.kill(-(child.pid ?? 0), signal)
  } catch {
    // it has ended
  }
  return await ended
}

const until = (what: string, ask: () => boolean): Promise<void> => waited(what, ask, () => calls().join('\n'))

/** Waits until the journal has got so many lines, and returns them; what is told may come first. */
async function journalOf(unit: Unit, lines: number): Promise<string[]> {
  await until(`${lines} lines in the journal`, () => unit.journal().split('\n').length > lines)
  return unit.journal().split('\n')
}

const calls = (): string[] => readFileSync(join(WORLD, 'calls'), 'utf8').split('\n').slice(0, -1)
const called = (beginning: string): string[] => calls().filter((line) => line.startsWith(beginning))
const state = (): { failures: number; reason: string; notBefore: number; since: string } => JSON.parse(readFileSync(STATE, 'utf8'))
const failures = (): number => (existsSync(STATE) ? state().failures : 0)
const uptime = (): number => Number.parseFloat(readFileSync('/proc/uptime', 'utf8'))
const ASKED = 'systemctl --user --no-pager restart --no-block -- nix-lan-check.service'
const READY = 'notify --ready --status=Nix 2.14.0 on the box answers'

let server: Server
let port = 0
const test = suite('nix-lan-tunnel --service')

test.before(async () => {
  fakes()
  server = createServer((socket) => socket.on('error', () => {}).resume())
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  port = (server.address() as AddressInfo).port
})
test.before.each(() => {
  for (const path of [DIRECTORY, join(TMP, 'env')]) rmSync(path, { recursive: true, force: true })
  for (const name of ['ssh', 'unresponsive', 'pid']) rmSync(join(WORLD, name), { force: true })
  tell('calls', '')
  tell('agent', '2\n')
})
test.after.each(async () => {
  for (const unit of started.splice(0)) await stop(unit, 'SIGKILL')
})
test.after(() => void server.close())
process.on('exit', () => rmSync(TMP, { recursive: true, force: true }))

test('ready when a nix-daemon answers, not before; told to end, it says nothing more', async () => {
  tell('unresponsive', '')
  const unit = start(port, { deadline: '1s' })
  await until('a reason', () => existsSync(STATE) && called('notify').length > 0)
  assert.equal(called('notify --ready'), [])
  assert.match(called('notify')[0] ?? '', /^notify --status=connected, but no nix-daemon answers: /)
  assert.is(state().notBefore, 0)
  rmSync(join(WORLD, 'unresponsive'))
  await until('the end of the state', () => !existsSync(STATE))
  await until('ready', () => calls().includes(READY))
  assert.match(unit.journal(), /^nix-lan-tunnel: pi: .*no nix-daemon answered within 1 s\n$/)
  assert.is(await stop(unit), 0)
  assert.not(existsSync(SOCKET))
  assert.equal([called('systemctl'), existsSync(STATE)], [[], false])
})

test('connected, and for a minute nobody answers: a fresh login, with which groups come; no news, and the unit goes on', async () => {
  tell('unresponsive', '')
  script('sleep', 'case $1 in 0.1 | 0.2 | 1.0) exec /bin/sleep $1 ;; *) echo "sleep $1" >>$W/calls; exec /bin/sleep 0.1 ;; esac')
  const unit = start(port, { deadline: '1s' })
  await until('another login', () => called('ssh agent=').length > 1)
  assert.is(unit.child.exitCode, null)
  const [first = '', , second] = calls()
    .join('\n')
    .split(/^(ssh agent=.*\n)/m)
    .slice(2)
  assert.is(first.match(/^sleep 12$/gm)?.length, 4, `${first} then ${second}`)
  rmSync(join(WORLD, 'unresponsive'))
  await until('ready', () => calls().includes(READY))
  rmSync(join(BIN, 'sleep'))
  assert.match(unit.journal(), /^nix-lan-tunnel: pi: [^\n]*no nix-daemon answered within 1 s\n$/)
  assert.equal([called('systemctl'), existsSync(STATE)], [[], false])
  assert.is(await stop(unit), 0)
})

test('the link is lost: exit 255, so that systemd knows; one line, a pause of a second, and the check is asked', async () => {
  const unit = start(port)
  await until('ready', () => calls().includes(READY))
  process.kill(Number(readFileSync(join(WORLD, 'pid'), 'utf8')), 'SIGKILL')
  assert.is(await unit.ended, 255)
  // the shell has a line of its own for a child that was killed
  assert.match(unit.journal(), /^(.*Killed.*\n)?nix-lan-tunnel: pi: the link to the box was lost \(ssh was ended by signal 9\)\n$/)
  assert.equal([state().failures, called('systemctl')], [1, [ASKED]])
  assert.ok(state().notBefore <= uptime() + 1)
  assert.not(existsSync(SOCKET))
})

test('no login: it stays, with growing pauses, one line in the journal, the agent asked; and comes up by itself', async () => {
  tell('ssh', 'pi@127.0.0.1: Permission denied (publickey).\n')
  tell('agent', '1\n')
  own(join(TMP, 'env'), `echo sourced >>${WORLD}/calls; SSH_AUTH_SOCK=/run/agent`)
  const begun = uptime()
  const unit = start(port)
  await until('three attempts', () => called('notify').length >= 3)
  assert.ok(uptime() - begun > 2.9) // 1 s and 2 s
  assert.equal([...new Set(called('ssh'))], ['ssh agent=/run/agent', 'ssh-add /run/agent'])
  // what there was by then: if this is late, it may have been tried again meanwhile
  const untilThird = calls().slice(0, calls().indexOf(called('notify')[2] ?? '', calls().indexOf(called('notify')[1] ?? '') + 1))
  const before = (beginning: string): number => untilThird.filter((line) => line.startsWith(beginning)).length
  assert.equal([before('ssh agent='), before('sourced')], [3, 3], 'env-file may say another thing each time')
  const waiting = /^notify --status=waiting (\d+) s: the box refuses the login, and the ssh agent holds no key/
  assert.ok(
    called('notify').every((line) => waiting.test(line)),
    calls().join('\n'),
  )
  assert.ok(state().failures >= 3)
  assert.equal(called('systemctl'), [], 'the box is there')
  rmSync(join(WORLD, 'ssh'))
  await until('ready', () => calls().includes(READY))
  assert.not(existsSync(STATE))
  assert.match(unit.journal(), /^nix-lan-tunnel: pi: the box refuses the login, and the ssh agent holds no key: .*\n$/)
})

test('env-file is asked anew for each attempt, also when the agent that it named has keys', async () => {
  tell('ssh', 'pi@127.0.0.1: Permission denied (publickey).\n')
  tell('agent', '0\n')
  own(join(TMP, 'env'), 'SSH_AUTH_SOCK=/run/agent')
  start(port)
  await until('an attempt', () => called('ssh agent=').length > 0)
  own(join(TMP, 'env'), 'SSH_AUTH_SOCK=/run/another')
  await until('one with the other agent', () => called('ssh agent=').includes('ssh agent=/run/another'))
})

test('another reason is news', async () => {
  tell('ssh', 'Host key verification failed.\n')
  const unit = start(port)
  await until('an attempt', () => failures() > 0)
  tell('ssh', 'pi@127.0.0.1: Permission denied (publickey).\n')
  const lines = await journalOf(unit, 2)
  assert.match(lines[0] ?? '', /the host key of 127\.0\.0\.1 is not known yet/)
  assert.match(lines[1] ?? '', /there is no ssh agent/)
})

test('away: no ssh; the check is asked, and it waits', async () => {
  const unit = start(port, { host: '127.0.0.2' })
  await until('the pause', () => called('notify').length > 0)
  assert.equal(await journalOf(unit, 1), [`nix-lan-tunnel: pi: away: 127.0.0.2 port ${port}: connection refused`, ''])
  // what there was by then: if this is late, it may have been tried again meanwhile
  const before = calls().slice(0, calls().indexOf(called('notify')[0] ?? ''))
  assert.equal([before, called('ssh')], [[ASKED], []])
  assert.is(await stop(unit), 'SIGTERM')
})

const AGO = { failures: 5, reason: 'of old', since: '2026-01-01T00:00:00.000Z' }

test('a pause that is not over is kept, by the clock that nobody sets', async () => {
  folder('run/nix-lan', true)
  const begun = uptime()
  own(STATE, JSON.stringify({ ...AGO, notBefore: begun + 50 }))
  const unit = start(port)
  await until('the pause', () => called('notify').length > 0)
  const [, left = ''] = /^notify --status=waiting (\d+) s: of old$/.exec(called('notify')[0] ?? '') ?? []
  assert.ok(Number(left) <= 50 && Number(left) >= 50 - (uptime() - begun), `${left} s left`)
  await new Promise((done) => setTimeout(done, 500))
  assert.equal([called('ssh'), unit.journal()], [[], ''])
})

test('one that is over, or further away than any pause, is none', async () => {
  for (const notBefore of [uptime() - 1, uptime() + 100_000]) {
    folder('run/nix-lan', true)
    own(STATE, JSON.stringify({ ...AGO, notBefore }))
    tell('calls', '')
    const unit = start(port)
    await until('ready', () => calls().includes(READY))
    assert.is(await stop(unit), 0)
  }
})

test('what a person has to mend is exit 2, at once', async () => {
  const unit = start(port, { args: ['--service', 'pie'] })
  assert.is(await unit.ended, 2)
  assert.match(unit.journal(), /^nix-lan-tunnel: .*pie/)
})

test.run()
