// nix-lan setup --undo without its markers or its record: the lines that it finds, and what it
// takes for its own.
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { bothHooks, keysInBlock, linesOf } from '../../scripts/setup/conf.ts'
import { foundRecord, foundUser, prefixIn } from '../../scripts/setup/found.ts'
import { systemLayout } from '../../scripts/setup/layout.ts'
import { cleaningOf, type Removed } from '../../scripts/setup/mentions.ts'
import { mustBeCleanable } from '../../scripts/setup/undo.ts'

const TMP = mkdtempSync(`${tmpdir()}/nix-lan-undo-`)
process.on('exit', () => rmSync(TMP, { recursive: true, force: true }))

const URL = 'ssh-ng://localhost?remote-program=/usr/local/bin/nix-lan-connect%20/run/user/1000/nix-lan/pi.sock'
const HOOK = '/usr/local/lib/nix-lan/post-build-hook'
const BOTH = '/etc/nix-lan/post-build-hook'
const SECRET = '/etc/nix/nix-lan.secret'
const PUBLIC = `laptop-1:${'k'.repeat(43)}=`
const BLOCK = [
  `extra-substituters = ${URL}`,
  `extra-trusted-public-keys = ${PUBLIC}`,
  `secret-key-files = ${SECRET}`,
  `post-build-hook = ${HOOK}`,
  'fallback = true',
].join('\n')
const REMOVED: Removed = {
  connect: '/usr/local/bin/nix-lan-connect',
  hooks: [HOOK, BOTH],
  formerHook: undefined,
  secretKey: SECRET,
  publicKeys: [PUBLIC],
  directories: ['/usr/local/lib/nix-lan'],
}
const TOP = '/etc/nix/nix.conf'
const cleaned = (text: string, removed: Partial<Removed> = {}, files: Record<string, string> = {}) =>
  cleaningOf(TOP, (path) => (path === TOP ? text : files[path]), { ...REMOVED, ...removed })

// ---- lines

const lines = suite('undo: lines that name what goes')

for (const [name, before, after] of [
  ['the block', `a = 1\n# nix-lan begin\n${BLOCK}\n# nix-lan end\nb = 2\n`, 'a = 1\nb = 2\n'],
  ['the block without its markers', `a = 1\n${BLOCK}\nb = 2\n`, 'a = 1\nb = 2\n'],
  ['the block, and the same lines again', `# nix-lan begin\n${BLOCK}\n# nix-lan end\n${BLOCK}\n`, ''],
  ['fallback that stands elsewhere is somebody’s wish', `fallback = true\n${BLOCK}\n`, 'fallback = true\n'],
  ['among other substituters', `substituters = https://a ${URL} https://b # mine\n`, 'substituters = https://a https://b # mine\n'],
  ['a list that is replaced stays replaced', `substituters = ${URL}\n`, 'substituters =\n'],
  ['an addition of nothing goes', `extra-substituters = ${URL}\n`, ''],
  ['with several connections', `extra-substituters = ${URL.replace('?', '?max-connections=4&')}\n`, ''],
  ['trusted only', `trusted-substituters = ${URL} https://a\n`, 'trusted-substituters = https://a\n'],
  ['among other keys', `trusted-public-keys = ${PUBLIC} a:b=\n`, 'trusted-public-keys = a:b=\n'],
  ['among other secret keys', `secret-key-files = /root/k ${SECRET}\n`, 'secret-key-files = /root/k\n'],
  ['escaped', `extra-substituters = ${URL.replaceAll('/usr/local', '%2Fusr%2Flocal')}\n`, ''],
  ['indented', `  post-build-hook = ${HOOK}  # x\n`, ''],
  ['a comment that names it', `# post-build-hook = ${HOOK}\n`, `# post-build-hook = ${HOOK}\n`],
  ['by hand, from another place', `extra-substituters = ${URL.replace('/usr/local/bin', '/opt/dist')}\n`, undefined],
  ['a hook of somebody else’s', 'post-build-hook = /etc/hook\n', undefined],
  ['a key of another name', 'secret-key-files = /etc/nix/nix-lan.secret.old\n', undefined],
  ['no line end', `a = 1\npost-build-hook = ${HOOK}`, 'a = 1'],
] as const) {
  lines(name, () => {
    const { texts, unclear } = cleaned(before)
    assert.is(texts.get(TOP), after === before ? undefined : after)
    assert.equal(unclear, [])
  })
}

lines('each line that goes is named by file and number', () => {
  const { lines: found } = cleaned(`a = 1\n${BLOCK}\n`)
  assert.equal(
    found.map(({ file, number, text }) => `${file}:${number}: ${text}`),
    BLOCK.split('\n').map((text, i) => `${TOP}:${i + 2}: ${text}`),
  )
})

lines('in any file that is included', () => {
  const files = { '/etc/nix/more.conf': `${BLOCK}\n!include deep/x.conf\n`, '/etc/nix/deep/x.conf': `a = 1\npost-build-hook = ${HOOK}\n` }
  const { texts } = cleaned('include more.conf\n!include missing.conf\ninclude nix.conf\n', {}, files)
  assert.equal(
    [...texts],
    [
      ['/etc/nix/more.conf', '!include deep/x.conf\n'],
      ['/etc/nix/deep/x.conf', 'a = 1\n'],
    ],
  )
})

for (const text of [
  `post-build-hook = ${HOOK} --verbose`,
  `store = ${URL}`,
  `builders = ${URL} x86_64-linux`,
  'include /usr/local/lib/nix-lan/nix.conf',
  `substituters = https://x?program=${HOOK}`,
]) {
  lines(`not taken apart, but named: ${text}`, () => {
    const { texts, unclear } = cleaned(`a = 1\n${text}\n`)
    assert.equal(unclear, [{ file: TOP, number: 2, text }])
    assert.is(texts.size, 0)
  })
}

lines('the hook that ours called stays the hook', () => {
  const both = `post-build-hook = ${BOTH}\n`
  const removed = { formerHook: '/etc/mine' }
  assert.is(cleaned(both, removed).texts.get(TOP), 'post-build-hook = /etc/mine\n')
  assert.is(cleaned(`post-build-hook = /etc/mine\n${both}`, removed).texts.get(TOP), 'post-build-hook = /etc/mine\n')
  assert.is(cleaned(`# nix-lan begin\n${both}# nix-lan end\n`, removed).texts.get(TOP), '')
})

lines('what was there before setup came stays', () => {
  assert.is(cleaned(`extra-substituters = ${URL}\n`, { connect: undefined, directories: [] }).texts.size, 0)
})

lines('a block without an end is not guessed at', () => {
  assert.throws(() => cleaned('# nix-lan begin\nx = y\n'), '/etc/nix/nix.conf:1:')
})

lines('lines of the block are known by their place, not by their text', () => {
  const text = 'a = 1\n# nix-lan begin\na = 1\n# nix-lan end\na = 1'
  assert.equal(
    linesOf(text, TOP).map(({ ours }) => ours),
    [false, true, true, true, false],
  )
  assert.equal(
    keysInBlock(`extra-trusted-public-keys = a:b=\n# nix-lan begin\nextra-trusted-public-keys = c:d= e:f=\n# nix-lan end\n`, TOP),
    ['c:d=', 'e:f='],
  )
})

lines('a line in the user’s own nix.conf is named, and nothing is changed', () => {
  const system = cleaned('')
  const own = (text: string) => cleaningOf('/home/alice/.config/nix/nix.conf', () => text, REMOVED)
  mustBeCleanable(system, { single: false }, own('cores = 4\n'))
  for (const text of [`cores = 4\nextra-substituters = ${URL}\n`, `cores = 4\nbuild-hook = ${HOOK} x\n`])
    assert.throws(
      () => mustBeCleanable(system, { single: false }, own(text)),
      /Nothing was changed\.\n {2}\/home\/alice\/\.config\/nix\/nix\.conf:2: /,
    )
})

lines.run()

// ---- without the record

const found = suite('undo: without a record')

for (const [text, prefix] of [
  [BLOCK, '/usr/local'],
  [`post-build-hook = /opt/nix-lan/lib/nix-lan/post-build-hook`, '/opt/nix-lan'],
  ['ExecStart=/opt/x/lib/nix-lan/nix-lan check', '/opt/x'],
  ['post-build-hook = /etc/hook', undefined],
] as const) {
  found(`the prefix in ${text.slice(0, 50)}`, () => assert.is(prefixIn(['', text]), prefix))
}

/** What setup leaves, below a directory instead of /. */
function installed(): ReturnType<typeof systemLayout> {
  const root = mkdtempSync(`${TMP}/root-`)
  const layout = {
    ...systemLayout(`${root}/usr/local`),
    units: `${root}/units`,
    etc: `${root}/etc`,
    config: `${root}/etc/config.toml`,
    secretKey: `${root}/secret`,
    publicKey: `${root}/public`,
    dispatchers: `${root}/dispatcher.d`,
    tmpfiles: `${root}/tmpfiles.conf`,
  }
  const { lib, bin, units } = layout
  for (const path of [
    lib,
    `${lib}/systemd`,
    bin,
    `${units}/nix-lan-check.timer.d`,
    `${units}/nix-lan-network.path.d`,
    `${units}/timers.target.wants`,
    `${units}/paths.target.wants`,
    layout.etc,
    layout.dispatchers,
  ])
    mkdirSync(path, { recursive: true })
  const write = (path: string, text: string): void => writeFileSync(path, text)
  write(`${lib}/post-build-hook`, "#!/bin/sh\n':' // post-build-hook; set -f\n")
  write(`${lib}/systemd/x`, '')
  symlinkSync(`${lib}/nix-lan`, `${bin}/nix-lan`)
  symlinkSync('/opt/other', `${bin}/other`)
  symlinkSync(`${lib}/nix-lan-dispatcher`, `${layout.dispatchers}/90-nix-lan`)
  write(`${units}/nix-lan-check.service`, `ExecStart=${lib}/nix-lan check\n`)
  write(`${units}/nix-lan-check.timer`, '')
  write(`${units}/other.service`, '')
  write(`${units}/nix-lan-check.timer.d/user.conf`, '# Written by `nix-lan setup` for x.\n[Unit]\nConditionUser=0\n')
  symlinkSync(`${units}/nix-lan-check.timer`, `${units}/timers.target.wants/nix-lan-check.timer`)
  write(`${units}/nix-lan-network.path`, '')
  write(`${units}/nix-lan-network.path.d/user.conf`, '# Written by `nix-lan setup` for x.\n[Unit]\nConditionUser=0\n')
  symlinkSync(`${units}/nix-lan-network.path`, `${units}/paths.target.wants/nix-lan-network.path`)
  write(layout.tmpfiles, '# Written by `nix-lan setup`\n')
  write(layout.config, 'user = "somebody"\n')
  write(`${layout.etc}/post-build-hook`, bothHooks('/o', '/etc/mine'))
  write(layout.publicKey, `${PUBLIC}\n`)
  write(layout.secretKey, 'x')
  return layout
}

found('all that proves to be ours, and nothing else', () => {
  const layout = installed()
  const root = layout.prefix.replace('/usr/local', '')
  const user = { name: 'alice', uid: 1000, home: '/nonexistent' }
  const cache = { name: 'pi', ssh: 'me@pi', port: 22 } as Parameters<typeof foundRecord>[3][number]
  const record = foundRecord(layout, user, TOP, [cache])
  assert.ok(record)
  const own = record.entries.map(({ path }) => path).filter((path) => path.startsWith(root))
  assert.equal(
    own.map((path) => path.slice(root.length)).sort(),
    [
      '/dispatcher.d/90-nix-lan',
      '/etc',
      '/etc/post-build-hook',
      '/public',
      '/secret',
      '/tmpfiles.conf',
      '/units/nix-lan-check.service',
      '/units/nix-lan-check.timer',
      '/units/nix-lan-check.timer.d',
      '/units/nix-lan-check.timer.d/user.conf',
      '/units/nix-lan-network.path',
      '/units/nix-lan-network.path.d',
      '/units/nix-lan-network.path.d/user.conf',
      '/units/paths.target.wants/nix-lan-network.path',
      '/units/timers.target.wants/nix-lan-check.timer',
      '/usr/local/bin/nix-lan',
      '/usr/local/lib/nix-lan',
      '/usr/local/lib/nix-lan/post-build-hook',
      '/usr/local/lib/nix-lan/systemd',
      '/usr/local/lib/nix-lan/systemd/x',
    ],
    'not config.toml, which somebody wrote by hand',
  )
  assert.equal(record.box, [{ cache: 'pi', ssh: 'me@pi', port: 22, key: PUBLIC }])
  assert.ok(record.entries.every(({ before, ours }) => before.kind === 'missing' && ours.length === 1))
})

found('a directory of our name with another hook in it is not ours', () => {
  const layout = installed()
  writeFileSync(`${layout.lib}/post-build-hook`, '#!/bin/sh\ntrue\n')
  const record = foundRecord(layout, { name: 'alice', uid: 1000, home: '/nonexistent' }, TOP, [])
  assert.not.ok(record?.entries.some(({ path }) => path.startsWith(layout.lib)))
})

found('root is not taken for the user', () => {
  const layout = installed()
  chmodSync(`${layout.units}/nix-lan-check.timer.d/user.conf`, 0o644)
  assert.is(foundUser(layout), undefined)
})

found.run()
