// Disks that are full, without inodes, or read-only: the queue's, /run, the home, the box's. No
// build fails, nothing is lost, what is wrong is told in its own words, and once there is room
// again all goes on.
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import * as assert from 'uvu/assert'
import type { Result } from '../lib/processes.ts'
import { DIST, FAILED, QUEUE } from '../nix/pair.ts'
import type { World } from '../nix/world.ts'
import { faults, Stage } from './stage.ts'

const test = faults('disk')
let made: Stage | undefined
const stage = async (): Promise<Stage> => {
  made ??= await Stage.make({ hook: true })
  return made
}

/** How a folder is made unusable: mounts over it, until undone. */
const WAYS = {
  full: ['-t', 'tmpfs', '-o', 'size=4k,mode=755', 'tmpfs'],
  'without inodes': ['-t', 'tmpfs', '-o', 'nr_inodes=1,mode=755', 'tmpfs'],
  'read-only': ['-t', 'tmpfs', '-o', 'ro,mode=755', 'tmpfs'],
} as const
type Way = keyof typeof WAYS

/** Has a folder of alice's on such a disk while something is done. */
async function mounted(world: World, folder: string, way: Way, act: () => Promise<void>): Promise<void> {
  await world.must('root', 'mount', [...WAYS[way], folder])
  try {
    if (way !== 'read-only') await world.must('root', 'chown', ['alice:', folder])
    if (way === 'full')
      await world.run('root', 'sh', ['-c', 'head -c 1M /dev/zero >"$0/filler" 2>/dev/null; chown alice "$0/filler"', folder])
    await act()
  } finally {
    await world.unmount(folder)
  }
}

/** A build with the hook, which must not fail. Returns its words, and what was built. */
async function built(on: Stage): Promise<{ paths: string[]; stderr: string }> {
  return await on.pair.build(on.fresh(2).slice(2))
}

const upload = (on: Stage): Promise<Result> => on.pair.client.run('alice', `${DIST}/nix-lan`, ['queue', 'upload'])
const names = (on: Stage): string[] => [QUEUE, FAILED].flatMap((folder) => readdirSync(on.pair.client.path(folder)))
const kept = (on: Stage, paths: string[]): boolean => paths.every((path) => names(on).includes(path.replace(/.*\//, '')))

for (const way of Object.keys(WAYS) as Way[]) {
  test.case(`the queue's disk is ${way}: the build succeeds, the hook says so and what to do, which does it`, async () => {
    const it = await stage()
    const { client } = it.pair
    let paths: string[] = []
    await mounted(client, QUEUE, way, async () => {
      const done = await built(it)
      paths = done.paths
      // tmpfs has room for a link as long as there is an inode: then all is well
      if (readdirSync(client.path(QUEUE)).length < 2) {
        const said = `${done.stderr}${client.daemonLog()}`
        assert.match(said, /built, but not queued in .*(No space left|Read-only)/)
        assert.match(said, /nix-lan queue add/)
      } else paths = []
    })
    if (paths.length > 0) await client.must('alice', `${DIST}/nix-lan`, ['queue', 'add', ...paths])
    assert.ok(kept(it, paths))
    const { code, stderr } = await upload(it)
    assert.is(code, 0, stderr)
    await it.wellAfter()
  })

  test.case(`failed/ is ${way}: what the box refuses can't be set aside, and nothing is lost`, async () => {
    const it = await stage()
    const { client } = it.pair
    const { paths } = await built(it)
    const [bad = ''] = paths
    await client.must('root', 'sh', ['-c', 'printf X >>"$0"', bad])
    let queued = true
    await mounted(client, FAILED, way, async () => {
      const { code, stderr } = await upload(it)
      assert.is.not(code, 0, stderr)
      assert.not.match(stderr, /this is a bug/)
      assert.ok(kept(it, [bad]), stderr)
      // tmpfs has room for a link as long as there is an inode
      queued = readdirSync(client.path(QUEUE)).includes(bad.replace(/.*\//, ''))
      if (queued) assert.match(stderr, /can't set anything aside in .*\/failed\/box \((ENOSPC|EROFS)\)/)
      else assert.is(way, 'full')
    })
    await client.must('root', 'truncate', ['-s', '-1', bad])
    if (!queued) await client.must('alice', `${DIST}/nix-lan`, ['queue', 'add', bad])
    const { code, stderr } = await upload(it)
    assert.is(code, 0, stderr)
    assert.ok(await it.pair.boxHas(...paths))
    await it.wellAfter()
  })

  test.case(`/run is ${way}: builds succeed, an upload says why it can't, and is no bug`, async () => {
    const it = await stage()
    const { client } = it.pair
    await client.must('root', 'mkdir', ['-p', '/run/nix-lan'])
    await mounted(client, '/run/nix-lan', way, async () => {
      await built(it)
      assert.not.match(client.daemonLog(), /this is a bug/)
    })
    await it.dropTunnel()
    await mounted(client, '/run/user/1000', way, async () => {
      const { stderr } = await it.pair.build(it.fresh(2).slice(2))
      assert.not.match(stderr, /error/)
      const { code, stderr: said } = await upload(it)
      assert.is.not(code, 0)
      assert.not.match(said, /this is a bug|at .*\.js:\d+/)
      const tunnel = await client.run('alice', `${DIST}/nix-lan-tunnel`, ['box'], { timeout: 3000 })
      assert.not.match(tunnel.stderr, /this is a bug|at .*\.js:\d+/)
    })
    it.keepTunnel()
    await it.answers()
    const { code, stderr } = await upload(it)
    assert.is(code, 0, stderr)
    assert.is(names(it).length, 0)
    await it.wellAfter()
  })

  test.case(`the home is ${way}: builds and uploads go on`, async () => {
    const it = await stage()
    const { client } = it.pair
    await client.must('root', 'mkdir', ['-p', '/home/alice/.local/state', '/home/alice/.cache'])
    await client.must('root', 'chown', ['-R', 'alice:', '/home/alice/.local', '/home/alice/.cache'])
    for (const folder of ['/home/alice/.local/state', '/home/alice/.cache']) {
      await mounted(client, folder, way, async () => {
        const { paths } = await built(it)
        const { code, stderr } = await upload(it)
        assert.not.match(stderr, /this is a bug/)
        // Nix itself may need its own cache folder
        if (folder.endsWith('state')) assert.is(code, 0, stderr)
        assert.ok(kept(it, paths) || (await it.pair.boxHas(...paths)))
      })
    }
    const { code, stderr } = await upload(it)
    assert.is(code, 0, stderr)
    await it.wellAfter()
  })
}

test.case("the box's disk is full: what doesn't fit is set aside or stays, with the reason; what fits gets there", async () => {
  const it = await stage()
  const { box } = it.pair
  const large = await it.pair.build([...it.fresh(1).slice(2), '--arg', 'kb', '20000'])
  const used = Number((await box.must('root', 'df', ['-k', '--output=used', '/nix'])).split('\n')[1])
  await box.must('root', 'mount', ['-o', `remount,size=${used + 4096}k`, '/nix'])
  const { code, stderr } = await upload(it)
  assert.is.not(code, 0)
  assert.match(stderr, /No space left|disk|full/i)
  assert.ok(kept(it, large.paths), `${stderr}: ${names(it)}`)
  const small = await built(it)
  await upload(it)
  assert.ok(kept(it, large.paths) && (kept(it, small.paths) || (await it.pair.boxHas(...small.paths))))
  await box.must('root', 'mount', ['-o', 'remount,size=4g', '/nix'])
  await it.pair.client.run('alice', `${DIST}/nix-lan`, ['queue', 'retry'])
  const done = await upload(it)
  assert.is(done.code, 0, done.stderr)
  assert.ok(await it.pair.boxHas(...large.paths, ...small.paths))
  await it.wellAfter()
})

test.case("the box's /nix is read-only: uploads stay queued, fetches end, and builds go on", async () => {
  const it = await stage()
  const { box } = it.pair
  const args = await it.published(2, 64)
  const { paths } = await built(it)
  // In the daemon's own mount namespace (2.8.0, local-store.cc, makeStoreWritable). Not
  // /nix/var/nix itself: a daemon that may not write there connects to itself without end, 1,600
  // processes in two minutes, and this machine's other tests couldn't fork any more; what nix-lan
  // sees of it is the handshake, then nothing (hostile.faults.ts).
  const readOnly = 'for d in store var/nix/db; do mount --bind /nix/$d /nix/$d && mount -o remount,bind,ro /nix/$d; done'
  execFileSync('nsenter', ['--target', String(daemonOf(box)), '--mount', '--root', '--', 'sh', '-c', readOnly])
  try {
    const { code, stdout, stderr } = await it.pair.client.run('alice', `${DIST}/nix-lan`, ['queue', 'upload'], { timeout: 100_000 })
    assert.is.not(code, 0, `${stdout}${stderr}`)
    assert.not.match(stderr, /this is a bug/)
    assert.ok(kept(it, paths))
    assert.is(await it.build(args, true).ends(), 0)
  } finally {
    await box.stopDaemon()
    await box.startDaemon()
  }
  await it.pair.client.run('alice', `${DIST}/nix-lan`, ['queue', 'retry'])
  const done = await upload(it)
  assert.is(done.code, 0, done.stderr)
  await it.wellAfter()
})

/** The nix-daemon that isn't one's child: it forks for each connection. */
function daemonOf(world: World): number | undefined {
  const all = world.processes('nix-daemon')
  const parent = (pid: number): number => {
    try {
      return Number(/\) \S (\d+)/.exec(readFileSync(`/proc/${pid}/stat`, 'latin1'))?.[1])
    } catch {
      return all[0] ?? 0 // gone meanwhile: it was a child
    }
  }
  return all.find((pid) => !all.includes(parent(pid)))
}

test.after(async () => await made?.close())
test.run()
