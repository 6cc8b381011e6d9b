// What every file of dist/ promises before its own JavaScript begins: it starts in each runtime,
// from anywhere, in any environment, and does the harmless thing where there is no runtime.
// NIX_LAN_TEST_RUNTIME is a directory with the one runtime to test (test/runtimes.sh); default: the
// Node that runs this.
import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { VERSION } from '../../scripts/cli/version.ts'
import { needs } from '../lib/needs.ts'

/**
 * What a bundle may weigh, in KiB, hardly more than it does: so that nobody makes a hot path heavy
 * without noticing.
 */
const BUDGET: Record<string, number> = {
  demo: 205,
  'nix-lan': 680,
  'nix-lan-available': 115,
  'nix-lan-connect': 212,
  'nix-lan-dispatcher': 80,
  'nix-lan-run': 140,
  'nix-lan-tunnel': 151,
  'post-build-hook': 95,
}
const NAMES = Object.keys(BUDGET)
const NO_RUNTIME = 'no JavaScript runtime found: install Node 18.19 or later, Deno 2 or Bun'

const DIST = resolve('dist')
const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-launcher-'))
const RUNTIME = process.env.NIX_LAN_TEST_RUNTIME ?? folder('runtime', { node: process.execPath })

/** A new directory of TMP; `links` are symlinks in it: name → target. */
function folder(name: string, links: Record<string, string> = {}): string {
  const path = join(TMP, name)
  mkdirSync(path, { recursive: true })
  for (const [link, target] of Object.entries(links)) symlinkSync(target, join(path, link))
  return path
}

/** A sh script. */
function script(path: string, text: string): string {
  writeFileSync(path, `#!/bin/sh\n${text}\n`)
  chmodSync(path, 0o755)
  return path
}

/** Copies an executable of dist/, alone. */
function copy(name: string, to: string): string {
  copyFileSync(join(DIST, name), to)
  return to
}

/**
 * A copy whose head looks for a runtime outside PATH in `directories` only: on the machine that
 * runs this, the real ones have one.
 */
function copyLooking(name: string, to: string, directories: string): string {
  const text = readFileSync(join(DIST, name), 'utf8')
  const changed = text.replace(/^nix_lan_directories=\/usr\/local\/bin:.*$/m, `nix_lan_directories=${directories}`)
  assert.is.not(changed, text, `${name}: the head's list of directories was not found`)
  writeFileSync(to, changed)
  chmodSync(to, 0o755)
  return to
}

interface Setting {
  path?: string
  env?: Record<string, string>
  cwd?: string
  input?: string
}

/** Runs a program with nothing in the environment but PATH and HOME. */
function start(program: string, args: string[], { path = RUNTIME, env = {}, cwd = TMP, input = '' }: Setting = {}) {
  const done = spawnSync(program, args, { env: { PATH: path, HOME: TMP, ...env }, cwd, input, encoding: 'utf8', timeout: 60_000 })
  return { code: done.status, stdout: done.stdout, stderr: done.stderr }
}

const runs = suite('every executable')
const asRoot = needs(runs, 'root')

runs('is there, is executable and stays in its budget', () => {
  assert.equal(readdirSync(DIST).sort(), [...NAMES, 'completions', 'man', 'package.json', 'systemd'].sort())
  for (const name of NAMES) {
    const { mode, size } = statSync(join(DIST, name))
    assert.is(mode & 0o777, 0o755, `${name}: mode ${(mode & 0o777).toString(8)}`)
    assert.ok(size <= (BUDGET[name] ?? 0) * 1024, `${name}: ${Math.ceil(size / 1024)} KiB, budget ${BUDGET[name]} KiB`)
  }
})

for (const name of NAMES) {
  const version = { code: 0, stdout: `${name} ${VERSION}\n`, stderr: '' }

  runs(`${name} runs by path and by symlink`, () => {
    assert.equal(start(join(DIST, name), ['--version']), version)
    assert.equal(start(join(folder(`link-${name}`, { [name]: join(DIST, name) }), name), ['--version']), version)
    assert.equal(start(`./${name}`, ['--version'], { cwd: DIST }), version)
  })

  runs(`${name} --help fits a terminal of 80 columns, but for what is to be pasted`, () => {
    const helps = [
      ['--help'],
      ...(name === 'nix-lan'
        ? [
            ['queue', '--help'],
            ['check', '--help'],
          ]
        : []),
    ].map((args) => start(join(DIST, name), args).stdout)
    for (const line of helps.join('').split('\n')) assert.ok(line.length <= 80 || line.includes('://'), line)
  })

  for (const type of ['module', 'commonjs', 'nothing']) {
    runs(`${name} runs copied alone to where package.json says ${type}`, () => {
      const to = folder(`${type} ${name}`) // with a space, as in any path
      writeFileSync(join(to, 'deno.json'), '{ "broken')
      if (type !== 'nothing') writeFileSync(join(to, 'package.json'), JSON.stringify({ type }))
      assert.equal(start(copy(name, join(to, name)), ['--version']), version)
    })
  }

  runs(`${name} heeds neither the environment nor the directory it is started in`, () => {
    const cwd = folder(`hostile-${name}`)
    writeFileSync(join(cwd, 'evil.js'), 'console.log("evil")')
    writeFileSync(join(cwd, 'bunfig.toml'), 'preload = ["./evil.js"]')
    writeFileSync(join(cwd, 'deno.json'), '{ "broken')
    writeFileSync(join(cwd, 'package.json'), '{ "broken')
    const env = { NODE_OPTIONS: '--require ./evil.js', BUN_OPTIONS: '--preload ./evil.js', NODE_EXTRA_CA_CERTS: '/nonexistent' }
    assert.equal(start(join(DIST, name), ['--version'], { cwd, env }), version)
  })

  asRoot(`${name} as root: no variable makes a runtime load code or write files; HOME's caches are left alone`, () => {
    const cwd = folder(`root-${name}`)
    writeFileSync(join(cwd, 'evil.js'), 'console.log("evil")')
    const home = folder(`home-${name}`)
    const lands = folder(`lands-${name}`)
    const env = {
      HOME: home,
      XDG_CACHE_HOME: home,
      BUN_INSPECT_PRELOAD: './evil.js',
      BUN_RUNTIME_TRANSPILER_CACHE_PATH: lands,
      DENO_DIR: lands,
      DENO_COVERAGE_DIR: lands,
      NODE_COMPILE_CACHE: lands,
      NODE_V8_COVERAGE: lands,
      NODE_REDIRECT_WARNINGS: join(lands, 'warnings'),
      NODE_DEBUG: 'module',
      OPENSSL_CONF: join(cwd, 'evil.js'),
    }
    assert.equal(start(join(DIST, name), ['--version'], { cwd, env }), version)
    assert.equal([readdirSync(home), readdirSync(lands)], [[], []])
  })

  runs(`${name} finds a runtime without PATH`, () => {
    const file = copyLooking(name, join(folder('bare'), name), `/nonexistent:${RUNTIME}`)
    for (const path of ['', '/nonexistent', ':.:']) assert.equal(start(file, ['--version'], { path }), version, `PATH=${path}`)
  })

  runs(`${name} passes by what only has a runtime's name`, () => {
    const odd = folder(`odd-${name}`, { deno: '/nonexistent', bun: '/' })
    writeFileSync(join(odd, 'node'), 'not executable')
    assert.equal(start(join(DIST, name), ['--version'], { path: `${odd}:${RUNTIME}` }), version)
  })
}

// That it helps takes hundreds of runs to see, with Node 24 or later: see scripts/heads/runtime.sh.
runs('Node is started without compiler threads, which may keep it from ending', () => {
  const fake = folder('shows')
  script(join(fake, 'node'), 'echo "$1 $2" "${3##*/}"')
  for (const name of NAMES) {
    const { stdout } = start(join(DIST, name), ['--version'], { path: `${fake}:/usr/bin:/bin` })
    assert.is(stdout, `--no-concurrent-recompilation --no-concurrent-sparkplug ${name}\n`)
  }
})

asRoot('as root the JavaScript gets the variables of the list and no others, whatever is in them', () => {
  const fake = folder('fake')
  script(join(fake, 'node'), 'tr "\\0" "\\n" </proc/self/environ >"${0%/*}/seen"')
  const odd = `a b'c"$(echo d)\\\n\u00fc*`
  const env = {
    NIX_CONFIG: odd,
    OUT_PATHS: '',
    SUDO_USER: '-n',
    'BASH_FUNC_x%%': '() { :; }',
    EVIL: '1',
    LD_AUDIT: '/nonexistent',
    IFS: 'x',
  }
  start(join(DIST, 'nix-lan'), ['status'], { path: `${fake}:/usr/bin:/bin`, env })
  const seen = readFileSync(join(fake, 'seen'), 'utf8')
  const own = ['DENO_DIR=/run/nix-lan/deno', 'BUN_RUNTIME_TRANSPILER_CACHE_PATH=/run/nix-lan/bun']
  const given = [`HOME=${TMP}`, `PATH=${fake}:/usr/bin:/bin`, `NIX_CONFIG=${odd}`, 'OUT_PATHS=', 'SUDO_USER=-n']
  const lines = (list: string[]): string[] => list.join('\n').split('\n').sort()
  // some shells set a variable of their own
  assert.equal(
    lines(seen.trimEnd().split('\n')).filter((line) => !/^(PWD|SHLVL|_|OLDPWD)=/.test(line)),
    lines([...own, ...given]),
  )
})

runs('leaves a stdout that others write to as it is', () => {
  // Node gives a program that it starts a socket for stdout, as sshd and systemd do.
  for (const name of NAMES) {
    const { code, stdout } = start('/bin/sh', ['-c', '"$0" --version; echo more', join(DIST, name)])
    assert.equal([code, stdout], [0, `${name} ${VERSION}\nmore\n`], name)
  }
})

const bare = suite('without a runtime')
const NOWHERE = folder('nowhere')

for (const name of NAMES.filter((other) => other !== 'post-build-hook')) {
  bare(`${name} says so, exit 127`, () => {
    const file = copyLooking(name, join(folder('none'), name), '/nonexistent')
    const { code, stdout, stderr } = start(file, ['--version'], { path: NOWHERE })
    assert.equal([code, stdout, stderr.split('\n')[0]], [127, '', `${name}: ${NO_RUNTIME}`])
    // a person is told where it looked, and how to get one; a journal has one line
    if (!/connect|dispatcher/.test(name))
      assert.match(stderr, /\nSearched: PATH, then \/nonexistent\nsudo drops [\s\S]* {2}sudo apt install nodejs .*\n/)
    else assert.is(stderr.split('\n').length, 2)
  })
}

bare('post-build-hook exits 0', () => {
  const file = copyLooking('post-build-hook', join(folder('none'), 'post-build-hook'), '/nonexistent')
  assert.is(start(file, [], { path: NOWHERE, env: { DRV_PATH: 'garbage', OUT_PATHS: '' } }).code, 0)
})

const connect = () => copyLooking('nix-lan-connect', join(folder('none'), 'nix-lan-connect'), '/nonexistent')

bare('nix-lan-connect becomes an empty store of Nix', () => {
  const fake = folder('nix')
  script(join(fake, 'nix-daemon'), 'echo "$*"; while read -r line; do echo "$line"; done')
  const expected = {
    code: 0,
    stdout: '--stdio --store dummy://\nhello\n',
    stderr: `nix-lan-connect: ${NO_RUNTIME}; this cache counts as empty\n`,
  }
  assert.equal(start(connect(), ['/run/x.sock', '--stdio'], { path: fake, input: 'hello\n' }), expected)
  const file = copyLooking('nix-lan-connect', join(folder('none'), 'nix-lan-connect-2'), fake)
  assert.equal(start(file, ['/run/x.sock', '--stdio'], { path: NOWHERE, input: 'hello\n' }), expected)
})

// By a limit on memory, with real Nixes: test/nix/no-runtime.test.ts
bare('nix-lan-connect becomes an empty store when its runtime is there and does not start', () => {
  const fake = folder('nix')
  script(join(fake, 'nix-daemon'), 'echo "$*"; while read -r line; do echo "$line"; done')
  for (const [act, code] of [
    ['exit 127', 127],
    ['kill -9 $$', 137],
  ] as const) {
    const broken = folder(`broken-${code}`)
    script(join(broken, 'node'), act)
    const { stdout, stderr, ...ended } = start(connect(), ['/run/x.sock', '--stdio'], { path: `${broken}:${fake}`, input: 'hello\n' })
    assert.equal([ended.code, stdout], [0, '--stdio --store dummy://\nhello\n'])
    // sh may say "Killed" first
    const line = `nix-lan-connect: ${broken}/node doesn't start (exit code ${code}); this cache counts as empty\n`
    assert.ok(stderr.endsWith(line), stderr)
  }
})

bare('nix-lan-connect without nix-daemon says both', () => {
  const { code, stdout, stderr } = start(connect(), ['/run/x.sock', '--stdio'], { path: NOWHERE })
  assert.equal({ code, stdout }, { code: 127, stdout: '' })
  assert.match(stderr, /^nix-lan-connect: no JavaScript runtime found: [^\n]*; nor is there a nix-daemon [^\n]*\n$/)
})

bare('nix-lan-connect --strict is never an empty store', () => {
  const fake = folder('nix')
  for (const args of [
    ['--strict', '/run/x.sock', '--stdio'],
    ['/run/x.sock', '--strict'],
  ]) {
    assert.equal(start(connect(), args, { path: fake }), { code: 75, stdout: '', stderr: `nix-lan-connect: ${NO_RUNTIME}\n` })
  }
})

const wrapper = (name: string, to = name) => copyLooking('nix-lan-run', join(folder(name), to), '/nonexistent')
const goesOn = (command: string) => `nix-lan-run: no JavaScript runtime found, so ${command} runs with the caches of nix.conf as they are\n`

bare('nix-lan-run becomes the command, with its arguments, stdin and exit code', () => {
  const fake = folder('commands')
  script(join(fake, 'nix'), 'for a in "$@"; do echo "<$a>"; done; read -r line; echo "$line"; exit 7')
  const expected = { code: 7, stdout: '<build>\n<a b>\n<>\n<*>\nhello\n', stderr: goesOn('nix') }
  const args = ['build', 'a b', '', '*']
  const file = wrapper('wrapper', 'nix-lan-run')
  assert.equal(start(file, ['nix', ...args], { path: fake, input: 'hello\n' }), expected)
  assert.equal(start(file, ['--', 'nix', ...args], { path: fake, input: 'hello\n' }), expected)
  assert.equal(start(file, [join(fake, 'nix'), ...args], { path: fake, input: 'hello\n' }), {
    ...expected,
    stderr: goesOn(join(fake, 'nix')),
  })
})

bare('nix-lan-run under the name of a command becomes the next one, never itself or a copy', () => {
  const fake = folder('commands')
  const copied = wrapper('copied', 'nix')
  const linked = join(folder('linked', { nix: wrapper('wrapper', 'nix-lan-run') }), 'nix')
  const path = [folder('linked'), folder('copied'), '/nonexistent', folder('linked'), fake, folder('copied')].join(':')
  for (const file of [linked, copied]) {
    assert.equal(start(file, ['x'], { path, input: 'y\n' }), { code: 7, stdout: '<x>\ny\n', stderr: goesOn('nix') })
    const alone = start(file, ['x'], { path: `${folder('linked')}:${folder('copied')}` })
    assert.equal(alone, { code: 127, stdout: '', stderr: 'nix-lan-run: no other nix in PATH\n' })
  }
})

bare('nix-lan-run says what only JavaScript can do', () => {
  const file = wrapper('wrapper', 'nix-lan-run')
  for (const args of [[], ['--explain', 'nix', 'build'], ['--help']]) {
    const { code, stdout, stderr } = start(file, args, { path: folder('commands') })
    assert.equal([code, stdout, stderr.split('\n')[0]], [127, '', `nix-lan-run: ${NO_RUNTIME}`])
  }
})

bare.after(() => rmSync(TMP, { recursive: true, force: true }))

runs.run()
bare.run()
