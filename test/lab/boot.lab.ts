// The lab itself: its machines boot, see each other, go on and off, and leave nothing.
import { existsSync, readFileSync } from 'node:fs'
import { basename } from 'node:path'
import * as assert from 'uvu/assert'
import { allProcesses } from '../lib/processes.ts'
import { createLab, type Lab, labSuite, release } from './lab.ts'
import { T_FILE } from './machines.ts'

const test = labSuite('the lab')
let lab: Lab

test.before(async () => {
  const started = performance.now()
  lab = await createLab({ laptop: release(), installed: true })
  console.log(`figure: the lab has booted after ${((performance.now() - started) / 1000).toFixed(1)} s`)
})
test.after(() => lab.close())

test('both machines are up, with nothing failed', async () => {
  for (const host of [lab.laptop, lab.box])
    assert.is(await host.must('root', 'systemctl', ['--failed', '--no-legend', '--plain']), '', host.name)
})

test('alice reaches the box by its mDNS name with her key, and builds as an ordinary user', async () => {
  await lab.eventually('the name', async () => (await lab.laptop.run('alice', 'getent', ['hosts', 'pi.local'])).code === 0)
  assert.is(await lab.laptop.must('alice', 'ssh', ['-o', 'BatchMode=yes', 'pi.local', 'hostname']), 'pi')
  await lab.laptop.must('alice', 'nix-build', [T_FILE, '--no-out-link', '--argstr', 'name', 'boot'])
  assert.equal(await lab.laptop.systemctl('is-system-running', '--wait'), 'running')
})

test('a pulled cable is seen, a silent cut is not', async () => {
  const carrier = () => lab.laptop.read('/sys/class/net/host0/carrier').trim()
  const ping = async () => (await lab.laptop.run('root', 'ping', ['-c1', '-W1', '10.77.0.2'])).code === 0
  await lab.eventually('a ping', ping)
  await lab.lan.range('laptop', false)
  assert.not.ok(await ping())
  assert.is(carrier(), '1')
  await lab.lan.range('laptop', true)
  await lab.eventually('a ping', ping)
  await lab.lan.cable('laptop', false)
  assert.is(carrier(), '0')
  await lab.lan.cable('laptop', true)
  await lab.eventually('a ping', ping)
})

test('the box goes off, on, reboots, crashes, and moves', async () => {
  const bootId = () => lab.box.must('root', 'cat', ['/proc/sys/kernel/random/boot_id'])
  await bootId()
  await lab.box.power('off')
  assert.not.ok(lab.box.isOn())
  await lab.box.power('on')
  await lab.box.power('reboot')
  await lab.box.power('crash')
  assert.not.ok(lab.box.isOn())
  await lab.box.power('on')
  await lab.moveBox('10.77.0.77')
  const found = async () => (await lab.laptop.run('alice', 'getent', ['hosts', 'pi.lan'])).stdout
  await lab.eventually('the name’s new address', async () => /^10\.77\.0\.77 /.test(await found()))
})

test('the DNS server can be silent, or answer for a portal', async () => {
  const ask = (seconds = 60) => lab.laptop.run('alice', 'timeout', [String(seconds), 'getent', 'ahostsv4', 'any.example'])
  assert.is((await ask()).code, 2)
  await lab.lan.dns('silent')
  assert.is((await ask(1)).code, 124)
  await lab.lan.dns('captive')
  assert.match((await ask()).stdout, /^10\.77\.0\.1 /)
  await lab.lan.dns('normal')
})

test('a machine can be frozen', async () => {
  lab.laptop.freeze()
  const asked = lab.laptop.run('alice', 'true')
  assert.is(await Promise.race([asked.then(() => 'ran'), new Promise((resolve) => setTimeout(resolve, 500, 'frozen'))]), 'frozen')
  lab.laptop.thaw()
  assert.is((await asked).code, 0)
})

test('when it is closed nothing of it is left', async () => {
  const { dir, cgroup } = lab.holder
  const mine = () => allProcesses().filter((pid) => cgroupOf(pid).includes(basename(cgroup))).length
  assert.ok(mine() > 20, 'a lab has many processes')
  await lab.close()
  assert.is(mine(), 0)
  assert.equal([dir, cgroup].filter(existsSync), [])
  assert.not.match(readFileSync('/proc/self/mounts', 'utf8'), dir)
})

function cgroupOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cgroup`, 'utf8')
  } catch {
    return '' // gone meanwhile
  }
}

test.run()
