// What nix-lan-run costs a command, and whether anything of it stays in memory.

import { pause } from '../../lib/processes.ts'
import { until } from '../../lib/until.ts'
import { createPair, DIST, type Pair } from '../../nix/pair.ts'
import { type Bench, ensure, type Row, type Setting } from '../lib/bench.ts'
import { hyperfine } from '../lib/hyperfine.ts'
import { descendants, resident } from '../lib/memory.ts'
import { addRivals, RIVALS } from '../lib/rivals.ts'

const OURS = 'nix-lan-run nix --version'
const NIX = 'nix --version'
const NODE = 'empty node'
const BASH = 'a bash wrapper'

export const wrapper: Bench = {
  name: 'wrapper',
  title: 'nix-lan-run nix --version, and what stays of it in memory',
  needs: ['root', 'nix', 'ssh', 'sshd', 'hyperfine'],
  async *run(setting) {
    const pair = await createPair()
    try {
      addRivals(pair.client)
      await pair.openTunnel()
      const story = await pair.client.must('alice', `${DIST}/nix-lan-run`, ['--explain', 'nix'])
      ensure(/box/.test(story), `nix-lan-run does not know the box: ${story}`)
      yield await run(pair, setting, 'there')
      await pair.closeTunnel()
      yield await run(pair, setting, 'away')
      yield await stays(pair)
    } finally {
      await pair.close()
    }
  },
}

async function run(pair: Pair, setting: Setting, kind: 'there' | 'away'): Promise<Row> {
  const commands = [
    { name: NIX, line: 'nix --version' },
    { name: NODE, line: 'node -e 0' },
    { name: OURS, line: `${DIST}/nix-lan-run nix --version` },
    { name: BASH, line: `${RIVALS}/bash-wrapper nix --version` },
  ]
  return {
    id: `wrapper-${kind}`,
    what: `nix-lan-run nix --version, the box ${kind}`,
    unit: 'ms',
    samples: await hyperfine(pair.client, setting, commands, { user: 'alice', env: pair.client.env('alice') }),
    goals: [{ say: `${OURS} / (${NODE} + ${NIX})`, formula: (of) => of(OURS) / (of(NODE) + of(NIX)), most: 1.3, budget: 3 }],
    ...(kind === 'there' ? { chart: { label: 'nix-lan-run nix --version', ours: OURS, floor: NIX, rival: BASH } } : {}),
  }
}

/** How much more memory `nix-lan-run sleep` holds than `sleep`. */
async function stays(pair: Pair): Promise<Row> {
  const held = async (command: string, ...args: string[]): Promise<number> => {
    const running = pair.client.start('alice', command, args)
    await until('sleep', () => pair.client.processes('sleep').length > 0)
    await pause(1500)
    const mib = descendants(running.child.pid ?? 0).reduce((sum, pid) => sum + resident(pid), 0)
    await running.stop('SIGKILL')
    return mib
  }
  const alone = await held('sleep', '100')
  const wrapped = await held(`${DIST}/nix-lan-run`, 'sleep', '100')
  return {
    id: 'wrapper-memory',
    what: 'memory while a command runs that nix-lan-run has started',
    unit: 'MiB',
    samples: { 'sleep 100': [alone], 'nix-lan-run sleep 100': [wrapped] },
    goals: [{ say: 'the difference, in MiB', formula: () => Math.max(0, Math.round(10 * (wrapped - alone)) / 10), most: 0.2, budget: 1 }],
  }
}
