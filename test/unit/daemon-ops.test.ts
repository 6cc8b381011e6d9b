// What a nix-daemon is asked, byte by byte, and a daemon that answers nonsense.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { Daemon, Refused } from '../../scripts/protocol/daemon-ops.ts'
import { errorAnswer, STDERR_LAST, string, strings, u64 } from '../../scripts/protocol/wire.ts'
import { boxOf } from '../lib/wire.ts'

const test = suite('operations of a daemon')
const LAST = u64(STDERR_LAST)

const A = '/nix/store/00000000000000000000000000000000-a'
const B = '/nix/store/11111111111111111111111111111111-b'
const info = (registered: number): Buffer =>
  Buffer.concat([string(''), string('ab'.repeat(32)), strings([B]), u64(registered), u64(120), u64(1), strings(['k:s']), string('')])

function daemonOf(...answers: Buffer[]): { daemon: Daemon; asked: () => Buffer } {
  const box = boxOf(Buffer.concat(answers))
  return { daemon: new Daemon(box, 'the box', 5000), asked: box.asked }
}

async function failure(what: Promise<unknown>): Promise<Error> {
  try {
    await what
  } catch (error) {
    return error as Error
  }
  throw new Error('nothing was thrown')
}

test('infos: all asked at once; what is not valid is left out, in both forms of the answer', async () => {
  const { daemon, asked } = daemonOf(LAST, u64(1), info(7), LAST, u64(0), errorAnswer(`path '${B}' is not valid`), LAST, u64(1), info(8))
  const infos = await daemon.infos([A, B, B, A])
  assert.equal([...infos.keys()], [A])
  assert.is(asked().length, 4 * (8 + string(A).length))
  const { registered, references, ultimate } = infos.get(A) ?? {}
  assert.equal([registered, references, ultimate], [8, [B], true])
})

test('a collection: the limit is 2^64−1, and liveness is never ignored', async () => {
  const { daemon, asked } = daemonOf(LAST, strings([A]), u64(1), u64(0))
  await daemon.delete([A])
  const most = Buffer.alloc(8, 0xff)
  assert.equal(asked(), Buffer.concat([u64(20), u64(3), strings([A]), u64(0), most, u64(0), u64(0), u64(0)]))
})

test('a text path: references sorted, the content in one frame', async () => {
  const { daemon, asked } = daemonOf(LAST, string(A), info(1))
  assert.is(await daemon.addText('name', 'hello', [B, A]), A)
  const frame = Buffer.concat([u64(5), Buffer.from('hello'), u64(0)])
  assert.equal(asked(), Buffer.concat([u64(7), string('name'), string('text:sha256'), strings([A, B]), u64(0), frame]))
})

test('what a box says comes without its colours', async () => {
  const said = errorAnswer("path '\u001b[35;1m/nix/store/x\u001b[0m' is not valid")
  assert.is((await failure(daemonOf(said).daemon.delete([A]))).message, "the box says: path '/nix/store/x' is not valid")
})

test('a refusal is told from a loss', async () => {
  assert.instance(await failure(daemonOf(errorAnswer('no')).daemon.delete([A])), Refused)
  const lost = await failure(daemonOf(LAST).daemon.delete([A]))
  assert.not.instance(lost, Refused)
  assert.match(lost.message, 'the box was lost')
})

const NONSENSE: [string, Buffer, (daemon: Daemon) => Promise<unknown>][] = [
  ['10^7 roots', Buffer.concat([LAST, u64(10_000_000), Buffer.alloc(2 ** 20)]), (daemon) => daemon.roots()],
  [
    'more paths than an answer may have',
    Buffer.concat([LAST, u64(2 ** 40), ...new Array(33).fill(string('x'.repeat(2 ** 21)))]),
    (daemon) => daemon.valid([A]),
  ],
  ['a string of 2^40 bytes', Buffer.concat([LAST, u64(1), u64(2 ** 40)]), (daemon) => daemon.valid([A])],
  ['an unknown message', u64(42), (daemon) => daemon.dead()],
]
for (const [what, answer, ask] of NONSENSE) {
  test(`a box that says ${what} is not listened to`, async () => {
    const error = await failure(ask(daemonOf(answer).daemon))
    assert.match(error.message, /^the box was lost: (it says that it has|an answer of more|a string of|a message of the unknown)/)
  })
}

test.run()
