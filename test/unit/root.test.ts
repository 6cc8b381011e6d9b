// What root does where somebody else could have prepared something: setup's files, record and
// directories, and what it starts.
import { spawn, spawnSync } from 'node:child_process'
import {
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { Failure } from '../../scripts/cli/errors.ts'
import { newSecretKey } from '../../scripts/nix/keys.ts'
import { readText } from '../../scripts/nix/nix-conf.ts'
import { fixScript, restoreScript } from '../../scripts/setup/box.ts'
import { bothHooks, formerIn } from '../../scripts/setup/conf.ts'
import { attempt } from '../../scripts/setup/dialogue.ts'
import { inspect, put, type Want } from '../../scripts/setup/files.ts'
import { emptyRecord, extended, readRecord } from '../../scripts/setup/record.ts'
import { mustBeUtf8 } from '../../scripts/setup/setup.ts'
import { textOf } from '../../scripts/setup/show.ts'
import { nixConfRestoration } from '../../scripts/setup/undo.ts'
import { runAs } from '../../scripts/system/as-user.ts'
import { fetchedBy, Transfers } from '../../scripts/system/transfers.ts'
import { needs } from '../lib/needs.ts'

const TMP = mkdtempSync(`${tmpdir()}/nix-lan-root-`)
process.on('exit', () => rmSync(TMP, { recursive: true, force: true }))
let number = 0
const fresh = (): string => {
  const directory = `${TMP}/${number++}`
  mkdirSync(directory, { mode: 0o755 })
  return directory
}
const messageOf = (act: () => unknown): string => {
  try {
    act()
  } catch (error) {
    return (error as Error).message
  }
  return 'no error'
}
const NOBODY = { name: 'nobody', uid: 65534, home: '/nonexistent', env: {} }
const SELF = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 }

const any = suite('whoever runs it')

any('a shared directory that is there is not recorded: its mode is not put back to what it was', () => {
  const directory = fresh()
  const want: Want = { path: directory, kind: 'directory', mode: 0o755, ...SELF, shared: true }
  const missing: Want = { ...want, path: `${directory}/new` }
  const { entries } = extended(emptyRecord(NOBODY, '/usr/local', '/etc/nix/nix.conf'), [want, missing], inspect)
  assert.equal(
    entries.map(({ path }) => path),
    [missing.path],
  )
})

any('a write that fails leaves nothing, and what was there', () => {
  const directory = fresh()
  mkdirSync(`${directory}/x/full`, { recursive: true }) // rename(2) can't replace it
  const want: Want = { path: `${directory}/x`, kind: 'file', content: Buffer.from('new'), mode: 0o644, ...SELF }
  assert.match(
    messageOf(() => put(want)),
    "can't be written (EISDIR)",
  )
  assert.equal(readdirSync(directory), ['x'])
})

any('a hook for both that an earlier setup wrote is known by its text, however odd the path in it', () => {
  for (const former of ['/etc/mine', "/etc/it's mine", "/a''b"]) assert.is(formerIn(bothHooks('/ours', former)), former)
  for (const text of ['', '#!/bin/sh\nexec /etc/mine\n', "#!/bin/sh\nexec '/etc/mine'\n"]) assert.is(formerIn(text), undefined)
})

any('what isn’t UTF-8 is not written back as something else', () => {
  const latin1 = Buffer.from('# Gr\xfc\xdfe\nx = y\n', 'latin1')
  assert.match(
    messageOf(() => mustBeUtf8('/etc/nix/nix.conf', latin1)),
    '/etc/nix/nix.conf: is not UTF-8',
  )
  mustBeUtf8('/etc/nix/nix.conf', Buffer.from('# Grüße\n'))
  const now = Buffer.concat([latin1, Buffer.from('# nix-lan begin\na = b\n# nix-lan end\n')])
  const { want } = nixConfRestoration(
    { path: '/x', before: { kind: 'missing' }, ours: [] },
    { kind: 'file', content: now, mode: 0o644, ...SELF, mtime: 5 },
    () => Buffer.from(''),
  )
  assert.equal(want?.kind === 'file' && want.content, latin1)
})

any('a box’s words in the plan don’t drive the terminal', () => {
  const text = textOf([{ title: 'change /etc/nix\u001b[2J\u009bK.conf', rank: 0, lines: ['+\u0085x\r'] }], false)
  assert.is(text, '  change /etc/nix?[2J?K.conf\n      +?x?\n')
})

any('a home that can’t be looked into has all it needs', () => {
  const { home } = emptyRecord({ ...NOBODY, home: `${'x'.repeat(300)}` }, '/usr/local', 'x') // ENAMETOOLONG
  assert.equal(home, [])
})

any('a script for the box that fails leaves nothing there', () => {
  const needs = { keys: ['a-1:KEY='] }
  for (const script of [fixScript(needs, '/c', 'laptop'), restoreScript({ cache: 'c', ssh: 's', port: 22, conf: '/c', key: 'a-1:KEY=' })])
    assert.match(script, `trap 'rm -f -- "$conf.nix-lan-new"' EXIT`)
})

any('a FIFO in the place of a nix.conf keeps nobody waiting', () => {
  const fifo = `${fresh()}/nix.conf`
  assert.is(spawnSync('mkfifo', [fifo]).status, 0)
  const writer = spawn('sh', ['-c', 'sleep 60; echo late >"$0"', fifo], { stdio: 'ignore' })
  try {
    assert.not.match(readText(fifo) ?? '', 'late')
  } finally {
    writer.kill()
  }
  assert.is(readText(fresh()), undefined) // a directory
  assert.match(readText('/proc/self/status') ?? '', 'Name:')
})

any('a step of --undo that hangs on the user’s systemd is a line, and the others are done', async () => {
  const written: string[] = []
  const { write } = process.stdout
  process.stdout.write = ((text: string) => written.push(text) > 0) as typeof write
  try {
    assert.is(await attempt('stopped', async () => {}), 0)
    assert.is(await attempt('stopped', () => Promise.reject(new Failure('no answer'))), 1)
    const bug = await attempt('x', () => Promise.reject(new Error('bug'))).catch((error) => error.message)
    assert.is(bug, 'bug')
  } finally {
    process.stdout.write = write
  }
  assert.equal(written, ['  done: stopped\n', '  not done: no answer\n'])
})

any.run()

const root = needs(suite('as root'), 'root', 'runuser', 'setpriv')

root('a link or a file in a directory’s place is given to nobody', () => {
  for (const kind of ['link', 'file'] as const) {
    const directory = fresh()
    const secret = `${directory}/secret`
    const path = `${directory}/queue`
    writeFileSync(secret, '', { mode: 0o600 })
    if (kind === 'link') symlinkSync(secret, path)
    else writeFileSync(path, '', { mode: 0o600 })
    assert.match(
      messageOf(() => put({ path, kind: 'directory', mode: 0o755, uid: 65534, gid: 0 })),
      `${path}: can't be written`,
    )
    for (const file of [secret, path]) assert.equal([statSync(file).uid, statSync(file).mode & 0o777], [0, 0o600], `${kind} ${file}`)
  }
})

root('a link to a directory is not followed either', () => {
  const directory = fresh()
  mkdirSync(`${directory}/roots`, { mode: 0o700 })
  symlinkSync(`${directory}/roots`, `${directory}/queue`)
  assert.match(
    messageOf(() => put({ path: `${directory}/queue`, kind: 'directory', mode: 0o777, uid: 65534, gid: 0 })),
    "can't be written",
  )
  assert.equal([statSync(`${directory}/roots`).uid, statSync(`${directory}/roots`).mode & 0o777], [0, 0o700])
})

root('a record that somebody else could have written is not believed', () => {
  const directory = fresh()
  const file = `${directory}/setup.json`
  writeFileSync(file, '{"user":"a","entries":[]}', { mode: 0o644 })
  assert.is(readRecord(file)?.user, 'a')
  chownSync(file, 65534, 0)
  assert.match(
    messageOf(() => readRecord(file)),
    'not read as root',
  )
  chownSync(file, 0, 0)
  chownSync(directory, 65534, 0)
  assert.match(
    messageOf(() => readRecord(file)),
    'not read as root',
  )
})

root('what is started as the user is in a session of its own, with nothing of our terminal, and can’t fill our memory', async () => {
  const told = await runAs(NOBODY, ['sh', '-c', 'cut -d" " -f6 /proc/$$/stat; readlink /proc/$$/fd/1'], { timeout: 20_000 })
  const [session, stdout] = told.stdout.split('\n')
  assert.is.not(session, readFileSync('/proc/self/stat', 'utf8').split(' ')[5])
  assert.match(stdout ?? '', /^(pipe|socket):/)
  const shown = await runAs(NOBODY, ['sh', '-c', 'readlink /proc/$$/fd/2'], { inherit: ['stderr'] })
  assert.match(shown.stdout, /^(pipe|socket):/)
  assert.is.not(shown.stdout.trim(), readlinkSync('/proc/self/fd/2'))
  const flood = await runAs(NOBODY, ['sh', '-c', 'exec yes'], { timeout: 60_000 })
  assert.ok(flood.timedOut)
  assert.ok(flood.stdout.length <= 2 ** 24)
})

root('counts are everybody’s to read, whatever the umask', () => {
  const directory = `${fresh()}/nix-lan`
  const before = process.umask(0o077)
  try {
    new Transfers(fetchedBy('/s'), directory).add(1, 1)
  } finally {
    process.umask(before)
  }
  assert.is(statSync(directory).mode & 0o777, 0o755)
})

const withNix = needs(suite('as root, with a Nix'), 'root', 'nix')

withNix('a new key is not made where TMPDIR says', async () => {
  const theirs = fresh()
  const before = process.env.TMPDIR
  process.env.TMPDIR = `${theirs}/not-there`
  try {
    assert.match(await newSecretKey('test-1'), /^test-1:/)
  } finally {
    if (before === undefined) delete process.env.TMPDIR
    else process.env.TMPDIR = before
  }
  assert.not(existsSync(`${theirs}/not-there`))
  assert.equal(
    readdirSync('/run').filter((name) => name.startsWith('nix-lan-key-')),
    [],
  )
})

withNix('a key is made although the PATH of sudo has no Nix', async () => {
  const before = process.env.PATH
  process.env.PATH = '/nonexistent'
  try {
    assert.match(await newSecretKey('test-2'), /^test-2:/)
  } finally {
    process.env.PATH = before
  }
})

withNix.run()
root.run()
