// The contract of dist/nix-lan-run: the command is as if it had been called without it, but for the
// caches in NIX_CONFIG. The "nix" of these tests is the Node that runs them, under that name: it
// can tell what a program was given. NIX_LAN_TEST_RUNTIME: see launcher.test.ts.
import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, chownSync, copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { VERSION } from '../../scripts/cli/version.ts'
import { AS_USER, ROOT, USER } from '../lib/as-user.ts'
import { needs } from '../lib/needs.ts'
import { HANGS } from '../lib/until.ts'

const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-run-'))

const RUNTIME = process.env.NIX_LAN_TEST_RUNTIME ?? folder('runtime', { node: process.execPath })
const BIN = folder('bin')
const RUN = join(BIN, 'nix-lan-run')
const REAL = folder('real', { nix: process.execPath, 'nix-shell': process.execPath })
const LINKS = folder('links', { nix: RUN, 'nix-shell': RUN })
/** Every test's nix.conf, of which there is none until it writes one. */
const ETC = folder('etc')

/** A new directory of TMP that everybody can read; `links` are symlinks in it: name → target. */
function folder(name: string, links: Record<string, string> = {}): string {
  chmodSync(TMP, 0o755)
  const path = join(TMP, name)
  mkdirSync(path, { recursive: true })
  chmodSync(path, 0o755)
  for (const [link, target] of Object.entries(links)) symlinkSync(target, join(path, link))
  return path
}

function script(directory: string, name: string, text: string): string {
  const path = join(folder(directory), name)
  writeFileSync(path, `#!/bin/sh\n${text}\n`)
  chmodSync(path, 0o755)
  return path
}

/** A configuration that belongs to the user. */
function configuration(text: string): string {
  const path = join(folder('config'), 'config.toml')
  writeFileSync(path, text)
  chmodSync(path, 0o644)
  chownSync(path, USER, process.getgid?.() ?? USER)
  return path
}

interface Setting {
  /** Directories that come before the real nix. */
  path?: string
  env?: Record<string, string | undefined>
  input?: string
  cwd?: string
  /** Text that fd 3 is to hold. */
  fd3?: string
}

const PATH = `${RUNTIME}:${REAL}:/usr/bin:/bin`

function environment({ path, env = {} }: Setting): Record<string, string | undefined> {
  const own = { PATH: path === undefined ? PATH : `${path}:${PATH}`, HOME: TMP, PWD: TMP, SHLVL: '1', XDG_RUNTIME_DIR: join(TMP, 'run') }
  return { ...own, NIX_CONF_DIR: ETC, NIX_USER_CONF_FILES: '', NIX_LAN_CONFIG: join(TMP, 'config/config.toml'), ...env }
}

/** Starts a program as the user. */
function launch(argv: readonly string[], setting: Setting): ChildProcess {
  const [program = '', ...args] = [...AS_USER, ...argv]
  const child = spawn(program, args, { env: environment(setting), cwd: setting.cwd ?? TMP, stdio: ['pipe', 'pipe', 'pipe', 'pipe'] })
  child.stdin?.on('error', () => {})
  child.stdin?.end(setting.input ?? '')
  const fd3 = child.stdio[3] as NodeJS.WritableStream
  fd3.on('error', () => {})
  fd3.end(setting.fd3 ?? '')
  return child
}

interface Result {
  pid: number | undefined
  code: number | null
  signal: string | null
  stdout: string
  stderr: string
}

/** Runs a program as the user, to its end. */
function start(argv: readonly string[], setting: Setting = {}): Promise<Result> {
  const child = launch(argv, setting)
  const result: Result = { pid: child.pid, code: null, signal: null, stdout: '', stderr: '' }
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (result.stdout += text))
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (result.stderr += text))
  const timer = setTimeout(() => child.kill('SIGKILL'), HANGS)
  return new Promise((done) => {
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      done({ ...result, code, signal })
    })
  })
}

/** Runs `nix -e CODE ARGS…` through nix-lan-run. */
const nix = (code: string, args: string[] = [], setting: Setting = {}) => start([RUN, 'nix', '-e', code, ...args], setting)
/** What such a nix prints as JSON. */
const told = async (code: string, args: string[] = [], setting: Setting = {}) => JSON.parse((await nix(code, args, setting)).stdout)
const NIX_CONFIG = 'console.log(JSON.stringify(process.env.NIX_CONFIG ?? null))'

// A cache that is there: its port answers as any binary cache does. One that is not: nobody else can
// get that port on another address.
let server: Server
let HERE = ''
let AWAY = ''
async function serve(): Promise<void> {
  server = createServer((_, response) => response.end('StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n'))
  const port = await listen(server)
  HERE = `http://127.0.0.1:${port}`
  AWAY = `http://127.0.0.2:${port}`
  configuration(`[cache.here]\nurl = "${HERE}"\ndeadline = "60s"\n\n[cache.away]\nurl = "${AWAY}"\n\n[cache.rpi]\nhost = "127.0.0.1"\n`)
}
const listen = (at: Server) => new Promise<number>((done) => at.listen(0, '127.0.0.1', () => done((at.address() as AddressInfo).port)))

function prepare(): Promise<void> {
  for (const name of ['nix-lan-run', 'nix-lan-connect']) copyFileSync(resolve('dist', name), join(BIN, name))
  return serve()
}

const wanted = ROOT ? ['setpriv'] : []
const through = needs(suite('what goes through'), ...wanted)
through.before(prepare)

through('every argument, byte for byte', async () => {
  const args = `"$(printf 'a\\377\\200\\n\\nb')" '' ' ' "it's" 'a
b' '$(x) \`y\` \\n \\' '-e' '--help' '--' '*'`
  const code = 'process.stdout.write(require("fs").readFileSync("/proc/self/cmdline").toString("hex"))'
  const [plain, ours, linked] = await Promise.all(
    [`${REAL}/nix`, `${RUN} nix`, `${LINKS}/nix`].map((command) => start(['sh', '-c', `exec ${command} -e '${code}' -- ${args}`])),
  )
  assert.match(plain?.stdout ?? '', '61ff800a0a62')
  assert.equal(ours, { ...plain, pid: ours?.pid })
  assert.equal(linked, { ...plain, pid: linked?.pid })
})

through('the environment, but for NIX_CONFIG', async () => {
  const odd = {
    EMPTY: '',
    QUOTES: `'"\\ $x`,
    LINES: 'a\n\nb\n\n',
    NODE_OPTIONS: '--no-warnings',
    NODE_EXTRA_CA_CERTS: '/none',
  }
  const env = { ...odd, 'BASH_FUNC_f%%': '() { echo hi; }', 'a.b': 'c' }
  const code = 'console.log(JSON.stringify(process.env))'
  const plain = JSON.parse((await start([`${REAL}/nix`, '-e', code], { env })).stdout)
  const ours = await told(code, [], { env })
  assert.is(plain.LINES, odd.LINES)
  assert.equal({ ...ours, NIX_CONFIG: undefined }, { ...plain, NIX_CONFIG: undefined })
  assert.is(ours.NIX_CONFIG, `extra-substituters = ${HERE}`)
})

through('stdin, an open descriptor, the directory; and the process is the command itself', async () => {
  const code =
    'const read = (fd) => require("fs").readFileSync(fd, "utf8"); console.log(JSON.stringify([read(0), read(3), process.cwd(), process.pid]))'
  const done = await start([RUN, 'nix', '-e', code], { input: 'from stdin', fd3: 'from 3', cwd: folder('a b') })
  assert.equal(JSON.parse(done.stdout), ['from stdin', 'from 3', join(TMP, 'a b'), done.pid])
})

through('the exit code', async () => {
  for (const code of [0, 1, 75, 255]) assert.is((await nix(`process.exit(${code})`)).code, code)
})

through('death by a signal', async () => {
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGKILL'])
    assert.is((await nix(`process.kill(process.pid, "${signal}"); setTimeout(() => {}, 9e4)`)).signal, signal)
})

through('a signal sent to it reaches the command', async () => {
  const child = launch(
    [
      RUN,
      'nix',
      '-e',
      'process.on("SIGUSR1", () => { console.log("told"); process.exit(3) }); setTimeout(() => {}, 3e4); console.log("ready")',
    ],
    {},
  )
  const code = await new Promise((done) => {
    child.stdout?.on('data', (text) => String(text).includes('ready') && child.kill('SIGUSR1'))
    child.on('close', done)
  })
  assert.is(code, 3)
})

through('ignored signals and limits', async () => {
  const code =
    'const s = require("fs").readFileSync("/proc/self/status", "utf8"); console.log(/SigIgn.*/.exec(s)[0], require("fs").readFileSync("/proc/self/limits", "utf8"))'
  const commands = [`${REAL}/nix`, `${RUN} nix`].map((command) =>
    start(['sh', '-c', `ulimit -S -n 77; trap '' USR2; exec ${command} -e '${code}'`]),
  )
  const [plain, ours] = await Promise.all(commands)
  assert.match(plain?.stdout ?? '', /Max open files +\d+/)
  assert.is(ours?.stdout, plain?.stdout)
})
through.run()

const choosing = needs(suite('the caches'), ...wanted)

choosing('an existing NIX_CONFIG is kept byte for byte', async () => {
  const raw =
    'process.stdout.write(require("fs").readFileSync("/proc/self/environ").toString("latin1").split("\\0").find((v) => v.startsWith("NIX_CONFIG=")))'
  const line = `extra-substituters = ${HERE}`
  for (const [before, after] of [
    ['cores = 2', `cores = 2\n${line}`],
    ['cores = 2 # it\\047s a "comment" $(x) \\\\', `cores = 2 # it's a "comment" $(x) \\\n${line}`],
    ['cores = 2\\n', `cores = 2\n${line}`],
    ['# \\n\\n\\377\\201\\210', `# \n\n\xff\x81\x88\n${line}`],
  ] as const) {
    const done = await start([
      'sh',
      '-c',
      `NIX_CONFIG="$(printf '${before}x')"; NIX_CONFIG=\${NIX_CONFIG%x}; export NIX_CONFIG; exec ${RUN} nix -e '${raw}'`,
    ])
    assert.is(Buffer.from(done.stdout).toString(), Buffer.from(`NIX_CONFIG=${after}`).toString())
  }
})

choosing('a nested command adds nothing twice', async () => {
  const nested = `const { spawnSync } = require("child_process"); process.stdout.write(spawnSync("${RUN}", ["nix", "-e", process.argv[1]]).stdout)`
  assert.is(await told(nested, [NIX_CONFIG]), `extra-substituters = ${HERE}`)
})

/** A nix that tells its settings, and notes each time that it is asked. */
function tellingNix(name: string, version: 'old' | 'new' | 'broken', list: string[]): string {
  const words = { old: '*"nix-command show-config"', new: '*"nix-command config show"', broken: 'never' }[version]
  script(
    name,
    'nix',
    `case "$*" in ${words}) echo "$NIX_CONFIG" >>${TMP}/${name}.log; echo 'substituters = ${list.join(' ')}';; *show*) exit 1;; *) printf %s "$NIX_CONFIG";; esac`,
  )
  writeFileSync(join(TMP, `${name}.log`), '')
  chmodSync(join(TMP, `${name}.log`), 0o666)
  return folder(name)
}

const asked = (name: string): number => readFileSync(join(TMP, `${name}.log`), 'utf8').split('\n').length - 1

for (const version of ['old', 'new'] as const) {
  choosing(`one that is away and stands in nix.conf is left out, as nix tells its list (${version} nix)`, async () => {
    writeFileSync(join(ETC, 'nix.conf'), `substituters = https://x ${AWAY}/\n`)
    const path = tellingNix(`telling-${version}`, version, ['https://x', `${AWAY}/?priority=9`, 'https://y'])
    const done = await start([RUN, 'nix', 'build'], { path, env: { NIX_CONFIG: 'cores = 2' } })
    rmSync(join(ETC, 'nix.conf'))
    assert.equal(
      { ...done, pid: 0 },
      { pid: 0, code: 0, signal: null, stderr: '', stdout: `cores = 2\nsubstituters = https://x https://y ${HERE}` },
    )
    assert.is(asked(`telling-${version}`), 1)
  })
}

choosing('nix is not asked when nix.conf names none that is away, nor for our own URL', async () => {
  writeFileSync(
    join(ETC, 'nix.conf'),
    `substituters = https://x ${HERE} ssh-ng://localhost?remote-program=/x/nix-lan-connect%20${TMP}/run/nix-lan/rpi.sock\n`,
  )
  const path = tellingNix('quiet', 'old', [])
  const done = await start([RUN, 'nix', 'build'], { path })
  rmSync(join(ETC, 'nix.conf'))
  assert.equal({ ...done, pid: 0 }, { pid: 0, code: 0, signal: null, stderr: '', stdout: '' })
  assert.is(asked('quiet'), 0)
})

choosing('a nix that tells nothing: one line, and the command runs', async () => {
  writeFileSync(join(ETC, 'nix.conf'), `substituters = ${AWAY}\n`)
  const done = await start([RUN, 'nix', 'build'], { path: tellingNix('broken', 'broken', []) })
  rmSync(join(ETC, 'nix.conf'))
  assert.is(done.stdout, `extra-substituters = ${HERE}`)
  assert.match(done.stderr, /^nix-lan-run: .*did not tell its substituters.*\n$/)
  assert.is(done.code, 0)
})

for (const [name, config, message] of [
  ['missing', undefined, /config\.toml: there is no such file/],
  ['broken', 'cache = 3', /config\.toml:1: /],
] as const) {
  choosing(`a ${name} configuration: one line, and the command runs as it is`, async () => {
    const file = join(folder(`config-${name}`), 'config.toml')
    if (config !== undefined) writeFileSync(file, config)
    if (config !== undefined) chownSync(file, USER, process.getgid?.() ?? USER)
    const done = await nix(NIX_CONFIG, [], { env: { NIX_LAN_CONFIG: file, NIX_CONFIG: 'cores = 2' } })
    assert.equal([done.code, done.stdout], [0, '"cores = 2"\n'])
    assert.match(done.stderr, message)
    assert.match(done.stderr, /^nix-lan-run: [^\n]*\n$/)
  })
}
choosing.run()

const commands = needs(suite('which command'), ...wanted)

commands("as a link it is that command, and every argument is the command's", async () => {
  assert.is((await start([`${LINKS}/nix`, '--version'], { path: LINKS })).stdout, `${process.version}\n`)
  assert.is((await start(['sh', '-c', 'nix-shell --version'], { path: LINKS })).stdout, `${process.version}\n`)
})

commands('several links, a copy and a script that calls nix-lan-run are passed over', async () => {
  const more = folder('more', { nix: `${LINKS}/nix` })
  const copied = folder('copied')
  copyFileSync(RUN, join(copied, 'nix'))
  const wrapper = script('wrapper', 'nix', `exec ${RUN} nix "$@"`).replace(/\/nix$/, '')
  const path = [LINKS, more, copied, wrapper].join(':')
  for (const command of ['nix', `${RUN} nix`, `${copied}/nix`, `${wrapper}/nix`]) {
    assert.is((await start(['sh', '-c', `${command} -p '1 + 1'`], { path })).stdout, '2\n', command)
  }
})

commands('a script that calls itself through nix-lan-run in a way that nobody can see is stopped', async () => {
  const path = script('loop', 'nix', `r=${RUN}; exec $r "$(basename "$0")" "$@"`).replace(/\/nix$/, '')
  const done = await start([RUN, 'nix'], { path })
  assert.is(done.code, 126)
  assert.match(done.stderr, `nix-lan-run: ${path}/nix has started nix-lan-run 10 times over`)
})

commands('a script in place of nix that comes back here is asked for the substituters once', async () => {
  writeFileSync(join(ETC, 'nix.conf'), `substituters = ${AWAY}\n`)
  const log = join(TMP, 'backward.log')
  writeFileSync(log, '')
  chmodSync(log, 0o666)
  const path = script('backward', 'nix', `echo >>${log}; r=${RUN}; exec $r ${REAL}/nix -e 'process.exit(1)'`).replace(/\/nix$/, '')
  const done = await start([RUN, process.execPath, '-p', '"ran"'], { path })
  rmSync(join(ETC, 'nix.conf'))
  assert.equal([done.code, done.stdout], [0, 'ran\n'])
  assert.match(done.stderr, 'did not tell its substituters')
  assert.is(readFileSync(log, 'utf8').length, 2) // show-config, then config show
})

commands('no such command, and one that cannot be run: as a shell has it', async () => {
  const plain = join(folder('plain'), 'nix-lan-test')
  writeFileSync(plain, '')
  for (const [argv, code, message] of [
    [[RUN, 'no-such-command'], 127, 'nix-lan-run: no-such-command: command not found\n'],
    [[RUN, '/no/such'], 127, 'nix-lan-run: /no/such: No such file or directory\n'],
    [[RUN, 'nix-lan-test'], 126, `nix-lan-run: ${plain}: Permission denied\n`],
    [[RUN, TMP], 126, `nix-lan-run: ${TMP}: Is a directory\n`],
  ] as const) {
    const done = await start(argv, { path: folder('plain') })
    assert.equal([done.code, done.stdout, done.stderr], [code, '', message])
  }
})

commands('its own options stand before the command; wrong usage is 2', async () => {
  assert.equal((await start([RUN, '--version'])).stdout, `nix-lan-run ${VERSION}\n`)
  assert.match((await start([RUN, '--help'])).stdout, 'nix-lan-run nix build')
  for (const [args, message] of [
    [[], /^nix-lan-run: which command\?/],
    [[''], /^nix-lan-run: which command\?/],
    [['--explain'], /^nix-lan-run: which command\?/],
    [['--expain', 'nix'], /^nix-lan-run: unknown option --expain; did you mean --explain\?\n$/],
    [['--json', 'nix'], /--json belongs to --explain/],
  ] as const) {
    const done = await start([RUN, ...args])
    assert.equal([done.code, done.stdout], [2, ''], args.join(' '))
    assert.match(done.stderr, message)
  }
})

commands('--explain tells what it would do, and runs nothing', async () => {
  const ran = join(folder('ran'), 'ran')
  const argv = ['nix', '-e', `require("fs").writeFileSync("${ran}", "")`]
  const done = await start([RUN, '--explain', ...argv])
  assert.equal([done.code, done.stderr], [0, ''])
  assert.match(done.stdout, `nix: runs ${REAL}/nix\ncache here: can be used (`)
  assert.match(done.stdout, "cache away: can't be used: ")
  assert.match(done.stdout, `    extra-substituters = ${HERE}\n`)
  const json = JSON.parse((await start([RUN, '--explain', '--json', ...argv])).stdout)
  assert.equal([json.program, json.setting], [`${REAL}/nix`, `extra-substituters = ${HERE}`])
  assert.equal(
    json.caches.map(({ name, action }: Record<string, unknown>) => [name, action]),
    [
      ['here', 'add'],
      ['away', 'leave out'],
      ['rpi', 'leave out'],
    ],
  )
  assert.throws(() => readFileSync(ran), /ENOENT/)
})
commands.run()

// A terminal: script(1) makes one, and what we write to it is typed there.
const terminal = needs(suite('on a terminal'), ...wanted, 'script', 'bash', 'stty')

interface Session {
  type(text: string): void
  /** Waits until the pattern is on the screen, after what was waited for before. */
  see(pattern: RegExp): Promise<RegExpExecArray>
  end(): Promise<void>
}

function session(command: string, setting: Setting): Session {
  const child = spawn('script', ['-qefc', [...AS_USER, command].join(' '), '/dev/null'], {
    env: environment(setting),
    cwd: TMP,
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  let screen = ''
  child.stdin.on('error', () => {})
  child.stdout.setEncoding('utf8').on('data', (text: string) => (screen += text))
  const gone = new Promise<void>((done) => child.on('close', () => done()))
  return {
    type: (text) => child.stdin.write(text),
    see: async (pattern) => {
      for (const end = Date.now() + HANGS; Date.now() < end; await new Promise((go) => setTimeout(go, 10))) {
        const found = pattern.exec(screen)
        if (found) {
          screen = screen.slice(found.index + found[0].length)
          return found
        }
      }
      throw new Error(`did not see ${pattern} in ${JSON.stringify(screen)}`)
    },
    end: () => {
      child.stdin.end()
      child.kill()
      return gone
    },
  }
}

terminal("^C, ^Z and fg, and the window's size, as without nix-lan-run", async () => {
  const job = join(folder('job'), 'job.js')
  writeFileSync(
    job,
    `process.stdout.on('resize', () => console.log('size=' + process.stdout.columns + 'x' + process.stdout.rows))
process.on('SIGCONT', () => console.log('again=' + process.pid))
process.on('SIGINT', () => { console.log('interrupted=' + process.pid); process.exit(9) })
setTimeout(() => process.exit(1), 60_000) // not for ever, should the test fail
console.log('ready=' + process.pid + ' tty=' + process.stdin.isTTY + ' on ' + require('fs').readlinkSync('/proc/self/fd/0'))`,
  )
  const at = session('bash --norc --noprofile -i', { env: { PS1: '$ ', TERM: 'dumb' } })
  at.type(`${RUN} nix ${job}\n`)
  const [, pid] = await at.see(/ready=(\d+) tty=true/)
  at.type('\x1a')
  await at.see(/Stopped/)
  at.type('stty cols 99 rows 44; fg\n')
  await at.see(new RegExp(`again=${pid}`))
  at.type('\x03')
  await at.see(new RegExp(`interrupted=${pid}`))
  at.type('echo code=$?\n')
  await at.see(/code=9\r?\n/)
  at.type(`${RUN} nix ${job}\n`)
  const [, tty = ''] = await at.see(/ready=.* on (\S+)\s/)
  assert.is((await start(['stty', '-F', tty, 'cols', '111', 'rows', '33'])).code, 0)
  await at.see(/size=111x33/)
  at.type('\x03')
  await at.see(/interrupted/)
  await at.end()
})

terminal('^C while nix-lan-run itself still asks ends it, and no command runs', async () => {
  const unresponsive = createServer(() => {}) // accepts, and never answers
  const config = join(folder('config-unresponsive'), 'config.toml')
  writeFileSync(config, `[cache.unresponsive]\nurl = "http://127.0.0.1:${await listen(unresponsive)}"\ndeadline = "20s"\n`)
  chownSync(config, USER, process.getgid?.() ?? USER)
  const told = new Promise((done) => unresponsive.on('request', done))
  const at = session('bash --norc --noprofile -i', { env: { PS1: '$ ', TERM: 'dumb', NIX_LAN_CONFIG: config } })
  at.type(`${RUN} nix -p '"ran" + "!"'; echo code=$?\n`)
  await told
  at.type('\x03')
  at.type('echo done\n')
  const [seen] = await at.see(/[\s\S]*\ndone/)
  await at.end()
  unresponsive.closeAllConnections()
  unresponsive.close()
  assert.not.match(seen, 'ran!')
})

terminal.after(() => {
  server.closeAllConnections()
  server.close()
  rmSync(TMP, { recursive: true })
})
terminal.run()
