// Notes about damaged copies: who sees them, who takes them back, and what never becomes one.
import { createHash } from 'node:crypto'
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
import { type Daemon, type FullInfo, Refused } from '../../scripts/protocol/daemon-ops.ts'
import { heal } from '../../scripts/queue/heal.ts'
import { Damage, damagedOn, takeBack } from '../../scripts/system/damage.ts'
import { needs } from '../lib/needs.ts'
import { until } from '../lib/until.ts'

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
  await until('the note, by one that runs already', () => running.has(path(1)))
  assert.equal(damagedOn({ cache: 'none-such', socket: '/another.sock', own: directory }), new Map())
})

test('taken back: by an upload, whoever runs meanwhile; with the last note the file is empty', async () => {
  const directory = fresh()
  const running = new Damage(SOCKET, directory)
  for (const n of [1, 2]) running.add(path(n))
  takeBack(path(1), { ...TUNNEL, own: directory })
  takeBack(path(7), { ...TUNNEL, own: directory })
  assert.equal([...damagedOn({ ...TUNNEL, own: directory }).keys()], [path(2)])
  await until('the end of the note', () => !running.has(path(1)))
  assert.ok(running.has(path(2)))
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

/** A store in memory. A path has its NAR, and what the database says of it. */
class Store {
  readonly paths = new Map<string, { nar: string; info: Partial<FullInfo> }>()
  readonly repaired: FullInfo[] = []
  opened = 0
  refuses: string | undefined

  put(path: string, nar: string, info: Partial<FullInfo> = {}): void {
    this.paths.set(path, { nar, info: { hash: sha256(nar), size: nar.length, signatures: ['me-1:x'], ...info } })
  }

  open = async (): Promise<Daemon> => {
    this.opened++
    const daemon: Partial<Daemon> = {
      addTempRoots: async () => {},
      infos: async (paths) =>
        new Map(
          paths.flatMap((path) =>
            this.paths.has(path) ? [[path, { path, contentAddress: '', ...this.paths.get(path)?.info } as FullInfo]] : [],
          ),
        ),
      nar: async (path, take) => {
        const { nar } = this.paths.get(path) ?? { nar: '' }
        if (nar === '') throw new Refused('No such file')
        await take(Buffer.from(nar))
      },
      repair: async (info, nar) => {
        if (this.refuses) throw new Refused(this.refuses)
        let got = ''
        await nar(async (chunk) => {
          got += chunk.toString()
        })
        this.repaired.push(info)
        this.put(info.path, got, { signatures: info.signatures })
      },
      close: () => {},
    }
    return daemon as Daemon
  }
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')

async function healed(
  here: Store,
  box: Store,
  damaged: string[],
  looksAgain = false,
): Promise<{ taken: [string, boolean][]; refused: [string, string][] }> {
  const taken: [string, boolean][] = []
  const takeBack = (path: string, replaced: boolean): void => void taken.push([path, replaced])
  const refused = await heal({ damaged, looksAgain, openHere: here.open, openBox: box.open, takeBack })
  return { taken, refused: [...refused] }
}

test('a good copy that is here is sent, with the signatures of both; of another build of it only with ours', async () => {
  const [here, box] = [new Store(), new Store()]
  here.put(path(1), 'good')
  here.put(path(2), 'other build')
  box.put(path(1), '', { hash: sha256('good'), signatures: ['theirs-1:y'] })
  box.put(path(2), 'bad', { hash: sha256('as built there'), signatures: ['theirs-1:y'] })
  assert.equal(await healed(here, box, [path(1), path(2)]), { taken: [1, 2].map((n) => [path(n), true]), refused: [] })
  assert.equal(
    box.repaired.map(({ signatures, hash }) => [signatures, hash]),
    [
      [['me-1:x', 'theirs-1:y'], sha256('good')],
      [['me-1:x'], sha256('other build')],
    ],
  )
})

test('not sent: what is unsigned, damaged here, too, refused, or not here; each with its reason, and the next one goes', async () => {
  const [here, box] = [new Store(), new Store()]
  for (const n of [1, 2, 3, 4, 5]) box.put(path(n), 'bad', { hash: sha256('good') })
  here.put(path(1), 'good', { signatures: [] })
  here.put(path(2), 'bad here', { hash: sha256('good') })
  here.put(path(4), 'good')
  const { taken, refused } = await healed(here, box, [1, 2, 3, 4].map(path))
  assert.equal(taken, [[path(4), true]])
  assert.equal(
    refused.map(([one]) => one),
    [path(1), path(2)],
  )
  assert.match(refused[0]?.[1] ?? '', /unsigned/)
  assert.match(refused[1]?.[1] ?? '', /the copy here isn't what/)
  here.put(path(5), 'good')
  box.refuses = 'the box says: it lacks a valid signature'
  const second = await healed(here, box, [path(5)])
  assert.equal(second, {
    taken: [],
    refused: [[path(5), 'damaged on the box, which takes no good copy: the box says: it lacks a valid signature']],
  })
})

test('what the box has deleted, or somebody has repaired there, is damaged no more', async () => {
  const [here, box] = [new Store(), new Store()]
  box.put(path(2), 'good')
  box.put(path(3), 'bad', { hash: sha256('good') })
  box.put(path(4), '', { hash: sha256('good') })
  box.put(path(5), 'good')
  const all = [1, 2, 3, 4, 5].map(path)
  assert.equal(await healed(here, box, all), { taken: [[path(1), false]], refused: [] })
  box.opened = 0
  assert.equal(
    (await healed(here, box, all, true)).taken,
    [1, 2, 5].map((n) => [path(n), false]),
  )
  assert.is(box.opened, 2, 'anew after the one that it could not read')
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
