// What the hook costs each build: in the ordinary case, with many outputs and caches, and where Nix
// doesn't tell it the outputs.
import { createWorld, type World } from '../../nix/world.ts'
import { type Bench, ensure, type Row, type Setting } from '../lib/bench.ts'
import { hyperfine } from '../lib/hyperfine.ts'
import { addRivals, RIVALS } from '../lib/rivals.ts'
import type { Samples } from '../lib/stats.ts'

const HOOK = '/opt/nix-lan/dist/post-build-hook'
const QUEUE = '/nix/var/nix/gcroots/nix-lan/queue'
const OUTPUTS = 20
const CACHES = ['box', 'two', 'three']
const RESET = `${RIVALS}/reset-hooks`
/** Ways that appear in several rows. */
const OURS = 'post-build-hook'
const SH = 'sh -c :'
const BLOG = "the blog's hook"
const BASH = 'bash that makes links'
const NODE = 'empty node'
const QUERY = 'nix-store --query --outputs'

export const hook: Bench = {
  name: 'hook',
  title: 'post-build-hook by itself: the ordinary case, 20 outputs and 3 caches, an empty OUT_PATHS',
  needs: ['root', 'nix', 'hyperfine', 'valgrind', 'tsp', 'sudo', 'bash'],
  async *run(setting) {
    const world = await createWorld({ nix: 'host' })
    try {
      addRivals(world)
      const built = await build(world)
      await makeQueue(world, ['box'])
      // a first job that never ends: what the spooler is given only waits, as behind a long upload
      await world.must('alice', 'sh', ['-c', 'tsp sleep 100000 >/dev/null'])
      yield await ordinary(world, setting, built)
      yield await counted(world, built)
      yield await noOutputs(world, setting, built, 'one cache')
      await makeQueue(world, CACHES)
      yield await manyOutputs(world, setting, built)
      yield await noOutputs(world, setting, built, `${CACHES.length} caches`)
    } finally {
      await world.close()
    }
  },
}

interface Built {
  paths: string[]
  drv: string
}

async function build(world: World): Promise<Built> {
  const count = ['--arg', 'count', String(OUTPUTS), '--argstr', 'name', 'some-package-with-a-name-1.2.3']
  const local = { env: { NIX_REMOTE: 'local' } }
  const paths = (await world.must('root', 'nix-build', ['/opt/nix-lan/t.nix', '--no-out-link', ...count], local)).split('\n')
  const drv = await world.must('root', 'nix-store', ['--query', '--deriver', paths[0] ?? ''], local)
  ensure(paths.length === OUTPUTS && drv.endsWith('.drv'), 'the paths that the hook is to be told were not built')
  return { paths, drv }
}

async function makeQueue(world: World, caches: readonly string[]): Promise<void> {
  for (const cache of caches) await world.must('root', 'install', ['-d', '-o', '1000', `${QUEUE}/${cache}`])
}

/**
 * The environment that Nix gives its hook, as root's daemon does: the settings too, which are some
 * ninety lines.
 */
async function environment(world: World, outputs: readonly string[], drv: string): Promise<Record<string, string | undefined>> {
  const settings = await world.must('root', 'nix', ['show-config'], { env: { NIX_REMOTE: 'local' } })
  return { OUT_PATHS: outputs.join(' '), DRV_PATH: drv, NIX_CONFIG: settings, HOME: undefined, USER: undefined, NIX_REMOTE: undefined }
}

/** How many links the hook, run once, leaves in each directory of the queue. */
async function links(world: World, hook: string, env: Record<string, string | undefined>): Promise<number[]> {
  await world.must('root', RESET)
  await world.must('root', hook, [], { env })
  const listed = await world.must('root', 'sh', ['-c', `for d in ${QUEUE}/*/; do ls -A "$d" | wc -l; done`])
  return listed.split('\n').map(Number)
}

async function ordinary(world: World, setting: Setting, { paths, drv }: Built): Promise<Row> {
  const env = await environment(world, paths.slice(0, 1), drv)
  for (const hook of [HOOK, `${RIVALS}/links-hook`]) ensure((await links(world, hook, env))[0] === 2, `${hook} does not make two links`)
  const jobs = () => world.must('alice', 'sh', ['-c', 'tsp | grep -c "nix copy"; :']).then(Number)
  await world.must('root', `${RIVALS}/blog-hook`, [], { env })
  ensure((await jobs()) === 1, "the blog's hook does not queue a job")
  const commands = [
    { name: SH, line: 'sh -c :' },
    { name: OURS, line: HOOK, prepare: RESET },
    { name: BASH, line: `${RIVALS}/links-hook`, prepare: RESET },
    { name: BLOG, line: `${RIVALS}/blog-hook`, prepare: RESET },
    { name: NODE, line: 'node -e 0' },
  ]
  const samples = await hyperfine(world, setting, commands, { env })
  return {
    id: 'hook-ordinary',
    what: 'the hook: one output and its .drv, one cache',
    unit: 'ms',
    samples,
    goals: [
      { say: `${OURS} / ${SH}`, formula: (of) => of(OURS) / of(SH), most: 3, budget: 8 },
      { say: `${OURS} / ${BLOG}`, formula: (of) => of(OURS) / of(BLOG), most: 0.2, budget: 0.6 },
    ],
    chart: { label: 'post-build-hook, each build', ours: OURS, floor: SH, rival: BLOG, readme: true },
  }
}

/** Instructions of all processes together: what wall time hides on a busy machine. */
async function counted(world: World, { paths, drv }: Built): Promise<Row> {
  const env = await environment(world, paths.slice(0, 1), drv)
  const count = async (...command: string[]): Promise<number[]> => {
    await world.must('root', 'sh', ['-c', `${RESET}; rm -rf /tmp/cg; mkdir /tmp/cg`])
    await world.must(
      'root',
      'valgrind',
      ['--tool=callgrind', '--trace-children=yes', '--callgrind-out-file=/tmp/cg/%p', '-q', ...command],
      { env },
    )
    const totals = await world.must('root', 'sh', ['-c', "sed -n 's/^totals: //p' /tmp/cg/*"])
    return [
      totals
        .split('\n')
        .map(Number)
        .reduce((sum, own) => sum + own, 0),
    ]
  }
  const samples: Samples = {
    [SH]: await count('/bin/sh', '-c', ':'),
    [OURS]: await count('/bin/sh', HOOK),
    [BASH]: await count('/bin/bash', `${RIVALS}/links-hook`),
  }
  return {
    id: 'hook-instructions',
    what: 'the same, in instructions of all its processes',
    unit: 'instructions',
    samples,
    goals: [{ say: `${OURS} / ${BASH}`, formula: (of) => of(OURS) / of(BASH), most: 1.25, budget: 1.6 }],
  }
}

async function manyOutputs(world: World, setting: Setting, { paths, drv }: Built): Promise<Row> {
  const env = await environment(world, paths, drv)
  ensure(
    (await links(world, HOOK, env)).every((count) => count === OUTPUTS + 1),
    `not ${OUTPUTS + 1} links for each cache`,
  )
  const samples = await hyperfine(
    world,
    setting,
    [
      { name: SH, line: 'sh -c :' },
      { name: OURS, line: HOOK, prepare: RESET },
      { name: BASH, line: `${RIVALS}/links-hook`, prepare: RESET },
    ],
    { env },
  )
  return {
    id: 'hook-many',
    what: `the hook: ${OUTPUTS} outputs and the .drv, ${CACHES.length} caches`,
    unit: 'ms',
    samples,
    goals: [{ say: `${OURS} / ${SH}`, formula: (of) => of(OURS) / of(SH), most: 6, budget: 20 }],
  }
}

async function noOutputs(world: World, setting: Setting, { drv }: Built, caches: string): Promise<Row> {
  const env = { ...(await environment(world, [], drv)), OUT_PATHS: '' }
  ensure(
    (await links(world, HOOK, env)).every((count) => count === 2),
    'the output was not read from the .drv',
  )
  const samples = await hyperfine(
    world,
    setting,
    [
      { name: SH, line: 'sh -c :' },
      { name: OURS, line: HOOK, prepare: RESET },
      { name: QUERY, line: `nix-store --query --outputs ${drv}`, env: { NIX_REMOTE: 'local', NIX_CONFIG: undefined } },
    ],
    { env },
  )
  return {
    id: `hook-no-outputs-${caches.replace(/ .*/, '')}`,
    what: `the hook: an empty OUT_PATHS (every build on Nix 2.8.0), ${caches}`,
    unit: 'ms',
    samples,
    goals: [
      { say: `${OURS} / ${SH}`, formula: (of) => of(OURS) / of(SH), most: 6, budget: 20 },
      { say: `${OURS} / ${QUERY}`, formula: (of) => of(OURS) / of(QUERY), most: 1 / 3, budget: 0.8 },
    ],
  }
}
