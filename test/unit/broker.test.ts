// The broker: what one session was told or has read ahead, the next gets from memory; connections to
// the box are few, kept for a while, and used again; it ends when nobody uses it.
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createConnection, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { Broker } from '../../scripts/connect/broker.ts'
import { brokersCache, readSettings } from '../../scripts/connect/settings.ts'
import { notValid } from '../../scripts/protocol/operations.ts'
import { STDERR_LAST, string, u64 } from '../../scripts/protocol/wire.ts'
import { DistantBox, infoOf, type Kept } from '../lib/distant-box.ts'
import { hello, nar, same } from '../lib/wire.ts'

const test = suite('broker')
const FOLDER = mkdtempSync(join(tmpdir(), 'nix-lan-broker-'))
const LAST = u64(STDERR_LAST)
const STORE = `${FOLDER}/store`
/** Of each direction, in milliseconds. */
const DELAY = 2

let count = 0
const open: { close(): unknown }[] = []
test.after.each(async () => {
  for (const one of open.splice(0).reverse()) await one.close()
})
test.after(() => rmSync(FOLDER, { recursive: true, force: true }))

const pathOf = (n: number): string => `${STORE}/${String(n).padStart(32, '0')}-x`
const kept = (n: number): Kept => ({ nar: nar({ file: `file ${n}` }) })
const info = (n: number): Buffer => Buffer.concat([u64(26), string(pathOf(n))])
const fetch = (n: number): Buffer => Buffer.concat([u64(38), string(pathOf(n))])
const has = (n: number): Buffer => Buffer.concat([LAST, u64(1), infoOf(kept(n))])
const all = (n: number): number[] => Array.from({ length: n }, (_, i) => i)

class Stage {
  readonly box = new DistantBox(DELAY)
  readonly tunnel = `${FOLDER}/${count++}.sock`
  readonly socket = `${FOLDER}/${count++}.broker`
  readonly broker: Broker

  private constructor(paths: number, unused: number) {
    for (const n of all(paths)) this.box.paths.set(pathOf(n), kept(n))
    this.broker = new Broker({ socket: this.tunnel, deadline: 60_000, patience: 300 }, { unused, lastSessions: 200 })
    open.push({ close: () => this.box.close() }, { close: () => this.stop() })
  }

  static async make(paths: number, { unused = 60_000, away = false } = {}): Promise<Stage> {
    const stage = new Stage(paths, unused)
    if (!away) {
      await stage.box.listen(stage.tunnel)
      stage.box.knownAsFast(stage.tunnel)
    }
    await stage.broker.listen({ path: stage.socket })
    return stage
  }

  async stop(): Promise<void> {
    this.broker.stop()
    await this.broker.ended
  }

  /** Says all of it at once, and hangs up. Returns the answers, after our welcome. */
  async session(...requests: Buffer[]): Promise<Buffer> {
    const session = new Session(this.socket)
    session.say(hello(), ...requests)
    session.socket.end()
    return (await session.all()).subarray(40)
  }
}

class Session {
  readonly socket: Socket
  private readonly got: Buffer[] = []
  private readonly closed: Promise<void>

  constructor(path: string) {
    this.socket = createConnection({ path, allowHalfOpen: true })
    this.socket.on('data', (bytes) => this.got.push(bytes))
    this.socket.on('error', () => {})
    this.socket.on('end', () => this.socket.end())
    this.closed = new Promise((resolve) => this.socket.on('close', () => resolve()))
  }

  say(...words: Buffer[]): void {
    this.socket.write(Buffer.concat(words))
  }

  async all(): Promise<Buffer> {
    await this.closed
    return Buffer.concat(this.got)
  }
}

test('a session for each NAR, all but the first from memory; the box is dialled for none of them', async () => {
  const on = await Stage.make(30)
  same(await on.session(...all(30).map(info)), Buffer.concat(all(30).map(has)))
  const before = on.box.connections
  for (const n of all(30)) same(await on.session(fetch(n)), Buffer.concat([LAST, kept(n).nar]))
  assert.equal(on.box.askedFor(38).sort(), all(30).map(pathOf), 'each NAR was asked for once')
  assert.ok(on.box.connections - before <= 4, `${on.box.connections - before} connections for 30 sessions`)
})

test('what one session was told, the next needn’t ask', async () => {
  const on = await Stage.make(5)
  const questions = all(6).map(info)
  same(await on.session(...questions), Buffer.concat([...all(5).map(has), notValid(pathOf(5))]))
  const before = on.box.askedFor(26).length
  same(await on.session(...questions.slice(3)), Buffer.concat([has(3), has(4), notValid(pathOf(5))]))
  assert.is(on.box.askedFor(26).length, before)
})

test('sixteen sessions at once that fetch what isn’t read ahead: six connections at most', async () => {
  const on = await Stage.make(64)
  for (const [path, { nar }] of on.box.paths) on.box.paths.set(path, { nar, size: 5 * 2 ** 20 }) // as if it were large
  let most = 0
  const watch = setInterval(() => {
    most = Math.max(most, on.box.open)
  }, 1)
  const each = await Promise.all(all(16).map((n) => on.session(...[0, 16, 32, 48].flatMap((k) => [info(n + k), fetch(n + k)]))))
  clearInterval(watch)
  for (const answers of each) assert.ok(answers.length > 4 * 200, 'an answer is missing')
  assert.is(on.box.askedFor(38).length, 64)
  assert.ok(most >= 2 && most <= 6, `${most} connections`)
})

test('the box closes an idle connection: the next question goes to another, and nothing is missing', async () => {
  const on = await Stage.make(3)
  same(await on.session(info(0), fetch(0)), Buffer.concat([has(0), LAST, kept(0).nar]))
  on.box.hangUp()
  same(await on.session(info(1), fetch(1)), Buffer.concat([has(1), LAST, kept(1).nar]))
})

test('a box that is away is an empty store, for each session at once', async () => {
  const on = await Stage.make(1, { away: true })
  const started = performance.now()
  for (const _ of all(20)) same(await on.session(info(0)), notValid(pathOf(0)))
  assert.ok(performance.now() - started < 30_000, 'less than one deadline')
})

test('a promise that the box can’t keep ends that session, and no other', async () => {
  const on = await Stage.make(2)
  const other = new Session(on.socket)
  other.say(hello(), info(0))
  same(await on.session(info(1)), has(1))
  on.box.close()
  same(await on.session(fetch(1)), Buffer.alloc(0))
  other.say(info(0))
  other.socket.end()
  same((await other.all()).subarray(40), Buffer.concat([has(0), notValid(pathOf(0))]))
})

test('it ends when it hasn’t been used for a while; who only knocks doesn’t use it', async () => {
  const on = await Stage.make(1, { unused: 1500 })
  let over = false
  on.broker.ended.then(() => {
    over = true
  })
  const long = new Session(on.socket)
  long.say(hello(), info(0))
  await new Promise((resolve) => setTimeout(resolve, 3000))
  assert.not(over, 'it has ended in the middle of a session')
  long.socket.end()
  const knocks = setInterval(
    () =>
      createConnection({ path: on.socket })
        .on('error', () => {})
        .destroy(),
    50,
  )
  await on.broker.ended
  clearInterval(knocks)
})

test('root’s file about a cache', () => {
  assert.is(brokersCache('/run/nix-lan/rpi.sock'), 'rpi')
  for (const other of ['/run/nix-lan/a/b.sock', '/run/user/1000/nix-lan/rpi.sock', '/run/nix-lan/.sock', 'rpi'])
    assert.is(brokersCache(other), undefined)
  if (process.getuid?.() !== 0) return // only root's files are believed
  const file = `${FOLDER}/settings`
  const write = (text: string): void => writeFileSync(file, text)
  write('user=alice\n')
  assert.equal(readSettings(file), { user: 'alice', deadline: 2000, patience: 60_000 })
  write('# a comment\n\nuser=alice\ndeadline=0.5\npatience=0\n')
  assert.equal(readSettings(file), { user: 'alice', deadline: 500, patience: 0 })
  for (const [text, told] of [
    ['', /no line user=/],
    ['user=alice\ndeadline=soon\n', /deadline=soon: give seconds/],
    ['user=alice\npatience=-1\n', /patience=-1: give seconds/],
    ['user=alice\nsocket=/tmp/x\n', /"socket=\/tmp\/x" is none of/],
  ] as const) {
    write(text)
    assert.throws(() => readSettings(file), told)
  }
  write('user=alice\n')
  chmodSync(file, 0o664)
  assert.throws(() => readSettings(file), /nobody else can write/)
  assert.throws(() => readSettings(FOLDER), /can't be read|must be a small file/)
  assert.throws(() => readSettings(`${FOLDER}/none`), /can't be read/)
})

test.run()
