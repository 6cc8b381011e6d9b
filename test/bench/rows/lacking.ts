// What a box costs that is there and has nothing of what is wanted: for what is built then, and for
// what another cache has.
import { HttpCache } from '../../nix/http-cache.ts'
import { createPair, DIST, type Pair, SOCKET } from '../../nix/pair.ts'
import { type Bench, ensure, type Row, rounds, type Setting, size } from '../lib/bench.ts'
import { addRivals, RIVALS } from '../lib/rivals.ts'

const NONE = 'no such substituter'
const OURS = 'the box there, lacking everything'
const AWAY = 'the box away'
const SOCAT = 'socat as the program'
const WAYS = [NONE, OURS, AWAY, SOCAT] as const
type Way = (typeof WAYS)[number]

export const lacking: Bench = {
  name: 'lacking',
  title: 'building and fetching what the box lacks: 40 derivations; 200 and 2,000 paths of another cache',
  needs: ['root', 'nix', 'ssh', 'sshd', 'socat'],
  async *run(setting) {
    const pair = await createPair()
    const cache = new HttpCache(`${pair.client.dir}/other`)
    try {
      addRivals(pair.client)
      const counter = (name: string, program: string) =>
        pair.client.write(`${RIVALS}/${name}`, `#!/bin/sh\necho . >>${pair.client.dir}/starts\nexec ${program} "$@"\n`, { mode: 0o755 })
      counter('counted-connect', `${DIST}/nix-lan-connect`)
      counter('counted-socat', `${RIVALS}/socat-store`)
      await pair.openPlainTunnel()
      await cache.open()
      for (const row of await derivations(pair, setting)) yield row
      yield await paths(pair, cache, setting, { count: size(setting, 200, 5), kib: 64, warm: false })
      yield await paths(pair, cache, setting, { count: size(setting, 200, 5), kib: 0, warm: true })
      yield await paths(pair, cache, setting, { count: size(setting, 2000, 20), kib: 0, warm: false })
    } finally {
      cache.close()
      await pair.close()
    }
  },
}

/** What the command line says of substituters, for each way. `others`: what is asked besides. */
function options(way: Way, others: string): string[] {
  const program = way === SOCAT ? 'counted-socat' : 'counted-connect'
  const own = way === NONE ? '' : `ssh-ng://localhost?remote-program=${RIVALS}/${program}%20${SOCKET}`
  return ['--option', 'substituters', `${own} ${others}`.trim(), '--option', 'extra-substituters', '']
}

/** Does it in one way, with the box away if that is it. Returns milliseconds. */
async function inWay(pair: Pair, way: Way, act: () => Promise<number>): Promise<number> {
  pair.resetStarts()
  if (way !== AWAY) return await act()
  await pair.closeTunnel()
  try {
    return await act()
  } finally {
    await pair.openPlainTunnel()
  }
}

/** Runs a command of Nix as root through the daemon, which lets root choose substituters. */
async function nix(pair: Pair, command: string, args: string[], input?: string): Promise<number> {
  const words = input === undefined ? [command, ...args] : ['xargs', '-n', '100000', command, ...args]
  const [program = '', ...rest] = words
  const done = await pair.client.run('root', program, rest, {
    env: { NIX_REMOTE: 'daemon' },
    timeout: 300_000,
    ...(input ? { input } : {}),
  })
  ensure(done.code === 0, `${command} failed: ${done.stderr.slice(-500)}`)
  return done.ms
}

async function derivations(pair: Pair, setting: Setting): Promise<Row[]> {
  const count = size(setting, 40, 3)
  const starts: Record<string, number[]> = {}
  let batch = 0
  const ways = Object.fromEntries(
    WAYS.map((way) => [
      way,
      async (): Promise<number> => {
        const names = ['--arg', 'count', String(count), '--argstr', 'name', `built-${batch++}`]
        const ms = await inWay(pair, way, () =>
          nix(pair, 'nix-build', ['/opt/nix-lan/t.nix', '--no-out-link', ...names, ...options(way, '')]),
        )
        starts[way] = [...(starts[way] ?? []), pair.starts()]
        return ms
      },
    ]),
  )
  const samples = await rounds(setting, size(setting, 7, 1), ways, { [SOCAT]: 1 })
  const what = `evaluating and building ${count} derivations that the box lacks`
  return [
    {
      id: 'lacking-builds',
      what,
      unit: 'ms',
      samples,
      goals: ratios(),
      chart: { label: `building ${count} things that the box lacks`, ours: OURS, floor: NONE, rival: SOCAT, readme: true },
    },
    {
      id: 'lacking-starts',
      what: `${what}: starts of the program`,
      unit: 'starts',
      samples: starts,
      goals: [{ say: OURS, formula: (of) => of(OURS), most: 1, budget: 1 }],
    },
  ]
}

const ratios = () => [
  { say: `${OURS} / ${NONE}`, formula: (of: (way: string) => number) => of(OURS) / of(NONE), most: 1.5, budget: 6 },
  { say: `${AWAY} / ${NONE}`, formula: (of: (way: string) => number) => of(AWAY) / of(NONE), most: 1.5, budget: 6 },
]

interface Kind {
  count: number
  /** 0: a line of text each. */
  kib: number
  /** Whether Nix remembers from before what the other cache has. */
  warm: boolean
}

async function paths(pair: Pair, cache: HttpCache, setting: Setting, { count, kib, warm }: Kind): Promise<Row> {
  const { client } = pair
  const local = { env: { NIX_REMOTE: 'local' } }
  const name = `elsewhere-${count}-${kib}`
  const list = kib > 0 ? await built(pair, name, count, kib) : await written(pair, name, count)
  await client.must('root', 'xargs', ['-n', '100000', 'nix', 'copy', '--to', `file://${client.dir}/other`], {
    ...local,
    input: list,
    timeout: 300_000,
  })
  const cached = [
    '--option',
    'narinfo-cache-positive-ttl',
    warm ? '3600' : '0',
    '--option',
    'narinfo-cache-negative-ttl',
    warm ? '3600' : '0',
  ]
  const fetch = (way: Way) => async (): Promise<number> => {
    await client.collect(...list.split('\n').filter(Boolean))
    const others = `${cache.url}?priority=40` // as cache.nixos.org: asked after the box
    const ms = await inWay(pair, way, () => nix(pair, 'nix-store', [...options(way, others), ...cached, '--realise'], list))
    await client.must('root', 'xargs', ['-n', '100000', 'nix-store', '--check-validity'], { ...local, input: list })
    return ms
  }
  if (warm) await fetch(NONE)()
  const ways = Object.fromEntries(WAYS.filter((way) => way !== SOCAT || (kib > 0 && !warm)).map((way) => [way, fetch(way)]))
  const rest = `${kib > 0 ? `${kib} KiB` : 'a line of text'} each${warm ? ', whose narinfos Nix remembers' : ''}`
  return {
    id: `lacking-paths-${count}-${kib}-${warm ? 'warm' : 'cold'}`,
    what: `fetching ${count} paths that another cache has, ${rest}`,
    unit: 'ms',
    samples: await rounds(setting, size(setting, count > 1000 ? 2 : 5, 1), ways, { [SOCAT]: 1 }),
    goals: ratios(),
    ...(kib > 0 ? { chart: { label: `fetching ${count} paths of another cache`, ours: OURS, floor: NONE, rival: SOCAT } } : {}),
  }
}

async function built(pair: Pair, name: string, count: number, kib: number): Promise<string> {
  const args = [
    '/opt/nix-lan/t.nix',
    '--no-out-link',
    '--arg',
    'count',
    String(count),
    '--argstr',
    'name',
    name,
    '--arg',
    'kb',
    String(kib),
  ]
  return await pair.client.must('root', 'nix-build', args, { env: { NIX_REMOTE: 'local' } })
}

async function written(pair: Pair, name: string, count: number): Promise<string> {
  const text = `builtins.genList (n: builtins.toFile "${name}-\${toString n}" "text number \${toString n}") ${count}`
  const args = ['--eval', '--read-write-mode', '--strict', '--json', '-E', text]
  return (JSON.parse(await pair.client.must('root', 'nix-instantiate', args, { env: { NIX_REMOTE: 'local' } })) as string[]).join('\n')
}
