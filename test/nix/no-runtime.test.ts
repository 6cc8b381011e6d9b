// A machine whose JavaScript runtime is gone (an update, a garbage collection, a bare PATH), or is
// there and can't start: Nix goes on building with nix-lan-connect in nix.conf and nix-lan-run before the command, since the
// heads do then what sh can.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../lib/needs.ts'
import { createWorld, nixConf } from './world.ts'

const DIST = '/opt/nix-lan/dist'

for (const nix of ['host', 'trixie', 'forky'] as const) {
  const wants = nix === 'host' ? ['root', 'nix'] : ['root', 'nix', 'roots']
  const test = needs(suite(`without a runtime, Nix of ${nix}`), ...wants)

  test('a build succeeds with the cache as an empty store', async () => {
    const world = await createWorld({ nix, noRuntime: true })
    try {
      const substituters = `ssh-ng://localhost?remote-program=${DIST}/nix-lan-connect%20/run/user/1000/nix-lan/box.sock`
      world.write('/etc/nix/nix.conf', nixConf({ substituters }))
      await world.startDaemon()
      const build = ['/opt/nix-lan/t.nix', '--no-out-link', '--argstr', 'name']
      const plain = await world.run('alice', 'nix-build', [...build, 'plain'])
      assert.is(plain.code, 0, plain.stderr)
      assert.match(`${world.daemonLog()}${plain.stderr}`, /nix-lan-connect: no JavaScript runtime found.*this cache counts as empty/)
      const wrapped = await world.run('alice', `${DIST}/nix-lan-run`, ['nix-build', ...build, 'wrapped'])
      assert.is(wrapped.code, 0, wrapped.stderr)
      assert.match(wrapped.stderr, /^nix-lan-run: no JavaScript runtime found, so nix-build runs/)
    } finally {
      await world.close()
    }
  })

  test("a build succeeds when the runtime is there and can't start: too little memory, too few open files", async () => {
    const world = await createWorld({ nix })
    try {
      for (const limit of ['-v 250000', '-n 12']) {
        const connect = `${world.dir}/limited`
        world.write(connect, `#!/bin/sh\nulimit ${limit}\nexec ${DIST}/nix-lan-connect "$@"\n`, { mode: 0o755 })
        const substituters = `ssh-ng://localhost?remote-program=${connect}%20/run/user/1000/nix-lan/box.sock`
        world.write('/etc/nix/nix.conf', nixConf({ substituters }))
        await world.startDaemon()
        const built = await world.run('alice', 'nix-build', [
          '/opt/nix-lan/t.nix',
          '--no-out-link',
          '--argstr',
          'name',
          'limited',
          '--argstr',
          'text',
          limit,
        ])
        assert.is(built.code, 0, built.stderr)
        assert.match(
          `${world.daemonLog()}${built.stderr}`,
          /nix-lan-connect: \S+ doesn't start \(exit code \d+\); this cache counts as empty/,
        )
        await world.stopDaemon()
      }
    } finally {
      await world.close()
    }
  })

  test.run()
}
