// The queue's directories, the lock, the list, and how Nix's answers are read.
import { execFileSync, spawn } from 'node:child_process'
import {
  closeSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { Entry, Queue } from '../../scripts/queue/queue.ts'
import type { Lock } from '../../scripts/system/lock.ts'
import { needs } from '../lib/needs.ts'
import { until } from '../lib/until.ts'

const TMP = mkdtempSync(`${tmpdir()}/nix-lan-queue-`)
process.env.NIX_STATE_DIR = TMP // before paths.ts is loaded, hence the import()s
const { enqueue, putBack, readQueue, remove, setAside, strayQueues } = await import('../../scripts/queue/queue.ts')
const { batches, errorText, nixEnvironment, pathsInError } = await import('../../scripts/nix/nix.ts')
const { parsePathInfo } = await import('../../scripts/nix/path-info.ts')
const { isStoreName } = await import('../../scripts/nix/store-path.ts')
const { NOTHING_KNOWN, rowsOf, table } = await import('../../scripts/queue/list.ts')
const { isBusy, takeLock } = await import('../../scripts/system/lock.ts')
const { noKey, toSign } = await import('../../scripts/nix/signing.ts')

const H = '0123456789abcdfghijklmnpqrsvwxyz'
const QUEUE = `${TMP}/gcroots/nix-lan/queue/rpi`
const FAILED = `${TMP}/gcroots/nix-lan/failed/rpi`

function fresh(): void {
  rmSync(`${TMP}/gcroots`, { recursive: true, force: true })
  for (const dir of [QUEUE, FAILED]) mkdirSync(dir, { recursive: true })
}

const only = (entries: Entry[]): Entry => {
  const [entry] = entries
  if (!entry || entries.length !== 1) throw new Error(`${entries.length} entries`)
  return entry
}

const thrown = (action: () => unknown): string => {
  try {
    action()
  } catch (error) {
    return (error as Error).message
  }
  return 'nothing thrown'
}

const dirs = suite('queue directories')
dirs.before.each(fresh)
dirs.after(() => rmSync(TMP, { recursive: true, force: true }))

dirs('queues of caches that are not configured', () => {
  fresh()
  assert.equal(strayQueues(['rpi']), [])
  enqueue('rpi', `${H}-one`, 'me')
  mkdirSync(`${TMP}/gcroots/nix-lan/failed/second`)
  symlinkSync(`/nix/store/${H}-two`, `${TMP}/gcroots/nix-lan/failed/second/${H}-two`)
  writeFileSync(`${TMP}/gcroots/nix-lan/failed/second/.${H}-two`, 'why')
  symlinkSync('/tmp', `${TMP}/gcroots/nix-lan/queue/link`)
  const second = { cache: 'second', queued: 0, failed: 1 }
  assert.equal(strayQueues(['rpi']), [second])
  assert.equal(strayQueues([]), [{ cache: 'rpi', queued: 1, failed: 0 }, second])
  rmSync(`${TMP}/gcroots`, { recursive: true })
  assert.equal(strayQueues([]), [])
})

dirs('an entry is a link to its store path; once is enough', () => {
  assert.is(enqueue('rpi', `${H}-a`, 'alice'), true)
  assert.is(enqueue('rpi', `${H}-a`, 'alice'), false)
  assert.is(readlinkSync(`${QUEUE}/${H}-a`), `/nix/store/${H}-a`)
  const entry = only(readQueue('rpi', 'alice').queued)
  assert.equal([entry.path, entry.state], [`/nix/store/${H}-a`, 'queued'])
  assert.ok(Math.abs(entry.added - Date.now()) < 60_000)
})

dirs('set aside and put back: never in neither place, the reason beside it', () => {
  enqueue('rpi', `${H}-a`, 'alice')
  setAside(only(readQueue('rpi', 'alice').queued), 'because', 'alice')
  const after = readQueue('rpi', 'alice')
  assert.equal([after.queued.length, only(after.failed).reason], [0, 'because'])
  assert.is(readlinkSync(`${FAILED}/${H}-a`), `/nix/store/${H}-a`)
  assert.is(putBack(only(after.failed), 'alice'), true)
  assert.is(putBack(only(after.failed), 'alice'), false)
  assert.equal([readQueue('rpi', 'alice').queued.length, readdirSync(FAILED)], [1, []])
})

dirs('an entry that failed before fails again: the newer reason stands', () => {
  for (const reason of ['first', 'second']) {
    enqueue('rpi', `${H}-a`, 'alice')
    setAside(only(readQueue('rpi', 'alice').queued), reason, 'alice')
  }
  assert.is(only(readQueue('rpi', 'alice').failed).reason, 'second')
})

dirs('remove takes a link only if it is what it was', () => {
  enqueue('rpi', `${H}-a`, 'alice')
  const entry = only(readQueue('rpi', 'alice').queued)
  rmSync(`${QUEUE}/${H}-a`)
  symlinkSync('/somewhere', `${QUEUE}/${H}-a`)
  assert.is(remove(entry, 'alice'), false)
  assert.is(readlinkSync(`${QUEUE}/${H}-a`), '/somewhere')
  setAside(entry, 'because', 'alice')
  assert.is(readlinkSync(`${QUEUE}/${H}-a`), '/somewhere')
})

dirs('junk is named, not followed, not an entry; failed ones keep their notes out of sight', () => {
  symlinkSync('..', `${QUEUE}/${H}-loop`)
  symlinkSync(`/nix/store/${H}-b`, `${QUEUE}/${H}-other`)
  symlinkSync('/nowhere', `${QUEUE}/dangling`)
  writeFileSync(`${QUEUE}/file`, '')
  mkdirSync(`${FAILED}/folder`)
  writeFileSync(`${FAILED}/.note`, '')
  const { queued, failed, junk } = readQueue('rpi', 'alice')
  assert.equal([queued, failed], [[], []])
  assert.equal(Object.fromEntries(junk.map(({ file, what }) => [file.slice(TMP.length + '/gcroots/nix-lan/'.length), what])), {
    [`queue/rpi/${H}-loop`]: 'a link to ..',
    [`queue/rpi/${H}-other`]: `a link to /nix/store/${H}-b`,
    'queue/rpi/dangling': 'a link to /nowhere',
    'queue/rpi/file': 'not a link',
    'failed/rpi/folder': 'a directory',
  })
})

dirs('a note that is a link, a fifo or a folder is not opened', () => {
  symlinkSync(`/nix/store/${H}-a`, `${FAILED}/${H}-a`)
  for (const plant of [() => symlinkSync('/etc/passwd', `${FAILED}/.${H}-a`), () => mkdirSync(`${FAILED}/.${H}-a`)]) {
    plant()
    assert.is(only(readQueue('rpi', 'alice').failed).reason, '')
    rmSync(`${FAILED}/.${H}-a`, { recursive: true })
  }
})

dirs('something in the way of an entry', () => {
  symlinkSync('/elsewhere', `${QUEUE}/${H}-a`)
  assert.match(
    thrown(() => enqueue('rpi', `${H}-a`, 'alice')),
    'is in the way',
  )
})

dirs('no directories: how to make them', () => {
  rmSync(QUEUE, { recursive: true })
  for (const action of [() => readQueue('rpi', 'alice'), () => enqueue('rpi', `${H}-a`, 'alice')]) {
    assert.is(thrown(action), `there is no queue for rpi yet; make it with: sudo install -d -o alice ${QUEUE} ${FAILED}`)
  }
})

dirs('no directory for what failed: the entry stays queued', () => {
  enqueue('rpi', `${H}-a`, 'alice')
  rmSync(FAILED, { recursive: true })
  const entry = only(readQueue('rpi', 'alice').queued)
  assert.match(
    thrown(() => setAside(entry, 'because', 'alice')),
    'install -d',
  )
  assert.ok(lstatSync(`${QUEUE}/${H}-a`).isSymbolicLink())
})

dirs('20,000 entries are read in a moment', () => {
  for (let i = 0; i < 20_000; i++) symlinkSync(`/nix/store/${H}-${i}`, `${QUEUE}/${H}-${i}`)
  const start = Date.now()
  const queue = readQueue('rpi', 'alice')
  assert.is(queue.queued.length, 20_000)
  assert.is(table(rowsOf('rpi', queue, NOTHING_KNOWN), Date.now()).split('\n').length, 20_002)
  assert.ok(Date.now() - start < 20_000, 'only something quadratic takes so long')
})

dirs.run()

const locks = suite('lock')

locks('one at a time; the other learns who and since when; free again after release', async () => {
  const file = `${mkdtempSync(`${TMP}-lock`)}/lock`
  const first = await takeLock(file)
  assert.not(isBusy(first))
  const second = await takeLock(file)
  assert.ok(isBusy(second) && second.pid === process.pid && Math.abs((second.since ?? 0) - Date.now()) < 60_000)
  await (first as Lock).release()
  const third = await takeLock(file)
  assert.not(isBusy(third))
  await (third as Lock).release()
  rmSync(file.replace(/\/lock$/, ''), { recursive: true })
})

locks('a lock whose holder was killed is free', async () => {
  const dir = mkdtempSync(`${TMP}-lock`)
  // A shell in our place holds it in the same way: flock around a cat whose stdin is a pipe from
  // it.
  const holder = spawn('sh', [
    '-c',
    `mkfifo ${dir}/p; flock -n ${dir}/lock sh -c 'echo locked; exec cat' <${dir}/p & exec 9>${dir}/p; exec sleep 60`,
  ])
  await new Promise((resolve) => holder.stdout.once('data', resolve))
  assert.ok(isBusy(await takeLock(`${dir}/lock`)))
  holder.kill('SIGKILL')
  await until('the lock', async () => {
    const lock = await takeLock(`${dir}/lock`)
    if (isBusy(lock)) return false
    await lock.release()
    return true
  })
  rmSync(dir, { recursive: true })
})

locks('a place where there can be no lock', async () => {
  let message = ''
  await takeLock(`${TMP}/no/such/dir`).catch((error) => {
    message = error.message
  })
  assert.match(message, /can't be locked \(.*No such file/)
})

const message = (lock: Promise<unknown>): Promise<string> =>
  lock.then(
    () => 'locked',
    (error: Error) => error.message,
  )

locks('no file descriptors left: said so, not "this is a bug"', async () => {
  const limit = (soft: string): Buffer => execFileSync('prlimit', ['--pid', String(process.pid), `--nofile=${soft}:`])
  const before = execFileSync('prlimit', ['--pid', String(process.pid), '--nofile', '--output=SOFT', '--noheadings', '--raw'])
  const open: number[] = []
  limit('100')
  try {
    for (;;) open.push(openSync('/dev/null', 'r'))
  } catch {
    const said = await message(takeLock(`${TMP}/lock`))
    for (const file of open) closeSync(file)
    assert.is(said, "flock can't be started (EMFILE): too many files are open or too many processes run, see ulimit -a")
  } finally {
    limit(before.toString().trim())
  }
})

locks.run()

const full = needs(suite('a full /run'), 'root')

full('a lock that is there is taken all the same; one that has no room says whose disk it is', async () => {
  const dir = `${TMP}/full`
  mkdirSync(dir, { recursive: true })
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=4k,nr_inodes=3', 'nix-lan', dir])
  try {
    writeFileSync(`${dir}/there`, '')
    writeFileSync(`${dir}/full`, 'x'.repeat(4096)) // not the lock itself, which gives way to what is written to it
    const lock = await takeLock(`${dir}/there`)
    assert.not(isBusy(lock))
    await (lock as Lock).release()
    assert.match(
      await message(takeLock(`${dir}/new`)),
      `${dir}/new: can't be locked (flock: cannot open lock file ${dir}/new: No space left on device)`,
    )
  } finally {
    execFileSync('umount', [dir])
  }
})

full.run()

const nix = suite('nix')

nix('store names', () => {
  for (const name of [`${H}-a`, `${H}-a+b.c_d?e=f-1.0.drv`]) assert.ok(isStoreName(name), name)
  for (const name of [
    'a',
    `${H}-`,
    `${H}`,
    `${H}-a/b`,
    `${H}-a b`,
    `${'e'.repeat(32)}-a`,
    `.${H}-a`,
    `${H}-${'a'.repeat(212)}`,
    `${H}-a\n`,
  ])
    assert.not(isStoreName(name), name)
})

nix('batches fit, keep the order and lose nothing', () => {
  const paths = Array.from({ length: 1000 }, (_, i) => `/nix/store/${H}-${'x'.repeat(i % 50)}`)
  const groups = batches(paths, 5000)
  assert.equal(groups.flat(), paths)
  for (const group of groups) assert.ok(group.join(' ').length < 5000)
  assert.ok(groups.length < 16)
  assert.equal(batches([]), [])
  assert.equal(batches(['longer than the limit', 'b'], 5), [['longer than the limit'], ['b']])
})

nix('path-info, as Nix 2.8.0, 2.26.3 and 2.34.8 print it', () => {
  const path = `/nix/store/${H}-b`
  const table: [line: string, expected: ReturnType<typeof parsePathInfo>][] = [
    [`${path}\t        160\tultimate`, { path, info: { size: 160, ultimate: true, contentAddressed: false, signatures: [] } }],
    [`${path}    \t        160\t`, { path, info: { size: 160, ultimate: false, contentAddressed: false, signatures: [] } }],
    [
      `${path}\t 1\tultimate ca:text:sha256:0kb4 me-1:a+/= b:c`,
      { path, info: { size: 1, ultimate: true, contentAddressed: true, signatures: ['me-1:a+/=', 'b:c'] } },
    ],
    ['warning: something', null],
    ['', null],
  ]
  for (const [line, expected] of table) assert.equal(parsePathInfo(line), expected, line)
})

nix('what went wrong, from what Nix prints', () => {
  const path = `/nix/store/${H}-old`
  const table: [stderr: string, text: string, paths: string[]][] = [
    [
      `copying 1 paths...\ncopying path '/nix/store/${H}-b' to 'unix'...\nerror: cannot add path '${path}' because it lacks a valid signature\n`,
      `cannot add path '${path}' because it lacks a valid signature`,
      [path],
    ],
    ['warning: x\n\u001b[31;1merror:\u001b[0m unexpected end-of-file\n', 'unexpected end-of-file', []],
    [
      `error:\n       … while at\n\n       error: path '//nix/store/${H}-old' does not exist`,
      `… while at path '//nix/store/${H}-old' does not exist`,
      [path],
    ],
    ['', 'nix failed and did not say why', []],
    ['Segmentation fault', 'Segmentation fault', []],
  ]
  for (const [stderr, text, paths] of table) assert.equal([errorText(stderr), pathsInError(stderr)], [text, paths], stderr)
})

nix("a hook's NIX_CONFIG is not passed on, another one is", () => {
  assert.equal(nixEnvironment({ A: '1', NIX_CONFIG: 'cores = 1\npost-build-hook = /x\n' }), { A: '1' })
  assert.equal(nixEnvironment({ NIX_CONFIG: 'cores = 1' }), { NIX_CONFIG: 'cores = 1' })
})

nix('only what was built here is signed', () => {
  const base = { size: 1, ultimate: false, contentAddressed: false, signatures: [] as string[] }
  const infos = new Map([
    ['own', { ...base, ultimate: true }],
    ['signed', { ...base, ultimate: true, signatures: ['a:b'] }],
    ['ca', { ...base, ultimate: true, contentAddressed: true }],
    ['foreign', base],
  ])
  assert.equal(toSign(infos), { own: ['own'], foreign: ['foreign'] })
})

nix.run()

const lists = suite('list')

nix('without a key: what makes one, never a command that could replace one', () => {
  const begin = 'there is no key to sign with: nix.conf sets no secret-key-files;'
  assert.is(noKey(false), `${begin} sudo nix-lan setup makes a key or uses the one that is there (by hand: docs/by-hand.md)`)
  assert.is(
    noKey(true),
    `${begin} services.nix-lan.enable = true; in configuration.nix (nix/README.md has the rest) makes a key or uses the one that is there`,
  )
})

lists('states: invalid before failed before unsigned', () => {
  const entry = (name: string, state: Entry['state'], reason?: string): Entry => ({
    cache: 'rpi',
    name,
    path: `/p/${name}`,
    state,
    added: 0,
    ...(reason === undefined ? {} : { reason }),
  })
  const queue: Queue = {
    queued: [entry('a', 'queued'), entry('b', 'queued'), entry('c', 'queued')],
    failed: [entry('d', 'failed', 'boom')],
    junk: [{ file: '/q/x', what: 'not a link' }],
  }
  const rows = rowsOf('rpi', queue, {
    sizes: new Map([['/p/a', 7]]),
    unsigned: new Set(['/p/b']),
    invalid: new Set(['/p/c']),
    broken: new Map(),
  })
  assert.equal(
    rows.map(({ state, path, size }) => [state, path, size]),
    [
      ['queued', '/p/a', 7],
      ['unsigned', '/p/b', null],
      ['invalid', '/p/c', null],
      ['failed', '/p/d', null],
      ['junk', '/q/x', null],
    ],
  )
  assert.is(table(rows.slice(0, 1), 65_000), 'STATE   AGE  SIZE  PATH\n' + 'queued  65s   7 B  /p/a\n')
  const failed = 'STATE   AGE  SIZE  PATH\n' + 'failed  65s     -  /p/d\n' + '    boom\n'
  assert.is(table(rows.slice(3, 4), 65_000), failed)
  assert.is(table([], 0), '')
})

lists.run()
