// The contract of dist/nix-lan-tunnel with a fake ssh: what that is started with, what is refused
// and why, and the socket's life. test/nix/tunnel.test.ts has the real ssh. NIX_LAN_TEST_RUNTIME:
// see launcher.test.ts.
import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, existsSync, lstatSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { AS_USER, foldersIn, give, USER } from '../lib/as-user.ts'
import { HANGS, until } from '../lib/until.ts'

const PROGRAM = resolve('dist/nix-lan-tunnel')
const TMP = mkdtempSync(join(tmpdir(), 'nl-tunnel-'))
chmodSync(TMP, 0o755)
const folder = foldersIn(TMP)
const BIN = folder('bin')
const RUNTIME = process.env.NIX_LAN_TEST_RUNTIME ?? BIN
if (!process.env.NIX_LAN_TEST_RUNTIME) symlinkSync(process.execPath, join(BIN, 'node'))

function script(name: string, text: string): void {
  const path = join(BIN, name)
  writeFileSync(path, `#!/bin/sh\n${text}\n`)
  chmodSync(path, 0o755)
}

/** A file that belongs to the user. */
function own(name: string, text: string): string {
  const path = join(TMP, name)
  writeFileSync(path, text)
  give(path)
  return path
}

const RUN = folder('run', true)
const STARTED = join(folder('out', true), 'started')
const DIRECTORY = join(RUN, 'nix-lan')
const SOCKET = join(DIRECTORY, 'rpi.sock')

/**
 * The fake ssh: says FACTS to -G; otherwise notes how it was started, and does `then` with its
 * socket in $socket.
 */
function fakeSsh(then = 'exit 0', facts = 'hostname 127.0.0.1\ncanonicalizehostname false'): void {
  script(
    'ssh',
    `[ "$1" != -G ] || { cat <<'END'
${facts}
END
exit 0; }
for word; do case $last in -L) socket=\${word%%:*} ;; esac; last=$word; done
{ printf 'agent=%s pid=%s file=%s options=%s\\n' "\${SSH_AUTH_SOCK-}" "\${SSH_AGENT_PID-}" "\${BASH_ENV-}" "\${NODE_OPTIONS-}"; printf '%s\\n' "$@"; } >'${STARTED}'
${then}`,
  )
}

/** Listens at a socket like ssh, and ends at TERM with what ssh's exit code is then. */
const LISTEN = `exec '${process.execPath}' -e "process.on('SIGTERM', () => process.exit(0)); require('net').createServer().listen('$socket')"`

interface Said {
  code: number | null
  signal: string | null
  stdout: string
  stderr: string
}

function launch(toml: string, args: string[], env: Record<string, string> = {}): { child: ChildProcess; said: Promise<Said> } {
  const config = own('config.toml', toml)
  const all = { PATH: `${BIN}:${RUNTIME}:/usr/bin:/bin`, HOME: TMP, NIX_LAN_CONFIG: config, XDG_RUNTIME_DIR: RUN, ...env }
  const [program = '', ...words] = [...AS_USER, PROGRAM, ...args]
  // The time limit is for a tunnel that should have been refused.
  const child = spawn(program, words, { env: all, cwd: '/', stdio: ['ignore', 'pipe', 'pipe'], timeout: HANGS })
  const said: Said = { code: null, signal: null, stdout: '', stderr: '' }
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    said.stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said.stderr += text
  })
  return { child, said: new Promise((done) => child.on('close', (code, signal) => done({ ...said, code, signal }))) }
}

const tunnel = (toml: string, args: string[] = [], env: Record<string, string> = {}): Promise<Said> => launch(toml, args, env).said

let server: Server
let port = 0
let toml = ''

const test = suite('nix-lan-tunnel')

test.before(async () => {
  server = createServer((socket) => socket.on('error', () => {}).resume())
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  port = (server.address() as AddressInfo).port
  toml = `[cache.rpi]\nhost = "127.0.0.1"\nssh = "pi@127.0.0.1"\nport = ${port}\ndeadline = "60s"\nenv-file = "${TMP}/env"\n`
})
test.before.each(() => {
  rmSync(DIRECTORY, { recursive: true, force: true })
  for (const file of [STARTED, join(TMP, 'env')]) rmSync(file, { force: true })
  fakeSsh()
})
process.on('exit', () => rmSync(TMP, { recursive: true, force: true }))

/** How ssh was started: its environment in a line, then its arguments. */
const started = (): string[] => readFileSync(STARTED, 'utf8').trimEnd().split('\n')

test('ssh is started with the agent of env-file, in a directory of our own', async () => {
  own('env', `echo noise; SSH_AUTH_SOCK="/tmp/a b'c"; SSH_AGENT_PID=7; BASH_ENV=/no`)
  const { code, stdout, stderr } = await tunnel(toml, [], { NODE_OPTIONS: '--no-warnings' })
  assert.equal([code, stdout, stderr], [0, '', ''])
  const [environment, ...args] = started()
  assert.is(environment, "agent=/tmp/a b'c pid=7 file= options=--no-warnings")
  assert.equal(args.slice(-6), ['-p', String(port), '-L', `${SOCKET}:/nix/var/nix/daemon-socket/socket`, '--', 'pi@127.0.0.1'])
  assert.is(statSync(DIRECTORY).mode & 0o777, 0o700)
})

test('an agent in the environment is kept', async () => {
  own('env', 'SSH_AUTH_SOCK=/other')
  assert.is((await tunnel(toml, [], { SSH_AUTH_SOCK: '/mine', SSH_AGENT_PID: '9' })).code, 0)
  assert.is(started()[0], 'agent=/mine pid=9 file= options=')
})

test('an env-file that fails is one line, and ssh is tried', async () => {
  own('env', 'if then')
  const { code, stderr } = await tunnel(toml)
  assert.is(code, 0)
  assert.is(stderr, `nix-lan-tunnel: env-file ${TMP}/env failed with status 2 and set no SSH_AUTH_SOCK; try: bash -n ${TMP}/env\n`)
  assert.ok(existsSync(STARTED))
})

test("the exit code is ssh's", async () => {
  fakeSsh('echo "Permission denied" >&2; exit 255')
  const { code, stderr } = await tunnel(toml)
  const hint = `nix-lan-tunnel: no tunnel to rpi; ssh can't ask anything here, but it can by hand: ssh -p ${port} `
  assert.is(code, 255)
  assert.ok(stderr.startsWith(`Permission denied\n${hint}`), stderr)
})

test('away: exit 75, and no ssh', async () => {
  const { code, stdout, stderr } = await tunnel(toml.replace('host = "127.0.0.1"', 'host = "127.0.0.2"'))
  assert.equal([code, stdout, stderr], [75, '', `nix-lan-tunnel: rpi is away: 127.0.0.2 port ${port}: connection refused\n`])
  assert.not(existsSync(STARTED))
})

test('--print shows the command and changes nothing', async () => {
  fakeSsh('exit 0', 'hostname 127.0.0.1\ncanonicalizehostname false\nipqos af21 cs1')
  const { code, stdout, stderr } = await tunnel(toml, ['--print'])
  assert.equal([code, stderr], [0, ''])
  assert.match(
    stdout,
    /^# rpi is reachable at 127\.0\.0\.1 port \d+\n# SSH_AUTH_SOCK: from nowhere: .*\nssh -N -T -n -o .* -- pi@127\.0\.0\.1\n# uploads: through an ssh connection of their own, from the first one on:\nssh .* -o IPQoS=throughput .*ControlMaster=yes.*\n$/,
  )
  assert.not(existsSync(STARTED) || existsSync(DIRECTORY))
})

test('--print ends the agent that env-file began', async () => {
  const note = own('agent', '')
  own('env', `setsid sleep 60 </dev/null >/dev/null 2>&1 & echo $! >'${note}'; sleep 0.1; SSH_AUTH_SOCK=/a; SSH_AGENT_PID=$!`)
  const lives = (): boolean => /^\d+\n$/.test(readFileSync(note, 'utf8')) && existsSync(`/proc/${readFileSync(note, 'utf8').trim()}/cwd`)
  assert.is((await tunnel(toml, ['--print'])).code, 0)
  assert.match(readFileSync(note, 'utf8'), /^\d+\n$/)
  await until('the end of the agent', () => !lives())
})

test('a name: ssh gets the address that answered, when it would do the same as without', async () => {
  script('getent', `[ "$1" = ahosts ] || exec /usr/bin/getent "$@"; echo '127.0.0.1 STREAM'`)
  const named = toml.replace('host = "127.0.0.1"', 'host = "pi.local"').replace('pi@127.0.0.1', 'pi@pi.local')
  fakeSsh('exit 0', 'hostname pi.local\ncanonicalizehostname false')
  assert.is((await tunnel(named)).code, 0)
  const wanted = ['-p', String(port), '-o', 'HostName=127.0.0.1', '-o', `HostKeyAlias=[pi.local]:${port}`, '-L']
  assert.equal(started().slice(-10, -3), wanted)
  fakeSsh('exit 0', 'hostname pi.local\ncanonicalizehostname false\nproxyjump bastion')
  assert.is((await tunnel(named)).code, 0)
  assert.not(started().some((word) => /^(-p|HostName=.*|HostKeyAlias=.*)$/.test(word)))
  rmSync(join(BIN, 'getent'))
})

test('the socket lives as long as ssh: TERM, and an end of its own', async () => {
  fakeSsh(LISTEN)
  const { child, said } = launch(toml, [])
  await until('the socket', () => existsSync(SOCKET))
  const second = await tunnel(toml)
  assert.equal([second.code, second.stderr], [1, `nix-lan-tunnel: a tunnel for rpi runs already: somebody listens on ${SOCKET}\n`])
  assert.ok(existsSync(SOCKET))
  child.kill('SIGTERM')
  assert.is((await said).code, 0)
  assert.not(existsSync(SOCKET))
  fakeSsh(`: >"$socket"; exit 3`)
  assert.is((await tunnel(toml)).code, 3)
  assert.not(existsSync(SOCKET))
})

test('ssh that could not bind leaves the socket of another tunnel alone', async () => {
  const other = createServer()
  folder('run/nix-lan', true)
  // The other one comes while ssh is connecting.
  fakeSsh(`: >'${STARTED}.now'; while ! [ -S "$socket" ]; do sleep 0.05; done; exit 255`)
  const first = launch(toml, [])
  await until('ssh', () => existsSync(`${STARTED}.now`))
  await new Promise<void>((done) => other.listen(SOCKET, done))
  assert.is((await first.said).code, 255)
  assert.ok(lstatSync(SOCKET).isSocket())
  await new Promise((done) => other.close(done))
})

test('a stale socket is removed', async () => {
  folder('run/nix-lan', true)
  const dead = spawn(process.execPath, [
    '-e',
    `require('net').createServer().listen('${SOCKET}', () => process.kill(process.pid, 'SIGKILL'))`,
  ])
  await new Promise((done) => dead.on('exit', done))
  fakeSsh(`[ ! -e "$socket" ] || exit 9`)
  assert.is((await tunnel(toml)).code, 0)
})

test('the directory: open to others is mended, a symlink is refused, missing below is said', async () => {
  chmodSync(folder('run/nix-lan', true), 0o777)
  assert.is((await tunnel(toml)).code, 0)
  assert.is(statSync(DIRECTORY).mode & 0o777, 0o700)
  rmSync(DIRECTORY, { recursive: true })
  symlinkSync(folder('elsewhere', true), DIRECTORY)
  const led = await tunnel(toml)
  assert.equal(
    [led.code, led.stderr],
    [1, `nix-lan-tunnel: ${DIRECTORY} is not a directory, so sockets in it can't be trusted; remove it\n`],
  )
  const none = await tunnel(toml, [], { XDG_RUNTIME_DIR: `${TMP}/none` })
  assert.is(none.code, 1)
  assert.match(none.stderr, /none does not exist: a login makes it, or without a login: sudo loginctl enable-linger/)
  const odd = await tunnel(toml, [], { XDG_RUNTIME_DIR: `${TMP}/a:b` })
  assert.equal([odd.code, /may only have letters/.test(odd.stderr)], [2, true])
})

test('whose tunnel: only the configured user', async () => {
  const { code, stderr } = await tunnel(`user = "${USER === 1 ? 'root' : 'daemon'}"\n${toml}`)
  assert.is(code, 2)
  assert.match(
    stderr,
    /^nix-lan-tunnel: the ssh keys of the tunnel are (daemon|root)'s \(user in .*\); run it as (daemon|root): sudo -u (daemon|root) \/\S+\/nix-lan-tunnel\n$/,
  )
})

test('which cache: the only box, beside URLs; a URL needs none', async () => {
  const both = `${toml}[cache.nas]\nurl = "http://nas.local"\n`
  assert.is((await tunnel(both)).code, 0)
  const url = await tunnel(both, ['nas'])
  assert.equal([url.code, url.stderr], [2, 'nix-lan-tunnel: nas is a URL (http://nas.local), which needs no tunnel\n'])
  const two = await tunnel(both + toml.replace('cache.rpi', 'cache.pc'))
  assert.equal([two.code, /which cache\? .* has rpi, pc\n$/.test(two.stderr)], [2, true])
  const none = await tunnel('[cache.nas]\nurl = "http://nas.local"\n')
  assert.equal([none.code, /has no box/.test(none.stderr)], [2, true])
})

test("the user's own forwardings are not made: ssh is asked for ours once it is connected", async () => {
  fakeSsh(
    // Asked, it lets the one who is connected listen; until then that one listens at its control
    // socket.
    `case " $* " in *' -O forward '*) echo "$*" >'${STARTED}.asked'; : >'${STARTED}.go'; exit ;; esac
for word; do case $word in ControlPath=*) control=\${word#*=} ;; esac; done
exec '${process.execPath}' -e "process.on('SIGTERM', () => process.exit(0)); const { createServer } = require('net'); createServer().listen('$control')
setInterval(() => require('fs').existsSync('${STARTED}.go') && createServer().listen('${SOCKET}').on('error', () => {}), 50)"`,
    'hostname 127.0.0.1\nlocalforward 8080 [localhost]:80',
  )
  const { child, said } = launch(toml, [])
  await until('the socket', () => existsSync(SOCKET))
  child.kill('SIGTERM')
  assert.equal([(await said).code, (await said).stderr], [0, ''])
  assert.match(
    readFileSync(`${STARTED}.asked`, 'utf8'),
    new RegExp(`^-F none .* -O forward -L ${SOCKET}:/nix/var/nix/daemon-socket/socket box\n$`),
  )
  assert.not(existsSync(SOCKET))
  // Refused (the socket is taken, say), the tunnel ends.
  fakeSsh(
    `case " $* " in *' -O forward '*) exit 255 ;; esac
for word; do case $word in ControlPath=*) control=\${word#*=} ;; esac; done
exec '${process.execPath}' -e "process.on('SIGTERM', () => process.exit(255)); require('net').createServer().listen('$control')"`,
    'hostname 127.0.0.1\nlocalforward 8080 [localhost]:80',
  )
  assert.is((await tunnel(toml)).code, 255)
})

test("a live socket whose listener ends each connection at once is nobody else's to remove", async () => {
  folder('run/nix-lan', true)
  const busy = createServer((socket) => socket.destroy())
  await new Promise<void>((done) => busy.listen(SOCKET, done))
  give(SOCKET) // the user's own, who may connect to it
  for (let n = 0; n < 20; n++) {
    const { code, stderr } = await tunnel(toml)
    assert.equal([code, stderr], [1, `nix-lan-tunnel: a tunnel for rpi runs already: somebody listens on ${SOCKET}\n`], `attempt ${n + 1}`)
  }
  await new Promise((done) => busy.close(done))
})

test.after(() => void server.close())
test.run()
