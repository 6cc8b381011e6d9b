// What a box that is away costs a build: the tunnel's socket missing, stale, or accepting but mute. Every build succeeds without `fallback` and
// without a word of error; missing and stale cost hardly more than starting a JavaScript runtime, mute its deadline, once.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../lib/needs.ts'
import { createPair, type Pair, SOCKET } from './pair.ts'

const test = needs(suite('away'), 'root', 'nix', 'ssh', 'sshd', 'roots')

const ROUNDS = 7
/** What is to be reached is 1.5 × an empty node; asking a box that isn't there twice, or waiting for it, costs far more than this. */
const DEAREST = 3
const DEADLINE = 2000

let count = 0
const oneMore = () => ['--argstr', 'name', `new-${count++}`]
const WITHOUT = { NIX_CONFIG: 'substituters =' }

/** Builds something new. Returns the milliseconds. @throws AssertionError when Nix says a word of error or warning */
async function build(pair: Pair, env: Record<string, string> = {}): Promise<number> {
  const { stderr, ms } = await pair.build(oneMore(), env)
  assert.not.match(stderr, /error|warning/i)
  return ms
}

for (const client of ['host', 'bookworm', 'trixie', 'forky'] as const) {
  test(`${client}: missing and stale cost little more than an empty node`, async () => {
    const pair = await createPair({ client })
    try {
      const emptyNode = async () => (await pair.client.run('root', 'node', ['-e', '0'])).ms
      const nothing = async () => (await pair.client.run('root', 'true')).ms
      const missing = await compare({ without: () => build(pair, WITHOUT), with: () => build(pair), node: emptyNode, nothing })
      await pair.openPlainTunnel()
      await pair.closeTunnel('SIGKILL')
      await pair.client.must('alice', 'test', ['-S', SOCKET]) // stale: it is there, and nobody listens
      const stale = await compare({ without: () => build(pair, WITHOUT), with: () => build(pair), node: emptyNode, nothing })
      for (const [state, ms] of Object.entries({ missing, stale })) {
        const node = get(ms, 'node') - get(ms, 'nothing')
        const ratio = (get(ms, 'with') - get(ms, 'without')) / node
        console.log(
          `figure: ${client}, ${state}: ${(ratio * node).toFixed(0)} ms more, ${ratio.toFixed(2)} × an empty node (${node.toFixed(0)} ms)`,
        )
        assert.ok(ratio < DEAREST, `${state}: ${ratio.toFixed(2)} × an empty node`)
      }
      assert.not.match(pair.client.daemonLog(), /error/i)
      const lines = pair.client.daemonLog().match(/nix-lan-connect: .*/g) ?? []
      assert.is(lines.length, 1, `one line for the outage, none for the missing socket: ${lines.join('\n')}`)
    } finally {
      await pair.close()
    }
  })

  test(`${client}: accepting but mute costs the deadline, once`, async () => {
    const pair = await createPair({ client })
    try {
      await pair.openPlainTunnel()
      const usual = Math.max(await build(pair), await build(pair))
      pair.box.freezeSshd()
      const first = await build(pair)
      const second = await build(pair)
      console.log(`figure: ${client}, mute: ${usual.toFixed(0)} ms usually, then ${first.toFixed(0)} ms and ${second.toFixed(0)} ms`)
      assert.ok(first > DEADLINE - 500, `the first build has waited for the box: ${first} ms`)
      assert.ok(first < DEADLINE + 5000 + usual, `but not for long: ${first} ms`)
      assert.ok(second < first - DEADLINE / 2, `the second build has not waited again: ${second} ms`)
      pair.box.thawSshd()
    } finally {
      await pair.close()
    }
  })
}

/** Does things in turn, ROUNDS times. Returns the least milliseconds of each: a busy moment of the machine only adds. */
async function compare(ways: Record<string, () => Promise<number>>): Promise<Map<string, number>> {
  const least = new Map<string, number>()
  for (let round = 0; round < ROUNDS; round++)
    for (const [way, act] of Object.entries(ways)) least.set(way, Math.min(least.get(way) ?? Number.POSITIVE_INFINITY, await act()))
  return least
}

function get(figures: Map<string, number>, way: string): number {
  const ms = figures.get(way)
  if (ms === undefined) throw new Error(`${way} was not measured`)
  return ms
}

test.run()
