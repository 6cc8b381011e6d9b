// Notes about damaged copies: who sees them, who takes them back, and what never becomes one.
import {
  appendFileSync,
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { Damage, damagedOn, takeBack } from '../../scripts/system/damage.ts'
import { needs } from '../lib/needs.ts'

const test = suite('damage')
const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-damage-'))
const SOCKET = '/run/user/1000/nix-lan/none-such.sock'
const TUNNEL = { cache: 'none-such', socket: SOCKET }
const FILE = `damaged.${encodeURIComponent(SOCKET)}`
const path = (n: number): string => `/nix/store/${String(n).padStart(32, '0')}-x`
let folders = 0
const fresh = (): string => join(TMP, `state${folders++}`, 'nix-lan')

test('noted once, seen by the next start, by status, and by one that runs already', async () => {
  const directory = fresh()
  const running = new Damage(SOCKET, directory)
  assert.not(running.has(path(1)))
  const first = new Damage(SOCKET, directory)
  assert.equal([first.add(path(1)), first.add(path(1)), first.has(path(1))], [true, false, true])
  assert.ok(new Damage(SOCKET, directory).has(path(1)))
  assert.equal([...damagedOn({ ...TUNNEL, own: directory }).keys()], [path(1)])
  assert.ok(Date.now() - (damagedOn({ ...TUNNEL, own: directory }).get(path(1)) ?? 0) < 60_000)
  await new Promise((resolve) => setTimeout(resolve, 1100))
  assert.ok(running.has(path(1)))
  assert.equal(damagedOn({ cache: 'none-such', socket: '/another.sock', own: directory }), new Map())
})

test('taken back: by an upload, whoever runs meanwhile; with the last note the file is empty', async () => {
  const directory = fresh()
  const running = new Damage(SOCKET, directory)
  for (const n of [1, 2]) running.add(path(n))
  takeBack(path(1), { ...TUNNEL, own: directory })
  takeBack(path(7), { ...TUNNEL, own: directory })
  assert.equal([...damagedOn({ ...TUNNEL, own: directory }).keys()], [path(2)])
  await new Promise((resolve) => setTimeout(resolve, 1100))
  assert.equal([running.has(path(1)), running.has(path(2))], [false, true])
  assert.ok(running.add(path(1)), 'damaged again')
  assert.equal([...damagedOn({ ...TUNNEL, own: directory }).keys()].sort(), [path(1), path(2)])
  for (const n of [1, 2]) takeBack(path(n), { ...TUNNEL, own: directory })
  assert.is(readFileSync(join(directory, FILE), 'utf8'), '')
})

test('lines that make no sense are no notes; a link is not followed; a long file grows no longer', () => {
  const directory = fresh()
  const damage = new Damage(SOCKET, directory)
  damage.add(path(1))
  appendFileSync(
    join(directory, FILE),
    `17000\n1700000000 damaged ${path(2)}\u001b[31m\n1700000000 damaged relative\n1700000000 lost ${path(3)}\n`,
  )
  assert.equal([...damagedOn({ ...TUNNEL, own: directory }).keys()], [path(1)])
  appendFileSync(join(directory, FILE), '\n'.repeat(70_000))
  const { size } = statSync(join(directory, FILE))
  assert.ok(damage.add(path(4)), 'this process remembers')
  assert.is(statSync(join(directory, FILE)).size, size)
  const led = fresh()
  mkdirSync(led, { recursive: true })
  writeFileSync(join(TMP, 'theirs'), `1700000000 damaged ${path(1)}\n`)
  symlinkSync(join(TMP, 'theirs'), join(led, FILE))
  assert.equal(damagedOn({ ...TUNNEL, own: led }), new Map())
  new Damage(SOCKET, led).add(path(2))
  assert.is(readFileSync(join(TMP, 'theirs'), 'utf8'), `1700000000 damaged ${path(1)}\n`)
})

test('where others can write, or nobody: this process remembers, and nothing fails', () => {
  const open = fresh()
  mkdirSync(open, { recursive: true })
  chmodSync(open, 0o777)
  for (const directory of [open, join(TMP, 'theirs', 'x')]) {
    const damage = new Damage(SOCKET, directory)
    assert.ok(damage.add(path(1)))
    assert.ok(damage.has(path(1)))
  }
  assert.equal(readdirSync(open), [])
})

const asRoot = needs(suite('damage, as root'), 'root')
asRoot('root gives the file to the owner of the tunnel, whose upload takes notes back', () => {
  const directory = fresh()
  new Damage(SOCKET, directory).open({ uid: 1234, gid: 1234 })
  const stat = statSync(join(directory, FILE))
  assert.equal([stat.uid, stat.gid, stat.mode & 0o777], [1234, 1234, 0o644])
})

asRoot.after(() => rmSync(TMP, { recursive: true }))
test.run()
asRoot.run()
