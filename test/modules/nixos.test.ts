// The story of one build on a NixOS laptop and its box, as far as it can be told without NixOS:
// what nix/examples/nixos.nix and box.nix come to (with the stand-in for nixpkgs) is put into two
// worlds as NixOS would put it there, and then used. The rest is nix/test.nix, for a machine with
// nixpkgs.
import { readdirSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../lib/needs.ts'
import { ALICE, accepts, DAEMON_SOCKET, GREETING, nixConf, type Running, type World } from '../nix/world.ts'
import { createProject, evaluate, LOCAL, NIXES, type Project } from './project.ts'

/** What eval.nix says of a NixOS, as far as this test puts it into a world. */
interface System {
  failed: string[]
  nix: { conf: string; 'conf-2311': string }
  networking: { networkmanager: { dispatcherScripts: { source: string }[] } }
  environment: { etc: Record<string, { text: string }>; systemPackages: string[] }
  systemd: {
    services: {
      'nix-daemon': { path: string[] }
    }
    tmpfiles: { rules: string[] }
  }
}

/** The nix.conf of a NixOS from the time of a Nix. */
const OF_NIXOS: Record<string, 'conf' | 'conf-2311'> = { '2.8': 'conf-2311', '2.26': 'conf', '2.34': 'conf' }

const SW = '/run/current-system/sw/bin'
const QUEUE = '/nix/var/nix/gcroots/nix-lan/queue/rpi'

for (const { nix, version } of NIXES.filter((one) => one.version !== '2.3')) {
  const test = needs(suite(`NixOS, Nix ${version}`), 'root', 'nix', 'ssh', 'sshd', ...(nix === 'host' ? [] : ['roots']))
  let laptop: Project
  let box: Project
  let system: System
  let tunnel: Running | undefined
  let daemon: Running | undefined
  const scripts: Scripts = { key: '', units: '', output: '' }

  test.before(async () => {
    laptop = await createProject(nix)
    box = await createProject('host')
  })
  test.after(async () => {
    await laptop?.world.close()
    await box?.world.close()
  })

  test('the configuration is put in place', async () => {
    const { port, userKey, hostKey } = await box.world.startSshd()
    laptop.world.write('/home/alice/.ssh/id_ed25519', userKey, { mode: 0o600, user: 'alice' })
    laptop.world.write('/home/alice/.ssh/known_hosts', `[127.0.0.1]:${port} ${hostKey}\n`, { user: 'alice' })
    const there = `{ host = force "127.0.0.1"; ssh = force "alice@127.0.0.1"; port = ${port}; }`
    system = await systemOf(laptop, 'nixos', `{ services.nix-lan.caches.rpi = ${there}; }`)
    Object.assign(scripts, await activate(laptop, system, `{ services.nix-lan.caches.rpi = ${there}; }`, OF_NIXOS[version]))
  })

  test('the key is made once, and only root can read the secret', async () => {
    const { world } = laptop
    assert.match(
      scripts.output,
      /^what is built here is signed from now on; for trusted-public-keys of the box: laptop-[0-9a-f]{8}-1:[A-Za-z0-9+/]{43}=$/,
    )
    assert.ok(scripts.output.endsWith(world.read('/etc/nix/nix-lan.public').trim()))
    const secret = world.read('/etc/nix/nix-lan.secret')
    assert.is(await world.must('root', 'bash', ['-e', scripts.key]), '', 'the unit finds it there')
    assert.is(world.read('/etc/nix/nix-lan.secret'), secret)
    const mode = (file: string): number => statSync(world.path(file)).mode & 0o777
    assert.is(mode('/etc/nix/nix-lan.secret'), 0o600)
    assert.is(mode('/etc/nix/nix-lan.public'), 0o644)
    assert.equal(readdirSync(world.path('/etc/nix')).sort(), ['nix-lan.public', 'nix-lan.secret', 'nix.conf'])
  })

  test("the dispatcher works as the copy that NixOS makes of it, and takes the config.toml for root's own", async () => {
    const { world } = laptop
    const [script = ''] = system.networking.networkmanager.dispatcherScripts.map((one) => one.source)
    const copy = '/etc/NetworkManager/dispatcher.d/03userscript0001' // nixos/modules/services/networking/networkmanager.nix
    await world.must('root', 'install', ['-D', '-m', '0544', script, copy])
    assert.is(await world.must('root', 'env', ['-i', copy, '--owner']), `alice ${ALICE}`)
    const event = await world.run('root', 'env', ['-i', 'PATH=/nowhere', copy, 'eth0', 'up'])
    assert.equal([event.code, event.stdout, event.stderr], [0, '', ''], 'nobody is logged in: nothing to say')
  })

  test('the box believes that key', async () => {
    const key = JSON.stringify(laptop.world.read('/etc/nix/nix-lan.public').trim())
    const more = `{ services.nix-lan.box = { trustedPublicKeys = force [ ${key} ]; users = force [ "alice" ]; }; }`
    const found = await systemOf(box, 'box', more)
    assert.equal(found.failed, [])
    box.world.write('/etc/nix/nix.conf', confOf(found))
    await box.world.startDaemon()
  })

  test('built while the box is away: no word of it, and the build is queued for alice', async () => {
    const { world } = laptop
    const PATH = system.systemd.services['nix-daemon'].path.map((path) => `${path}/bin`).join(':')
    daemon = world.start('root', 'env', ['-i', `PATH=${PATH}`, '/usr/bin/nix-daemon'])
    await accepts(world.path(DAEMON_SOCKET), daemon, GREETING)
    const built = await world.run('alice', 'nix-build', hello)
    assert.is(built.code, 0, built.stderr)
    assert.not.match(built.stderr, /warning|error|unexpected/)
    assert.ok(queued(world).includes(built.stdout.trim().replace('/nix/store/', '')), built.stderr)
    const owner = (folder: string): number => statSync(world.path(folder)).uid
    assert.equal([owner(QUEUE), owner(`${QUEUE}/..`), owner(`${QUEUE}/../..`)], [ALICE, 0, 0])
  })

  test('the box comes: tunnel and upload, by the commands of the units', async () => {
    const { world } = laptop
    // Without systemd nobody is told when it is ready, so not as a service.
    const [program = '', ...args] = commandOf(world, scripts, 'nix-lan-tunnel@.service').filter((word) => word !== '--service')
    tunnel = world.start('alice', program, args, { env: { PATH: undefined } })
    await accepts(world.path(`/run/user/${ALICE}/nix-lan/rpi.sock`), tunnel, GREETING)
    const [upload = '', ...words] = commandOf(world, scripts, 'nix-lan-upload@.service')
    // What NixOS gives a user service, if anything: nothing of nix is in it.
    const uploaded = await world.run('alice', upload, words, { env: { PATH: '/usr/bin:/bin', NIX_REMOTE: undefined } })
    assert.is(uploaded.code, 0, uploaded.stderr)
    assert.equal(queued(world), [])
  })

  test('collected, and fetched back; nix-lan-run gives Nix the very URL of nix.conf', async () => {
    const { world } = laptop
    const path = await world.must('alice', 'nix-build', hello)
    await world.must('root', 'nix-store', ['--delete', path])
    const again = await world.run('alice', 'nix-build', hello)
    assert.is(again.stdout.trim(), path, again.stderr)
    assert.match(again.stderr, /copying path '[^']*-hello' from 'ssh-ng:\/\//, `${again.stderr}\n${daemon?.output()}`)
    const explained = await world.must('alice', `${SW}/nix-lan-run`, ['--explain', 'nix-build'])
    assert.match(explained, /^cache rpi: can be used .*; already among the substituters$/m)
  })

  test('nix-lan doctor finds no fault in what the module has set', async () => {
    const { world } = laptop
    const doctor = await world.run('alice', `${SW}/nix-lan`, ['doctor', '--offline', '--json'], { env: { PATH: `${SW}:/usr/bin:/bin` } })
    const verdicts = JSON.parse(doctor.stdout) as { check: string; state: string; found: string }[]
    const checked = [
      'configuration',
      'nix.conf',
      'runtime',
      'bash',
      'hook',
      'signing',
      'dispatcher',
      'substituter',
      'connect',
      'broker',
      'queue',
    ]
    for (const check of checked) {
      const verdict = verdicts.find((one) => one.check === check)
      assert.is(verdict?.state, 'ok', `${check}: ${verdict?.found}`)
    }
    // on a NixOS there may be no other Node
    assert.match(verdicts.find((one) => one.check === 'runtime')?.found ?? '', /^\/nix\/store\/[^ ]*-nodejs-slim-[^ ]*\/bin\/node v/)
  })

  test('a switch takes it away: builds go on with a nix-daemon that still has the former nix.conf', async () => {
    const { world } = laptop
    await tunnel?.stop()
    await world.must('root', 'rm', [SW, '/etc/nix-lan/config.toml', '/etc/nix-lan/connect/rpi'])
    const built = await world.run('alice', 'nix-build', [...hello.slice(0, -1), 'taken-away'])
    assert.is(built.code, 0, built.stderr)
    assert.not.match(built.stderr, /warning|error|unexpected/)
    await world.must('root', 'ln', ['-s', '/run/nix-lan-current/bin', SW])
    for (const file of ['nix-lan/config.toml', 'nix-lan/connect/rpi'])
      await world.must('root', 'ln', ['-s', `/etc/static/${file}`, `/etc/${file}`])
  })

  test('an unsigned path of the box is not believed', async () => {
    const { world } = laptop
    const args = [...hello.slice(0, -1), 'unsigned']
    const path = await box.world.must('root', 'nix-build', args)
    const built = await world.run('alice', 'nix-build', args)
    assert.is(built.stdout.trim(), path, built.stderr)
    assert.not.match(built.stderr, /copying path/)
  })

  test.run()

  const queued = (world: World): string[] => readdirSync(world.path(QUEUE)).filter((name) => !name.endsWith('.drv'))
}

const hello = ['/opt/nix-lan/t.nix', '--no-out-link', '--argstr', 'name', 'hello']

/** What an example and a module of the test's come to. */
async function systemOf(project: Project, example: string, more: string): Promise<System> {
  return (await evaluate(project, `(import ${project.stub}/eval.nix { }).nixos ${modulesOf(project, example, more)}`)) as System
}

const modulesOf = ({ folder }: Project, example: string, more: string): string =>
  `[ ${folder}/nix/examples/${example}.nix ({ lib, ... }: let force = lib.mkForce; in ${more}) ]`

/**
 * The nix.conf, with what every world needs above it; without the one cache that can't be reached
 * from here.
 */
function confOf(system: System, which: 'conf' | 'conf-2311' = 'conf'): string {
  const base = nixConf()
    .split('\n')
    .filter((line) => !/^(substituters|trusted-users) /.test(line))
  const conf = system.nix[which].replace(/ ?https:\/\/cache\.nixos\.org\//, '')
  assert.is.not(conf, system.nix[which])
  return `${base.join('\n')}${conf}`
}

/**
 * What is built of a system: the script of the unit nix-lan-key, and the folder of the user units;
 * and what its activation has said.
 */
interface Scripts {
  key: string
  units: string
  output: string
}

/** Does what a switch of NixOS does with a system, for the parts that nix/nixos.nix has set. */
async function activate(project: Project, system: System, more: string, conf: 'conf' | 'conf-2311' = 'conf'): Promise<Scripts> {
  const { world } = project
  assert.equal(system.failed, [])
  const build = ['--expr', `(import ${project.stub}/eval.nix { }).flake.packages.x86_64-linux.default`, '--no-out-link']
  const out = await world.must('root', 'nix-build', build, { env: LOCAL })
  assert.equal(system.environment.systemPackages, [out])
  for (const path of system.systemd.services['nix-daemon'].path) await realise(project, path)
  await world.must('root', 'mkdir', ['-p', '/run/current-system/sw'])
  await world.must('root', 'ln', ['-s', `${out}/bin`, SW])
  const expression = `let
      config = (import ${project.stub}/eval.nix { }).nixosConfig ${modulesOf(project, 'nixos', more)};
      pkgs = import ${project.stub}/pkgs.nix { system = "x86_64-linux"; };
      inherit (config.systemd) packages services;
    in [
      (pkgs.writeScript "activate" config.system.activationScripts.nix-lan.text)
      (pkgs.writeScript "key" services.nix-lan-key.script)
      config.environment.etc."nix-lan/config.toml".source
    ] ++ packages`
  const built = await world.must('root', 'nix-build', ['--expr', expression, '--no-out-link'], { env: LOCAL })
  const [activation = '', key = '', file = '', units = ''] = built.split('\n')
  const files: Record<string, string> = { 'nix-lan/config.toml': file }
  const output = await world.must('root', 'bash', [activation], { env: { NIXOS_ACTION: 'switch' } })
  world.write('/etc/nix/nix.conf', confOf(system, conf))
  // A link to a link into the store, all of it root's; the store has the mode that it has there.
  await world.must('root', 'chmod', ['1775', '/nix/store'])
  for (const [name, { text }] of Object.entries(system.environment.etc).filter(([name]) => !files[name])) {
    files[name] = `/opt/etc/${name}` // in the store, too
    world.write(`/opt/etc/${name}`, text)
  }
  assert.equal(Object.keys(files), ['nix-lan/config.toml', 'nix-lan/connect/rpi'])
  for (const [file, stored] of Object.entries(files)) {
    for (const folder of [`/etc/${file}`, `/etc/static/${file}`]) await world.must('root', 'mkdir', ['-p', dirname(folder)])
    await world.must('root', 'ln', ['-s', stored, `/etc/static/${file}`])
    await world.must('root', 'ln', ['-s', `/etc/static/${file}`, `/etc/${file}`])
  }
  for (const rule of system.systemd.tmpfiles.rules) {
    // tmpfiles.d(5), types d and L+, no more of it; the link is there since the activation
    const [, link = '', target = ''] = /^L\+ (\S+) - - - - (\S+)$/.exec(rule) ?? []
    if (link) {
      assert.is(await world.must('root', 'readlink', [link]), target)
      continue
    }
    const [, path = '', mode = '', owner = '', group = ''] = /^d (\S+) (\d+) (\S+) (\S+) -$/.exec(rule) ?? []
    assert.ok(path, `a rule of a kind that this test does not know: ${rule}`)
    await world.must('root', 'install', ['-d', '-m', mode, '-o', owner, '-g', group, path])
  }
  return { key, units: `${units}/lib/systemd/user`, output }
}

/** Builds one of the stand-in's packages, known by its path. */
async function realise({ world, stub }: Project, path: string): Promise<void> {
  const name = path.replace(/^.*?-(.*)-[\d.]+$/, '$1')
  const args = [`${stub}/pkgs.nix`, '--argstr', 'system', 'x86_64-linux', '--attr', name, '--no-out-link']
  assert.is(await world.must('root', 'nix-build', args, { env: LOCAL }), path)
}

/** The command of a unit that the system has, for the box rpi. */
function commandOf(world: World, { units }: Scripts, unit: string): string[] {
  const [, command = ''] = /^ExecStart=(.*)$/m.exec(world.read(`${units}/${unit}`)) ?? []
  assert.match(command, /^\/run\/nix-lan-current\/bin\//)
  return command.replaceAll('%i', 'rpi').split(' ')
}
