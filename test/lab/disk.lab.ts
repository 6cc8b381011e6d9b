// A small disk: a laptop whose store has room for ten builds makes many more, and gc by itself makes
// room. While the box is there, nothing runs full, nothing is lost and nothing is built again;
// while it is away, status says what fills the disk, and when.
import * as assert from 'uvu/assert'
import { createLab, type Lab, labSuite, release } from './lab.ts'
import { CACHE } from './machines.ts'
import { atHome } from './scenario.ts'

const test = labSuite('a small disk')
/** MiB of the store's file system, of one build, and what gc keeps free. */
const [STORE, ONE, FREE] = [200, 20, 100]
/** Three times what the store has room for; NIX_LAN_BUILDS=100 for the 2 GiB of an hour's work. */
const BUILDS = Number(process.env.NIX_LAN_BUILDS) || 26

let lab: Lab
/** What was built: name → path and SHA-256 of its content, which is random. */
const made = new Map<string, { path: string; sum: string }>()

test.before(async () => {
  lab = await createLab({ laptop: release(), installed: true })
  const { laptop } = lab
  await laptop.must('root', 'sh', [
    '-ec',
    `systemctl stop nix-daemon.socket nix-daemon.service
mkdir -p /nix/store
[ -z "$(ls -A /nix/store)" ]
mount -t tmpfs -o size=${STORE}M,mode=1775 tmpfs /nix/store
chgrp nixbld /nix/store
printf '[gc]\\nkeep-free = "${FREE}M"\\n' >>/etc/nix-lan/config.toml
systemctl start nix-daemon.socket`,
  ])
  await atHome(lab)
})
test.after(() => lab.close())

const args = (name: string): string[] => ['--argstr', 'name', name, '--arg', 'kb', String(ONE * 1024)]
const sumOf = async (path: string): Promise<string> => (await lab.laptop.must('root', 'sha256sum', [path])).slice(0, 64)
const isHere = async (path: string): Promise<boolean> => (await lab.laptop.run('alice', 'nix-store', ['--check-validity', path])).code === 0
const freeMiB = async (): Promise<number> =>
  // In bytes: df rounds MiB up, and gc doesn't.
  Math.floor(Number(/(\d+)\s*$/.exec(await lab.laptop.must('root', 'df', ['-B1', '--output=avail', '/nix/store']))?.[1]) / 2 ** 20)

/** Starts gc as its timer does twice an hour, and waits for its end. */
const collect = (): Promise<string> => lab.laptop.systemctl('start', `nix-lan-gc@${CACHE}.service`)

/** Waits until gc has made room: for what was uploaded while it ran, it hadn't planned. */
async function makesRoom(): Promise<void> {
  const has = async (): Promise<boolean> => {
    if ((await freeMiB()) < FREE) await collect()
    return (await freeMiB()) >= FREE
  }
  await lab.eventually('gc has made room', has, { within: 120_000, every: 500 })
}

/**
 * Waits until gc, which an upload has started, has made room for the next builds. One that has found
 * the box away, in a stall of this machine, isn't started again before its timer: then it is, as
 * that does.
 * @returns whether it was
 */
async function keepsPace(): Promise<boolean> {
  const has = async (): Promise<boolean> => (await freeMiB()) >= 2 * ONE
  const byItself = await lab.eventually('gc keeps pace', has, { within: 120_000 }).catch(() => undefined)
  if (byItself !== undefined) return false
  await collect()
  await lab.eventually('gc keeps pace, started once more', has, { within: 120_000 })
  return true
}

async function build(name: string): Promise<void> {
  const { paths } = await lab.build(args(name))
  const path = paths[0] ?? ''
  made.set(name, { path, sum: await sumOf(path) })
}

test(`${BUILDS} builds of ${ONE} MiB in a store of ${STORE} MiB: it never runs full, and none is lost`, async () => {
  let least = STORE
  let helped = 0
  for (let n = 1; n <= BUILDS; n++) {
    await build(`work-${n}`)
    least = Math.min(least, await freeMiB())
    // who works no faster than the link, and than a busy machine collects
    await lab.eventually('uploads keep pace', async () => (await lab.queued()).length <= 2, { within: 120_000 })
    if (await keepsPace()) helped += 1
  }
  assert.ok(helped <= BUILDS / 10, `${helped} times no upload has started gc`)
  await atHome(lab)
  await makesRoom()
  const all = [...made.values()]
  const here: string[] = []
  for (const { path } of all) if (await isHere(path)) here.push(path)
  console.log(
    `figure: ${BUILDS * ONE} MiB built in ${STORE} MiB: at least ${least} MiB free, ${here.length} of ${BUILDS} builds still here`,
  )
  assert.ok(least >= ONE, `${least} MiB free`)
  assert.ok(here.length <= (STORE - FREE) / ONE, `${here.length} are here`)
  await lab.box.must('root', 'nix-store', ['--gc'])
  assert.ok(await lab.boxHas(...all.map(({ path }) => path)))
})

test('what was had is not built again: the same bytes come back', async () => {
  for (const name of ['work-1', `work-${Math.floor(BUILDS / 2)}`]) {
    const { path, sum } = made.get(name) ?? { path: '', sum: '' }
    assert.not(await isHere(path), name)
    const again = await lab.build(args(name))
    assert.not.match(again.stderr, /^building '/m)
    assert.equal([again.paths, await sumOf(path)], [[path], sum])
  }
})

test('the box is away: nothing is lost, and status says what fills the disk, and when; it goes on when the box is back', async () => {
  const { laptop, lan } = lab
  await lan.cable('laptop', false)
  for (let n = 1; n <= 3; n++) await build(`away-${n}`)
  const status = (): Promise<string> => laptop.run('alice', 'nix-lan', ['status']).then(({ stdout }) => stdout)
  const fills = / MiB are free, and 60\.0 MiB wait for pi, which can't be deleted before; at this rate it is full in /
  let told = ''
  const tells = async (): Promise<boolean> => {
    told = await status()
    return fills.test(told)
  }
  await lab.eventually('status tells what fills the disk', tells, { within: 120_000, every: 2000 }).catch((error) => {
    throw new Error(`${error.message}\n${told}`)
  })
  await laptop.must('root', 'nix-store', ['--gc'])
  for (const name of ['away-1', 'away-2', 'away-3']) assert.ok(await isHere(made.get(name)?.path ?? ''), name)
  await lan.cable('laptop', true)
  await atHome(lab)
  await makesRoom()
  assert.ok(await lab.boxHas(...[...made.values()].map(({ path }) => path)))
  for (let n = 1; n <= 3; n++) await build(`home-${n}`)
  await atHome(lab)
  const again = await lab.build(args('away-1'))
  assert.is(await sumOf(again.paths[0] ?? ''), made.get('away-1')?.sum)
})

test.run()
