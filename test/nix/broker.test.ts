// The broker between real Nixes: a session for each NAR costs neither a start of JavaScript nor a
// handshake with the box, and what one session was told, the next needn't wait for.
import { readFileSync } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { type Relay, startRelay } from '../lib/delay-relay.ts'
import { needs } from '../lib/needs.ts'
import type { Suite } from '../lib/roots.ts'
import { until } from '../lib/until.ts'
import { BrokerUnit } from './broker-unit.ts'
import { createPair, type Pair } from './pair.ts'
import { freePort } from './world.ts'

const test = needs(suite('broker'), 'root', 'nix', 'ssh', 'sshd', 'roots')

/** Gives the box small paths, signed as if the client had built them. */
async function publish(pair: Pair, count: number): Promise<string[]> {
  const { box } = pair
  const expression = `builtins.genList (n: builtins.toFile "small-\${toString n}" "this is file \${toString n}") ${count}`
  const local = { env: { NIX_REMOTE: 'local' } }
  const paths = JSON.parse(
    await box.must('root', 'nix-instantiate', ['--eval', '--read-write-mode', '--strict', '--json', '-E', expression], local),
  ) as string[]
  await sign(pair, paths)
  return paths
}

/** Signs what the box has as if the client had built it. */
async function sign({ box, client }: Pair, paths: readonly string[]): Promise<void> {
  box.write('/etc/nix/secret', client.read('/etc/nix/secret'), { mode: 0o600 })
  const options = { env: { NIX_REMOTE: 'local' }, input: paths.join('\n') }
  await box.must('root', 'xargs', ['nix', 'store', 'sign', '--key-file', '/etc/nix/secret'], options)
}

/** Milliseconds that fetching takes; the paths are deleted afterwards. */
async function fetching(pair: Pair, url: string, paths: string[]): Promise<number> {
  const args = ['nix-store', '--option', 'substituters', url, '--option', 'extra-substituters', '', '--realise']
  const { code, stderr, ms } = await pair.client.run('root', 'xargs', ['-n', '100000', ...args], {
    env: { NIX_REMOTE: 'daemon' },
    input: paths.join('\n'),
    timeout: 200_000,
  })
  assert.is(code, 0, stderr.slice(-2000))
  assert.ok(await pair.clientHas(...paths), 'not all were fetched')
  await pair.collectGarbage()
  return ms
}

const PATHS = 60
/** What a start of Node for each NAR comes to is 1; a broker's sessions took 0.1. */
const FASTER = 0.5
/** So many looks, 20 ms apart. */
const MOMENT = 25
const FOLDER = '/run/nix-lan'

interface Staged {
  pair: Pair
  relay: Relay
  unit: BrokerUnit
}

async function staged(nix: Suite, act: (staged: Staged) => Promise<void>): Promise<void> {
  const pair = await createPair({ client: nix, box: 'bookworm' })
  const port = await freePort()
  const relay = await startRelay([port, pair.box.port])
  const unit = new BrokerUnit(pair)
  try {
    await pair.openPlainTunnel(port)
    await act({ pair, relay, unit })
  } catch (error) {
    console.log(unit.output(), pair.client.daemonLog())
    throw error
  } finally {
    await unit.stop()
    relay.close()
    await pair.close()
  }
}

/** The box's nix-daemons that serve somebody. */
const served = ({ pair }: Staged): number => Math.max(0, pair.box.processes('nix-daemon').length - 1)

test(`a session for each NAR (2.26.3): one start of JavaScript behind ${PATHS} fetches, at most six connections`, async () => {
  await staged('trixie', async (on) => {
    const { pair, relay, unit } = on
    const paths = await publish(pair, PATHS)
    await unit.start()
    await unit.up()
    await relay.set({ delay: 10 })
    const before = await fetching(pair, pair.url, paths)
    assert.is(pair.starts(), PATHS)
    let most = 0
    const seen: number[] = []
    const watch = setInterval(() => {
      // a daemon whose connection is closed lives on for a moment
      seen.push(served(on))
      if (seen.length >= MOMENT) most = Math.max(most, Math.min(...seen.slice(-MOMENT)))
    }, 20)
    pair.resetStarts()
    assert.match(unit.url, '?max-connections=4&')
    // the least of a few: what else the machine does only adds
    const fetched = async (url: string): Promise<number> => {
      let least = Number.POSITIVE_INFINITY
      for (let i = 0; i < 3 && least >= FASTER * before; i++) least = Math.min(least, await fetching(pair, url, paths))
      return least
    }
    const parallel = await fetched(unit.url)
    const ms = await fetched(unit.url.replace('max-connections=4&', ''))
    await until('its connections to be counted', () => most > 0)
    clearInterval(watch)
    console.log(
      `figure: ${PATHS} paths at 20 ms: ${before.toFixed(0)} ms, ${ms.toFixed(0)} with a broker, ${parallel.toFixed(0)} with four connections to it`,
    )
    assert.ok(pair.starts() >= 2 * PATHS, 'Nix has started the relay for each')
    for (const now of [parallel, ms]) assert.ok(now < FASTER * before, `${now} ms with a broker, ${before} without`)
    assert.is(unit.output().match(/^started/gm)?.length, 1, unit.output())
    assert.ok(most <= 6, `${most} connections to the box`)
    const memory = Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${unit.pid()}/status`, 'utf8'))?.[1])
    console.log(`figure: the broker has taken ${Math.round(memory / 1024)} MiB`)
  })
})

for (const nix of ['bookworm', 'trixie', 'forky'] as const) {
  test(`a broker that is away, wrong, dead or there (${nix})`, async () => {
    await staged(nix, async ({ pair, unit }) => {
      const { client } = pair
      const [first = '', second = '', third = '', ...rest] = await publish(pair, 8)
      // no such unit, no file of root's: an empty store, and a line
      const alone = await client.run('root', 'nix-store', ['--option', 'substituters', unit.url, '--realise', first], {
        env: { NIX_REMOTE: 'daemon' },
      })
      assert.is.not(alone.code, 0)
      assert.match(`${alone.stderr}${client.daemonLog()}`, /\/etc\/nix-lan\/connect\/box can't be read/)
      // the file, and no unit: connect does all of it by itself
      client.write('/etc/nix-lan/connect/box', 'user=alice\ndeadline=10\n')
      await fetching(pair, unit.url, [first])
      // the unit, and no broker yet: the same, and the broker starts
      await unit.start()
      await fetching(pair, unit.url, [second])
      await until('the broker to be up', () => unit.isUp())
      await fetching(pair, unit.url, [third, ...rest])
      assert.is(unit.output().match(/^started/gm)?.length, 1, unit.output())
      // killed while nobody needs it
      process.kill(unit.pid(), 'SIGKILL')
      await until('the broker to be gone', () => !unit.isUp())
      await fetching(pair, unit.url, [first])
      await until('another', () => unit.isUp())
      // the box is away
      await pair.closeTunnel()
      await pair.build(['--argstr', 'name', 'away'], {})
      const { code, stderr } = await client.run(
        'root',
        'nix-build',
        ['/opt/nix-lan/t.nix', '--no-out-link', '--option', 'substituters', unit.url, '--argstr', 'name', 'gone'],
        { env: { NIX_REMOTE: 'daemon' } },
      )
      assert.is(code, 0, stderr)
      // a stale file: nobody listens
      await unit.stop()
      const stale = 'unlink $ARGV[0]; socket(S, 1, 1, 0) && bind(S, pack("Sa108", 1, $ARGV[0])) || die'
      await client.must('root', 'perl', ['-e', stale, `${FOLDER}/box.sock`])
      await client.must('root', 'touch', [`${FOLDER}/box.up`])
      await pair.openPlainTunnel()
      await fetching(pair, unit.url, [first])
      // a perl that doesn't start, as in the middle of an update
      await unit.start()
      await unit.up()
      client.write('/usr/local/bin/perl', '#!/bin/sh\nexit 127\n', { mode: 0o755 })
      await fetching(pair, unit.url, [second])
    })
  })
}

test('a link that is full with a fetch is no outage: another session waits for its handshake, and fetches', async () => {
  await staged('bookworm', async ({ pair, relay, unit }) => {
    const { client } = pair
    const [small = ''] = await publish(pair, 1)
    const args = ['/opt/nix-lan/t.nix', '--no-out-link', '--argstr', 'name', 'large', '--arg', 'kb', '6000']
    const large = await pair.box.must('root', 'nix-build', args, { env: { NIX_REMOTE: 'local' } })
    await sign(pair, [large])
    await unit.start({ settings: 'deadline=2\n' })
    await unit.up()
    await relay.set({ rate: 500_000 })
    const fetch = (path: string) =>
      client.run('root', 'nix-store', ['--option', 'substituters', unit.url, '--option', 'extra-substituters', '', '--realise', path], {
        env: { NIX_REMOTE: 'daemon' },
        timeout: 200_000,
      })
    const running = fetch(large)
    const size = async (): Promise<number> => Number((await client.run('root', 'du', ['-sk', large])).stdout.split('\t')[0])
    await until('some of the large path', async () => (await size()) > 500)
    const { code, stderr, ms } = await fetch(small)
    assert.is(code, 0, stderr)
    assert.ok(ms > 2000, `${ms} ms: the deadline was over`)
    assert.is((await running).code, 0)
    assert.not.match(unit.output(), /going on without it/)
  })
})

test.run()
