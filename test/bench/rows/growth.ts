// How the cost grows: listing a queue, uploading what the box has already, and asking for whole
// closures through connect. It should be a straight line, also beyond what fits one command line.
import { createPair, DIST, type Pair, QUEUE, SOCKET } from '../../nix/pair.ts'
import { type Bench, ensure, type Row, rounds, type Setting, size } from '../lib/bench.ts'
import { addRivals } from '../lib/rivals.ts'
import type { Formula } from '../lib/stats.ts'

const LOCAL = { env: { NIX_REMOTE: 'local' }, timeout: 300_000 }

export const growth: Bench = {
  name: 'growth',
  title: 'queues of 10, 1,000 and 20,000 paths; closures of 10, 1,000 and 10,000 asked through connect',
  needs: ['root', 'nix', 'ssh', 'sshd'],
  async *run(setting) {
    const pair = await createPair()
    try {
      addRivals(pair.client)
      const queues = size(setting, [10, 1000, 20_000], [2, 20])
      const closures = size(setting, [10, 1000, 10_000], [2, 20])
      await pair.openTunnel()
      setting.progress('making the paths')
      await publish(pair, Math.max(...queues), closures)
      yield await lists(pair, setting, queues)
      yield await uploads(pair, setting, queues)
      yield await questions(pair, setting, closures)
    } finally {
      await pair.close()
    }
  },
}

/** The n-th of many paths; digits are base-32 digits too. */
const leaf = (n: number): string => `/nix/store/${String(n).padStart(32, '0')}-leaf`
/** Something that needs the first n − 1 of them. */
const top = (n: number): string => `/nix/store/${String(n).padStart(32, 'a')}-top`

/**
 * The same paths in both stores, signed by the client: files of a few bytes, made known to Nix in
 * one go.
 */
async function publish(pair: Pair, count: number, closures: readonly number[]): Promise<void> {
  const hash = `sha256:${'0'.repeat(64)}`
  const entry = (path: string, references: string[]): string => [path, hash, '120', '', references.length, ...references, ''].join('\n')
  const leaves = Array.from({ length: count }, (_, n) => leaf(n))
  const entries = leaves.map((path) => entry(path, []))
  for (const n of closures) entries.push(entry(top(n), leaves.slice(0, n - 1)))
  const all = [...leaves, ...closures.map(top)].join('\n')
  for (const world of [pair.client, pair.box]) {
    world.write('/etc/nix/secret', pair.client.read('/etc/nix/secret'), { mode: 0o600 })
    await world.must('root', 'xargs', ['touch'], { ...LOCAL, input: all })
    await world.must('root', 'nix-store', ['--load-db'], { ...LOCAL, input: entries.join('') })
    await world.must('root', 'xargs', ['-n', '1000', 'nix', 'store', 'sign', '--key-file', '/etc/nix/secret'], { ...LOCAL, input: all })
  }
  ensure(await pair.boxHas(leaf(0), top(closures[0] ?? 0)), 'the box does not have the paths, signed')
}

/** Puts the first `count` paths into the queue, and nothing else. */
async function enqueue(pair: Pair, count: number): Promise<void> {
  const links = Array.from({ length: count }, (_, n) => leaf(n)).join('\n')
  await pair.client.must('alice', 'sh', ['-c', `find ${QUEUE} -type l -delete; xargs ln -s -t ${QUEUE}`], { input: links })
}

/** Whether a path more costs no more among many than among few. */
function linear([few, some, many]: readonly number[], ways: (count: number) => string): { say: string; formula: Formula } {
  const rate =
    (low: number, high: number): Formula =>
    (of) =>
      (of(ways(high)) - of(ways(low))) / (high - low)
  if (few === undefined || some === undefined) throw new Error('too few sizes')
  if (many === undefined) return { say: 'milliseconds for each path more', formula: rate(few, some) }
  return {
    say: `a path more among ${many} / among ${some}`,
    formula: (of) => rate(some, many)(of) / rate(few, some)(of),
  }
}

async function lists(pair: Pair, setting: Setting, counts: readonly number[]): Promise<Row> {
  const way = (count: number): string => `a queue of ${count}`
  const list = (count: number) => async (): Promise<number> => {
    await enqueue(pair, count)
    const { code, stdout, stderr, ms } = await pair.client.run('alice', `${DIST}/nix-lan`, ['queue'])
    ensure(code === 0 && stdout.includes(`${count} queued`), `the list is not one of ${count}: ${stdout.slice(0, 200)}${stderr}`)
    return ms
  }
  const ways = Object.fromEntries(counts.map((count) => [way(count), list(count)]))
  const most = Math.max(...counts)
  return {
    id: 'growth-list',
    what: 'nix-lan queue, as the queue grows',
    unit: 'ms',
    samples: await rounds(setting, size(setting, 5, 1), ways),
    goals: [
      { say: `${way(most)}, in seconds`, formula: (of) => of(way(most)) / 1000, most: 1 },
      { ...linear(counts, way), most: 1.5 },
    ],
    notes: ['up to 1,000 entries the list also says sizes and signatures, which Nix is asked for; above that only with --full'],
  }
}

async function uploads(pair: Pair, setting: Setting, counts: readonly number[]): Promise<Row> {
  const way = (count: number): string => `a queue of ${count}`
  const upload = (count: number) => async (): Promise<number> => {
    await enqueue(pair, count)
    const { code, stdout, stderr, ms } = await pair.client.run('alice', `${DIST}/nix-lan`, ['queue', 'upload'], { timeout: 300_000 })
    ensure(code === 0, `the upload of ${count} failed: ${stdout.slice(0, 500)}${stderr.slice(0, 500)}`)
    ensure((await pair.queued()).length === 0, 'the queue is not empty')
    return ms
  }
  const ways = Object.fromEntries(counts.map((count) => [way(count), upload(count)]))
  return {
    id: 'growth-upload',
    what: 'nix-lan queue upload, when the box has all of them already',
    unit: 'ms',
    samples: await rounds(setting, size(setting, 3, 1), ways, { [way(20_000)]: 1 }),
    goals: [{ ...linear(counts, way), most: 1.5 }],
  }
}

async function questions(pair: Pair, setting: Setting, counts: readonly number[]): Promise<Row> {
  const way = (count: number): string => `a closure of ${count}`
  const store = `ssh-ng://localhost?remote-program=${DIST}/nix-lan-connect%20${SOCKET}`
  const ask = (count: number) => async (): Promise<number> => {
    const { code, stdout, stderr, ms } = await pair.client.run('alice', 'nix-store', [
      '--store',
      store,
      '--query',
      '--requisites',
      top(count),
    ])
    ensure(code === 0 && stdout.trim().split('\n').length === count, `the closure has not ${count} paths: ${stderr}`)
    return ms
  }
  const ways = Object.fromEntries(counts.map((count) => [way(count), ask(count)]))
  return {
    id: 'growth-closure',
    what: 'asking for a closure through nix-lan-connect',
    unit: 'ms',
    samples: await rounds(setting, size(setting, 5, 1), ways),
    goals: [{ ...linear(counts, way), most: 1.5 }],
  }
}
