// The units by themselves, on each release's systemd: that it has nothing to say against them, that
// an upload is neither stopped for good by many quick successes nor a tight loop when it can't go,
// and that a stop leaves nothing red and the queue whole. The scenarios have the rest.
import { readFileSync } from 'node:fs'
import * as assert from 'uvu/assert'
import { SYSTEM_UNITS } from '../../scripts/system/texts.ts'
import { pause } from '../lib/processes.ts'
import { ofUserUnit } from './host.ts'
import { createLab, type Lab, labSuite, release } from './lab.ts'
import { CACHE, QUEUE, T_FILE } from './machines.ts'
import { withTargetDown } from './scenario.ts'

const test = labSuite('units')
const UNITS = ['nix-lan@.target', 'nix-lan-tunnel@.service', 'nix-lan-upload@.path', 'nix-lan-upload@.service'].concat([
  'nix-lan-built@.timer',
  'nix-lan-built@.service',
  'nix-lan-gc@.timer',
  'nix-lan-gc@.service',
  'nix-lan-check.timer',
  'nix-lan-check.service',
  'nix-lan-network.path',
  'nix-lan-network.service',
])
const OF_BOX = UNITS.filter((name) => name.includes('@')).map((name) => name.replace('@', `@${CACHE}`))
const [TARGET = '', TUNNEL = '', PATH_UNIT = '', UPLOAD = ''] = OF_BOX
let lab: Lab

test.before(async () => {
  lab = await createLab({ laptop: release(), installed: true })
  await lab.eventually('an answer', () => lab.usable(), { within: 60_000 })
})
test.after(() => lab.close())

const is = (unit: string): Promise<string> => lab.laptop.systemctl('is-active', unit)

/** Waits until all of these are: a stop doesn't wait for the end of what stops with it. */
async function inactive(units: readonly string[]): Promise<void> {
  let states: string[] = []
  const all = async (): Promise<boolean> => {
    states = await Promise.all(units.map(async (unit) => `${unit} ${await is(unit)}`))
    return states.every((state) => state.endsWith(' inactive'))
  }
  await lab.eventually('all of them to be inactive', all, { within: 60_000 }).catch(() => {})
  assert.equal(
    states,
    units.map((unit) => `${unit} inactive`),
  )
}

/** Store paths that are on the box already: an upload of them succeeds at once. */
async function uploaded(count: number): Promise<string[]> {
  const { paths } = await lab.build(['--argstr', 'name', `many-${count}`, '--arg', 'count', String(count)])
  await lab.eventually('the queue is empty', async () => (await lab.queued()).length === 0, { within: 120_000 })
  return paths
}

/** How often the upload was started since then. */
async function uploads(since: number): Promise<number> {
  const lines = await lab.laptop.journal({ since, match: [`USER_UNIT=${UPLOAD}`] })
  return lines.filter((line) => /systemd\[\d+\]: Started /.test(line)).length
}

test('systemd-analyze verify has nothing to say', async () => {
  const names = [...OF_BOX, ...UNITS.filter((name) => !name.includes('@'))]
  const env = { SYSTEMD_UNIT_PATH: '/etc/systemd/user:' }
  const options = { env, cwd: '/etc/systemd/user' }
  const { code, stdout, stderr } = await lab.laptop.run('alice', 'systemd-analyze', ['--user', '--man=no', 'verify', ...names], options)
  assert.equal([code, stdout, stderr], [0, '', ''])
})

test('nor against those of the system, which `nix-lan setup` installs', async () => {
  for (const [name, text] of Object.entries(SYSTEM_UNITS)) lab.laptop.write(`/opt/units/${name}`, text)
  const names = Object.keys(SYSTEM_UNITS).map((name) => name.replace('@', `@${CACHE}`))
  const options = { env: { SYSTEMD_UNIT_PATH: '/opt/units:' }, cwd: '/opt/units' }
  const { code, stdout, stderr } = await lab.laptop.run('root', 'systemd-analyze', ['--man=no', 'verify', ...names], options)
  assert.equal([code, stdout, stderr], [0, '', ''])
})

test('one path each 0.3 s, then one as soon as the one before has gone, all of them there already: each goes, and the path unit stays', async () => {
  const paths = await uploaded(60)
  const since = Date.now()
  const feed = `for p; do ln -s "$p" ${QUEUE}/; sleep 0.3; done`
  await lab.laptop.must('alice', 'sh', ['-c', feed, 'sh', ...paths], { timeout: 300_000 })
  await lab.eventually('the queue is empty', async () => (await lab.queued()).length === 0, { within: 60_000 })
  const ends = `until [ "$(systemctl --user is-active ${UPLOAD})" = inactive ]; do sleep 0.1; done`
  const waiting = `for p; do ${ends}; ln -s "$p" ${QUEUE}/; until [ -z "$(ls ${QUEUE})" ]; do sleep 0.1; done; done`
  await lab.laptop.must('alice', 'sh', ['-c', waiting, 'sh', ...paths.slice(0, 12)], { timeout: 300_000 })
  const count = await uploads(since)
  assert.ok(count >= 12, `${count} uploads`) // systemd's own limit is five in ten seconds
  assert.is(await is(PATH_UNIT), 'active')
})

test('what can not go is tried again in half a minute, not at once; and holds nobody up for longer', async () => {
  // Else nix-daemon's restart would end the last upload, which then waits for its next try.
  await lab.eventually('the end of the last upload', async () => (await is(UPLOAD)) === 'inactive', { within: 60_000 })
  await lab.laptop.must('root', 'sed', ['-i', 's/^secret-key-files/#&/', '/etc/nix/nix.conf'])
  await lab.laptop.restartNix()
  const since = Date.now()
  await lab.build(['--argstr', 'name', 'unsigned'])
  await lab.laptop.must('root', 'sed', ['-i', 's/^#secret-key-files/secret-key-files/', '/etc/nix/nix.conf'])
  await lab.laptop.restartNix()
  await lab.eventually('a try', async () => /auto-restart/.test(await lab.laptop.systemctl('show', '-P', 'SubState', UPLOAD)))
  await pause(10_000)
  const tries = await uploads(since)
  assert.ok(tries >= 1 && tries <= 2, `${tries} tries in 10 s`)
  assert.is(await lab.laptop.systemctl('--failed', '--no-legend', '--plain'), '')
  const { paths } = await lab.build(['--argstr', 'name', 'signed'])
  await lab.eventually('it is on the box', () => lab.boxHas(...paths), { within: 90_000, every: 500 })
  await lab.laptop.must('root', 'nix-lan', ['queue', 'sign'])
  await lab.eventually('the queue is empty', async () => (await lab.queued()).length === 0, { within: 90_000, every: 500 })
})

test('the target is stopped in the middle of an upload: all is inactive, nothing red, the path still queued; and it goes when it is back', async () => {
  await lab.lan.slow('box', 4)
  const { paths } = await lab.build(['--argstr', 'name', 'large', '--arg', 'kb', '16000'])
  await lab.eventually('an upload', async () => (await is(UPLOAD)) === 'active')
  await pause(2000)
  await withTargetDown(lab, async () => {
    await inactive(OF_BOX)
    assert.is(await lab.laptop.systemctl('--failed', '--no-legend', '--plain'), '')
    assert.ok((await lab.queued()).some((name) => name.endsWith('-large')))
  })
  await lab.lan.slow('box', 0)
  await lab.laptop.must('alice', 'systemctl', ['--user', 'restart', 'nix-lan-check.service'])
  await lab.eventually('it is on the box', () => lab.boxHas(...paths), { within: 60_000, every: 500 })
})

test('ssh is killed, again and again: the tunnel comes back each time, and what hangs on it', async () => {
  const entered = (): Promise<string> => lab.laptop.systemctl('show', '-P', 'ActiveEnterTimestampMonotonic', PATH_UNIT)
  for (let round = 0; round < 6; round++) {
    await lab.eventually('the path unit', async () => (await is(PATH_UNIT)) === 'active', { within: 90_000 })
    const began = await entered()
    await lab.laptop.must('alice', 'pkill', ['-9', '-x', 'ssh'])
    await lab.eventually('its end', async () => (await is(PATH_UNIT)) !== 'active' || (await entered()) !== began, { within: 60_000 })
  }
  await lab.eventually('the path unit', async () => (await is(PATH_UNIT)) === 'active', { within: 90_000 })
  assert.equal(await Promise.all([is(TUNNEL), is(TARGET)]), ['active', 'active'])
  // What comes and goes with it, as often as on the quickest of machines.
  const withIt = OF_BOX.filter((unit) => /\.(path|timer)$/.test(unit)).join(' ')
  await lab.laptop.must('alice', 'sh', ['-ec', `for i in 1 2 3 4 5 6 7 8; do systemctl --user restart ${withIt}; done`])
  assert.is(await lab.laptop.systemctl('--failed', '--no-legend', '--plain'), '')
})

test('the nix-daemon of the box is gone: the tunnel waits and says why; and is ready when it is back', async () => {
  await lab.box.must('root', 'systemctl', ['stop', 'nix-daemon.socket', 'nix-daemon.service'])
  await lab.laptop.must('alice', 'systemctl', ['--user', 'restart', '--no-block', TUNNEL])
  const status = () => lab.laptop.systemctl('show', '-P', 'StatusText', TUNNEL)
  await lab.eventually('a reason', async () => /its nix-daemon isn't running, that user may not use it/.test(await status()))
  assert.is(await is(TUNNEL), 'activating')
  await lab.box.must('root', 'systemctl', ['start', 'nix-daemon.socket'])
  await lab.eventually('it is ready', async () => (await is(TUNNEL)) === 'active', { within: 90_000 })
  assert.match(await status(), /^Nix [\d.]+ on the box answers$/)
})

test('a check that somebody asks for is not taken for the timer’s, which has been before', async () => {
  await lab.eventually('the tunnel', async () => (await is(TUNNEL)) === 'active', { within: 90_000 })
  const triggered = (): Promise<string> => lab.laptop.systemctl('show', '-P', 'LastTriggerUSecMonotonic', 'nix-lan-check.timer')
  const before = await triggered()
  // It elapses at once then, since OnStartupSec= is over.
  await lab.laptop.must('alice', 'systemctl', ['--user', 'restart', 'nix-lan-check.timer'])
  await lab.eventually('the timer’s check', async () => (await triggered()) !== before)
  await lab.eventually('its end', async () => (await is('nix-lan-check.service')) === 'inactive')
  const socket = `/run/user/1000/nix-lan/${CACHE}.sock`
  await lab.laptop.must('alice', 'touch', ['-d', '@1000', socket])
  await lab.laptop.must('alice', 'systemctl', ['--user', 'restart', 'nix-lan-check.service'])
  assert.is.not(await lab.laptop.must('alice', 'stat', ['-c', '%Y', socket]), '1000')
})

test('once a day: what was built while there was no hook is queued, and goes', async () => {
  await lab.eventually('the queue is empty', async () => (await lab.queued()).length === 0, { within: 90_000, every: 500 })
  await lab.laptop.must('root', 'sed', ['-i', 's/^post-build-hook/#&/', '/etc/nix/nix.conf'])
  await lab.laptop.restartNix()
  const path = await lab.laptop.must('alice', 'nix-build', [T_FILE, '--no-out-link', '--argstr', 'name', 'forgotten'])
  assert.equal(await lab.queued(), [])
  assert.is(await is(`nix-lan-built@${CACHE}.timer`), 'active')
  await lab.laptop.must('alice', 'systemctl', ['--user', 'start', `nix-lan-built@${CACHE}.service`])
  await lab.eventually('it is on the box', () => lab.boxHas(path), { within: 60_000, every: 500 })
  await lab.laptop.must('root', 'sed', ['-i', 's/^#post-build-hook/post-build-hook/', '/etc/nix/nix.conf'])
  await lab.laptop.restartNix()
})

/** Arguments of nix-build for a path of 6 MB that the box has, and the laptop hasn't any more. */
async function onlyOnBox(name: string): Promise<string[]> {
  const args = ['--argstr', 'name', name, '--arg', 'kb', '6000']
  const { paths } = await lab.build(args)
  await lab.eventually('it is on the box', () => lab.boxHas(...paths), { within: 60_000, every: 500 })
  await lab.eventually('the queue is empty', async () => (await lab.queued()).length === 0, { within: 60_000 })
  await lab.laptop.must('root', 'nix-store', ['--delete', ...paths])
  return args
}

/** Waits for the first bytes of a fetch: from then on it is under way. */
async function begun(name: string): Promise<void> {
  const there = async () => (await lab.laptop.run('root', 'sh', ['-c', `ls -d /nix/store/*-${name}`])).code === 0
  await lab.eventually('the first bytes', there, { within: 60_000, every: 200 })
}

const fetch = (args: string[]) => lab.laptop.run('alice', 'nix-build', [T_FILE, '--no-out-link', ...args], { timeout: 240_000 })

function fetchedWell({ code, stderr }: Awaited<ReturnType<typeof fetch>>): void {
  assert.is(code, 0, stderr)
  assert.match(stderr, /copying path '[^']*' from 'ssh-ng:/)
  assert.not.match(stderr, /building '|error|warning/, 'it has arrived, and was not built instead')
}

test('the tunnel goes in the middle of a fetch: the fetch has the box looked for, and goes on', async () => {
  const args = await onlyOnBox('lost')
  await lab.lan.slow('laptop', 4) // towards us, as a fetch goes
  await lab.laptop.systemctl('stop', 'nix-lan-check.timer') // so that nobody else looks
  const fetching = fetch(args)
  await begun('lost')
  const since = Date.now()
  await lab.laptop.systemctl('stop', TARGET)
  const checks = () => lab.laptop.journal({ since, match: ofUserUnit('nix-lan-check.service') })
  await lab.eventually('a check', async () => (await checks()).some((line) => /starting its tunnel/.test(line)), { within: 60_000 })
  console.log(`figure: a fetch that lost its tunnel: the check had found the box after ${((Date.now() - since) / 1000).toFixed(1)} s`)
  fetchedWell(await fetching)
  await lab.lan.slow('laptop', 0)
  await lab.laptop.systemctl('start', 'nix-lan-check.timer')
})

test('as NixOS takes it away, in the middle of a fetch: the fetch arrives, all stops, nothing is red, and builds go on', async () => {
  const args = await onlyOnBox('back')
  lab.laptop.write('/opt/stop.sh', readFileSync('nix/stop.sh', 'utf8'))
  await lab.lan.slow('laptop', 4)
  const fetching = fetch(args)
  await begun('back')
  await lab.laptop.must('root', 'bash', ['/opt/stop.sh', 'alice'], { timeout: 240_000 })
  await inactive([...OF_BOX, 'nix-lan-check.timer', 'nix-lan-check.service'])
  assert.is(await lab.laptop.systemctl('--failed', '--no-legend', '--plain'), '')
  fetchedWell(await fetching)
  await lab.lan.slow('laptop', 0)
  const alone = await lab.build(['--argstr', 'name', 'alone'])
  assert.ok(
    (await lab.queued()).some((name) => name.endsWith('-alone')),
    'the queue stays',
  )
  await lab.laptop.must('alice', 'systemctl', ['--user', 'start', 'nix-lan-check.timer'])
  await lab.eventually('it is on the box', () => lab.boxHas(...alone.paths), { within: 90_000, every: 500 })
})

test.run()
