// nix-lan gc with real Nix on both sides: exactly what the box can give back goes, and it comes
// back.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../lib/needs.ts'
import type { Result } from '../lib/processes.ts'
import { until } from '../lib/until.ts'
import { HttpCache } from './http-cache.ts'
import { BOX_URL, createPair, DIST, type Pair } from './pair.ts'
import type { Running } from './world.ts'

const test = needs(suite('nix-lan gc'), 'root', 'nix', 'ssh', 'sshd', 'roots')

type Nix = 'host' | 'bookworm' | 'trixie' | 'forky'

interface Answer {
  goes: { path: string; size: number }[]
  stays: { path: string; size: number; reason: string }[]
  deleted: string[] | null
  alive: string[]
  freed: number | null
  stopped: string | null
}

/** A pair with a tunnel, whose client may use the box as a substituter. */
class Stage {
  readonly pair: Pair
  constructor(pair: Pair) {
    this.pair = pair
  }

  gc(...args: string[]): Promise<Result> {
    return this.pair.client.run('alice', `${DIST}/nix-lan`, ['gc', ...args])
  }

  async json(...args: string[]): Promise<Answer & { code: number | null; stderr: string }> {
    const { stdout, stderr, code } = await this.gc('--json', '--yes', ...args)
    assert.ok(stdout.startsWith('{'), `${stdout}${stderr}`)
    return { ...(JSON.parse(stdout) as Answer), code, stderr }
  }

  async build(name: string, count = 0): Promise<string[]> {
    return (await this.pair.build(['--argstr', 'name', name, '--arg', 'count', String(count)])).paths
  }

  async upload(...paths: string[]): Promise<void> {
    const { client } = this.pair
    await client.must('alice', `${DIST}/nix-lan`, ['queue', 'add', ...paths])
    await client.must('alice', `${DIST}/nix-lan`, ['queue', 'upload'])
    await client.idle()
  }

  /** What nothing roots on the box. */
  async boxCollects(): Promise<void> {
    await this.pair.box.idle()
    await this.pair.box.must('root', 'nix-store', ['--gc'])
  }

  async onBox(path: string): Promise<boolean> {
    return (await this.pair.box.run('root', 'nix-store', ['--check-validity', path])).code === 0
  }
}

async function on(client: Nix, box: Nix, play: (stage: Stage) => Promise<void>, settings: Record<string, string> = {}): Promise<void> {
  const pair = await createPair({ client, box, settings: { 'extra-substituters': BOX_URL, ...settings } })
  try {
    await pair.openPlainTunnel()
    await play(new Stage(pair))
  } finally {
    await pair.close()
  }
}

const sorted = (paths: readonly string[]): string[] => [...paths].sort()

for (const [client, box] of [
  ['bookworm', 'forky'],
  ['trixie', 'bookworm'],
  ['forky', 'trixie'],
] as const) {
  test(`${client} with a box on ${box}: of 300 builds the 200 on the box go; its own gc takes none; all come back`, () =>
    on(client, box, async (stage) => {
      const all = await stage.build('many', 300)
      const uploaded = all.slice(0, 200)
      await stage.upload(...uploaded)
      const look = await stage.json('--dry-run')
      assert.equal(sorted(look.goes.map(({ path }) => path)), sorted(uploaded))
      assert.is(look.deleted, null)
      assert.ok(await stage.pair.clientHas(...all))
      const done = await stage.json()
      assert.is(done.code, 0, done.stderr)
      assert.equal(sorted(done.deleted ?? []), sorted(uploaded))
      assert.ok(await stage.pair.clientHas(...all.slice(200)))
      assert.not(await stage.pair.clientHas(uploaded[0] ?? ''))
      await stage.boxCollects()
      assert.ok(await stage.pair.boxHas(...uploaded))
      await stage.pair.client.must('alice', 'nix-store', ['--realise', ...uploaded])
      assert.ok(await stage.pair.clientHas(...uploaded))
      assert.is((await stage.json('--dry-run')).goes.length, 200)
    }))
}

test('keep-outputs and keep-derivations in all four settings: the plan is what Nix allows', () =>
  on('trixie', 'trixie', async (stage) => {
    const { client } = stage.pair
    for (const outputs of ['false', 'true'])
      for (const derivations of ['false', 'true']) {
        stage.pair.configure({ 'extra-substituters': BOX_URL, 'keep-outputs': outputs, 'keep-derivations': derivations })
        await client.stopDaemon()
        await client.startDaemon()
        const name = (what: string): string => `${what}-${outputs}-${derivations}`
        const all = new Map<string, string>()
        const uploads: string[] = []
        for (const what of ['output', 'derivation', 'both', 'neither']) {
          const [path = ''] = await stage.build(name(what))
          const derivation = await client.must('alice', 'nix-store', ['--query', '--deriver', path])
          if (what === 'output' || what === 'both') uploads.push(path)
          if (what === 'derivation' || what === 'both') uploads.push(derivation)
          all.set(path, `${what} output`).set(derivation, `${what} derivation`)
        }
        await stage.upload(...uploads)
        const done = await stage.json()
        assert.equal([done.code, done.alive, done.stopped], [0, [], null], done.stderr)
        const expected = ['both derivation', 'both output']
        if (outputs === 'false') expected.push('output output')
        if (derivations === 'false') expected.push('derivation derivation')
        assert.equal(
          sorted((done.deleted ?? []).flatMap((path) => all.get(path) ?? [])),
          sorted(expected),
          `keep-outputs ${outputs}, keep-derivations ${derivations}`,
        )
        await stage.pair.collectGarbage()
      }
  }))

const NEEDS = `{ name, path }: derivation {
  inherit name;
  needed = builtins.storePath path;
  system = builtins.currentSystem;
  builder = "/bin/sh";
  PATH = "/usr/bin:/bin";
  args = [ "-c" "echo $needed > $out; touch /tmp/$name; while [ ! -e /tmp/go ]; do sleep 0.1; done" ];
}`

/** `sync` on the box: says that it has begun, and ends when it may. */
const SLOW_SYNC = '#!/bin/sh\ntouch /tmp/syncing\nwhile [ ! -e /tmp/synced ]; do sleep 0.1; done\n'

test('what a build needs that runs, or has begun since the plan, what is queued, what has another content there or no signature: stays', () =>
  on('trixie', 'bookworm', async (stage) => {
    const { client, box } = stage.pair
    const [input = ''] = await stage.build('input')
    const [late = ''] = await stage.build('late')
    const [queued = ''] = await stage.build('queued')
    const [unsigned = ''] = await stage.build('unsigned')
    const [fine = ''] = await stage.build('fine')
    await stage.upload(input, late, fine)
    await client.must('alice', `${DIST}/nix-lan`, ['queue', 'add', queued])
    const random = ['/opt/nix-lan/t.nix', '--no-out-link', '--argstr', 'name', 'random', '--arg', 'kb', '1']
    const different = await client.must('alice', 'nix-build', random)
    assert.is(await box.must('root', 'nix-build', random), different)
    assert.is(await box.must('root', 'nix-build', ['/opt/nix-lan/t.nix', '--no-out-link', '--argstr', 'name', 'unsigned']), unsigned)
    client.write('/opt/needs.nix', NEEDS)
    const builds = async (name: string, path: string): Promise<Running> => {
      const build = client.start('alice', 'nix-build', [
        '/opt/needs.nix',
        '--no-out-link',
        '--argstr',
        'name',
        name,
        '--argstr',
        'path',
        path,
      ])
      await until(name, async () => (await client.run('root', 'test', ['-e', `/tmp/${name}`])).code === 0)
      return build
    }
    const before = await builds('before', input)
    box.write('/usr/local/bin/sync', SLOW_SYNC, { mode: 0o755 })
    const collected = stage.json()
    await until('sync', async () => (await box.run('root', 'test', ['-e', '/tmp/syncing'])).code === 0)
    const since = await builds('since', late)
    box.write('/tmp/synced', '')
    const done = await collected
    client.write('/tmp/go', '')
    for (const build of [before, since]) assert.is(await build.ended, 0, build.output())
    assert.is(done.code, 0, done.stderr)
    assert.ok(done.deleted?.includes(fine))
    assert.not(done.deleted?.some((path) => [input, late, queued, unsigned, different].includes(path)))
    assert.equal([done.goes.some(({ path }) => path === input), done.alive.includes(late)], [false, true])
    const reason = (path: string): string | undefined => done.stays.find((one) => one.path === path)?.reason
    assert.equal([reason(unsigned), reason(different)], ['unsigned', 'different'])
    assert.ok(await stage.pair.clientHas(input, late, queued, unsigned, different))
  }))

test('keys, substituters, a box that is away: when in doubt nothing is deleted', () =>
  on('bookworm', 'trixie', async (stage) => {
    const { client } = stage.pair
    const [path = ''] = await stage.build('first')
    await stage.upload(path)
    const configure = async (settings: Record<string, string>): Promise<void> => {
      stage.pair.configure({ 'extra-substituters': BOX_URL, ...settings })
      await client.stopDaemon()
      await client.startDaemon()
    }
    await client.must('root', 'nix-store', ['--generate-binary-cache-key', 'client-1', '/etc/nix/other', '/etc/nix/other.pub'])
    const other = client.read('/etc/nix/other.pub').trim()
    // Of two keys of a name Nix believes the first only.
    await configure({ 'trusted-public-keys': `${other} ${stage.pair.publicKey}` })
    assert.equal((await stage.json()).stays.find((one) => one.path === path)?.reason, 'unsigned')
    await configure({ 'extra-substituters': '' })
    const unused = await stage.gc('--yes')
    assert.is(unused.code, 1)
    assert.match(unused.stderr, /not among the substituters in force/)
    await configure({})
    const fetchesNothing = { env: { NIX_CONFIG: 'substitute = false' } }
    assert.is((await client.run('alice', `${DIST}/nix-lan`, ['gc', '--yes'], fetchesNothing)).code, 1)
    assert.equal(
      (await stage.json('--dry-run')).goes.map((one) => one.path),
      [path],
    )
    await stage.pair.closeTunnel()
    const away = await stage.gc('--yes')
    assert.is(away.code, 75, away.stderr)
    assert.ok(await stage.pair.clientHas(path))
    assert.is((await stage.gc('--free', '5X')).code, 2)
  }))

/** Answers a question on a terminal once /tmp/yes is there. */
const ASKED = `(while [ ! -e /tmp/yes ]; do sleep 0.1; done; echo y; sleep 600) | script -qec '${DIST}/nix-lan gc' /dev/null`

test('nothing is deleted before all is on the disk of the box; nor what it loses after the question, nor if it goes away', () =>
  on('trixie', 'trixie', async (stage) => {
    const { client, box } = stage.pair
    client.write('/etc/nix-lan/config.toml', `${client.read('/etc/nix-lan/config.toml')}keep = "none"\n`)
    const [stays = '', goes = ''] = await stage.build('two', 2)
    await stage.upload(stays, goes)
    box.write('/usr/local/bin/sync', '#!/bin/sh\nexit 1\n', { mode: 0o755 })
    const unsynced = await stage.json()
    assert.equal([unsynced.code, unsynced.deleted], [1, []], unsynced.stderr)
    const syncs = (): Promise<boolean> => box.run('root', 'test', ['-e', '/tmp/syncing']).then(({ code }) => code === 0)
    box.write('/usr/local/bin/sync', SLOW_SYNC, { mode: 0o755 })
    const cut = stage.json()
    await until('sync', syncs)
    await box.stopSshd()
    const away = await cut
    assert.equal([away.code, away.deleted], [75, []], away.stderr)
    await box.startSshd()
    await stage.pair.closeTunnel()
    await stage.pair.openPlainTunnel()
    // What the two before have pinned is let go of, so that the box can lose it.
    await box.must('root', 'rm', ['-rf', '/tmp/syncing', '/home/alice/.local'])
    const asked = client.start('alice', 'sh', ['-c', ASKED])
    await until('the question', () => asked.output().includes('Delete 2 paths'))
    await box.must('root', 'nix-store', ['--add-root', '/nix/var/nix/gcroots/goes', '--realise', goes], { env: { NIX_REMOTE: 'local' } })
    await stage.boxCollects()
    assert.equal([await stage.onBox(stays), await stage.onBox(goes)], [false, true])
    client.write('/tmp/yes', '')
    await until('sync', syncs)
    assert.ok(await stage.pair.clientHas(stays, goes))
    box.write('/tmp/synced', '')
    await until('the end', () => /stays?: the box has lost/.test(asked.output()))
    await asked.stop()
    assert.match(asked.output(), /1 path deleted;[\s\S]*1 path stays: the box has lost it meanwhile/)
    assert.equal([await stage.pair.clientHas(stays), await stage.pair.clientHas(goes)], [true, false])
    await box.must('root', 'rm', ['/nix/var/nix/gcroots/goes'])
    await stage.boxCollects()
    assert.ok(await stage.pair.boxHas(goes))
  }))

/** Never fetched, which the derivation says in its environment or in its structured attributes. */
const CHEAP = `let
  cheap = more: derivation ({
    system = builtins.currentSystem;
    builder = "/bin/sh";
    allowSubstitutes = false;
  } // more);
in [
  (cheap { name = "cheap"; args = [ "-c" "echo cheap > $out" ]; })
  (cheap {
    name = "structured";
    __structuredAttrs = true;
    args = [ "-c" ''PATH=/usr/bin:/bin; echo cheap > "$(sed 's/.*"out":"\\([^"]*\\)".*/\\1/' "$NIX_ATTRS_JSON_FILE")"'' ];
  })
]`

test('limits, and what is never fetched; --verify: what is damaged on the box is found, and nothing is deleted; without damage it goes', () =>
  on('trixie', 'trixie', async (stage) => {
    const { box, client } = stage.pair
    const paths = await stage.build('file', 2)
    client.write('/opt/cheap.nix', CHEAP)
    const cheap = (await client.must('alice', 'nix-build', ['/opt/cheap.nix', '--no-out-link'])).split('\n')
    await stage.upload(...paths, ...cheap)
    const plan = async (...args: string[]): Promise<[goes: string[], stays: Set<string>]> => {
      const { goes, stays } = await stage.json('--dry-run', ...args)
      const all = [...paths, ...cheap]
      return [
        sorted(goes.flatMap(({ path }) => (all.includes(path) ? [path] : []))),
        new Set(stays.flatMap(({ path, reason }) => (all.includes(path) ? [reason] : []))),
      ]
    }
    assert.equal(await plan(), [sorted(paths), new Set(['not-fetched'])])
    assert.equal(await plan('--include-cheap'), [sorted([...paths, ...cheap]), new Set()])
    assert.equal(await plan('--older-than', '1h'), [[], new Set(['not-fetched', 'recent'])])
    assert.equal(await plan('--free', '1K'), [[], new Set(['not-fetched', 'limit'])])
    const [some, rest] = await plan('--max-freed', '200')
    assert.equal([some.length, rest], [1, new Set(['not-fetched', 'limit'])], '120 bytes each')
    const content = box.read(paths[0] ?? '')
    const write = (text: string): Promise<string> =>
      box.must('root', 'sh', ['-c', 'chmod u+w "$0"; printf %s "$1" >"$0"; chmod u-w "$0"', paths[0] ?? '', text])
    await write('damaged')
    const refused = await stage.json('--verify')
    assert.equal([refused.code, refused.deleted], [1, []])
    assert.match(refused.stopped ?? '', /can't vouch for what it has, so nothing is deleted: path '\S+-file-1' was modified!/)
    await write(content)
    const done = await stage.json('--verify')
    assert.equal([done.code, sorted(done.deleted ?? [])], [0, sorted(paths)], done.stderr)
  }))

test('--auto: off, enough free, too little free; status says what it has seen', () =>
  on('trixie', 'forky', async (stage) => {
    const { client } = stage.pair
    const conf = client.read('/etc/nix-lan/config.toml')
    const keepFree = (size: string): void => client.write('/etc/nix-lan/config.toml', `${conf}[gc]\nkeep-free = "${size}"\n`)
    const status = async (): Promise<string> => (await client.run('alice', `${DIST}/nix-lan`, ['status'])).stdout
    const [path = ''] = await stage.build('first')
    await stage.upload(path)
    assert.equal([(await stage.gc('--auto')).code, await stage.pair.clientHas(path)], [0, true], 'off')
    keepFree('1K')
    const enough = await stage.json('--auto')
    assert.equal([enough.code, enough.goes, enough.deleted, await stage.pair.clientHas(path)], [0, [], null, true], 'enough')
    assert.is((await stage.gc('--auto', '--json')).stdout, '', 'and seen just now')
    assert.match(await status(), /^space: 120 B can be freed safely \(nix-lan gc\); 1 path, .* is only here, as of \d+[sm] ago$/m)
    keepFree('1000T')
    const other = client.start('alice', 'flock', ['/run/user/1000/nix-lan/gc.lock', 'sh', '-c', 'touch /tmp/locked; sleep 300'])
    await until('the lock', async () => (await client.run('root', 'test', ['-e', '/tmp/locked'])).code === 0)
    assert.equal([(await stage.gc('--auto')).code, (await stage.gc('--yes')).code], [0, 75], 'another one runs')
    assert.not.match(await status(), /running already/)
    await other.stop()
    await stage.pair.closeTunnel()
    assert.equal([(await stage.gc('--auto')).code, await stage.pair.clientHas(path)], [0, true], 'away')
    assert.match(await status(), /^space: nothing can be confirmed now, so nothing is deleted: box: it is away/m)
    await stage.pair.openPlainTunnel()
    const done = await stage.gc('--auto')
    assert.equal([done.code, await stage.pair.clientHas(path)], [0, false], done.stderr)
    assert.match(await status(), /^space: 0 B can be freed safely/m)
    assert.match(await status(), /^space: only .* are free of the 1000\.0 TiB of gc\.keep-free/m)
  }))

test('trust: what another machine has signed goes once its key is trusted, and no longer when that is taken back', () =>
  on('trixie', 'trixie', async (stage) => {
    const { client, box } = stage.pair
    await box.must('root', 'nix-store', ['--generate-binary-cache-key', 'laptop-2', '/etc/nix/two', '/etc/nix/two.pub'])
    const key = box.read('/etc/nix/two.pub').trim()
    const [path = ''] = await stage.build('both')
    assert.is(await box.must('root', 'nix-build', ['/opt/nix-lan/t.nix', '--no-out-link', '--argstr', 'name', 'both']), path)
    await box.must('root', 'nix', ['store', 'sign', '--key-file', '/etc/nix/two', path], { env: { NIX_REMOTE: 'local' } })
    const reason = async (): Promise<string | undefined> => (await stage.json('--dry-run')).stays.find((one) => one.path === path)?.reason
    assert.is(await reason(), 'unsigned')
    const before = client.read('/etc/nix/nix.conf')
    const trust = (...args: string[]): Promise<Result> => client.run('root', `${DIST}/nix-lan`, ['trust', ...args])
    assert.is((await client.run('alice', `${DIST}/nix-lan`, ['trust', '--yes', key])).code, 2)
    assert.is((await trust(key)).code, 2, 'nobody to ask')
    assert.is(client.read('/etc/nix/nix.conf'), before)
    // A world has no systemd that could restart its daemon.
    assert.match((await trust('--yes', key)).stderr, /nix-daemon was not restarted/)
    assert.match((await trust('--yes', key)).stdout, /laptop-2 is trusted here already/)
    assert.match((await trust('--yes', key.replace(/:.{4}/, ':AAAA'))).stderr, /another key is called laptop-2 here/)
    assert.is(await reason(), undefined)
    await trust('--remove', key)
    assert.is(client.read('/etc/nix/nix.conf'), before)
    assert.is(await reason(), 'unsigned')
    assert.equal((await client.run('alice', `${DIST}/nix-lan`, ['key'])).stdout, `${stage.pair.publicKey}\n`)
  }))

test('a Nix without a daemon: the same', () =>
  on('trixie', 'trixie', async (stage) => {
    const { client } = stage.pair
    await client.stopDaemon()
    await client.must('root', 'chown', ['-R', 'alice', '/nix', '/etc/nix'])
    const env = { NIX_REMOTE: undefined }
    const run = (...args: string[]): Promise<Result> => client.run('alice', `${DIST}/nix-lan`, args, { env })
    const path = await client.must('alice', 'nix-build', ['/opt/nix-lan/t.nix', '--no-out-link', '--argstr', 'name', 'own'], { env })
    await run('queue', 'add', path)
    assert.is((await run('queue', 'upload')).code, 0)
    const done = await run('gc', '--yes')
    assert.is(done.code, 0, done.stderr)
    assert.match(done.stdout, /^1 path deleted; /m)
    assert.not((await client.run('alice', 'nix-store', ['--check-validity', path], { env })).code === 0)
    assert.is(await client.must('alice', 'nix-store', ['--realise', path], { env }), path)
  }))

test('--push uploads what is only here; --include-substitutable counts what another cache has signed, and no more', () =>
  on('trixie', 'forky', async (stage) => {
    const { client } = stage.pair
    const cache = new HttpCache(client.path('/srv/cache'))
    await cache.open()
    try {
      stage.pair.configure({ 'extra-substituters': `${BOX_URL} ${cache.url}` })
      await client.stopDaemon()
      await client.startDaemon()
      const [there = '', unsigned = '', only = ''] = await stage.build('some', 3)
      const nix = ['--extra-experimental-features', 'nix-command']
      await client.must('root', 'nix', [...nix, 'copy', '--to', 'file:///srv/cache', there, unsigned])
      const narinfo = `/srv/cache/${unsigned.slice(11, 43)}.narinfo`
      client.write(narinfo, client.read(narinfo).replace(/^Sig: .*\n/gm, ''))
      await client.must('root', 'chmod', ['-R', 'a+rX', '/srv/cache'])
      const first = await stage.json('--include-substitutable')
      assert.equal([first.code, first.deleted], [0, [there]], first.stderr)
      const reason = (path: string): string | undefined => first.stays.find((one) => one.path === path)?.reason
      assert.equal([reason(unsigned), reason(only)], ['unsigned', 'missing'])
      const second = await stage.json('--push')
      assert.ok(
        [unsigned, only].every((path) => second.deleted?.includes(path)),
        second.stderr,
      )
      await stage.boxCollects()
      await client.must('alice', 'nix-store', ['--realise', there, unsigned, only])
      // what can't be uploaded is told, and stays
      stage.pair.configure({ 'extra-substituters': BOX_URL, 'secret-key-files': '' })
      await client.stopDaemon()
      await client.startDaemon()
      const [nobodys = ''] = await stage.build('nobodys', 1)
      const third = await stage.json('--push')
      assert.match(third.stderr, /^box: 1 path skipped: the path or one of its dependencies is unsigned/m)
      assert.not(third.deleted?.includes(nobodys))
    } finally {
      cache.close()
    }
  }))

test.run()
