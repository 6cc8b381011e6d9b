// NixOS without NixOS: a Debian laptop with NixOS' layout (systems in the store, /etc/static,
// /run/current-system), the units that the module comes to (nixos/units.txt) and switches in the
// order of switch-to-configuration (nixos/switch.sh). Under a loop of builds, alice's through
// nix-daemon and root's own, nix-lan is installed, upgraded, rolled back and taken away: not one
// build fails, a running tunnel and what is being fetched aren't noticed by an upgrade.
import { readFileSync } from 'node:fs'
import * as assert from 'uvu/assert'
import { RESET_NIX, RESTART_NIX } from './host.ts'
import { createLab, type Lab, labSuite, release } from './lab.ts'
import { DEADLINE, filesBelow, T_FILE } from './machines.ts'

const test = labSuite('NixOS')
const CACHE = 'rpi'
const TUNNEL = `nix-lan-tunnel@${CACHE}.service`
const SOCKET = `nix-lan-broker@${CACHE}.socket`
const VERSION_FILE = '/run/user/1000/tunnel-version'
const QUEUE = `/nix/var/nix/gcroots/nix-lan/queue/${CACHE}`
let lab: Lab
/** Systems, by name: without nix-lan, with it, with a newer one. */
const systems: Record<'without' | 'first' | 'second', string> = { without: '', first: '', second: '' }
let packages: string[] = []

test.before(async () => {
  lab = await createLab({ laptop: release() })
  lab.laptop.write('/opt/switch.sh', readFileSync('test/lab/nixos/switch.sh', 'utf8'))
  packages = [await packageOf('1'), await packageOf('2')]
  systems.without = await systemOf('without', undefined)
  systems.first = await systemOf('first', packages[0])
  systems.second = await systemOf('second', packages[1])
  await onLaptop(`ln -sfnT ${systems.without} /run/current-system; ln -sfnT ${systems.without}/etc /etc/static
touch /etc/NIXOS; rm /etc/nix/nix.conf; ln -s /etc/static/nix/nix.conf /etc/nix/nix.conf; ${RESTART_NIX}`)
})
test.after(() => lab.close())

const onLaptop = (script: string): Promise<string> => lab.laptop.must('root', 'sh', ['-ec', script], { timeout: 240_000 })

/** dist as the package has it. @returns its store path */
async function packageOf(version: string): Promise<string> {
  const folder = `/opt/nix-lan-${version}`
  for (const file of filesBelow('dist').filter((name) => !name.startsWith('systemd/'))) {
    let text = readFileSync(`dist/${file}`, 'utf8')
    const mode = text.startsWith('#!') ? 0o755 : 0o644
    // Each tunnel leaves the version that has started it.
    if (file === 'nix-lan-tunnel') text = text.replace('\nset +f\n', `\nset +f\necho ${version} >${VERSION_FILE}\n`)
    lab.laptop.write(`${folder}/lib/nix-lan/${file}`, file === 'package.json' ? `${text}${'\n'.repeat(Number(version))}` : text, { mode })
  }
  await onLaptop(`mkdir ${folder}/bin; for name in nix-lan nix-lan-available nix-lan-connect nix-lan-run nix-lan-tunnel; do
  ln -s ../lib/nix-lan/$name ${folder}/bin/; done`)
  return (await onLaptop(`nix-store --add ${folder}`)).trim()
}

/** The texts of nixos/units.txt, by their names, with what stands for nixpkgs' packages here. */
function texts(nixLan: string): Map<string, string> {
  const found = readFileSync('test/lab/nixos/units.txt', 'utf8').split(/^==> /m).slice(1)
  return new Map(
    found.map((text) => {
      const end = text.indexOf('\n')
      const body = text
        .slice(end + 1)
        .replaceAll('/nix/store/HASH-nix-lan-VERSION', nixLan)
        .replaceAll('/nix/store/HASH-nix-lan-make-key', '/opt/make-key.sh')
        .replaceAll('/nix/store/HASH-nix-lan-stop', '/opt/stop.sh')
        .replaceAll('/nix/store/HASH-unit-script-nix-lan-key-start/bin/nix-lan-key-start', '/opt/key-start')
        .replace(/\/nix\/store\/HASH-[a-z-]+(-[\d.]+)?\/s?bin/g, '/usr/bin')
      return [text.slice(0, end), body]
    }),
  )
}

/** The nix.conf of test/modules/golden/nixos-example.txt, without the cache that isn't reached. */
function nixConf(nixLan: string): string {
  const [, block = ''] = /^nix conf:\n((?: {4}.*\n)+)/m.exec(readFileSync('test/modules/golden/nixos-example.txt', 'utf8')) ?? []
  assert.match(block, `%20/run/nix-lan/${CACHE}.sock https://cache.nixos.org/`)
  return block.replace(/^ {4}/gm, '').replace(' https://cache.nixos.org/', '').replaceAll('/nix/store/HASH-nix-lan-VERSION', nixLan)
}

/** Writes a system. @param nixLan its package */
async function systemOf(name: string, nixLan: string | undefined): Promise<string> {
  const folder = `/opt/system-${name}`
  const write = (file: string, text: string): void => lab.laptop.write(`${folder}/${file}`, text)
  const base = 'sandbox = false\nexperimental-features = nix-command\n'
  write('etc/nix/nix.conf', nixLan === undefined ? `${base}substituters =\n` : `${base}${nixConf(nixLan)}`)
  await onLaptop(`mkdir -p ${folder}/sw`)
  if (nixLan === undefined) return folder
  const found = texts(nixLan)
  write('activate', found.get('activate') ?? '')
  write('tmpfiles', found.get('tmpfiles') ?? '')
  lab.laptop.write('/opt/key-start', `#!/bin/sh\nexec ${found.get('script/nix-lan-key')}`, { mode: 0o755 })
  for (const script of ['make-key', 'stop']) lab.laptop.write(`/opt/${script}.sh`, readFileSync(`nix/${script}.sh`, 'utf8'))
  write(
    'etc/nix-lan/config.toml',
    `user = "alice"\n[cache.${CACHE}]\nhost = "pi.local"\nssh = "alice@pi.local"\ndeadline = "${DEADLINE}s"\n`,
  )
  write(`etc/nix-lan/connect/${CACHE}`, `user=alice\ndeadline=${DEADLINE}\n`)
  for (const of of ['system', 'user'])
    for (const unit of filesBelow(`dist/systemd/${of}`)) {
      const text = readFileSync(`dist/systemd/${of}/${unit}`, 'utf8')
      write(`etc/systemd/${of}/${unit}`, text.replaceAll('/usr/bin/env nix-lan', '/run/nix-lan-current/bin/nix-lan'))
    }
  const wants: string[] = []
  for (const [unit, text] of found) {
    if (!/^(system|user)\//.test(unit)) continue
    write(`etc/systemd/${unit}`, text)
    const [, own = ''] = /^(?:system|user)\/([^/]*?)(?:\.d\/overrides\.conf)?$/.exec(unit) ?? []
    for (const by of (/^WantedBy=(.*)$/m.exec(text)?.[1] ?? '').split(' ').filter(Boolean))
      wants.push(`etc/systemd/${unit.startsWith('user') ? 'user' : 'system'}/${by}.wants/${own}`)
  }
  for (const want of wants)
    await onLaptop(`mkdir -p ${folder}/${want.replace(/\/[^/]*$/, '')}; ln -s ../${want.split('/').at(-1)} ${folder}/${want}`)
  await onLaptop(`ln -s ${nixLan}/bin ${folder}/sw/bin`)
  return folder
}

// ---- the loop of builds

/**
 * What a client says that nix-daemon had accepted but not yet answered when it was restarted: Nix's
 * own race, with every restart. Without nix-lan, by `systemctl restart nix-daemon` under the same
 * loop (Nix 2.34.8 in Debian testing), 1 of 1143 builds in 300 restarts.
 */
const LOST_IN_RESTART = "cannot open connection to remote store 'daemon': .*(Connection reset by peer|Broken pipe)"

/**
 * Builds without end, and notes each. $1: whose, $2: the race's message. A build that says it is
 * repeated, once, and that alone is no failure.
 */
const LOOP = `i=0
build() { nix-build ${T_FILE} --no-out-link --argstr name loop-$1-$i >/run/loop/$1.out 2>&1; }
while [ ! -e /run/loop/stop ]; do
  i=$((i + 1))
  if build "$1" || { tr '\\n' ' ' </run/loop/$1.out | grep -Eq "$2" && build "$1"; }
  then echo ok; else echo "FAILED: $(tr '\\n' ' ' </run/loop/$1.out)"; fi >>/run/loop/$1
done`

/** Does something while two loops build, and asserts that none of their builds failed. */
async function underBuilds(what: () => Promise<unknown>): Promise<void> {
  await onLaptop('rm -rf /run/loop; mkdir /run/loop; chmod 777 /run/loop')
  const loops = (['alice', 'root'] as const).map((user) =>
    lab.laptop.run(user, 'bash', ['-c', LOOP, 'loop', user, LOST_IN_RESTART], { timeout: 900_000 }),
  )
  const notes = (user: string): string[] => lab.laptop.read(`/run/loop/${user}`).split('\n').filter(Boolean)
  const built = async (least: number) =>
    await lab.eventually('builds', () => ['alice', 'root'].every((user) => noteCount(user) >= least), { within: 120_000 })
  const noteCount = (user: string): number => {
    try {
      return notes(user).length
    } catch {
      return 0 // not one yet
    }
  }
  try {
    await built(2)
    await what()
    const most = Math.max(noteCount('alice'), noteCount('root'))
    await built(most + 2)
  } finally {
    await onLaptop('touch /run/loop/stop')
    await Promise.all(loops)
  }
  for (const user of ['alice', 'root']) {
    const failed = notes(user).filter((line) => line !== 'ok')
    assert.equal(failed, [], `${user}'s builds, ${notes(user).length} in all`)
  }
}

/** A switch, however many there were just now: nobody makes more than five in ten seconds. */
async function switchTo(name: keyof typeof systems): Promise<void> {
  await onLaptop(RESET_NIX)
  await lab.laptop.must('root', 'bash', ['/opt/switch.sh', systems[name]], { timeout: 240_000 })
}
const pid = (): Promise<string> => lab.laptop.systemctl('show', '-P', 'MainPID', TUNNEL)
const inode = (): Promise<string> => lab.laptop.must('root', 'stat', ['-c', '%U %a %i', `/run/nix-lan/${CACHE}.sock`])
const usable = async (): Promise<boolean> =>
  (await lab.laptop.run('alice', '/run/current-system/sw/bin/nix-lan-available', ['--usable', CACHE])).code === 0
const failedUnits = async (): Promise<string> =>
  (await onLaptop('systemctl --failed --no-legend --plain')) + (await lab.laptop.systemctl('--failed', '--no-legend', '--plain'))
const build = (args: readonly string[]) => lab.laptop.run('alice', 'nix-build', [T_FILE, '--no-out-link', ...args], { timeout: 240_000 })

// ---- the story

test('installed: not one build fails; the key is there, systemd holds the socket, and the tunnel comes', async () => {
  await underBuilds(() => switchTo('first'))
  assert.match(await inode(), /^alice 600 /)
  const key = lab.laptop.read('/etc/nix/nix-lan.public').trim()
  const conf = lab.box.read('/etc/nix/nix.conf')
  lab.box.write('/etc/nix/nix.conf', `${conf}extra-trusted-public-keys = ${key}\n`)
  await lab.box.restartNix()
  await lab.laptop.systemctl('start', 'nix-lan-check.timer') // or she logs in anew
  await lab.eventually('a tunnel', usable, { within: 60_000 })
  assert.is((await failedUnits()).trim(), '')
})

test('upgraded and rolled back, in mid-fetch: not one build fails, the fetch arrives, the tunnel and the socket stay', async () => {
  // Two minutes at that rate, if the link stayed slow: the switches take some seconds each.
  const args = ['--argstr', 'name', 'fetched', '--arg', 'kb', '64000']
  const path = (await build(args)).stdout.trim()
  const there = async () => (await lab.box.run('root', 'nix-store', ['--check-validity', path])).code === 0
  await lab.eventually('it is on the box', there, { within: 90_000, every: 500 })
  await lab.eventually('nothing waits', async () => !(await onLaptop(`ls ${QUEUE}`)).includes('-fetched'), { within: 60_000, every: 500 })
  await lab.laptop.must('root', 'nix-store', ['--delete', path])
  const [before, socket] = [await pid(), await inode()]
  let fetched: Awaited<ReturnType<typeof build>> | undefined
  await lab.lan.slow('laptop', 4) // towards us, as a fetch goes
  await underBuilds(async () => {
    const fetching = build(args).then((result) => {
      fetched = result
    })
    // The loops' builds have the box asked, too: only its first bytes show that there is a fetch.
    const begun = async () => (await lab.laptop.run('root', 'test', ['-e', path])).code === 0
    await lab.eventually('the first bytes', begun, { every: 200 })
    await switchTo('second')
    assert.equal([await pid(), await inode()], [before, socket], 'left alone by the upgrade')
    assert.is((await onLaptop('readlink /run/nix-lan-current')).trim(), packages[1])
    await switchTo('first')
    assert.is(fetched, undefined, 'the fetch was over before the switches')
    await lab.lan.slow('laptop', 0)
    await fetching
  })
  assert.is(fetched?.code, 0, fetched?.stderr)
  assert.match(fetched?.stderr ?? '', /copying path '[^']*-fetched' from 'ssh-ng:/)
  assert.not.match(fetched?.stderr ?? '', /building '|error/)
  assert.equal([await pid(), await inode()], [before, socket], 'left alone by the way back')
})

test('the next start of the tunnel is that of the new version', async () => {
  await switchTo('second')
  assert.is(lab.laptop.read(VERSION_FILE), '1\n')
  await lab.laptop.systemctl('restart', TUNNEL)
  await lab.eventually('a tunnel', usable, { within: 60_000 })
  assert.is(lab.laptop.read(VERSION_FILE), '2\n')
})

test('taken away: not one build fails; no unit, socket or tunnel is left, queue and key are', async () => {
  await underBuilds(() => switchTo('without'))
  const units = ['list-units', '--all', '--plain', '--no-legend', 'nix-lan*']
  await lab.eventually('no unit of the system', async () => (await lab.laptop.must('root', 'systemctl', units)).trim() === '')
  const hers = async () => (await lab.laptop.systemctl(...units)).split('\n').filter((line) => /\sactive\s/.test(line))
  await lab.eventually('no unit of hers', async () => (await hers()).length === 0)
  assert.is((await failedUnits()).trim(), '')
  assert.is((await lab.laptop.run('root', 'test', ['-e', `/run/nix-lan/${CACHE}.sock`])).code, 1)
  const ssh = async () => (await lab.laptop.run('root', 'pgrep', ['-u', 'alice', '-x', 'ssh'])).code
  await lab.eventually('the end of the tunnel’s ssh', async () => (await ssh()) === 1)
  await onLaptop(`test -d ${QUEUE}; test -e /etc/nix/nix-lan.secret`)
  assert.is((await lab.laptop.run('root', 'systemctl', ['is-active', SOCKET])).stdout.trim(), 'inactive')
})

test('what the doctor misses belongs into configuration.nix: no command of another system', async () => {
  for (const user of ['alice', 'root'] as const) {
    const doctor = await lab.laptop.run(user, `${packages[1]}/bin/nix-lan`, ['doctor', '--offline'], { timeout: 240_000 })
    assert.is(doctor.code, 1, doctor.stderr)
    assert.match(doctor.stdout, /^ +fix: in configuration\.nix: services\.nix-lan\.enable = true; .*, then: sudo nixos-rebuild switch$/m)
    assert.not.match(doctor.stdout, /tee -a|nix-lan setup|enable-linger|\/etc\/nix\/nix\.conf:? \S+ =/)
  }
})

test.run()
