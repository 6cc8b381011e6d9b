// A laptop without NetworkManager: systemd-networkd tells of changes by what it writes, and a path
// unit has the boxes checked.
import * as assert from 'uvu/assert'
import { ofUserUnit } from './host.ts'
import { createLab, type Lab, labSuite, release } from './lab.ts'
import { atHome, Builds, becomes, calm, measured, PLUGGED, pluggedIn, targetUp } from './scenario.ts'

const test = labSuite('systemd-networkd')
let lab: Lab

test.before(async () => {
  lab = await createLab({ laptop: release(), installed: true, ownDeadline: true, networkd: true })
  await atHome(lab)
})
test.after(() => lab?.close())

test('plugged in, the tunnel is up in seconds, without NetworkManager', async () => {
  const since = Date.now()
  assert.is(await lab.laptop.systemctl('is-active', 'nix-lan-network.path'), 'active')
  await lab.lan.cable('laptop', false)
  measured(
    'notice',
    'systemd-networkd, cable pulled: the target is down',
    15,
    await becomes(lab, 'down', 15, async () => !(await targetUp(lab))),
  )
  const builds = new Builds(lab, 'networkd')
  await builds.build()
  // The timer's check, once in half a minute, shall not be what finds the box.
  const checked = async (): Promise<number> => (await lab.laptop.journal({ since, match: ofUserUnit('nix-lan-check.service') })).length
  const before = await checked()
  await lab.laptop.systemctl('stop', 'nix-lan-check.timer')
  const { answers } = await pluggedIn(lab, builds)
  measured('recover', 'systemd-networkd, plugged in: the socket answers', PLUGGED.answers, answers)
  assert.ok(await lab.boxHas(...builds.paths))
  assert.ok((await checked()) > before)
  await lab.laptop.systemctl('start', 'nix-lan-check.timer')
  await calm(lab, since)
})

test.run()
