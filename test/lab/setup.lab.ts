// nix-lan setup and --undo on a plain laptop: a working cache in under a minute, also after a
// reboot; nothing changes the second time; killed anywhere it can be finished or taken back; and
// what was there before is there again, byte for byte.
import { readFileSync } from 'node:fs'
import * as assert from 'uvu/assert'
import type { Result } from '../lib/processes.ts'
import { RESTART_NIX } from './host.ts'
import { createLab, type Lab, labSuite, release } from './lab.ts'
import { allowDeadline, FAILED, filesBelow, narrowSudo, QUEUE, T_FILE } from './machines.ts'

const test = labSuite('nix-lan setup')
let lab: Lab
/** The laptop and the box's nix.conf as they were. */
let pristine: Map<string, string>
let boxConf: string
let laptopConf: string
let knownHosts: string
let bashrc: string

// The box knows another key that is called laptop-1, as of a laptop that was installed anew: ours
// has a random part in its name.

/** Where the programs lie from which setup is called, as a clone of the repository would. */
const DIST = '/opt/src/dist'
const NIX_CONF = '/etc/nix/nix.conf'
/** The socket that nix.conf names. */
const BROKER = '/run/nix-lan/pi.sock'
const OUR_KEY = /laptop-[a-z]{8}-1:/

test.before(async () => {
  lab = await createLab({ laptop: release() })
  await lab.laptop.must('root', 'mkdir', ['-p', DIST])
  for (const file of filesBelow('dist')) {
    const text = readFileSync(`dist/${file}`, 'utf8')
    lab.laptop.write(`${DIST}/${file}`, text, { mode: text.startsWith('#!') ? 0o755 : 0o644 })
  }
  await lab.laptop.must('root', 'loginctl', ['disable-linger', 'alice'])
  narrowSudo(lab.laptop)
  await lab.eventually('the box by its name', async () => (await lab.laptop.run('alice', 'getent', ['hosts', 'pi.local'])).code === 0)
  // NetworkManager's last word in /etc
  await lab.eventually('the name server', () => lab.laptop.read('/etc/resolv.conf').includes('nameserver 10.77.0.1'))
  pristine = await snapshot()
  boxConf = lab.box.read(NIX_CONF)
  laptopConf = lab.laptop.read(NIX_CONF)
  knownHosts = lab.laptop.read('/home/alice/.ssh/known_hosts')
  bashrc = lab.laptop.read('/home/alice/.bashrc')
})
test.after(() => lab.close())

/** One that has failed shall not make the others fail. */
test.before.each(async () => {
  await setup(['--undo', '--forget-key', '--yes'])
  await emptyQueue()
  for (const [host, text] of [
    [lab.box, boxConf],
    [lab.laptop, laptopConf],
  ] as const) {
    if (!host.isOn()) continue
    await host.must('root', 'rm', ['-f', NIX_CONF]) // it may be a link
    host.write(NIX_CONF, text)
  }
  lab.laptop.write('/home/alice/.ssh/known_hosts', knownHosts, { user: 'alice' })
  lab.laptop.write('/home/alice/.bashrc', bashrc, { user: 'alice' })
  await lab.laptop.must('root', 'rm', [
    '-f',
    '/home/alice/began',
    '/etc/former-hook',
    '/etc/nix/more.conf',
    '/run/former-fails',
    '/run/former.log',
    '/home/alice/.ssh/config',
  ])
})

/** As `sudo nix-lan setup …` by alice. */
function setup(args: readonly string[], before: readonly string[] = []): Promise<Result> {
  const [program = '', ...rest] = [...before, `${DIST}/nix-lan`, 'setup', ...args]
  return lab.laptop.run('root', program, rest, { env: { SUDO_USER: 'alice' }, timeout: 240_000 })
}

/**
 * The same, without the doctor, and it has to end with this code. A whole undo finds nothing queued,
 * which it would keep if the box took two seconds for a handshake.
 */
async function must(code: number, ...args: string[]): Promise<Result> {
  const undoing = args.includes('--undo')
  if (undoing && code === 0) {
    await lab.laptop.systemctl('stop', 'nix-lan-built@*.service') // setup's look for what the box lacks
    await lab.laptop.must('root', 'sh', ['-c', `rm -f ${QUEUE.replace(/[^/]*$/, '*/*')}`])
  }
  const result = await setup([...args, '--yes', ...(undoing || args.includes('--dry-run') ? [] : ['--no-doctor'])])
  assert.is(result.code, code, `${args.join(' ')}:\n${result.stdout}${result.stderr}`)
  return result
}

/**
 * All that setup may touch: kind, mode, owner and content of everything there, by path. Not what
 * nix-build itself leaves.
 */
async function snapshot(): Promise<Map<string, string>> {
  const places = '/etc /usr/local /nix/var/nix/gcroots /var/lib/nix-lan /run/nix-lan /var/lib/systemd/linger /home'
  const sums = `find ${places} -type f -exec sha256sum {} + 2>/dev/null | sed 's,^\\([0-9a-f]*\\) *\\(.*\\),\\2\\t\\1,'`
  const entries = `find ${places} -printf '%p\\t%y %m %U:%G %l\\n' 2>/dev/null`
  const found = new Map<string, string>()
  for (const line of (await lab.laptop.must('root', 'sh', ['-c', `${entries}; ${sums}; :`])).split('\n')) {
    const [path = '', what = ''] = line.split('\t')
    if (/\/gcroots\/(auto|per-user)\b|\/home\/alice\/\.(cache|nix)/.test(path)) continue
    found.set(path, `${found.get(path) ?? ''} ${what}`)
  }
  assert.ok(found.size > 200, 'a snapshot of much')
  return found
}

/** What differs, one line each. */
function differences(before: Map<string, string>, after: Map<string, string>): string[] {
  const paths = [...new Set([...before.keys(), ...after.keys()])].sort()
  return paths.filter((path) => before.get(path) !== after.get(path)).map((path) => `${path}: ${before.get(path)} → ${after.get(path)}`)
}

async function asItWas(what: string): Promise<void> {
  assert.equal(differences(pristine, await snapshot()), [], what)
  assert.is(lab.box.read(NIX_CONF), boxConf, what)
}

/** What waits is forgotten, with the queue if it is there without a set-up. */
async function emptyQueue(): Promise<void> {
  const there = lab.laptop.run('root', 'test', ['-e', '/etc/nix-lan/setup.json'])
  const script = (await there).code === 0 ? `rm -f ${QUEUE}/* ${FAILED}/* ${FAILED}/.[!.]*` : 'rm -rf /nix/var/nix/gcroots/nix-lan'
  await lab.laptop.must('root', 'sh', ['-c', script])
}

const nothingWaits = (): Promise<number> => lab.eventually('nothing waits', async () => (await lab.queued()).length === 0)

const build = (name: string): Promise<Result> =>
  lab.laptop.run('alice', 'nix-build', [T_FILE, '--no-out-link', '--argstr', 'name', name], { timeout: 240_000 })

/** Builds it. @returns its path */
async function built(name: string): Promise<string> {
  const { code, stdout, stderr } = await build(name)
  assert.is(code, 0, stderr)
  return stdout.trim()
}

const onBox = async (path: string): Promise<boolean> => (await lab.box.run('root', 'nix-store', ['--check-validity', path])).code === 0

/**
 * Deletes a path on the laptop, and it comes back from the box. On a machine that has no time,
 * connect gives the box up after its deadline, for at most a minute: then again.
 */
async function comesBack(name: string, path: string, owner: 'root' | 'alice' = 'root'): Promise<void> {
  const fetched = async (): Promise<boolean> => {
    await nothingWaits() // the queue's link keeps it alive
    await lab.laptop.must(owner, 'nix-store', ['--delete', path])
    const again = await build(name)
    assert.is(again.stdout.trim(), path, again.stderr)
    return /copying path '[^']*' from 'ssh-ng:\/\//.test(again.stderr)
  }
  await lab.eventually('fetched from the box', fetched, { within: 180_000, every: 1000 })
}

/** A setting as a fresh nix on the laptop has it. */
async function setting(name: string): Promise<string> {
  const nix = ['--extra-experimental-features', 'nix-command']
  const shown = await lab.laptop.run('root', 'sh', [
    '-c',
    `nix ${nix.join(' ')} config show 2>/dev/null || nix ${nix.join(' ')} show-config`,
  ])
  return new RegExp(`^${name} = (.*)$`, 'm').exec(shown.stdout)?.[1] ?? ''
}

test('refuses before anything is written: without root, without a yes, without a user, without a box', async () => {
  const alice = await lab.laptop.run('alice', `${DIST}/nix-lan`, ['setup', 'pi.local'])
  assert.is(alice.code, 2)
  assert.match(alice.stderr, `sudo ${DIST}/nix-lan setup pi.local`)
  const noTerminal = await setup(['pi.local'])
  assert.is(noTerminal.code, 2, noTerminal.stderr)
  assert.match(noTerminal.stderr, 'there is no terminal to ask on')
  const nobody = await lab.laptop.run('root', `${DIST}/nix-lan`, ['setup', '--yes', 'pi.local'])
  assert.match(nobody.stderr, /which user is this for\?/)
  assert.match((await must(2)).stderr, /which box\?/)
  assert.match((await must(2, '--prefix', '/home/alice/x', 'pi.local')).stderr, '/home/alice belongs to alice')
  await asItWas('refused')
})

test('refuses a runtime that only a user has, and one that is too old', async () => {
  const node = await lab.laptop.must('root', 'readlink', ['-f', '/usr/bin/node'])
  const here = ['sh', '-ec', `PATH=/opt/private:$PATH exec "$@"`, 'sh']
  await lab.laptop.must('root', 'sh', [
    '-ec',
    `mkdir -p /opt/private; mv /usr/bin/node /opt/private/node; mv ${node} /opt/private/node 2>/dev/null || :`,
  ])
  try {
    const none = await setup(['--yes', 'pi.local'], here)
    assert.is(none.code, 1, none.stderr)
    assert.match(
      none.stderr,
      /nix-daemon would find no node, deno or bun[\s\S]*sudo install -m 755 \/opt\/private\/node \/usr\/local\/bin\//,
    )
    await lab.laptop.must('root', 'sh', [
      '-ec',
      'printf "#!/bin/sh\\necho v18.13.0\\n" >/usr/local/bin/node; chmod 755 /usr/local/bin/node',
    ])
    const old = await setup(['--yes', 'pi.local'], here)
    assert.match(old.stderr, '/usr/local/bin/node is v18.13.0, and nix-lan needs node 18.19 or later')
  } finally {
    await lab.laptop.must('root', 'sh', [
      '-ec',
      `rm -f /usr/local/bin/node; mv /opt/private/node ${node}; [ -e /usr/bin/node ] || ln -s ${node} /usr/bin/node`,
    ])
  }
  await asItWas('refused')
})

test('--dry-run shows each difference, and changes nothing', async () => {
  const { stdout } = await must(0, '--dry-run', 'pi.local')
  assert.match(stdout, /change \/etc\/nix\/nix\.conf\n(.*\n)+ +\+post-build-hook = \/usr\/local\/lib\/nix-lan\/post-build-hook/)
  assert.match(stdout, 'by sudo there: change /etc/nix/nix.conf')
  await asItWas('dry run')
})

test('an ssh-agent that .bashrc begins: the dry run leaves none behind', async () => {
  const agents = async (): Promise<string[]> =>
    (await lab.laptop.run('root', 'pgrep', ['-u', 'alice', '-x', 'ssh-agent'])).stdout.split('\n')
  const before = await agents()
  lab.laptop.write('/home/alice/.bashrc', 'echo >>/home/alice/began; eval "$(ssh-agent -s)" >/dev/null\n', { user: 'alice' })
  await must(0, '--dry-run', 'pi.local')
  assert.is(lab.laptop.read('/home/alice/began'), '\n', 'it was sourced')
  await lab.eventually('no other agent', async () => (await agents()).every((pid) => before.includes(pid)))
  // From OpenSSH 10.1 on, an agent's sockets are in ~/.ssh/agent, which it makes and leaves.
  await lab.laptop.must('root', 'sh', ['-ec', 'rm /home/alice/began; [ ! -e /home/alice/.ssh/agent ] || rmdir /home/alice/.ssh/agent'])
  lab.laptop.write('/home/alice/.bashrc', bashrc, { user: 'alice' })
  await asItWas('dry run')
})

test('on a terminal it asks, and anything but y is no', async () => {
  for (const answer of ['n', '', 'yess']) {
    const command = `echo '${answer}' | script -qec '${DIST}/nix-lan setup --no-doctor pi.local' /dev/null`
    const { stdout, code } = await lab.laptop.run('root', 'sh', ['-c', command], { env: { SUDO_USER: 'alice' }, timeout: 240_000 })
    assert.match(stdout, /Do it\? \[y\/N\] .*\s+Nothing was changed\./)
    assert.is(code, 1)
  }
  await asItWas('said no')
})

test('set up, built and rebooted: a working cache in under a minute, with no other command', async () => {
  const started = performance.now()
  const done = await setup(['--yes', 'pi.local'])
  // What its doctor finds depends on the time: setup waits 20 s for the tunnel. See the next test.
  assert.ok(done.code === 0 || done.code === 1, `${done.code}: ${done.stdout}${done.stderr}`)
  assert.match(done.stdout, '\nnix-lan doctor:\n')
  const seconds = (since: number): string => ((performance.now() - since) / 1000).toFixed(1)
  const setUpAfter = seconds(started)
  const path = await built('first')
  await lab.eventually('the box has it', () => onBox(path), { within: 60_000 })
  await nothingWaits()
  const rebooted = performance.now()
  await lab.laptop.power('reboot')
  await lab.eventually('a tunnel', () => lab.usable(), { within: 120_000 })
  const usableAfter = seconds(rebooted)
  await comesBack('first', path)
  console.log(`figure: setup ${setUpAfter} s, usable ${usableAfter} s after the reboot, working cache after ${seconds(started)} s in all`)
  assert.ok(performance.now() - started < 240_000, 'four times the minute it may take')
})

test('once there is a tunnel, the doctor that setup runs says that all is well', async () => {
  await must(0, 'pi.local')
  await lab.eventually('a tunnel', () => lab.usable(), { within: 120_000 })
  await allowDeadline(lab.laptop)
  const done = await setup(['--yes'])
  assert.is(done.code, 0, `${done.stdout}${done.stderr}`)
  assert.match(done.stdout, /all is well\n\nNext: build as always\. nix-lan status shows /)
  await must(0, '--undo', '--forget-key')
  await asItWas('undone')
})

test('again: nothing changes, not even a time', async () => {
  await must(0, 'pi.local')
  const times = async () => {
    const found = await lab.laptop.must('root', 'sh', ['-c', "find /etc /usr/local -printf '%p\\t%T@ %C@\\n' | sort"])
    return new Map(found.split('\n').map((line) => line.split('\t') as [string, string]))
  }
  const before = await times()
  const daemon = await lab.laptop.must('root', 'systemctl', ['show', '-p', 'MainPID', 'nix-daemon'])
  assert.match((await must(0, 'pi.local')).stdout, 'nothing has to change')
  assert.match((await must(0)).stdout, 'nothing has to change', 'the box is known')
  assert.equal(differences(before, await times()), [])
  assert.is(await lab.laptop.must('root', 'systemctl', ['show', '-p', 'MainPID', 'nix-daemon']), daemon)
})

test('the socket that nix.conf names: hers; it outlives nix-daemon, her session and another setup, and is gone after undo', async () => {
  await must(0, 'pi.local')
  const socket = () => lab.laptop.must('root', 'stat', ['-c', '%F %U %a %i', BROKER])
  const before = await socket()
  assert.match(before, /^socket alice 600 \d+$/)
  await lab.laptop.restartNix()
  await lab.laptop.must('root', 'systemctl', ['restart', 'user@1000'])
  await lab.laptop.must('root', 'sh', ['-ec', 'echo >>/usr/local/lib/nix-lan/package.json'])
  await must(0)
  assert.is(await socket(), before)
  await lab.eventually('a tunnel', () => lab.usable(), { within: 60_000 })
  const path = await built('by-the-broker')
  await lab.eventually('the box has it', () => onBox(path), { within: 60_000 })
  // The first build has started the broker; now it is what Nix asks.
  const service = () => lab.laptop.run('root', 'systemctl', ['is-active', 'nix-lan-broker@pi.service'])
  await lab.eventually('a broker', async () => (await service()).stdout.trim() === 'active')
  const pid = await lab.laptop.must('root', 'systemctl', ['show', '-P', 'MainPID', 'nix-lan-broker@pi.service'])
  assert.is((await lab.laptop.must('root', 'ps', ['-o', 'user=', '-p', pid.trim()])).trim(), 'alice')
  await lab.laptop.must('root', 'test', ['-e', '/run/nix-lan/pi.up'])
  await comesBack('by-the-broker', path)
  const counted = await lab.laptop.must('root', 'sh', ['-c', 'cat /var/lib/nix-lan/pi/fetched.*'])
  assert.match(counted, /^\d{10} 1 \d+$/m, 'it has fetched, and counted in the one place that it may write to')
  await must(0, '--undo', '--forget-key')
  assert.is((await lab.laptop.must('root', 'systemctl', ['list-units', '--all', '--plain', '--no-legend', 'nix-lan*'])).trim(), '')
  assert.is((await lab.laptop.must('root', 'systemctl', ['--failed', '--plain', '--no-legend'])).trim(), '')
  await asItWas('undone')
})

/** What the broker needs, broken: what the doctor says of it, and its fix, which cures. */
const BROKEN: [fault: string, script: string, check: string, found: RegExp, fix: RegExp][] = [
  ['no file of root’s', 'rm /etc/nix-lan/connect/pi', 'broker', /^there is no \/etc\/nix-lan\/connect\/pi$/, /setup$/],
  ['one that others may write to', 'chmod 666 /etc/nix-lan/connect/pi', 'broker', /others may write to it/, /setup$/],
  ['one for somebody else', "sed -i 's/alice/bob/' /etc/nix-lan/connect/pi", 'broker', /is for bob, not for alice/, /setup$/],
  ['another patience', 'echo \'patience = "90s"\' >>/etc/nix-lan/config.toml', 'broker', /another deadline or patience/, /setup$/],
  [
    'the socket is stopped',
    'systemctl stop nix-lan-broker@pi.socket',
    'broker',
    /^nix-lan-broker@pi\.socket is inactive$/,
    /systemctl restart/,
  ],
  ['the socket is everybody’s', `chmod 666 ${BROKER}`, 'broker', /with mode 666/, /systemctl restart/],
  [
    'a unit of another version',
    'sed -i s/WatchdogSec=20/WatchdogSec=99/ /etc/systemd/system/nix-lan-broker@.service; systemctl daemon-reload',
    'broker',
    /nix-lan-broker@\.service is not that of this version/,
    /setup$/,
  ],
  ['a unit that systemd has not read', 'touch /etc/systemd/system/nix-lan-broker@.socket', 'broker', /has not reloaded/, /daemon-reload$/],
  [
    'a unit for nobody',
    'rm /etc/systemd/system/nix-lan-broker@pi.service.d/nix-lan.conf; systemctl daemon-reload',
    'broker',
    /nix-lan-broker@pi\.service is for root, not for alice/,
    /setup$/,
  ],
  [
    'the tunnel’s socket in nix.conf, as of an older version',
    `sed -i 's,${BROKER},/run/user/1000/nix-lan/pi.sock,' ${NIX_CONF}; ${RESTART_NIX}`,
    'substituter',
    /asks pi by nix-lan-connect \/run\/user\/1000\/nix-lan\/pi\.sock, not by \/run\/nix-lan\/pi\.sock$/,
    /setup$/,
  ],
]

test('what the broker needs, broken: the doctor names it, and its fix cures', async () => {
  await must(0, 'pi.local')
  type Finding = { check: string; cache?: string; state: string; found: string; fix: string | null }
  const about = async (check: string): Promise<Finding> => {
    const { stdout } = await lab.laptop.run('alice', 'nix-lan', ['doctor', '--offline', '--json'], { timeout: 240_000 })
    const found = (JSON.parse(stdout) as Finding[]).find((one) => one.check === check)
    assert.ok(found, check)
    return found
  }
  assert.is((await about('broker')).state, 'ok')
  for (const [fault, script, check, found, fix] of BROKEN) {
    await lab.laptop.must('root', 'sh', ['-ec', script])
    const finding = await about(check)
    assert.match(finding.found, found, `${fault}: ${finding.found}`)
    assert.match(finding.fix ?? '', fix, fault)
    const command = /setup$/.test(finding.fix ?? '') ? `${finding.fix} --yes --no-doctor` : (finding.fix ?? '')
    await lab.laptop.must('alice', 'sh', ['-ec', command], { timeout: 240_000 })
    const cured = await about(check)
    assert.is(cured.state, 'ok', `${fault}: ${cured.found}`)
    assert.match(await setting('substituters'), BROKER)
  }
  assert.match(lab.laptop.read('/etc/nix-lan/connect/pi'), 'patience=90\n')
  await must(0, '--undo', '--forget-key')
  await asItWas('undone')
})

test('what somebody broke is fixed by setting up again', async () => {
  await must(0, 'pi.local')
  lab.laptop.write(NIX_CONF, `${lab.laptop.read(NIX_CONF)}substituters =\n`)
  await lab.laptop.must('root', 'sh', [
    '-ec',
    'rm /etc/systemd/user/nix-lan-check.timer /usr/local/bin/nix-lan-run; chmod 777 /usr/local/lib/nix-lan/post-build-hook',
  ])
  assert.not.match(await setting('substituters'), 'nix-lan-connect')
  await must(0)
  assert.match(await setting('substituters'), 'nix-lan-connect')
  assert.is(await lab.laptop.must('root', 'stat', ['-c', '%a', '/usr/local/lib/nix-lan/post-build-hook']), '755')
  await lab.laptop.must('alice', 'nix-lan-run', ['true'])
  assert.is(await lab.laptop.systemctl('is-active', 'nix-lan-check.timer'), 'active')
  // that line is somebody else's work, and stays
  const edited = await must(0, '--undo', '--forget-key')
  assert.match(edited.stdout, 'nix-lan is gone.')
  const left = differences(pristine, await snapshot())
  assert.is(left.length, 1, left.join('\n'))
  assert.match(lab.laptop.read(NIX_CONF), /^[^#]*substituters =\nsubstituters =\n$/)
})

test('undo leaves no difference, on neither machine', async () => {
  await must(0, 'pi.local')
  await must(0, '--undo', '--forget-key')
  await asItWas('undone')
  assert.match((await must(0, '--undo')).stdout, 'Nothing is set up here.')
  assert.is((await build('after')).code, 0, 'Nix works without it')
})

test('a key that is kept is used again', async () => {
  await must(0, 'pi.local')
  const key = lab.laptop.read('/etc/nix/nix-lan.public')
  await must(0, '--undo')
  assert.is(lab.laptop.read('/etc/nix/nix-lan.public'), key)
  await must(0, 'pi.local')
  assert.match(lab.laptop.read(NIX_CONF), key.trim())
  await must(0, '--undo', '--forget-key')
  await asItWas('undone')
})

test('a hook that was there is called too, and may still fail a build', async () => {
  const former = lab.laptop.read(NIX_CONF)
  lab.laptop.write('/etc/former-hook', '#!/bin/sh\necho "$OUT_PATHS $DRV_PATH" >>/run/former.log\ntest ! -e /run/former-fails\n', {
    mode: 0o755,
  })
  lab.laptop.write(NIX_CONF, `post-build-hook = /etc/former-hook\n${former}`)
  const before = await snapshot()
  assert.match((await must(0, 'pi.local')).stdout, '/etc/former-hook, is still called')
  const path = await built('hooked')
  assert.match(lab.laptop.read('/run/former.log'), '-hooked')
  await lab.eventually('the box has it', () => onBox(path))
  lab.laptop.write('/run/former-fails', '')
  assert.is.not((await build('refused')).code, 0, 'as it did before')
  await lab.laptop.must('root', 'rm', ['/run/former-fails', '/run/former.log'])
  await nothingWaits()
  await must(0, '--undo', '--forget-key')
  assert.equal(differences(before, await snapshot()), [])
  await lab.laptop.must('root', 'rm', ['/etc/former-hook'])
  lab.laptop.write(NIX_CONF, former)
  await asItWas('undone')
})

for (const [name, text] of [
  ['a list set after an addition', 'sandbox = false\nextra-substituters = http://127.0.0.1:1\nsubstituters =\n'],
  ['no end of the last line', 'sandbox = false\nsubstituters ='],
  ['a file that sets the list is included', 'sandbox = false\ninclude /etc/nix/more.conf\n'],
  ['keys of its own', 'sandbox = false\nsubstituters =\ntrusted-public-keys = a-1:+0000000000000000000000000000000000000000000=\n'],
  [
    'a block of an older version, and lines after it',
    '# nix-lan begin\nextra-substituters = http://127.0.0.1:1\n# nix-lan end\nsandbox = false\nsubstituters =\n',
  ],
  ['no nix.conf at all', undefined],
] as const) {
  test(`nix.conf by hand: ${name}`, async () => {
    if (text === undefined) await lab.laptop.must('root', 'rm', [NIX_CONF])
    else lab.laptop.write(NIX_CONF, text, { mode: 0o640 })
    lab.laptop.write('/etc/nix/more.conf', 'substituters =\n')
    const before = await snapshot()
    const stale = text?.startsWith('# nix-lan') ?? false
    await must(0, 'pi.local')
    assert.match(await setting('substituters'), `/usr/local/bin/nix-lan-connect%20${BROKER}`)
    assert.match(await setting('trusted-public-keys'), OUR_KEY)
    assert.is(await setting('secret-key-files'), '/etc/nix/nix-lan.secret')
    assert.is(await setting('post-build-hook'), '/usr/local/lib/nix-lan/post-build-hook')
    await must(0, '--undo', '--forget-key')
    const left = differences(before, await snapshot())
    assert.equal(stale ? left.filter((line) => !line.startsWith(NIX_CONF)) : left, [])
    await lab.laptop.must('root', 'rm', ['/etc/nix/more.conf'])
    lab.laptop.write(NIX_CONF, 'sandbox = false\nexperimental-features = nix-command\nsubstituters =\n')
    await asItWas('undone')
  })
}

test('what waits is uploaded before it is taken back; what can’t be is kept, and said', async () => {
  await must(0, 'pi.local')
  await allowDeadline(lab.laptop)
  await must(0)
  await lab.eventually('a tunnel', () => lab.usable())
  await lab.laptop.systemctl('stop', 'nix-lan-check.timer', 'nix-lan-upload@pi.path', 'nix-lan-upload@pi.service')
  const path = await built('waits')
  await lab.eventually('a tunnel', () => lab.usable())
  const undone = await setup(['--undo', '--yes'])
  assert.is(undone.code, 0, `${undone.stdout}${undone.stderr}`)
  assert.match(undone.stdout, /upload what is queued for pi: \d+ path/)
  assert.ok(await onBox(path))
  await must(0, 'pi.local')
  await lab.box.power('off')
  const kept = await built('kept')
  const away = await must(1, '--undo', '--forget-key')
  assert.match(away.stdout, /kept: .*queue\/pi, with \d+ path/)
  assert.match(
    away.stdout,
    /not done on pi\.local .*by hand:\n +remove from \/etc\/nix\/nix\.conf: extra-trusted-public-keys = laptop-[a-z]{8}-1:/,
  )
  assert.ok((await lab.queued()).some((name) => kept.endsWith(name)))
  await lab.laptop.must('root', 'rm', ['-r', '/nix/var/nix/gcroots/nix-lan'])
  await lab.box.power('on')
  lab.box.write(NIX_CONF, boxConf)
  await asItWas('undone')
})

test('the box is away: this machine is set up, and the rest is done when it is back', async () => {
  lab.box.write(NIX_CONF, boxConf.replace(/^trusted-public-keys.*$/m, '')) // nobody could know now that laptop-1 is taken
  await lab.box.power('off')
  const away = await must(75, 'pi.local')
  assert.match(away.stdout, 'pi.local is away (')
  const path = await built('away')
  await lab.box.power('on')
  await lab.eventually('it is set up to the end', async () => (await setup(['--yes', '--no-doctor'])).code === 0, {
    within: 60_000,
    every: 1000,
  })
  // An upload may have begun before the box knew the key, and set the path aside then, or do so in
  // a moment.
  const retried = async (): Promise<boolean> => {
    await lab.laptop.must('alice', 'nix-lan', ['queue', 'retry'])
    return await onBox(path)
  }
  await lab.eventually('the box has it', retried, { within: 60_000, every: 1000 })
  await must(0, '--undo', '--forget-key')
  lab.box.write(NIX_CONF, boxConf)
  await asItWas('undone')
})

test('the box’s user may not use its daemon: put in the group, and out again', async () => {
  await lab.box.must('root', 'gpasswd', ['-d', 'alice', 'nix-users'])
  const members = () => lab.box.must('root', 'getent', ['group', 'nix-users'])
  assert.match((await must(0, 'pi.local')).stdout, 'put alice in the group nix-users')
  assert.match(await members(), 'alice')
  const path = await built('group')
  await lab.eventually('the box has it', () => onBox(path), { within: 60_000 })
  await must(0, '--undo', '--forget-key')
  assert.not.match(await members(), 'alice')
  await lab.box.must('root', 'usermod', ['-aG', 'nix-users', 'alice'])
  await asItWas('undone')
})

test('no sudo on the box: the lines to paste are said, and do', async () => {
  await lab.box.must('root', 'sh', [
    '-ec',
    'mkdir /root/sudoers; mv /etc/sudoers.d/* /root/sudoers/; gpasswd -d alice sudo 2>/dev/null || :',
  ])
  const { stdout } = await must(0, 'pi.local')
  const lines = /nix-lan may not:\n((?: {6}.*\n)+)/.exec((await setup(['--dry-run'])).stdout)?.[1] ?? ''
  assert.match(stdout, 'nix-lan may not:')
  assert.match(lines, /echo 'extra-trusted-public-keys = laptop-[a-z]{8}-1:[^(]*' \| sudo tee -a \/etc\/nix\/nix\.conf\n/)
  await lab.box.must('root', 'sh', ['-ec', lines])
  assert.match((await must(0)).stdout, 'nothing has to change')
  const path = await built('pasted')
  await lab.eventually('the box has it', () => onBox(path), { within: 60_000 })
  await lab.box.must('root', 'sh', ['-ec', 'mv /root/sudoers/* /etc/sudoers.d/; rmdir /root/sudoers'])
  lab.box.write(NIX_CONF, boxConf)
  await must(0, '--undo', '--forget-key')
  await asItWas('undone')
})

test('a box whose host key is not known yet: said how it gets known, before anything is asked of it', async () => {
  lab.laptop.write('/home/alice/.ssh/known_hosts', '', { user: 'alice' })
  const { stdout } = await must(1, 'pi.local')
  assert.match(stdout, /its host key is unknown\.\n +To fix it, as alice, log in once and confirm that it is your box: ssh pi\.local/)
  await must(0, '--undo', '--forget-key')
  lab.laptop.write('/home/alice/.ssh/known_hosts', knownHosts, { user: 'alice' })
  await asItWas('undone')
})

test('what was built before there was a key is signed, on request not', async () => {
  const path = await built('before-the-key')
  const signatures = () => lab.laptop.must('root', 'nix', ['--extra-experimental-features', 'nix-command', 'path-info', '--sigs', path])
  assert.not.match(await signatures(), OUR_KEY)
  await must(0, '--no-sign', 'pi.local')
  assert.not.match(await signatures(), OUR_KEY)
  assert.match((await must(0)).stdout, /sign \d+ paths? \(\d+ MiB\) built here before and not signed/)
  assert.match(await signatures(), OUR_KEY)
  await lab.eventually('the box has it, without a wait for midnight', () => onBox(path), { within: 60_000 })
  await nothingWaits()
  await must(0, '--undo', '--forget-key')
  await asItWas('undone')
})

test('undo finds its lines when the markers are gone, and refuses what it can’t take apart', async () => {
  await must(0, 'pi.local')
  await lab.laptop.must('root', 'sh', ['-ec', `grep -v '^# nix-lan' ${NIX_CONF} >/tmp/c; cat /tmp/c >${NIX_CONF}`])
  lab.laptop.write(NIX_CONF, `${lab.laptop.read(NIX_CONF)}post-build-hook = /usr/local/lib/nix-lan/post-build-hook --x\n`)
  const refused = await must(1, '--undo', '--forget-key')
  assert.match(refused.stderr, /\/etc\/nix\/nix\.conf:\d+: post-build-hook = \/usr\/local\/lib\/nix-lan\/post-build-hook --x/)
  assert.ok((await lab.laptop.run('root', 'test', ['-e', '/usr/local/bin/nix-lan-connect'])).code === 0, 'nothing was changed')
  await lab.laptop.must('root', 'sed', ['-i', '/--x$/d', NIX_CONF])
  const { stdout } = await must(0, '--undo', '--forget-key')
  assert.match(stdout, /remove what names nix-lan from \/etc\/nix\/nix\.conf:\d+: extra-substituters = /)
  assert.is((await build('no-markers')).code, 0, 'Nix works without it')
  await asItWas('undone')
})

test('undo finds all of it when its record is gone', async () => {
  await must(0, 'pi.local')
  await built('recordless')
  await nothingWaits()
  await lab.laptop.must('root', 'rm', ['-r', '/etc/nix-lan'])
  const { stdout } = await must(0, '--undo', '--forget-key')
  assert.match(stdout, 'The record of the setup, /etc/nix-lan/setup.json, is gone.')
  assert.is((await build('after-recordless')).code, 0)
  const left = differences(pristine, await snapshot()).filter((line) => !/linger|\/home\/alice\/\.local/.test(line))
  const empty = left.flatMap((line) => /^(\S+): undefined → {2}d 755 0:0 $/.exec(line)?.[1] ?? [])
  assert.is(empty.length, left.length, `only directories that may have been there before, empty: ${left.join('\n')}`)
  await lab.laptop.must('root', 'rmdir', ['--', ...empty.reverse()])
  lab.box.write(NIX_CONF, boxConf)
  await lab.laptop.must('root', 'loginctl', ['disable-linger', 'alice'])
  await lab.laptop.must('root', 'rm', ['-rf', '/home/alice/.local'])
})

test('nix.conf is a link: what it leads to is written if it is root’s, and never in the store', async () => {
  const former = lab.laptop.read(NIX_CONF)
  await lab.laptop.must('root', 'sh', ['-ec', `mkdir /opt/dots; mv ${NIX_CONF} /opt/dots/nix.conf; ln -s /opt/dots/nix.conf ${NIX_CONF}`])
  await must(0, 'pi.local')
  assert.is((await lab.laptop.must('root', 'readlink', [NIX_CONF])).trim(), '/opt/dots/nix.conf')
  assert.match(await setting('substituters'), 'nix-lan-connect')
  await must(0, '--undo', '--forget-key')
  assert.is(lab.laptop.read('/opt/dots/nix.conf'), former)
  const stored = (await lab.laptop.must('root', 'nix-store', ['--add', '/opt/dots/nix.conf'])).trim()
  await lab.laptop.must('root', 'ln', ['-sfn', stored, NIX_CONF])
  const { stdout } = await must(1, 'pi.local')
  assert.match(stdout, `${NIX_CONF} is a link to ${stored}, in the Nix store, so setup doesn't change it.`)
  const key = `other-1:${'A'.repeat(43)}=`
  const trust = await lab.laptop.run('root', `${DIST}/nix-lan`, ['trust', '--yes', key])
  assert.is(trust.code, 1)
  assert.match(trust.stderr, `add this line to what it is made from, then restart nix-daemon: extra-trusted-public-keys = ${key}\n`)
  await lab.laptop.must('root', 'nix-store', ['--verify-path', stored])
  // its lines, where they may be written
  const lines = /restart nix-daemon:\n((?: {6}.*\n)+)/.exec((await setup(['--dry-run'])).stdout)?.[1] ?? ''
  assert.match(lines, 'extra-substituters = ')
  await lab.laptop.must('root', 'sh', ['-ec', `rm ${NIX_CONF}; cp /opt/dots/nix.conf ${NIX_CONF}; ${RESTART_NIX}`])
  lab.laptop.write(NIX_CONF, `${lab.laptop.read(NIX_CONF)}${lines.replace(/^ +/gm, '')}`)
  await lab.laptop.restartNix()
  assert.match((await must(0)).stdout, 'nothing has to change')
  const path = await built('pasted-here')
  await lab.eventually('the box has it', () => onBox(path), { within: 60_000 })
  await lab.laptop.must('root', 'ln', ['-sfn', stored, NIX_CONF])
  await must(0, '--undo', '--forget-key')
  await lab.laptop.must('root', 'sh', ['-ec', `rm -r ${NIX_CONF} /opt/dots`])
  lab.laptop.write(NIX_CONF, former)
})

test('nix.conf can’t be written: found before anything is done, with the lines to paste', async () => {
  await lab.laptop.must('root', 'sh', ['-ec', `cp ${NIX_CONF} /run/mounted.conf; mount --bind /run/mounted.conf ${NIX_CONF}`])
  try {
    const { stdout } = await must(1, 'pi.local')
    assert.match(stdout, `${NIX_CONF} is a mount of its own, so setup doesn't change it.`)
  } finally {
    await lab.laptop.must('root', 'umount', [NIX_CONF])
  }
  await must(0, '--undo', '--forget-key')
  await asItWas('undone')
  // read-only, with the place of the key
  await lab.laptop.must('root', 'sh', ['-ec', 'mount --bind /etc/nix /etc/nix; mount -o remount,bind,ro /etc/nix'])
  try {
    const { stdout, stderr } = await must(1, 'pi.local')
    assert.match(stdout, /\/etc\/nix\/nix\.conf can't be written \(EROFS\), so setup doesn't change it\.[\s\S]*\n {6}extra-substituters = /)
    assert.match(stderr, /these places can't be written to, so nothing was changed:\n {2}\/etc\/nix \(EROFS\)\n/)
  } finally {
    await lab.laptop.must('root', 'umount', ['/etc/nix'])
  }
  await asItWas('refused')
})

test('a box whose nix.conf includes nix.custom.conf, as Determinate’s does: ours goes there, and undo leaves no empty file', async () => {
  lab.box.write(NIX_CONF, `${boxConf}!include nix.custom.conf\n`)
  const custom = '/etc/nix/nix.custom.conf'
  await must(0, 'pi.local')
  assert.match(lab.box.read(custom), OUR_KEY)
  const path = await built('custom')
  await lab.eventually('the box has it', () => onBox(path), { within: 60_000 })
  await nothingWaits()
  await must(0, '--undo', '--forget-key')
  assert.is((await lab.box.run('root', 'test', ['-e', custom])).code, 1)
  lab.box.write(NIX_CONF, boxConf)
  await asItWas('undone')
})

test('the box’s nix.conf lies in its store: it is not touched, and the line to add is said', async () => {
  const stored = (await lab.box.must('root', 'nix-store', ['--add', NIX_CONF])).trim()
  await lab.box.must('root', 'ln', ['-sfn', stored, NIX_CONF])
  const { stdout } = await must(0, 'pi.local')
  assert.match(stdout, `# in what ${stored} is generated from`)
  await lab.box.must('root', 'nix-store', ['--verify-path', stored])
  await must(0, '--undo', '--forget-key')
  await lab.box.must('root', 'rm', [NIX_CONF])
  lab.box.write(NIX_CONF, boxConf)
})

test('a key that is lost: a new one of another name, signed anew, and the box believes it', async () => {
  await must(0, 'pi.local')
  const path = await built('before-the-loss')
  await lab.eventually('the box has it', () => onBox(path), { within: 60_000 })
  const lost = lab.laptop.read('/etc/nix/nix-lan.public').trim()
  await lab.laptop.must('root', 'rm', ['/etc/nix/nix-lan.secret'])
  const name = path.replace(/.*\//, '')
  await lab.laptop.must('alice', 'sh', ['-ec', `ln -s ${path} ${FAILED}/; echo 'lacks a signature by a trusted key' >${FAILED}/.${name}`])
  assert.match((await must(0)).stdout, 'what had failed for pi is queued again')
  assert.is(await lab.laptop.must('root', 'ls', ['-A', FAILED]), '')
  const now = lab.laptop.read('/etc/nix/nix-lan.public').trim()
  assert.is.not(now.split(':')[0], lost.split(':')[0])
  assert.match(lab.laptop.read(NIX_CONF), `extra-trusted-public-keys = ${now} ${lost}`)
  const again = await built('after-the-loss')
  await lab.eventually('the box has it', () => onBox(again), { within: 60_000 })
  await nothingWaits()
  await comesBack('after-the-loss', again)
  await comesBack('before-the-loss', path)
  await must(0, '--undo', '--forget-key')
  await asItWas('undone')
})

test('a box that gets another name keeps its queue; one that is removed leaves nothing behind', async () => {
  await must(0, 'pi.local')
  const second = await must(0, '--name', 'second', 'alice@pi.local')
  assert.match(second.stdout, 'queue what was built here and second lacks')
  await lab.eventually(
    'the daily look at the new box has begun',
    async () => Number(await lab.laptop.systemctl('show', '-P', 'ExecMainStartTimestampMonotonic', 'nix-lan-built@second.service')) > 0,
  )
  const queueOf = async (name: string): Promise<string[]> =>
    (await lab.laptop.run('root', 'ls', [QUEUE.replace(/[^/]*$/, name)])).stdout.split('\n').filter(Boolean)
  // One after the other: a check that runs already may start a target again.
  for (const unit of ['check.timer', 'check.service', '@pi.target', '@second.target', 'upload@second.service'])
    await lab.laptop.systemctl('stop', `nix-lan${unit.startsWith('@') ? '' : '-'}${unit}`)
  const path = await built('moves')
  const waits = (names: string[]): boolean => names.some((name) => path.endsWith(name))
  assert.ok(waits(await queueOf('second')), 'it waits')
  const { stdout } = await must(0, '--dry-run', '--rename', 'second=attic')
  assert.match(stdout, /move the queue of second, now called attic: \d+ paths?/)
  // by hand in config.toml, then setup
  await lab.laptop.must('root', 'sed', ['-i', 's/cache\\.second/cache.attic/', '/etc/nix-lan/config.toml'])
  const doctor = await lab.laptop.run('alice', 'nix-lan', ['doctor', '--offline', '--json'], { timeout: 240_000 })
  const stray = (JSON.parse(doctor.stdout) as { check: string; found: string; fix: string }[]).find(({ check }) => check === 'queues')
  assert.match(stray?.found ?? '', /^no cache is called second, but \d+ paths wait for it/)
  const fixed = await lab.laptop.must('alice', 'sh', ['-ec', `${stray?.fix} --yes --no-doctor`], { timeout: 240_000 })
  assert.match(fixed, 'the queue of second is that of attic')
  assert.equal(await queueOf('second'), [])
  assert.match(await setting('substituters'), 'attic.sock')
  assert.not.match(await setting('substituters'), 'second.sock')
  await lab.eventually('the box has it', () => onBox(path), { within: 60_000 })
  await must(0, '--rename', 'attic=third')
  const removed = await must(0, '--remove', 'third')
  assert.match(removed.stdout, /let go of the queue of third, which \/etc\/nix-lan\/config\.toml no longer has: \d+ path/)
  assert.not.match(await setting('substituters'), 'third.sock')
  assert.is((await lab.laptop.run('root', 'test', ['-e', QUEUE.replace(/[^/]*$/, 'third')])).code, 1)
  const units = await lab.laptop.systemctl('list-units', '--plain', '--no-legend', 'nix-lan*third*', 'nix-lan*attic*', 'nix-lan*second*')
  assert.is(units.trim(), '')
  assert.is((await build('after-removal')).code, 0)
  await nothingWaits()
  await must(0, '--undo', '--forget-key')
  await asItWas('undone')
})

test('a malformed nix.conf: what Nix says, before anything is done', async () => {
  const former = lab.laptop.read(NIX_CONF)
  lab.laptop.write(NIX_CONF, `${former}nonsense\n`)
  assert.match((await must(2, 'pi.local')).stderr, /Nix itself fails.*nonsense.*\/etc\/nix\/nix\.conf/)
  lab.laptop.write(NIX_CONF, `${former}substitute = false\n`)
  assert.match((await must(0, '--dry-run', 'pi.local')).stdout, `${NIX_CONF} sets substitute = false, so Nix fetches from no cache at all`)
  lab.laptop.write(NIX_CONF, former)
  await lab.laptop.must('alice', 'mkdir', ['-p', '/home/alice/.config/nix'])
  lab.laptop.write('/home/alice/.config/nix/nix.conf', 'more nonsense\n', { user: 'alice' })
  assert.match((await must(2, 'pi.local')).stderr, /Nix fails for alice.*more nonsense.*\/home\/alice\/\.config\/nix\/nix\.conf/)
  await lab.laptop.must('alice', 'rm', ['-r', '/home/alice/.config'])
  await asItWas('refused')
})

test('a box behind a jump host is reachable when that is; behind a program, setup asks which machine', async () => {
  const alias = (way: string): void =>
    lab.laptop.write('/home/alice/.ssh/config', `Host attic\n  HostName 127.0.0.1\n  HostKeyAlias pi.local\n  ${way}\n`, { user: 'alice' })
  const line = 'host = "pi.local" # ssh gets to the box through it'
  alias('ProxyCommand sh -c "exec ssh -W %h:%p pi.local"')
  assert.match((await must(2, 'attic')).stderr, /through a program \(ProxyCommand sh -c .*\).*; say it: --host HOST\[:PORT\]/)
  assert.match((await must(0, '--dry-run', '--host', 'pi.local', 'attic')).stdout, line)
  alias('ProxyJump pi.local')
  await must(0, '--name', 'pi', 'attic')
  assert.match(lab.laptop.read('/etc/nix-lan/config.toml'), line)
  const path = await built('by-a-jump')
  await lab.eventually('the box has it', () => onBox(path), { within: 60_000 })
  await comesBack('by-a-jump', path)
  await must(0, '--undo', '--forget-key')
  await lab.laptop.must('root', 'rm', ['/home/alice/.ssh/config'])
  await asItWas('undone')
})

test('an account on the box that runs no command: the tunnel works, and the lines to paste are said', async () => {
  await lab.box.must('root', 'usermod', ['-s', '/usr/sbin/nologin', 'alice'])
  try {
    const { stdout } = await must(0, 'pi.local')
    assert.match(stdout, /pi\.local lets you log in, but runs no command \(This account is currently not available/)
    const [, line = ''] = /^ +(echo 'extra-trusted-public-keys = laptop-[a-z]{8}-1:.*)$/m.exec((await setup(['--dry-run'])).stdout) ?? []
    await lab.box.must('root', 'sh', ['-ec', `${line}; ${RESTART_NIX}`])
    const path = await built('nologin')
    await lab.eventually('the box has it', () => onBox(path), { within: 60_000 })
    await comesBack('nologin', path)
    await must(0, '--undo', '--forget-key')
  } finally {
    await lab.box.must('root', 'usermod', ['-s', '/bin/bash', 'alice'])
    lab.box.write(NIX_CONF, boxConf)
  }
  await asItWas('undone')
})

test('a newer version: said, and the tunnel is restarted with it', async () => {
  await must(0, 'pi.local')
  await lab.eventually('a tunnel', () => lab.usable())
  const tunnel = () => lab.laptop.systemctl('show', '-p', 'MainPID', 'nix-lan-tunnel@pi.service')
  const before = await tunnel()
  await lab.laptop.must('root', 'sh', [
    '-ec',
    `sed -i 's/"version": "[^"]*"/"version": "0.0.1"/' /etc/nix-lan/setup.json; echo >>/usr/local/lib/nix-lan/package.json`,
  ])
  const { stdout } = await must(0)
  assert.match(stdout, /nix-lan 0\.0\.1 → \d+\.\d+\.\d+ for alice/)
  assert.match(stdout, 'the tunnel of pi restarted')
  assert.is.not(await tunnel(), before)
  await must(0, '--undo', '--forget-key')
  await asItWas('undone')
})

/**
 * Setup or undo, killed (SIGKILL) as it enters its nth call of a kind; false when it had fewer of
 * them and came to its end.
 */
async function killed(call: string, nth: number, ...args: string[]): Promise<boolean> {
  const strace = ['strace', '-qq', '-o', '/dev/null', '-e', `trace=${call}`, '-e', `inject=${call}:signal=SIGKILL:when=${nth}`]
  const result = await setup([...args, '--yes', ...(args.includes('--undo') ? [] : ['--no-doctor'])], strace)
  assert.ok(
    result.code === 0 || result.signal === 'SIGKILL' || result.code === 137,
    `${call} ${nth}: ${result.code} ${result.stdout}${result.stderr}`,
  )
  return result.code !== 0
}

/** Without what a new key changes. */
async function structure(): Promise<Map<string, string>> {
  const all = [...(await snapshot())].filter(([path]) => !path.startsWith('/home'))
  return new Map(all.map(([path, what]) => [path, /^\/etc\/nix\/|setup\.json$/.test(path) ? what.replace(/ [0-9a-f]{64}/, '') : what]))
}

test('killed at each of its steps: finished by the next run, or taken back', async () => {
  await must(0, 'pi.local')
  const whole = await structure()
  await must(0, '--undo', '--forget-key')
  let finished = 0
  let takenBack = 0
  // a rename for each file, a mkdir for each directory, a clone for each program that it starts
  for (const [call, first, step] of [
    ['mkdir', 1, 8],
    ['rename', 1, 24],
    ['clone', 3, 7],
  ] as const) {
    for (let nth = first; await killed(call, nth, 'pi.local'); nth += step) {
      if ((finished + takenBack) % 2 === 0) {
        await must(0, 'pi.local')
        assert.equal(differences(whole, await structure()), [], `finished after ${call} ${nth}`)
        finished++
      } else takenBack++
      await must(0, '--undo', '--forget-key')
      await asItWas(`${call} ${nth}`)
    }
    await must(0, '--undo', '--forget-key')
  }
  console.log(`figure: setup killed at ${finished + takenBack} points, ${finished} finished, ${takenBack} taken back at once`)
  assert.ok(finished >= 4 && takenBack >= 3, `${finished} and ${takenBack} points`)
})

test('undo killed at each of its steps: taken back by the next run', async () => {
  let points = 0
  for (const [call, first, step] of [
    ['unlink', 1, 40],
    ['rmdir', 1, 12],
    ['clone', 3, 7],
  ] as const) {
    for (let nth = first; ; nth += step) {
      await must(0, 'pi.local')
      if (!(await killed(call, nth, '--undo', '--forget-key'))) break
      const path = await built(`undo-${call}-${nth}`) // no build fails meanwhile
      await emptyQueue()
      // Else setup's look for what the box lacks might queue it when undo has looked already.
      await lab.laptop.run('root', 'nix-store', ['--delete', path])
      await must(0, '--undo', '--forget-key')
      await asItWas(`${call} ${nth}`)
      points++
    }
  }
  console.log(`figure: undo killed at ${points} points`)
  assert.ok(points >= 6, `${points} points`)
  await asItWas('undone')
})

test("a Nix of alice's own, without a daemon: all of it in her home, without sudo", async () => {
  await lab.laptop.must('root', 'sh', [
    '-ec',
    `systemctl disable -q --now nix-daemon.socket nix-daemon.service; rm -rf /nix/var/nix/daemon-socket
rm -f /lib/systemd/system/nix-daemon.*
# Debian's package says NIX_REMOTE=daemon to every session.
rm -f /usr/lib/environment.d/nix-daemon.conf; systemctl daemon-reload; chown -R alice:alice /nix; loginctl enable-linger alice; systemctl restart user@1000`,
  ])
  await lab.eventually('her systemd', async () => (await lab.laptop.systemctl('is-system-running')) !== '')
  const home = async () => new Map([...(await snapshot())].filter(([path]) => !path.startsWith('/nix/var/nix/gcroots/profiles')))
  const before = await home()
  const asRoot = await setup(['--yes', 'pi.local'])
  assert.is(asRoot.code, 2)
  assert.match(asRoot.stderr, 'has no daemon and belongs to alice: run this as alice, without sudo')
  const own = (...args: string[]) => lab.laptop.run('alice', `${DIST}/nix-lan`, ['setup', '--yes', ...args], { timeout: 240_000 })
  const done = await own('--no-doctor', 'pi.local')
  assert.is(done.code, 0, `${done.stdout}${done.stderr}`)
  const path = await built('own')
  await lab.eventually('the box has it', () => onBox(path), { within: 60_000 })
  await nothingWaits()
  await comesBack('own', path, 'alice')
  assert.match((await own('--no-doctor')).stdout, 'nothing has to change')
  const undone = await own('--undo', '--forget-key')
  assert.is(undone.code, 0, `${undone.stdout}${undone.stderr}`)
  assert.equal(differences(before, await home()), [])
})

test.run()
