// The way to set it up by hand in docs/by-hand.md, run as it stands there, and then used.
import { readFileSync } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../lib/needs.ts'
import { accepts, createWorld, GREETING, nixConf, type World } from './world.ts'

const test = needs(suite('by hand'), 'root', 'nix', 'ssh', 'sshd')

/**
 * The lines of the block behind the comment that names this file, without the two that make no
 * sense in a world.
 */
function setUpBlock(): string[] {
  const [, block = ''] = /<!-- test\/nix\/by-hand\.test\.ts[^\n]*\n```sh\n([\s\S]*?)```/.exec(readFileSync('docs/by-hand.md', 'utf8')) ?? []
  const lines = block.trim().split('\n')
  assert.ok(lines.length > 5 && lines.length < 15, `set-up by hand in under 15 lines, not ${lines.length}`)
  const kept = lines.filter((line) => !/^git clone|^systemctl restart/.test(line))
  assert.is(kept.length, lines.length - 2, 'git clone and systemctl restart')
  return kept
}

test('set up by hand as the document says: built, uploaded, collected, fetched back', async () => {
  const box = await createWorld({ nix: 'host', name: 'box' })
  const client = await createWorld({ nix: 'host', name: 'client' })
  try {
    await setUp(client, box)
    const build = ['/opt/nix-lan/t.nix', '--no-out-link', '--argstr', 'name', 'readme']
    const path = await client.must('alice', 'nix-build', build)
    const tunnel = client.start('alice', 'nix-lan-tunnel', [])
    await accepts(client.path('/run/user/1000/nix-lan/rpi.sock'), tunnel, GREETING)
    await client.must('alice', 'nix-lan', ['queue', 'upload'])
    await client.idle()
    await client.must('root', 'nix-store', ['--delete', path])
    const again = await client.run('alice', 'nix-build', build)
    assert.is(again.stdout.trim(), path, again.stderr)
    assert.match(again.stderr, /copying path '[^']*-readme' from 'ssh-ng:\/\/localhost'/)
  } finally {
    await client.close()
    await box.close()
  }
})

async function setUp(client: World, box: World): Promise<void> {
  const { port, userKey, hostKey } = await box.startSshd()
  client.write('/home/alice/.ssh/id_ed25519', userKey, { mode: 0o600, user: 'alice' })
  client.write('/home/alice/.ssh/known_hosts', `[127.0.0.1]:${port} ${hostKey}\n`, { user: 'alice' })
  client.write('/etc/nix/nix.conf', nixConf())
  // where the box is here, and more time than the default: a busy machine may need long for the handshake
  const block = setUpBlock()
    .join('\n')
    .replace('\'host = "rpi.local"\'', `'host = "127.0.0.1"' 'port = ${port}' 'deadline = "10s"'`)
    .replace('pi@rpi.local', 'alice@127.0.0.1')
    .replace('/rpi.sock', '/rpi.sock%20--deadline%2010')
  await client.must('root', 'sh', ['-ec', block])
  box.write('/etc/nix/nix.conf', nixConf({ 'extra-trusted-public-keys': client.read('/etc/nix/nix-lan.public').trim() }))
  await client.startDaemon()
  await box.startDaemon()
}

test.run()
