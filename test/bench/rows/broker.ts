// What a broker saves and costs besides what link.ts measures: a build with the box away, one large
// path, its memory. On Nix 2.26.3, which starts the program of a store anew for each NAR.
import { readFileSync } from 'node:fs'
import { BrokerUnit } from '../../nix/broker-unit.ts'
import { createPair, DIST, type Pair, SOCKET, T_FILE } from '../../nix/pair.ts'
import { type Bench, ensure, type Goal, type Row, rounds, type Setting, size } from '../lib/bench.ts'
import type { Samples } from '../lib/stats.ts'

const ALONE = 'nix-lan-connect'
const BROKER = 'nix-lan-connect and its broker'
const NONE = 'no such substituter'
const SH = 'sh -c :'
const NOTHING = 'true'
const NODE = 'empty node'

export const broker: Bench = {
  name: 'broker',
  title: 'a broker: 1 GiB in one path, memory, a build with the box away',
  needs: ['root', 'nix', 'ssh', 'sshd', 'roots'],
  async *run(setting) {
    const stage = await Stage.make(setting)
    try {
      yield await stage.large()
      yield stage.memory()
      yield await stage.away()
    } finally {
      await stage.close()
    }
  },
}

class Stage {
  private readonly setting: Setting
  private readonly pair: Pair
  private readonly unit: BrokerUnit
  private names = 0

  private constructor(setting: Setting, pair: Pair) {
    this.setting = setting
    this.pair = pair
    this.unit = new BrokerUnit(pair)
  }

  static async make(setting: Setting): Promise<Stage> {
    const pair = await createPair({ client: 'trixie', box: 'trixie' })
    const stage = new Stage(setting, pair)
    await pair.openPlainTunnel()
    await stage.unit.start()
    pair.box.write('/etc/nix/secret', pair.client.read('/etc/nix/secret'), { mode: 0o600 })
    return stage
  }

  async close(): Promise<void> {
    await this.unit.stop()
    await this.pair.close()
  }

  private url(way: string): string {
    if (way === BROKER) return this.unit.urlOf(`${DIST}/nix-lan-connect`)
    return way === NONE ? '' : `ssh-ng://localhost?remote-program=${DIST}/nix-lan-connect%20${SOCKET}`
  }

  private row(id: string, what: string, samples: Samples, goals: Goal[]): Row {
    return { id: `broker-${id}`, what: `${what}, Nix 2.26.3`, unit: 'ms', samples, goals }
  }

  /** Milliseconds that fetching takes; what was fetched is deleted afterwards. */
  private async fetch(way: string, asked: readonly string[]): Promise<number> {
    const { client } = this.pair
    const args = ['-n', '100000', 'nix-store', '--option', 'substituters', this.url(way), '--option', 'extra-substituters', '', '--realise']
    const { code, stderr, ms } = await client.run('root', 'xargs', [...args], {
      env: { NIX_REMOTE: 'daemon' },
      input: asked.join('\n'),
      timeout: 590_000,
    })
    ensure(code === 0, `fetching with ${way} failed: ${stderr.slice(-1000)}`)
    ensure(await this.pair.clientHas(...asked), `${way} did not give the paths`)
    await client.collect(...asked)
    return ms
  }

  private async publish(input: string): Promise<void> {
    await this.pair.box.must('root', 'xargs', ['nix', 'store', 'sign', '--key-file', '/etc/nix/secret'], {
      env: { NIX_REMOTE: 'local' },
      input,
    })
  }

  async large(): Promise<Row> {
    const mib = size(this.setting, 1024, 16)
    const args = [T_FILE, '--no-out-link', '--argstr', 'name', 'large', '--arg', 'kb', String(mib * 1024)]
    const path = await this.pair.box.must('root', 'nix-build', args, { env: { NIX_REMOTE: 'local' } })
    await this.publish(path)
    await this.unit.up()
    const ways = { [ALONE]: () => this.fetch(ALONE, [path]), [BROKER]: () => this.fetch(BROKER, [path]) }
    const samples = await rounds(this.setting, size(this.setting, 3, 1), ways)
    return this.row('large', `${mib} MiB in one path`, samples, [
      { say: `rate of ${BROKER} / ${ALONE}`, formula: (of) => of(ALONE) / of(BROKER), least: 0.9, budget: 0.3 },
    ])
  }

  /** The most that it has taken in all of this. */
  memory(): Row {
    const kib = Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${this.unit.pid()}/status`, 'utf8'))?.[1])
    const goal = { say: 'MiB', formula: (of: (way: string) => number) => of('the broker'), most: 128, budget: 160 }
    return { ...this.row('memory', "the broker's memory after all that", { 'the broker': [kib / 1024] }, [goal]), unit: 'MiB' }
  }

  /** A trivial build with the box away. */
  async away(): Promise<Row> {
    const { pair } = this
    await pair.closeTunnel()
    await this.unit.up()
    const build = (way: string) => async (): Promise<number> => {
      const args = [T_FILE, '--no-out-link', '--option', 'substituters', this.url(way), '--option', 'extra-substituters', '']
      const { code, stderr, ms } = await pair.client.run('root', 'nix-build', [...args, '--argstr', 'name', `away-${this.names++}`], {
        env: { NIX_REMOTE: 'daemon' },
      })
      ensure(code === 0, `a build with ${way} failed: ${stderr.slice(-1000)}`)
      return ms
    }
    const start =
      (...words: [string, ...string[]]) =>
      async () =>
        (await pair.client.run('root', words[0], words.slice(1))).ms
    const ways = {
      [NONE]: build(NONE),
      [BROKER]: build(BROKER),
      [ALONE]: build(ALONE),
      [SH]: start('sh', '-c', ':'),
      [NOTHING]: start('true'),
      [NODE]: start('node', '-e', '0'),
    }
    await build(BROKER)()
    const samples = await rounds(this.setting, size(this.setting, 25, 3), ways)
    const extra = (way: string) => (of: (way: string) => number) => of(way) - of(NONE)
    return this.row('away', 'one trivial build with the box away', samples, [
      { say: `(${BROKER} − ${NONE}) / ${SH}`, formula: (of) => extra(BROKER)(of) / of(SH), most: 8, budget: 100 },
      { say: `(${ALONE} − ${NONE}) / ${NODE}`, formula: (of) => extra(ALONE)(of) / (of(NODE) - of(NOTHING)), most: 1.6, budget: 10 },
    ])
  }
}
