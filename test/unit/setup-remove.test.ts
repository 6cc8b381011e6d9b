// nix-lan setup when the configuration has lost a cache, or calls it something else: what becomes
// of its queue, and of its table.
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { createConnection, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { parseConfig } from '../../scripts/config/parse.ts'
import { isSsh } from '../../scripts/config/types.ts'
import { inUse } from '../../scripts/setup/manager.ts'
import type { BoxDeed } from '../../scripts/setup/record.ts'
import { entriesIn, moveCounts, renamedNote, strayItem, straysAmong, withoutCache, withRenamed } from '../../scripts/setup/remove-cache.ts'
import { placeOf } from '../../scripts/setup/restore-box.ts'
import { until } from '../lib/until.ts'

const ALICE = { name: 'alice', uid: 1000, home: '/home/alice' }
const FILE = '/etc/nix-lan/config.toml'
const config = (...names: string[]) =>
  parseConfig(names.map((name) => `[cache.${name}]\nhost = "${name}.local"\n`).join('\n'), FILE, () => ALICE)
const deed = (cache: string, ssh = `${cache}.local`): BoxDeed => ({ cache, ssh, port: 22 })
const messageOf = (act: () => unknown): string => {
  try {
    act()
  } catch (error) {
    return (error as Error).message
  }
  return 'no error'
}

const strays = suite('setup: queues without a cache')

strays('counts and notes go on under the new name', () => {
  const names = ['uploaded.pi.2026-11', 'uploads.pi', 'box.pi.json', 'fetched.%2Frun%2Fuser%2F1000%2Fnix-lan%2Fpi.sock.2026-11']
  assert.equal(
    names.map((name) => renamedNote(name, 'pi', 'attic')),
    names.map((name) => name.replace('pi', 'attic')),
  )
  for (const name of ['uploaded.pi-2.2026-11', 'uploaded.rpi.2026-11', 'fetched.%2Fx%2Frpi.sock.2026-11', 'gc.json', 'pi'])
    assert.is(renamedNote(name, 'pi', 'attic'), undefined, name)
})

strays('they are moved, also the directory of the broker; what is there already stays', async () => {
  const at = mkdtempSync(`${tmpdir()}/nix-lan-counts-`)
  try {
    for (const dir of ['home', 'pi']) mkdirSync(`${at}/${dir}`)
    for (const file of ['home/uploaded.pi.2026-11', 'home/uploads.pi', 'home/uploads.attic', 'pi/fetched.%2Fpi.sock.2026-11'])
      writeFileSync(`${at}/${file}`, file)
    const places = [{ directory: `${at}/home` }, { directory: `${at}/none` }, { directory: `${at}/pi`, becomes: `${at}/attic` }]
    await moveCounts(places, 'pi', 'attic', { name: 'me', uid: process.geteuid?.() ?? 0, home: at, env: {} })
    assert.equal(readdirSync(at).sort(), ['attic', 'home'])
    assert.equal(readdirSync(`${at}/home`).sort(), ['uploaded.attic.2026-11', 'uploads.attic', 'uploads.pi'])
    assert.equal(readdirSync(`${at}/attic`), ['fetched.%2Fattic.sock.2026-11'])
  } finally {
    rmSync(at, { recursive: true })
  }
})

for (const [name, queues, caches, deeds, expected] of [
  ['none', ['pi'], ['pi'], [], []],
  ['a cache without a queue is none', [], ['pi'], [], []],
  ['removed', ['pi', 'second'], ['pi'], [deed('second')], [['second', undefined]]],
  ['renamed: the only one lost and the only new one', ['old'], ['pi'], [], [['old', 'pi']]],
  ['renamed: the same login', ['old', 'pi'], ['pi', 'nas'], [deed('old', 'nas.local')], [['old', 'nas']]],
  ['another box in its place: another login', ['old'], ['pi'], [deed('old')], [['old', undefined]]],
  [
    'two lost, two new, told apart by the login',
    ['a', 'b'],
    ['c', 'd'],
    [deed('b', 'c.local')],
    [
      ['a', undefined],
      ['b', 'c'],
    ],
  ],
] as const) {
  strays(name, () =>
    assert.equal(
      straysAmong(queues, config(...caches), deeds).map((stray) => [stray.name, stray.to]),
      expected,
    ),
  )
}

strays('the plan says what becomes of it', () => {
  const stray = { name: 'old', queued: 3, failed: 1 }
  const moved = strayItem({ ...stray, to: 'pi' }, FILE).title
  assert.match(moved, 'move the queue of old, now called pi: 3 paths and 1 that could not be uploaded')
  assert.match(
    strayItem({ ...stray, failed: 0, to: undefined }, FILE).title,
    `let go of the queue of old, which ${FILE} no longer has: 3 paths,`,
  )
})

strays('what could not be uploaded is counted without its reasons', () => {
  const directory = mkdtempSync(`${tmpdir()}/nix-lan-failed-`)
  try {
    for (const name of ['a', '.a', 'b', '.b']) writeFileSync(`${directory}/${name}`, '')
    assert.is(entriesIn(directory), 2)
    assert.is(entriesIn(`${directory}/none`), 0)
  } finally {
    rmSync(directory, { recursive: true })
  }
})

strays('a box that moved is asked where the configuration says', () => {
  const here = config('pi').caches.filter(isSsh)
  assert.equal(placeOf({ cache: 'pi', ssh: 'me@old', port: 2222 }, here), { name: 'pi', host: 'pi.local', ssh: 'pi.local', port: 22 })
  assert.equal(placeOf({ cache: 'x', ssh: 'me@old', port: 2222 }, here), { name: 'x', host: 'old', ssh: 'me@old', port: 2222 })
  assert.is(placeOf({ cache: 'x', ssh: 'me@old', port: 22, host: 'jump' }, []).host, 'jump')
})

strays('a tunnel is in use while somebody is connected to its socket', async () => {
  const directory = mkdtempSync(`${tmpdir()}/nix-lan-use-`)
  const socket = `${directory}/s`
  const server = createServer().listen(socket)
  try {
    await once(server, 'listening')
    assert.not.ok(inUse(socket))
    const client = createConnection(socket)
    const [accepted] = await once(server, 'connection')
    assert.ok(inUse(socket))
    client.destroy()
    accepted.destroy()
    await until('the end of its use', () => !inUse(socket))
  } finally {
    server.close()
    rmSync(directory, { recursive: true, force: true })
  }
})

strays.run()

const text = suite('setup: config.toml without a cache')

const TWO =
  'user = "alice"\n\n# the first\n[cache.pi]\nhost = "pi.local"\n# its port\nport = 2222\n\n# the second\n[cache.nas]\nurl = "http://nas:5000"\n'
for (const [name, before, gone, after] of [
  ['the first', TWO, 'pi', 'user = "alice"\n\n# the first\n\n# the second\n[cache.nas]\nurl = "http://nas:5000"\n'],
  ['the last', TWO, 'nas', 'user = "alice"\n\n# the first\n[cache.pi]\nhost = "pi.local"\n# its port\nport = 2222\n\n# the second\n'],
  ['a list over lines', '[cache.a]\nhost = "a"\nexclude = [\n  "x",\n]\n[cache.b]\nhost = "b"\n', 'a', '[cache.b]\nhost = "b"\n'],
] as const) {
  text(name, () => assert.is(withoutCache(before, gone, FILE, ALICE), after))
}

text('another name', () => {
  assert.is(withRenamed(TWO, 'pi', 'attic', FILE, ALICE), TWO.replace('[cache.pi]', '[cache.attic]'))
  assert.is(withRenamed(TWO.replace('cache.pi', 'cache."pi"'), 'pi', 'attic', FILE, ALICE), TWO.replace('[cache.pi]', '[cache.attic]'))
})

for (const [name, act, message] of [
  ['no such cache', () => withoutCache(TWO, 'x', FILE, ALICE), 'no cache is called x; /etc/nix-lan/config.toml has pi, nas'],
  [
    'the only one',
    () => withoutCache('[cache.a]\nhost = "a"\n', 'a', FILE, ALICE),
    'a is the only cache; to remove nix-lan: sudo nix-lan setup --undo',
  ],
  ['no line of its own', () => withoutCache('cache.a.host = "a"\n[cache.b]\nhost = "b"\n', 'a', FILE, ALICE), 'not below a line [cache.a]'],
  ['a name that is taken', () => withRenamed(TWO, 'pi', 'nas', FILE, ALICE), 'already has a cache nas'],
  ['a name that is none', () => withRenamed(TWO, 'pi', 'N A', FILE, ALICE), 'is not valid TOML'],
] as const) {
  text(`refused: ${name}`, () => assert.match(messageOf(act), message))
}

text.run()
