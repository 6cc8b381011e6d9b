// kill -9 at random instants, under load: of connect, of the hook, of an upload, of the tunnel; and
// garbage collections on both sides meanwhile. Nothing hangs, nothing is lost from the queue, and
// the next command goes as if nothing had been.
import { readdirSync } from 'node:fs'
import * as assert from 'uvu/assert'
import { kill, pause } from '../lib/processes.ts'
import { until } from '../lib/until.ts'
import { DIST, FAILED, QUEUE } from '../nix/pair.ts'
import { faults, many, RATE, Stage } from './stage.ts'

const test = faults('kills')
let made: Stage | undefined
const stage = async (): Promise<Stage> => {
  made ??= await Stage.make({ hook: true })
  return made
}

/**
 * post-build-hook, which is killed after a part of the time that it took when nobody killed it: 2 ms
 * on one machine and 30 ms on another. /opt/hook-dies has the part; without /opt/hook-took it lives,
 * and its time is noted there. In perl, since a sleep and a kill that have to be started first come
 * after the end of most hooks.
 */
const DYING_HOOK = `#!/usr/bin/perl
use Time::HiRes qw(time sleep);
my $started = time;
my $hook = fork // die;
if ($hook == 0) { exec '${DIST}/post-build-hook' or die }
if (open my $took, '<', '/opt/hook-took') {
  open my $dies, '<', '/opt/hook-dies' or die;
  sleep <$dies> * <$took>;
  kill 'KILL', $hook;
  waitpid $hook, 0;
} else {
  waitpid $hook, 0;
  open my $took, '>', '/opt/hook-took' or die;
  print $took time - $started;
}
exit($? != 0);
`

/**
 * Kills what runs with such a command line in the client's world, at random pauses, until it is
 * told to stop. The link, which may be slow until the first is killed, is as quick as ever then.
 */
function killing(on: Stage, line: RegExp, next: () => number): { stop(): Promise<number> } {
  let over = false
  let killed = 0
  const loop = (async () => {
    while (!over) {
      await pause(next())
      for (const pid of on.pids(line)) {
        kill(pid, 'SIGKILL')
        killed++
        await on.relay.set({ rate: RATE })
      }
    }
  })()
  return {
    stop: async () => {
      over = true
      await loop
      return killed
    },
  }
}

for (let round = 1; round <= many(1, 20); round++) {
  test.case(`connect is killed again and again while Nix asks and fetches, fallback, ${round}`, async (random) => {
    const on = await stage()
    const args = await on.published(12, 4096)
    await on.answers()
    await on.relay.set({ rate: RATE / 8 }) // until the first is killed: else a quick machine might be done by then
    const killer = killing(on, /nix-lan-connect .* --stdio$/, () => random.integer(20, 400))
    const building = on.build(args, true)
    // killed before its hello it fails the command, whatever `fallback` says (NIX-FACTS: "ends
    // before the handshake"); but it ends
    const code = await building.ends().finally(killer.stop)
    const killed = await killer.stop()
    console.log(`figure: ${killed} kills of connect, exit ${code}`)
    assert.ok(killed > 0, 'none was killed')
    await on.wellAfter(args)
  })

  test.case(`the tunnel is killed while Nix fetches, fallback, ${round}`, async (random) => {
    const on = await stage()
    const args = await on.published(12, 4096)
    await on.answers()
    const building = on.build(args, true)
    await building.says('copying path')
    await pause(random.integer(0, 400))
    const pids = on.pids(/nix-lan-tunnel|^ssh /)
    assert.ok(pids.length >= 2, 'its sh, and ssh')
    for (const pid of pids) kill(pid, 'SIGKILL')
    assert.is(await building.ends(), 0, building.output())
    // A quick machine has fetched all of them by then.
    const fetched = building.output().match(/^copying path /gm)?.length ?? 0
    if (fetched < 12) assert.match(building.output(), /^building /m)
    await on.wellAfter(args)
  })

  test.case(`the hook is killed while Nix builds: what was queued stays, queue add --built finds the rest, ${round}`, async (random) => {
    const on = await stage()
    const { pair } = on
    const first = await pair.build(on.fresh(3).slice(2))
    assert.ok(first.paths.every((path) => queueNames(on).includes(baseName(path))))
    pair.client.write('/opt/hook', DYING_HOOK, { mode: 0o755 })
    await on.configure({ 'post-build-hook': '/opt/hook' })
    await pair.client.must('root', 'rm', ['-f', '/opt/hook-took'])
    assert.is(await on.build(on.fresh(1), true).ends(), 0)
    let killed = 0
    for (let times = 0; times < 40 && killed < 3; times++) {
      pair.client.write('/opt/hook-dies', String((random.integer(0, 999) / 1000) ** 2))
      // Nix ends a command whose hook is killed; one that was quicker this time lives
      if ((await on.build(on.fresh(1), true).ends()) !== 0) killed++
    }
    await on.configure({ 'post-build-hook': `${DIST}/post-build-hook` })
    assert.ok(killed > 0, 'none was killed')
    assert.ok(first.paths.every((path) => queueNames(on).includes(baseName(path))))
    for (const name of queueNames(on)) assert.match(name, /^[0-9a-z]{32}-/)
    await pair.client.must('alice', `${DIST}/nix-lan`, ['queue', 'add', '--built'])
    await uploaded(on)
    await on.wellAfter()
  })

  test.case(`an upload is killed at a random instant, three times; nothing is lost, ${round}`, async (random) => {
    const on = await stage()
    const { client } = on.pair
    const { paths } = await on.pair.build([...on.fresh(20).slice(2), '--arg', 'kb', '1024'])
    for (let times = 0; times < 3; times++) {
      const upload = client.start('alice', `${DIST}/nix-lan`, ['queue', 'upload'])
      await pause(random.integer(50, 900))
      for (const pid of on.pids(/nix-lan queue upload/)) kill(pid, 'SIGKILL')
      await upload.ended
      for (const path of paths) assert.ok(queueNames(on).includes(baseName(path)) || (await on.pair.boxHas(path)), `${path} is lost`)
    }
    await uploaded(on)
    assert.ok(await on.pair.boxHas(...paths))
    await on.wellAfter()
  })

  test.case(`a nix copy ends with the upload that was killed, ${round}`, async (random) => {
    const on = await stage()
    const { client } = on.pair
    await on.pair.build([...on.fresh(20).slice(2), '--arg', 'kb', '4096'])
    await on.relay.set({ rate: 5e5 }) // to its own end it would take 160 s
    const upload = client.start('alice', `${DIST}/nix-lan`, ['queue', 'upload'])
    await until('nix copy', () => on.pids(/nix.* copy /).length > 0)
    await pause(random.integer(0, 100))
    for (const pid of on.pids(/nix-lan queue upload/)) kill(pid, 'SIGKILL')
    await upload.ended
    await until('nix copy to end', () => on.pids(/nix.* copy /).length === 0)
    await on.relay.set({ rate: RATE })
    await uploaded(on)
    await on.wellAfter()
  })
}

test.case('garbage collections on both sides, while Nix fetches, builds and uploads', async (random) => {
  const on = await stage()
  const { client, box } = on.pair
  const rounds: string[][] = []
  for (let round = 0; round < many(2, 20); round++) rounds.push(await on.published(4, 256))
  let over = false
  const collect = async (): Promise<void> => {
    while (!over) {
      await pause(random.integer(50, 300))
      await Promise.all([client, box].map((world) => world.run('root', 'nix-store', ['--gc'], { env: { NIX_REMOTE: 'local' } })))
    }
  }
  const loop = collect()
  try {
    // the box may have collected them before they are asked for: then they are built
    for (const args of rounds) {
      const building = on.build(args, true)
      assert.is(await building.ends(), 0, building.output())
      const { code, stdout, stderr } = await client.run('alice', `${DIST}/nix-lan`, ['queue', 'upload'])
      // what the box collects right after it came isn't there when it is asked for, and stays
      // queued
      const told = /stays? queued: the box has deleted them again/.test(stderr)
      assert.ok(code === 0 || (code === 75 && queueNames(on).length > 0 && told), `an upload: exit ${code}: ${stdout}${stderr}`)
    }
  } finally {
    over = true
    await loop
  }
  await uploaded(on)
  await on.wellAfter()
})

const baseName = (path: string): string => path.replace(/.*\//, '')

/** What is queued, and what was set aside. */
function queueNames(on: Stage): string[] {
  return [QUEUE, FAILED].flatMap((folder) => readdirSync(on.pair.client.path(folder)))
}

/**
 * Uploads until nothing is queued; nothing may have been set aside. Another upload may still be
 * ending.
 */
async function uploaded(on: Stage): Promise<void> {
  const { client } = on.pair
  await on.answers()
  let last = ''
  await until(`the queue to be empty: ${last}`, async () => {
    const { code, stderr } = await client.run('alice', `${DIST}/nix-lan`, ['queue', 'upload'])
    last = stderr
    assert.ok(code === 0 || code === 75, `an upload: ${code} ${stderr}`)
    return queueNames(on).length === 0
  })
}

test.after(async () => await made?.close())
test.run()
