// What the box keeps, with real Nix and ssh: uploads survive its garbage collection, for as long as
// they should and no longer.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../lib/needs.ts'
import type { Result } from '../lib/processes.ts'
import { createPair, DIST, type Pair, SOCKET } from './pair.ts'

const test = needs(suite('kept on the box'), 'root', 'nix', 'ssh', 'sshd', 'roots')

const URL = `ssh-ng://localhost?remote-program=${DIST}/nix-lan-connect%20${SOCKET}`
const FOLDER = '/home/alice/.local/state/nix-lan'

class Stage {
  readonly pair: Pair
  constructor(pair: Pair) {
    this.pair = pair
  }

  run(...args: string[]): Promise<Result> {
    return this.pair.client.run('alice', `${DIST}/nix-lan`, args)
  }

  async build(name: string, count = 0): Promise<string[]> {
    return (await this.pair.build(['--argstr', 'name', name, '--arg', 'count', String(count)])).paths
  }

  async upload(...paths: string[]): Promise<Result> {
    await this.run('queue', 'add', ...paths)
    return await this.run('queue', 'upload')
  }

  async boxCollects(): Promise<void> {
    await this.pair.box.must('root', 'nix-store', ['--gc'])
  }

  async onBox(path: string): Promise<boolean> {
    return (await this.pair.box.run('root', 'nix-store', ['--check-validity', path])).code === 0
  }

  /** Paths of links below our folder in alice's home there. */
  async links(): Promise<string[]> {
    const found = await this.pair.box.run('alice', 'find', [FOLDER, '-type', 'l'])
    return found.stdout.trim().split('\n').filter(Boolean).sort()
  }

  /** A line more in the cache's part of config.toml. */
  configure(line: string): void {
    const { client } = this.pair
    client.write('/etc/nix-lan/config.toml', `${client.read('/etc/nix-lan/config.toml')}${line}\n`)
  }
}

async function on(client: 'bookworm' | 'trixie' | 'forky', box: typeof client, play: (stage: Stage) => Promise<void>): Promise<void> {
  const pair = await createPair({ client, box })
  try {
    await pair.openPlainTunnel()
    await play(new Stage(pair))
  } finally {
    await pair.close()
  }
}

for (const [client, box] of [
  ['bookworm', 'trixie'],
  ['trixie', 'forky'],
  ['forky', 'bookworm'],
] as const) {
  test(`${client}, box on ${box}: a box that collects garbage all the time loses no upload; one link a day; what is forgotten goes`, () =>
    on(client, box, async (stage) => {
      let over = false
      let collections = 0
      const loop = (async () => {
        while (!over) {
          await stage.boxCollects()
          collections++
        }
      })()
      const uploaded: string[] = []
      try {
        for (const name of ['one', 'two', 'three']) {
          const paths = await stage.build(name, 5)
          const done = await stage.upload(...paths)
          assert.equal([done.code, done.stderr], [0, ''])
          uploaded.push(...paths)
        }
      } finally {
        over = true
        await loop
      }
      assert.ok(collections > 1)
      await stage.boxCollects()
      assert.ok(await stage.pair.boxHas(...uploaded))
      const [link = '', ...others] = await stage.links()
      assert.equal(others, [])
      assert.match(link, /\/kept\/client-1\/\d{4}-\d\d-\d\d$/)
      const listed = JSON.parse((await stage.run('box', 'list', '--json')).stdout)
      assert.equal(
        listed.map(({ kind, client, paths }: Record<string, unknown>) => [kind, client, paths]),
        [['kept', 'client-1', 15]],
      )
      const forgotten = await stage.run('box', 'forget', '--yes', uploaded[0] ?? '')
      assert.is(forgotten.code, 0, forgotten.stderr)
      await stage.boxCollects()
      assert.not(await stage.onBox(uploaded[0] ?? ''))
      assert.ok(await stage.pair.boxHas(...uploaded.slice(1)))
      assert.match((await stage.run('box', 'forget', '--yes', uploaded[0] ?? '')).stderr, /keeps nothing of that kind for client-1/)
    }))
}

test('keep = "none": nothing is linked, and the box deletes it; forget by age; a collection through the tunnel', () =>
  on('trixie', 'trixie', async (stage) => {
    const [first = ''] = await stage.build('first')
    await stage.upload(first)
    const old = `${FOLDER}/kept/client-1/2020-01-01`
    const [link = ''] = await stage.links()
    await stage.pair.box.must('alice', 'mv', [link, old])
    await stage.pair.box.must('alice', 'sh', [
      '-c',
      'NIX_REMOTE=daemon nix-store --add-root "$1" --realise "$(readlink "$0")"',
      old,
      `${old}`,
    ])
    stage.configure('keep = "none"')
    const [second = ''] = await stage.build('second')
    assert.is((await stage.upload(second)).code, 0)
    assert.equal(await stage.links(), [old])
    const collected = JSON.parse((await stage.run('box', 'gc', '--yes', '--json')).stdout)
    assert.ok(collected.deleted.includes(second))
    assert.not(await stage.onBox(second))
    assert.ok(await stage.onBox(first))
    assert.is((await stage.run('box', 'forget', '--older-than', '30d', '--yes')).code, 0)
    assert.equal(await stage.links(), [])
    await stage.boxCollects()
    assert.not(await stage.onBox(first))
  }))

test('an upload lets go of days that are older than keep, and keeps the others', () =>
  on('trixie', 'bookworm', async (stage) => {
    const [first = ''] = await stage.build('first')
    await stage.upload(first)
    const [link = ''] = await stage.links()
    const recent = new Date(Date.now() - 50 * 86_400_000).toISOString().slice(0, 10)
    for (const day of ['2020-01-01', recent]) await stage.pair.box.must('alice', 'cp', ['-P', link, `${FOLDER}/kept/client-1/${day}`])
    const [second = ''] = await stage.build('second')
    await stage.upload(second)
    assert.equal(
      (await stage.links()).map((one) => one.slice(-10)),
      [recent, link.slice(-10)],
    )
  }))

test('a box that runs no commands: the upload counts and says what is not kept; gc deletes nothing', () =>
  on('trixie', 'trixie', async (stage) => {
    const { box } = stage.pair
    await stage.pair.closeTunnel()
    await box.stopSshd()
    const conf = '/etc/ssh/nix-lan/sshd_config'
    box.write(conf, `${box.read(conf)}ForceCommand internal-sftp\nSubsystem sftp internal-sftp\n`)
    await box.startSshd()
    await stage.pair.openPlainTunnel()
    const [path = ''] = await stage.build('first')
    const done = await stage.upload(path)
    assert.is(done.code, 0)
    assert.match(
      done.stderr,
      /^box: uploaded, but the box's own garbage collection may delete it: box runs no commands for alice@127.0.0.1/m,
    )
    assert.match((await stage.run('status')).stdout, /^ +not kept: .*: box runs no commands/m)
    stage.pair.configure({ 'extra-substituters': URL })
    await stage.pair.client.stopDaemon()
    await stage.pair.client.startDaemon()
    const gc = await stage.run('gc', '--yes')
    assert.is(gc.code, 1, gc.stderr)
    assert.match(gc.stderr, /^stopped, what is left stays: box runs no commands/m)
    assert.ok(await stage.pair.clientHas(path))
  }))

test.run()
