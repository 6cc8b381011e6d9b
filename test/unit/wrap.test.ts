// What nix-lan-run decides, as tables: how nix.conf is read, which entry means which cache, what
// NIX_CONFIG gets, which program is meant.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { canonical, kinship } from '../../scripts/config/kinship.ts'
import type { SshCache, UrlCache } from '../../scripts/config/types.ts'
import { namedSubstituters, parseNixConf, readNixConf, substitutersOf } from '../../scripts/nix/nix-conf.ts'
import { explain } from '../../scripts/wrapper/explain.ts'
import { type Candidate, callsUsFor, findCommand, readInvocation } from '../../scripts/wrapper/program.ts'
import { appendix, type CacheFacts, drops, ignoredFor, planSubstituters } from '../../scripts/wrapper/substituters.ts'

const NIXOS = 'https://cache.nixos.org/'
const SOCKET = '/run/user/1000/nix-lan/rpi.sock'
const CONNECT = `ssh-ng://localhost?remote-program=/opt/nix-lan-connect%20${SOCKET}`
const NAS = 'http://nas.local:5000'

const RPI: SshCache = {
  kind: 'ssh',
  name: 'rpi',
  host: 'box.local',
  ssh: 'pi@pi4',
  port: 22,
  daemonSocket: '/nix/var/nix/daemon-socket/socket',
  envFile: '/home/a/.bashrc',
  derivations: true,
  exclude: [],
  keep: 60,
  deadline: 2000,
  patience: 60_000,
}
const NAS_CACHE: UrlCache = { kind: 'url', name: 'nas', url: NAS, deadline: 2000 }
const YES = { ok: true as const, address: 'there', ms: 3 }
const NO = { ok: false as const, reason: 'away', ms: 3 }

const rpi = (more: Partial<CacheFacts> = {}): CacheFacts => ({
  cache: RPI,
  socket: SOCKET,
  url: { ok: true, text: CONNECT },
  usable: YES,
  ...more,
})
const nas = (more: Partial<CacheFacts> = {}): CacheFacts => ({
  cache: NAS_CACHE,
  socket: '',
  url: { ok: true, text: NAS },
  usable: YES,
  ...more,
})
const conf = (text: string) => parseNixConf(text, '/etc/nix/nix.conf', () => undefined)

const reading = suite('nix.conf')
for (const [text, expected] of [
  ['', [NIXOS]],
  ['substituters = a b', ['a', 'b']],
  ['substituters=a', [NIXOS]], // Nix wants spaces around the sign, and refuses this line
  ['extra-substituters = a', [NIXOS, 'a']],
  ['extra-substituters = a\nsubstituters = b', ['b']],
  ['substituters = b\n  extra-substituters =\ta  c  ', ['b', 'a', 'c']],
  ['binary-caches = b\nextra-binary-caches = c', ['b', 'c']],
  ['substituters =', []],
  ['# substituters = a', [NIXOS]],
  ['substituters = a # b', ['a']],
  ['trusted-substituters = a', [NIXOS]],
  ['substituters = a\r\nsandbox = false\r\n', ['a']],
] as [string, string[]][]) {
  reading(`in force: ${JSON.stringify(text)}`, () => assert.equal(substitutersOf(conf(text)), expected))
}
reading('a substituter that a later line takes back is named all the same', () => {
  assert.equal(
    namedSubstituters(conf('substituters = a\nsubstituters = b')).map(({ url }) => url),
    ['a', 'b'],
  )
})
reading('included files count where they stand, relative to the file; a missing one and a loop end', () => {
  const files: Record<string, string> = {
    '/etc/nix/x/more.conf': 'extra-substituters = m\n!include ../last',
    '/etc/nix/last': 'substituters = l\ninclude last',
  }
  const found = parseNixConf(
    'substituters = a\n!include x/more.conf\n!include none\nextra-substituters = z',
    '/etc/nix/nix.conf',
    (path) => files[path],
  )
  assert.equal(substitutersOf(found), ['l', 'z'])
  assert.equal(found[1], { key: 'extra-substituters', values: ['m'], where: '/etc/nix/x/more.conf' })
})
reading('files that include themselves, or each other, many times are read a bounded number of times', () => {
  for (const files of [
    { '/etc/nix/nix.conf': 'include nix.conf\ninclude nix.conf\ntrusted-users = a' },
    Object.fromEntries(Array.from({ length: 25 }, (_, n) => [`/etc/nix/${n || 'nix.conf'}`, `!include ${n + 1}\n!include ${n + 1}`])),
  ] as Record<string, string>[]) {
    let reads = 0
    const read = (path: string): string | undefined => {
      reads++
      return files[path]
    }
    const found = parseNixConf(read('/etc/nix/nix.conf') ?? '', '/etc/nix/nix.conf', read)
    assert.ok(reads <= 1001, `${reads} reads`)
    assert.ok(found.length <= 1)
  }
})
for (const [name, env, order] of [
  ['defaults', { XDG_CONFIG_HOME: '/h' }, ['/etc/nix', '/etc/xdg/nix', '/h/nix', 'NIX_CONFIG']],
  ['XDG_CONFIG_DIRS', { XDG_CONFIG_HOME: '/h', XDG_CONFIG_DIRS: '/x:/y' }, ['/etc/nix', '/y/nix', '/x/nix', '/h/nix', 'NIX_CONFIG']],
  ['NIX_CONFIG_HOME', { XDG_CONFIG_HOME: '/h', NIX_CONFIG_HOME: '/n' }, ['/etc/nix', '/etc/xdg/nix', '/n', 'NIX_CONFIG']],
  ['NIX_CONF_DIR', { XDG_CONFIG_HOME: '/h', NIX_CONF_DIR: '/c' }, ['/c', '/etc/xdg/nix', '/h/nix', 'NIX_CONFIG']],
  ['NIX_USER_CONF_FILES', { NIX_USER_CONF_FILES: '/u/nix.conf:/v/nix.conf' }, ['/etc/nix', '/v', '/u', 'NIX_CONFIG']],
  ['NIX_USER_CONF_FILES, empty', { NIX_USER_CONF_FILES: '' }, ['/etc/nix', 'NIX_CONFIG']],
] as [string, NodeJS.ProcessEnv, string[]][]) {
  reading(`the order of the files: ${name}`, () => {
    const read = (path: string) => (path.endsWith('/nix.conf') ? 'substituters = x' : undefined)
    const { all, system } = readNixConf({ ...env, NIX_CONFIG: 'substituters = y' }, read)
    assert.equal(
      all.map(({ where }) => where.replace(/\/nix\.conf$/, '')),
      order,
    )
    assert.equal(system.length, 1)
  })
}
reading.run()

const meaning = suite('which entry means which cache')
for (const [url, expected] of [
  [CONNECT, 'connect'],
  [`ssh-ng://localhost?max-connections=4&remote-program=/usr/local/bin/nix-lan-connect%20${SOCKET}`, 'connect'],
  ['ssh-ng://localhost/?remote-program=/opt/nix-lan-connect%20rpi&trusted=false', 'connect'],
  ['ssh-ng://localhost?remote-program=/opt/nix-lan-connect%20/run/user/1000/nix-lan/other.sock', undefined],
  ['ssh-ng://localhost?remote-program=/opt/nix-lan-connect%20/run/nix-lan/rpi.sock', 'connect'],
  ['ssh-ng://localhost?remote-program=/opt/nix-lan-connect%20/run/nix-lan/other.sock', undefined],
  [`ssh-ng://localhost?remote-program=/opt/nix-lan-connect%20--patience%20120%20${SOCKET}`, 'connect'],
  [`ssh-ng://localhost?remote-program=/opt/nix-lan-connect%20${SOCKET}%20--patience%20120`, 'connect'],
  ['ssh-ng://localhost?remote-program=/opt/another%20rpi', undefined],
  ['ssh-ng://localhost', undefined],
  [`unix://${SOCKET}`, 'socket'],
  [`unix://${SOCKET}?priority=10`, 'socket'],
  ['unix:///tmp/rpi.sock', 'socket'],
  ['unix:///tmp/nix-rpi.sock', 'socket'],
  ['unix:///tmp/nix_daemon.box.local.socket', 'socket'],
  ['unix:///tmp/box.sock', 'socket'],
  ['unix:///tmp/rpi4.sock', undefined],
  ['unix:///tmp/rpi/other.sock', undefined],
  ['unix:///nix/var/nix/daemon-socket/socket', undefined],
  ['ssh-ng://pi@box.local', 'host'],
  ['ssh-ng://pi@BOX.local:2222/?priority=5', 'host'],
  ['ssh://pi4', 'host'],
  ['ssh-ng://pi@box.local.example.org', undefined],
  ['http://box.local:5000/', 'host'],
  [NAS, undefined],
  [NIXOS, undefined],
  ['/tmp/store', undefined],
] as [string, string | undefined][]) {
  meaning(`the box: ${url}`, () => assert.is(kinship(url, rpi()), expected))
}
for (const [url, expected] of [
  [NAS, 'url'],
  [`${NAS}/`, 'url'],
  [`${NAS}//?priority=10&want-mass-query=true`, 'url'],
  ['HTTP://NAS.local:5000', 'url'],
  ['http://nas.local:50001', undefined],
  ['http://nas.local:5000/sub', undefined],
  ['https://nas.local:5000', undefined],
  [CONNECT, undefined],
] as [string, string | undefined][]) {
  meaning(`a url cache: ${url}`, () => assert.is(kinship(url, nas()), expected))
}
for (const [url, expected] of [
  ['http://a:80/', 'http://a'],
  ['https://A:443/B/', 'https://a/B'],
  ['https://a:80', 'https://a:80'],
  ['http://[::1]:80/x?y=z', 'http://[::1]/x'],
  ['file:///A/b/', 'file:///A/b'],
  ['daemon', 'daemon'],
] as [string, string][]) {
  meaning(`canonical: ${url}`, () => assert.is(canonical(url), expected))
}
meaning.run()

const planning = suite('the line for NIX_CONFIG')
const settingOf = (facts: CacheFacts[], text: string, inForce?: string[]) => planSubstituters(facts, conf(text), inForce).setting
planning('what can be used is added, what cannot is not', () => {
  assert.is(settingOf([rpi(), nas()], ''), `extra-substituters = ${CONNECT} ${NAS}`)
  assert.is(settingOf([rpi({ usable: NO }), nas()], ''), `extra-substituters = ${NAS}`)
  assert.is(settingOf([rpi({ usable: NO }), nas({ usable: NO })], ''), undefined)
  assert.is(settingOf([], ''), undefined)
})
planning('what nix.conf has already is not added again, in whatever spelling', () => {
  assert.is(settingOf([rpi(), nas()], `substituters = ${CONNECT.replace('/opt/', '/usr/local/bin/')} ${NAS}/?priority=3`), undefined)
  assert.is(settingOf([rpi(), nas()], `substituters = ${CONNECT.replace('?', '?max-connections=4&')} ${NAS}`), undefined)
})
planning('what a later line took back is added', () => {
  assert.is(settingOf([nas()], `extra-substituters = ${NAS}\nsubstituters = ${NIXOS}`), `extra-substituters = ${NAS}`)
})
planning('our own URL in nix.conf is harmless when the box is away: nothing is left out, nix need not be asked', () => {
  const away = [rpi({ usable: NO })]
  assert.equal(drops(away, conf(`extra-substituters = ${CONNECT}`)), [])
  assert.is(settingOf(away, `extra-substituters = ${CONNECT}`), undefined)
})
planning('the tunnel of another user: nothing is added; where nix.conf names the cache, nix-daemon asks it for everybody', () => {
  const hidden = rpi({ usable: NO, hidden: true })
  for (const [text, action, reason] of [
    ['', 'leave out', ''],
    [`extra-substituters = ${CONNECT}`, 'there', 'nix-daemon asks it for everybody'],
  ] as const) {
    const { setting, decisions, dropped } = planSubstituters([hidden], conf(text), undefined)
    assert.equal([setting, dropped], [undefined, []])
    assert.equal([decisions[0]?.action, decisions[0]?.reason], [action, reason])
  }
})
planning('a cache that cannot be used and stands in nix.conf is left out of the list that nix told', () => {
  const text = `substituters = ${NIXOS} ${NAS}/`
  assert.equal(drops([nas({ usable: NO })], conf(text)), [{ url: `${NAS}/`, where: '/etc/nix/nix.conf', name: 'nas', reason: 'away' }])
  assert.is(settingOf([rpi(), nas({ usable: NO })], text, [NIXOS, `${NAS}/`]), `substituters = ${NIXOS} ${CONNECT}`)
  assert.is(settingOf([nas({ usable: NO })], text, [`${NAS}/?a=1&priority=3`]), 'substituters =')
})
planning('one that nix.conf names but that is not in force leaves the list alone', () => {
  assert.is(settingOf([rpi(), nas({ usable: NO })], `substituters = ${NAS}\nsubstituters = x`, ['x']), `extra-substituters = ${CONNECT}`)
})
planning('when nix could not be asked, nothing is left out', () => {
  assert.is(settingOf([rpi(), nas({ usable: NO })], `substituters = ${NAS}`), `extra-substituters = ${CONNECT}`)
})
planning('a unix:// store of the box goes even when the box is there: nothing can be fetched through it', () => {
  const plan = planSubstituters([rpi()], conf('extra-substituters = unix:///tmp/rpi.sock'), [NIXOS, 'unix:///tmp/rpi.sock'])
  assert.is(plan.setting, `substituters = ${NIXOS} ${CONNECT}`)
  assert.match(plan.dropped[0]?.reason ?? '', 'unix://')
})
planning('the host itself stays when it answers though the tunnel does not, and goes when neither does', () => {
  const url = 'ssh-ng://pi@box.local'
  assert.equal(drops([rpi({ usable: NO, host: YES })], conf(`substituters = ${url}`)), [])
  assert.is(settingOf([rpi({ usable: NO, host: NO })], `substituters = ${url} x`, [url, 'x']), 'substituters = x')
})
planning('an entry is rather the cache with that URL than one on the same host', () => {
  const other = nas({ cache: { ...NAS_CACHE, url: 'http://box.local:5000' } })
  assert.equal(drops([rpi({ usable: NO, host: NO }), other], conf('substituters = http://box.local:5000')), [])
})
planning('a cache without a URL, or with one that Nix would cut off, is left out with the reason', () => {
  for (const url of [
    { ok: false as const, reason: 'no connect' },
    { ok: true as const, text: 'http://a/#b' },
  ]) {
    const plan = planSubstituters([rpi({ url })], [], undefined)
    assert.is(plan.setting, undefined)
    assert.match(plan.decisions[0]?.reason ?? '', url.ok ? 'at a space or a #' : 'no connect')
  }
})
for (const [nixConfig, expected] of [
  [undefined, 'x = y'],
  ['', 'x = y'],
  ['a = b\n', 'x = y'],
  ['a = b', '\nx = y'],
  ['a = b # comment', '\nx = y'],
] as [string | undefined, string][]) {
  planning(`the line stands on its own after ${JSON.stringify(nixConfig)}`, () => assert.is(appendix('x = y', nixConfig), expected))
}
planning.run()

const trust = suite('whom nix-daemon trusts')
const alice = { name: 'alice', groups: ['users', 'wheel'], direct: false }
for (const [name, who, text, ignored] of [
  ['nobody named it', alice, '', [NAS]],
  ['root', { ...alice, name: 'root' }, '', []],
  ['no daemon', { ...alice, direct: true }, '', []],
  ['trusted by name', alice, 'trusted-users = root alice', []],
  ['by group', alice, 'trusted-users = @wheel', []],
  ['another group', alice, 'trusted-users = @nix', [NAS]],
  ['everyone', alice, 'extra-trusted-users = *', []],
  ['trusted-substituters', alice, `trusted-substituters = ${NAS}`, []],
  ['with a slash', alice, `trusted-substituters = ${NAS}/`, []],
  ['substituters', alice, `extra-substituters = ${NAS}`, []],
] as [string, typeof alice, string, string[]][]) {
  trust(name, () => assert.equal(ignoredFor(who, [NAS], { system: conf(text), all: [] }), ignored))
}
trust.run()

const finding = suite('the next command in PATH')
const FILES: Record<string, Candidate> = {
  '/own/nix': 'ourselves',
  '/copy/nix': 'ourselves',
  '/real/nix': 'program',
  '/dir/nix': 'directory',
  '/plain/nix': 'not executable',
  '/script/nix': 'script',
  './nix': 'program',
}
for (const [name, path, expected] of [
  ['nix', '/own:/copy:/none:/dir:/plain:/real:/script', '/real/nix'],
  ['nix', '/script:/real', '/script/nix'],
  ['nix', '/own:', './nix'],
  ['nix', '/own:/copy', 127],
  ['nix', '', './nix'],
  ['nix', '/plain:/own', 126],
  ['nix', '/dir', 127],
  ['/real/nix', '/none', '/real/nix'],
  ['/own/nix', '/none', '/own/nix'],
  ['/dir/nix', '/real', 126],
  ['/plain/nix', '/real', 126],
  ['/none/nix', '/real', 127],
] as [string, string, string | number][]) {
  finding(`${name} in "${path}" → ${expected}`, () => {
    const found = findCommand(name, path, (file) => FILES[file] ?? 'absent')
    assert.is(found.ok ? found.program : found.code, expected)
  })
}
for (const [name, text, expected] of [
  ['nix', '#!/bin/sh\nexec nix-lan-run nix "$@"', true],
  ['nix', '#!/bin/sh\nexec "/opt/nix-lan-run" -- nix "$@"', true],
  ['nix', '#!/bin/sh\nexec nix-lan-run nix-build "$@"', false],
  ['deploy', '#!/bin/sh\nnix-lan-run nix build', false],
  ['nix', '#!/bin/sh\n# like nix-lan-run\nnix', false],
] as [string, string, boolean][]) {
  finding(`${JSON.stringify(text)} ${expected ? 'comes' : 'does not come'} back for ${name}`, () =>
    assert.is(callsUsFor(name, text), expected),
  )
}
finding.run()

const invoking = suite('the command line')
for (const [self, argv, expected] of [
  ['nix-lan-run', ['nix', '--help'], [[], 'nix', 1]],
  ['nix-lan-run', ['--explain', '--json', 'nix', '--explain'], [['--explain', '--json'], 'nix', 3]],
  ['nix-lan-run', ['--explain', '--', '-odd', 'x'], [['--explain'], '-odd', 3]],
  ['nix-lan-run', ['--', 'nix', '--'], [[], 'nix', 2]],
  ['nix-lan-run', [], [[], undefined, 1]],
  ['nix-lan-run', ['--help'], [['--help'], undefined, 2]],
  ['run.ts', ['nix'], [[], 'nix', 1]],
  ['nix', ['--help'], [[], 'nix', 0]],
  ['nix', ['--explain', '--', 'x'], [[], 'nix', 0]],
  ['nix-shell', [], [[], 'nix-shell', 0]],
] as [string, string[], [string[], string | undefined, number]][]) {
  invoking(`${self} ${argv.join(' ')}`, () => {
    const { own, command, shift } = readInvocation(self, argv)
    assert.equal([own, command, shift], expected)
  })
}
invoking('--explain tells each cache, what is left out and from where, and the line', () => {
  const text = `substituters = ${NIXOS} ${NAS}`
  const plan = planSubstituters([rpi(), nas({ usable: NO })], conf(text), [NIXOS, NAS])
  const told = explain({ command: 'nix', found: { ok: true, program: '/usr/bin/nix', script: false }, plan, notes: ['a note'] })
  assert.is(
    told,
    `nix: runs /usr/bin/nix
cache rpi: can be used (there, 3 ms); added
    ${CONNECT}
cache nas: can't be used: away; left out
left out: ${NAS} (from /etc/nix/nix.conf): away
NIX_CONFIG: one more line
    substituters = ${NIXOS} ${CONNECT}
note: a note
`,
  )
})
invoking.run()
