// The contract of `nix-lan doctor`: exit code, stdout, stderr. Nix is a sh script; what needs a
// box, systemd or a real store is tried in test/lab/doctor.lab.ts. NIX_LAN_TEST_RUNTIME: see
// launcher.test.ts.
import { type SpawnSyncReturns, spawnSync } from 'node:child_process'
import { chmodSync, chownSync, copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { AS_USER, ROOT, USER } from '../lib/as-user.ts'
import { needs } from '../lib/needs.ts'

const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-doctor-'))
const RUNTIME = process.env.NIX_LAN_TEST_RUNTIME ?? join(TMP, 'runtime')
const BIN = join(TMP, 'bin')
const CONFIG = join(TMP, 'config.toml')
const GOOD = '[cache.rpi]\nhost = "nowhere.invalid"\ndeadline = "300ms"\n\n[cache.web]\nurl = "file:///nowhere/at/all"\n'
/** Longer than anything here takes; only a hang reaches it. */
const LIMIT = 60_000

const NIX = `#!/bin/sh
case "$*" in
--version) echo 'nix (Nix) 2.8.0' ;;
*show-config*) printf '%s\\n' 'post-build-hook =' 'substituters = https://cache.nixos.org/' 'secret-key-files =' 'builders =' ;;
*) exit 1 ;;
esac
`

function doctor(args: string[], env: Record<string, string> = {}): SpawnSyncReturns<string> {
  const [program = '', ...rest] = [...AS_USER, join(BIN, 'nix-lan'), 'doctor', ...args]
  const all = { PATH: `${BIN}:${RUNTIME}:/usr/bin:/bin`, HOME: join(TMP, 'home'), XDG_RUNTIME_DIR: join(TMP, 'run') }
  const nixLan = { NIX_STATE_DIR: join(TMP, 'state'), NIX_LAN_CONFIG: CONFIG }
  return spawnSync(program, rest, { env: { ...all, ...nixLan, ...env }, cwd: join(TMP, 'home'), encoding: 'utf8', timeout: LIMIT })
}

interface Finding {
  check: string
  cache?: string
  state: string
  found: string
  fix: string | null
}

function findings(args: string[], env: Record<string, string> = {}): { code: number | null; found: Finding[] } {
  const { status, stdout, stderr } = doctor([...args, '--json'], env)
  assert.is(stderr, '')
  return { code: status, found: JSON.parse(stdout) as Finding[] }
}

function one(found: Finding[], check: string): Finding {
  const finding = found.find((candidate) => candidate.check === check)
  if (finding) return finding
  throw new Error(`no check ${check} among ${found.map(({ check: name }) => name).join(', ')}`)
}

const test = needs(suite('nix-lan doctor'), ...(ROOT ? ['setpriv'] : []))

test.before(() => {
  chmodSync(TMP, 0o755)
  for (const name of ['bin', 'home', 'run', 'state', 'runtime']) mkdirSync(join(TMP, name))
  symlinkSync(process.execPath, join(TMP, 'runtime/node'))
  for (const name of ['nix-lan', 'nix-lan-connect']) copyFileSync(resolve('dist', name), join(BIN, name))
  writeFileSync(join(BIN, 'nix'), NIX, { mode: 0o755 })
  if (ROOT) for (const name of ['home', 'run', 'state']) chownSync(join(TMP, name), USER, USER)
})
test.before.each(() => writeFileSync(CONFIG, GOOD))
process.on('exit', () => rmSync(TMP, { recursive: true, force: true }))

test('wrong usage: exit 2, one line', () => {
  const table: [args: string[], says: RegExp][] = [
    [['rpi', 'web'], /one cache at a time/],
    [['--ofline'], /did you mean --offline\?/],
    [['rpy'], /no cache is called "rpy".*did you mean rpi\?/],
  ]
  for (const [args, says] of table) {
    const { status, stdout, stderr } = doctor(args)
    assert.equal([status, stdout, stderr.split('\n').length], [2, '', 2], `${args}: ${stderr}`)
    assert.match(stderr, says)
  }
})

test('somebody else’s queue: exit 2, and who has to run it', () => {
  writeFileSync(CONFIG, `user = "daemon"\n${GOOD}`)
  const { status, stdout, stderr } = doctor([])
  assert.equal([status, stdout], [2, ''])
  assert.match(stderr, /ssh key are daemon's \(user in .*\); run it as daemon: /)
  assert.ok(stderr.endsWith(` sudo -u daemon ${join(BIN, 'nix-lan')} doctor\n`), stderr)
})

test('help: what it does, exit codes, examples', () => {
  const { status, stdout, stderr } = doctor(['--help'])
  assert.equal([status, stderr], [0, ''])
  assert.match(stdout, /Exit code: 0 nothing failed[\s\S]*Examples:\n {2}nix-lan doctor\n/)
})

test('a configuration that is wrong: named as it is, and what needs it is not blamed', () => {
  writeFileSync(CONFIG, 'usr = "alice"\n')
  const { code, found } = findings(['--offline'])
  assert.is(code, 1)
  const configuration = one(found, 'configuration')
  assert.is(configuration.state, 'failed')
  assert.match(configuration.found, `${CONFIG}:1: usr: unknown key; did you mean user?`)
  assert.is(one(found, 'session').state, 'skipped')
  assert.not.ok(found.some(({ cache }) => cache !== undefined))
})

test('no configuration: the first step', () => {
  const { found } = findings(['--offline'], { NIX_LAN_CONFIG: '', HOME: '/nowhere' })
  // Where the machine that runs the tests has one, it is found.
  const { state, fix } = one(found, 'configuration')
  if (state === 'failed') assert.match(fix ?? '', /^sudo \S*nix-lan setup USER@HOST /)
})

test('--offline: every check by name; what uses the network is skipped; the first link that is missing is the one that failed', () => {
  const { code, found } = findings(['--offline'])
  assert.is(code, 1)
  const names =
    'configuration nix nix.conf daemon runtime bash hook signing fallback min-free builders unsigned queues session units timer linger dispatcher'
  const perBox = "substituter,connect,broker,own settings,queue,waiting,name,port,login,box's daemon,tunnel,kept,build,upload,fetch"
  assert.equal(
    found.map(({ check }) => check),
    [...names.split(' '), ...perBox.split(','), 'allowed', 'answers'],
  )
  assert.equal([one(found, 'nix').state, one(found, 'nix').found.slice(0, 9)], ['ok', 'Nix 2.8.0'])
  for (const name of ['hook', 'signing', 'substituter', 'queue']) assert.is(one(found, name).state, 'failed', name)
  for (const name of ['connect', 'own settings', 'waiting', 'port', 'fetch']) assert.is(one(found, name).state, 'skipped', name)
  assert.match(one(found, 'name').found, /--offline/)
  assert.match(one(found, 'substituter').fix ?? '', `extra-substituters = ssh-ng://localhost?remote-program=${BIN}/nix-lan-connect%20`)
  assert.match(one(found, 'queue').fix ?? '', /^sudo install -d -o \S+ /)
})

test('a box that is away is said to be away, and nothing behind it is blamed; a cache with a url is only a warning', () => {
  const { found } = findings([])
  assert.equal([one(found, 'name').state, one(found, 'port').state, one(found, 'login').state], ['failed', 'skipped', 'skipped'])
  assert.match(one(found, 'name').found, /^away: nowhere\.invalid /)
  assert.equal([one(found, 'answers').state, one(found, 'answers').cache], ['warning', 'web'])
  assert.equal(new Set(findings(['--offline', 'web']).found.map(({ cache }) => cache)), new Set([undefined, 'web']))
})

test('the report for people: a heading for each cache, a last line that counts', () => {
  const { status, stdout, stderr } = doctor(['--offline'])
  assert.equal([status, stderr], [1, ''])
  assert.match(stdout, /^this machine:\nok {7}configuration {2}/)
  assert.match(stdout, /\n\nrpi:\nFAILED {3}substituter/)
  assert.match(stdout, /\nskipped {2}name, port, [\s\S]*\(not with --offline\)\n/)
  assert.match(stdout, /\n\n\d+ failed, (\d+ warnings?, )?\d+ not checked\n$/)
  for (const line of stdout.split('\n')) if (!/fix: |^ {29}|^skipped/.test(line)) assert.ok(line.length <= 100, line)
})

test('a Nix of the user’s own: no daemon, and nothing has to be root’s', () => {
  const state = join(TMP, 'single')
  const program = join(TMP, 'home/nix-lan-connect')
  const hook = join(TMP, 'home/post-build-hook')
  for (const path of [state, join(state, 'db'), join(TMP, 'home/bin')]) mkdirSync(path)
  for (const path of [program, hook]) writeFileSync(path, '#!/bin/sh\n# nix-lan\n', { mode: 0o755 })
  if (ROOT) for (const path of [state, join(state, 'db'), program, hook]) chownSync(path, USER, USER)
  const url = `ssh-ng://localhost?remote-program=${program}%20--deadline%200.3%20${TMP}/run/nix-lan/rpi.sock`
  const nix = NIX.replace("'post-build-hook ='", `'post-build-hook = ${hook}'`).replace('https://cache.nixos.org/', url)
  writeFileSync(join(TMP, 'home/bin/nix'), nix, { mode: 0o755 })
  const env = { NIX_STATE_DIR: state, PATH: `${join(TMP, 'home/bin')}:${BIN}:${RUNTIME}:/usr/bin:/bin` }
  const { found } = findings(['--offline', 'rpi'], env)
  assert.match(one(found, 'daemon').found, /^none: this Nix is your own/)
  for (const name of ['hook', 'substituter', 'connect', 'own settings']) assert.is(one(found, name).state, 'ok', one(found, name).found)
  assert.is(one(found, 'signing').fix, 'nix-lan setup')
})

test('a runtime that a package has written into the programs counts, wherever it lies', () => {
  const pinned = join(TMP, 'pinned')
  mkdirSync(join(pinned, 'bin'), { recursive: true })
  symlinkSync(process.execPath, join(pinned, 'bin/node'))
  for (const name of ['nix-lan', 'nix-lan-connect']) {
    const text = readFileSync(resolve('dist', name), 'utf8').replace("nix_lan_pinned=''", `nix_lan_pinned='${pinned}/bin/node'`)
    writeFileSync(join(pinned, name), text, { mode: 0o755 })
  }
  const [program = '', ...rest] = [...AS_USER, join(pinned, 'nix-lan'), 'doctor', '--offline', '--json']
  const env = { PATH: `${BIN}:/usr/bin:/bin`, HOME: join(TMP, 'home'), NIX_LAN_CONFIG: CONFIG }
  const { stdout } = spawnSync(program, rest, { env, encoding: 'utf8', timeout: LIMIT })
  const { found } = one(JSON.parse(stdout) as Finding[], 'runtime')
  assert.match(found, `${pinned}/bin/node`)
})

test('without nix: that is the fault, and what needs it is skipped', () => {
  const { found } = findings(['--offline'], { PATH: `${RUNTIME}:/usr/bin:/bin` })
  if (one(found, 'nix').state === 'ok') return // the machine that runs the tests has one in the usual places
  assert.match(one(found, 'nix').found, /ENOENT/)
  for (const name of ['nix.conf', 'daemon', 'hook', 'signing', 'substituter', 'build']) assert.is(one(found, name).state, 'skipped', name)
})

test.run()
