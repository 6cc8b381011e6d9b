// The whole story with the real scripts, a real sshd and real multi-user Nixes that require
// signatures and don't trust the user: built here, queued, uploaded, deleted here, fetched back
// from the box; and builds made while the box is away, which wait for it.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../lib/needs.ts'
import { until } from '../lib/until.ts'
import { createPair, DIST, type Pair } from './pair.ts'

const test = needs(suite('story'), 'root', 'nix', 'ssh', 'sshd', 'roots')
const MANY = 200
/** "No more than a handful" of `nix copy` for MANY outputs and as many derivations. */
const HANDFUL = 5

for (const [client, box] of [
  ['host', 'host'],
  ['bookworm', 'bookworm'],
  ['trixie', 'bookworm'],
  ['forky', 'bookworm'],
  ['bookworm', 'forky'],
] as const) {
  test(`what was built on the client (${client}) and deleted there comes back from the box (${box})`, async () => {
    const pair = await createPair({ client, box, hook: true })
    try {
      await pair.openTunnel()
      await comesBack(pair)
    } finally {
      await pair.close()
    }
  })
}

async function comesBack(pair: Pair): Promise<void> {
  const { client } = pair
  // random bytes in it: only the box can have the same ones
  const args = ['--argstr', 'name', 'precious', '--arg', 'kb', '64']
  const [path = ''] = (await pair.build(args)).paths
  const bytes = await client.must('alice', 'sha256sum', [path])
  assert.ok((await pair.queued()).includes(path.slice('/nix/store/'.length)), 'the hook has queued it')
  const upload = await client.run('alice', `${DIST}/nix-lan`, ['queue', 'upload'])
  assert.is(upload.code, 0, upload.stderr)
  assert.equal(await pair.queued(), [], 'the queue is empty')
  assert.ok(await pair.boxHas(path), 'the box has it, signed')

  await pair.collectGarbage()
  assert.not(await pair.clientHas(path), 'the garbage collection has deleted it here')
  pair.resetStarts()
  const again = await pair.build(args)
  assert.equal(again.paths, [path])
  assert.is(await client.must('alice', 'sha256sum', [path]), bytes, 'these are the bytes of the first build')
  assert.is(pair.starts(), 1, 'one start of nix-lan-connect')
  assert.not.match(again.stderr, /error|warning/)
  assert.not.match(client.daemonLog(), /error/)

  const ask = async () => JSON.parse(await client.must('alice', `${DIST}/nix-lan`, ['status', '--json'])).caches[0]
  let status = await ask()
  // It gives the box half a second, in which a busy machine may not even start its nix-daemon.
  const isUsable = async (): Promise<boolean> => {
    if (status.state !== 'usable') status = await ask()
    return status.state === 'usable'
  }
  await until('the status to say usable', isUsable, () => status.reason)
  assert.equal([status.queue.queued, status.fetched.all.paths], [0, 1], 'and counts, though connect was root, and was killed by Nix')
  assert.ok(status.fetched.today.bytes > 64 * 1024 && status.uploaded.all.bytes > 64 * 1024)
}

test('an unsigned path is not accepted from the box: the signatures are looked at', async () => {
  const pair = await createPair({ settings: { 'secret-key-files': '' } })
  try {
    await pair.openTunnel()
    // the box has it, built by itself and unsigned
    const [path = ''] = [await pair.box.must('alice', 'nix-build', ['/opt/nix-lan/t.nix', '--no-out-link', '--argstr', 'name', 'other'])]
    const fetched = await pair.client.run('alice', 'nix-store', ['--realise', path])
    assert.is(fetched.code, 1)
    assert.not(await pair.clientHas(path))
  } finally {
    await pair.close()
  }
})

test(`${MANY} builds with the box away survive a garbage collection, and are on the box when it is back, by a handful of copies`, async () => {
  const pair = await createPair({ client: 'host', box: 'host', hook: true })
  try {
    const { client, box } = pair
    const copies = await countNix(pair)
    await box.stopSshd()
    const { paths } = await pair.build(['--arg', 'count', String(MANY), '--argstr', 'name', 'away'])
    assert.is(paths.length, MANY)
    const upload = () => client.run('alice', `${DIST}/nix-lan`, ['queue', 'upload'], { timeout: 300_000 })
    assert.is((await upload()).code, 75, 'the box is away: not now')
    await pair.collectGarbage()
    assert.ok(await pair.clientHas(...paths), 'all of them are still valid')
    const queued = new Set(await pair.queued())
    assert.ok(
      paths.every((path) => queued.has(path.slice('/nix/store/'.length))),
      'all of them wait in the queue',
    )
    assert.is(copies(), 0)

    await box.startSshd()
    await pair.openTunnel()
    const done = await upload()
    assert.is(done.code, 0, done.stderr)
    assert.ok(await pair.boxHas(...paths), 'the box has all of them')
    assert.equal(await pair.queued(), [])
    assert.ok(copies() >= 1 && copies() <= HANDFUL, `${copies()} times nix copy`)
    console.log(`figure: ${MANY} builds: uploaded in ${(done.ms / 1000).toFixed(1)} s by ${copies()} × nix copy`)
  } finally {
    await pair.close()
  }
})

/**
 * Puts a `nix` before the real one that notes its arguments. Returns how many were `nix … copy`.
 */
async function countNix({ client }: Pair): Promise<() => number> {
  const real = await client.must('root', 'sh', ['-c', 'command -v nix'])
  const log = '/run/nix-calls'
  client.write(log, '', { mode: 0o666 })
  client.write('/usr/local/sbin/nix', `#!/bin/sh\necho " $* " >>${log}\nexec ${real} "$@"\n`, { mode: 0o755 })
  return () =>
    client
      .read(log)
      .split('\n')
      .filter((line) => / copy .*--to /.test(line)).length
}

test.run()
