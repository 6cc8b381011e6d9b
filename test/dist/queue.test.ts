// The contract of `nix-lan queue`: exit code, stdout, stderr. Nix is two sh scripts that answer
// from files, the box a nix-daemon in this process that knows what they copied.
// NIX_LAN_TEST_RUNTIME: see launcher.test.ts.
import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process'
import {
  chmodSync,
  closeSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import type { Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import type { Readable } from 'node:stream'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { isLocked } from '../../scripts/system/lock.ts'
import { AS_USER, give, ROOT } from '../lib/as-user.ts'
import { fakeDaemon } from '../lib/fake-daemon.ts'
import { needs } from '../lib/needs.ts'
import { HANGS, until } from '../lib/until.ts'

const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-queue-'))

const RUNTIME = process.env.NIX_LAN_TEST_RUNTIME ?? folder('runtime', { node: process.execPath })
const BIN = folder('bin')
/**
 * What the fake Nix knows: `valid`, `unsigned`, `box`, `fail` (a copy fails with this), `held` (a
 * copy waits until this is gone), `again` (links to make, one at each copy, once it is gone), `full`
 * (paths that the box has no room for); `log`: its calls.
 */
const WORLD = folder('world')
const STATE = folder('state')
const QUEUE = join(STATE, 'gcroots/nix-lan/queue/rpi')
const FAILED = join(STATE, 'gcroots/nix-lan/failed/rpi')
const SOCKET = join(TMP, 'run/nix-lan/rpi.sock')
const CONFIG =
  '[cache.rpi]\nhost = "rpi"\ndeadline = "60s"\nkeep = "none"\nexclude = ["*-source"]\n\n[cache.web]\nurl = "https://cache.example.org"\n'

const H = '0123456789abcdfghijklmnpqrsvwxyz'
const store = (name: string): string => `/nix/store/${H}-${name}`

/** A new directory of the user's in TMP; `links` are symlinks in it: name → target. */
function folder(name: string, links: Record<string, string> = {}): string {
  chmodSync(TMP, 0o755)
  const path = join(TMP, name)
  mkdirSync(path, { recursive: true })
  for (let at = path; at !== TMP; at = join(at, '..')) give(at)
  for (const [link, target] of Object.entries(links)) symlinkSync(target, join(path, link))
  return path
}

function script(path: string, text: string): void {
  writeFileSync(path, `#!/bin/sh\nW=${WORLD}\n${text}\n`)
  chmodSync(path, 0o755)
}

const NIX = `shift 3
verb=$1; shift
case $verb in store) verb=$1; shift;; esac
n=0 to= key=
paths=
while [ $# -gt 0 ]; do case $1 in
  -v) ;; --log-format) shift;;
  --to|--store|--substituter) to=$2; shift;; --key-file) key=$2; shift;;
  /*) paths="$paths $1"; n=$((n+1));; *) flags="$flags $1";; esac; shift; done
[ $verb != copy ] || echo $$ >$W/pid
echo "$verb$flags $n" >>$W/log
case $verb in
copy)
  while [ -e $W/held ]; do sleep 0.05; done
  if [ -e $W/fail ]; then cat $W/fail >&2; exit 1; fi
  if [ -s $W/again ]; then
    read -r to at <$W/again
    if ln -s $to $at 2>/dev/null; then sed -i 1d $W/again; fi
  fi
  for p in $paths; do
    echo "copying path '$p' to 'ssh-ng://localhost'..." >&2
    if [ -s $W/full ] && grep -qx $p $W/full; then echo 'error: writing to file: No space left on device' >&2; exit 1; fi
    echo $p >>$W/box
  done;;
path-info) [ ! -e $W/broken ] || { echo 'error: cannot connect to daemon' >&2; exit 1; }
  for p in $paths; do grep -qx $p $W/valid || { echo "error: path '$p' is not valid" >&2; exit 1; }; done
  own=; case $flags in *--all*) paths=$(cat $W/valid) own='ultimate ';; esac
  for p in $paths; do s="$own"me-1:x; ! grep -qx $p $W/unsigned || s=ultimate; printf '%s\\t        120\\t%s\\n' $p "$s"; done;;
sign) : >$W/unsigned; echo "$key" >>$W/log;;
show-config) printf 'secret-key-files = %s\\ntrusted-public-keys = me-1:abc\\n' "$(cat $W/keys)";;
esac`

const NIX_STORE = `[ ! -e $W/broken ] || { echo 'error: cannot connect to daemon' >&2; exit 1; }
while [ $# -gt 0 ]; do case $1 in --store) [ ! -e $W/nobox ] || { echo 'error: cannot open connection' >&2; exit 1; }; shift;; --*) verb=$1;; *) break;; esac; shift; done
echo "$verb $#" >>$W/log
case $verb in
--print-invalid) printf '%s\\n' "$@" | grep -vxFf $W/valid || :;;
--size) for p; do echo 120; done;;
--referrers-closure | --requisites) printf '%s\\n' "$@";;
esac`

let server: Server | undefined

/** A box that is there, and has what was copied to it. */
async function boxIsThere(): Promise<void> {
  const lines = (name: string): string[] => readFileSync(join(WORLD, name), 'utf8').split('\n')
  server = fakeDaemon((path) => (!lines('box').includes(path) ? undefined : lines('unsigned').includes(path) ? [] : ['me-1:x']))
  await new Promise<void>((done) => server?.listen(SOCKET, () => done()))
  give(SOCKET)
}

async function boxIsAway(): Promise<void> {
  const at = server
  server = undefined
  if (at) await new Promise<void>((done) => at.close(() => done()))
  rmSync(SOCKET, { force: true })
}

function prepare(): void {
  for (const name of ['nix-lan', 'nix-lan-connect']) copyFileSync(resolve('dist', name), join(BIN, name))
  script(join(BIN, 'nix'), NIX)
  script(join(BIN, 'nix-store'), NIX_STORE)
  folder('run/nix-lan')
  folder('home')
  writeFileSync(join(TMP, 'config.toml'), CONFIG)
}

/** An empty queue; the box is away; every path of `valid` is in the store, and the queue. */
async function fresh(): Promise<void> {
  await boxIsAway()
  rmSync(join(TMP, 'run/nix-lan/rpi.upload.json'), { force: true })
  rmSync(join(STATE, 'gcroots'), { recursive: true, force: true })
  for (const dir of ['state/gcroots/nix-lan/queue/rpi', 'state/gcroots/nix-lan/failed/rpi']) folder(dir)
  for (const name of readdirSync(WORLD)) rmSync(join(WORLD, name))
  for (const name of ['valid', 'unsigned', 'box', 'log', 'keys', 'full', 'pid']) tell(name, '')
  tell('valid', ['a', 'b', 'c', 'a.drv', 'b-source'].map((name) => `${store(name)}\n`).join(''))
}

function tell(name: string, text: string): void {
  writeFileSync(join(WORLD, name), text)
  give(join(WORLD, name))
}

function queued(...names: string[]): void {
  for (const name of names) symlinkSync(store(name), join(QUEUE, `${H}-${name}`))
}

const log = (): string[] => readFileSync(join(WORLD, 'log'), 'utf8').split('\n').slice(0, -1)
const links = (dir: string): string[] =>
  readdirSync(dir)
    .filter((name) => !name.startsWith('.'))
    .map((name) => name.slice(33))
    .sort()

interface Result {
  code: number | null
  stdout: string
  stderr: string
}

function launch(argv: readonly string[], env: Record<string, string> = {}, stdio: StdioOptions = ['ignore', 'pipe', 'pipe']): ChildProcess {
  const [program = '', ...args] = [...AS_USER, ...argv]
  const all = { PATH: `${BIN}:${RUNTIME}:/usr/bin:/bin`, HOME: join(TMP, 'home'), XDG_RUNTIME_DIR: join(TMP, 'run') }
  const nixLan = { NIX_STATE_DIR: STATE, NIX_LAN_CONFIG: join(TMP, 'config.toml') }
  return spawn(program, args, { env: { ...all, ...nixLan, ...env }, cwd: join(TMP, 'home'), stdio })
}

function ended(child: ChildProcess): Promise<Result> {
  const result: Result = { code: null, stdout: '', stderr: '' }
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (result.stdout += text))
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (result.stderr += text))
  const timer = setTimeout(() => child.kill('SIGKILL'), HANGS)
  return new Promise((done) => {
    child.on('close', (code) => {
      clearTimeout(timer)
      done({ ...result, code })
    })
  })
}

/** What a unit of systemd runs: its output is the journal, here a file. */
async function inBackground(...args: string[]): Promise<Result> {
  const file = join(TMP, 'journal')
  writeFileSync(file, '')
  give(file)
  const { dev, ino } = statSync(file, { bigint: true })
  const fd = openSync(file, 'a')
  const child = launch([join(BIN, 'nix-lan'), 'queue', ...args], { JOURNAL_STREAM: `${dev}:${ino}` }, ['ignore', fd, fd])
  const { code } = await ended(child)
  closeSync(fd)
  return { code, stdout: readFileSync(file, 'utf8'), stderr: '' }
}

const queue = (...args: string[]): Promise<Result> => ended(launch([join(BIN, 'nix-lan'), 'queue', ...args]))

const wanted = ROOT ? ['setpriv', 'flock'] : ['flock']
const test = needs(suite('nix-lan queue'), ...wanted)
test.before(prepare)
test.before.each(fresh)
test.after(boxIsAway)
process.on('exit', () => rmSync(TMP, { recursive: true, force: true }))

test('wrong usage: exit 2, one line that names the way out', async () => {
  const table: [args: string[], says: RegExp][] = [
    [['lst'], /there is no action lst; did you mean list\?/],
    [['frobnicate'], /there is no action frobnicate; see nix-lan queue --help/],
    [['--cahce', 'rpi'], /unknown option --cahce; did you mean --cache\?/],
    [['list', 'x'], /list takes no paths/],
    [['upload', '--all'], /--all goes with add or drop, not with upload; see nix-lan queue upload --help/],
    [['list', '--key-file', '/k'], /--key-file goes with sign/],
    [['retry', '--full'], /--full goes with list, not with retry/],
    [['--failed', 'retry'], /--failed goes with drop, not with retry/],
    [['add'], /add needs store paths/],
    [['add', './nothing'], /\.\/nothing is neither a store path nor a link to one/],
    [['add', '/etc/passwd'], /neither/],
    [['add', '--built', store('a')], /add takes either paths or --built/],
    [['upload', '--built'], /--built goes with add or sign, not with upload/],
    [['add', '--all', '--closure', store('a')], /--closure and --all exclude each other/],
    [['add', '--closure'], /add --closure needs paths/],
    [['add', '--dry-run', store('a')], /--dry-run goes with --built, --closure or --all/],
    [['drop'], /drop needs either paths, or --failed, or --all/],
    [['drop', '--all', '--failed'], /either/],
    [['--cache', 'web'], /web is read only/],
    [['--cache', 'rpy'], /rpy/],
  ]
  for (const [args, says] of table) {
    const { code, stdout, stderr } = await queue(...args)
    assert.equal([code, stdout, stderr.split('\n').length], [2, '', 2], `${args}: ${stderr}`)
    assert.match(stderr, says)
  }
})

test('help shows the exit codes and examples; no command shows the commands; an unknown one suggests', async () => {
  const help = await queue('--help')
  assert.equal([help.code, help.stderr], [0, ''])
  assert.match(help.stdout, /Exit code: 0 done; 1 [\s\S]*75 not\s+now[\s\S]*Examples:\n {2}nix-lan queue\n/)
  const none = await ended(launch([join(BIN, 'nix-lan')]))
  assert.equal([none.code, none.stderr], [0, ''])
  assert.match(none.stdout, /^rpi: away/, 'the status')
  const wrong = await ended(launch([join(BIN, 'nix-lan'), 'queu']))
  assert.equal([wrong.code, wrong.stderr], [2, 'nix-lan: there is no command queu; did you mean queue?\n'])
})

test('no queue yet: how to make it', async () => {
  rmSync(QUEUE, { recursive: true })
  for (const action of ['list', 'upload', 'retry']) {
    const { code, stderr } = await queue(action)
    assert.is(code, 2)
    assert.match(stderr, `make it with: sudo install -d -o `)
    assert.match(stderr, ` ${QUEUE} ${FAILED}\n`)
  }
})

test('add: store paths, what is below one, links to them; once', async () => {
  symlinkSync(store('a'), join(TMP, 'home/result'))
  symlinkSync('result', join(TMP, 'home/link'))
  const added = await queue('add', 'link', `${store('b')}/bin/b`, `${H}-c`, store('b-source'))
  assert.equal(added, { code: 0, stdout: 'rpi: 3 queued, 1 kept out by derivations or exclude\n', stderr: '' })
  assert.equal(links(QUEUE), ['a', 'b', 'c'])
  assert.equal(await queue('add', './result'), { code: 0, stdout: 'rpi: 0 queued, 1 already there\n', stderr: '' })
  const json = await queue('add', store('a.drv'), '--json')
  assert.equal(JSON.parse(json.stdout), [{ cache: 'rpi', added: [`${H}-a.drv`], there: 0, unwanted: 0 }])
})

test('add: a path that is not valid, and nothing is queued', async () => {
  const { code, stderr } = await queue('add', store('a'), store('nope'))
  assert.equal([code, stderr], [1, `nix-lan queue: not valid in this machine's store, nothing was queued: ${store('nope')}\n`])
  assert.equal(links(QUEUE), [])
})

test('add --built: what was built here, wanted, lacking on the box and not in the queue; 75 when the box is away', async () => {
  const away = await queue('add', '--built')
  assert.equal([away.code, away.stdout, /^nix-lan queue: rpi is away \(/.test(away.stderr)], [75, '', true], away.stderr)
  await boxIsThere()
  tell('box', `${store('b')}\n`)
  tell('unsigned', `${store('c')}\n`)
  tell('valid', ['a', 'b', 'c', 'd', 'e', 'a.drv', 'b-source'].map((name) => `${store(name)}\n`).join(''))
  queued('d')
  const { code, stdout, stderr } = await queue('add', '--built')
  assert.is(code, 0)
  assert.is(stdout, 'rpi: of what was built here, 2 queued (240 B), 1 on the box, 1 queued before, 1 kept out by derivations or exclude\n')
  assert.match(
    stderr,
    /^rpi: of what was built here, 1 path skipped: the path or one of its dependencies is unsigned.*: sudo \S*\/nix-lan queue sign --built\n$/,
  )
  assert.equal(links(QUEUE), ['a', 'd', 'e'])
  const json = await queue('add', '--built', '--cache', 'rpi', '--json')
  const counts = { bytes: 0, seconds: null, there: 3, unwanted: 1, onBox: 1, failed: 0, unsigned: 1, elsewhere: 0, forgotten: 0 }
  assert.equal([json.code, JSON.parse(json.stdout)], [0, [{ cache: 'rpi', added: [], ...counts }]])
})

test('add --closure, --all: how much it is, with --dry-run nothing is queued; run again, only what is missing is', async () => {
  await boxIsThere()
  tell('box', `${store('b')}\n`)
  const plan = await queue('add', '--closure', store('a'), '--dry-run')
  assert.equal(plan, { code: 0, stdout: 'rpi: of these closures, 1 to be queued (120 B), 0 on the box\n', stderr: '' })
  assert.equal(links(QUEUE), [])
  assert.is((await queue('add', '--closure', store('a'))).stdout, 'rpi: of these closures, 1 queued (120 B), 0 on the box\n')
  assert.equal(links(QUEUE), ['a'])
  const average = { paths: 0, bytes: 0 }
  const state = { started: 1, written: 1, done: average, all: average, rate: null, average: 2, path: null }
  writeFileSync(join(TMP, 'run/nix-lan/rpi.upload.json'), JSON.stringify({ ...state, stopped: null, full: null, failures: 0, retry: null }))
  give(join(TMP, 'run/nix-lan/rpi.upload.json'))
  const all =
    'rpi: of all of this store, 2 queued (240 B, about 2m at the rate of the last upload), 1 on the box, 1 queued before, 1 kept out'
  assert.match((await queue('add', '--all')).stdout, all)
  assert.equal(links(QUEUE), ['a', 'a.drv', 'c'])
  assert.match((await queue('add', '--all')).stdout, 'of all of this store, 0 queued, 1 on the box, 3 queued before')
  const gone = await queue('add', '--closure', store('gone'))
  assert.equal([gone.code, gone.stderr], [1, `nix-lan queue: not valid in this machine's store, nothing was queued: ${store('gone')}\n`])
})

test('sign --built: what was built here, though it is not queued', async () => {
  const key = join(TMP, 'home/key')
  writeFileSync(key, 'me-1:abc')
  give(key)
  tell('keys', key)
  tell('unsigned', `${store('c')}\n`)
  const { code, stdout } = await queue('sign', '--built')
  assert.equal([code, stdout], [0, `1 path signed with ${key}\n`])
  assert.ok(log().includes('sign 1'), log().join('; '))
})

test('list: a table, what is unsigned, failed or junk, with the cures; --json', async () => {
  assert.equal(await queue(), { code: 0, stdout: 'rpi: nothing queued\n', stderr: '' })
  queued('a', 'b', 'b-source', 'gone')
  tell('unsigned', `${store('b')}\n`)
  symlinkSync(store('c'), join(FAILED, `${H}-c`))
  writeFileSync(join(FAILED, `.${H}-c`), 'boom\n')
  writeFileSync(join(QUEUE, 'junk'), '')
  const { code, stdout, stderr } = await queue('list')
  assert.equal([code, stderr], [0, ''])
  const lines = stdout.replace(/ +(\d+[sm]) +/g, ' $1 ').split('\n')
  assert.is(lines[0], 'rpi: 1 queued, 1 unsigned, 1 failed, 1 invalid, 1 junk')
  assert.match(lines[1] ?? '', /^STATE +AGE +SIZE +PATH$/)
  for (const row of [
    /^queued \d+[sm] 120 B {2}\S+-a$/,
    /^unsigned \d+[sm] 120 B {2}\S+-b$/,
    /^failed \d+[sm] 120 B {2}\S+-c$/,
    /^invalid \d+[sm] - {2}\S+-gone/,
  ]) {
    assert.ok(
      lines.some((line) => row.test(line.replace(/ {2,}/g, (gap) => gap.slice(0, 2)))),
      `${row} in\n${stdout}`,
    )
  }
  assert.match(stdout, /^failed .*-c\n {4}boom$/m)
  assert.match(stdout, /^junk .*\/junk\n {4}not a link: remove it by hand$/m)
  assert.match(stdout, `\`sudo ${join(BIN, 'nix-lan')} queue sign\``) // where sudo's own PATH doesn't count
  assert.match(stdout, 'nix-lan queue retry')
  const rows = JSON.parse((await queue('--json')).stdout)
  const failed = rows.find((row: { state: string }) => row.state === 'failed')
  assert.match(failed.added, /^\d{4}-\d\d-\d\dT/)
  assert.equal({ ...failed, added: '' }, { cache: 'rpi', state: 'failed', path: store('c'), added: '', size: 120, error: 'boom' })
})

test('list: a long one asks Nix nothing, unless told to; without an answer from Nix it lists all the same', async () => {
  queued(...Array.from({ length: 1001 }, (_, i) => `p${i}`))
  const long = await queue('list')
  assert.is(long.code, 0)
  assert.match(long.stdout, 'rpi: 1001 queued (sizes and signatures: --full)')
  assert.equal(log(), [])
  assert.match((await queue('list', '--full')).stdout, '1001 invalid')
  tell('broken', '')
  const broken = await queue('list', '--full')
  assert.equal([broken.code, broken.stdout.split('\n')[0]], [0, 'rpi: 1001 queued'])
  assert.match(broken.stderr, 'sizes and signatures are not known: cannot connect to daemon')
})

test('upload: what is queued while it goes on goes in the same run, be it a path that has gone already', async () => {
  queued('a', 'a.drv')
  await boxIsThere()
  tell('again', ['b', 'a'].map((name) => `${store(name)} ${join(QUEUE, `${H}-${name}`)}\n`).join(''))
  assert.equal(await queue('upload'), { code: 0, stdout: 'rpi: 4 paths uploaded\n', stderr: '' })
  assert.equal(links(QUEUE), [])
})

test('upload: one copy for all outputs, one for all derivations; the links are gone, junk is not', async () => {
  const names = Array.from({ length: 300 }, (_, i) => `p${i}`)
  tell('valid', [...names, 'a.drv'].map((name) => `${store(name)}\n`).join(''))
  queued(...names, 'a.drv', 'b-source')
  writeFileSync(join(QUEUE, 'junk'), '')
  await boxIsThere()
  const junk = `rpi: ${QUEUE}/junk is not a link, which doesn't belong there: remove it by hand\n`
  assert.equal(await queue('upload'), { code: 1, stdout: 'rpi: 301 paths uploaded\n', stderr: junk })
  assert.equal(
    log().filter((line) => line.startsWith('copy')),
    ['copy 300', 'copy --derivation 1'],
  )
  assert.equal(readdirSync(QUEUE), ['junk'])
  rmSync(join(QUEUE, 'junk'))
  assert.equal(await queue('upload'), { code: 0, stdout: 'rpi: nothing left to upload\n', stderr: '' })
})

test('upload: away is 75, at once, without Nix', async () => {
  queued('a', 'b')
  const { code, stdout, stderr } = await queue('upload')
  assert.equal([code, stdout], [75, ''])
  assert.match(stderr, /^rpi is away \(.+\); 2 paths stay queued\n$/)
  assert.equal([links(QUEUE), log()], [['a', 'b'], []])
  const json = await queue('upload', '--json')
  assert.is(json.code, 75)
  const [answer] = JSON.parse(json.stdout)
  assert.equal([answer.cache, answer.left, answer.uploaded, typeof answer.away], ['rpi', 2, [], 'string'])
})

test('upload: what Nix names is set aside with its message, exit 1; retry puts it back; drop forgets', async () => {
  queued('a')
  await boxIsThere()
  tell('fail', `copying 1 paths...\nerror: hash mismatch importing path '${store('a')}'\n`)
  const failed = await queue('upload')
  assert.is(failed.code, 1)
  assert.is(
    failed.stderr,
    `rpi: set aside ${store('a')}: hash mismatch importing path '${store('a')}'\nrpi: 1 path set aside; see \`nix-lan queue\`\n`,
  )
  assert.equal([links(QUEUE), links(FAILED)], [[], ['a']])
  assert.equal(await queue('retry', store('b')), { code: 1, stdout: 'rpi: 0 back in the queue\n', stderr: '' })
  assert.equal(await queue('retry', store('a')), { code: 0, stdout: 'rpi: 1 back in the queue\n', stderr: '' })
  assert.equal([links(QUEUE), readdirSync(FAILED)], [['a'], []])
  assert.is((await queue('upload')).code, 1)
  rmSync(join(WORLD, 'fail'))
  assert.equal(await queue('retry', '--json').then(({ stdout }) => JSON.parse(stdout)), [{ cache: 'rpi', queued: [store('a')] }])
  assert.is((await queue('upload')).code, 0)
})

test('drop: paths, --failed, --all', async () => {
  const again = (): void => {
    for (const dir of [QUEUE, FAILED]) for (const name of readdirSync(dir)) rmSync(join(dir, name))
    queued('a', 'b')
    symlinkSync(store('c'), join(FAILED, `${H}-c`))
    writeFileSync(join(FAILED, `.${H}-c`), 'boom\n')
  }
  const table: [args: string[], code: number, dropped: number, queue: string[], failed: string[]][] = [
    [[store('a')], 0, 1, ['b'], ['c']],
    [[store('a'), store('c')], 0, 2, ['b'], []],
    [[store('x')], 1, 0, ['a', 'b'], ['c']],
    [['--failed'], 0, 1, ['a', 'b'], []],
    [['--all'], 0, 3, [], []],
  ]
  for (const [args, code, dropped, inQueue, inFailed] of table) {
    again()
    assert.equal(await queue('drop', ...args), { code, stdout: `rpi: ${dropped} dropped\n`, stderr: '' }, String(args))
    assert.equal([links(QUEUE), links(FAILED)], [inQueue, inFailed], String(args))
    if (inFailed.length === 0) assert.equal(readdirSync(FAILED), [], 'notes are left')
  }
})

test('upload: unsigned ones stay and do not hold up the others: 75, and the cure, which is sign', async () => {
  queued('a', 'b')
  tell('unsigned', `${store('b')}\n`)
  await boxIsThere()
  const { code, stdout, stderr } = await queue('upload')
  assert.equal([code, stdout], [75, 'rpi: 1 path uploaded\n'])
  assert.match(stderr, /^rpi: 1 path skipped: the path or one of its dependencies is unsigned.*`sudo \S*\/nix-lan queue sign`\n$/)
  assert.equal(links(QUEUE), ['b'])
  const noKey = await queue('sign')
  assert.is(noKey.code, 2)
  assert.match(noKey.stderr, /no key to sign with: .*sudo \S*nix-lan setup makes a key/)
  assert.match((await queue('sign', '--key-file', '/no/such')).stderr, /\/no\/such can't be read \(ENOENT\)/)
  const key = join(TMP, 'key')
  writeFileSync(key, 'me-1:x')
  tell('keys', key)
  assert.equal(await queue('sign'), { code: 0, stdout: `1 path signed with ${key}\n`, stderr: '' })
  assert.is((await queue('upload')).code, 0)
})

test('upload: Nix cannot be asked: said, and all stay queued', async () => {
  queued('a')
  await boxIsThere()
  tell('broken', '')
  const broken = await queue('upload')
  assert.equal([broken.code, broken.stderr], [75, 'rpi: stopped: cannot connect to daemon; 1 path stays queued\n'])
  assert.equal(links(QUEUE), ['a'])
})

test('upload: one path fails with a message that names none: set aside, unless Nix can not get to the box at all', async () => {
  queued('a')
  await boxIsThere()
  tell('fail', 'error: program ended\n')
  tell('nobox', '')
  const unreached = await queue('upload')
  assert.equal([unreached.code, unreached.stderr], [75, 'rpi: stopped: cannot open connection; 1 path stays queued\n'])
  rmSync(join(WORLD, 'nobox'))
  assert.is((await queue('upload')).code, 1)
  assert.equal(links(FAILED), ['a'])
})

test('upload: what is added meanwhile goes too', async () => {
  queued('a')
  tell('held', '')
  await boxIsThere()
  const running = ended(launch([join(BIN, 'nix-lan'), 'queue', 'upload']))
  await copying()
  queued('b')
  goesOn()
  assert.equal(await running, { code: 0, stdout: 'rpi: 2 paths uploaded\n', stderr: '' })
})

test('upload: a second one follows the first, and uploads what is left; for scripts it says which one runs', async () => {
  queued('a')
  tell('held', '')
  await boxIsThere()
  const child = launch([join(BIN, 'nix-lan'), 'queue', 'upload'])
  const first = ended(child)
  await copying()
  const json = await queue('upload', '--json')
  assert.is(json.code, 75)
  assert.is(JSON.parse(json.stdout)[0].running.pid, child.pid)
  const { queue: own } = JSON.parse((await ended(launch([join(BIN, 'nix-lan'), 'status', '--json']))).stdout).caches[0]
  assert.equal([own.uploading, own.upload.all, own.upload.done.paths], [true, { paths: 1, bytes: 120 }, 0])
  const follower = launch([join(BIN, 'nix-lan'), 'queue', 'upload'])
  const second = ended(follower)
  await saysSo(follower.stderr, 'is running already')
  queued('b')
  goesOn()
  assert.equal(await first.then(({ code }) => code), 0)
  const { code, stdout, stderr } = await second
  assert.equal([code, stdout.replace('1 path uploaded', 'nothing left to upload')], [0, 'rpi: nothing left to upload\n'])
  assert.match(stderr, /^an upload to rpi is running already: process \d+, since \d\d:\d\d:\d\d \(\d+s\)\n$/)
  assert.equal(links(QUEUE), [])
})

test('upload: a killed one leaves no lock, and no copy that goes on', async () => {
  queued('a')
  tell('held', '')
  await boxIsThere()
  const child = launch([join(BIN, 'nix-lan'), 'queue', 'upload'])
  const first = ended(child)
  await copying()
  const pid = readFileSync(join(WORLD, 'pid'), 'utf8').trim()
  assert.ok(runs(pid))
  child.kill('SIGKILL')
  await first
  await until('the end of the copy', () => !runs(pid))
  await until('the end of the lock', () => !isLocked(join(TMP, 'run/nix-lan/rpi.upload.lock')))
  goesOn()
  assert.equal(await queue('upload'), { code: 0, stdout: 'rpi: 1 path uploaded\n', stderr: '' })
})

test('in the background: a full box is said once, then waits, and what comes in goes; by hand it is tried at once', async () => {
  queued('a')
  tell('full', `${store('a')}\n`)
  await boxIsThere()
  const first = await inBackground('upload')
  assert.is(first.code, 75)
  assert.match(
    first.stdout,
    /^rpi: stopped: the box's disk is full: a needs 120 B.* \(writing to file: No space left on device\); 1 path stays queued\n$/,
  )
  const state = join(TMP, 'run/nix-lan/rpi.upload.json')
  const { retry, written, ...rest } = JSON.parse(readFileSync(state, 'utf8'))
  assert.ok(retry > written && retry - written <= 30_000, `${retry - written} ms`)
  // half a minute may be over before a busy machine has asked again
  writeFileSync(state, JSON.stringify({ ...rest, written, retry: retry + 3_600_000 }))
  const copies = (): number => log().filter((line) => line.startsWith('copy')).length
  assert.equal([await inBackground('upload'), copies()], [{ code: 75, stdout: '', stderr: '' }, 1])
  assert.match((await queue()).stdout, /^waits: the box's disk is full: .*; tries again in \d+[mh]$/m)
  const { queue: own } = JSON.parse((await ended(launch([join(BIN, 'nix-lan'), 'status', '--json']))).stdout).caches[0]
  assert.equal([own.uploading, own.upload, /^the box's disk is full/.test(own.waits), typeof own.retry], [false, null, true, 'string'])
  assert.equal([(await queue('upload')).code, copies()], [75, 2])
  tell('full', '')
  assert.equal([(await queue('upload')).stdout, links(QUEUE)], ['rpi: 1 path uploaded\n', []])
})

test('in the background: not while the connection is metered; status says why', async () => {
  queued('a')
  await boxIsThere()
  script(join(BIN, 'busctl'), 'case $* in *Metered) echo "u 1";; *) echo "b true";; esac')
  try {
    assert.equal(
      [(await inBackground('upload')).stdout, links(QUEUE)],
      ['rpi waits: the connection is metered; 1 path stays queued\n', ['a']],
    )
    assert.equal(await inBackground('upload'), { code: 75, stdout: '', stderr: '' })
    assert.match((await ended(launch([join(BIN, 'nix-lan'), 'status']))).stdout, /^ +waits: the connection is metered$/m)
    assert.is((await queue('upload')).stdout, 'rpi: 1 path uploaded\n')
  } finally {
    rmSync(join(BIN, 'busctl'))
  }
})

/**
 * Whether a process runs; one that has ended and that nobody has waited for has no command line.
 */
function runs(pid: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1') !== ''
  } catch {
    return false
  }
}

/** Waits until a copy has begun. */
const copying = (): Promise<void> => until('a copy', () => log().some((line) => line.startsWith('copy')))

/** Lets a copy that is held go on. */
const goesOn = (): void => rmSync(join(WORLD, 'held'))

/** Waits until a text stands in what a program prints. */
async function saysSo(stream: Readable | null, text: string): Promise<void> {
  let printed = ''
  stream?.on('data', (more: string) => (printed += more))
  await until(
    text,
    () => printed.includes(text),
    () => printed,
  )
}

const terminal = needs(suite('nix-lan queue on a terminal'), ...wanted, 'script')
terminal.before(prepare)
terminal.before.each(fresh)
terminal.after(boxIsAway)

terminal('upload shows how it goes; what failed was copied once', async () => {
  queued('a')
  tell('held', '')
  await boxIsThere()
  tell('fail', `error: hash mismatch importing path '${store('a')}'\n`)
  const child = launch(['script', '-qefc', `${join(BIN, 'nix-lan')} queue upload`, '/dev/null'])
  const running = ended(child)
  await saysSo(child.stdout, ' of 120 B')
  goesOn()
  const { stdout } = await running
  const pictures = stdout.split('\r\u001b[K')
  assert.ok(
    pictures.some((text) => /^rpi: 0 of 1 path, \d+ B of 120 B/.test(text)),
    stdout,
  )
  assert.ok(pictures.at(-1)?.startsWith(`rpi: set aside ${store('a')}`), stdout)
  assert.is(log().filter((line) => line.startsWith('copy')).length, 1)
  assert.equal(links(FAILED), ['a'])
})

test.run()
terminal.run()
