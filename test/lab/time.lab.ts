// Time that is not as it seems: the laptop sleeps, and its clock jumps.
//
// A suspend is played by stopping all of the laptop's processes, with the network cut meanwhile. Its clock is this machine's, which no test may set: a
// jump is played by libfaketime in all processes that nix-lan and the nix-daemon start. It doesn't reach systemd itself, whose timers for the check
// and pauses go by the monotonic clock anyway, nor the timestamps that the kernel gives to files.
import * as assert from 'uvu/assert'
import { pause } from '../lib/processes.ts'
import { createLab, type Lab, labSuite, release } from './lab.ts'
import { atHome, Builds, becomes, calm, measured, targetUp } from './scenario.ts'

const test = labSuite('time')
let lab: Lab
let since = 0

test.before(async () => {
  lab = await createLab({ laptop: release(), installed: true })
})
test.after(() => lab.close())
test.before.each(async () => {
  await lab.mend()
  await atHome(lab)
  since = Date.now()
})

test('asleep for a minute, and home again when it wakes up: builds go on, and the tunnel is there', async () => {
  const builds = new Builds(lab, 'nap')
  await builds.atHome()
  await atHome(lab)
  lab.laptop.freeze()
  await lab.lan.range('laptop', false)
  await pause(60_000)
  await lab.lan.range('laptop', true)
  lab.laptop.thaw()
  await builds.build()
  measured('build', 'asleep for a minute, awake at home: a build', 3, builds.longest)
  measured('recover', 'asleep for a minute, awake at home: all is well', 40, await atHome(lab))
  assert.ok(await lab.boxHas(...builds.paths))
  await calm(lab, since)
})

test('asleep at home, awake elsewhere: builds go on, the tunnel is given up, and comes back', async () => {
  const builds = new Builds(lab, 'away')
  await builds.atHome()
  lab.laptop.freeze()
  await lab.lan.range('laptop', false)
  await pause(10_000)
  lab.laptop.thaw()
  const gone = becomes(lab, 'the tunnel is given up', 15, async () => !(await targetUp(lab)))
  await builds.build()
  measured('notice', 'asleep at home, awake elsewhere: the tunnel is given up', 15, await gone)
  await builds.build()
  measured('build', 'asleep at home, awake elsewhere: a build', 3, builds.longest)
  await lab.lan.range('laptop', true)
  await atHome(lab)
  await calm(lab, since)
})

const CLOCK = '/etc/lab-clock'

/** From now on those who ask for the time are told one that is so many seconds off. */
function setClock(offset: number): void {
  lab.laptop.write(CLOCK, `${offset < 0 ? '' : '+'}${offset}`)
}

/** libfaketime for all that alice's user manager and the nix-daemon start. */
async function fakeClock(): Promise<void> {
  setClock(0)
  const library = await lab.laptop.must('root', 'sh', ['-c', 'ls /usr/lib/*/faketime/libfaketime.so.1'])
  // only the wall clock, never a file's time, and asked for anew each time
  const settings = [`LD_PRELOAD=${library}`, `FAKETIME_TIMESTAMP_FILE=${CLOCK}`, 'FAKETIME_NO_CACHE=1', 'FAKETIME_DONT_FAKE_MONOTONIC=1']
  settings.push('NO_FAKE_STAT=1', 'FAKETIME_DONT_RESET=1')
  await lab.laptop.must('alice', 'systemctl', ['--user', 'set-environment', ...settings])
  lab.laptop.write(
    '/etc/systemd/system/nix-daemon.service.d/clock.conf',
    `[Service]\n${settings.map((one) => `Environment=${one}\n`).join('')}`,
  )
  await lab.laptop.must('root', 'systemctl', ['daemon-reload'])
  await lab.laptop.must('root', 'systemctl', ['restart', 'nix-daemon.service'])
}

test('the clock jumps, to and fro, at home and away: builds go on, the box is given up and found as ever', async () => {
  await fakeClock()
  const day = 86_400
  setClock(day)
  const told = await lab.laptop.must('alice', 'systemd-run', ['--user', '--pipe', '--quiet', '--wait', 'date', '+%s'])
  assert.ok(Number(told) > Date.now() / 1000 + day / 2, `what nix-lan runs in is told another time: ${told}`)
  await lab.laptop.systemctl('restart', 'nix-lan-check.service')
  await atHome(lab)
  const builds = new Builds(lab, 'clock')
  await builds.atHome()
  await lab.lan.range('laptop', false)
  const gone = becomes(lab, 'the tunnel is given up', 15, async () => !(await targetUp(lab)))
  await builds.build()
  for (const offset of [-day, 10 * day, 0]) {
    setClock(offset)
    await builds.build()
  }
  measured('notice', 'out of range while the clock jumps: the tunnel is given up', 15, await gone)
  measured('build', 'out of range while the clock jumps: a build', 3, builds.longest)
  setClock(-30 * day)
  await lab.lan.range('laptop', true)
  measured(
    'recover',
    'back in range while the clock jumps: the socket answers',
    40,
    await becomes(lab, 'an answer', 40, () => lab.answers()),
  )
  setClock(day)
  await builds.build()
  await atHome(lab)
  assert.ok(await lab.boxHas(...builds.paths))
  await calm(lab, since)
})

test.run()
