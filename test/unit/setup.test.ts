// nix-lan setup: what it decides, as tables, and what its scripts do, run by a real sh on files in
// a temporary directory.
import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { judgeDispatcher } from '../../scripts/doctor/judge-automatic.ts'
import { dispatcherFacts, NETWORK_LINKS } from '../../scripts/doctor/read-files.ts'
import { daemonState } from '../../scripts/nix/daemon.ts'
import { clashes, newKeyName, publicHalf, publicKeyOf } from '../../scripts/nix/keys.ts'
import { parseNixConf } from '../../scripts/nix/nix-conf.ts'
import { parseVersion } from '../../scripts/nix/version.ts'
import { answerOf, type BoxFacts, boxNeeds, boxTroubles, fixScript, linesToPaste, mayFix, restoreScript } from '../../scripts/setup/box.ts'
import { blockLines, bothHooks, shadowed, withBlock, withoutBlock } from '../../scripts/setup/conf.ts'
import { parseDestination, parseHost, routeOf } from '../../scripts/setup/destination.ts'
import { forScreen } from '../../scripts/setup/dialogue.ts'
import { findNixConf, installation, nixTooOld, runtimeProblem, unsignedBuilds } from '../../scripts/setup/facts.ts'
import { inspect, isRight, markOf, put, type Seen, unfinished, type Want } from '../../scripts/setup/files.ts'
import { systemLayout, userLayout } from '../../scripts/setup/layout.ts'
import { nixosText } from '../../scripts/setup/machine.ts'
import { nameFor, plan, type Situation } from '../../scripts/setup/plan.ts'
import { emptyRecord, extended, readRecord, writeRecord } from '../../scripts/setup/record.ts'
import { itemsFor, textOf } from '../../scripts/setup/show.ts'
import { nixConfRestoration, restorationOf } from '../../scripts/setup/undo.ts'
import { unwritable, whyNotWritten } from '../../scripts/setup/writable.ts'
import { parseFacts } from '../../scripts/tunnel/ssh-config.ts'

const TMP = mkdtempSync(`${tmpdir()}/nix-lan-setup-`)
const SELF = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 }
let number = 0
const fresh = (): string => {
  const directory = `${TMP}/${number++}`
  mkdirSync(directory)
  return directory
}
/** The values of a promise of an error, for tables. */
const messageOf = (act: () => unknown): string => {
  try {
    act()
  } catch (error) {
    return (error as Error).message
  }
  return 'no error'
}

// ---- nix.conf

const conf = suite('setup: the block in nix.conf')

const BEGIN = '# nix-lan begin: written by `nix-lan setup`, taken out by `nix-lan setup --undo`'
for (const [name, before, after] of [
  ['at the end', 'a = 1\n', `a = 1\n${BEGIN}\nx = y\n# nix-lan end\n`],
  ['after a last line without its end', 'a = 1', `a = 1\n${BEGIN}\nx = y\n# nix-lan end\n`],
  ['in an empty file', '', `${BEGIN}\nx = y\n# nix-lan end\n`],
  ['again: nothing changes', `a = 1\n${BEGIN}\nx = y\n# nix-lan end\n`, `a = 1\n${BEGIN}\nx = y\n# nix-lan end\n`],
  [
    'moved behind what came after it',
    `${BEGIN}\nold = 1\n# nix-lan end\nsubstituters =\n`,
    `substituters =\n${BEGIN}\nx = y\n# nix-lan end\n`,
  ],
  ['in place of two', `# nix-lan begin\n# nix-lan end\nb = 2\n# nix-lan begin\n# nix-lan end\n`, `b = 2\n${BEGIN}\nx = y\n# nix-lan end\n`],
] as const) {
  conf(name, () => {
    assert.is(withBlock(before, ['x = y'], 'nix.conf'), after)
    assert.is(withoutBlock(after, 'nix.conf'), withoutBlock(before, 'nix.conf') + (before === 'a = 1' ? '\n' : ''))
  })
}

conf('nothing to say: no block', () => assert.is(withBlock(`a = 1\n${BEGIN}\n# nix-lan end\n`, [], 'nix.conf'), 'a = 1\n'))

conf('a block without an end is not guessed at', () => {
  assert.match(
    messageOf(() => withoutBlock('a = 1\n# nix-lan begin\nb = 2\n', '/etc/nix/nix.conf')),
    '/etc/nix/nix.conf:2:',
  )
})

const NEEDS = {
  substituters: [
    {
      url: 'ssh-ng://localhost?remote-program=/usr/local/bin/nix-lan-connect%20/run/user/1000/nix-lan/pi.sock',
      sockets: ['/run/user/1000/nix-lan/pi.sock', '/run/nix-lan/pi.sock'],
    },
  ],
  publicKeys: ['laptop-1:KEY='],
  secretKey: '/etc/nix/nix-lan.secret',
  hook: '/usr/local/lib/nix-lan/post-build-hook',
  fallback: true,
}
const ALL = [
  `extra-substituters = ${NEEDS.substituters[0]?.url}`,
  'extra-trusted-public-keys = laptop-1:KEY=',
  'secret-key-files = /etc/nix/nix-lan.secret',
  'post-build-hook = /usr/local/lib/nix-lan/post-build-hook',
  'fallback = true',
]
const parsed = (text: string) => parseNixConf(text, '/etc/nix/nix.conf', () => undefined)
for (const [name, text, lines] of [
  ['nothing there', '', ALL],
  ['other substituters and keys', 'substituters = https://a\ntrusted-public-keys = a:b=\n', ALL],
  ['set up by hand', ALL.join('\n').replaceAll('/usr/local/bin', '/opt/nix-lan/dist'), []],
  ['a substituter that a later line takes back', `${ALL[0]}\nsubstituters =\n`, ALL],
  ['set up by hand, at the broker’s socket', ALL.join('\n').replaceAll('/run/user/1000', '/run'), []],
  ['the socket of another cache', ALL[0]?.replace('pi.sock', 'nas.sock') ?? '', ALL],
  ['a key of its own to sign with', 'secret-key-files = /root/key\n', [ALL[0], ALL[1], ALL[3], ALL[4]]],
  ['fallback is decided', 'fallback = false\n', ALL.slice(0, 4)],
  ['fallback is decided, by its old name', 'build-fallback = false\n', ALL.slice(0, 4)],
  ['a hook of its own', 'post-build-hook = /etc/hook\n', ALL],
  ['the key is trusted', 'trusted-public-keys = a:b= laptop-1:KEY=\n', [ALL[0], ALL[2], ALL[3], ALL[4]]],
  ['a hook that is taken back', `${ALL[3]}\npost-build-hook =\n`, ALL],
] as const) {
  conf(`lines: ${name}`, () => assert.equal(blockLines(NEEDS, parsed(text)), lines))
}

conf('in force at the end of the file, whatever comes before', () => {
  for (const before of ['substituters =\n', 'extra-substituters = https://a\n', 'post-build-hook = /etc/hook\n', 'include other.conf\n']) {
    const text = withBlock(before, blockLines(NEEDS, parsed(before)), 'nix.conf')
    assert.is(shadowed(NEEDS, parsed(text)), undefined, before)
  }
})

conf('in an included file, before a line that takes it back: said', () => {
  const custom = withBlock('', ALL, 'nix.custom.conf')
  const top = '!include nix.custom.conf\nsubstituters = https://a\n'
  const trouble = shadowed(
    NEEDS,
    parseNixConf(top, '/etc/nix/nix.conf', () => custom),
  )
  assert.match(trouble ?? '', '/etc/nix/nix.conf sets substituters after our block')
})

conf('the file for the block: nix.conf, or the one that Determinate includes', () => {
  const directory = fresh()
  const top = `${directory}/nix.conf`
  const read = (path: string) => (existsSync(path) ? readFileSync(path, 'utf8') : undefined)
  const names = (path: string) => [findNixConf(path, read).named, findNixConf(path, read).file]
  assert.equal(names(top), [top, top], 'not there yet')
  writeFileSync(top, '# include nix.custom.conf\n')
  assert.equal(names(top), [top, top])
  writeFileSync(top, 'a = 1\n!include nix.custom.conf\n')
  assert.is(findNixConf(top, read).file, `${directory}/nix.custom.conf`)
  writeFileSync(`${directory}/real`, '')
  symlinkSync('real', `${directory}/link`)
  assert.equal(names(`${directory}/link`), [`${directory}/link`, `${directory}/real`], 'the link stays a link')
})

conf('both hooks are called, ours first, and the other one decides', () => {
  const directory = fresh()
  const hook = (name: string, code: number): string => {
    const path = `${directory}/${name}`
    writeFileSync(path, `#!/bin/sh\necho "${'$'}{0##*/} $OUT_PATHS" >>'${directory}/log'\nexit ${code}\n`, { mode: 0o755 })
    return path
  }
  for (const code of [0, 7]) {
    rmSync(`${directory}/log`, { force: true })
    writeFileSync(`${directory}/both`, bothHooks(hook('ours', 0), hook("it's $other", code)), { mode: 0o755 })
    const ran = spawnSync(`${directory}/both`, { env: { OUT_PATHS: '/nix/store/x', PATH: process.env.PATH } })
    assert.is(ran.status, code)
    assert.is(readFileSync(`${directory}/log`, 'utf8'), "ours /nix/store/x\nit's $other /nix/store/x\n")
  }
})

conf.run()

// ---- the machine

const machine = suite('setup: the machine')

for (const [nixos, daemon, owner, kind] of [
  [true, true, 0, 'nixos'],
  [false, true, undefined, 'daemon'],
  [false, false, 0, 'daemon'],
  [false, false, 1000, { owner: 1000 }],
  [false, false, undefined, 'none'],
] as const) {
  machine(`${JSON.stringify(kind)}: NixOS ${nixos}, daemon ${daemon}, owner ${owner}`, () =>
    assert.equal(installation(nixos, daemon, owner), kind),
  )
}

for (const [output, old] of [
  ['nix (Nix) 2.3.7', true],
  ['nix (Nix) 2.4', false],
  ['nix (Nix) 2.8.0', false],
  ['nix (Nix) 2.34.8', false],
  ['nix (Determinate Nix 3.8.2) 2.30.1', false],
  ['nix (Lix, like Nix) 2.93.0', false],
  ['nix (Nix) 3.0.0', false],
] as const) {
  machine(`${output}: ${old ? 'too old' : 'will do'}`, () => assert.is(nixTooOld(parseVersion(output)) !== undefined, old))
}

for (const [program, output, fine] of [
  ['/usr/bin/node', 'v18.13.0\n', false],
  ['/usr/bin/node', 'v18.19.0\n', true],
  ['/usr/bin/node', 'v20.1.0\n', true],
  ['/usr/bin/node', 'v9.19.0\n', false],
  ['/usr/local/bin/deno', 'deno 2.1.4 (stable)\nv8 13\n', true],
  ['/usr/local/bin/deno', 'deno 1.46.3\n', false],
  ['/usr/local/bin/bun', '1.2.0\n', true],
  ['/usr/bin/node', '', false],
] as const) {
  machine(`${program} ${output.trim()}: ${fine ? 'will do' : 'will not'}`, () =>
    assert.is(runtimeProblem(program, output) === undefined, fine),
  )
}

machine('why nix.conf is not written', () => {
  const directory = fresh()
  writeFileSync(`${directory}/nix.conf`, '')
  const why = (named: string, file = named): string => whyNotWritten({ named, file }, true) ?? ''
  assert.is(why(`${directory}/nix.conf`), '')
  assert.is(why(`${directory}/not/there`), '')
  assert.is(why('/etc/nix/nix.conf', '/nix/store/x-etc/nix.conf'), 'is a link to /nix/store/x-etc/nix.conf, in the Nix store')
  assert.is(why('/nix/store/x/nix.conf'), 'lies in the Nix store')
  assert.is(why('/proc'), 'is a mount of its own', 'rename(2) onto one fails')
  chmodSync(directory, 0o777)
  assert.match(why('/etc/nix/nix.conf', `${directory}/nix.conf`), 'which somebody else can change (')
  assert.is(whyNotWritten({ named: '/home/a/nix.conf', file: `${directory}/nix.conf` }, false), undefined, 'nobody is root there')
})

machine('where setup can’t write is found before it writes: each place once, with the reason', () => {
  const directory = fresh()
  assert.equal(unwritable([`${directory}/a`, `${directory}/not/there/b`]), [])
  // Nobody, root included, makes a file in /proc/sys.
  const [sys = '', ...rest] = unwritable([`${directory}/a`, '/proc/sys/a', '/proc/sys/b/c', '/proc'])
  assert.match(sys, /^\/proc\/sys \((EACCES|EROFS)\)$/)
  assert.equal(rest, ['/proc (a mount of its own)'])
})

machine('a daemon older than its configuration is outdated', () => {
  assert.is(daemonState(undefined, Date.now()), 'not running')
  assert.is(daemonState(process.pid, Date.now()), 'outdated')
  assert.is(daemonState(process.pid, Date.now() - process.uptime() * 1000 - 60_000), 'up to date')
})

machine('what was built here and is not signed', () => {
  const line = (name: string, words: string): string => `/nix/store/${name}\t     120\t${words}`
  const output = [
    line('own', 'ultimate'),
    line('signed', 'ultimate k-1:x='),
    line('lost', 'ultimate k-0:x='),
    line('foreign', ''),
    line('source', 'ultimate ca:fixed:r:sha256:x'),
    'junk',
  ].join('\n')
  assert.equal(
    unsignedBuilds(output, ['k-1']).map(({ path, size }) => `${path} ${size}`),
    ['/nix/store/own 120', '/nix/store/lost 120'],
    'what a lost key has signed is signed anew',
  )
})

for (const [host, name] of [
  ['pi.local', 'pi'],
  ['Attic-2.home.arpa', 'attic-2'],
  ['my_box', 'my-box'],
  ['192.168.1.5', 'box'],
  ['fe80::1', 'box'],
  ['-', 'box'],
  [`${'a'.repeat(60)}.local`, 'a'.repeat(40)],
] as const) {
  machine(`the cache of ${host} is called ${name}`, () => assert.is(nameFor(host), name))
}

for (const [file, beside] of [
  ['nix-lan.secret', 'nix-lan.public'],
  ['nix-secret', 'nix-public'],
  ['key.private', 'key.private.pub'],
  ['key.pem', 'key.pub'],
  ['key', 'key.public'],
] as const) {
  machine(`the public key that belongs to ${file}: its own half, or ${beside} where nobody may read it`, () => {
    const directory = mkdtempSync(join(tmpdir(), 'nix-lan-keys-'))
    try {
      assert.is(publicKeyOf(join(directory, file)), undefined)
      writeFileSync(join(directory, beside), 'beside-1:abc=\n')
      assert.is(publicKeyOf(join(directory, file)), 'beside-1:abc=')
      writeFileSync(join(directory, file), `${NIX_SECRET}\n`)
      assert.is(publicKeyOf(join(directory, file)), NIX_PUBLIC)
    } finally {
      rmSync(directory, { recursive: true })
    }
  })
}

machine('keys', () => {
  const secret = 'test-1:SECRET64'
  assert.match(
    messageOf(() => publicHalf(secret, '/etc/x')),
    '/etc/x: is not a Nix secret key',
  )
  assert.is(publicHalf(`${NIX_SECRET}\n`, 'x'), NIX_PUBLIC)
  assert.match(newKeyName('laptop.lan'), /^laptop-[a-z]{8}-1$/)
  assert.match(newKeyName('a:b c'), /^abc-[a-z]{8}-1$/)
  assert.match(newKeyName(''), /^nix-lan-[a-z]{8}-1$/)
  assert.is(new Set(Array.from({ length: 50 }, () => newKeyName('x'))).size, 50)
  const first = [{ ours: 'a-1:x=', other: 'a-1:y=' }]
  assert.equal(clashes(['a-1:x=', 'b-1:x='], ['a-1:y=', 'b-1:x=']), first, 'Nix believes the first of a name only')
  assert.equal(clashes(['a-1:x='], ['a-1:y=', 'a-1:x=']), first, 'also when ours stands behind it')
  assert.equal(clashes(['a-1:x='], ['a-1:x=', 'a-1:y=']), [])
})

machine('NixOS is told what to write', () => {
  assert.match(
    nixosText({ destination: 'me@pi.local', name: undefined, user: 'bob' }),
    'caches.pi = { host = "pi.local"; ssh = "me@pi.local"; };',
  )
  assert.match(nixosText({ destination: 'pi.local', name: 'rpi', user: 'bob' }), 'caches.rpi = { host = "pi.local"; };')
})

/** Made by nix-store --generate-binary-cache-key (2.26.3), for this test only. */
const NIX_SECRET = 'test-1:8fSFfq6Ru2zcZFJrNKQEz/c+L0hrwcHA+WOnoSS919/EvgFp16EXZUmvHz4G0BG1QHm/7vavl3Dj/1b2qyctXg=='
const NIX_PUBLIC = 'test-1:xL4BadehF2VJrx8+BtARtUB5v+72r5dw4/9W9qsnLV4='

machine.run()

// ---- the plan

const planned = suite('setup: the plan')

const ALICE = { name: 'alice', uid: 1000, home: '/home/alice' }
const dist = (path: string, content = path, executable = true) => ({ path, content: Buffer.from(content), executable })
function situation(changes: Partial<Situation> = {}, text = 'substituters =\n', files: Record<string, string> = {}): Situation {
  return {
    layout: systemLayout('/usr/local'),
    user: ALICE,
    gid: 1000,
    dist: [
      dist('nix-lan'),
      dist('nix-lan-connect'),
      dist('nix-lan-dispatcher'),
      dist('post-build-hook'),
      dist('package.json', '{}', false),
      dist('man/man1/nix-lan.1', '', false),
      dist('man/man5/nix-lan-config.5', '', false),
      dist('completions/bash/nix-lan', '', false),
      dist('systemd/user/nix-lan-check.service', '[Service]\nExecStart=/usr/bin/env nix-lan check\n', false),
      dist('systemd/system/nix-lan-broker@.service', '[Service]\nExecStart=/usr/bin/env nix-lan-connect --broker %i\n', false),
      dist('systemd/system/nix-lan-broker@.socket', '[Socket]\n', false),
    ],
    box: { name: 'pi', host: 'pi.local', ssh: 'me@pi.local', port: 22 },
    config: undefined,
    nixConf: {
      top: '/etc/nix/nix.conf',
      named: '/etc/nix/nix.conf',
      file: '/etc/nix/nix.conf',
      untouchable: undefined,
      now: { text, mode: 0o640, uid: 0, gid: 7 },
      read: (path) => (path === '/etc/nix/nix.conf' ? text : files[path]),
    },
    secret: NIX_SECRET,
    networkManager: true,
    systemd: true,
    nix: parseVersion('nix (Nix) 2.8.0'),
    fallback: true,
    ...changes,
  }
}
const wantAt = (wants: Want[], path: string): Want | undefined => wants.find((want) => want.path === path)
const contentAt = (wants: Want[], path: string): string => {
  const want = wantAt(wants, path)
  return want?.kind === 'file' ? want.content.toString() : ''
}

planned('nix.conf comes last, after all that it names', () => {
  const { wants } = plan(situation())
  assert.is(wants.at(-1)?.path, '/etc/nix/nix.conf')
  const paths = wants.map(({ path }) => path)
  for (const named of ['/usr/local/bin/nix-lan-connect', '/etc/nix/nix-lan.secret', '/usr/local/lib/nix-lan/post-build-hook']) {
    assert.match(contentAt(wants, '/etc/nix/nix.conf'), named)
    assert.ok(paths.includes(named), named)
  }
})

planned('directories come before what is in them, each path once', () => {
  const paths = plan(situation()).wants.map(({ path }) => path)
  assert.is(new Set(paths).size, paths.length)
  for (const [i, path] of paths.entries()) {
    const parent = path.slice(0, path.lastIndexOf('/'))
    if (parent !== '' && paths.includes(parent)) assert.ok(paths.indexOf(parent) < i, `${parent} before ${path}`)
  }
})

for (const [path, mode, uid] of [
  ['/etc/nix-lan/config.toml', 0o644, 0],
  ['/etc/nix/nix-lan.secret', 0o600, 0],
  ['/etc/nix/nix-lan.public', 0o644, 0],
  ['/usr/local/lib/nix-lan/nix-lan', 0o755, 0],
  ['/usr/local/lib/nix-lan/package.json', 0o644, 0],
  ['/nix/var/nix/gcroots/nix-lan/queue', 0o755, 0],
  ['/nix/var/nix/gcroots/nix-lan/queue/pi', 0o755, 1000],
  ['/etc/nix/nix.conf', 0o640, 0],
] as const) {
  planned(`${path}: mode ${mode.toString(8)}, owner ${uid}`, () => {
    const want = wantAt(plan(situation()).wants, path)
    assert.ok(want && 'mode' in want, 'wanted')
    assert.equal([want.mode, want.uid], [mode, uid])
  })
}

for (const [path, target] of [
  ['/usr/local/bin/nix-lan', '/usr/local/lib/nix-lan/nix-lan'],
  ['/usr/local/share/man/man1/nix-lan.1', '/usr/local/lib/nix-lan/man/man1/nix-lan.1'],
  ['/usr/local/share/man/man5/nix-lan-config.5', '/usr/local/lib/nix-lan/man/man5/nix-lan-config.5'],
  ['/usr/local/share/bash-completion/completions/nix-lan', '/usr/local/lib/nix-lan/completions/bash/nix-lan'],
  ['/etc/NetworkManager/dispatcher.d/90-nix-lan', '/usr/local/lib/nix-lan/nix-lan-dispatcher'],
  ['/etc/systemd/user/timers.target.wants/nix-lan-check.timer', '/etc/systemd/user/nix-lan-check.timer'],
] as const) {
  planned(`${path} is a link`, () => assert.equal(wantAt(plan(situation()).wants, path), { path, kind: 'link', target }))
}

planned('the broker: units of the system, whose it is for each box, and the socket that nix.conf names', () => {
  const config = `user = "alice"\n[cache.pi]\nhost = "pi.local"\npatience = "90s"\n[cache.nas]\nhost = "nas"\n`
  const { wants } = plan(situation({ config, box: undefined }))
  const at = (path: string) => contentAt(wants, `/etc/systemd/system/nix-lan-broker@${path}`)
  assert.match(at('.service'), 'ExecStart=/usr/local/lib/nix-lan/nix-lan-connect --broker %i\n')
  assert.match(at('pi.service.d/nix-lan.conf'), '[Service]\nUser=alice\n')
  assert.match(at('nas.socket.d/nix-lan.conf'), '[Socket]\nSocketUser=alice\n')
  const path = '/etc/systemd/system/sockets.target.wants/nix-lan-broker@nas.socket'
  assert.equal(wantAt(wants, path), { path, kind: 'link', target: '/etc/systemd/system/nix-lan-broker@.socket' })
  assert.is(contentAt(wants, '/etc/nix-lan/connect/pi'), 'user=alice\npatience=90\n')
  const settings = wantAt(wants, '/etc/nix-lan/connect/nas')
  assert.equal(settings, {
    path: '/etc/nix-lan/connect/nas',
    kind: 'file',
    content: Buffer.from('user=alice\n'),
    mode: 0o644,
    uid: 0,
    gid: 0,
  })
  const urls = contentAt(wants, '/etc/nix/nix.conf')
  assert.match(urls, '=/usr/local/bin/nix-lan-connect%20/run/nix-lan/pi.sock ')
  assert.match(urls, '=/usr/local/bin/nix-lan-connect%20/run/nix-lan/nas.sock\n')
  assert.not.match(urls, '/run/user')
})

planned('the broker of a user whose name is no plain word: by the uid', () => {
  const { wants } = plan(situation({ user: { ...ALICE, name: 'DOM\\alice' } }))
  assert.match(contentAt(wants, '/etc/systemd/system/nix-lan-broker@pi.service.d/nix-lan.conf'), '\nUser=1000\n')
  assert.is(contentAt(wants, '/etc/nix-lan/connect/pi'), 'user=DOM\\alice\n')
})

planned('without systemd there is no broker: nix.conf names the tunnel’s socket, and the settings that connect needs', () => {
  const config = `user = "alice"\n[cache.pi]\nhost = "pi.local"\npatience = "90s"\ndeadline = "500ms"\n`
  const { wants } = plan(situation({ config, box: undefined, systemd: false }))
  assert.not.ok(wants.some(({ path }) => /^\/etc\/(systemd\/system|nix-lan\/connect)/.test(path)))
  const words = 'nix-lan-connect%20--deadline%200.5%20--patience%2090%20/run/user/1000/nix-lan/pi.sock\n'
  assert.match(contentAt(wants, '/etc/nix/nix.conf'), words)
})

planned('an older version’s block names the tunnel’s socket: that of the broker takes its place', () => {
  const old = contentAt(plan(situation({ systemd: false })).wants, '/etc/nix/nix.conf')
  assert.match(old, '/run/user/1000/nix-lan/pi.sock')
  const now = contentAt(plan(situation({}, old)).wants, '/etc/nix/nix.conf')
  assert.is(now, old.replace('/run/user/1000/nix-lan/pi.sock', '/run/nix-lan/pi.sock'))
})

const STORE = 'ssh-ng://localhost?remote-program=/usr/local/bin/nix-lan-connect%20/run'
const FOUR = STORE.replace('?', '?max-connections=4&')
planned('several connections for a Nix that gains from them, and only to the broker', () => {
  const table: [version: string, url: string, systemd?: boolean][] = [
    ['nix (Nix) 2.8.0', `${STORE}/nix-lan/pi.sock`],
    ['nix (Nix) 2.23.4', `${STORE}/nix-lan/pi.sock`],
    ['nix (Nix) 2.24.0', `${FOUR}/nix-lan/pi.sock`],
    ['nix (Nix) 2.26.3', `${FOUR}/nix-lan/pi.sock`],
    ['nix (Nix) 2.33.1', `${FOUR}/nix-lan/pi.sock`],
    ['nix (Nix) 2.34.8', `${FOUR}/nix-lan/pi.sock`],
    ['nix (Nix) 3.0.0', `${FOUR}/nix-lan/pi.sock`],
    ['nix (Determinate Nix 3.11.2) 2.31.1', `${FOUR}/nix-lan/pi.sock`],
    ['nix (Determinate Nix 3.21.2) 2.34.7', `${FOUR}/nix-lan/pi.sock`],
    ['nix (Lix, like Nix) 2.93.0', `${STORE}/nix-lan/pi.sock`],
    ['what?', `${STORE}/nix-lan/pi.sock`],
    ['nix (Nix) 2.26.3', `${STORE}/user/1000/nix-lan/pi.sock`, false],
  ]
  for (const [output, url, systemd = true] of table) {
    const { wants } = plan(situation({ nix: parseVersion(output), systemd }))
    assert.match(contentAt(wants, '/etc/nix/nix.conf'), `\nextra-substituters = ${url}\n`, output)
  }
})

planned('after an upgrade or a downgrade of Nix, setup writes the URL anew, but not one that somebody wrote', () => {
  const of = (output: string, text: string) => contentAt(plan(situation({ nix: parseVersion(output) }, text)).wants, '/etc/nix/nix.conf')
  const old = of('nix (Nix) 2.26.3', '')
  const now = of('nix (Nix) 2.18.9', old)
  assert.is(now, old.replace(FOUR, STORE))
  assert.is(of('nix (Nix) 2.26.3', now), old)
  for (const url of [STORE, FOUR.replace('=4', '=8')])
    assert.not.match(of('nix (Nix) 2.26.3', `extra-substituters = ${url}/nix-lan/pi.sock\n`), 'max-connections=4')
})

planned('units name programs by absolute paths; the timer is for the one user', () => {
  const { wants } = plan(situation())
  assert.is(contentAt(wants, '/etc/systemd/user/nix-lan-check.service'), '[Service]\nExecStart=/usr/local/lib/nix-lan/nix-lan check\n')
  assert.match(contentAt(wants, '/etc/systemd/user/nix-lan-check.timer.d/user.conf'), 'ConditionUser=1000\n')
})

planned('a user whose name is no plain word', () => {
  const { wants } = plan(situation({ user: { ...ALICE, name: 'DOM\\al%"ice' } }))
  assert.match(contentAt(wants, '/etc/nix-lan/config.toml'), 'user = "DOM\\\\al%\\"ice"\n')
  for (const path of ['/etc/systemd/user/nix-lan-check.timer.d/user.conf', '/etc/tmpfiles.d/nix-lan.conf'])
    assert.not.match(contentAt(wants, path).replace(/^#.*/gm, ''), 'DOM')
  assert.match(contentAt(wants, '/etc/tmpfiles.d/nix-lan.conf'), 'queue/pi 0755 1000 root -')
})

planned('without NetworkManager there is no dispatcher, but a unit that watches the network, for the one user', () => {
  const link = '/etc/systemd/user/paths.target.wants/nix-lan-network.path'
  const { wants } = plan(situation({ networkManager: false }))
  assert.not(wants.some(({ path }) => path.includes('dispatcher.d')))
  assert.equal(wantAt(wants, link), { path: link, kind: 'link', target: '/etc/systemd/user/nix-lan-network.path' })
  assert.match(contentAt(wants, '/etc/systemd/user/nix-lan-network.path.d/user.conf'), 'ConditionUser=1000\n')
  assert.not(plan(situation()).wants.some(({ path }) => path.includes('paths.target')))
})

planned('a former hook is called too; one of ours from elsewhere is replaced', () => {
  const both = plan(situation({}, 'post-build-hook = /etc/mine\n', { '/etc/mine': '#!/bin/sh\ntrue\n' }))
  assert.is(both.formerHook, '/etc/mine')
  assert.match(contentAt(both.wants, '/etc/nix/nix.conf'), 'post-build-hook = /etc/nix-lan/post-build-hook')
  assert.match(contentAt(both.wants, '/etc/nix-lan/post-build-hook'), "exec '/etc/mine'")
  const byHand = plan(situation({}, 'post-build-hook = /opt/hook\n', { '/opt/hook': "#!/bin/sh\n':' // post-build-hook; set -f\n" }))
  assert.is(byHand.formerHook, undefined)
  assert.match(contentAt(byHand.wants, '/etc/nix/nix.conf'), 'post-build-hook = /usr/local/lib/nix-lan/post-build-hook')
  // The one for both, by a line outside of the block: it must not call itself.
  const again = plan(
    situation({}, 'post-build-hook = /etc/nix-lan/post-build-hook\n', { '/etc/nix-lan/post-build-hook': bothHooks('/o', '/etc/mine') }),
  )
  assert.is(again.formerHook, '/etc/mine')
  assert.match(contentAt(again.wants, '/etc/nix-lan/post-build-hook'), "exec '/etc/mine'")
  const loop = '/etc/nix-lan/post-build-hook'
  assert.is(plan(situation({}, `post-build-hook = ${loop}\n`, { [loop]: bothHooks('/o', loop) })).formerHook, undefined)
  assert.match(
    messageOf(() => plan(situation({}, 'post-build-hook = mine\n'))),
    'is not an absolute path',
  )
})

planned('a key that nix.conf names is used, and no other is made', () => {
  const { wants, publicKeys, keyFiles } = plan(situation({ secret: 'x' }, 'secret-key-files = /root/key\n', { '/root/key': NIX_SECRET }))
  assert.equal([publicKeys, keyFiles], [[NIX_PUBLIC], ['/root/key']])
  assert.is(wantAt(wants, '/etc/nix/nix-lan.secret'), undefined)
  assert.not.match(contentAt(wants, '/etc/nix/nix.conf').replace(/^secret.*$/m, ''), 'secret-key-files')
  assert.match(
    messageOf(() => plan(situation({}, 'secret-key-files = /root/key\n'))),
    "/root/key (secret-key-files), which can't be read",
  )
})

planned('what is planned is in force: again with its own result, nothing changes', () => {
  const first = plan(situation())
  const text = contentAt(first.wants, '/etc/nix/nix.conf')
  const again = plan(situation({ config: contentAt(first.wants, '/etc/nix-lan/config.toml') }, text))
  assert.equal(again.wants, first.wants)
})

const LINKED = { named: '/etc/nix/nix.conf', file: '/opt/dots/nix.conf' }

planned('a nix.conf that is a link: what it leads to is written, and is in force', () => {
  const { nixConf } = situation()
  const { wants } = plan(
    situation({ nixConf: { ...nixConf, ...LINKED, read: (path) => (path === '/etc/nix/nix.conf' ? 'substituters =\n' : undefined) } }),
  )
  assert.match(contentAt(wants, '/opt/dots/nix.conf'), /^substituters =\n# nix-lan begin/)
  assert.is(wantAt(wants, '/etc/nix/nix.conf'), undefined)
})

planned('a nix.conf that setup must not write: its lines are for the user, and when they are there nothing is left', () => {
  const { nixConf } = situation()
  const untouchable = 'is a link to /nix/store/x-nix.conf, in the Nix store'
  const { wants, byHand } = plan(situation({ nixConf: { ...nixConf, ...LINKED, untouchable } }))
  assert.not.ok(wants.some(({ path }) => path.endsWith('nix.conf')))
  assert.is(byHand?.file, '/etc/nix/nix.conf')
  assert.is(byHand?.lines.length, 5)
  const text = `substituters =\n${byHand?.lines.join('\n')}\n`
  const again = plan(
    situation({ nixConf: { ...nixConf, ...LINKED, untouchable, now: { text, mode: 0o644, uid: 0, gid: 0 }, read: () => text } }),
  )
  assert.is(again.byHand, undefined)
  assert.equal(again.publicKeys, [NIX_PUBLIC])
})

planned('a key that is lost stays trusted when there is a new one', () => {
  const first = contentAt(plan(situation()).wants, '/etc/nix/nix.conf')
  const lost = `old-1:${'a'.repeat(43)}=`
  for (const [name, text, files] of [
    ['by the block', first.replace(NIX_PUBLIC, lost), {}],
    ['by the file of the public key', 'substituters =\n', { '/etc/nix/nix-lan.public': `${lost}\n` }],
  ] as const) {
    const { wants, publicKeys } = plan(situation({}, text, files))
    assert.match(contentAt(wants, '/etc/nix/nix.conf'), `extra-trusted-public-keys = ${NIX_PUBLIC} ${lost}\n`, name)
    assert.equal(publicKeys, [NIX_PUBLIC], 'the box need not trust it')
  }
})

planned('fallback: set where nobody decides, unless it is to be kept', () => {
  assert.match(contentAt(plan(situation()).wants, '/etc/nix/nix.conf'), '\nfallback = true\n')
  assert.ok(plan(situation()).fallback)
  assert.not.ok(plan(situation({}, contentAt(plan(situation()).wants, '/etc/nix/nix.conf'))).fallback, 'said once')
  for (const kept of [plan(situation({ fallback: false })), plan(situation({}, 'fallback = false\n'))]) {
    assert.not.ok(kept.fallback)
    assert.not.match(contentAt(kept.wants, '/etc/nix/nix.conf'), 'fallback = true')
  }
})

planned('substitution that is switched off is found, where it stands', () => {
  assert.is(plan(situation()).noSubstitution, undefined)
  assert.is(plan(situation({}, 'substitute = false\nsubstitute = true\n')).noSubstitution, undefined)
  for (const key of ['substitute', 'build-use-substitutes'])
    assert.is(plan(situation({}, 'include x.conf\n', { '/etc/nix/x.conf': `${key} = false\n` })).noSubstitution, '/etc/nix/x.conf')
  const own = '/home/alice/.config/nix/nix.conf'
  for (const no of ['false', 'no', '0']) assert.is(plan(situation({}, '', { [own]: `substitute = ${no}\n` })).noSubstitution, own, no)
  assert.is(plan(situation({}, 'substitute = false\n', { [own]: 'substitute = true\n' })).noSubstitution, undefined)
})

planned('a box that is known by another name is not added again', () => {
  const config = 'user = "alice"\n[cache.x]\nhost = "h"\n'
  assert.is(
    contentAt(plan(situation({ config, box: { name: 'h', host: 'h', ssh: 'h', port: 22 } })).wants, '/etc/nix-lan/config.toml'),
    config,
  )
})

planned('where NetworkManager has no directory for scripts, setup and the doctor agree on what notices the network', () => {
  const directory = systemLayout('/usr/local').dispatchers ?? ''
  assert.is(dispatcherFacts().directory, directory)
  const wants = (networkManager: boolean): string[] => plan(situation({ networkManager })).wants.map(({ path }) => path)
  assert.ok(wants(true).includes(`${directory}/90-nix-lan`))
  assert.not.ok(wants(false).some((path) => path.startsWith(directory)))
  const network = NETWORK_LINKS.find((path) => wants(false).includes(path))
  assert.ok(network)
  assert.not.ok(wants(true).includes(network ?? ''))
  const machine = { kind: 'daemon', user: 'alice', conf: '/etc/nix/nix.conf', recorded: true } as const
  const facts = { manager: false, directory, executable: false }
  assert.match(judgeDispatcher({ ...facts, ...(network ? { network } : {}) }, machine).found, /^nix-lan-network\.path notices/)
  assert.is(judgeDispatcher(facts, machine).state, 'ok')
})

const CONFIG = 'user = "alice"\n# mine\n[cache.nas]\nurl = "http://nas:5000"'
for (const [name, config, box, expected] of [
  ['the box is added to what is there', CONFIG, { name: 'pi' }, `${CONFIG}\n\n[cache.pi]\nhost = "pi.local"\nssh = "me@pi.local"\n`],
  ['a port', CONFIG, { port: 2222 }, `${CONFIG}\n\n[cache.pi]\nhost = "pi.local"\nssh = "me@pi.local"\nport = 2222\n`],
  ['ssh only where it differs', CONFIG, { ssh: 'pi.local' }, `${CONFIG}\n\n[cache.pi]\nhost = "pi.local"\n`],
] as const) {
  planned(`configuration: ${name}`, () => {
    const wanted = { name: 'pi', host: 'pi.local', ssh: 'me@pi.local', port: 22, ...box }
    assert.is(contentAt(plan(situation({ config, box: wanted })).wants, '/etc/nix-lan/config.toml'), expected)
  })
}

for (const [name, changes, message] of [
  [
    'the box has another name',
    { config: 'user = "alice"\n[cache.x]\nhost = "h"\n', box: { name: 'y', host: 'h', ssh: 'h', port: 22, named: true } },
    /h is already the cache x/,
  ],
  ['no box at all', { box: undefined }, 'which box?'],
  ["somebody else's machine", { config: 'user = "bob"\n[cache.pi]\nhost = "x"\n' }, /is bob, not alice/],
  ['the name is taken', { config: 'user = "alice"\n[cache.pi]\nhost = "x"\n' }, /already has a cache pi, with ssh = "x"/],
  ['a name that is none', { box: { name: 'My Box', host: 'h', ssh: 'h', port: 22 } }, /the name of a cache may hold/],
  [
    'another key of our name',
    { nixConf: { ...situation().nixConf, now: { text: 'trusted-public-keys = test-1:x=\n', mode: 0o644, uid: 0, gid: 0 } } },
    /another key called test-1/,
  ],
  ['a host that is none', { box: { name: 'x', host: 'a b', ssh: 'h', port: 22 } }, /cache.x.host: found the string/],
] as const) {
  planned(`refused: ${name}`, () =>
    assert.match(
      messageOf(() => plan(situation(changes))),
      message,
    ),
  )
}

planned("a Nix of one's own: nothing outside of the home but the queue", () => {
  const file = '/home/alice/.config/nix/nix.conf'
  const own = situation({
    layout: userLayout(ALICE),
    nixConf: { top: file, named: file, file, now: undefined, untouchable: undefined, read: () => undefined },
  })
  const { wants } = plan(own)
  const outside = wants.filter((want) => !want.path.startsWith('/home/alice/') && !(want.kind === 'directory' && want.shared))
  assert.ok(
    outside.length > 0 && outside.every(({ path }) => path.startsWith('/nix/var/nix/gcroots/nix-lan')),
    outside.map(({ path }) => path).join(),
  )
  assert.ok(wants.every((want) => !('uid' in want) || want.uid === 1000))
})

planned.run()

// ---- files, record, undo

const files = suite('setup: files and record')

const file = (path: string, content: string, mode = 0o644): Want => ({ path, kind: 'file', content: Buffer.from(content), mode, ...SELF })

files('put makes it so, whatever was there, and is done when it is so', () => {
  const directory = fresh()
  const path = `${directory}/x`
  for (const want of [
    file(path, 'one', 0o640),
    file(path, 'two', 0o755),
    { path, kind: 'link', target: 'y' },
    file(path, 'one'),
    { path, kind: 'missing' },
  ] as Want[]) {
    assert.not.ok(isRight(want, inspect(path)), JSON.stringify(want))
    put(want)
    assert.ok(isRight(want, inspect(path)), JSON.stringify(want))
    assert.not.ok(existsSync(unfinished(path)))
  }
})

files('a time is put back', () => {
  const path = `${fresh()}/x`
  put(file(path, 'one'), 1_000_000_000)
  assert.is(statSync(path).mtimeMs, 1_000_000_000_000)
})

files('a directory that has something in it stays', () => {
  const directory = fresh()
  writeFileSync(`${directory}/x`, '')
  put({ path: directory, kind: 'missing' })
  assert.ok(existsSync(`${directory}/x`))
})

files('what an interrupted run left is replaced, and goes', () => {
  const path = `${fresh()}/x`
  writeFileSync(unfinished(path), 'half')
  put(file(path, 'whole'))
  assert.is(readFileSync(path, 'utf8'), 'whole')
  writeFileSync(unfinished(path), 'half')
  put({ path, kind: 'missing' })
  assert.not.ok(existsSync(unfinished(path)))
})

files('a shared directory may be a link or have any mode', () => {
  const want: Want = { path: '/x', kind: 'directory', mode: 0o755, uid: 0, gid: 0, shared: true }
  assert.ok(isRight(want, { kind: 'link', target: 'share/man' }))
  assert.ok(isRight(want, { kind: 'directory', mode: 0o2775, uid: 0, gid: 50 }))
  assert.not.ok(isRight(want, { kind: 'missing' }))
  assert.not.ok(isRight({ ...want, shared: false }, { kind: 'directory', mode: 0o2775, uid: 0, gid: 50 }))
})

files('the record keeps what was before the first run, whatever a later run finds', () => {
  const directory = fresh()
  const layout = { ...systemLayout('/usr/local'), backups: `${directory}/before`, record: `${directory}/setup.json` }
  const path = `${directory}/nix.conf`
  writeFileSync(path, 'mine\n', { mode: 0o600 })
  let record = extended(emptyRecord(ALICE, '/usr/local', path), [file(path, 'first\n')], inspect)
  writeRecord(record, layout, SELF, inspect)
  put(file(path, 'first\n'))
  record = extended(readRecord(layout.record) ?? record, [file(path, 'second\n'), file(`${directory}/new`, '')], inspect)
  writeRecord(record, layout, SELF, inspect)
  put(file(path, 'second\n'))
  const backup = (name: string): Buffer => readFileSync(`${layout.backups}/${name}`)
  for (const content of ['first\n', 'second\n']) {
    writeFileSync(path, content)
    const [entry] = record.entries
    assert.ok(entry)
    const { want, mtime } = restorationOf(entry, inspect(path), backup)
    assert.ok(want)
    put(want, mtime)
    assert.is(readFileSync(path, 'utf8'), 'mine\n')
    assert.is(statSync(path).mode & 0o777, 0o600)
  }
  assert.is((lstatSync(layout.record).mode & 0o777).toString(8), '600')
})

files('a record that is none stops everything', () => {
  const path = `${fresh()}/setup.json`
  assert.is(readRecord(path), undefined)
  for (const text of ['', '{', '{}', '[]', '{"user":"a","entries":1}']) {
    writeFileSync(path, text)
    assert.match(
      messageOf(() => readRecord(path)),
      'is not what setup wrote there',
      text,
    )
  }
})

const seenFile = (content: string, mode = 0o644): Seen => ({ kind: 'file', content: Buffer.from(content), mode, uid: 0, gid: 0, mtime: 5 })
const markOfText = (content: string): string => markOf(seenFile(content))
const beforeFile = { kind: 'file' as const, backup: 'b', mark: markOfText('before\n'), mode: 0o600, uid: 0, gid: 0, mtime: 7 }
const backup = (): Buffer => Buffer.from('before\n')
const restored = { path: '/x', kind: 'file', content: Buffer.from('before\n'), mode: 0o600, uid: 0, gid: 0 }
for (const [name, before, seen, want, left] of [
  ['was not there, is ours', { kind: 'missing' }, seenFile('ours'), { path: '/x', kind: 'missing' }, false],
  ['was not there, is not there', { kind: 'missing' }, { kind: 'missing' }, undefined, false],
  ['was not there, is somebody else’s', { kind: 'missing' }, seenFile('theirs'), undefined, true],
  ['was a file, is ours', beforeFile, seenFile('ours'), restored, false],
  ['was a file, is as it was', beforeFile, seenFile('before\n', 0o600), undefined, false],
  ['was a file, has only its mode changed', beforeFile, seenFile('before\n'), restored, false],
  ['was a file, is somebody else’s', beforeFile, seenFile('theirs'), undefined, true],
  ['was a link', { kind: 'link', target: 'a' }, seenFile('ours'), { path: '/x', kind: 'link', target: 'a' }, false],
  ['was a file, is a directory', beforeFile, { kind: 'directory', mode: 0o755, uid: 0, gid: 0 }, undefined, true],
] as const) {
  files(`undo: ${name}`, () => {
    const found = restorationOf({ path: '/x', before, ours: [markOfText('ours')] }, seen as Seen, backup)
    assert.equal(found.want, want)
    assert.is(found.left !== undefined, left)
  })
}

for (const [name, now, expected] of [
  ['ours', 'before\n# nix-lan begin\na = b\n# nix-lan end\n', 'before\n'],
  ['ours, with an edited block', 'before\n# nix-lan begin\nmore = c\n# nix-lan end\n', 'before\n'],
  ['edited around the block', 'before\nmine = 1\n# nix-lan begin\na = b\n# nix-lan end\nafter = 2\n', 'before\nmine = 1\nafter = 2\n'],
  ['the block is gone already', 'before\nmine = 1\n', undefined],
] as const) {
  files(`undo of nix.conf: ${name}`, () => {
    const { want } = nixConfRestoration({ path: '/x', before: beforeFile, ours: [] }, seenFile(now), backup)
    assert.is(want?.kind === 'file' ? want.content.toString() : undefined, expected)
  })
}

files('undo of a nix.conf that was not there', () => {
  const entry = { path: '/x', before: { kind: 'missing' as const }, ours: [] }
  assert.equal(nixConfRestoration(entry, seenFile('# nix-lan begin\n# nix-lan end\n'), backup).want, { path: '/x', kind: 'missing' })
  assert.equal(nixConfRestoration(entry, { kind: 'missing' }, backup).want, undefined)
})

files('undo of a nix.conf without a line end gives it back without one', () => {
  const mark = markOfText('a = 1')
  const { want } = nixConfRestoration(
    { path: '/x', before: { ...beforeFile, mark }, ours: [] },
    seenFile('a = 1\n# nix-lan begin\n# nix-lan end\n'),
    () => Buffer.from('a = 1'),
  )
  assert.is(want?.kind === 'file' && want.content.toString(), 'a = 1')
})

files('the plan begins with nix.conf', async () => {
  const layout = systemLayout('/usr/local')
  const items = await itemsFor(plan(situation()).wants, { ...layout, lib: '/usr/local/lib/nix-lan' }, new Set([layout.secretKey]))
  const first = [...items].sort((a, b) => a.rank - b.rank).map(({ title }) => title)
  assert.match(first[0] ?? '', /\/etc\/nix\/nix\.conf$/)
  assert.match(first.at(-1) ?? '', /link|units|copy/)
})

files('sentences are wrapped at the width of a terminal, commands and differences stay whole', () => {
  const sentence = `  ${'word '.repeat(20).trim()}`
  for (const line of forScreen(sentence, 40).split('\n')) assert.match(line, /^ {2}word( word)*$/)
  assert.ok(
    forScreen(sentence, 40)
      .split('\n')
      .every((line) => line.length <= 40),
  )
  assert.is(forScreen(sentence, undefined), sentence, 'not in a pipe')
  const command = `      ${'word '.repeat(20).trim()}`
  assert.is(forScreen(command, 40), command)
  assert.is(forScreen('a\u001b[2Jb', 40), 'a?[2Jb')
})

files('the plan shows each difference, no secret, and nothing that drives a terminal', async () => {
  const directory = fresh()
  writeFileSync(`${directory}/nix.conf`, 'a = 1\nb = 2\n', { mode: 0o644 })
  writeFileSync(`${directory}/same`, 'x', { mode: 0o644 })
  chmodSync(`${directory}/same`, 0o644)
  const wants = [
    file(`${directory}/nix.conf`, 'a = 1\nb = 3\u001b[2J\n'),
    file(`${directory}/secret`, 'SECRET', 0o600),
    file(`${directory}/same`, 'x'),
  ]
  const text = textOf(await itemsFor(wants, systemLayout('/usr/local'), new Set([`${directory}/secret`])), false)
  assert.match(text, /-b = 2\n +\+b = 3\?\[2J\n/)
  assert.not.match(text, /SECRET|same/)
  assert.not.ok(text.includes('\u001b'))
  assert.match(text, `write ${directory}/secret (secret, mode 600)`)
  assert.match(text, /^ {2}change \S+\/nix\.conf\n[\s\S]*write \S+\/secret /)
})

files('the plan begins with what matters most: nix.conf before files of ours, mere copies last', async () => {
  const directory = fresh()
  const wants = [file(`${directory}/lib/x`, 'x'), file(`${directory}/else`, 'x'), file(`${directory}/nix.conf`, 'x')]
  const text = textOf(await itemsFor(wants, { ...systemLayout('/usr/local'), lib: `${directory}/lib` }, new Set()), false)
  assert.match(text, /^ {2}write \S+\/nix\.conf\n[\s\S]* {2}write \S+\/else\n[\s\S]* {2}copy 1 file /)
})

files.run()

// ---- the box

const box = suite('setup: the box')

const BOX = { name: 'pi', host: 'pi.local', ssh: 'me@pi.local', port: 22 }
/** A public key as Nix prints it. */
const keyOf = (name: string, letter: string): string => `${name}:${letter.repeat(43)}=`
const KEY_A = keyOf('a', 'b')
const FACTS: BoxFacts = {
  user: 'me',
  root: 'sudo',
  nix: 'nix-store (Nix) 2.8.0',
  socket: 'usable',
  group: '',
  keys: [KEY_A],
  conf: '/etc/nix/nix.conf',
  confExists: true,
  confWritable: true,
  nixos: false,
  nixError: '',
}
const asked = (code: number, stdout: string, stderr = '') => ({ code, stdout, stderr, timedOut: false, failedToStart: null })
const SAID =
  'Welcome!\nnix-lan-box user me\nnix-lan-box root sudo\nnix-lan-box nix nix-store (Nix) 2.8.0\nnix-lan-box socket usable\nnix-lan-box keys ' +
  KEY_A +
  '\nnix-lan-box conf /etc/nix/nix.conf\nnix-lan-box conf-exists yes\nnix-lan-box conf-writable yes\n'

for (const [name, outcome, kind, text] of [
  ['it answers, whatever its shell prints', asked(0, SAID), 'there', ''],
  ['it answers and the login shell fails', asked(1, SAID), 'there', ''],
  [
    'unknown host key',
    asked(255, '', 'No ED25519 host key is known for pi.local\nHost key verification failed.\n'),
    'refused',
    'as alice, log in once',
  ],
  [
    'changed host key',
    asked(255, '', '@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.\n'),
    'refused',
    'ssh-keygen -R pi.local',
  ],
  ['no key', asked(255, '', 'me@pi.local: Permission denied (publickey).\n'), 'refused', 'ssh-copy-id me@pi.local'],
  ['away', asked(255, '', 'ssh: connect to host pi.local port 22: No route to host\n'), 'away', 'No route to host'],
  ['no time', { ...asked(0, ''), timedOut: true }, 'away', 'no answer in time'],
  ['an answer cut short', asked(0, 'nix-lan-box user me\n'), 'refused', 'see what this does: ssh me@pi.local'],
  ['nologin', asked(1, 'This account is currently not available.\n'), 'shell-less', 'This account is currently not available.'],
  ['a forced command', asked(0, 'borg 1.2\n'), 'shell-less', 'borg 1.2'],
  ['a shell that says nothing', asked(0, ''), 'shell-less', ''],
  [
    'an option that ssh does not know',
    asked(
      255,
      '',
      '/home/alice/.ssh/config: line 3: Bad configuration option: foo\n/home/alice/.ssh/config: terminating, 1 bad configuration options\n',
    ),
    'refused',
    'terminating, 1 bad',
  ],
] as const) {
  box(name, () => {
    const answer = answerOf(outcome, BOX, 'alice')
    assert.is(answer.kind, kind)
    assert.match(JSON.stringify(answer), text)
    if (answer.kind === 'there') assert.equal(answer.facts, FACTS)
  })
}

box('what is lacking there', () => {
  assert.equal(boxNeeds(FACTS, [KEY_A]), { keys: [] })
  assert.equal(boxNeeds({ ...FACTS, socket: 'forbidden', group: 'nix-users' }, ['c:d=', KEY_A]), {
    keys: ['c:d='],
    member: { user: 'me', group: 'nix-users' },
  })
  assert.equal(boxNeeds({ ...FACTS, socket: 'forbidden', group: 'root' }, []), { keys: [] }, 'nobody is put into the group root')
  assert.is(boxTroubles({ ...FACTS, nix: '', socket: 'missing' }, '/s', []).length, 2)
  assert.equal(boxNeeds(FACTS, ['a:other=']), { keys: [] }, 'a second key of one name would not be believed')
  assert.match(boxTroubles(FACTS, '/s', ['a:other=']).join(), 'another key called a is trusted there')
  for (const [facts, from] of [
    [FACTS, FACTS.conf],
    [{ ...FACTS, nixos: true }, 'its configuration.nix'],
    [{ ...FACTS, confWritable: false }, `what ${FACTS.conf} is generated from`],
  ] as const)
    assert.match(boxTroubles(facts, '/s', ['a:other=']).join(), `from ${from}, then run setup`)
})

box('lines to paste', () => {
  const needs = { keys: ['c:d='], member: { user: 'me', group: 'nix-users' } }
  assert.equal(linesToPaste(needs, FACTS), [
    "echo 'extra-trusted-public-keys = c:d=' | sudo tee -a /etc/nix/nix.conf",
    'sudo systemctl restart nix-daemon',
    'sudo usermod -aG nix-users me',
  ])
  assert.match(linesToPaste(needs, { ...FACTS, nixos: true }).join('\n'), 'nix.settings.extra-trusted-public-keys = [ "c:d=" ];')
})

/** What a box may say in place of one of its answers. */
const hostile = (key: string, value: string): ReturnType<typeof answerOf> =>
  answerOf(
    asked(
      0,
      SAID.replace(new RegExp(`^nix-lan-box ${key} .*$`, 'm'), () => `nix-lan-box ${key} ${value}`),
    ),
    BOX,
    'alice',
  )
for (const [key, value] of [
  ['conf', '/etc/nix/nix.conf; touch /tmp/x #'],
  ['conf', '/etc/nix/$(touch x)'],
  ['conf', 'nix.conf'],
  ['conf', '/etc/../root/x'],
  ['conf', '-/x'],
  ['conf', '/etc/nix\0/nix.conf'],
  ['user', '$(touch /tmp/x)'],
  ['user', 'x"; evil = "'],
  ['user', '-rf'],
  ['user', 'me\0'],
] as const) {
  box(`a hostile ${key} ${JSON.stringify(value)} makes no sense, and becomes no command`, () => {
    const answer = hostile(key, value)
    assert.is(answer.kind, 'refused')
    assert.not.match(JSON.stringify(answer), value.slice(0, 8))
  })
}
for (const [key, value, facts] of [
  ['keys', `a:b= ${KEY_A} x;y:${'c'.repeat(43)}= ${keyOf('b', '$')}`, { keys: [KEY_A] }],
  ['keys', `${KEY_A}\0`, { keys: [] }],
  ['nix', 'nix\u001b[2J', { nix: '' }],
  ['root', '$(x)', { root: 'no' }],
  ['socket', 'x', { socket: 'missing' }],
] as const) {
  box(`a hostile ${key} ${JSON.stringify(value).slice(0, 40)} is left out`, () => {
    const answer = hostile(key, value)
    assert.ok(answer.kind === 'there')
    assert.equal(answer.facts, { ...FACTS, ...facts })
  })
}

box('a hostile group is nobody to join', () => {
  for (const group of ['$(x)', 'a b', '-G', 'x"', 'root']) {
    const said = `${SAID.replace('socket usable', 'socket forbidden')}nix-lan-box group ${group}\n`
    const answer = answerOf(asked(0, said), BOX, 'alice')
    assert.ok(answer.kind === 'there')
    assert.equal(boxNeeds(answer.facts, [KEY_A]), { keys: [] }, group)
  }
})

box('a box with 100,000 keys is read to a limit', () => {
  const answer = hostile('keys', Array.from({ length: 100_000 }, (_, i) => keyOf(`k-${i}`, 'a')).join(' '))
  assert.ok(answer.kind === 'there' && answer.facts.keys.length === 10_000)
})

box('a nix.conf in the store is never written: the line to add is said', () => {
  const needs = { keys: ['c:d='] }
  const facts = { ...FACTS, conf: '/nix/store/x-etc/nix.conf', confWritable: false }
  assert.not.ok(mayFix(facts, needs))
  assert.ok(mayFix(facts, { keys: [], member: { user: 'me', group: 'nix-users' } }))
  const lines = linesToPaste(needs, facts)
  assert.match(lines[0] ?? '', /^# in what \/nix\/store\/x-etc\/nix\.conf is generated from/)
  assert.is(lines[1], 'extra-trusted-public-keys = c:d=')
  const ran = spawnSync('sh', ['-s'], { input: fixScript(needs, facts.conf, 'laptop'), encoding: 'utf8' })
  assert.is(ran.status, 1)
  assert.match(ran.stderr, 'is in the Nix store')
})

box('a nix.conf that has become a link since setup: undo leaves it, and what it leads to, as they are', () => {
  const directory = fresh()
  const [path, target] = [`${directory}/nix.conf`, `${directory}/dotfiles.conf`]
  onBox(fixScript({ keys: ['k:k='] }, path, 'laptop'), directory)
  renameSync(path, target)
  symlinkSync(target, path)
  const before = readFileSync(target, 'utf8')
  const input = restoreScript({ cache: 'pi', ssh: 'pi', port: 22, conf: path, key: 'k:k=' })
  const ran = spawnSync('sh', ['-s'], { input, env: { PATH: `${directory}:${process.env.PATH}` }, encoding: 'utf8' })
  assert.is(ran.status, 1)
  assert.match(ran.stderr, `${path} is now a link to ${target}`)
  assert.ok(lstatSync(path).isSymbolicLink())
  assert.is(readFileSync(target, 'utf8'), before)
  // What doesn't name the key is none of undo's business, wherever it is.
  writeFileSync(target, 'a = 1\n')
  assert.is(onBox(input, directory), '', 'no restart')
})

for (const [text, ssh, port] of [
  ['pi.local', 'pi.local', undefined],
  ['me@pi.local', 'me@pi.local', undefined],
  ['ssh://me@pi.local:2222', 'me@pi.local', 2222],
  ['ssh://pi.local/', 'pi.local', undefined],
  ['ssh://me@[fe80::1]:22', 'me@fe80::1', 22],
  ['fe80::1%eth0', 'fe80::1%eth0', undefined],
  ['me@192.168.1.5', 'me@192.168.1.5', undefined],
] as const) {
  box(`destination ${text}`, () => assert.equal(parseDestination(text), { ssh, port }))
}
for (const [text, message] of [
  ['CORP\\a@pi.local', /an alias into ~\/\.ssh\/config.*\n\nHost box\n {2}HostName pi\.local\n {2}User CORP\\a\n/],
  ['pi@pi.local:2222', /^pi@pi\.local:2222: ssh takes a port as ssh:\/\/pi@pi\.local:2222, or /],
  ['pi.local:22', /ssh takes a port as ssh:\/\/pi\.local:22, /],
  ['-oProxyCommand=x', /must be what you give to ssh/],
  ['-x@pi', /^-x@pi: must be what you give to ssh/],
  ['a b', /must be what you give to ssh/],
  ['http://pi', /must be what you give to ssh/],
  ['', /must be what you give to ssh/],
] as const) {
  box(`destination refused: ${text}`, () =>
    assert.match(
      messageOf(() => parseDestination(text)),
      message,
    ),
  )
}

box('the alias that is printed for a user’s name with odd characters is one that the real ssh takes', () => {
  for (const user of ['CORP\\a', 'my user', "o'x", 'a"b', 'a#b']) {
    const file = `${fresh()}/config`
    writeFileSync(file, messageOf(() => parseDestination(`${user}@pi.local`)).replace(/^.*\n\n/, ''))
    const { stdout, stderr, status } = spawnSync('ssh', ['-G', '-F', file, 'box'], { encoding: 'utf8' })
    assert.is(status, 0, stderr)
    const facts = parseFacts(stdout)
    assert.equal([facts.get('user'), facts.get('hostname')], [[user], ['pi.local']])
  }
})

for (const [name, config, route] of [
  ['direct', 'HostName 192.168.1.5\nPort 2222', { kind: 'direct', host: '192.168.1.5', port: 2222 }],
  ['a jump host', 'ProxyJump me@jump.lan:2200', { kind: 'through', ssh: 'me@jump.lan', port: 2200 }],
  ['two: the first', 'ProxyJump jump.lan,second', { kind: 'through', ssh: 'jump.lan', port: undefined }],
  ['one by its address', 'ProxyJump [fe80::1]:22', { kind: 'through', ssh: 'fe80::1', port: 22 }],
  ['ssh -W', 'ProxyCommand ssh -q -W %h:%p jump.lan', { kind: 'through', ssh: 'jump.lan', port: undefined }],
  ['ssh and nc', 'ProxyCommand ssh -o X=y me@jump.lan nc %h %p', { kind: 'through', ssh: 'me@jump.lan', port: undefined }],
  ['another program', 'ProxyCommand nc -x proxy:1080 %h %p', { kind: 'program', command: 'nc -x proxy:1080 %h %p' }],
  ['none', 'ProxyCommand none', { kind: 'direct', host: 'box', port: 22 }],
] as const) {
  box(`what must be reachable, as the real ssh -G says: ${name}`, () => {
    const file = `${fresh()}/config`
    writeFileSync(file, `Host box\n${config}\n`)
    const { stdout } = spawnSync('ssh', ['-G', '-F', file, 'box'], { encoding: 'utf8' })
    assert.equal(routeOf(parseFacts(stdout)), route)
  })
}

for (const [text, host, port] of [
  ['jump', 'jump', 22],
  ['jump.lan:2200', 'jump.lan', 2200],
  ['[fe80::1]:2200', 'fe80::1', 2200],
  ['fe80::1', 'fe80::1', 22],
] as const) {
  box(`--host ${text}`, () => assert.equal(parseHost(text), { host, port }))
}
box('--host that is none', () => {
  for (const text of ['', '-x', 'a b', 'a:b:', 'a:x'])
    assert.match(
      messageOf(() => parseHost(text)),
      /must be HOST/,
      text,
    )
})

/** Runs a script with programs that only write down how they were called. */
function onBox(script: string, directory: string): string {
  for (const name of ['systemctl', 'usermod', 'gpasswd']) {
    writeFileSync(`${directory}/${name}`, `#!/bin/sh\necho "${name} $*" >>'${directory}/log'\n`, { mode: 0o755 })
  }
  writeFileSync(`${directory}/log`, '')
  const ran = spawnSync('sh', ['-s'], { input: script, env: { PATH: `${directory}:${process.env.PATH}` }, encoding: 'utf8' })
  assert.is(ran.status, 0, ran.stderr)
  return readFileSync(`${directory}/log`, 'utf8')
}

for (const [name, before] of [
  ['a nix.conf', 'a = 1\n'],
  [
    'one that another laptop has its key in',
    'a = 1\n# nix-lan begin: the key of b\nextra-trusted-public-keys = b:b=\n# nix-lan end\nc = 2\n',
  ],
  ['an empty one', ''],
] as const) {
  box(`mended and restored byte for byte: ${name}`, () => {
    const directory = fresh()
    const path = `${directory}/nix.conf`
    writeFileSync(path, before, { mode: 0o640 })
    const needs = { keys: ["k-1:it's="], member: { user: 'me', group: 'nix-users' } }
    assert.is(
      onBox(fixScript(needs, path, "alice's laptop"), directory),
      'systemctl reset-failed nix-daemon.service\nsystemctl try-restart nix-daemon.service\nusermod -aG nix-users -- me\n',
    )
    assert.match(readFileSync(path, 'utf8'), "extra-trusted-public-keys = k-1:it's=\n# nix-lan end\n")
    assert.is(statSync(path).mode & 0o777, 0o640)
    const deed = { cache: 'pi', ssh: 'pi', port: 22, conf: path, key: "k-1:it's=", member: 'me nix-users' }
    assert.is(
      onBox(restoreScript(deed), directory),
      'systemctl reset-failed nix-daemon.service\nsystemctl try-restart nix-daemon.service\ngpasswd -d me nix-users\n',
    )
    assert.is(readFileSync(path, 'utf8'), before)
    assert.is(statSync(path).mode & 0o777, 0o640)
  })
}

box('the line of a key that was lost goes too, and a file that setup made', () => {
  const directory = fresh()
  const path = `${directory}/nix.conf`
  onBox(fixScript({ keys: ['k-1:old='] }, path, 'laptop'), directory)
  onBox(fixScript({ keys: ['k-2:new='] }, path, 'laptop'), directory)
  const deed = { cache: 'pi', ssh: 'pi', port: 22, conf: path, key: 'k-2:new=' }
  onBox(restoreScript({ ...deed, formerKeys: ['k-1:old='] }), directory)
  assert.is(readFileSync(path, 'utf8'), '', 'empty, as it may have been before')
  onBox(fixScript({ keys: ['k-2:new='] }, path, 'laptop'), directory)
  onBox(restoreScript({ ...deed, made: true }), directory)
  assert.not.ok(existsSync(path), 'setup made it')
  assert.not.ok(existsSync(`${path}.nix-lan-new`))
})

box('a line without an end is ended first; a file that is not there is made', () => {
  const directory = fresh()
  const path = `${directory}/etc/nix.conf`
  onBox(fixScript({ keys: ['k:k='] }, path, 'laptop'), directory)
  assert.match(readFileSync(path, 'utf8'), /^# nix-lan begin.*\nextra-trusted-public-keys = k:k=\n# nix-lan end\n$/)
  writeFileSync(path, 'a = 1')
  onBox(fixScript({ keys: ['k:k='] }, path, 'laptop'), directory)
  assert.match(readFileSync(path, 'utf8'), /^a = 1\n# nix-lan begin/)
})

box.run()

process.on('exit', () => rmSync(TMP, { recursive: true, force: true }))
