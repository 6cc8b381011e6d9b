// A week of use, one event after the other on one laptop: set up, builds, garbage collected,
// reboots, outages, a full box, a second one, an upgrade, a box removed, another renamed, undone.
// After each, `nix-lan status --json` has to say what this test sees by itself.
import { readFileSync } from 'node:fs'
import * as assert from 'uvu/assert'
import type { Result } from '../lib/processes.ts'
import { RESTART_NIX } from './host.ts'
import { createLab, type Lab, labSuite, release } from './lab.ts'
import { allowDeadline, DEADLINE, FAILED, filesBelow, QUEUE } from './machines.ts'

const test = labSuite('a week of use')
let lab: Lab

/** The parts of `nix-lan status --json` that are looked at here. */
interface Status {
  check: { timer: boolean; last: string | null } | null
  gc: { at: string | null; problem: string | null; onlyHere: { paths: number } } | null
  caches: CacheStatus[]
}

interface CacheStatus {
  cache: string
  state: 'usable' | 'reachable' | 'away' | 'unknown'
  since: string | null
  reason: string | null
  ms: number | null
  tunnel: { state: string; failures: number; retry: number | null } | null
  queue: {
    queued: number
    size: number | null
    oldest: string | null
    failed: { path: string; reason: string }[]
    uploading: boolean
    upload: { done: Amount; all: Amount; rate: number | null; left: number | null } | null
    waits: string | null
    retry: string | null
    problem: string | null
  } | null
  uploaded: Counts | null
  fetched: Counts | null
  notKept: string | null
}

interface Amount {
  paths: number
  bytes: number
}
interface Counts {
  last: string | null
  today: Amount
  week: Amount
  all: Amount
}

/** What a cache is expected to be. Times are milliseconds since 1970. */
interface Expected {
  state: CacheStatus['state']
  /** Not older than this. */
  since?: number
  reason?: RegExp
  /** Paths that wait; a path and its derivation are two. */
  queued?: number
  waits?: RegExp
  uploaded?: number
  fetched?: number
}

const DIST = '/opt/src/dist'
const NEWER = '/opt/newer/dist'
const CONFIG = '/etc/nix-lan/config.toml'
const NIX_CONF = '/etc/nix/nix.conf'
const AGENT = '/home/alice/agent.sock'

test.before(async () => {
  lab = await createLab({ laptop: release(), secondBox: true })
  for (const dist of [DIST, NEWER])
    for (const file of filesBelow('dist')) {
      const text = readFileSync(`dist/${file}`, 'utf8')
      const shown = dist === NEWER ? text.replaceAll(`"${version}"`, '"99.0.0"') : text
      lab.laptop.write(`${dist}/${file}`, shown, { mode: text.startsWith('#!') ? 0o755 : 0o644 })
    }
  conf = lab.laptop.read(NIX_CONF)
})
test.after(() => lab?.close())
/** One event whose test failed shall not make all that follow it fail. */
test.before.each(async () => {
  if (!failed) return
  failed = false
  await lab.mend()
  for (const { cache, uploaded: sent, fetched: got, queue } of (await status()).caches) {
    uploaded.set(cache, (sent?.all.paths ?? 0) + (queue?.queued ?? 0))
    fetched.set(cache, got?.all.paths ?? 0)
  }
})
let failed = false

const version = (JSON.parse(readFileSync('package.json', 'utf8')) as { version: string }).version
let conf = ''
/** What has been uploaded and fetched so far, by cache: paths. */
const uploaded = new Map<string, number>()
const fetched = new Map<string, number>()
const add = (counts: Map<string, number>, cache: string, number: number): void => void counts.set(cache, (counts.get(cache) ?? 0) + number)

async function setup(code: number, ...args: string[]): Promise<string> {
  return await setupFrom(DIST, code, ...args)
}

async function setupFrom(dist: string, code: number, ...args: string[]): Promise<string> {
  const all = ['setup', '--yes', ...(args.includes('--undo') ? [] : ['--no-doctor']), ...args]
  const result = await lab.laptop.run('root', `${dist}/nix-lan`, all, { env: { SUDO_USER: 'alice' }, timeout: 240_000 })
  assert.is(result.code, code, `${args.join(' ')}:\n${result.stdout}${result.stderr}`)
  return result.stdout
}

/** Asked again while systemd is too busy to answer, for which status gives it two seconds. */
async function status(): Promise<Status> {
  let said: Pick<Result, 'code' | 'stdout' | 'stderr'> = { code: null, stdout: '', stderr: '' }
  const answers = async (): Promise<boolean> => {
    said = await lab.laptop.run('alice', 'nix-lan', ['status', '--json'])
    return !said.stderr.includes('no answer in time')
  }
  await lab.eventually('systemd answers status', answers, { every: 1000 })
  assert.equal([said.code, said.stderr], [0, ''])
  return JSON.parse(said.stdout) as Status
}

const of = (name: string, { caches }: Status): CacheStatus => {
  const found = caches.find(({ cache }) => cache === name)
  assert.ok(found, `no cache ${name}`)
  return found as CacheStatus
}

const entries = async (folder: string): Promise<number> => {
  const { stdout } = await lab.laptop.run('root', 'sh', ['-c', `ls ${folder}`])
  return stdout.split('\n').filter((name) => name !== '').length
}

const folder = (place: string, cache: string): string => place.replace(/[^/]*$/, cache)

/**
 * What status says that isn't so: compared with what is expected, and with what this test finds by
 * itself about the tunnel, the queue and the units.
 */
async function lies(expected: Record<string, Expected>): Promise<string[]> {
  const wrong: string[] = []
  const now = Date.now()
  const said = await status()
  const is = (what: string, found: unknown, right: unknown): void => {
    if (JSON.stringify(found) !== JSON.stringify(right)) wrong.push(`${what}: says ${JSON.stringify(found)}, is ${JSON.stringify(right)}`)
  }
  const matches = (what: string, found: string | null, right: RegExp): void => {
    if (!right.test(found ?? '')) wrong.push(`${what}: says ${JSON.stringify(found)}, should be like ${right}`)
  }
  is(
    'caches',
    said.caches.map(({ cache }) => cache),
    Object.keys(expected),
  )
  is('check.timer', said.check?.timer, true)
  const looked = Date.parse(said.check?.last ?? '')
  if (!(looked > now - 70_000 && looked <= now + 2000)) wrong.push(`check.last: ${said.check?.last}`)
  for (const one of said.caches) {
    const { cache, state, since, reason, ms, tunnel, queue } = one
    const right = expected[cache]
    if (!right) continue
    is(`${cache}.state`, state, right.state)
    is(`${cache}.reason is null`, reason === null, right.state === 'usable')
    is(`${cache}.ms is null`, ms === null, right.state !== 'usable')
    is(`${cache}.notKept`, one.notKept, null)
    if (right.reason) matches(`${cache}.reason`, reason, right.reason)
    if (right.since !== undefined) {
      const began = Date.parse(since ?? '')
      // systemd gives whole seconds
      if (!(began >= right.since - 1000 && began <= now + 1000))
        wrong.push(`${cache}.since: says ${since}, began after ${iso(right.since)}`)
    }
    if (!tunnel || !queue) continue // a url
    is(`${cache}: an answer at the socket`, state === 'usable', await lab.answers(cache))
    is(`${cache}.tunnel.state`, tunnel.state, await lab.laptop.systemctl('is-active', `nix-lan-tunnel@${cache}.service`))
    const [waiting, failed] = [await entries(folder(QUEUE, cache)), await entries(folder(FAILED, cache))]
    is(`${cache}.queue.queued`, queue.queued, waiting)
    const { stdout: pids } = await lab.laptop.run('root', 'pgrep', ['-f', `nix-lan queue upload --cache ${cache}$`])
    is(`${cache}.queue.uploading`, queue.uploading, pids !== '')
    is(`${cache}.queue.queued`, queue.queued, right.queued ?? 0)
    is(`${cache}.queue.failed`, queue.failed.length, failed)
    is(`${cache}.queue.failed`, queue.failed, [])
    is(`${cache}.queue.problem`, queue.problem, null)
    is(`${cache}.queue.oldest is null`, queue.oldest === null, queue.queued === 0)
    is(`${cache}.queue.size is 0`, queue.size === 0, queue.queued === 0)
    if (!queue.uploading) is(`${cache}.queue.upload`, queue.upload, null)
    if (right.waits) matches(`${cache}.queue.waits`, queue.waits, right.waits)
    else is(`${cache}.queue.waits`, queue.waits, null)
    is(`${cache}.uploaded`, one.uploaded?.all.paths, right.uploaded ?? uploaded.get(cache) ?? 0)
    is(`${cache}.fetched`, one.fetched?.all.paths, right.fetched ?? fetched.get(cache) ?? 0)
    for (const counts of [one.uploaded, one.fetched])
      is(`${cache}: all of it was today`, day() === DAY ? counts?.today : counts?.week, counts?.all)
  }
  return wrong
}

const iso = (time: number): string => new Date(time).toISOString()
const day = (): string => iso(Date.now()).slice(0, 10)
/** The day on which all of this began: it may go on after midnight. */
const DAY = day()

/** Waits until status says this and all of it is so. @param within seconds */
async function truth(what: string, expected: Record<string, Expected>, within = 60): Promise<void> {
  let wrong: string[] = []
  const began = performance.now()
  const right = async (): Promise<boolean> => {
    wrong = await lies(expected)
    return wrong.length === 0
  }
  try {
    await lab.eventually(`the truth after ${what}`, right, { within: 1000 * within, every: 500 })
  } catch (error) {
    failed = true
    throw new Error(`status after ${what}:\n  ${wrong.join('\n  ')}`, { cause: error })
  }
  console.log(`figure: ${what}: status tells the truth after ${((performance.now() - began) / 1000).toFixed(1)} s`)
}

/** Builds something of so many KiB, and counts it for these caches, with its derivation. */
async function build(name: string, caches: readonly string[] = ['pi'], kb = 0): Promise<string> {
  const { paths } = await lab.build(['--argstr', 'name', name, '--arg', 'kb', String(kb)])
  for (const cache of caches) add(uploaded, cache, 2)
  return paths[0] ?? ''
}

const onBox = async (path: string, box = lab.box): Promise<boolean> =>
  (await box.run('root', 'nix-store', ['--check-validity', path])).code === 0

test('set up', async () => {
  const began = Date.now()
  await setup(0, 'pi.local')
  await truth('setup', { pi: { state: 'usable', since: began } })
})

test('a longer deadline, by hand and by another setup', async () => {
  await allowDeadline(lab.laptop)
  await setup(0)
  assert.match(lab.laptop.read('/etc/nix-lan/connect/pi'), `deadline=${DEADLINE}\n`)
  await truth('another setup', { pi: { state: 'usable' } })
})

test('builds go to the box', async () => {
  const first = await build('monday-1')
  await build('monday-2', ['pi'], 300)
  await truth('builds', { pi: { state: 'usable' } })
  assert.ok(await onBox(first))
})

test('garbage is collected, and what is needed again comes back', async () => {
  const path = await build('collected', ['pi'], 500)
  await truth('another build', { pi: { state: 'usable' } })
  const began = Date.now()
  await lab.laptop.must('alice', 'nix-lan', ['gc', '--yes'])
  assert.is((await lab.laptop.run('root', 'test', ['-e', path])).code, 1, 'it has gone')
  const { gc } = await status()
  assert.ok(Date.parse(gc?.at ?? '') >= began - 1000, `gc: ${JSON.stringify(gc)}`)
  assert.equal([gc?.problem, gc?.onlyHere.paths], [null, 0])
  const again = await lab.build(['--argstr', 'name', 'collected', '--arg', 'kb', '500'])
  assert.match(again.stderr, /copying path/)
  add(fetched, 'pi', 1)
  // The derivation is made anew, and nothing was built: nothing is queued.
  await truth('gc', { pi: { state: 'usable' } })
})

test('the laptop reboots', async () => {
  const began = Date.now()
  await lab.laptop.power('reboot')
  await truth('the laptop’s reboot', { pi: { state: 'usable', since: began } })
})

test('the box reboots', async () => {
  const began = Date.now()
  const rebooted = lab.box.power('reboot')
  await lab.eventually('it goes', async () => !(await lab.answers()))
  await build('while-it-boots')
  await rebooted
  await truth('the box’s reboot', { pi: { state: 'usable', since: began } }, 120)
})

test('the box gets another address', async () => {
  const began = Date.now()
  await lab.moveBox('10.77.0.77')
  await truth('another address', { pi: { state: 'usable', since: began } }, 120)
})

test('cut in the middle of an upload, and plugged in again', async () => {
  await lab.lan.slow('box', 4) // takes 24 s: status, which may take some of them, has to see it
  const path = await build('large', ['pi'], 12_000)
  const halfway = async (): Promise<boolean> => {
    const { queue } = of('pi', await status())
    const { done, all } = queue?.upload ?? {}
    return queue?.uploading === true && done !== undefined && all !== undefined && done.bytes > 2 ** 21 && all.bytes > done.bytes
  }
  await lab.eventually('it says that it uploads', halfway)
  const began = Date.now()
  await lab.lan.cable('laptop', false)
  const kept = (uploaded.get('pi') ?? 0) - 2
  const [away, inQueue] = ['away' as const, (await entries(QUEUE)) as number]
  assert.ok(inQueue >= 1)
  await truth('a cut', { pi: { state: away, since: began, queued: inQueue, uploaded: kept + 2 - inQueue, reason: /./ } }, 90)
  await lab.lan.slow('box', 0)
  await lab.lan.cable('laptop', true)
  await truth('the cable was plugged in', { pi: { state: 'usable', since: began } }, 90)
  assert.ok(await onBox(path))
})

test('the agent is locked, and unlocked', async () => {
  const plain = lab.laptop.read('/home/alice/.ssh/id_ed25519')
  const env = { SSH_AUTH_SOCK: AGENT, SSH_ASKPASS: '/usr/local/bin/ask', SSH_ASKPASS_REQUIRE: 'force', DISPLAY: ':0' }
  lab.laptop.write('/usr/local/bin/ask', '#!/bin/sh\necho secret\n', { mode: 0o755 })
  await lab.laptop.must('alice', 'ssh-keygen', ['-q', '-p', '-P', '', '-N', 'open sesame', '-f', '/home/alice/.ssh/id_ed25519'])
  await lab.laptop.must('alice', 'sh', ['-c', `ssh-agent -a ${AGENT} >/dev/null 2>&1`])
  await lab.laptop.must('alice', 'ssh-add', ['-q', '-'], { env, input: plain })
  await lab.laptop.must('alice', 'ssh-add', ['-x'], { env })
  lab.laptop.write('/home/alice/.bashrc', `export SSH_AUTH_SOCK=${AGENT}\n${lab.laptop.read('/home/alice/.bashrc')}`, { user: 'alice' })
  const began = Date.now()
  await lab.laptop.systemctl('stop', 'nix-lan@pi.target')
  await lab.laptop.systemctl('restart', 'nix-lan-check.service')
  await truth('the agent was locked', { pi: { state: 'reachable', since: began, reason: /the ssh agent holds no key/ } })
  const before = uploaded.get('pi') ?? 0
  await build('locked')
  await truth('a build with a locked agent', {
    pi: { state: 'reachable', reason: /the ssh agent holds no key/, queued: 2, uploaded: before },
  })
  await lab.laptop.must('alice', 'ssh-add', ['-X'], { env })
  await truth('the agent was unlocked', { pi: { state: 'usable', since: began } }, 120)
})

test('the box is full: said why it waits, what fits goes, and the rest when there is room', async () => {
  const mount = 'mkdir /small; mount -t tmpfs -o size=64m tmpfs /small; cp -a /nix/store/. /small/; mount --bind /small /nix/store'
  // garbage of the box's own
  const filler = 'head -c 44M /dev/zero >/root/filler; nix-store --add /root/filler'
  await lab.box.must('root', 'sh', ['-ec', `${mount}; ${RESTART_NIX}; ${filler}`])
  const before = uploaded.get('pi') ?? 0
  await lab.laptop.systemctl('stop', 'nix-lan-upload@pi.path', 'nix-lan-upload@pi.service')
  const large = await build('too-large', ['pi'], 40_000)
  const small = await build('small')
  await lab.laptop.systemctl('start', 'nix-lan-upload@pi.path')
  const waits = /^the box's disk is full: too-large needs 3\d\.\d MiB, \d+\.\d MiB are free/
  await truth('the box is full', { pi: { state: 'usable', queued: 1, uploaded: before + 3, waits } }, 120)
  assert.ok(await onBox(small))
  const { stdout } = await lab.laptop.run('alice', 'nix-lan', ['doctor', '--offline', '--json'])
  const finding = (JSON.parse(stdout) as { check: string; found: string; fix: string | null }[]).find(({ check }) => check === 'waiting')
  assert.match(finding?.found ?? '', /^1 path waits: the box's disk is full: too-large needs /)
  assert.is(finding?.fix, 'nix-lan box gc --cache pi')
  assert.match(await lab.laptop.must('alice', 'sh', ['-c', `${finding?.fix} --yes`]), /^\d+ paths?, 4\d\.\d MiB, deleted on pi$/)
  await truth('there is room', { pi: { state: 'usable' } }, 100)
  assert.ok(await onBox(large))
})

test('a second box', async () => {
  const began = Date.now()
  await setup(0, '--name', 'nas', 'alice@nas.local')
  // what only this machine has is queued for it, by a look that ends before its uploads are counted
  const looked = ['show', '-P', 'ExecMainExitTimestampMonotonic', 'nix-lan-built@nas.service']
  const settled = async (): Promise<boolean> => {
    if (Number(await lab.laptop.systemctl(...looked)) === 0) return false
    const { uploaded: sent, queue } = of('nas', await status())
    uploaded.set('nas', sent?.all.paths ?? 0)
    return queue?.queued === 0 && !queue.uploading && uploaded.get('nas') !== 0
  }
  await lab.eventually('the new box has what was built before', settled, { within: 120_000 })
  await truth('a second box', { pi: { state: 'usable' }, nas: { state: 'usable', since: began } }, 120)
  const path = await build('both', ['pi', 'nas'])
  await truth('a build for two', { pi: { state: 'usable' }, nas: { state: 'usable' } })
  assert.ok(await onBox(path, lab.nas))
  await lab.nas.power('off')
  const before = uploaded.get('nas') ?? 0
  await build('one-of-two', ['pi', 'nas'])
  await truth('one of two is off', { pi: { state: 'usable' }, nas: { state: 'away', queued: 2, uploaded: before, reason: /./ } }, 90)
})

test('a cache with a url', async () => {
  const server = `require('node:http').createServer((_, r) => r.end('StoreDir: /nix/store\\n')).listen(8080)`
  await lab.box.must('root', 'systemd-run', ['--unit=web', 'node', '-e', server])
  lab.laptop.write(CONFIG, `${lab.laptop.read(CONFIG)}\n[cache.web]\nurl = "http://pi.local:8080"\n`)
  const nas = { state: 'away' as const, queued: 2, uploaded: (uploaded.get('nas') ?? 0) - 2 }
  await setup(75)
  await truth('a url', { pi: { state: 'usable' }, nas, web: { state: 'usable' } })
  await lab.box.must('root', 'systemctl', ['stop', 'web'])
  await truth('the url’s server stopped', { pi: { state: 'usable' }, nas, web: { state: 'away', reason: /refused/ } })
})

test('an upgrade', async () => {
  const began = Date.now()
  const said = await setupFrom(NEWER, 75)
  assert.match(said, `nix-lan ${version} → 99.0.0`)
  assert.match(await lab.laptop.must('alice', 'nix-lan', ['--version']), /99\.0\.0/)
  const nas = { state: 'away' as const, queued: 2, uploaded: (uploaded.get('nas') ?? 0) - 2 }
  await truth('an upgrade', { pi: { state: 'usable', since: began }, nas, web: { state: 'away' } })
})

test('a box is removed', async () => {
  await setupFrom(NEWER, 0, '--remove', 'nas')
  await truth('a removal', { pi: { state: 'usable' }, web: { state: 'away' } })
  await build('after-the-removal')
  await truth('a build after it', { pi: { state: 'usable' }, web: { state: 'away' } })
})

test('the box gets another name, with something in its queue', async () => {
  await lab.box.power('off')
  const before = uploaded.get('pi') ?? 0
  await build('renamed')
  await truth('the box is off', { pi: { state: 'away', queued: 2, uploaded: before }, web: { state: 'away' } }, 90)
  await setupFrom(NEWER, 75, '--rename', 'pi=attic')
  await truth('a rename', {
    attic: { state: 'away', queued: 2, uploaded: before, fetched: fetched.get('pi') ?? 0 },
    web: { state: 'away' },
  })
  await lab.box.power('on')
  uploaded.set('attic', uploaded.get('pi') ?? 0)
  fetched.set('attic', fetched.get('pi') ?? 0)
  await truth('the box is on', { attic: { state: 'usable' }, web: { state: 'away' } }, 120)
})

test('undone: nothing is left, and builds go on', async () => {
  await lab.nas.power('on')
  const said = await setupFrom(NEWER, 0, '--undo', '--forget-key')
  assert.match(said, 'nix-lan is gone.')
  assert.is(lab.laptop.read(NIX_CONF), conf)
  assert.is((await lab.laptop.run('alice', 'nix-lan', ['status', '--json'])).code, 127, 'no nix-lan in PATH')
  const { code, stdout, stderr } = await lab.laptop.run('alice', `${DIST}/nix-lan`, ['status', '--json'])
  assert.equal([code, stdout], [2, ''])
  assert.match(stderr, /sudo .*nix-lan setup USER@HOST/)
  await lab.build(['--argstr', 'name', 'sunday'])
  assert.is(await lab.laptop.systemctl('list-units', '--all', '--plain', '--no-legend', 'nix-lan*'), '')
})

test.run()
