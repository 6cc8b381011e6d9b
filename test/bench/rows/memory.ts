// Memory: what nix-lan-connect takes at most while a large path comes through it, and what the
// tunnel holds while nothing happens.

import { pause } from '../../lib/processes.ts'
import { until } from '../../lib/until.ts'
import { createPair, DIST, type Pair, SOCKET } from '../../nix/pair.ts'
import { type Bench, ensure, type Row, rounds, type Setting, size } from '../lib/bench.ts'
import { descendants, nameOf, resident } from '../lib/memory.ts'
import { addRivals, RIVALS } from '../lib/rivals.ts'

const OURS = 'nix-lan-connect'
const SOCAT = 'socat as the program'
const NODE = 'empty node'
const SSH = 'ssh -N -L'
const TUNNEL = 'nix-lan-tunnel, with its ssh'

export const memory: Bench = {
  name: 'memory',
  title: 'memory of connect during a transfer, and of the idle tunnel',
  needs: ['root', 'nix', 'ssh', 'sshd', 'socat'],
  async *run(setting) {
    const pair = await createPair()
    try {
      addRivals(pair.client)
      yield await tunnels(pair)
      await pair.openPlainTunnel()
      yield await transfer(pair, setting)
    } finally {
      await pair.close()
    }
  },
}

async function tunnels(pair: Pair): Promise<Row> {
  const held = async (open: () => Promise<void>): Promise<number> => {
    await open()
    await pause(2000)
    const all = pair.client.processes('').filter((pid) => /^(ssh|sh|node|nix-lan)/.test(nameOf(pid)))
    const mib = all.reduce((sum, pid) => sum + resident(pid), 0)
    await pair.closeTunnel()
    return mib
  }
  const plain = await held(() => pair.openPlainTunnel())
  const ours = await held(() => pair.openTunnel())
  return {
    id: 'memory-tunnel',
    what: 'memory of the idle tunnel',
    unit: 'MiB',
    samples: { [SSH]: [plain], [TUNNEL]: [ours] },
    goals: [{ say: 'MiB beyond ssh', formula: (of) => of(TUNNEL) - of(SSH), most: 0, budget: 5 }],
    notes: ['a dash waits for ssh, to tell why it ended; most of its memory it shares with every other sh'],
  }
}

async function transfer(pair: Pair, setting: Setting): Promise<Row> {
  const local = { env: { NIX_REMOTE: 'local' } }
  // a rival takes a moment for this on a quick machine, and has to be seen meanwhile
  const mib = size(setting, 256, 64)
  const args = ['/opt/nix-lan/t.nix', '--no-out-link', '--argstr', 'name', 'large', '--arg', 'kb', String(mib * 1024)]
  const path = await pair.box.must('root', 'nix-build', args, local)
  pair.box.write('/etc/nix/secret', pair.client.read('/etc/nix/secret'), { mode: 0o600 })
  await pair.box.must('root', 'nix', ['store', 'sign', '--key-file', '/etc/nix/secret', path], local)
  const fetch = (comm: string, program: string) => async (): Promise<number> => {
    const url = `ssh-ng://localhost?remote-program=${program}%20${SOCKET}`
    const options = ['--option', 'substituters', url, '--option', 'extra-substituters', '', '--realise', path]
    const most = watch(pair, comm)
    const done = await pair.client.run('root', 'nix-store', options, { env: { NIX_REMOTE: 'daemon' } })
    ensure(done.code === 0 && (await pair.clientHas(path)), `fetching failed: ${done.stderr}`)
    await pair.client.collect(path)
    return await most()
  }
  const ways = {
    [NODE]: () => emptyNode(pair),
    [OURS]: fetch('node', `${DIST}/nix-lan-connect`),
    [SOCAT]: fetch('socat', `${RIVALS}/socat-store`),
  }
  return {
    id: 'memory-connect',
    what: `the most memory of the program while it fetches ${mib} MiB`,
    unit: 'MiB',
    samples: await rounds(setting, size(setting, 3, 1), ways),
    goals: [{ say: `${OURS} / ${NODE}`, formula: (of) => of(OURS) / of(NODE), most: 1.5, budget: 2.2 }],
    chart: { label: 'memory while fetching', ours: OURS, floor: NODE, rival: SOCAT },
  }
}

async function emptyNode(pair: Pair): Promise<number> {
  const node = pair.client.start('root', 'node', ['-e', 'console.log("up"); setTimeout(() => {}, 100000)'])
  await until('node', () => node.output() !== '')
  await pause(700)
  const [pid = 0] = descendants(node.child.pid ?? 0)
  const mib = resident(pid, 'VmHWM')
  await node.stop('SIGKILL')
  return mib
}

/**
 * Looks again and again at the client's processes of that name, until it is called: then it tells
 * the most that one of them had.
 */
function watch(pair: Pair, comm: string): () => Promise<number> {
  let most = 0
  const look = setInterval(() => {
    for (const pid of pair.client.processes(comm)) most = Math.max(most, resident(pid, 'VmHWM'))
  }, 20)
  return async () => {
    clearInterval(look)
    ensure(most > 0, `no ${comm} was seen`)
    return most
  }
}
