// What a box that is away costs a build: the tunnel's socket missing, stale, or accepting but
// unresponsive. Every build succeeds without `fallback` and without a word of error; missing and
// stale cost hardly more than starting a JavaScript runtime, unresponsive its deadline, once.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { compare } from '../lib/compare.ts'
import { needs } from '../lib/needs.ts'
import { createPair, DIST, type Pair, SOCKET } from './pair.ts'

const test = needs(suite('away'), 'root', 'nix', 'ssh', 'sshd', 'roots')

/** What is to be reached, in starts of an empty node. */
const GOAL = 1.5
/**
 * Room for a noisy machine: waiting for a box that isn't there costs eighty, a start for each
 * question as many as there are questions.
 */
const DEAREST = 6
const DEADLINE = 2000
const TRIES = 4

/** Without the sh that counts the starts. */
const UNCOUNTED = { 'extra-substituters': `ssh-ng://localhost?remote-program=${DIST}/nix-lan-connect%20${SOCKET}` }

let count = 0
const oneMore = () => ['--argstr', 'name', `new-${count++}`]
const WITHOUT = { NIX_CONFIG: 'substituters =' }

/**
 * Builds something new. Returns the milliseconds. @throws AssertionError when Nix says a word of
 * error or warning
 */
async function build(pair: Pair, env: Record<string, string> = {}): Promise<number> {
  const { stderr, ms } = await pair.build(oneMore(), env)
  assert.not.match(stderr, /error|warning/i)
  return ms
}

for (const client of ['host', 'bookworm', 'trixie', 'forky'] as const) {
  test(`${client}: missing and stale cost little more than an empty node`, async () => {
    const pair = await createPair({ client, settings: UNCOUNTED })
    try {
      await costsLittle(pair, `${client}, missing`)
      await pair.openPlainTunnel()
      await pair.closeTunnel('SIGKILL')
      await pair.client.must('alice', 'test', ['-S', SOCKET]) // stale: it is there, and nobody listens
      await new Promise((done) => setTimeout(done, 2500)) // for a while: only then is it known that nobody is about to listen
      await costsLittle(pair, `${client}, stale`)
      assert.not.match(pair.client.daemonLog(), /error/i)
      const lines = pair.client.daemonLog().match(/nix-lan-connect: .*/g) ?? []
      assert.is(lines.length, 1, `one line for the outage, none for the missing socket: ${lines.join('\n')}`)
    } finally {
      await pair.close()
    }
  })

  test(`${client}: accepting but unresponsive costs the deadline, once`, async () => {
    let [first, second, usual] = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY, 0]
    const soon = (): boolean => first < DEADLINE + 5000 + usual
    const notAgain = (): boolean => second < first - DEADLINE / 2
    // the least of each, since what else the machine does only adds: who waits too long does so each time
    for (let tries = 0; tries < TRIES && !(soon() && notAgain()); tries++) {
      const pair = await createPair({ client, settings: UNCOUNTED })
      try {
        await pair.openPlainTunnel()
        usual = Math.max(usual, await build(pair), await build(pair))
        pair.box.freezeSshd()
        first = Math.min(first, await build(pair))
        second = Math.min(second, await build(pair))
        pair.box.thawSshd()
      } finally {
        await pair.close()
      }
      console.log(
        `figure: ${client}, unresponsive: ${usual.toFixed(0)} ms usually, then ${first.toFixed(0)} ms and ${second.toFixed(0)} ms`,
      )
      assert.ok(first > DEADLINE - 500, `the first build has waited for the box: ${first} ms`)
    }
    assert.ok(soon(), `but not for long: ${first} ms`)
    assert.ok(notAgain(), `the second build has not waited again: ${second} ms`)
  })
}

async function costsLittle(pair: Pair, state: string): Promise<void> {
  const ways = {
    without: () => build(pair, WITHOUT),
    away: () => build(pair),
    node: async () => (await pair.client.run('root', 'node', ['-e', '0'])).ms,
    nothing: async () => (await pair.client.run('root', 'true')).ms, // what running anything in a world takes
  }
  type Figures = Record<keyof typeof ways, number>
  const node = (ms: Figures) => ms.node - ms.nothing
  const ratio = (ms: Figures) => (ms.away - ms.without) / node(ms)
  const least = await compare(ways, (ms) => ratio(ms) < GOAL)
  const figures = `${(least.away - least.without).toFixed(0)} ms more, ${ratio(least).toFixed(2)} × an empty node (${node(least).toFixed(0)} ms)`
  console.log(`figure: ${state}: ${figures}`)
  assert.ok(ratio(least) < DEAREST, figures)
}

test.run()
