// What a box that is away costs a build: the tunnel's socket missing, stale (nobody listens any
// more), or unresponsive (it accepts and says nothing).

import { pause } from '../../lib/processes.ts'
import { createPair, DIST, type Pair, SOCKET } from '../../nix/pair.ts'
import { type Bench, ensure, type Row, rounds, type Setting, size } from '../lib/bench.ts'

const NONE = 'no substituter at all'
const OURS = 'nix-lan-connect'
const NODE = 'empty node'
const NOTHING = 'true' // what starting anything in a world takes
const SETTINGS = { 'extra-substituters': `ssh-ng://localhost?remote-program=${DIST}/nix-lan-connect%20${SOCKET}` }
const DEADLINE = 2000
/** How long, in milliseconds, the blog's way is waited for. */
const PATIENCE = 20_000
const QUICK_PATIENCE = 5000

export const away: Bench = {
  name: 'away',
  title: 'a build with the box away: socket missing, stale, unresponsive',
  needs: ['root', 'nix', 'ssh', 'sshd'],
  async *run(setting) {
    const pair = await createPair({ settings: SETTINGS })
    try {
      yield await state(pair, setting, 'missing')
      await pair.openPlainTunnel()
      await pair.closeTunnel('SIGKILL')
      await pair.client.must('alice', 'test', ['-S', SOCKET])
      await pause(2500) // only then is it known that nobody is about to listen
      yield await state(pair, setting, 'stale')
      yield await unresponsive(pair, setting)
    } finally {
      await pair.close()
    }
  },
}

let batch = 0

async function build(pair: Pair, env: Record<string, string> = {}): Promise<number> {
  const { stderr, ms } = await pair.build(['--argstr', 'name', `away-${batch++}`], env)
  ensure(!/error|warning/i.test(stderr), `Nix complains: ${stderr}`)
  return ms
}

/** What the forwarded socket itself does as a substituter, as the blog has it. */
async function blog(pair: Pair, setting: Setting): Promise<string> {
  const timeout = size(setting, PATIENCE, QUICK_PATIENCE)
  const args = [
    '/opt/nix-lan/t.nix',
    '--no-out-link',
    '--argstr',
    'name',
    `away-${batch++}`,
    '--option',
    'substituters',
    `unix://${SOCKET}`,
  ]
  const done = await pair.client.run('root', 'nix-build', args, { env: { NIX_REMOTE: 'daemon' }, timeout })
  if (done.timedOut) return `the blog's way (the socket as a substituter) hangs: nothing after ${timeout / 1000} s`
  return done.code === 0
    ? "the blog's way (the socket as a substituter) builds too"
    : "the blog's way (the socket as a substituter) fails the build"
}

async function state(pair: Pair, setting: Setting, kind: 'missing' | 'stale'): Promise<Row> {
  const ways = {
    [NONE]: () => build(pair, { NIX_CONFIG: 'substituters =' }),
    [OURS]: () => build(pair),
    [NODE]: async () => (await pair.client.run('root', 'node', ['-e', '0'])).ms,
    [NOTHING]: async () => (await pair.client.run('root', 'true')).ms,
  }
  await build(pair)
  const samples = await rounds(setting, size(setting, 25, 3), ways)
  return {
    id: `away-${kind}`,
    what: `one build with the box away: the socket is ${kind}`,
    unit: 'ms',
    samples,
    goals: [
      {
        say: `(${OURS} − ${NONE}) / ${NODE}`,
        formula: (of) => (of(OURS) - of(NONE)) / (of(NODE) - of(NOTHING)),
        most: 1.5,
        budget: 8,
      },
    ],
    notes: [await blog(pair, setting)],
  }
}

async function unresponsive(pair: Pair, setting: Setting): Promise<Row> {
  const first: number[] = []
  const second: number[] = []
  const usual: number[] = []
  for (let round = 0; round < size(setting, 3, 1); round++) {
    setting.progress(`unresponsive, round ${round + 1}`)
    await pair.openPlainTunnel()
    usual.push(await build(pair))
    pair.box.freezeSshd()
    first.push(await build(pair))
    second.push(await build(pair))
    pair.box.thawSshd()
    await pair.closeTunnel()
  }
  await pair.openPlainTunnel()
  pair.box.freezeSshd()
  const notes = [await blog(pair, setting)]
  pair.box.thawSshd()
  await pair.closeTunnel()
  const [there, one, two] = ['the box there', 'unresponsive: the first build', 'unresponsive: the second']
  return {
    id: 'away-unresponsive',
    what: 'one build with the box away: the socket is unresponsive',
    unit: 'ms',
    samples: { [there]: usual, [one]: first, [two]: second },
    goals: [
      { say: `(${one} − ${there}) / the deadline`, formula: (of) => (of(one) - of(there)) / DEADLINE, most: 1.1, budget: 3 },
      { say: `${two} / ${there}`, formula: (of) => of(two) / of(there), most: 1.2, budget: 4 },
    ],
    notes,
  }
}
