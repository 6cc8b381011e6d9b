// What the other tests stand on: that worlds are what they say, and leave nothing behind.
import { existsSync } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../lib/needs.ts'
import { until } from '../lib/until.ts'
import { createPair, SOCKET, T_FILE } from './pair.ts'
import { createWorld } from './world.ts'

const test = needs(suite('world'), 'root', 'nix', 'ssh', 'sshd', 'roots')

const VERSIONS = { host: /./, bookworm: /2\.8\.0/, trixie: /2\.26\.3/, forky: /2\.3\d/ }
for (const nix of ['host', 'bookworm', 'trixie', 'forky'] as const) {
  test(`${nix}: alice builds through a daemon that does not trust her; nothing is left`, async () => {
    const world = await createWorld({ nix })
    try {
      await world.startDaemon()
      assert.match(await world.must('alice', 'nix', ['--version']), VERSIONS[nix])
      const path = await world.must('alice', 'nix-build', [T_FILE, '--no-out-link', '--argstr', 'name', 'x', '--argstr', 'text', 'hi'])
      assert.is(world.read(path), 'hi\n')
      assert.match(world.daemonLog(), /user alice$/m)
      assert.is((await world.run('alice', 'touch', ['/nix/store/y'])).code, 1)
      assert.is((await world.run('alice', 'env')).stdout.includes('NODE_EXTRA_CA_CERTS'), false)
    } finally {
      await world.close()
    }
    assert.not(existsSync(world.dir))
  })
}

test('a program that takes too long is ended, with its children', async () => {
  const world = await createWorld({ nix: 'host' })
  try {
    const result = await world.run('alice', 'sh', ['-c', 'sleep 4711; :'], { timeout: 200 })
    assert.ok(result.timedOut)
    await until('the end of sleep', () => world.processes('sleep').length === 0)
  } finally {
    await world.close()
  }
})

test('a pair: the daemon of the box answers through ssh -L, not when it is cut off, and again when it is back', async () => {
  const pair = await createPair()
  try {
    const ask = (timeout = 60_000) =>
      pair.client.run('alice', 'nix-store', ['--store', `unix://${SOCKET}`, '--check-validity', path], { timeout })
    const path = await pair.box.must('alice', 'nix-build', [T_FILE, '--no-out-link'])
    await pair.openPlainTunnel()
    assert.is((await ask()).code, 0)
    pair.box.freezeSshd()
    assert.ok((await ask(5000)).timedOut)
    pair.box.thawSshd()
    assert.is((await ask()).code, 0)
    await pair.box.stopSshd()
    await pair.tunnelEnded()
    assert.is((await ask()).code, 1)
    await pair.box.startSshd()
    await pair.openPlainTunnel()
    assert.is((await ask()).code, 0)
  } finally {
    await pair.close()
  }
})

test.run()
