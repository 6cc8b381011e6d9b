// nix-lan queue with real Nix on both sides, a daemon that doesn't trust alice, signatures
// required.
import { createReadStream, createWriteStream, type WriteStream } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { ByteReader, EndOfStream } from '../../scripts/protocol/byte-reader.ts'
import { OPERATIONS, readShape } from '../../scripts/protocol/operations.ts'
import { QUERY_PATH_INFO, Recorder, readMessages, string, u64 } from '../../scripts/protocol/wire.ts'
import { startRelay } from '../lib/delay-relay.ts'
import { needs } from '../lib/needs.ts'
import type { Result } from '../lib/processes.ts'
import { until } from '../lib/until.ts'
import { hello } from '../lib/wire.ts'
import { createPair, DIST, FAILED, type Pair, QUEUE, SOCKET, T_FILE } from './pair.ts'
import { freePort, type Running, type User, type World } from './world.ts'

const test = needs(suite('nix-lan queue'), 'root', 'nix', 'ssh', 'sshd', 'roots')

/** A derivation that needs a path of the store. */
const NEEDS = `{ path, name, text ? "$needed" }: derivation {
  inherit name;
  needed = builtins.storePath path;
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "echo \${text} > $out" ];
}`

/** A pair with a tunnel, and a client on which each run of \`nix copy\` is counted. */
class Stage {
  readonly pair: Pair
  constructor(pair: Pair) {
    this.pair = pair
  }

  queue(...args: string[]): Promise<Result> {
    return this.queueAs('alice', ...args)
  }

  queueAs(user: User, ...args: string[]): Promise<Result> {
    return this.pair.client.run(user, `${DIST}/nix-lan`, ['queue', ...args])
  }

  /** Builds, without queueing. */
  async build(name: string): Promise<string> {
    return (await this.pair.build(['--argstr', 'name', name])).paths[0] ?? ''
  }

  /** Builds what needs `path`, and unless `text` is something else, refers to it. */
  buildOn(path: string, name: string, text = '$needed'): Promise<string> {
    const args = ['/opt/needs.nix', '--no-out-link', '--argstr', 'path', path, '--argstr', 'name', name, '--argstr', 'text', text]
    return this.pair.client.must('alice', 'nix-build', args)
  }

  /** What the client's nix.conf has from now on. The daemon of 2.8 reads it only once. */
  async configure(settings: Record<string, string>): Promise<void> {
    this.pair.configure(settings)
    await this.pair.client.stopDaemon()
    await this.pair.client.startDaemon()
  }

  async deriver(path: string): Promise<string> {
    return await this.pair.client.must('alice', 'nix-store', ['--query', '--deriver', path])
  }

  copies(): number {
    return this.pair.client.read('/tmp/copies').split('\n').length - 1
  }

  async onBox(...paths: string[]): Promise<boolean> {
    return (await this.pair.box.run('root', 'nix-store', ['--check-validity', ...paths])).code === 0
  }

  async failed(): Promise<string[]> {
    return (await this.pair.client.must('root', 'ls', [FAILED])).split('\n').map((name) => name.slice(33))
  }
}

/** Of each direction of a link, in milliseconds. */
const DELAY = 30

let count = 0
/** A path that nobody has. */
const missing = (): string => `/nix/store/${String(count++).padStart(32, '0')}-missing`

/** A session of nix-lan-connect with a Nix that keeps its store open, as nix-daemon may for hours. */
class Session {
  private readonly nix: WriteStream
  private readonly answers = new ByteReader({ resume: () => {} })
  private readonly program: Running

  private constructor(pair: Pair) {
    const { dir } = pair.client
    this.program = pair.client.start('root', 'sh', [
      '-c',
      'exec "$0" "$1" --stdio <"$2" >"$3"',
      ...[`${DIST}/nix-lan-connect`, SOCKET, `${dir}/questions`, `${dir}/answers`],
    ])
    this.nix = createWriteStream(`${dir}/questions`)
    createReadStream(`${dir}/answers`)
      .on('data', (bytes) => this.answers.push(bytes as Buffer))
      .on('close', () => this.answers.finish(new EndOfStream('the end')))
  }

  static async open(pair: Pair): Promise<Session> {
    const { dir } = pair.client
    await pair.client.must('root', 'mkfifo', [`${dir}/questions`, `${dir}/answers`])
    const session = new Session(pair)
    session.nix.write(hello())
    const greeting = new Recorder(session.answers)
    for (let words = 0; words < 2; words++) await greeting.u64()
    await greeting.string() // its Nix
    await readMessages(greeting)
    return session
  }

  /** Whether the box has a path, says QueryPathInfo, and how long that took. */
  async info(path: string): Promise<{ found: boolean; ms: number }> {
    const asked = performance.now()
    this.nix.write(Buffer.concat([u64(QUERY_PATH_INFO), string(path)]))
    const answer = new Recorder(this.answers)
    const { error } = await readMessages(answer)
    const ms = performance.now() - asked
    if (!error) for (const shape of OPERATIONS.get(QUERY_PATH_INFO)?.answer ?? []) await readShape(answer, shape)
    return { found: !error, ms }
  }

  async close(): Promise<void> {
    this.nix.end()
    await this.program.ended
  }
}

/** While it is there, no `nix copy` goes on: so that one lasts as long as a test needs it. */
const HOLD = '/tmp/hold'

async function on(nix: 'host' | 'bookworm' | 'trixie' | 'forky', play: (stage: Stage) => Promise<void>): Promise<void> {
  const pair = await createPair({ client: nix, box: nix })
  try {
    const real = await pair.client.must('root', 'sh', ['-c', 'command -v nix'])
    pair.client.write('/opt/needs.nix', NEEDS)
    const count = `[ "$word" != copy ] || { echo "$$" >>/tmp/copies; while [ -e ${HOLD} ]; do sleep 0.1; done; }`
    pair.client.write('/usr/local/bin/nix', `#!/bin/sh\nfor word; do ${count}; done\nexec ${real} "$@"\n`, { mode: 0o755 })
    pair.client.write('/tmp/copies', '', { mode: 0o666 })
    await pair.openPlainTunnel()
    await play(new Stage(pair))
  } finally {
    await pair.close()
  }
}

for (const nix of ['bookworm', 'trixie', 'forky'] as const) {
  test(`${nix}: outputs and derivations arrive, signed, in one copy each; then nothing is left`, () =>
    on(nix, async (stage) => {
      const paths = [await stage.build('a'), await stage.build('b')]
      const derivations = await Promise.all(paths.map((path) => stage.deriver(path)))
      assert.match((await stage.queue('add', ...paths, ...derivations)).stdout, 'box: 4 queued')
      assert.match((await stage.queue('list')).stdout, /^queued +\d+s +120 B {2}\S+-a$/m)
      const done = await stage.queue('upload')
      assert.equal([done.code, done.stdout, done.stderr], [0, 'box: 4 paths uploaded\n', ''])
      assert.is(stage.copies(), 2)
      assert.ok(await stage.pair.boxHas(...paths))
      assert.ok(await stage.onBox(...derivations))
      assert.equal(await stage.pair.queued(), [])
    }))

  test(`${nix}: unsigned paths, and what needs them, wait for sign; the others go`, () =>
    on(nix, async (stage) => {
      await stage.configure({ 'secret-key-files': '' })
      const old = await stage.build('old')
      await stage.configure({})
      const needy = await stage.buildOn(old, 'needy')
      const fine = await stage.build('fine')
      const deriver = await stage.deriver(await stage.buildOn(old, 'free', 'x')) // needs it, while the output does not
      await stage.queue('add', needy, deriver, fine)
      const first = await stage.queue('upload')
      assert.equal([first.code, first.stdout], [75, 'box: 1 path uploaded\n'])
      assert.match(first.stderr, /^box: 2 paths skipped: the path or one of its dependencies is unsigned.*queue sign`\n$/)
      assert.ok(await stage.pair.boxHas(fine))
      const list = await stage.queue()
      for (const row of [/^unsigned .*-needy$/m, /^unsigned .*-free\.drv$/m]) assert.match(list.stdout, row)
      const sign = await stage.queueAs('root', 'sign')
      assert.equal([sign.code, sign.stdout], [0, '1 path signed with /etc/nix/secret\n'])
      assert.is((await stage.queueAs('root', 'sign')).stdout, '0 paths signed with /etc/nix/secret\n')
      assert.is((await stage.queue('upload')).code, 0)
      assert.ok(await stage.pair.boxHas(old, needy))
    }))

  test(`${nix}: a key that the box doesn't know, a file that is lost, a path that is gone: each by itself, with the reason`, () =>
    on(nix, async (stage) => {
      const { client } = stage.pair
      await client.must('root', 'nix-store', ['--generate-binary-cache-key', 'other-1', '/etc/nix/other', '/etc/nix/other.pub'])
      await stage.configure({ 'secret-key-files': '/etc/nix/other' })
      const foreign = await stage.build('foreign')
      await stage.configure({})
      const needy = await stage.buildOn(foreign, 'needy')
      const [lost, gone, fine] = [await stage.build('lost'), await stage.build('gone'), await stage.build('fine')]
      await client.idle()
      await client.must('root', 'nix-store', ['--delete', gone])
      await stage.queue('add', needy, lost, fine)
      await client.must('alice', 'ln', ['-s', gone, QUEUE])
      await client.must('root', 'rm', [lost])
      const done = await stage.queue('upload')
      assert.equal([done.code, done.stdout], [1, 'box: 1 path uploaded\n'])
      assert.match(done.stderr, /^box: dropped \S+-gone, which isn't in the store any more$/m)
      assert.match(done.stderr, /^box: set aside \S+-needy: cannot add path '\S+-foreign' .*signed by other-1: sudo \S*nix-lan setup /m)
      assert.match(done.stderr, /^box: set aside \S+-lost: .*\/\S+-lost/m)
      assert.ok(await stage.pair.boxHas(fine))
      assert.equal(await stage.pair.queued(), [])
      assert.equal((await stage.failed()).sort(), ['lost', 'needy'])
      // The cure: the box learns the key.
      const keys = `${stage.pair.publicKey} ${client.read('/etc/nix/other.pub').trim()}`
      stage.pair.box.write(
        '/etc/nix/nix.conf',
        stage.pair.box.read('/etc/nix/nix.conf').replace(/^trusted-public-keys = .*$/m, `trusted-public-keys = ${keys}`),
      )
      await stage.pair.box.stopDaemon()
      await stage.pair.box.startDaemon()
      assert.match((await stage.queue('retry', needy)).stdout, 'box: 1 back in the queue')
      assert.is((await stage.queue('upload')).code, 0)
      assert.ok(await stage.onBox(needy, foreign))
      assert.is((await stage.queue('drop', '--failed')).stdout, 'box: 1 dropped\n')
    }))

  test(`${nix}: what the box built itself gets its signature, or is set aside with the cure, which works`, () =>
    on(nix, async (stage) => {
      const { box } = stage.pair
      const path = await stage.build('both')
      assert.is(await box.must('root', 'nix-build', [T_FILE, '--no-out-link', '--argstr', 'name', 'both']), path)
      await stage.queue('add', path)
      const done = await stage.queue('upload')
      if (nix === 'bookworm') {
        // Up to 2.16 only users that the daemon trusts may add signatures (src/libstore/daemon.cc,
        // wopAddSignatures).
        assert.is(done.code, 1)
        assert.match(done.stderr, /you are not privileged to add signatures.*on the box: sudo nix-store --delete \S+-both, then retry/)
        await box.idle()
        await box.must('root', 'nix-store', ['--delete', path])
        await stage.queue('retry')
        assert.is((await stage.queue('upload')).code, 0)
      } else {
        assert.is(done.code, 0)
      }
      assert.ok(await stage.pair.boxHas(path))
    }))
}

test('300 paths: two copies; a garbage collection meanwhile takes none', () =>
  on('trixie', async (stage) => {
    const { paths } = await stage.pair.build(['--argstr', 'name', 'many', '--arg', 'count', '300'])
    await stage.queue('add', ...paths, await stage.deriver(paths[0] ?? ''))
    await stage.pair.collectGarbage()
    assert.ok(await stage.pair.clientHas(...paths))
    stage.pair.resetStarts()
    assert.is((await stage.queue('upload')).stdout, 'box: 301 paths uploaded\n')
    assert.is(stage.copies(), 2)
    assert.ok(await stage.pair.boxHas(...paths))
  }))

/** Makes so many paths known to the client's Nix, unsigned, and puts them into the queue. */
async function queueOf(client: World, count: number): Promise<void> {
  const paths = Array.from({ length: count }, (_, n) => `/nix/store/${String(n).padStart(32, '0')}-leaf`)
  const entries = paths.map((path) => [path, `sha256:${'0'.repeat(64)}`, '120', '', '0', ''].join('\n'))
  const local = { env: { NIX_REMOTE: 'local' } }
  await client.must('root', 'xargs', ['touch'], { input: paths.join('\n') })
  await client.must('root', 'nix-store', ['--load-db'], { ...local, input: entries.join('') })
  await client.must('alice', 'sh', ['-c', `xargs ln -sf -t ${QUEUE}`], { input: paths.join('\n') })
}

test('list --full of 20,000 asks Nix ten times as often as of 2,000, and says on a terminal that it waits', () =>
  on('trixie', async (stage) => {
    const { client } = stage.pair
    const asked = async (count: number): Promise<number> => {
      await queueOf(client, count)
      const connections = (): number => client.daemonLog().split('accepted connection').length
      const before = connections()
      const { stdout, stderr, ms } = await stage.queue('list', '--full')
      assert.match(stdout, `box: ${count} unsigned\n`, stderr)
      console.log(`figure: ${(ms / 1000).toFixed(1)} s  list --full of ${count}`)
      return connections() - before
    }
    const few = await asked(2000)
    const many = await asked(20_000)
    assert.ok(few > 0 && many <= 10 * few, `${few} connections for 2,000, ${many} for 20,000`)
    const onTerminal = ['-qec', `${DIST}/nix-lan queue list --full >/dev/null`, '/dev/null']
    assert.match(await client.must('alice', 'script', onTerminal), '… asking Nix about 20000 paths: 0 s')
  }))

test('the box goes away in mid-copy: 75, nothing is lost or failed; when it is back, the rest goes', () =>
  on('host', async (stage) => {
    const { client, box } = stage.pair
    const { paths } = await stage.pair.build(['--argstr', 'name', 'big', '--arg', 'count', '3', '--arg', 'kb', '20000'])
    await stage.queue('add', ...paths)
    const port = await freePort()
    const relay = await startRelay([port, box.port])
    await relay.set({ rate: 2e6 }) // so that it takes half a minute
    await stage.pair.closeTunnel()
    await stage.pair.openPlainTunnel(port)
    const running = stage.queue('upload')
    await until('the copy', () => stage.copies() > 0)
    // what has arrived by now lies in the box's store, not yet valid
    await until('some of it', async () => Number((await box.must('root', 'du', ['-sk', '/nix/store'])).split('\t')[0]) > 5000)
    await box.stopSshd()
    const cut = await running
    assert.is(cut.code, 75, cut.stderr)
    assert.match(cut.stderr, /^box is away \(.*\); 3 paths stay queued$/m)
    assert.is((await stage.pair.queued()).length, 3)
    assert.is(await client.must('root', 'ls', ['-A', FAILED]), '')
    await stage.pair.tunnelEnded()
    relay.close()
    const away = await stage.queue('upload')
    assert.is(away.code, 75)
    await box.startSshd()
    await stage.pair.openPlainTunnel()
    const back = await stage.queue('upload')
    assert.equal([back.code, back.stdout], [0, 'box: 3 paths uploaded\n'])
    assert.ok(await stage.pair.boxHas(...paths))
  }))

test('what comes in when an upload has looked for the last time: 0 for the unit, which starts it again at once; 75 for a person', () =>
  on('host', async (stage) => {
    const { client } = stage.pair
    const config = '/etc/nix-lan/config.toml'
    client.write(config, `${client.read(config)}[gc]\nkeep-free = "1000T"\n`)
    await client.must('alice', 'sh', ['-ec', 'mkdir -p "$0"; : >"$0/private"', '/run/user/1000/systemd'])
    // An upload asks systemd for room on the disk, and then waits for the end of this.
    const late = `ln -s "$(cat /tmp/late)" ${QUEUE}/`
    client.write('/usr/local/bin/systemctl', `#!/bin/sh\ncase $* in *start*nix-lan-gc@*) sleep 1; ${late} ;; esac\n`, { mode: 0o755 })
    const asUnit = `JOURNAL_STREAM=$(stat -c %d:%i /tmp/journal) exec ${DIST}/nix-lan queue upload >/tmp/journal`
    client.write('/tmp/journal', '', { user: 'alice' })
    for (const [line, code] of [
      [asUnit, 0],
      [`exec ${DIST}/nix-lan queue upload`, 75],
    ] as const) {
      let wasLate = false
      // on a busy machine it may come in before the last look
      for (let tries = 0; !wasLate && tries < 5; tries++) {
        await stage.queue('add', await stage.build(`first-${code}-${tries}`))
        const path = await stage.build(`late-${code}-${tries}`)
        client.write('/tmp/late', path, { user: 'alice' })
        const done = await client.run('alice', 'sh', ['-c', line])
        wasLate = (await stage.pair.queued()).length > 0
        assert.is(done.code, wasLate ? code : 0, done.stderr)
      }
      assert.ok(wasLate)
    }
  }))

test('a session that has the list of what the box has finds at once what is uploaded meanwhile', () =>
  on('bookworm', async (stage) => {
    const { pair } = stage
    const path = await stage.build('late')
    const port = await freePort()
    const relay = await startRelay([port, pair.box.port])
    try {
      await relay.set({ delay: DELAY, rate: 0 })
      await pair.closeTunnel()
      await pair.openPlainTunnel(port)
      const session = await Session.open(pair)
      await until('the list', async () => {
        const { found, ms } = await session.info(missing())
        return !found && ms < 2 * DELAY // a question that goes to the box takes longer
      })
      assert.not((await session.info(path)).found)
      await stage.queue('add', path)
      const { code, stderr } = await stage.queue('upload')
      assert.equal([code, stderr], [0, ''])
      assert.ok((await session.info(path)).found)
      await session.close()
    } finally {
      relay.close()
    }
  }))

test('two uploads at once: the second follows the first; one that is killed takes its copy along, and blocks nobody', () =>
  on('host', async (stage) => {
    const { client } = stage.pair
    const { paths } = await stage.pair.build(['--argstr', 'name', 'held', '--arg', 'count', '2'])
    await stage.queue('add', ...paths)
    client.write(HOLD, '', { mode: 0o666 })
    const first = stage.queue('upload')
    await until('the copy', () => stage.copies() > 0)
    const second = await stage.queue('upload', '--json')
    assert.is(second.code, 75)
    const { pid } = JSON.parse(second.stdout)[0].running
    const third = stage.queue('upload')
    await client.must('root', 'kill', ['-9', String(pid)])
    await first
    await client.must('root', 'rm', [HOLD])
    const { code, stdout, stderr } = await third
    assert.equal([code, stdout], [0, 'box: 2 paths uploaded\n'], stderr)
    assert.ok(await stage.pair.boxHas(...paths))
  }))

for (const nix of ['bookworm', 'forky'] as const) {
  test(`${nix}: a .drv that is cut short is set aside alone; a box without room takes what fits, tells why, and takes the rest later`, () =>
    on(nix, async (stage) => {
      const { client, box } = stage.pair
      const room = async (kb: number): Promise<void> => {
        await box.must('root', 'sh', [
          '-c',
          `used=$(df -k /nix | awk 'NR == 2 { print $3 }'); mount -o remount,size=$((used + ${kb}))k /nix`,
        ])
      }
      const [small, cut] = [await stage.build('small'), await stage.deriver(await stage.build('cut'))]
      const { paths } = await stage.pair.build(['--argstr', 'name', 'large', '--arg', 'kb', '30000'])
      await client.must('root', 'sh', ['-c', 'chmod u+w "$0"; head -c 30 "$0" >/tmp/head; cat /tmp/head >"$0"', cut])
      await stage.queue('add', ...paths, small, cut)
      assert.match((await stage.queue('list')).stdout, /^queued +\d+s +120 B {2}\S+-small$/m, 'a broken one takes no size from the others')
      await box.must('root', 'sh', ['-c', 'head -c 60000000 /dev/zero >/nix/full']) // or it would be too large for the disk
      await room(8000)
      const done = await stage.queue('upload')
      assert.equal([done.code, done.stdout], [75, 'box: 1 path uploaded\n'], done.stderr)
      assert.match(done.stderr, /^box: set aside \S+-cut\.drv: this machine's Nix can't read it: /m)
      assert.match(
        done.stderr,
        /^box: stopped: the box's disk is full: large\S* needs 29\.3 MiB, [\d.]+ \w+ are free \(.*No space left.*\); 1 path stays queued$/m,
      )
      assert.ok(await stage.onBox(small))
      assert.match((await stage.queue('list')).stdout, /^waits: the box's disk is full: large/m)
      await room(100_000)
      assert.is((await stage.queue('upload')).code, 0)
      assert.ok(await stage.pair.boxHas(...paths))
      assert.equal(await stage.failed(), ['cut.drv'])
    }))
}

test("as root: list works, upload says whose it is; somebody else's junk harms nobody", () =>
  on('host', async (stage) => {
    const path = await stage.build('a')
    await stage.queue('add', path)
    await stage.pair.client.must('alice', 'sh', ['-c', `touch ${QUEUE}/file; ln -s /nowhere ${QUEUE}/dangling; ln -s /etc ${QUEUE}/etc`])
    const list = await stage.queueAs('root')
    assert.is(list.code, 0)
    assert.match(list.stdout, 'box: 1 queued, 3 junk')
    const refused = await stage.queueAs('root', 'upload')
    assert.equal([refused.code, refused.stdout], [2, ''])
    assert.match(refused.stderr, `run it as alice: sudo -u alice ${DIST}/nix-lan queue upload`)
    const done = await stage.queue('upload')
    assert.equal([done.code, done.stdout], [1, 'box: 1 path uploaded\n'])
    assert.equal((await stage.pair.queued()).sort(), ['dangling', 'etc', 'file'])
    await stage.pair.collectGarbage()
  }))

test.run()
