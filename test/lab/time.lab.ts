// Time that is not as it seems: the laptop sleeps, and its clock jumps.
//
// A suspend is played by stopping all of the laptop's processes, with the network cut meanwhile.
// Its clock is this machine's, which no test may set: a jump is played by a `node` that finds
// another time in a file each time it is asked, for all that nix-lan does. It doesn't reach
// systemd, whose timer for the check goes by a clock that nobody sets, nor the timestamps that the
// kernel gives to files.
import * as assert from 'uvu/assert'
import { pause } from '../lib/processes.ts'
import { createLab, type Lab, labSuite, release } from './lab.ts'
import { atHome, Builds, becomes, calm, fallsAsleep, measured, targetUp } from './scenario.ts'

const test = labSuite('time')
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

test('asleep for a minute, and home again when it wakes up: builds go on, and the tunnel is there', async () => {
  const builds = new Builds(lab, 'nap')
  await builds.atHome()
  await atHome(lab)
  await fallsAsleep(lab)
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
  await atHome(lab)
  await fallsAsleep(lab)
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
const FAKE = `// The wall clock, off by as many seconds as ${CLOCK} says now.
const { readFileSync } = require('node:fs')
const TrueDate = Date
const now = () => TrueDate.now() + 1000 * Number(readFileSync('${CLOCK}', 'latin1'))
globalThis.Date = class extends TrueDate {
  constructor(...args) {
    if (args.length > 0) super(...args)
    else super(now())
  }
  static now() {
    return now()
  }
}
`

/** From now on nix-lan is told a time that is so many seconds off. */
function setClock(offset: number): void {
  lab.laptop.write(CLOCK, String(offset))
}

/** A node that comes before Debian's, in alice's PATH and the nix-daemon's. */
function fakeClock(): void {
  setClock(0)
  lab.laptop.write('/usr/local/lib/clock.cjs', FAKE)
  lab.laptop.write('/usr/local/bin/node', '#!/bin/sh\nexec /usr/bin/node --require /usr/local/lib/clock.cjs "$@"\n', { mode: 0o755 })
}

/** By how many seconds the clock was off when nix-lan-connect last took a note of an outage. */
async function offsetOfNote(): Promise<number> {
  const notes = await lab.laptop.must('root', 'sh', ['-c', 'tail -qn1 /run/nix-lan/away.*; stat -c %Y /run/nix-lan/away.*'])
  const [note = '', modified] = notes.split('\n')
  return (JSON.parse(note) as { at: number }).at / 1000 - Number(modified)
}

test('the clock jumps, to and fro, at home and away: builds go on, the box is given up and found as ever', async () => {
  fakeClock()
  const day = 86_400
  setClock(day)
  await lab.laptop.systemctl('restart', 'nix-lan-check.service')
  await atHome(lab)
  const builds = new Builds(lab, 'clock')
  await builds.atHome()
  await lab.lan.range('laptop', false)
  const gone = becomes(lab, 'the tunnel is given up', 15, async () => !(await targetUp(lab)))
  await builds.build()
  const told = await offsetOfNote()
  assert.ok(Math.abs(told - day) < 60, `nix-lan goes by the other clock: ${told}`)
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
