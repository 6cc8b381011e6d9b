// The box or the laptop goes off the network and comes back, in all the ways there are: how soon
// each is noticed and mended, and that builds go on meanwhile.
import * as assert from 'uvu/assert'
import { createLab, type Lab, labSuite, release } from './lab.ts'
import { atHome, Builds, becomes, calm, measured, PLUGGED, pluggedIn, targetUp } from './scenario.ts'

const test = labSuite('outages')
let lab: Lab
let since = 0

test.before(async () => {
  lab = await createLab({ laptop: release(), installed: true, ownDeadline: true })
})
test.after(() => lab.close())
test.before.each(async () => {
  await lab.mend()
  await atHome(lab)
  since = Date.now()
})

test('the cable is pulled: builds go on at once and later, the target goes; plugged in: all is back and the queue drained', async () => {
  const builds = new Builds(lab, 'cable')
  await builds.atHome()
  await atHome(lab)
  await lab.lan.cable('laptop', false)
  const down = becomes(lab, 'the target is down', 15, async () => !(await targetUp(lab)))
  await builds.build()
  const noticed = await down
  await builds.build()
  measured('notice', 'cable pulled: the target is down', 15, noticed)
  measured('build', 'cable pulled: a build', 3, builds.longest)
  assert.ok((await lab.queued()).length >= 2)
  const { answers, drained } = await pluggedIn(lab, builds)
  measured('recover', 'cable plugged in: the socket answers', PLUGGED.answers, answers)
  measured('recover', 'cable plugged in: the queue is drained', PLUGGED.drained, drained)
  assert.ok(await lab.boxHas(...builds.paths))
  await calm(lab, since)
})

test('out of range: a build that starts meanwhile is hardly delayed, the tunnel is given up, and comes back', async () => {
  const builds = new Builds(lab, 'range')
  await builds.atHome()
  await lab.lan.range('laptop', false)
  const gone = becomes(lab, 'the tunnel is given up', 15, async () => !(await targetUp(lab)))
  await builds.build()
  await builds.build()
  const noticed = await gone
  await builds.build()
  measured('notice', 'out of range: the tunnel is given up', 15, noticed)
  measured('build', 'out of range: a build', 3, builds.longest)
  await lab.lan.range('laptop', true)
  // no event tells it: the timer does, twice a minute
  measured('recover', 'back in range: the socket answers', 40, await becomes(lab, 'an answer', 40, () => lab.answers()))
  await atHome(lab)
  assert.ok(await lab.boxHas(...builds.paths))
  await calm(lab, since)
})

test('the box is switched off and on: noticed both ways, without any event of the laptop’s network', async () => {
  const builds = new Builds(lab, 'off')
  await builds.atHome()
  const off = lab.box.power('off')
  measured('notice', 'box switched off: the target is down', 15, await becomes(lab, 'down', 15, async () => !(await targetUp(lab))))
  await off
  await builds.build()
  measured('build', 'box switched off: a build', 3, builds.longest)
  await lab.box.power('on')
  measured('recover', 'box switched on: the socket answers, after its boot', 40, await becomes(lab, 'an answer', 40, () => lab.answers()))
  await atHome(lab)
  assert.ok(await lab.boxHas(...builds.paths))
  assert.equal(await lab.laptop.journal({ since, match: ['-u', 'NetworkManager-dispatcher'] }), [], 'no event')
  await calm(lab, since)
})

test('the box reboots: the tunnel is back soon after', async () => {
  const builds = new Builds(lab, 'reboot')
  await builds.atHome()
  const rebooted = lab.box.power('reboot')
  await lab.eventually('the tunnel is lost', async () => !(await lab.answers()))
  await builds.build()
  await rebooted
  measured('recover', 'box rebooted: the socket answers, after its boot', 40, await becomes(lab, 'an answer', 40, () => lab.answers()))
  measured('build', 'box reboots: a build', 3, builds.longest)
  await atHome(lab)
  assert.ok(await lab.boxHas(...builds.paths))
  await calm(lab, since)
})

test('the box crashes: noticed without a word from it, and builds are hardly delayed', async () => {
  const builds = new Builds(lab, 'crash')
  await builds.atHome()
  await lab.box.power('crash')
  const gone = becomes(lab, 'the target is down', 15, async () => !(await targetUp(lab)))
  await builds.build()
  await builds.build()
  measured('notice', 'box crashed: the target is down', 15, await gone)
  await builds.build()
  measured('build', 'box crashed: a build', 3, builds.longest)
  await lab.box.power('on')
  measured(
    'recover',
    'box on after a crash: the socket answers, after its boot',
    40,
    await becomes(lab, 'an answer', 40, () => lab.answers()),
  )
  await atHome(lab)
  assert.ok(await lab.boxHas(...builds.paths))
  await calm(lab, since)
})

test('the box’s nix-daemon is stopped and started: builds go on, and what was built meanwhile goes to the box', async () => {
  const builds = new Builds(lab, 'daemon')
  await builds.atHome()
  await atHome(lab)
  await lab.box.must('root', 'systemctl', ['stop', 'nix-daemon.socket', 'nix-daemon.service'])
  await builds.build()
  measured('build', 'box’s nix-daemon stopped: a build', 3, builds.longest)
  assert.ok((await lab.queued()).length > 0)
  await lab.box.must('root', 'systemctl', ['start', 'nix-daemon.socket'])
  measured('recover', 'box’s nix-daemon started: the socket answers', 5, await becomes(lab, 'an answer', 5, () => lab.answers()))
  const drained = await becomes(lab, 'the queue is drained', 40, async () => (await lab.queued()).length === 0)
  measured('recover', 'box’s nix-daemon started: the queue is drained', 40, drained)
  assert.ok(await lab.boxHas(...builds.paths))
  await calm(lab, since)
})

test.run()
