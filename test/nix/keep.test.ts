// What the box keeps, with real Nix and ssh: uploads survive its garbage collection, for as long as
// they should and no longer.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../lib/needs.ts'
import { pause, type Result } from '../lib/processes.ts'
import { until } from '../lib/until.ts'
import { BOX_URL, createPair, DIST, type Pair } from './pair.ts'

const test = needs(suite('kept on the box'), 'root', 'nix', 'ssh', 'sshd', 'roots')

const FOLDER = '/home/alice/.local/state/nix-lan'
/** In milliseconds. */
const DAY = 86_400_000

class Stage {
  readonly pair: Pair
  constructor(pair: Pair) {
    this.pair = pair
  }

  run(...args: string[]): Promise<Result> {
    return this.pair.client.run('alice', `${DIST}/nix-lan`, args)
  }

  async build(name: string, count = 0): Promise<string[]> {
    return (await this.pair.build(['--argstr', 'name', name, '--arg', 'count', String(count)])).paths
  }

  async upload(...paths: string[]): Promise<Result> {
    await this.run('queue', 'add', ...paths)
    return await this.run('queue', 'upload')
  }

  async boxCollects(): Promise<void> {
    await this.pair.box.idle()
    await this.pair.box.must('root', 'nix-store', ['--gc'])
  }

  async onBox(path: string): Promise<boolean> {
    return (await this.pair.box.run('root', 'nix-store', ['--check-validity', path])).code === 0
  }

  /** Paths of links below our folder in alice's home there. */
  async links(): Promise<string[]> {
    const found = await this.pair.box.run('alice', 'find', [FOLDER, '-type', 'l'])
    return found.stdout.trim().split('\n').filter(Boolean).sort()
  }

  /** A line more in the cache's part of config.toml. */
  configure(line: string): void {
    const { client } = this.pair
    client.write('/etc/nix-lan/config.toml', `${client.read('/etc/nix-lan/config.toml')}${line}\n`)
  }
}

/** Links are named after days, and no day may end in the middle of a test. */
async function farFromMidnight(): Promise<void> {
  const left = DAY - (Date.now() % DAY)
  if (left < 3 * 60_000) await pause(left + 1000)
}

async function on(client: 'bookworm' | 'trixie' | 'forky', box: typeof client, play: (stage: Stage) => Promise<void>): Promise<void> {
  await farFromMidnight()
  const pair = await createPair({ client, box })
  try {
    await pair.openPlainTunnel()
    await play(new Stage(pair))
  } finally {
    await pair.close()
  }
}

for (const [client, box] of [
  ['bookworm', 'trixie'],
  ['trixie', 'forky'],
  ['forky', 'bookworm'],
] as const) {
  test(`${client}, box on ${box}: a box that collects garbage all the time loses no upload; one link a day; what is forgotten goes`, () =>
    on(client, box, async (stage) => {
      let over = false
      let collections = 0
      const loop = (async () => {
        while (!over) {
          await stage.pair.box.must('root', 'nix-store', ['--gc'])
          collections++
        }
      })()
      const uploaded: string[] = []
      try {
        for (const name of ['one', 'two', 'three']) {
          const paths = await stage.build(name, 5)
          const done = await stage.upload(...paths)
          assert.equal([done.code, done.stderr], [0, ''])
          uploaded.push(...paths)
        }
      } finally {
        over = true
        await loop
      }
      assert.ok(collections > 1)
      await stage.boxCollects()
      assert.ok(await stage.pair.boxHas(...uploaded))
      const [link = '', ...others] = await stage.links()
      assert.equal(others, [])
      assert.match(link, /\/kept\/client-1\/\d{4}-\d\d-\d\d$/)
      const listed = JSON.parse((await stage.run('box', 'list', '--json')).stdout)
      assert.equal(
        listed.map(({ kind, client, paths }: Record<string, unknown>) => [kind, client, paths]),
        [['kept', 'client-1', 15]],
      )
      const forgotten = await stage.run('box', 'forget', '--yes', uploaded[0] ?? '')
      assert.is(forgotten.code, 0, forgotten.stderr)
      await stage.boxCollects()
      assert.not(await stage.onBox(uploaded[0] ?? ''))
      assert.ok(await stage.pair.boxHas(...uploaded.slice(1)))
      assert.match((await stage.run('box', 'forget', '--yes', uploaded[0] ?? '')).stderr, /keeps nothing of that kind for client-1/)
    }))
}

test('keep = "none": nothing is linked, and the box deletes it; forget by age; a collection through the tunnel', () =>
  on('trixie', 'trixie', async (stage) => {
    const [first = ''] = await stage.build('first')
    await stage.upload(first)
    const old = `${FOLDER}/kept/client-1/2020-01-01`
    const [link = ''] = await stage.links()
    await stage.pair.box.must('alice', 'mv', [link, old])
    await stage.pair.box.must('alice', 'sh', [
      '-c',
      'NIX_REMOTE=daemon nix-store --add-root "$1" --realise "$(readlink "$0")"',
      old,
      `${old}`,
    ])
    stage.configure('keep = "none"')
    const [second = ''] = await stage.build('second')
    assert.is((await stage.upload(second)).code, 0)
    assert.equal(await stage.links(), [old])
    await stage.pair.box.idle()
    const collected = JSON.parse((await stage.run('box', 'gc', '--yes', '--json')).stdout)
    assert.ok(collected.deleted.includes(second))
    assert.not(await stage.onBox(second))
    assert.ok(await stage.onBox(first))
    assert.is((await stage.run('box', 'forget', '--older-than', '30d', '--yes')).code, 0)
    assert.equal(await stage.links(), [])
    await stage.boxCollects()
    assert.not(await stage.onBox(first))
  }))

test('an upload lets go of days that are older than keep, and keeps the others, and all of another client', () =>
  on('trixie', 'bookworm', async (stage) => {
    const [first = ''] = await stage.build('first')
    await stage.upload(first)
    const [link = ''] = await stage.links()
    const recent = new Date(Date.now() - 50 * DAY).toISOString().slice(0, 10)
    for (const day of ['2020-01-01', recent]) await stage.pair.box.must('alice', 'cp', ['-P', link, `${FOLDER}/kept/client-1/${day}`])
    const others = `${FOLDER}/kept/laptop-2/2020-01-01`
    await stage.pair.box.must('alice', 'mkdir', [`${FOLDER}/kept/laptop-2`])
    await stage.pair.box.must('alice', 'cp', ['-P', link, others])
    const [second = ''] = await stage.build('second')
    await stage.upload(second)
    assert.equal(
      (await stage.links()).map((one) => (one === others ? one : one.slice(-10))),
      [recent, link.slice(-10), others],
    )
  }))

/** Restarts the box's sshd, and the tunnel, with these lines at the end of its configuration. */
async function sshd(stage: Stage, lines: string): Promise<void> {
  const { pair } = stage
  await pair.closeTunnel()
  await pair.box.stopSshd()
  const conf = '/etc/ssh/nix-lan/sshd_config'
  const own = pair.box.read(conf).split('# of the test\n')[0]
  pair.box.write(conf, `${own}# of the test\n${lines}`)
  await pair.box.startSshd()
  await pair.openPlainTunnel()
}

test('an upload that ends after the copy, before the box keeps it: it is still queued, and kept by the next one', () =>
  on('trixie', 'trixie', async (stage) => {
    const { box, client } = stage.pair
    await sshd(stage, 'ForceCommand sleep 300\n')
    const [path = ''] = await stage.build('cut')
    await stage.run('queue', 'add', path)
    const cut = client.start('alice', `${DIST}/nix-lan`, ['queue', 'upload'])
    await until('the box to be asked to keep it', async () => (await stage.onBox(path)) && box.processes('sleep').length > 0)
    await cut.stop()
    assert.is.not(await cut.ended, 0)
    await sshd(stage, '')
    assert.match((await stage.run('queue')).stdout, /-cut$/m)
    assert.is((await stage.run('queue', 'upload')).code, 0)
    await stage.boxCollects()
    assert.ok(await stage.onBox(path))
    const { caches } = JSON.parse((await stage.run('status', '--json')).stdout)
    assert.equal([caches[0].queue.queued, caches[0].notKept, caches[0].uploaded.all.paths], [0, null, 1], 'counted once')
  }))

const NEEDS = `{ path }: derivation {
  name = "needs";
  needed = builtins.storePath path;
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "echo $needed > $out" ];
}`

/** A nix that says when it is about to copy, and does when it may. @param nix the real one */
const slowCopy = (nix: string): string => `#!/bin/sh
case " $* " in *" copy "*) touch /tmp/copies; while [ ! -e /tmp/copy ]; do sleep 0.1; done ;; esac
exec ${nix} "$@"
`

test('what comes while forget asks stays kept; what an upload needs, and nothing else there keeps, stays until it has arrived', () =>
  on('trixie', 'trixie', async (stage) => {
    const { client } = stage.pair
    const [first = '', later = ''] = await stage.build('some', 2)
    await stage.upload(first)
    const forget = `(while [ ! -e /tmp/yes ]; do sleep 0.1; done; echo y; sleep 60) | script -qec '${DIST}/nix-lan box forget ${first}' /dev/null`
    const asked = client.start('alice', 'sh', ['-c', forget])
    await until('the question', () => asked.output().includes('Let go of 1 path'))
    assert.is((await stage.upload(later)).code, 0)
    client.write('/tmp/yes', '')
    await until('the end', () => asked.output().includes('1 path no longer kept'))
    await asked.stop()
    await stage.boxCollects()
    assert.equal([await stage.onBox(first), await stage.onBox(later)], [false, true])
    await stage.run('box', 'forget', '--yes', later)
    client.write('/opt/needs.nix', NEEDS)
    const path = await client.must('alice', 'nix-build', ['/opt/needs.nix', '--no-out-link', '--argstr', 'path', later])
    const closure = JSON.parse((await stage.run('queue', 'add', '--closure', path, '--dry-run', '--json')).stdout)[0]
    assert.equal([closure.added.length, closure.onBox], [1, 1], 'it, and what it needs')
    client.write('/usr/local/bin/nix', slowCopy(await client.must('alice', 'sh', ['-c', 'command -v nix'])), { mode: 0o755 })
    const uploading = stage.upload(path)
    await until('the copy', async () => (await client.run('root', 'test', ['-e', '/tmp/copies'])).code === 0)
    await stage.pair.box.must('root', 'nix-store', ['--gc'])
    assert.ok(await stage.onBox(later))
    client.write('/tmp/copy', '')
    assert.is((await uploading).code, 0)
    await stage.boxCollects()
    assert.ok(await stage.pair.boxHas(path, later))
  }))

const SFTP_ONLY = 'ForceCommand internal-sftp\nSubsystem sftp internal-sftp\n'

test('a box that runs no commands, but sftp: it keeps what is uploaded, lets go, and forgets; gc waits until all is on its disk', () =>
  on('trixie', 'bookworm', async (stage) => {
    const { box, client } = stage.pair
    await sshd(stage, SFTP_ONLY)
    const [first = ''] = await stage.build('first')
    const done = await stage.upload(first)
    assert.equal([done.code, done.stderr], [0, ''])
    const [link = ''] = await stage.links()
    assert.match(link, /\/kept\/client-1\/\d{4}-\d\d-\d\d$/)
    await stage.boxCollects()
    assert.ok(await stage.pair.boxHas(first))
    // An old one, known to the box as a root: let go of by the next upload.
    const old = link.replace(/[^/]*$/, '2020-01-01')
    await box.must('alice', 'cp', ['-P', link, old])
    await box.must('alice', 'sh', ['-c', 'NIX_REMOTE=daemon nix-store --add-root "$0" --realise "$(readlink "$0")"', old])
    const [second = ''] = await stage.build('second')
    assert.is((await stage.upload(second)).stderr, '')
    assert.equal(await stage.links(), [link])
    stage.pair.configure({ 'extra-substituters': BOX_URL })
    await client.stopDaemon()
    await client.startDaemon()
    const gc = await stage.run('gc', '--yes')
    assert.is(gc.code, 0, gc.stderr)
    assert.match(gc.stderr, /^2 paths stay: uploaded within the last hour, and the box, which runs no commands, can't be told to write/m)
    assert.ok(await stage.pair.clientHas(first, second))
    const forgotten = await stage.run('box', 'forget', '--yes', first)
    assert.is(forgotten.code, 0, forgotten.stderr)
    await stage.boxCollects()
    assert.not(await stage.onBox(first))
    assert.ok(await stage.pair.boxHas(second))
    // A login shell like nologin: sshd itself does sftp.
    await box.must('root', 'sed', ['-i', 's#^\\(alice:.*\\):/bin/sh$#\\1:/usr/sbin/nologin#', '/etc/passwd'])
    await sshd(stage, 'Subsystem sftp internal-sftp\n')
    const [third = ''] = await stage.build('third')
    assert.is((await stage.upload(third)).stderr, '')
    await stage.boxCollects()
    assert.ok(await stage.pair.boxHas(second, third))
  }))

test('a box that runs neither commands nor sftp: the upload counts and says what is not kept, and what would change that; gc deletes nothing', () =>
  on('trixie', 'trixie', async (stage) => {
    await sshd(stage, 'ForceCommand /bin/false\n')
    const [path = ''] = await stage.build('first')
    const done = await stage.upload(path)
    assert.is(done.code, 0)
    assert.match(
      done.stderr,
      /^box: uploaded, but the box's own garbage collection may delete it: box runs no commands for alice@127.0.0.1 \(exit 1\), nor sftp \(.+\); in its sshd_config, either no ForceCommand, or `ForceCommand internal-sftp`/m,
    )
    assert.match((await stage.run('status')).stdout, /^ +not kept: .*: box runs no commands/m)
    stage.pair.configure({ 'extra-substituters': BOX_URL })
    await stage.pair.client.stopDaemon()
    await stage.pair.client.startDaemon()
    const gc = await stage.run('gc', '--yes')
    assert.is(gc.code, 1, gc.stderr)
    assert.match(gc.stderr, /^stopped, what is left stays: box runs no commands/m)
    stage.configure('[gc]\nkeep-free = "1000T"')
    assert.is((await stage.run('gc', '--auto')).code, 1)
    assert.match((await stage.run('status')).stdout, /^space: box runs no commands/m)
    assert.ok(await stage.pair.clientHas(path))
    // what the message says
    await sshd(stage, SFTP_ONLY)
    const [second = ''] = await stage.build('second')
    assert.is((await stage.upload(second)).stderr, '')
    assert.not.match((await stage.run('status')).stdout, /not kept/)
    await stage.boxCollects()
    assert.ok((await stage.onBox(path)) && (await stage.onBox(second)), 'what could not be kept before is now')
  }))

test('what was forgotten is not queued again by itself, what was lost is; the daily look says how much is there; status too', () =>
  on('trixie', 'forky', async (stage) => {
    const { box } = stage.pair
    const paths = await stage.build('many', 4)
    const [forgotten = '', lost = ''] = paths
    await stage.upload(...paths)
    const look = async (): Promise<Record<string, unknown>> => JSON.parse((await stage.run('box', 'look', '--json')).stdout)
    const before = await look()
    assert.equal([before.sample, before.anew, before.leaving], [{ asked: 4, there: 4 }, [], null])
    assert.ok((before.disk as { total: number }).total > 0)
    assert.match((await stage.run('status')).stdout, /^ {2}kept {6}4 paths, \d+ B$\n^ {12}a sample of 4 uploaded paths: all there$/m)
    await stage.run('box', 'forget', '--yes', forgotten)
    await box.must('alice', 'rm', await stage.links())
    await stage.boxCollects()
    const after = await look()
    assert.equal(after.sample, { asked: 3, there: 0 }, 'what was forgotten is not missed')
    assert.match((await stage.run('status')).stdout, /a sample of 3 uploaded paths: 3 gone/)
    const added = JSON.parse((await stage.run('queue', 'add', '--built', '--json')).stdout)[0]
    assert.equal([added.added.length, added.forgotten], [3, 1])
    assert.ok(added.added.some((name: string) => lost.endsWith(name)))
    await stage.run('queue', 'upload')
    await stage.upload(forgotten)
    assert.ok(await stage.pair.boxHas(...paths))
    assert.equal((await look()).sample, { asked: 4, there: 4 })
    assert.is(JSON.parse((await stage.run('queue', 'add', '--built', '--json')).stdout)[0].forgotten, 0)
  }))

test('what was fetched again is kept anew; before something is let go, status says how much of it is no longer here', () =>
  on('bookworm', 'trixie', async (stage) => {
    const { box, client } = stage.pair
    stage.pair.configure({ 'extra-substituters': BOX_URL })
    await client.stopDaemon()
    await client.startDaemon()
    const [again = '', gone = '', here = ''] = await stage.build('three', 3)
    await stage.upload(again, gone, here)
    const [link = ''] = await stage.links()
    // as if it had been uploaded 57 days ago
    const day = new Date(Date.now() - 57 * DAY).toISOString().slice(0, 10)
    const old = link.replace(/[^/]*$/, day)
    await box.must('alice', 'mv', [link, old])
    await box.must('alice', 'sh', ['-c', 'NIX_REMOTE=daemon nix-store --add-root "$0" --realise "$(readlink "$0")"', old])
    await client.idle()
    await client.must('root', 'nix-store', ['--delete', again, gone])
    const before = JSON.parse((await stage.run('box', 'look', '--json')).stdout)
    assert.equal([before.leaving.paths, before.leaving.gone.paths, before.anew], [3, 2, []])
    assert.match(
      (await stage.run('status')).stdout,
      /^ +from \d{4}-\d\d-\d\d on it lets go of 3 paths, \d+ B; 2 paths, \d+ B of that are no longer here/m,
    )
    await client.must('alice', 'nix-store', ['--realise', again])
    const after = JSON.parse((await stage.run('box', 'look', '--json')).stdout)
    assert.equal([after.leaving.paths, after.leaving.gone.paths, after.anew], [2, 1, [again]])
    // and what is fetched again after the look is kept before an upload lets go
    await client.must('alice', 'nix-store', ['--realise', gone])
    stage.configure('keep = "30d"')
    const [other = ''] = await stage.build('other')
    assert.is((await stage.upload(other)).stderr, '')
    assert.equal(await stage.links(), [link])
    await stage.boxCollects()
    assert.ok(await stage.pair.boxHas(again, gone, other))
    assert.not(await stage.onBox(here), 'it is here, and was uploaded more than 30 days ago')
  }))

const OUTSIDE = '/nix/var/nix/gcroots/nix-lan-kept/alice'

/**
 * Where systemd-homed has a home of its kind "directory", mounted while somebody is logged in; nix-daemon,
 * in a mount namespace of its own, sees mounts come and go only where they are shared.
 */
const HOMED = 'mount --make-rshared /; mv /home/alice /home/alice.homedir; mkdir /home/alice; mount --bind /home/alice.homedir /home/alice'

for (const [way, box, conf] of [
  ['sh', 'bookworm', ''],
  ['sftp', 'forky', SFTP_ONLY],
] as const) {
  test(`${way}: a collection while the home is away takes all that is kept there; with the directory that doctor asks for nothing`, () =>
    on('trixie', box, async (stage) => {
      const { box, client } = stage.pair
      await box.stopDaemon()
      await box.must('root', 'sh', ['-ec', HOMED])
      await box.startDaemon()
      if (conf !== '') await sshd(stage, conf)
      const collectsAtNight = async (): Promise<void> => {
        await box.unmount('/home/alice')
        await stage.boxCollects()
        await box.must('root', 'mount', ['--bind', '/home/alice.homedir', '/home/alice'])
      }
      const kept = async (): Promise<{ state: string; found: string; fix: string | null }> => {
        const checks = JSON.parse((await stage.run('doctor', '--json')).stdout)
        return checks.find(({ check }: { check: string }) => check === 'kept')
      }
      const [lost = '', forGood = ''] = await stage.build('first', 2)
      await stage.upload(lost, forGood)
      await collectsAtNight()
      assert.not(await stage.onBox(lost), 'so it needs a cure')
      assert.is((await stage.upload(lost, forGood)).stderr, '')
      let install = `install -d -o alice -m 700 ${OUTSIDE}`
      if (way === 'sh') {
        stage.pair.configure({ 'extra-substituters': BOX_URL })
        await client.stopDaemon()
        await client.startDaemon()
        const gc = await stage.run('gc', '--yes')
        assert.is(gc.code, 0, gc.stderr)
        const { state, found, fix } = await kept()
        assert.is(state, 'warning')
        assert.match(found, /^the home of alice on the box is mounted by systemd-homed at login: a garbage collection there/)
        const [, command = '', then] = /^ssh -t -p \d+ \S+ sudo (install .*), then: nix-lan (.*)$/.exec(fix ?? '') ?? []
        assert.equal([command, then], [install, 'box look --cache box'])
        install = command
      }
      await box.must('root', 'sh', ['-c', install])
      // until they move, the links are where they were
      await stage.boxCollects()
      assert.ok(await stage.onBox(lost))
      assert.is((await stage.run('box', 'look', '--cache', 'box')).code, 0)
      assert.equal(await stage.links(), [])
      const links = async (): Promise<string[]> =>
        (await box.must('root', 'find', [OUTSIDE, '-type', 'l'])).split('\n').map((link) => link.slice(OUTSIDE.length, -10))
      assert.equal((await links()).sort(), way === 'sh' ? ['/kept/client-1/', '/only/client-1/'] : ['/kept/client-1/'])
      await collectsAtNight()
      assert.ok(await stage.pair.boxHas(lost, forGood))
      const [later = ''] = await stage.build('later')
      assert.is((await stage.upload(later)).stderr, '')
      assert.equal(await stage.links(), [])
      await collectsAtNight()
      assert.ok(await stage.pair.boxHas(lost, forGood, later))
      if (way === 'sh') assert.match((await kept()).found, /: all there, kept outside of the home/)
      const forgotten = await stage.run('box', 'forget', '--yes', lost, forGood, later)
      assert.is(forgotten.code, 0, forgotten.stderr)
      await stage.boxCollects()
      for (const path of [lost, forGood, later]) assert.not(await stage.onBox(path))
    }))
}

test.run()
