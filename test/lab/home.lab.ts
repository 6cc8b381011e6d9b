// At home and away, from the boot on, with nobody logged in; and the life of a build: queued,
// uploaded, collected, fetched back.
import * as assert from 'uvu/assert'
import { createLab, type Lab, labSuite, release } from './lab.ts'
import { QUEUE, T_FILE } from './machines.ts'
import { atHome, attempts, Builds, becomes, calm, measured, PLUGGED, pluggedIn, targetUp } from './scenario.ts'

const test = labSuite('home')
let lab: Lab
let since = 0

test.before(async () => {
  lab = await createLab({ laptop: release(), installed: true })
})
test.after(() => lab.close())
test.before.each(() => {
  since = Date.now()
})

test('boot at home: the socket answers within 10 s of the boot’s end, with nobody logged in', async () => {
  await lab.laptop.power('reboot')
  measured(
    'recover',
    'boot at home: the socket answers, after the boot’s end',
    10,
    await becomes(lab, 'an answer', 10, () => lab.answers()),
  )
  // newer logind lists the lingering user manager too, with the class `manager`
  const sessions = (await lab.laptop.must('root', 'loginctl', ['list-sessions', '--no-legend'])).split('\n')
  assert.equal(
    sessions.filter((line) => line !== '' && !/ manager /.test(line)),
    [],
  )
  // not the one that the boot before this one may just have made
  assert.is(await attempts(lab, since, 'this boot'), 1)
  await calm(lab, since)
})

test('a build is queued by the hook and uploaded without anyone asking; collected, it is fetched back', async () => {
  const builds = new Builds(lab, 'life')
  await builds.atHome()
  const { path } = await builds.build()
  measured('recover', 'at home: a build is on the box, after its end', 10, await becomes(lab, 'upload', 10, () => lab.boxHas(path)))
  await atHome(lab)
  await lab.laptop.must('root', 'nix-store', ['--delete', path])
  const again = await lab.build(['--argstr', 'name', 'life-4', '--arg', 'seconds', '0'])
  assert.is(again.paths[0], path)
  // Nix 2.26 leaves out the host
  assert.match(again.stderr, /copying path '[^']*-life-4' from 'ssh-ng:\/\//, again.stderr)
})

test('what the box has without a signature of ours is not taken, but built', async () => {
  // the box has built it itself: valid there, and signed by nobody
  lab.box.write(T_FILE, lab.laptop.read(T_FILE))
  const args = [T_FILE, '--no-out-link', '--argstr', 'name', 'unsigned']
  const path = await lab.box.must('root', 'nix-build', args)
  const built = await lab.build(['--argstr', 'name', 'unsigned'])
  assert.is(built.paths[0], path)
  assert.not.match(built.stderr, /copying path/)
  assert.match(built.stderr, /building '[^']*-unsigned\.drv'/)
})

test('many quick builds: all go, and the queue is watched as before', async () => {
  const builds = new Builds(lab, 'quick')
  for (let i = 0; i < 25; i++) await builds.build()
  await becomes(lab, 'all on the box', 10, () => lab.boxHas(...builds.paths))
  assert.is(await lab.laptop.systemctl('is-active', 'nix-lan-upload@pi.path'), 'active')
  await calm(lab, since)
})

test('boot away: nothing fails, no unit is red, builds are queued; the cable plugged in brings it all up', async () => {
  await lab.laptop.power('off')
  since = Date.now()
  await lab.bootLaptop(true)
  const finished = ['show', '--value', '-p', 'ExecMainExitTimestampMonotonic', 'nix-lan-check.service']
  await lab.eventually('the first check', async () => Number(await lab.laptop.systemctl(...finished)) > 0)
  const builds = new Builds(lab, 'away')
  await builds.build()
  assert.is((await lab.queued()).length > 0, true, `nothing in ${QUEUE}`)
  assert.not.ok(await targetUp(lab))
  assert.is(await attempts(lab, since), 0, 'nothing to tunnel to')
  await calm(lab, since)
  const { answers } = await pluggedIn(lab, builds)
  measured('recover', 'booted away, then plugged in: the socket answers', PLUGGED.answers, answers)
  assert.ok(await lab.boxHas(...builds.paths))
  await calm(lab, since)
})

test.run()
