// nix-lan status from outside: with no box, a box that answers, one that is unresponsive; with
// systemd's words and without; as JSON and on a terminal.
import { spawn, spawnSync } from 'node:child_process'
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { string, u64 } from '../../scripts/protocol/wire.ts'
import { AS_USER, ROOT, USER } from '../lib/as-user.ts'
import { changed } from '../lib/changed.ts'
import { compare } from '../lib/compare.ts'
import { needs } from '../lib/needs.ts'
import { HANGS, until } from '../lib/until.ts'

const test = suite('status')
const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-status-'))
/** nix-lan, but only a hang of Nix is too long for it. */
const NIX_LAN = changed(resolve('dist/nix-lan'), TMP, [/^( *SIZES = )\d+;$/m, '$16e4;'])
const RUNTIME = process.env.NIX_LAN_TEST_RUNTIME ?? join(TMP, 'runtime')
const QUEUE = join(TMP, 'state/gcroots/nix-lan/queue/rpi')
const HELLO = '00000000000000000000000000000000-hello'
const servers: Server[] = []

for (const name of ['bin', 'runtime', 'run', 'run/nix-lan', 'run/systemd', 'home', 'home/.local/state/nix-lan', 'none'])
  mkdirSync(join(TMP, name), { recursive: true, mode: 0o755 })
for (const kind of ['queue', 'failed']) mkdirSync(join(TMP, `state/gcroots/nix-lan/${kind}/rpi`), { recursive: true })
if (!process.env.NIX_LAN_TEST_RUNTIME) symlinkSync(process.execPath, join(TMP, 'runtime/node'))
chmodSync(TMP, 0o755)
chmodSync(join(TMP, 'run/nix-lan'), 0o700)
symlinkSync(`/nix/store/${HELLO}`, join(QUEUE, HELLO))
// 192.0.2.1 is nobody's (RFC 5737): an attempt to reach it would take all of the minute.
writeFileSync(join(TMP, 'config.toml'), '[cache.rpi]\nhost = "192.0.2.1"\ndeadline = "60s"\n')
program('nix-store', 'echo 1048576')
writeFileSync(
  join(TMP, `home/.local/state/nix-lan/fetched.${encodeURIComponent(join(TMP, 'run/nix-lan/rpi.sock'))}.2026-01`),
  '1767225600 7 7168\n',
)
if (ROOT) for (const path of ['run', 'run/nix-lan', 'home']) chownSync(join(TMP, path), USER, USER)

/** A program in PATH. */
function program(name: string, script: string): void {
  writeFileSync(join(TMP, 'bin', name), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
}

const environment = (env: Record<string, string> = {}): Record<string, string> => ({
  PATH: `${TMP}/bin:${RUNTIME}:/usr/bin:/bin`,
  HOME: join(TMP, 'home'),
  XDG_RUNTIME_DIR: join(TMP, 'run'),
  NIX_STATE_DIR: join(TMP, 'state'),
  NIX_LAN_CONFIG: join(TMP, 'config.toml'),
  ...env,
})

interface Done {
  code: number | null
  stdout: string
  stderr: string
}

/** Not spawnSync: the boxes are in this process. */
function nixLan(args: string[], env: Record<string, string> = {}): Promise<Done> {
  const [command = '', ...rest] = [...AS_USER, NIX_LAN, ...args]
  const child = spawn(command, rest, { env: environment(env), stdio: ['ignore', 'pipe', 'pipe'], timeout: HANGS })
  const done: Done = { code: null, stdout: '', stderr: '' }
  child.stdout.on('data', (text) => (done.stdout += text))
  child.stderr.on('data', (text) => (done.stderr += text))
  return new Promise((resolve) => child.on('close', (code) => resolve({ ...done, code })))
}

interface Json {
  check: object | null
  caches: {
    state: string
    reason: string
    since: string
    detail: string
    tunnel: { failures: number }
    queue: { queued: number; size: number; oldest: string }
    fetched: { all: object; today: object }
  }[]
}

/** What --json says of the one cache. */
async function asked(env: Record<string, string> = {}): Promise<Json['caches'][0] & { check: object | null }> {
  const { code, stdout, stderr } = await nixLan(['status', '--json'], env)
  assert.is(code, 0, stderr)
  const { caches, check } = JSON.parse(stdout) as Json
  assert.is(caches.length, 1)
  return { ...(caches[0] as Json['caches'][0]), check }
}

/**
 * What it says once the cache is in that state. A box has half a second to answer, and on a busy
 * machine neither it nor who asks may get as much.
 */
async function askedUntil(state: string): Promise<Json['caches'][0]> {
  let last = await asked()
  const isThere = async (): Promise<boolean> => {
    if (last.state !== state) last = await asked()
    return last.state === state
  }
  await until(state, isThere, () => `${last.state}: ${last.reason}`)
  return last
}

/**
 * Listens where the tunnel would, until the returned function is called; and shakes hands, and
 * answers a question, as a nix-daemon does.
 */
async function box(does: 'nothing' | 'shakes hands' | 'answers'): Promise<() => Promise<void>> {
  const server = createServer((socket) => {
    let got = 0
    socket
      .on('error', () => {})
      .on('data', (bytes) => {
        const before = got
        got += bytes.length
        if (does === 'answers' && before <= 32 && got > 32) socket.write(Buffer.concat([u64(0x616c7473), u64(0)]))
      })
    if (does !== 'nothing') socket.write(Buffer.concat([u64(0x6478696f), u64(0x0122), string('2.26.3'), u64(0x616c7473)]))
  })
  const path = join(TMP, 'run/nix-lan/rpi.sock')
  await new Promise<void>((done) => server.listen(path, done))
  chmodSync(path, 0o777)
  servers.push(server)
  return () => {
    rmSync(path, { force: true })
    return new Promise((done) => void server.close(() => done()))
  }
}

test('no tunnel, no systemd: away, and the box is not waited for; what waits and what was fetched', async () => {
  const { state, reason, queue, fetched, check } = await asked()
  assert.equal(
    [state, reason, check],
    ['away', `no tunnel; sudo ${NIX_LAN} setup makes one for good, nix-lan-tunnel rpi one for now`, null],
  )
  assert.equal([queue.queued, queue.size], [1, 2 ** 20])
  assert.ok(Date.now() - Date.parse(queue.oldest) < 600_000)
  assert.equal(
    [fetched.all, fetched.today],
    [
      { paths: 7, bytes: 7168 },
      { paths: 0, bytes: 0 },
    ],
  )
})

test('nix-lan alone is status; without a configuration it is the help', async () => {
  for (const args of [[], ['status']]) {
    const { code, stdout } = await nixLan(args)
    assert.is(code, 0)
    assert.match(stdout, /^rpi: away; no tunnel/)
    assert.match(stdout, /^ {2}queue {5}1 path, 1\.0 MiB, since /m)
    assert.match(stdout, /^ {2}fetched {3}\d+d ago; in all 7 paths, 7\.0 KiB$/m)
  }
  assert.match((await nixLan(['--json'])).stdout, /^\{\n/)
  assert.is((await nixLan(['--jsn'])).code, 2)
  const none = await nixLan([], { NIX_LAN_CONFIG: '' })
  if (ROOT || none.code === 0) assert.match(none.stdout, /^(Usage: |nix-lan: a machine)/) // a developer may have a configuration
})

test('a box that answers is usable', async () => {
  const end = await box('answers')
  const { state, detail, reason } = await askedUntil('usable').finally(end)
  assert.equal([state, detail, reason], ['usable', 'Nix 2.26.3', null])
})

test('a box that shakes hands and does not answer, as with a read-only /nix, is slow, not away, and not waited for', async () => {
  const end = await box('shakes hands')
  const { reason } = await askedUntil('slow').finally(() => void end())
  assert.match(reason, /shakes hands, but has answered nothing within 0\.5 s: the box's disk may be waking up, or its \/nix is read-only/)
})

test('an unresponsive box is not waited for as long as its deadline', async () => {
  const end = await box('nothing')
  const { state, reason } = await asked().finally(() => void end())
  assert.is(state, 'away')
  assert.match(reason, /no nix-daemon answered within 0\.5 s/)
})

test('what systemd says: since when it is reachable, and when it was last looked for', async () => {
  const unit = (active: string, more = ''): string => `LoadState=loaded\nActiveState=${active}\n${more}\n`
  const units = [
    unit('active'),
    unit('inactive', 'InactiveEnterTimestamp=Sun 2026-11-22 18:05:00 UTC'),
    unit('active', 'ActiveEnterTimestamp=Sun 2026-11-22 18:02:00 UTC'),
    unit('activating', 'StatusText=waiting 8 s: Permission denied'),
    unit('inactive'),
  ]
  writeFileSync(join(TMP, 'bin/answer'), units.join('\n'))
  program('systemctl', `[ "$TZ" = UTC ] && case "$*" in *"--user"*show*) cat ${TMP}/bin/answer ;; *) exit 1 ;; esac`)
  writeFileSync(join(TMP, 'run/systemd/private'), '')
  const { state, since, reason, check, tunnel } = await asked()
  assert.equal([state, since, reason], ['reachable', '2026-11-22T18:02:00.000Z', 'waiting 8 s: Permission denied'])
  assert.equal(check, { timer: true, last: '2026-11-22T18:05:00.000Z' })
  assert.is(tunnel.failures, 0)
  const text = await nixLan([])
  assert.match(text.stdout, /looks twice a minute\n$/)
  program('systemctl', 'echo "Failed to connect to bus" >&2; exit 1')
  const without = await nixLan([])
  assert.is(without.code, 0)
  assert.match(without.stderr, /^nix-lan status: .*Failed to connect to bus\n$/)
  assert.match(without.stdout, /^rpi: away/)
  rmSync(join(TMP, 'run/systemd/private'))
})

test('colours only on a terminal', async () => {
  assert.not((await nixLan([], { TERM: 'xterm', FORCE_COLOR: '1' })).stdout.includes('\u001b'))
})

test('--watch needs a terminal, and no --json', async () => {
  assert.match((await nixLan(['status', '--watch'])).stderr, /^nix-lan status: --watch draws on a terminal/)
  assert.match((await nixLan(['status', '--watch', '--json'])).stderr, /exclude each other/)
})

test('--help names every key of --json', async () => {
  const help = (await nixLan(['status', '--help'])).stdout
  const keys = (value: unknown): string[] =>
    typeof value !== 'object' || value === null
      ? []
      : Object.entries(value).flatMap(([key, of]) => [...(/^\d+$/.test(key) ? [] : [key]), ...keys(of)])
  for (const key of keys(JSON.parse((await nixLan(['status', '--json'])).stdout))) assert.match(help, new RegExp(`\\b${key}\\b`), key)
})

const tty = needs(suite('status on a terminal'), 'script')

/** Runs nix-lan on a terminal of 80 columns, with `keys` typed when the first picture is there. */
function onTerminal(command: string, keys: string, env: Record<string, string> = {}): Promise<string> {
  const line = [...AS_USER, 'sh', '-c', `stty cols 80 rows 24; ${command}; echo "code $?"; stty -a`].map(
    (word) => `'${word.replaceAll("'", "'\\''")}'`,
  )
  const child = spawn('script', ['-qec', line.join(' '), '/dev/null'], {
    env: environment({ TERM: 'xterm', ...env }),
    stdio: ['pipe', 'pipe', 'inherit'],
    timeout: HANGS,
  })
  let output = ''
  let typed = false
  child.stdout.on('data', (text) => {
    output += text
    if (!typed && keys !== '' && output.includes('fetched')) {
      typed = true
      child.stdin.write(keys)
    }
  })
  return new Promise((resolve) => child.on('close', () => resolve(output)))
}

tty('colours, unless NO_COLOR is set', async () => {
  const words = async (env: Record<string, string>): Promise<string> => await onTerminal(NIX_LAN, '', env)
  assert.ok((await words({})).includes('\u001b[31maway\u001b[0m'))
  assert.not((await words({ NO_COLOR: '1' })).includes('\u001b[31m'))
  assert.not((await words({ TERM: 'dumb' })).includes('\u001b[31m'))
})

for (const [name, key] of [
  ['q', 'q'],
  ['^C', '\u0003'],
] as const) {
  tty(`--watch ends on ${name}, with the terminal as it was`, async () => {
    const output = await onTerminal(`${NIX_LAN} status --watch`, key)
    assert.ok(output.includes('\u001b[?1049h\u001b[?25l'))
    assert.ok(output.includes('\u001b[?25h\u001b[?1049l'))
    assert.match(output, /code 0\r\n/)
    assert.match(output, /[^-]icanon/)
    assert.match(output, /[^-]isig/)
  })
}

tty('how long it takes while the box is away', async () => {
  const time = async (...command: string[]): Promise<number> => {
    const [program = '', ...args] = [...AS_USER, NIX_LAN, ...command]
    const started = performance.now()
    spawnSync(program, args, { env: environment(), stdio: 'ignore' })
    return performance.now() - started
  }
  const enough = ({ status, bare }: Record<'status' | 'bare', number>): boolean => status < bare * 3
  const { status, bare } = await compare({ status: () => time('status'), bare: () => time('--version') }, enough)
  console.log(`figure: nix-lan status, box away: ${status.toFixed(0)} ms (nix-lan --version: ${bare.toFixed(0)} ms)`)
  assert.ok(status < bare * 4, 'most of it is the runtime’s start')
})

tty.after(() => {
  for (const server of servers) server.close()
  rmSync(TMP, { recursive: true, force: true })
})

test.run()
tty.run()
