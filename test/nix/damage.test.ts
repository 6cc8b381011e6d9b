// A damaged copy on the box, as a power cut leaves it: a file of 0 bytes, a missing one, a changed
// byte. The box's database says that all is well.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../lib/needs.ts'
import type { Result } from '../lib/processes.ts'
import { BOX_URL, createPair, DIST, type Pair, SOCKET } from './pair.ts'
import type { WorldOptions } from './world.ts'

const test = needs(suite('damaged copies'), 'root', 'nix', 'ssh', 'sshd', 'roots')

/** What refers to a path of the store. */
const NEEDS = `{ path, name }: derivation {
  inherit name;
  needed = builtins.storePath path;
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "echo $needed > $out" ];
}`

/** How each is damaged, by sh that gets the path as $0. `large`: Nix has bytes of it by then. */
const HOW: [string, string, string[]][] = [
  ['empty', ': >"$0"', []],
  ['missing', 'rm "$0"', []],
  ['changed', 'printf X | dd of="$0" conv=notrunc status=none', []],
  ['large', 'printf X | dd of="$0" seek=3000000 bs=1 conv=notrunc status=none', ['--arg', 'kb', '4000']],
]

const queue = (pair: Pair, ...args: string[]): Promise<Result> => pair.client.run('alice', `${DIST}/nix-lan`, ['queue', ...args])
const status = async (pair: Pair): Promise<{ damaged: string[] }> =>
  JSON.parse(await pair.client.must('alice', `${DIST}/nix-lan`, ['status', '--json'])).caches[0]

async function build(pair: Pair, name: string, more: string[], fallback: boolean): Promise<Result> {
  const args = ['/opt/nix-lan/t.nix', '--no-out-link', '--argstr', 'name', name, ...more, '--option', 'fallback', String(fallback)]
  return await pair.client.run('alice', 'nix-build', args)
}

/** Builds and uploads one path of each kind, deletes them here, and damages them on the box. */
async function stage(pair: Pair): Promise<string[]> {
  const paths: string[] = []
  for (const [name, , more] of HOW) paths.push((await build(pair, name, more, false)).stdout.trim())
  assert.is((await queue(pair, 'add', ...paths)).code, 0)
  assert.is((await queue(pair, 'upload')).code, 0)
  await pair.collectGarbage()
  for (const [n, [, how]] of HOW.entries()) await pair.box.must('root', 'sh', ['-c', `chmod u+w "$0"; ${how}`, paths[n] ?? ''])
  return paths
}

const broken = async (pair: Pair, paths: string[]): Promise<string[]> =>
  (
    await Promise.all(
      paths.map(async (path) => ((await pair.box.run('root', 'nix-store', ['--verify-path', path])).code === 0 ? [] : [path])),
    )
  ).flat()

const PAIRS: [WorldOptions['nix'], WorldOptions['nix']][] = [
  ['bookworm', 'trixie'],
  ['trixie', 'forky'],
  ['forky', 'bookworm'],
]

for (const [client, box] of PAIRS) {
  test(`${client}, the box ${box}, fallback: builds; told; gc keeps it; healed with its referrers; then fetched`, async () => {
    const pair = await createPair({ client, box, settings: { fallback: 'true', 'extra-substituters': BOX_URL } })
    try {
      await pair.openTunnel()
      const paths = await stage(pair)
      for (const [n, [name, , more]] of HOW.entries()) {
        const { code, stdout, stderr } = await build(pair, name, more, true)
        assert.equal([code, stdout.trim()], [0, paths[n]], `${name}: ${stderr}`)
        assert.match(stderr, 'building')
      }
      assert.equal((await status(pair)).damaged.sort(), [...paths].sort())
      assert.equal((await broken(pair, paths)).sort(), [...paths].sort())
      const list = await queue(pair)
      for (const path of paths) assert.match(list.stdout, `damaged on the box: ${path}`)
      // they are dead here, and stay all the same
      const gc = await pair.client.run('alice', `${DIST}/nix-lan`, ['gc', '--dry-run'])
      assert.match(gc.stdout, /stays +4 paths .* damaged on the box/, gc.stderr)
      // what refers to one of them there, as a path that the box got meanwhile
      pair.client.write('/opt/needs.nix', NEEDS)
      const needy = await pair.client.must('alice', 'nix-build', [
        ...['/opt/needs.nix', '--no-out-link', '--argstr', 'path', paths[0] ?? '', '--argstr', 'name', 'needy'],
      ])
      await queue(pair, 'add', needy, ...paths)
      const done = await queue(pair, 'upload')
      assert.equal([done.code, done.stdout], [0, 'box: 4 paths healed\nbox: 5 paths uploaded\n'], done.stderr)
      assert.equal(await broken(pair, [...paths, needy]), [])
      assert.ok(await pair.boxHas(...paths, needy))
      assert.equal((await status(pair)).damaged, [])
      await pair.collectGarbage()
      for (const [name, , more] of HOW) {
        const { code, stderr } = await build(pair, name, more, false)
        assert.is(code, 0, stderr)
        assert.not.match(stderr, 'building')
      }
      assert.is((await pair.client.run('alice', 'nix-store', ['--realise', needy])).code, 0)
    } finally {
      await pair.close()
    }
  })

  test(`${client}, the box ${box}, no fallback: the next build builds, and an upload heals what nothing queued`, async () => {
    const pair = await createPair({ client, box })
    try {
      await pair.openTunnel()
      const paths = await stage(pair)
      for (const [name, , more] of HOW) {
        assert.is.not((await build(pair, name, more, false)).code, 0, name)
        const again = await build(pair, name, more, false)
        assert.is(again.code, 0, `${name}: ${again.stderr}`)
      }
      const touched = (): Promise<string> => pair.client.must('alice', 'stat', ['-c', '%y', SOCKET])
      const before = await touched()
      const done = await queue(pair, 'upload')
      assert.equal([done.code, done.stdout], [0, 'box: 4 paths healed\n'], done.stderr)
      assert.is.not(await touched(), before, 'sessions keep what they remember of the damaged copies')
      assert.equal(await broken(pair, paths), [])
    } finally {
      await pair.close()
    }
  })
}

test.run()
