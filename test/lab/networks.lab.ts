// Networks that are not as they should be: another machine in the box's place, a DNS server that is
// silent or lies, an address that changes; and two caches, of which one is away.
import * as assert from 'uvu/assert'
import type { Host } from './host.ts'
import { createLab, type Lab, labSuite, release } from './lab.ts'
import { configuration, QUEUE } from './machines.ts'
import { atHome, Builds, becomes, calm, measured, pluggedIn, saidOnce, TARGET, targetUp, tunnelState, untilWell } from './scenario.ts'

const test = labSuite('networks')
let lab: Lab
let since = 0

test.before(async () => {
  lab = await createLab({ laptop: release(), installed: true, ownDeadline: true, secondBox: true })
})
test.after(() => lab.close())
test.before.each(async () => {
  await lab.mend()
  await atHome(lab)
  since = Date.now()
})

const reason = () => tunnelState(lab).reason

test('two caches, one there and one not: each has its own target, and its own queue', async () => {
  const nas = () => lab.laptop.systemctl('is-active', 'nix-lan@nas.target')
  await lab.eventually('the second cache', () => lab.answers('nas'))
  await lab.nas.power('off')
  await becomes(lab, 'its target is down', 15, async () => (await nas()) !== 'active')
  const builds = new Builds(lab, 'two')
  const { path } = await builds.build()
  await becomes(lab, 'the build is on the first', 10, () => lab.boxHas(path))
  assert.ok(await targetUp(lab))
  const waiting = await lab.laptop.must('root', 'ls', [QUEUE.replace(/pi$/, 'nas')])
  assert.match(waiting, /-two-1$/m, 'queued for the other')
  await calm(lab, since)
  await lab.nas.power('on')
  const back = await becomes(lab, 'the other answers', 40, () => lab.answers('nas'))
  measured('recover', 'second box switched on: its socket answers, after its boot', 40, back)
  await becomes(
    lab,
    'the build is on the other',
    10,
    async () => (await lab.nas.run('root', 'nix-store', ['--check-validity', path])).code === 0,
  )
  await calm(lab, since)
})

test('the box’s address changes while the tunnel is up: found again, builds go on', async () => {
  const builds = new Builds(lab, 'moved')
  await builds.atHome()
  const moved = performance.now()
  await lab.moveBox('10.77.0.77')
  await builds.build()
  const ssh = async () =>
    (await lab.box.run('root', 'sh', ['-c', 'ss -Htn state established "sport = :22" | grep -q "10\\.77\\.0\\.77.*:22 "'])).code === 0
  await becomes(lab, 'a tunnel to the new address', 20, async () => (await lab.answers()) && (await ssh()))
  measured('recover', 'box’s address changed: the socket answers again', 20, performance.now() - moved)
  measured('build', 'box’s address changed: a build', 3, builds.longest)
  await calm(lab, since)
})

test('a DNS server that never answers: the box is found all the same, in a tenth of what getent takes', async () => {
  await lab.lan.dns('silent')
  let stops = 0
  try {
    const getent = await lab.laptop.run('alice', 'getent', ['ahosts', 'pi.local'])
    let took = Number.POSITIVE_INFINITY
    // getent just waits
    await untilWell(
      12,
      () => took <= 0.1 * getent.ms,
      async () => {
        await lab.laptop.systemctl('stop', TARGET)
        stops += 1
        // as after a boot: where it was last time is not known
        await lab.laptop.must('alice', 'rm', ['-f', '/run/user/1000/nix-lan/pi.address'])
        const before = performance.now()
        await lab.laptop.systemctl('restart', '--no-block', 'nix-lan-check.service')
        await lab.eventually('an answer', () => lab.answers(), { every: 50 })
        took = Math.min(took, performance.now() - before)
      },
    )
    console.log(`figure: DNS server silent: getent takes ${(getent.ms / 1000).toFixed(1)} s`)
    measured('recover', 'DNS server silent: the socket answers', 1, took)
    assert.ok(took < 0.4 * getent.ms, `${took} ms, and getent ${getent.ms} ms`)
  } finally {
    await lab.lan.dns('normal')
  }
  await calm(lab, since, stops)
})

test('another machine called pi.local: nothing is sent to it, the state says why, builds go on', async () => {
  const builds = new Builds(lab, 'other')
  await builds.atHome()
  await lab.lan.cable('box', false)
  const other = await lab.impostor()
  try {
    await besideImpostor(other, builds)
  } finally {
    await other.power('off')
  }
  await lab.lan.cable('box', true)
  measured('recover', 'the box is in its place again: the socket answers', 60, await becomes(lab, 'an answer', 60, () => lab.answers()))
  await atHome(lab)
  assert.ok(await lab.boxHas(...builds.paths))
})

async function besideImpostor(other: Host, builds: Builds): Promise<void> {
  const told = await becomes(lab, 'the state tells', 20, () => /another machine calls itself pi\.local/.test(reason()))
  measured('notice', 'another machine in the box’s place: the state says so', 20, told)
  await builds.build()
  measured('build', 'another machine in the box’s place: a build', 3, builds.longest)
  // as long as it takes for the pauses to grow
  await lab.eventually('four attempts', () => tunnelState(lab).failures >= 4, { within: 120_000 })
  const logins = /Accepted|Failed|Postponed|userauth|authenticating|Invalid user/
  const log = () => other.journal({ match: ['-u', 'ssh'] })
  const lines = await log()
  assert.ok(lines.filter((line) => line.includes('Connection from 10.77.')).length >= 2, lines.join('\n'))
  assert.equal(
    lines.filter((line) => logins.test(line)),
    [],
    'no key, no name, nothing',
  )
  await saidOnce(lab, since, /another machine calls itself/)
  // who does show a key is seen in that log
  await lab.laptop.run('alice', 'ssh', [
    '-o',
    'BatchMode=yes',
    '-o',
    'StrictHostKeyChecking=no',
    '-o',
    'UserKnownHostsFile=/dev/null',
    'pi.local',
    'true',
  ])
  await lab.eventually('a login that fails', async () => (await log()).some((line) => logins.test(line)))
  await calm(lab, since)
}

test('a captive portal’s address for every name, refusing or unresponsive: builds go on, and home is found again', async () => {
  const builds = new Builds(lab, 'portal')
  await builds.atHome()
  // mDNS names no portal takes; the router's own do
  await lab.laptop.systemctl('stop', TARGET)
  lab.laptop.write('/etc/nix-lan/config.toml', configuration([['pi', 'pi.lan']]))
  await lab.laptop.systemctl('restart', 'nix-lan-check.service')
  await atHome(lab)
  await lab.lan.cable('box', false)
  await lab.lan.dns('captive')
  assert.match(await lab.laptop.must('alice', 'getent', ['ahostsv4', 'pi.lan']), /^10\.77\.0\.1 /)
  await becomes(lab, 'the target is down', 15, async () => !(await targetUp(lab)))
  await builds.build()
  await lab.lan.portal(22)
  await lab.laptop.systemctl('restart', '--no-block', 'nix-lan-check.service')
  await becomes(lab, 'the state tells', 20, () => /^ssh could not connect/.test(reason()))
  await builds.build()
  measured('build', 'at a captive portal: a build', 3, builds.longest)
  await calm(lab, since)
  // home: another network for NetworkManager, too
  await lab.lan.cable('laptop', false)
  const state = () => lab.laptop.must('root', 'nmcli', ['-g', 'GENERAL.STATE', 'device', 'show', 'host0'])
  await lab.eventually(
    'NetworkManager notices',
    async () => !/connected\)/.test(await state()) || /disconnected|unavailable/.test(await state()),
  )
  await lab.lan.dns('normal')
  await lab.lan.cable('box', true)
  const { answers } = await pluggedIn(lab, builds, { answers: 10, drained: 20 })
  measured('recover', 'home from a captive portal: the socket answers', 10, answers)
  await atHome(lab)
  assert.ok(await lab.boxHas(...builds.paths))
})

test.run()
