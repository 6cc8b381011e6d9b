// What a cache costs that has nothing: Nix starts connect once for each command (a plain pipe is
// started anew for every miss on Nix up to 2.30, see protocol/operations.ts), with the box there
// and away, for what is built and for what another cache has.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../lib/needs.ts'
import { HttpCache } from './http-cache.ts'
import { createPair, type Pair } from './pair.ts'

const test = needs(suite('misses'), 'root', 'nix', 'ssh', 'sshd', 'roots')

const ROUNDS = 3
const BUILDS = 40
const PATHS = 200
/** The size of each, which is that of a small real one. */
const KIB = 64
/**
 * What is to be reached is 1.5; what a restart for each miss costs is 37 and more. Between them
 * there is room for a busy machine.
 */
const SLOWEST = 5

interface Figures {
  /** Milliseconds, the best of all rounds. */
  ms: number
  /** Starts of connect, the most of all rounds. */
  starts: number
}

/**
 * Does something several times in several ways, in turn, so that a busy moment of the machine hits
 * all of them.
 */
async function compare(pair: Pair, ways: Record<string, () => Promise<number>>): Promise<Record<string, Figures>> {
  const figures: Record<string, Figures> = {}
  for (let round = 0; round < ROUNDS; round++) {
    for (const [way, act] of Object.entries(ways)) {
      pair.resetStarts()
      const ms = await act()
      const before = figures[way] ?? { ms: Number.POSITIVE_INFINITY, starts: 0 }
      figures[way] = { ms: Math.min(before.ms, ms), starts: Math.max(before.starts, pair.starts()) }
    }
  }
  return figures
}

function check(what: string, { without, there, away }: Record<string, Figures>): void {
  if (!without || !there || !away) throw new Error('nothing was measured')
  const ratio = (figures: Figures) => (figures.ms / without.ms).toFixed(2)
  console.log(`figure: ${what}: ${without.ms.toFixed(0)} ms without, × ${ratio(there)} with the box there, × ${ratio(away)} with it away`)
  assert.is(without.starts, 0, 'no start without the substituter')
  assert.is(there.starts, 1, 'one start with the box there')
  assert.is(away.starts, 1, 'one start with the box away')
  assert.ok(there.ms < SLOWEST * without.ms, `× ${ratio(there)} with the box there`)
  assert.ok(away.ms < SLOWEST * without.ms, `× ${ratio(away)} with the box away`)
}

for (const [client, box] of [
  ['bookworm', 'bookworm'],
  ['trixie', 'bookworm'],
  ['forky', 'bookworm'],
  ['forky', 'forky'],
] as const) {
  test(`${BUILDS} derivations that the box (${box}) lacks, and ${PATHS} paths that another cache has: one start (${client})`, async () => {
    const pair = await createPair({ client, box })
    try {
      await pair.openPlainTunnel()
      await builds(pair, client)
      await pair.openPlainTunnel()
      await fetches(pair, client)
    } finally {
      await pair.close()
    }
  })
}

async function builds(pair: Pair, client: string): Promise<void> {
  let n = 0
  const build = async (env = {}): Promise<number> => {
    return (await pair.build(['--arg', 'count', String(BUILDS), '--argstr', 'name', `n${n++}`], env)).ms
  }
  const figures = await compare(pair, {
    without: () => build({ NIX_CONFIG: 'substituters =' }),
    there: build,
    away: () => away(pair, build),
  })
  check(`${client}, ${BUILDS} builds`, figures)
}

async function fetches(pair: Pair, client: string): Promise<void> {
  const cache = new HttpCache(`${pair.client.dir}/other`)
  await cache.open()
  try {
    await fetchesFrom(pair, client, cache)
  } finally {
    cache.close()
  }
}

async function fetchesFrom(pair: Pair, client: string, cache: HttpCache): Promise<void> {
  const other = `${cache.url}?priority=40` // as cache.nixos.org: asked after the box
  const nix = (...args: string[]) => pair.client.must('root', 'nix', args, { env: { NIX_REMOTE: 'local' } })
  const { paths } = await pair.build(['--arg', 'count', String(PATHS), '--argstr', 'name', 'elsewhere', '--arg', 'kb', String(KIB)])
  await nix('copy', '--to', `file://${pair.client.dir}/other`, ...paths)
  async function fetch(env = {}): Promise<number> {
    await pair.client.idle()
    await pair.client.must('root', 'nix-store', ['--delete', ...paths])
    const { ms } = await pair.client.run('alice', 'nix-store', ['--realise', ...paths], { env })
    assert.ok(await pair.clientHas(...paths))
    return ms
  }
  // New paths are fetched once: what Nix remembers of a cache from the round before would make it
  // faster than it ever is.
  pair.configure({ substituters: other, 'narinfo-cache-positive-ttl': '0' })
  await pair.client.stopDaemon()
  await pair.client.startDaemon()
  const figures = await compare(pair, {
    without: () => fetch({ NIX_CONFIG: `substituters = ${other}` }),
    there: fetch,
    away: () => away(pair, fetch),
  })
  check(`${client}, ${PATHS} paths of another cache`, figures)
}

async function away(pair: Pair, act: () => Promise<number>): Promise<number> {
  await pair.closeTunnel()
  try {
    return await act()
  } finally {
    await pair.openPlainTunnel()
  }
}

test.run()
