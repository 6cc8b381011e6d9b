// The link goes up and down all the time, and somebody goes on building.
import * as assert from 'uvu/assert'
import { pause } from '../lib/processes.ts'
import { createLab, type Lab, labSuite, release } from './lab.ts'
import { atHome, Builds, calm, measured } from './scenario.ts'

const test = labSuite('flapping')
let lab: Lab

test.before(async () => {
  lab = await createLab({ laptop: release(), installed: true, ownDeadline: true })
})
test.after(() => lab.close())

test('50 builds of a second each while the link goes up and down every 3 s: all succeed, and in the end all are on the box', async () => {
  await atHome(lab)
  const since = Date.now()
  const builds = new Builds(lab, 'flap')
  await builds.atHome()
  let over = false
  const flapping = (async () => {
    for (let plugged = false; !over; plugged = !plugged) {
      await lab.lan.cable('laptop', plugged)
      await pause(3000)
    }
    await lab.lan.cable('laptop', true)
  })()
  try {
    for (let i = 0; i < 50; i++) await builds.build(1)
  } finally {
    over = true
    await flapping
  }
  measured('build', 'the link flaps: a build', 5, builds.longest)
  const drained = await atHome(lab)
  measured('recover', 'the link has flapped: all is on the box', 60, drained)
  assert.is(builds.paths.length, 53)
  assert.ok(await lab.boxHas(...builds.paths))
  await calm(lab, since)
})

test.run()
