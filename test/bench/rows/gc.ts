// What nix-lan gc costs: many dead paths, all of which the box has, on a link without latency and
// on one with it. Only small files, so it is questions, roots and Nix's own deleting that count.
import { startRelay } from '../../lib/delay-relay.ts'
import { createPair, DIST, type Pair, SOCKET } from '../../nix/pair.ts'
import { freePort } from '../../nix/world.ts'
import { type Bench, ensure, type Row, rounds, type Setting, size } from '../lib/bench.ts'

const LOCAL = { env: { NIX_REMOTE: 'local' }, timeout: 300_000 }
const NEAR = 'nix-lan gc'
const FAR = 'nix-lan gc, 40 ms'
const NIX = 'nix-collect-garbage, which asks nobody'

export const gc: Bench = {
  name: 'gc',
  title: 'nix-lan gc: 20,000 dead paths that the box has, at 0 and at 40 ms',
  needs: ['root', 'nix', 'ssh', 'sshd'],
  async *run(setting) {
    const url = `ssh-ng://localhost?remote-program=${DIST}/nix-lan-connect%20${SOCKET}`
    const pair = await createPair({ settings: { 'extra-substituters': url } })
    const port = await freePort()
    const relay = await startRelay([port, pair.box.port])
    try {
      const { client } = pair
      const config = client.read('/etc/nix-lan/config.toml')
      client.write('/etc/nix-lan/config.toml', config.replace(/^port = .*$/m, `port = ${port}`))
      const known = client.read('/home/alice/.ssh/known_hosts')
      client.write('/home/alice/.ssh/known_hosts', `${known}${known.replaceAll(`]:${pair.box.port} `, `]:${port} `)}`, { user: 'alice' })
      await pair.openPlainTunnel(port)
      yield await measure(pair, setting, (delay) => relay.set({ delay, rate: 0 }))
    } finally {
      relay.close()
      await pair.close()
    }
  },
}

/** The n-th of many paths; digits are base-32 digits too. */
const leaf = (n: number): string => `/nix/store/${String(n).padStart(32, '0')}-leaf`

async function measure(pair: Pair, setting: Setting, travel: (delay: number) => Promise<void>): Promise<Row> {
  const count = size(setting, 20_000, 300)
  const leaves = Array.from({ length: count }, (_, n) => leaf(n))
  const all = leaves.join('\n')
  const entries = leaves.map((path) => [path, `sha256:${'0'.repeat(64)}`, '120', '', 0, ''].join('\n')).join('')
  const fill = async (world: Pair['client']): Promise<void> => {
    await world.must('root', 'xargs', ['touch'], { ...LOCAL, input: all })
    await world.must('root', 'nix-store', ['--load-db'], { ...LOCAL, input: entries })
  }
  setting.progress('making the paths')
  await fill(pair.box)
  pair.box.write('/etc/nix/secret', pair.client.read('/etc/nix/secret'), { mode: 0o600 })
  await pair.box.must('root', 'xargs', ['-n', '1000', 'nix', 'store', 'sign', '--key-file', '/etc/nix/secret'], { ...LOCAL, input: all })
  const collected = (delay: number) => async (): Promise<number> => {
    await fill(pair.client)
    await travel(delay)
    const { code, stdout, stderr, ms } = await pair.client.run('alice', `${DIST}/nix-lan`, ['gc', '--yes', '--json'], { timeout: 300_000 })
    await travel(0)
    ensure(code === 0, `gc failed: ${stderr.slice(-1000)}`)
    const { deleted } = JSON.parse(stdout) as { deleted: string[] }
    ensure(deleted.length === count, `${deleted.length} paths were deleted`)
    return ms
  }
  const byNix = async (): Promise<number> => {
    await fill(pair.client)
    const { code, stderr, ms } = await pair.client.run('root', 'nix-collect-garbage', [], { ...LOCAL })
    ensure(code === 0, `nix-collect-garbage failed: ${stderr.slice(-1000)}`)
    return ms
  }
  const samples = await rounds(setting, size(setting, 2, 1), { [NEAR]: collected(0), [FAR]: collected(20), [NIX]: byNix })
  return {
    id: 'gc',
    what: `freeing ${count.toLocaleString('en')} dead paths that the box has`,
    unit: 'ms',
    samples,
    goals: [
      { say: `seconds of ${NEAR}`, formula: (of) => of(NEAR) / 1000, most: 15, budget: 60 },
      // With few paths it is the logins that count: a second or two of round trips, which no machine
      // makes shorter, however short the rest is there.
      setting.quick
        ? { say: `${FAR} / (${NEAR} + 200 ms)`, formula: (of) => of(FAR) / (of(NEAR) + 200), budget: 10 }
        : { say: `${FAR} / ${NEAR}`, formula: (of) => of(FAR) / of(NEAR), most: 1.2 },
    ],
  }
}
