// nix-lan-run with a real Nix, a real nix-daemon, a user that it doesn't trust, and an http cache
// on loopback that is there or not.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../lib/needs.ts'
import type { RunOptions } from '../lib/processes.ts'
import type { Suite } from '../lib/roots.ts'
import { HttpCache } from './http-cache.ts'
import { createWorld, nixConf, type World } from './world.ts'

const RUN = '/opt/nix-lan/dist/nix-lan-run'
const T_FILE = '/opt/nix-lan/t.nix'

for (const nix of ['host', 'trixie', 'forky'] as ('host' | Suite)[]) {
  const test = needs(suite(`nix-lan-run, Nix of ${nix}`), 'root', 'nix', ...(nix === 'host' ? [] : ['roots']))
  let world: World
  let cache: HttpCache
  let key = ''
  /** A path that the cache has, and nobody else. */
  let path = ''

  test.before(async () => {
    world = await createWorld({ nix })
    cache = new HttpCache(`${world.dir}/cache`)
    await cache.open()
    await world.must('root', 'nix-store', ['--generate-binary-cache-key', 'test', '/etc/nix/secret', '/etc/nix/public'])
    key = world.read('/etc/nix/public').trim()
    path = await world.must('root', 'nix-build', [
      T_FILE,
      '--no-out-link',
      '--argstr',
      'name',
      'cached',
      '--option',
      'secret-key-files',
      '/etc/nix/secret',
    ])
    await world.must('root', 'nix', [
      '--option',
      'extra-experimental-features',
      'nix-command',
      'copy',
      '--to',
      `file://${world.dir}/cache`,
      path,
    ])
    await forget()
    world.write('/etc/nix-lan/config.toml', `user = "alice"\n\n[cache.nas]\nurl = "${cache.url}"\ndeadline = "10s"\n`)
    configure({})
    await world.startDaemon()
  })

  test.before.each(() => {
    cache.asked = []
  })

  test.after(async () => {
    cache.close()
    await world.close()
  })

  const configure = (settings: Record<string, string>): void =>
    world.write('/etc/nix/nix.conf', nixConf({ 'trusted-public-keys': key, 'trusted-substituters': cache.url, ...settings }))
  const forget = async () => {
    await world.idle()
    await world.must('root', 'nix-store', ['--delete', path], { env: { NIX_REMOTE: 'local' } })
  }
  /** The paths that were fetched from the cache. */
  const fetched = (): string[] => cache.asked.filter((asked) => asked.includes('/nar/'))
  const realise = (args: string[] = [], options: RunOptions = {}) =>
    world.run('alice', RUN, ['nix-store', '--realise', path, ...args], options)

  test('a cache that is there is added: what only it has is fetched, by an untrusted user', async () => {
    const plain = await world.run('alice', 'nix-store', ['--realise', path])
    assert.is.not(plain.code, 0, 'the path was there already')
    const done = await realise()
    assert.is(done.code, 0, done.stderr)
    assert.is(fetched().length, 1)
    await forget()
  })

  for (const [name, nixConfig] of [
    ['with a comment and no newline at its end', 'cores = 1 # one'],
    ['that sets substituters itself', 'substituters = https://nowhere.invalid\nsubstituters =\n'],
  ] as const) {
    test(`an existing NIX_CONFIG ${name}`, async () => {
      const done = await realise([], { env: { NIX_CONFIG: nixConfig } })
      assert.is(done.code, 0, done.stderr)
      assert.is(fetched().length, 1)
      await forget()
    })
  }

  test('--option substituters on the command line still wins', async () => {
    const done = await realise(['--option', 'substituters', ''])
    assert.is.not(done.code, 0)
    assert.equal(
      cache.asked.filter((asked) => asked.endsWith('.narinfo')),
      [],
    )
  })

  test('--option extra-substituters on the command line comes on top', async () => {
    const done = await realise(['--option', 'extra-substituters', `file://${world.dir}/none`])
    assert.is(done.code, 0, done.stderr)
    await forget()
  })

  test('nix in a nix-shell has the cache too', async () => {
    const shell = ['nix-shell', T_FILE, '--argstr', 'name', 'shell', '--run', `nix-store --realise ${path}`]
    const done = await world.run('alice', RUN, shell, { env: { NIX_BUILD_SHELL: '/bin/bash' } })
    assert.is(done.code, 0, done.stderr)
    assert.is(fetched().length, 1)
    await forget()
  })

  // Nix has no part in this.
  if (nix === 'host')
    test('one that takes a second to answer is there for status and --explain: only its own deadline counts', async () => {
      const file = '/etc/nix-lan/config.toml'
      const config = world.read(file)
      world.write(file, config.replace('10s', '30s'))
      cache.delay = 1000
      try {
        const [status, explained] = await Promise.all([
          world.run('alice', '/opt/nix-lan/dist/nix-lan', ['status', '--json']),
          world.run('alice', RUN, ['--explain', '--json', 'nix', 'build']),
        ])
        const [shown] = JSON.parse(status.stdout).caches
        assert.equal([shown.cache, shown.state, shown.reason], ['nas', 'usable', null])
        assert.ok(shown.ms >= 990, `${shown.ms} ms`)
        const [decision] = JSON.parse(explained.stdout).caches
        assert.equal([decision.name, decision.action], ['nas', 'add'], explained.stdout)
      } finally {
        cache.delay = 0
        world.write(file, config)
      }
    })

  test('--explain says when nix-daemon would ignore the cache', async () => {
    assert.not.match((await world.run('alice', RUN, ['--explain', 'nix'])).stdout, 'trusted-users')
    configure({ 'trusted-substituters': '' })
    const told = await world.run('alice', RUN, ['--explain', 'nix'])
    const asRoot = await world.run('root', RUN, ['--explain', 'nix'])
    configure({})
    assert.match(told.stdout, 'trusted-users')
    assert.not.match(asRoot.stdout, 'trusted-users')
  })

  // Last, since the daemon is started anew with another nix.conf.
  test('one that is away costs neither retries nor warnings, though nix.conf lists it', async () => {
    configure({ substituters: `${cache.url}/?priority=20 file://${world.dir}/none`, 'download-attempts': '2' })
    await world.stopDaemon()
    await world.startDaemon()
    cache.close()
    const build = (name: string) => ['nix-build', T_FILE, '--no-out-link', '--argstr', 'name', name]
    const [program = '', ...args] = build('plain')
    const plain = await world.run('alice', program, args)
    const ours = await world.run('alice', RUN, build('wrapped'))
    const root = await world.run('root', RUN, build('wrapped-root'), { env: { NIX_REMOTE: 'local' } })
    await cache.open()
    const back = await realise()
    assert.match(plain.stderr, /unable to download|retrying/, 'without nix-lan-run it goes unnoticed: this test shows nothing')
    for (const done of [ours, root]) {
      assert.is(done.code, 0, done.stderr)
      assert.not.match(done.stderr, /warning|error|unable|retrying/)
    }
    assert.is(back.code, 0, back.stderr)
  })

  test('a unix:// store of a box that is away, as the blog has it, ends every command; here it is left out', async () => {
    configure({ substituters: 'unix:///tmp/rpi.sock ssh-ng://pi@127.0.0.2' })
    world.write('/etc/nix-lan/config.toml', 'user = "alice"\n\n[cache.rpi]\nhost = "127.0.0.2"\nport = 9\n')
    await world.stopDaemon()
    await world.startDaemon()
    const build = ['nix-build', T_FILE, '--no-out-link', '--argstr', 'name', 'blog']
    const ours = await world.run('alice', RUN, build)
    assert.equal([ours.code, ours.stderr.replace(/^(this derivation|building| {2}\/).*\n/gm, '').replace(/^these? .*\n/gm, '')], [0, ''])
  })

  test.run()
}
