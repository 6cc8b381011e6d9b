// The contract of post-build-hook: exit 0 whatever happens, soon; what was built is linked into
// each queue directory and nowhere else; nothing is left running. Each case of the table runs with
// sh alone, with no JavaScript runtime to be found, under several shells, and with the runtime
// under test (NIX_LAN_TEST_RUNTIME: see launcher.test.ts).
import { spawn, spawnSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { changed, PATIENT_HOOK } from '../lib/changed.ts'
import { compare } from '../lib/compare.ts'
import { needs, which } from '../lib/needs.ts'
import { until } from '../lib/until.ts'

const HOOK = resolve('dist/post-build-hook')
const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-hook-'))
chmodSync(TMP, 0o755) // other users run it, too
process.on('exit', () => rmSync(TMP, { recursive: true, force: true }))
const RUNTIME = process.env.NIX_LAN_TEST_RUNTIME ?? made('runtime', { node: process.execPath })
const ROOT = process.getuid?.() === 0
/** What needs no runtime is tried once, not beside each of them. */
const ONCE = process.env.NIX_LAN_TEST_RUNTIME === undefined
const USER = 65534

/** A directory of TMP with symlinks in it: name → target. */
function made(name: string, links: Record<string, string> = {}): string {
  const path = join(TMP, name)
  mkdirSync(path, { recursive: true })
  for (const [link, target] of Object.entries(links)) symlinkSync(target, join(path, link))
  return path
}

/** A directory of TMP with one sh script in it. */
function program(folder: string, name: string, text: string): string {
  const path = made(folder)
  writeFileSync(join(path, name), `#!/bin/sh\n${text}\n`)
  chmodSync(join(path, name), 0o755)
  return path
}

/**
 * The hook, but it looks for runtimes in PATH only: the machine that runs this has one in the usual
 * places.
 */
const ALONE = changed(HOOK, made('alone'), [/^nix_lan_directories=\/usr\/local\/bin:.*$/m, 'nix_lan_directories=/nonexistent'])

/**
 * The hook, but with time limits that only a hang exceeds: in 0.9 s a busy machine may not even start
 * the runtime.
 */
const PATIENT = changed(HOOK, made('patient'), PATIENT_HOOK.runtime, PATIENT_HOOK.store)

/** The hook, but only a hang of its runtime is too long for it: so what that has a time limit for itself. */
const UNHURRIED = changed(HOOK, made('unhurried'), PATIENT_HOOK.runtime)

const HASH = '0123456789abcdfghijklmnpqrsvwxyz'
const REST = `,[],[],"x86_64-linux","/bin/sh",[],[${'("name","value"),'.repeat(300)}("out","x")])`

/** A store and a queue of their own. */
class Place {
  readonly dir = mkdtempSync(join(TMP, 'p-'))
  readonly store = join(this.dir, 'store')
  readonly state = join(this.dir, 'state')
  readonly queue = join(this.state, 'gcroots/nix-lan/queue')
  readonly treasure = join(this.dir, 'treasure')

  constructor() {
    chmodSync(this.dir, 0o755)
    for (const path of [this.store, this.treasure]) mkdirSync(path, { recursive: true })
    this.cache('rpi')
  }

  cache(name: string): string {
    const path = join(this.queue, name)
    mkdirSync(path, { recursive: true })
    return path
  }

  at(name: string): string {
    return `${this.store}/${HASH}-${name}`
  }

  /** Makes store paths; returns them as OUT_PATHS would hold them. */
  built(...names: string[]): string {
    for (const name of names) writeFileSync(this.at(name), '')
    return names.map((name) => this.at(name)).join(' ')
  }

  /** Makes a .drv file from the text of its list of outputs; returns its path. */
  drv(name: string, outputs: string, start = 'Derive('): string {
    writeFileSync(this.at(`${name}.drv`), `${start}[${outputs}]${REST}`)
    return this.at(`${name}.drv`)
  }

  /** An output as it stands in a .drv file; also made. */
  output(name: string, kind = '"",""'): string {
    this.built(name)
    return `("out-${name}","${this.at(name)}",${kind})`
  }

  /**
   * The names, without hashes, of what a cache's queue holds; each must be a link to the path of
   * its name.
   */
  queued(cache = 'rpi'): string {
    const names = readdirSync(join(this.queue, cache)).sort()
    for (const name of names) assert.is(readlinkSync(join(this.queue, cache, name)), `${this.store}/${name}`)
    return names.map((name) => name.slice(HASH.length + 1)).join(' ')
  }
}

interface Variables {
  OUT_PATHS?: string
  DRV_PATH?: string
  [name: string]: string | undefined
}

/** Who runs the hook: the file, behind which command, with which PATH. */
interface Way {
  file: string
  before?: string[]
  path: string
}

function env(place: Place, path: string, variables: Variables): NodeJS.ProcessEnv {
  return { PATH: path, NIX_STORE_DIR: place.store, NIX_STATE_DIR: place.state, NIX_CONFIG: 'post-build-hook = /x', ...variables }
}

/**
 * Runs the hook to the end of its output. It must exit 0 and print nothing on stdout; returns
 * stderr.
 */
function run(way: Way, place: Place, variables: Variables): string {
  const [command = '', ...args] = [...(way.before ?? []), way.file]
  const done = spawnSync(command, args, { env: env(place, way.path, variables), cwd: '/', encoding: 'utf8', timeout: 60_000 })
  assert.is(done.status, 0, `exit ${done.status} ${done.signal}: ${done.stderr}`)
  assert.is(done.stdout, '')
  return done.stderr
}

const NOTHING = '/nonexistent'
const WITH: Way = { file: PATIENT, path: RUNTIME }
const WITHOUT: Way = { file: ALONE, path: NOTHING }

interface Case {
  name: string
  /** What to run the hook with, having prepared the place. */
  given(place: Place): Variables
  /** What the queue of rpi holds then. */
  queued: string
  /** What it says; nothing if missing. */
  says?: RegExp
  /** It takes JavaScript: with sh alone, this is queued, and the rest is said. */
  alone?: string
  also?(place: Place): void
}

const CASES: Case[] = [
  {
    name: 'several outputs and the derivation',
    given: (p) => ({ OUT_PATHS: p.built('x', 'x-dev'), DRV_PATH: p.drv('x', '') }),
    queued: 'x x-dev x.drv',
  },
  {
    name: 'several caches',
    given: (p) => {
      p.cache('nas')
      return { OUT_PATHS: p.built('x') }
    },
    queued: 'x',
    also: (p) => assert.is(p.queued('nas'), 'x'),
  },
  {
    name: 'names with every character that Nix allows, and a neighbour that a pattern would match',
    given: (p) => {
      p.built('aXb')
      return { OUT_PATHS: p.built('a?b', 'g++_1.0=z', 'n-?.-', 'x'.repeat(211)) }
    },
    queued: `a?b g++_1.0=z n-?.- ${'x'.repeat(211)}`,
  },
  {
    name: 'no OUT_PATHS: the outputs stand in the derivation',
    given: (p) => ({ OUT_PATHS: '', DRV_PATH: p.drv('x', `${p.output('x-dev')},${p.output('a?b')}`) }),
    queued: 'a?b x-dev x.drv',
  },
  {
    name: 'no OUT_PATHS: a fixed output',
    given: (p) => ({ DRV_PATH: p.drv('x', p.output('x', '"r:sha256","0f00"')) }),
    queued: 'x x.drv',
  },
  {
    name: 'no OUT_PATHS: more outputs than sh reads',
    given: (p) => ({ DRV_PATH: p.drv('x', Array.from({ length: 60 }, (_, i) => p.output(`o${10 + i}`)).join()) }),
    queued: `${Array.from({ length: 60 }, (_, i) => `o${10 + i}`).join(' ')} x.drv`,
    alone: 'x.drv',
  },
  {
    name: 'no OUT_PATHS: a dynamic derivation',
    given: (p) => ({ DRV_PATH: p.drv('x', p.output('x'), 'DrvWithVersion("xp-dyn-drv",') }),
    queued: 'x x.drv',
    alone: 'x.drv',
  },
  { name: 'no DRV_PATH', given: (p) => ({ OUT_PATHS: p.built('x') }), queued: 'x' },
  { name: 'neither variable', given: () => ({}), queued: '', says: /^nix-lan: neither OUT_PATHS nor DRV_PATH is set.*\n$/ },
  {
    name: 'garbage among the outputs: what is good is queued',
    given: (p) => ({
      OUT_PATHS: `* ${p.at('gone')} ${p.built('x')} ../x ${p.store} ${p.store}/${HASH} /etc/passwd -f ${p.at('a/b')}`,
      DRV_PATH: 'what?',
    }),
    queued: 'x',
    says: /^nix-lan: not queued, since not a path in \S+: \* \.\.\/x \S+ \S+ \/etc\/passwd -f \S+a\/b what\?\n[^\n]+\n$/,
  },
  {
    name: 'names that are almost store paths',
    given: (p) => {
      const hashes = [`${HASH.replace('a', 'e')}-x`, `${HASH.slice(1)}-x`, `${HASH.toUpperCase()}-x`, `${HASH}x`, `${HASH}-`]
      const odd = [...hashes, `${HASH}-${'x'.repeat(212)}`, `${HASH}-a,b`, `${HASH}-a*`, `${HASH}-ä`, `${HASH}-folder/x`]
      mkdirSync(p.at('folder'))
      for (const name of odd) writeFileSync(join(p.store, name), '')
      return { OUT_PATHS: [p.built('good'), ...odd.map((name) => join(p.store, name)), `${p.at('good')}\n${p.at('good')}`].join(' ') }
    },
    queued: 'good',
    says: /^nix-lan: not queued, since not a path in [\s\S]*-good\n$/,
  },
  {
    name: 'a derivation that is not there, and no outputs',
    given: (p) => ({ DRV_PATH: p.at('gone.drv') }),
    queued: '',
    says: /^nix-lan: nothing queued: no OUT_PATHS, and DRV_PATH is not in this machine's .*gone\.drv\n$/,
  },
  {
    name: 'a path of another store (a chroot store): it does not exist here, and is named',
    given: (p) => ({ OUT_PATHS: `${p.built('x')} ${p.at('gone')}`, DRV_PATH: p.at('gone.drv') }),
    queued: 'x',
    says: /^nix-lan: not queued, since not in this machine's \S+ \(was it built in another store\?\): \S+-gone\n$/,
  },
  {
    name: 'a derivation that is elsewhere (--eval-store): its outputs are queued, and nothing is said',
    given: (p) => ({ OUT_PATHS: p.built('x'), DRV_PATH: p.at('gone.drv') }),
    queued: 'x',
  },
  {
    name: 'queued already, all or some of it',
    given: (p) => {
      symlinkSync(p.at('x'), join(p.queue, 'rpi', `${HASH}-x`))
      return { OUT_PATHS: p.built('x', 'y', 'y') }
    },
    queued: 'x y',
  },
  {
    name: 'an output that is a dangling symlink',
    given: (p) => {
      symlinkSync('/nonexistent/x', p.at('x'))
      return { OUT_PATHS: p.at('x') }
    },
    queued: 'x',
  },
  {
    name: 'a queue directory that is a symlink: nothing appears behind it, the other caches get theirs',
    given: (p) => {
      symlinkSync(p.treasure, join(p.queue, 'nas'))
      return { OUT_PATHS: p.built('x') }
    },
    queued: 'x',
    says: /^nix-lan: \S+\/nas\/ is a symlink.*\n$/,
    also: (p) => assert.equal(readdirSync(p.treasure), []),
  },
  {
    name: 'a symlink to a directory under the name of an output',
    given: (p) => {
      symlinkSync(p.treasure, join(p.cache('nas'), `${HASH}-x`))
      return { OUT_PATHS: p.built('x', 'y') }
    },
    queued: 'x y',
    also: (p) => {
      assert.equal(readdirSync(p.treasure), [])
      assert.is(readlinkSync(join(p.queue, 'nas', `${HASH}-y`)), p.at('y'))
    },
  },
  {
    name: 'a directory under the name of an output',
    given: (p) => {
      mkdirSync(join(p.queue, 'rpi', `${HASH}-x`))
      rmSync(p.cache('nas'), { recursive: true })
      return { OUT_PATHS: p.built('x'), DRV_PATH: p.drv('x', '') }
    },
    queued: 'x.drv',
    says: /^nix-lan: built, but not queued in \S+\/rpi\/ \(File exists\); once that is fixed: nix-lan queue add \S+-x\n$/,
    also: (p) => assert.equal(readdirSync(join(p.treasure)), []),
  },
  {
    name: 'a file in the queue, and a hidden directory: no caches',
    given: (p) => {
      writeFileSync(join(p.queue, 'README'), '')
      mkdirSync(join(p.queue, '.old'))
      return { OUT_PATHS: p.built('x') }
    },
    queued: 'x',
    also: (p) => assert.equal(readdirSync(join(p.queue, '.old')), []),
  },
]

/** The planted directory of a case is in the way of queued(). */
function withoutPlanted(place: Place): string {
  const planted = join(place.queue, 'rpi', `${HASH}-x`)
  if (lstatSync(planted, { throwIfNoEntry: false })?.isDirectory()) rmSync(planted, { recursive: true })
  return place.queued()
}

function check(one: Case, way: Way, alone: boolean): void {
  const place = new Place()
  const said = run(way, place, one.given(place))
  if (alone && one.alone !== undefined) {
    assert.match(said, /^nix-lan: no JavaScript runtime found: .*\n$/)
    assert.is(withoutPlanted(place), one.alone)
  } else {
    if (one.says) assert.match(said, one.says)
    else assert.is(said, '')
    assert.is(withoutPlanted(place), one.queued)
  }
  one.also?.(place)
}

const SHELLS: [name: string, command: string[], needed: string[]][] = [
  ['sh', [], []],
  ['bash', ['bash', '--posix'], ['bash']],
  ['busybox', ['busybox', 'sh'], ['busybox']],
]
for (const [name, command, needed] of SHELLS) {
  const alone = needs(suite(`post-build-hook under ${name} alone`), ...needed)
  const before = command.length ? [which(command[0] ?? '') ?? '', ...command.slice(1)] : []
  for (const one of CASES) alone(one.name, () => check(one, { ...WITHOUT, before }, true))
  if (ONCE) alone.run()
}

const runtime = suite('post-build-hook with a runtime')
for (const one of CASES) runtime(one.name, () => check(one, WITH, false))

runtime('outputs that only the database knows: nix-store is asked, without the settings that name this hook', () => {
  const place = new Place()
  const nix = program(
    'fake-nix',
    'nix-store',
    `echo "$* $NIX_CONFIG" >${place.dir}/asked; echo ${place.built('x')}; echo ${place.built('y')}; echo junk`,
  )
  const drv = place.drv('x', '("out","","r:sha256","")')
  assert.is(run({ ...WITH, path: `${nix}:${RUNTIME}` }, place, { DRV_PATH: drv }), '')
  assert.is(place.queued(), 'x x.drv y')
  assert.is(readFileSync(`${place.dir}/asked`, 'utf8'), `--query --outputs ${drv} extra-experimental-features = ca-derivations\n`)
})

runtime('nix-store does not answer: that is said, the derivation is queued, nothing is left', async () => {
  const place = new Place()
  const note = join(place.dir, 'pid')
  const nix = program('unresponsive-nix', 'nix-store', `echo $$ >${note}; exec sleep 600`)
  const drv = place.drv('x', '("out","","r:sha256","")')
  const pid = (): string => (existsSync(note) ? readFileSync(note, 'utf8').trim() : '')
  // On a busy machine the time may be over before nix-store has begun.
  await until('nix-store', () => {
    const said = run({ file: UNHURRIED, path: `${nix}:${RUNTIME}:/usr/bin:/bin` }, place, { DRV_PATH: drv })
    assert.match(said, /^nix-lan: .*no answer in 600 ms.*\n$/, said)
    assert.is(place.queued(), 'x.drv')
    return pid() !== ''
  })
  await until('the end of nix-store', () => commandLine(pid()) === '')
})

/** What a process runs; '' when it has ended, reaped or not. */
function commandLine(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8')
  } catch {
    return ''
  }
}

runtime('--help and --version for people; a wrong argument is exit 2', () => {
  const start = (...args: string[]) => spawnSync(HOOK, args, { env: { PATH: RUNTIME }, encoding: 'utf8' })
  assert.match(start('--help').stdout, /^post-build-hook: .*\n\nUsage: post-build-hook [\s\S]*Example:\n/)
  assert.match(start('--version').stdout, /^post-build-hook \d/)
  assert.is(start('--colour').status, 2)
  assert.is(start('word').status, 2)
})
runtime.run()

const limits = suite('post-build-hook exits 0 in bounded time')
/**
 * A case that needs JavaScript, and one that does not, with something in the place of the runtime.
 */
const RUNTIMES: [name: string, file: string, text: string, says: RegExp][] = [
  ['hangs', HOOK, 'sleep 600', /node took more than 0\.9 s and was stopped/],
  [
    'hangs, deaf to signals, with a child that holds the pipes',
    HOOK,
    "trap '' TERM INT; sleep 600 & wait; sleep 600",
    /took more than 0\.9 s/,
  ],
  ['crashes', PATIENT, 'kill -SEGV $$', /node failed/],
  ['ends with 127', PATIENT, 'exit 127', /node failed/],
]
for (const [name, file, text, says] of RUNTIMES) {
  limits(`a runtime that ${name}`, () => {
    const path = `${program(`bad ${name}`, 'node', text)}:/usr/bin:/bin`
    const place = new Place()
    const started = Date.now()
    // spawnSync waits for the end of the output, as Nix does
    const said = run({ file, path }, place, { DRV_PATH: place.drv('x', '("out","","r:sha256","")') })
    assert.ok(Date.now() - started < 20_000)
    assert.match(said, says)
    assert.is(said.split('\n').length, 2, said)
    assert.is(place.queued(), 'x.drv')
    assert.is(run({ file, path }, place, { OUT_PATHS: place.built('y') }), '')
    assert.is(place.queued(), 'x.drv y')
  })
}

limits('nobody reads what it says', () => {
  const place = new Place()
  const done = spawnSync('/bin/sh', ['-c', '{ sleep 0.2; "$0"; echo $? >"$1"; } 2>&1 | :', HOOK, `${place.dir}/code`], {
    env: { ...env(place, '/usr/bin:/bin', { OUT_PATHS: `${place.at('gone')} ${place.built('x')}` }) },
  })
  assert.is(done.status, 0)
  assert.is(readFileSync(`${place.dir}/code`, 'utf8'), '0\n')
  assert.is(place.queued(), 'x')
})

limits('stdin, stdout and stderr closed', () => {
  const place = new Place()
  const variables = { OUT_PATHS: `${place.at('gone')} ${place.built('x')}`, DRV_PATH: place.drv('x', '') }
  const done = spawnSync('/bin/sh', ['-c', 'exec "$0" <&- >&- 2>&-', HOOK], { env: env(place, NOTHING, variables) })
  assert.is(done.status, 0)
  assert.is(place.queued(), 'x x.drv')
})

limits('fifty at once', async () => {
  const place = new Place()
  place.cache('nas')
  const common = place.built('lib')
  const all = Array.from({ length: 50 }, (_, i) => `o${10 + i}`)
  const runs = all.map((name) => {
    const child = spawn(HOOK, [], {
      env: env(place, NOTHING, { OUT_PATHS: `${place.built(name)} ${common}` }),
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    return new Promise<string>((done) => {
      let text = ''
      child.stderr.on('data', (more) => (text += more))
      child.on('close', (code) => done(`${code}${text}`))
    })
  })
  assert.equal([...new Set(await Promise.all(runs))], ['0'])
  for (const cache of ['rpi', 'nas']) assert.is(place.queued(cache), ['lib', ...all].join(' '))
})

limits('the ordinary case costs little more than starting sh and ln', async () => {
  const place = new Place()
  const ordinary = env(place, '/usr/bin:/bin', {
    OUT_PATHS: place.built('x', 'y'),
    DRV_PATH: place.drv('x', `${place.output('x')},${place.output('y')}`),
  })
  const empty = { ...ordinary, OUT_PATHS: '' }
  const time = async (command: string, args: string[], environment: NodeJS.ProcessEnv): Promise<number> => {
    for (const name of readdirSync(join(place.queue, 'rpi'))) rmSync(join(place.queue, 'rpi', name))
    const started = performance.now()
    spawnSync(command, args, { env: environment, stdio: 'ignore' })
    return performance.now() - started
  }
  const ways = {
    sh: () => time('/bin/sh', ['-c', ':'], ordinary),
    full: () => time(HOOK, [], ordinary),
    read: () => time(HOOK, [], empty),
  }
  // measured: 2.6 and 4.3 times of sh; spawning from here costs something in each
  const { sh, full, read } = await compare(ways, (least) => least.full < 6 * least.sh && least.read < 9 * least.sh, { most: 200 })
  assert.ok(full < 6 * sh, `ordinary: ${full.toFixed(2)} ms, sh: ${sh.toFixed(2)} ms`)
  assert.ok(read < 9 * sh, `empty OUT_PATHS: ${read.toFixed(2)} ms, sh: ${sh.toFixed(2)} ms`)
})
if (ONCE) limits.run()

const refused = suite('post-build-hook where it may not write')
const PARENTS: [name: string, spoil: (place: Place) => void, says: RegExp][] = [
  ['the queue is a symlink', (p) => movedAway(p, p.queue), /nix-lan\/queue is a symlink.*\n$/],
  ["the queue's parent is a symlink", (p) => movedAway(p, join(p.state, 'gcroots/nix-lan')), /gcroots\/nix-lan is a symlink.*\n$/],
]
for (const [name, spoil, says] of PARENTS) {
  refused(name, () => {
    const place = new Place()
    spoil(place)
    assert.match(run(WITHOUT, place, { OUT_PATHS: place.built('x') }), says)
    assert.is(place.queued(), '')
  })
}

/** Puts a symlink in the place of a directory. */
function movedAway(place: Place, path: string): void {
  const elsewhere = join(place.treasure, 'moved')
  const done = spawnSync('mv', [path, elsewhere])
  assert.is(done.status, 0)
  symlinkSync(elsewhere, path)
}

refused("an ordinary user, a directory of somebody else's", () => {
  const place = new Place()
  place.cache('mine')
  if (ROOT) {
    chownSync(join(place.queue, 'mine'), USER, USER)
    chmodSync(place.dir, 0o755)
  } else chmodSync(join(place.queue, 'rpi'), 0o555)
  const before = ROOT ? [which('setpriv') ?? '', '--reuid', String(USER), '--clear-groups'] : []
  const said = run({ ...WITHOUT, before }, place, { OUT_PATHS: place.built('x') })
  assert.match(said, /^nix-lan: built, but not queued in \S+\/rpi\/ \(Permission denied\); once that is fixed: nix-lan queue add \S+-x\n$/)
  assert.is(place.queued(), '')
  assert.is(place.queued('mine'), 'x')
})
if (ONCE) refused.run()

// As root, in mount namespaces: a script makes the place what the case needs, with the hook as
// $HOOK, then prints what there is.
const asRoot = needs(suite('post-build-hook as root'), 'root', 'unshare')

/**
 * Runs a sh script in a mount namespace with an empty /run and, of /etc, only what names users.
 * Returns stdout and stderr together.
 */
function inside(place: Place, script: string, variables: Variables = {}): string {
  const before = `exec 2>&1; set -e; cd /; mkdir ${place.dir}/etc; cp -L /etc/passwd /etc/group ${place.dir}/etc; mount --bind ${place.dir}/etc /etc
mount -t tmpfs tmpfs /run; Q=${place.queue}; T=${place.treasure}; H=${HASH}; set +e
as_user() { setpriv --reuid ${USER} --clear-groups "$@"; }
hook() { "$HOOK"; echo "exit $?"; }
`
  const all = { ...env(place, `${RUNTIME}:/usr/sbin:/usr/bin:/sbin:/bin`, variables), HOOK: PATIENT }
  const done = spawnSync('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', before + script], {
    env: all,
    encoding: 'utf8',
    timeout: 60_000,
  })
  return done.stdout.replaceAll(place.dir, 'DIR').replaceAll(HASH, 'H')
}

asRoot('a full file system: one line, exit 0; the other cache gets everything', () => {
  const p = new Place()
  const said = inside(p, 'mkdir $Q/nas; mount -t tmpfs -o nr_inodes=2 tmpfs $Q/nas; hook; ls $Q/nas $Q/rpi', {
    OUT_PATHS: p.built('x', 'y'),
  })
  assert.match(said, /^nix-lan: built, but not queued in \S+nas\/ \(No space left on device\); .*queue add DIR\/store\/H-y\nexit 0\n/)
  assert.match(said, /nas:\nH-x\n\n.*rpi:\nH-x\nH-y\n$/)
})

asRoot('a read-only file system', () => {
  const p = new Place()
  const said = inside(p, 'mount -t tmpfs tmpfs $Q/rpi; mount -o remount,ro $Q/rpi; hook', { OUT_PATHS: p.built('x') })
  assert.match(said, /^nix-lan: built, but not queued in \S+rpi\/ \(Read-only file system\); .*\nexit 0\n$/)
})

asRoot("in a user's directory full of traps, nothing is made elsewhere", () => {
  const p = new Place()
  const said = inside(
    p,
    `chown ${USER} $Q/rpi; chmod 700 $Q/rpi; as_user ln -s $T $Q/rpi/$H-x; as_user ln -s $T $Q/rpi/$H-x.drv; as_user ln -s $T/new $Q/rpi/$H-y
as_user mkdir $Q/rpi/$H-z; mkdir $Q/nas; chown ${USER} $Q/nas; rmdir $Q/nas; ln -s $T $Q/nas; ln -s /nonexistent $Q/pi
hook; ls -A $T; ls $Q/rpi/$H-z; ls $Q/rpi`,
    { OUT_PATHS: p.built('x', 'y', 'z', 'good'), DRV_PATH: p.drv('x', '') },
  )
  const lines = said.split('\n')
  assert.match(lines[0] ?? '', /nas\/ is a symlink/)
  assert.match(lines[1] ?? '', /not queued in \S+\/rpi\/ \(File exists\).*add DIR\/store\/H-z$/)
  assert.equal(lines.slice(2), ['exit 0', 'H-good', 'H-x', 'H-x.drv', 'H-y', 'H-z', ''])
})

asRoot("a parent that is a user's is refused: its names could change between a look and ln", () => {
  const p = new Place()
  for (const parent of [p.queue, join(p.state, 'gcroots/nix-lan')]) {
    const said = inside(p, `chown ${USER} ${parent}; hook; chown 0 ${parent}; ls $Q/rpi; rm -r ${p.dir}/etc`, { OUT_PATHS: p.built('x') })
    assert.match(said, /^nix-lan: \S+ is not root's, .*chown root \S+\nexit 0\n$/)
  }
})

asRoot('no process to be had: exit 0', () => {
  const p = new Place()
  const said = inside(p, `chown -R ${USER} ${p.state}; as_user prlimit --nproc=1 "$HOOK"; echo "exit $?"`, { OUT_PATHS: p.built('x') })
  assert.match(said, /nix-lan: cut short .*-x \nexit 0\n$/)
})

asRoot('no queue and no configuration: said once, then not again, and without JavaScript', () => {
  const p = new Place()
  rmSync(p.queue, { recursive: true })
  const script = 'hook; echo again; PATH=/usr/bin:/bin; hook; ls -A $Q; mkdir -p $Q/rpi; hook; ls $Q/rpi'
  const said = inside(p, script, { OUT_PATHS: p.built('x') }).split('\n')
  assert.match(said[0] ?? '', /^nix-lan: no queue yet, so nothing that is built is queued: /)
  const rest = said.slice(said.indexOf('exit 0')).filter((line) => !line.startsWith('ls: '))
  assert.equal(rest, ['exit 0', 'again', 'exit 0', 'exit 0', 'H-x', ''])
})

const CONFIG =
  'mkdir -p /etc/nix-lan; printf \'user = "nobody"\\n[cache.rpi]\\nhost = "rpi.local"\\n[cache.shop]\\nurl = "http://nas.local"\\n\' >/etc/nix-lan/config.toml\n'

asRoot('no queue, but a configuration that root can trust: makes the directories, and queues this very build', () => {
  const p = new Place()
  rmSync(join(p.state, 'gcroots/nix-lan'), { recursive: true })
  const said = inside(p, `umask 077; ${CONFIG}hook; cd $Q/..; stat -c '%n %a %u' * */*; readlink $Q/rpi/*`, { OUT_PATHS: p.built('x') })
  const made = ['failed 755 0', 'queue 755 0', `failed/rpi 755 ${USER}`, `queue/rpi 755 ${USER}`]
  assert.equal(said.split('\n'), ['exit 0', ...made, 'DIR/store/H-x', ''])
})

asRoot('a cache that is added to the configuration gets its directory at the next build, once', () => {
  const p = new Place()
  const add = `printf '[cache.nas]\\nhost = "nas"\\n' >>/etc/nix-lan/config.toml; chown ${USER} $Q/rpi; touch -d '1 hour' /etc/nix-lan/config.toml`
  const after = '[ /etc/nix-lan/config.toml -nt $Q ] || echo newer'
  const said = inside(p, `${CONFIG}${add}; hook; ls $Q $Q/nas; PATH=/nonexistent:/usr/bin:/bin; hook; ${after}`, {
    OUT_PATHS: p.built('x'),
  })
  assert.equal(said.split('\n'), [
    'exit 0',
    'DIR/state/gcroots/nix-lan/queue:',
    'nas',
    'rpi',
    '',
    'DIR/state/gcroots/nix-lan/queue/nas:',
    'H-x',
    'exit 0',
    'newer',
    '',
  ])
})

asRoot('a configuration that root must not trust makes nothing', () => {
  const p = new Place()
  rmSync(join(p.state, 'gcroots/nix-lan'), { recursive: true })
  const said = inside(p, `${CONFIG}chown ${USER} /etc/nix-lan/config.toml; hook; ls ${p.state}/gcroots; hook`, { OUT_PATHS: p.built('x') })
  assert.match(said, /^nix-lan: no queue yet, .*\/etc\/nix-lan\/config\.toml.*\nexit 0\nexit 0\n$/)
})
asRoot.run()
