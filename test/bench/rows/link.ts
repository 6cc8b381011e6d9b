// What a link with latency costs: on three Nixes, over a relay that holds each direction back,
// between ssh and sshd. Fetching many small paths, that are asked for one by one or know of each
// other; asking for what the box lacks; building it.
import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync } from 'node:fs'
import { basename } from 'node:path'
import { type Relay, startRelay } from '../../lib/delay-relay.ts'
import type { Suite } from '../../lib/roots.ts'
import { BrokerUnit } from '../../nix/broker-unit.ts'
import { HttpCache } from '../../nix/http-cache.ts'
import { createPair, DIST, type Pair, SOCKET, T_FILE } from '../../nix/pair.ts'
import { freePort } from '../../nix/world.ts'
import { type Bench, ensure, type Goal, type Row, rounds, type Setting, size } from '../lib/bench.ts'
import type { Samples } from '../lib/stats.ts'

const OURS = 'nix-lan-connect'
const BROKER = 'nix-lan-connect and its broker'
const SSH = 'plain ssh-ng://'
const SOCAT = 'socat as the program'
const HTTP = 'a local HTTP cache'
const NONE = 'no such substituter'
type Way = typeof OURS | typeof BROKER | typeof SSH | typeof SOCAT | typeof HTTP | typeof NONE

/**
 * A way that takes the same time for each path does only a part of the work, lest it take minutes.
 * @param part one of so many
 */
const named = (way: Way, part: number): string => (part === 1 ? way : `${way} (1/${part} of it, × ${part})`)

/**
 * A Nix, and whether it starts the program of a store anew for each NAR (2.24 to 2.33;
 * NixOS/nix#6950), so that what has no broker takes minutes.
 */
interface Version {
  suite: Suite
  nix: string
  startsEach: boolean
}
const VERSIONS: readonly Version[] = [
  { suite: 'bookworm', nix: '2.8.0', startsEach: false },
  { suite: 'trixie', nix: '2.26.3', startsEach: true },
  { suite: 'forky', nix: '2.34.8', startsEach: false },
]

/** Milliseconds there and back, and Mbit/s; 0: no limit. */
interface Travel {
  roundTrip: number
  rate: number
}
/** Wi-Fi. */
const WIFI: Travel = { roundTrip: 10, rate: 100 }
const LINKS: readonly Travel[] = [{ roundTrip: 0, rate: 0 }, WIFI, { roundTrip: 40, rate: 0 }]
/** Wi-Fi, two walls away: two kinds of work, on the Nix that most people have. */
const WEAK: Travel = { roundTrip: 10, rate: 10 }

/**
 * Over the internet: what Mic92/nix-grpc-store, a store with a server of its own, was measured at.
 */
const FAR: Travel = { roundTrip: 47, rate: 0 }
/** 1,000 paths of 400 MB together, most of them small and some large, in KiB each. */
const CLOSURE = Array.from({ length: 1000 }, (_, n) => Math.round(3300 ** (n / 1000)))

const SHAPES = {
  flat: 'that know nothing of each other',
  layers: 'in eight layers that refer to each other',
  chain: 'in one chain',
} as const
type Shape = keyof typeof SHAPES

/** A benchmark for each Nix: all three take a quarter of an hour. */
export const links: readonly Bench[] = VERSIONS.map((version) => ({
  name: `link-${version.nix}`,
  title: `links with latency: 300 small paths, 200 misses, 40 builds, on Nix ${version.nix}`,
  needs: ['root', 'nix', 'ssh', 'sshd', 'roots', 'socat'],
  onlyByName: 'or quick',
  async *run(setting) {
    const stage = await Stage.make(version, setting)
    const shapes = Object.keys(SHAPES) as Shape[]
    try {
      for (const travel of size(setting, LINKS, [WIFI])) {
        await stage.travel(travel)
        // --quick: all shapes on one Nix, one on the others
        for (const shape of setting.quick && version.suite !== 'bookworm' ? shapes.slice(0, 1) : shapes) yield await stage.fetching(shape)
        yield await stage.missing()
        yield await stage.building()
      }
      if (setting.quick) return
      if (version.startsEach) {
        await stage.travel(WEAK)
        yield await stage.fetching('flat')
        yield await stage.missing()
      }
      if (version.nix === '2.34.8') {
        await stage.travel(FAR)
        yield await stage.closure()
      }
    } finally {
      await stage.close()
    }
  },
}))

/**
 * A pair whose ssh goes through the relay, a box that has the paths, and an HTTP cache that has
 * them behind the same relay.
 */
class Stage {
  private readonly version: Version
  private readonly setting: Setting
  private readonly pair: Pair
  private readonly relay: Relay
  private readonly cache: HttpCache
  private readonly urls: Record<Way, string>
  private readonly broker: BrokerUnit
  private readonly shapes = new Map<Shape, { asked: string[]; all: string[] }>()
  private now: Travel = { roundTrip: 0, rate: 0 }
  private names = 0

  private constructor(
    version: Version,
    setting: Setting,
    pair: Pair,
    relay: Relay,
    cache: HttpCache,
    ports: { ssh: number; http: number },
  ) {
    this.version = version
    this.setting = setting
    this.pair = pair
    this.relay = relay
    this.cache = cache
    this.broker = new BrokerUnit(pair)
    this.urls = {
      [OURS]: `ssh-ng://localhost?remote-program=${DIST}/nix-lan-connect%20${SOCKET}`,
      [BROKER]: this.broker.urlOf(`${DIST}/nix-lan-connect`),
      [SOCAT]: `ssh-ng://localhost?remote-program=${pair.client.dir}/socat-store%20${SOCKET}`,
      [SSH]: 'ssh-ng://alice@127.0.0.1?ssh-key=/home/alice/.ssh/id_ed25519',
      [HTTP]: `http://127.0.0.1:${ports.http}`,
      [NONE]: '',
    }
  }

  static async make(version: Version, setting: Setting): Promise<Stage> {
    const pair = await createPair({ client: version.suite, box: version.suite })
    const cache = new HttpCache(`${pair.box.dir}/http`)
    try {
      await cache.open()
      const ports = { ssh: await freePort(), http: await freePort() }
      const relay = await startRelay([ports.ssh, pair.box.port], [ports.http, Number(new URL(cache.url).port)])
      const stage = new Stage(version, setting, pair, relay, cache, ports)
      await pair.openPlainTunnel(ports.ssh)
      // for the plain ssh-ng, which the daemon starts as root
      const options = ['-p', String(ports.ssh), '-o', 'UserKnownHostsFile=/home/alice/.ssh/known_hosts', '-o', 'HostKeyAlias=127.0.0.1']
      await pair.client.stopDaemon()
      await pair.client.startDaemon({ NIX_SSHOPTS: options.join(' ') })
      placeSocat(pair)
      await stage.broker.start()
      await stage.broker.up()
      await stage.fill()
      return stage
    } catch (error) {
      cache.close()
      await pair.close()
      throw error
    }
  }

  /**
   * Gives the box all paths, signed as if the client had built them; the HTTP cache has them too.
   */
  private async fill(): Promise<void> {
    const { pair } = this
    const local = { env: { NIX_REMOTE: 'local' } }
    const count = size(this.setting, 300, this.version.startsEach ? 16 : 40)
    for (const shape of Object.keys(SHAPES) as Shape[]) {
      const args = ['--eval', '--read-write-mode', '--strict', '--json', '-E', expression(shape, count)]
      const all = JSON.parse(await pair.box.must('root', 'nix-instantiate', args, local)) as string[]
      const asked = shape === 'flat' ? all : shape === 'chain' ? all.slice(-1) : all.slice(-Math.floor(count / 8))
      this.shapes.set(shape, { asked, all })
    }
    // a box that has more than what is wanted, as boxes do
    const more = ['--eval', '--read-write-mode', '--strict', '--json', '-E', expression('flat', size(this.setting, 3000, 50), 'other')]
    await pair.box.must('root', 'nix-instantiate', more, local)
    await this.publish([...this.shapes.values()].flatMap(({ all }) => all))
  }

  private async publish(paths: string[]): Promise<void> {
    const { pair } = this
    const local = { env: { NIX_REMOTE: 'local' } }
    const input = paths.join('\n')
    const nix = (args: string[]) => pair.box.must('root', 'xargs', ['nix', ...args], { ...local, input, timeout: 300_000 })
    pair.box.write('/etc/nix/secret', pair.client.read('/etc/nix/secret'), { mode: 0o600 })
    await nix(['store', 'sign', '--key-file', '/etc/nix/secret'])
    await nix(['copy', '--to', `file:///tmp/http?compression=none`])
    // the box's world is not ours, where the cache is served from
    await pair.box.must('root', 'sh', ['-c', 'rm -rf "$0"; mv /tmp/http "$0"', `${pair.box.dir}/http`])
  }

  async travel(now: Travel): Promise<void> {
    this.now = now
    await this.relay.set({ delay: now.roundTrip / 2, rate: (now.rate * 1e6) / 8 })
  }

  async close(): Promise<void> {
    await this.broker.stop()
    this.relay.close()
    this.cache.close()
    await this.pair.close()
  }

  /**
   * Runs a command of Nix as root through the daemon, which lets root choose substituters. What Nix
   * remembers of an HTTP cache is forgotten before; not by a TTL of 0, with which it would ask a
   * store three times for the same path.
   */
  private async nix(way: Way, command: string, args: string[], input?: string) {
    const options = ['--option', 'substituters', this.urls[way], '--option', 'extra-substituters', '']
    const words = [...(input === undefined ? [] : ['xargs', '-n', '100000']), command, ...options, ...args]
    const [program = '', ...rest] = words
    await this.pair.client.must('root', 'rm', ['-rf', '/root/.cache/nix'])
    return await this.pair.client.run('root', program, rest, {
      env: { NIX_REMOTE: 'daemon' },
      timeout: 590_000,
      ...(input === undefined ? {} : { input }),
    })
  }

  private row(id: string, what: string, samples: Samples, goals: Goal[]): Row {
    const { roundTrip, rate } = this.now
    const { suite, nix } = this.version
    const travel = `${roundTrip} ms${rate > 0 ? `, ${rate} Mbit/s` : ''}`
    return {
      id: `link-${id}-${suite}-${roundTrip}`,
      what: `${what}, Nix ${nix}, ${travel}`,
      unit: 'ms',
      samples,
      goals,
      link: { nix, travel, work: what },
    }
  }

  /** A closure like a system's. */
  async closure(): Promise<Row> {
    const { box } = this.pair
    const files =
      'mkdir /tmp/closure; cd /tmp/closure; n=0; while read -r kib; do n=$((n+1)); head -c "${kib}k" /dev/urandom >$n; done; ls -d "$PWD"/*'
    const input = await box.must('root', 'sh', ['-c', files], { input: `${CLOSURE.join('\n')}\n` })
    const paths = (
      await box.must('root', 'xargs', ['nix-store', '--add'], { env: { NIX_REMOTE: 'local' }, input, timeout: 300_000 })
    ).split('\n')
    ensure(paths.length === CLOSURE.length, `${paths.length} paths`)
    await this.publish(paths)
    const fifth = paths.filter((_, n) => n % 5 === 0)
    const ways = {
      ...Object.fromEntries([OURS, BROKER, HTTP].map((way) => [way, this.fetch(paths, paths)(way as Way)])),
      [named(SSH, 5)]: times(5, this.fetch(fifth, fifth)(SSH)),
    }
    const samples = await rounds(this.setting, 3, ways, { [named(SSH, 5)]: 1, [HTTP]: 1 })
    const least = { say: `seconds of ${BROKER}`, formula: (of: (way: string) => number) => of(BROKER) / 1000, most: 6 }
    return this.row('closure', '1,000 paths, 400 MB, most of them small', samples, [least])
  }

  private fetch(asked: readonly string[], all: readonly string[]) {
    const { pair } = this
    return (way: Way) => async (): Promise<number> => {
      // what a broker knows from the last round, it would not know of something new
      if (way === BROKER) await pair.client.must('alice', 'touch', ['-h', SOCKET])
      const { code, stderr, ms } = await this.nix(way, 'nix-store', ['--realise'], asked.join('\n'))
      ensure(code === 0, `fetching with ${way} failed: ${stderr.slice(-1000)}`)
      ensure(await pair.clientHas(...all), `${way} did not give the paths`)
      await pair.client.collect(...all)
      return ms
    }
  }

  async fetching(shape: Shape): Promise<Row> {
    const { setting } = this
    const { roundTrip } = this.now
    const { startsEach } = this.version
    const { asked, all } = this.shapes.get(shape) ?? { asked: [], all: [] }
    const part = size(setting, startsEach ? 10 : 5, 1)
    const whole = this.fetch(asked, all)
    const some = all.slice(0, Math.ceil(all.length / part))
    const partly = this.fetch(shape === 'chain' ? some.slice(-1) : some, some)
    const ways: Record<string, () => Promise<number>> = {}
    const add = (way: Way, slow: boolean): string => {
      const name = slow ? named(way, part) : way
      ways[name] = slow ? times(part, partly(way)) : whole(way)
      return name
    }
    // of layers there is no first part that is as deep as the whole
    const parts = shape !== 'layers'
    const ours = parts || !startsEach ? add(OURS, startsEach) : undefined
    add(BROKER, false)
    const http = add(HTTP, shape === 'chain' && roundTrip === 40)
    const ssh = parts || !startsEach ? add(SSH, parts) : undefined
    if (shape === 'flat') add(SOCAT, true)
    if (this.names++ === 0) await whole(OURS)() // the first fetch starts cold
    const few = Object.fromEntries(Object.keys(ways).map((way) => [way, way === BROKER || way === OURS ? 2 : 1]))
    const samples = await rounds(setting, size(setting, 2, 1), ways, few)
    const goals: Goal[] = []
    const goal = (way: string | undefined, rival: string | undefined, most: number, budget?: number): void => {
      if (way && rival) goals.push({ say: `${way} / ${rival}`, formula: (of) => of(way) / of(rival), most, ...(budget && { budget }) })
    }
    const most = roundTrip === 40 ? 1 / 12 : roundTrip === 0 ? 1.1 : 1
    // The budget's room is for a machine that does other things. That something is read ahead at
    // all, test/unit/read-ahead.test.ts sees.
    if (!startsEach) goal(ours, ssh, most, 3)
    else goal(BROKER, ours, roundTrip === 40 ? 1 / 25 : 1 / 10, 0.9)
    goal(BROKER, ssh, most)
    if (roundTrip === 40) for (const way of [startsEach ? undefined : ours, BROKER]) goal(way, http, 1)
    const row = this.row(shape, `${all.length} small paths ${SHAPES[shape]}`, samples, goals)
    if (shape === 'flat' && this.charted && ssh)
      row.chart = { label: `fetch ${all.length} small paths, Wi-Fi`, ours: BROKER, rival: ssh, readme: true }
    return row
  }

  /** Whether the README's chart shows it. */
  private get charted(): boolean {
    return this.version.startsEach && this.now === WIFI
  }

  async missing(): Promise<Row> {
    const count = size(this.setting, 200, 20)
    const ask = (way: Way, count: number) => async (): Promise<number> => {
      const { code, stderr, ms } = await this.nix(way, 'nix-build', ['--dry-run', ...this.fresh('missing', count)])
      ensure(code === 0, `a dry run with ${way} failed: ${stderr.slice(-1000)}`)
      ensure(stderr.includes(`these ${count} derivations will be built`), `${way} found what isn't there: ${stderr.slice(-1000)}`)
      return ms
    }
    const part = size(this.setting, 10, 1)
    const ssh = named(SSH, part)
    const more = this.charted ? { [ssh]: times(part, ask(SSH, count / part)) } : {}
    const row = await this.against('misses', `asking for ${count} outputs that the box lacks (--dry-run)`, (way) => ask(way, count), more)
    if (this.charted) row.chart = { label: `ask for ${count} missing paths, Wi-Fi`, ours: BROKER, floor: NONE, rival: ssh, readme: true }
    return row
  }

  async building(): Promise<Row> {
    const count = size(this.setting, 40, 4)
    const build = (way: Way) => async (): Promise<number> => {
      const { code, stderr, ms } = await this.nix(way, 'nix-build', ['--no-out-link', ...this.fresh('built', count)])
      ensure(code === 0, `a build with ${way} failed: ${stderr.slice(-1000)}`)
      return ms
    }
    return await this.against('builds', `evaluating and building ${count} derivations that the box lacks`, build)
  }

  /** Derivations that nobody has seen before. */
  private fresh(name: string, count: number): string[] {
    return [T_FILE, '--arg', 'count', String(count), '--argstr', 'name', `${name}-${this.names++}`]
  }

  private async against(id: string, what: string, work: (way: Way) => () => Promise<number>, more = {}): Promise<Row> {
    const ways = { ...Object.fromEntries(([NONE, OURS, BROKER, HTTP] as const).map((way) => [way, work(way)])), ...more }
    const once = Object.fromEntries(Object.keys(more).map((way) => [way, 1]))
    const samples = await rounds(this.setting, size(this.setting, 3, 1), ways, once)
    const goal = (way: Way): Goal => ({ say: `${way} / ${NONE}`, formula: (of) => of(way) / of(NONE), most: 1.3 })
    return this.row(id, what, samples, [goal(OURS), goal(BROKER)])
  }
}

/** A way that did one of so many parts: what all of them take. */
const times = (part: number, act: () => Promise<number>) => async (): Promise<number> => part * (await act())

/**
 * socat as a program for Nix, with its libraries: the client's release may have none, or other ones.
 */
function placeSocat({ client }: Pair): void {
  const folder = `${client.dir}/socat`
  mkdirSync(folder)
  const program = execFileSync('sh', ['-c', 'command -v socat'], { encoding: 'utf8' }).trim()
  const libraries = [...execFileSync('ldd', [program], { encoding: 'utf8' }).matchAll(/(\/\S+) \(/g)].map(([, file = '']) => file)
  for (const file of [program, ...libraries]) copyFileSync(file, `${folder}/${basename(file)}`)
  const loader = libraries.map((file) => basename(file)).find((name) => name.startsWith('ld-')) ?? ''
  const run = `exec ${folder}/${loader} --library-path ${folder} ${folder}/socat -b65536 - "UNIX-CONNECT:$1"`
  client.write(`${client.dir}/socat-store`, `#!/bin/sh\n${run}\n`, { mode: 0o755 })
}

/** A list of so many files, of some hundred bytes each, the referring after what they refer to. */
function expression(shape: Shape, count: number, name: string = shape): string {
  const file = (number: string, references: string): string =>
    `builtins.toFile "${name}-\${toString (${number})}" "this is the small file number \${toString (${number})} of a benchmark ${references}"`
  if (shape === 'flat') return `builtins.genList (n: ${file('n', '')}) ${count}`
  if (shape === 'chain') {
    const more = `builtins.concatLists [ all [ (${file('n', '${builtins.concatStringsSep " " (if n == 0 then [ ] else [ (builtins.elemAt all (n - 1)) ])}')}) ] ]`
    return `builtins.foldl' (all: n: ${more}) [ ] (builtins.genList (n: n) ${count})`
  }
  const wide = Math.floor(count / 8)
  const below = `if layer == 0 then [ ] else map (k: builtins.elemAt (builtins.elemAt layers (layer - 1)) (k - k / ${wide} * ${wide})) [ n (n + 1) (n + 7) ]`
  const one = file(`layer * ${wide} + n`, `\${builtins.concatStringsSep " " (${below})}`)
  const more = `builtins.concatLists [ layers [ (builtins.genList (n: ${one}) ${wide}) ] ]`
  return `builtins.concatLists (builtins.foldl' (layers: layer: ${more}) [ ] (builtins.genList (n: n) 8))`
}
