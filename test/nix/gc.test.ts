// nix-lan gc with real Nix on both sides: exactly what the box can give back goes, and it comes back.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../lib/needs.ts'
import type { Result } from '../lib/processes.ts'
import { createPair, DIST, type Pair, SOCKET } from './pair.ts'
import { until } from './world.ts'

const test = needs(suite('nix-lan gc'), 'root', 'nix', 'ssh', 'sshd', 'roots')

/** As setup writes it: pair.ts counts the starts of another program. */
const URL = `ssh-ng://localhost?remote-program=${DIST}/nix-lan-connect%20${SOCKET}`

type Nix = 'host' | 'bookworm' | 'trixie' | 'forky'

interface Answer {
  goes: { path: string; size: number }[]
  stays: { path: string; size: number; reason: string }[]
  deleted: string[] | null
  alive: string[]
  freed: number | null
  stopped: string | null
}

/** A pair with a tunnel, whose client may use the box as a substituter. */
class Stage {
  readonly pair: Pair
  constructor(pair: Pair) {
    this.pair = pair
  }

  gc(...args: string[]): Promise<Result> {
    return this.pair.client.run('alice', `${DIST}/nix-lan`, ['gc', ...args])
  }

  async json(...args: string[]): Promise<Answer & { code: number | null; stderr: string }> {
    const { stdout, stderr, code } = await this.gc('--json', '--yes', ...args)
    assert.ok(stdout.startsWith('{'), `${stdout}${stderr}`)
    return { ...(JSON.parse(stdout) as Answer), code, stderr }
  }

  async build(name: string, count = 0): Promise<string[]> {
    return (await this.pair.build(['--argstr', 'name', name, '--arg', 'count', String(count)])).paths
  }

  async upload(...paths: string[]): Promise<void> {
    const { client } = this.pair
    await client.must('alice', `${DIST}/nix-lan`, ['queue', 'add', ...paths])
    await client.must('alice', `${DIST}/nix-lan`, ['queue', 'upload'])
  }

  /** What nothing roots on the box. */
  async boxCollects(): Promise<void> {
    await this.pair.box.must('root', 'nix-store', ['--gc'])
  }

  async onBox(path: string): Promise<boolean> {
    return (await this.pair.box.run('root', 'nix-store', ['--check-validity', path])).code === 0
  }
}

async function on(client: Nix, box: Nix, play: (stage: Stage) => Promise<void>, settings: Record<string, string> = {}): Promise<void> {
  const pair = await createPair({ client, box, settings: { 'extra-substituters': URL, ...settings } })
  try {
    await pair.openPlainTunnel()
    await play(new Stage(pair))
  } finally {
    await pair.close()
  }
}

const sorted = (paths: readonly string[]): string[] => [...paths].sort()

for (const [client, box] of [
  ['bookworm', 'forky'],
  ['trixie', 'bookworm'],
  ['forky', 'trixie'],
] as const) {
  test(`${client} with a box on ${box}: of 300 builds the 200 on the box go; its own gc takes none; all come back`, () =>
    on(client, box, async (stage) => {
      const all = await stage.build('many', 300)
      const uploaded = all.slice(0, 200)
      await stage.upload(...uploaded)
      const look = await stage.json('--dry-run')
      assert.equal(sorted(look.goes.map(({ path }) => path)), sorted(uploaded))
      assert.is(look.deleted, null)
      assert.ok(await stage.pair.clientHas(...all))
      const done = await stage.json()
      assert.is(done.code, 0, done.stderr)
      assert.equal(sorted(done.deleted ?? []), sorted(uploaded))
      assert.ok(await stage.pair.clientHas(...all.slice(200)))
      assert.not(await stage.pair.clientHas(uploaded[0] ?? ''))
      await stage.boxCollects()
      assert.ok(await stage.pair.boxHas(...uploaded))
      await stage.pair.client.must('alice', 'nix-store', ['--realise', ...uploaded])
      assert.ok(await stage.pair.clientHas(...uploaded))
      assert.is((await stage.json('--dry-run')).goes.length, 200)
    }))
}

test('keep-outputs and keep-derivations in all four settings: the plan is what Nix allows', () =>
  on('trixie', 'trixie', async (stage) => {
    const { client } = stage.pair
    for (const outputs of ['false', 'true'])
      for (const derivations of ['false', 'true']) {
        stage.pair.configure({ 'extra-substituters': URL, 'keep-outputs': outputs, 'keep-derivations': derivations })
        await client.stopDaemon()
        await client.startDaemon()
        const name = (what: string): string => `${what}-${outputs}-${derivations}`
        const all = new Map<string, string>()
        const uploads: string[] = []
        for (const what of ['output', 'derivation', 'both', 'neither']) {
          const [path = ''] = await stage.build(name(what))
          const derivation = await client.must('alice', 'nix-store', ['--query', '--deriver', path])
          if (what === 'output' || what === 'both') uploads.push(path)
          if (what === 'derivation' || what === 'both') uploads.push(derivation)
          all.set(path, `${what} output`).set(derivation, `${what} derivation`)
        }
        await stage.upload(...uploads)
        const done = await stage.json()
        assert.equal([done.code, done.alive, done.stopped], [0, [], null], done.stderr)
        const expected = ['both derivation', 'both output']
        if (outputs === 'false') expected.push('output output')
        if (derivations === 'false') expected.push('derivation derivation')
        assert.equal(
          sorted((done.deleted ?? []).flatMap((path) => all.get(path) ?? [])),
          sorted(expected),
          `keep-outputs ${outputs}, keep-derivations ${derivations}`,
        )
        await stage.pair.collectGarbage()
      }
  }))

const NEEDS = `{ path }: derivation {
  name = "runs";
  needed = builtins.storePath path;
  system = builtins.currentSystem;
  builder = "/bin/sh";
  PATH = "/usr/bin:/bin";
  args = [ "-c" "echo $needed > $out; touch /tmp/runs; while [ ! -e /tmp/go ]; do sleep 0.1; done" ];
}`

test('what a build that runs needs, what is queued, what has another content there or no signature: stays', () =>
  on('trixie', 'bookworm', async (stage) => {
    const { client, box } = stage.pair
    const [input = ''] = await stage.build('input')
    const [queued = ''] = await stage.build('queued')
    const [unsigned = ''] = await stage.build('unsigned')
    const [fine = ''] = await stage.build('fine')
    await stage.upload(input, fine)
    await client.must('alice', `${DIST}/nix-lan`, ['queue', 'add', queued])
    const random = ['/opt/nix-lan/t.nix', '--no-out-link', '--argstr', 'name', 'random', '--arg', 'kb', '1']
    const different = await client.must('alice', 'nix-build', random)
    assert.is(await box.must('root', 'nix-build', random), different)
    assert.is(await box.must('root', 'nix-build', ['/opt/nix-lan/t.nix', '--no-out-link', '--argstr', 'name', 'unsigned']), unsigned)
    client.write('/opt/needs.nix', NEEDS)
    const build = client.start('alice', 'nix-build', ['/opt/needs.nix', '--no-out-link', '--argstr', 'path', input])
    await until('the build', 20_000, async () => (await client.run('root', 'test', ['-e', '/tmp/runs'])).code === 0)
    const done = await stage.json()
    client.write('/tmp/go', '')
    assert.is(await build.ended, 0, build.output())
    assert.is(done.code, 0, done.stderr)
    assert.ok(done.deleted?.includes(fine))
    assert.not(done.deleted?.some((path) => [input, queued, unsigned, different].includes(path)))
    const reason = (path: string): string | undefined => done.stays.find((one) => one.path === path)?.reason
    assert.equal([reason(unsigned), reason(different)], ['unsigned', 'different'])
    assert.ok(await stage.pair.clientHas(input, queued, unsigned, different))
  }))

test('keys, substituters, a box that is away: when in doubt nothing is deleted', () =>
  on('bookworm', 'trixie', async (stage) => {
    const { client } = stage.pair
    const [path = ''] = await stage.build('first')
    await stage.upload(path)
    const configure = async (settings: Record<string, string>): Promise<void> => {
      stage.pair.configure({ 'extra-substituters': URL, ...settings })
      await client.stopDaemon()
      await client.startDaemon()
    }
    await client.must('root', 'nix-store', ['--generate-binary-cache-key', 'client-1', '/etc/nix/other', '/etc/nix/other.pub'])
    const other = client.read('/etc/nix/other.pub').trim()
    // Of two keys of a name Nix believes the first only.
    await configure({ 'trusted-public-keys': `${other} ${stage.pair.publicKey}` })
    assert.equal((await stage.json()).stays.find((one) => one.path === path)?.reason, 'unsigned')
    await configure({ 'extra-substituters': '' })
    const unused = await stage.gc('--yes')
    assert.is(unused.code, 1)
    assert.match(unused.stderr, /not among the substituters in force/)
    await configure({})
    assert.equal(
      (await stage.json('--dry-run')).goes.map((one) => one.path),
      [path],
    )
    await stage.pair.closeTunnel()
    const away = await stage.gc('--yes')
    assert.is(away.code, 75, away.stderr)
    assert.ok(await stage.pair.clientHas(path))
    assert.is((await stage.gc('--free', '5X')).code, 2)
  }))

test.run()
