// An upload on a slow link: what Nix fetches meanwhile takes hardly longer than without. Uploads
// have an ssh connection of their own, which is made at the first one, ends with the tunnel, and
// comes back when it was lost.
import * as assert from 'uvu/assert'
import { pause } from '../lib/processes.ts'
import { createLab, type Lab, labSuite, release } from './lab.ts'
import { CACHE } from './machines.ts'
import { atHome, calm, untilWell, withTargetDown } from './scenario.ts'

const test = labSuite('uploads')
const UPLOAD = `nix-lan-upload@${CACHE}.service`
const OWN = `/run/user/1000/nix-lan/${CACHE}.upload.sock`
const TRIES = 5
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

/** Builds something that takes so many bytes, and has it uploaded. */
async function onBox(name: string, kb: number): Promise<string> {
  const { paths } = await lab.build(['--argstr', 'name', name, '--arg', 'kb', String(kb)])
  await lab.eventually(`${name} is on the box`, () => lab.boxHas(...paths), { within: 60_000 })
  await atHome(lab)
  await lab.laptop.must('root', 'nix-store', ['--delete', ...paths])
  return paths[0] ?? ''
}

/** Milliseconds that Nix takes to fetch it. */
async function fetched(path: string): Promise<number> {
  const { code, stderr, ms } = await lab.laptop.run('alice', 'nix-store', ['--realise', path], { timeout: 240_000 })
  assert.is(code, 0, stderr)
  return ms
}

const listens = async (): Promise<boolean> =>
  (await lab.laptop.run('alice', 'sh', ['-c', `grep -q "00010000 .* ${OWN}$" /proc/net/unix`])).code === 0

for (const mbit of [10, 20, 40])
  test(`${mbit} Mbit/s both ways: a fetch during an upload takes at most half as long again as without`, async () => {
    // Some six seconds at that rate.
    const kb = mbit * 800
    const [before, during] = [await onBox(`before-${mbit}`, kb), await onBox(`during-${mbit}`, kb)]
    let [without, took] = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY]
    const well = (): boolean => took <= 1.5 * without
    await untilWell(TRIES, well, async (nth) => {
      if (nth > 1) await lab.laptop.must('root', 'nix-store', ['--delete', before, during])
      for (const host of ['box', 'laptop']) await lab.lan.slow(host, mbit)
      try {
        without = Math.min(without, await fetched(before))
        await lab.build(['--argstr', 'name', `large-${mbit}-${nth}`, '--arg', 'kb', String(5 * kb)])
        await lab.eventually('an upload', async () => (await lab.laptop.systemctl('is-active', UPLOAD)) === 'active')
        await pause(3000)
        took = Math.min(took, await fetched(during))
        assert.is(await lab.laptop.systemctl('is-active', UPLOAD), 'active', 'the upload was over before the fetch')
      } finally {
        for (const host of ['box', 'laptop']) await lab.lan.slow(host, 0)
      }
      console.log(
        `figure: ${mbit} Mbit/s, ${kb / 1000} MB fetched: ${(without / 1000).toFixed(1)} s, during an upload ${(took / 1000).toFixed(1)} s`,
      )
      if (!well()) await atHome(lab)
    })
    assert.ok(well(), `${took} ms, without an upload ${without} ms`)
    await calm(lab, since)
  })

test('the connection for uploads is lost: the next upload makes it anew; and it ends with the tunnel', async () => {
  await onBox('first', 1)
  await lab.eventually('a connection for uploads', listens)
  await lab.laptop.must('root', 'sh', [
    '-c',
    `for p in $(pgrep -x ssh); do if grep -q ControlPath=${OWN.replace(/sock$/, 'ctl')} /proc/$p/cmdline; then kill -9 $p; fi; done`,
  ])
  await onBox('second', 1)
  await lab.eventually('a new one', listens) // which may be late for the upload that asked for it
  await withTargetDown(lab, async () => {
    // The stop of the target doesn't wait for the end of what stops with it.
    await lab.eventually('the end of ssh', async () => (await lab.laptop.run('root', 'pgrep', ['-x', 'ssh'])).code === 1)
    let names = ''
    const left = async (): Promise<string> => {
      names = await lab.laptop.must('alice', 'sh', ['-c', 'ls /run/user/1000/nix-lan | grep -E "sock|ctl|keeper" || :'])
      return names
    }
    const none = lab.eventually('nothing is left', async () => (await left()) === '')
    await none.catch(() => assert.is(names, ''))
  })
  await lab.laptop.must('alice', 'systemctl', ['--user', 'restart', 'nix-lan-check.service'])
  await atHome(lab)
  await calm(lab, since)
})

test.run()
