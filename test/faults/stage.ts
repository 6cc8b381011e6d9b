// The stage of the fault tests: a client and a box (test/nix/pair.ts) with a link between them that
// can be cut, a tunnel that is started again whenever it ends while the link is up, as systemd does
// it, and what must hold after whatever happened.
import { readFileSync } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { type Relay, startRelay } from '../lib/delay-relay.ts'
import { needs } from '../lib/needs.ts'
import { pause, type Result } from '../lib/processes.ts'
import { Random } from '../lib/random.ts'
import type { Suite } from '../lib/roots.ts'
import { until } from '../lib/until.ts'
import { HttpCache } from '../nix/http-cache.ts'
import { createPair, DIST, type Pair, type PairOptions, T_FILE } from '../nix/pair.ts'
import { freePort, type Running, type World } from '../nix/world.ts'

export const NIXES = ['bookworm', 'trixie', 'forky'] as const satisfies Suite[]
export const NIX = (process.env.NIX_LAN_FAULTS_NIX ?? 'bookworm') as (typeof NIXES)[number]
export const LONG = process.env.NIX_LAN_FAULTS_LONG !== undefined
const ONLY = process.env.NIX_LAN_FAULTS_ONLY ?? ''
const TIMES = Number(process.env.NIX_LAN_FAULTS_TIMES ?? 1)
const SEED = process.env.NIX_LAN_FAULTS_SEED ?? '0'
const LOCAL = { env: { NIX_REMOTE: 'local' } }

/**
 * Whoever waits so many milliseconds hangs: twice as long as connect waits for a box that says
 * nothing, and a build of a hundred derivations on a slow machine.
 */
const HANGS = 300_000
/** Bytes a second of the link: so that a fetch takes long enough to be hit in the middle. */
export const RATE = 40e6

/** A suite for this Nix, whose cases know their seed. */
export function faults(name: string) {
  const test = needs(suite(`${name}, ${NIX}`), 'root', 'nix', 'ssh', 'sshd', 'roots')
  return {
    case(named: string, act: (random: Random) => Promise<void>): void {
      if (!named.includes(ONLY)) return
      const titles = Array.from({ length: TIMES }, (_, time) => (time === 0 ? named : `${named}, again ${time}`))
      for (const title of titles)
        test(title, async () => {
          const started = Date.now()
          try {
            await act(new Random(SEED, NIX, title))
            console.log(`figure: ${((Date.now() - started) / 1000).toFixed(1)} s  ${title}`)
          } catch (error) {
            const again = `npm run test:faults --${LONG ? ' --long' : ''} --seed ${SEED} ${NIX} ${name}`
            throw new Error(`${(error as Error).message}\n\n    again: ${again}`)
          }
        })
    },
    after: test.after,
    run: test.run,
  }
}

/** How many of something in the short form and in the long one. */
export const many = (short: number, long: number): number => (LONG ? long : short)

/** See the head of this file. */
export class Stage {
  readonly pair: Pair
  readonly relay: Relay
  private keeping = false
  private keeper: Promise<void> = Promise.resolve()
  private tunnel: Running | undefined
  private names = 0

  private constructor(pair: Pair, relay: Relay) {
    this.pair = pair
    this.relay = relay
  }

  static async make(options: PairOptions = {}): Promise<Stage> {
    const pair = await createPair({ client: NIX, box: NIX, ...options })
    const port = await freePort()
    const relay = await startRelay([port, pair.box.port])
    const stage = new Stage(pair, relay)
    pair.box.write('/etc/nix/secret', pair.client.read('/etc/nix/secret'), { mode: 0o600 })
    const file = '/etc/nix-lan/config.toml'
    pair.client.write(file, pair.client.read(file).replace(/^port = .*$/m, `port = ${port}`))
    const known = pair.client.read('/home/alice/.ssh/known_hosts')
    pair.client.write('/home/alice/.ssh/known_hosts', known + known.replaceAll(`:${pair.box.port} `, `:${port} `), { user: 'alice' })
    await relay.set({ rate: RATE })
    stage.keepTunnel()
    await stage.answers()
    return stage
  }

  /** What the client's nix.conf has from now on, besides what a pair has. */
  async configure(settings: Record<string, string>): Promise<void> {
    this.pair.configure(settings)
    await this.pair.client.stopDaemon()
    await this.pair.client.startDaemon()
  }

  /** Starts the tunnel whenever it isn't there, as systemd does. */
  keepTunnel(): void {
    this.keeping = true
    this.keeper = (async () => {
      while (this.keeping) {
        this.tunnel = this.pair.client.start('alice', `${DIST}/nix-lan-tunnel`, ['box'])
        await this.tunnel.ended
        await pause(300)
      }
    })()
  }

  async dropTunnel(): Promise<void> {
    this.keeping = false
    await this.tunnel?.stop('SIGKILL')
    await this.keeper
  }

  /**
   * Waits until a nix-daemon answers through the tunnel. @throws Error with what the last tunnel
   * has said
   */
  async answers(): Promise<void> {
    const usable = async (): Promise<boolean> => (await this.pair.client.run('alice', `${DIST}/nix-lan-available`, ['--usable'])).code === 0
    await until('the tunnel', usable).catch((error) => {
      throw new Error(`${error.message}: ${this.tunnel?.output()}\n${[...commandLines(this.pair.client).values()].join('\n')}`)
    })
  }

  /**
   * Gives the box the outputs of so many new derivations, signed. Returns the arguments of
   * nix-build that want them.
   */
  async published(count: number, kib: number): Promise<string[]> {
    const args = [
      T_FILE,
      '--no-out-link',
      '--argstr',
      'name',
      `p${this.names++}`,
      '--arg',
      'count',
      String(count),
      '--arg',
      'kb',
      String(kib),
    ]
    const input = await this.pair.box.must('root', 'nix-build', args, LOCAL)
    await this.pair.box.must('root', 'xargs', ['nix', 'store', 'sign', '--key-file', '/etc/nix/secret'], { ...LOCAL, input })
    return args
  }

  /** An HTTP cache that has, signed, what these arguments want. The caller closes it. */
  async httpCache(args: string[]): Promise<HttpCache> {
    const { box } = this.pair
    const paths = await box.must('root', 'nix-build', args, LOCAL)
    const to = 'file:///tmp/http?compression=none'
    await box.must('root', 'xargs', ['nix', 'copy', '--to', to], { ...LOCAL, input: paths, timeout: 300_000 })
    await box.must('root', 'sh', ['-c', `rm -rf ${box.dir}/http; mv /tmp/http ${box.dir}/http`])
    const cache = new HttpCache(`${box.dir}/http`)
    await cache.open()
    return cache
  }

  /** Arguments of nix-build for so many derivations that nobody has. */
  fresh(count: number, more: string[] = []): string[] {
    return [T_FILE, '--no-out-link', '--argstr', 'name', `f${this.names++}`, '--arg', 'count', String(count), ...more]
  }

  /** Builds as alice, in the background. */
  build(args: string[], fallback: boolean, more: string[] = []): Building {
    const { client } = this.pair
    const options = [...args, '--option', 'fallback', String(fallback), ...more]
    return new Building(client.start('alice', 'nix-build', options), client)
  }

  /** Builds as alice to the end. It must be good. */
  async must(args: string[], more: string[] = []): Promise<void> {
    const building = this.build(args, true, more)
    const code = await building.ends()
    assert.is(code, 0, `a build after it: ${building.output()}`)
  }

  /**
   * What must hold after each fault. @param again what was built: nobody may still hold its locks
   */
  async wellAfter(again: readonly string[] = []): Promise<void> {
    const { client, box } = this.pair
    await this.relay.cut('none')
    box.thawSshd()
    if (again.length > 0) await this.must([...again])
    await until('no nix-lan-connect to be left', () => this.strays().length === 0)
    for (const world of [client, box]) await verified(world)
    await client.must('root', 'nix-store', ['--gc'], LOCAL)
  }

  /** The command lines of what Nix or an upload has left behind on the client. */
  strays(): string[] {
    return [...commandLines(this.pair.client).values()].filter((line) => / --stdio$|nix.* copy |^nix-build /.test(line))
  }

  /** The client's processes with such a command line, by our pids. */
  pids(line: RegExp): number[] {
    return [...commandLines(this.pair.client)].filter(([, words]) => line.test(words)).map(([pid]) => pid)
  }

  async close(): Promise<void> {
    await this.dropTunnel()
    this.relay.close()
    await this.pair.close()
  }
}

/** A build that goes on. */
export class Building {
  private readonly running: Running
  private readonly client: World
  private readonly started = Date.now()
  /** Milliseconds from its start to its end. */
  ms = 0

  constructor(running: Running, client: World) {
    this.running = running
    this.client = client
  }

  output(): string {
    return `${this.running.output()}\nthe daemon: ${this.client.daemonLog().slice(-3000)}`
  }

  /** Waits until Nix says so. It may be over before. */
  async says(text: string): Promise<void> {
    let over = false
    this.running.ended.then(() => {
      over = true
    })
    await until(`Nix to say "${text}"`, () => over || this.running.output().includes(text))
  }

  /** Its exit code. @throws Error when it hangs; then it is ended */
  async ends(limit = HANGS): Promise<number | null> {
    const late = await Promise.race([this.running.ended.then(() => false), pause(limit).then(() => true)])
    this.ms = Date.now() - this.started
    if (late) {
      await this.running.stop('SIGKILL')
      throw new Error(`it hung: no end in ${limit / 1000} s\n${this.output()}`)
    }
    return await this.running.ended
  }
}

/** `nix-store --verify --check-contents` finds nothing. */
async function verified(world: World): Promise<void> {
  const found: Result = await world.run('root', 'nix-store', ['--verify', '--check-contents'], LOCAL)
  assert.is(found.code, 0, `${world.name}'s store: ${found.stderr}`)
  assert.not.match(found.stderr, /was modified|disappeared|error/, world.name)
}

/** The command lines of a world's processes, words joined by spaces, by pid. */
function commandLines(world: World): Map<number, string> {
  const lines = new Map<number, string>()
  for (const pid of world.processes('')) {
    try {
      lines.set(pid, readFileSync(`/proc/${pid}/cmdline`, 'latin1').replace(/\0$/, '').replaceAll('\0', ' '))
    } catch {
      // gone meanwhile
    }
  }
  return lines
}
