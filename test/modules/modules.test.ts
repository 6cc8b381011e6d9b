// What the Home Manager and the NixOS module make of a configuration, compared with the files in
// golden/ (UPDATE=1 writes them anew: the diff is the review), in four versions of Nix; what they
// refuse, and with which words; and that nix.conf and config.toml are what Nix and nix-lan read.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { parse } from 'smol-toml'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { VERSION } from '../../scripts/cli/version.ts'
import { parseConfig } from '../../scripts/config/parse.ts'
import { needs } from '../lib/needs.ts'
import { nixConf } from '../nix/world.ts'
import { createProject, evaluate, flatten, LOCAL, NIXES, type Project, textOf, withoutHashes } from './project.ts'

const GOLDEN = 'test/modules/golden'

type Tree = { [name: string]: unknown }

for (const { nix, version } of NIXES) {
  const test = needs(suite(`modules, Nix ${version}`), ...(nix === 'host' ? ['root', 'nix'] : ['root', 'roots']))
  let project: Project

  test.before(async () => {
    project = await createProject(nix)
  })
  test.after(() => project?.world.close())

  test('every case gives what its golden file says', async () => {
    const cases = (await evaluate(project, `import ${project.folder}/test/modules/cases.nix`)) as Record<string, Tree>
    for (const [name, result] of Object.entries(cases)) golden(`${name}.txt`, withoutHashes(flatten(result)))
    assert.equal(
      readdirSync(GOLDEN).sort(),
      Object.keys(cases)
        .map((name) => `${name}.txt`)
        .sort(),
    )
  })

  if (version !== '2.3') {
    test('Nix reads the nix.conf, and means by it what is meant', async () => {
      for (const name of ['nixos-example', 'nixos-everything']) {
        const result = (await evaluate(project, `(import ${project.folder}/test/modules/cases.nix).${name}.nix`)) as Tree
        project.world.write('/etc/nix/nix.conf', String(result.conf))
        const show = [...(version === '2.8' ? ['show-config'] : ['config', 'show'])]
        const shown = await project.world.run('alice', 'nix', ['--extra-experimental-features', 'nix-command', ...show])
        assert.is(shown.code, 0, shown.stderr)
        assert.not.match(shown.stderr, /unknown setting|error/)
        const settings = result.settings as Record<string, boolean | string | string[]>
        for (const key of [
          'fallback',
          'substituters',
          'secret-key-files',
          'post-build-hook',
          'trusted-public-keys',
          'trusted-substituters',
        ]) {
          const meant = [settings[key] ?? []].flat().map(String)
          const found = new RegExp(`^${key} = (.*)$`, 'm').exec(shown.stdout)?.[1] ?? ''
          assert.equal(found.split(' ').filter(Boolean).sort(), [...meant].sort(), `${name}: ${key}`)
        }
      }
      project.world.write('/etc/nix/nix.conf', nixConf())
    })
  }

  test.run()
}

const test = needs(suite('modules'), 'root', 'nix')
let project: Project

test.before(async () => {
  project = await createProject('host')
})
test.after(() => project?.world.close())

/** config.toml of a case, as text. */
const CONFIGS: [name: string, file: string][] = [
  ['nixos-example', 'environment.etc'],
  ['home-example', 'xdg.configFile'],
]
const ALICE = { name: 'alice', uid: 1000, home: '/home/alice' }

for (const [name, file] of CONFIGS) {
  test(`${name}: nix-lan reads the config.toml`, async () => {
    const config = parseConfig(await configOf(name, file), 'config.toml', (user) => {
      assert.is(user, 'alice')
      return ALICE
    })
    const [cache, ...others] = config.caches
    assert.is(others.length, 0)
    assert.is(cache?.kind === 'ssh' && cache.name, 'rpi')
    assert.is(cache?.kind === 'ssh' && cache.host, 'rpi.local')
    assert.is(cache?.kind === 'ssh' && cache.ssh, 'pi@rpi.local')
    assert.is(cache?.kind === 'ssh' && cache.port, 22)
  })
}

test('home-everything: nix-lan reads every key', async () => {
  const text = await configOf('home-everything', 'xdg.configFile')
  const config = parseConfig(text, 'config.toml', (user) => ({ ...ALICE, name: user ?? '' }))
  assert.is(config.user, 'carol')
  assert.equal(config.caches, [
    {
      kind: 'ssh',
      name: 'big-box',
      host: '192.168.1.5',
      ssh: 'backup',
      port: 2222,
      daemonSocket: '/run/nix-daemon.sock',
      envFile: '/etc/agent.env',
      derivations: false,
      exclude: ['*-source', 'linux-*'],
      keep: null,
      deadline: 500,
      patience: 90_000,
    },
    { kind: 'url', name: 'nas', url: 'http://nas.local:5000', deadline: 3000 },
    { ...config.caches[2], kind: 'ssh', name: 'rpi', host: 'rpi.local', ssh: 'rpi.local', deadline: 2000 },
  ])
})

test('nixos-everything: a key that nix-lan does not know gets as far as nix-lan, which says so', async () => {
  const text = await configOf('nixos-everything', 'environment.etc')
  assert.throws(
    () => parseConfig(text, 'config.toml', () => ALICE),
    (error: Error) => /^config\.toml:\d+: cache\.rpi\.later: unknown key/.test(error.message),
  )
})

async function configOf(name: string, files: string): Promise<string> {
  const texts = (await evaluate(project, `(import ${project.folder}/test/modules/cases.nix).${name}.${files}`)) as Record<string, Tree>
  return String(texts['nix-lan/config.toml']?.text)
}

test('toml.nix: what it writes is read back as it was', async () => {
  const value = {
    text: 'quote " backslash \\ line\nbreak\ttab \u0001 é 🏠 ${x} # [a]',
    number: -42,
    yes: true,
    no: false,
    none: [],
    mixed: ['a', ['b'], { c: 1 }],
    empty: {},
    'odd key.': { ünï: 1, '': 'x' },
    a: { b: { c: 'deep' }, d: 1, e: { f: [{ g: 'h' }] } },
  }
  project.world.write(`${project.folder}/value.json`, JSON.stringify(value))
  const expression = `import ${project.folder}/nix/toml.nix (builtins.fromJSON (builtins.readFile ${project.folder}/value.json))`
  assert.equal(JSON.parse(JSON.stringify(parse(String(await evaluate(project, expression))))), value)
})

test('Home Manager writes each unit as it lies in dist, with the program of the profile, or without a package that of PATH', async () => {
  for (const [name, program] of [
    ['home-example', '/home/alice/.nix-profile/bin/nix-lan'],
    ['home-everything', '/usr/bin/env nix-lan'],
  ] as const) {
    const units = (await evaluate(project, `(import ${project.folder}/test/modules/cases.nix).${name}.systemd.user`)) as Tree
    for (const file of readdirSync('dist/systemd/user')) {
      const [, unit = '', type = ''] = /^(.*)\.([a-z]+)$/.exec(file) ?? []
      const found = (units[`${type}s`] as Record<string, Record<string, Record<string, string | string[]>>>)[unit] ?? {}
      const lines = Object.entries(found).flatMap(([section, keys]) =>
        Object.entries(keys).flatMap(([key, values]) => {
          const list = section === 'Install' ? [[values].flat().join(' ')] : [values].flat()
          return list.map((value) => `${section} ${key}=${value}`)
        }),
      )
      const added = type === 'service' ? ['Unit X-SwitchMethod=keep-old'] : []
      const meant = linesOf(textOf(`dist/systemd/user/${file}`).replaceAll('/usr/bin/env nix-lan', program))
      assert.equal(lines.sort(), [...meant, ...added].sort(), file)
    }
  }
})

test('Home Manager: what one says of the units oneself goes before, and the rest stays', async () => {
  const own = 'Service.Environment = "A=b"; Service.RestartSec = 9; Install.WantedBy = [ "other.target" ];'
  const units = (await evaluate(
    project,
    `((import ${project.stub}/eval.nix { }).home [ (${HOME} ${RPI} systemd.user.services."nix-lan-tunnel@" = { ${own} }; }) ]).systemd.user.services`,
  )) as Record<string, Record<string, Record<string, unknown>>>
  const { Service, Install } = units['nix-lan-tunnel@'] ?? {}
  assert.equal([Service?.Environment, Service?.RestartSec, Service?.Restart, Install], ['A=b', 9, 'always', { WantedBy: ['other.target'] }])
})

/** The lines of a unit with their section before each: `Unit Description=…`. */
function linesOf(unit: string): string[] {
  let section = ''
  return unit.split('\n').flatMap((line) => {
    section = /^\[(.*)\]$/.exec(line)?.[1] ?? section
    return /^[A-Za-z-]+=/.test(line) ? [`${section} ${line}`] : []
  })
}

test('nixos.nix enables what the [Install] sections say: the timer, the look at the network, and the broker’s socket', async () => {
  const wanted = ['user', 'system'].flatMap((folder) =>
    readdirSync(`dist/systemd/${folder}`).flatMap((unit) => {
      const [, by] = /^WantedBy=(.*)$/m.exec(textOf(`dist/systemd/${folder}/${unit}`)) ?? []
      return by === undefined ? [] : [`${unit.replace('@.', '@rpi.')} ${by}`]
    }),
  )
  const units = `let s = ((import ${project.stub}/eval.nix { }).nixosConfig [ (${NIXOS} ${RPI} }) ]).systemd;
    in { inherit (s.user) timers paths; inherit (s) sockets; }`
  const found = (await evaluate(project, units)) as Record<string, Record<string, { wantedBy?: string[] }>>
  const enabled = Object.entries(found).flatMap(([kind, all]) =>
    Object.entries(all).flatMap(([name, { wantedBy = [] }]) => wantedBy.map((by) => `${name}.${kind.replace(/s$/, '')} ${by}`)),
  )
  assert.equal(enabled.sort(), wanted.sort())
})

test('a module imported where the other belongs is refused by its class', async () => {
  const classOf = (file: string): Promise<unknown> =>
    evaluate(project, `(import ${project.folder}/nix/${file} { config = { }; lib = { }; options = { }; pkgs = { }; })._class`)
  assert.equal([await classOf('nixos.nix'), await classOf('home-manager.nix')], ['nixos', 'homeManager'])
})

test('ini.nix refuses what is not a unit, and a line that goes on', async () => {
  for (const text of ['[Unit]\nDescription', '[Unit]\nA=b \\\nc=d']) {
    project.world.write(`${project.folder}/odd.service`, text)
    try {
      await evaluate(project, `import ${project.folder}/nix/ini.nix (builtins.readFile ${project.folder}/odd.service)`)
    } catch (error) {
      assert.match((error as Error).message, 'not a line of a unit')
      continue
    }
    assert.unreachable(text)
  }
})

// ---- what is refused

const NIXOS = '{ lib, nix-lan, ... }: { imports = [ nix-lan.nixosModules.default ]; services.nix-lan = { enable = true; user = "alice"; }; '
const BOX =
  '{ lib, nix-lan, ... }: { imports = [ nix-lan.nixosModules.default { services.openssh.enable = lib.mkDefault true; } ]; services.nix-lan.box.enable = true; '
const HOME = '{ lib, nix-lan, ... }: { imports = [ nix-lan.homeModules.default ]; home.username = "alice"; services.nix-lan.enable = true; '
const KEY = '6iQLhkJRXQ5Zpr0Kq5tiFqPrRDbeqzSBdM3ZVnCjJyA='
const RPI = 'services.nix-lan.caches.rpi.host = "rpi.local"; '

/** Each ends the evaluation: a module's text after the head, and the message. */
const REFUSED: [what: string, kind: 'nixos' | 'home', module: string, message: RegExp][] = [
  ['an option that is not there', 'nixos', `${NIXOS} services.nix-lan.chaches.rpi.host = "x"; }`, /no option services\.nix-lan\.chaches/],
  ['the same in Home Manager', 'home', `${HOME} services.nix-lan.user = "x"; }`, /no option services\.nix-lan\.user/],
  [
    'a key that is not there',
    'nixos',
    `${NIXOS} services.nix-lan.caches.rpi.hots = "x"; }`,
    /no option services\.nix-lan\.caches\.rpi\.hots/,
  ],
  [
    'a key file with a space',
    'nixos',
    `${NIXOS} ${RPI} services.nix-lan.secretKeyFile = "/a b"; }`,
    /secretKeyFile must be an absolute path of letters.*, and is "\/a b"/,
  ],
  [
    'a port in quotes',
    'nixos',
    `${NIXOS} ${RPI} services.nix-lan.caches.rpi.port = "22"; }`,
    /caches\.rpi\.port must be .*1 to 65535, and is "22"/,
  ],
  ['port 0', 'home', `${HOME} ${RPI} services.nix-lan.caches.rpi.port = 0; }`, /caches\.rpi\.port must be .*1 to 65535, and is 0/],
  [
    'a host that is no text',
    'home',
    `${HOME} services.nix-lan.caches.rpi.host = 5; }`,
    /caches\.rpi\.host must be .*the name or address of a machine.*, and is 5/,
  ],
  [
    'a deadline without a unit',
    'home',
    `${HOME} ${RPI} services.nix-lan.caches.rpi.deadline = "2"; }`,
    /caches\.rpi\.deadline must be .*and is "2"/,
  ],
  [
    '"yes" for true',
    'home',
    `${HOME} ${RPI} services.nix-lan.caches.rpi.derivations = "yes"; }`,
    /rpi\.derivations must be .*a boolean, and is "yes"/,
  ],
  ['a pattern that is no list', 'home', `${HOME} ${RPI} services.nix-lan.caches.rpi.exclude = "x"; }`, /rpi\.exclude must be .*a list/],
  [
    'a list with a number in it',
    'home',
    `${HOME} ${RPI} services.nix-lan.caches.rpi.exclude = [ 1 ]; }`,
    /rpi\.exclude.* must be a pattern for the name after the hash.*, and is 1/,
  ],
  [
    'a setting that TOML has not',
    'home',
    `${HOME} ${RPI} services.nix-lan.settings.x.y = null; }`,
    /settings\.x\.y must be a value of TOML, and is null/,
  ],
  [
    'an amount without a unit',
    'home',
    `${HOME} ${RPI} services.nix-lan.gc.keep-free = "5"; }`,
    /keep-free must be .*a size like 5G or 500M, and is "5"/,
  ],
  ['no package on NixOS', 'nixos', `${NIXOS} ${RPI} services.nix-lan.package = null; }`, /package must be a package, and is null/],
  ...(
    [
      ['host', '"pi@rpi.local"', 'the name or address of a machine'],
      ['host', '"rpi local"', 'the name or address of a machine'],
      ['host', '"-oProxyCommand=x"', 'the name or address of a machine'],
      ['host', '"a]b"', 'the name or address of a machine'],
      ['host', '"a\\\\b"', 'the name or address of a machine'],
      ['ssh', '"pi@rpi -p 22"', 'a destination of ssh'],
      ['ssh', '"-v"', 'a destination of ssh'],
      ['deadline', '"90s"', 'a time from 100ms to 60s'],
      ['deadline', '"99ms"', 'a time from 100ms to 60s'],
      ['daemon-socket', '"run/x.sock"', 'an absolute path'],
      ['daemon-socket', '"/run/x:y"', 'an absolute path'],
      ['env-file', '"bashrc"', 'a path'],
      ['exclude', '[ "a/b" ]', 'a pattern for the name after the hash'],
      ['url', '"nas.local:5000"', 'a store URL'],
      ['url', '"http://nas local"', 'a store URL'],
    ] as const
  ).map(([key, value, what]): (typeof REFUSED)[number] => [
    `${key} = ${value}`,
    'nixos',
    `${NIXOS} services.nix-lan.caches.rpi.${key} = ${value}; }`,
    new RegExp(`caches\\.rpi\\.${key}.* must be .*${what}.*, and is `),
  ]),
  ...['x', 'laptop:6iQLhkJRXQ5Zpr0Kq5tiFqPrRDbeqzSBdM3ZVnCjJyA', `a b:${KEY}`].flatMap((key): typeof REFUSED => [
    [`the public key ${key}`, 'nixos', `${NIXOS} ${RPI} services.nix-lan.publicKey = "${key}"; }`, /publicKey must be .*NAME:BASE64/],
    [
      `the public key ${key} on the box`,
      'nixos',
      `${BOX} services.nix-lan.box.trustedPublicKeys = [ "${key}" ]; }`,
      /trustedPublicKeys.* must be a public key of Nix/,
    ],
  ]),
  ['a key name with :', 'nixos', `${NIXOS} ${RPI} services.nix-lan.keyName = "a:b"; }`, /keyName must be text without spaces and :/],
  ['a key name with a space', 'nixos', `${NIXOS} ${RPI} services.nix-lan.keyName = "a b"; }`, /keyName must be text without spaces and :/],
  ['a key that is no list', 'nixos', `${BOX} services.nix-lan.box.trustedPublicKeys = "x"; }`, /trustedPublicKeys must be a list/],
  [
    'two hosts',
    'nixos',
    `${NIXOS.replace('imports = [', 'imports = [ { services.nix-lan.caches.rpi.host = "b"; }')} ${RPI} }`,
    /caches\.rpi\.host is "(b|rpi\.local)" in .*, and "(b|rpi\.local)" in/,
  ],
  [
    'another post-build-hook',
    'nixos',
    `${NIXOS} ${RPI} nix.settings.post-build-hook = "/mine"; }`,
    /nix\.settings\.post-build-hook is .* and "?/,
  ],
  [
    'the module of Home Manager in NixOS',
    'nixos',
    '{ nix-lan, ... }: { imports = [ nix-lan.homeModules.default ]; }',
    /is a module of homeManager, not of nixos/,
  ],
  [
    'the module of NixOS in Home Manager',
    'home',
    '{ nix-lan, ... }: { imports = [ nix-lan.nixosModules.default ]; }',
    /is a module of nixos, not of homeManager/,
  ],
  // and that the stand-in is as strict with what the modules define themselves
  ['(stand-in) no such option of NixOS', 'nixos', `${NIXOS} ${RPI} environment.etcs.x.text = ""; }`, /no option environment\.etcs/],
  [
    '(stand-in) a wrong type for NixOS',
    'nixos',
    `${NIXOS} ${RPI} systemd.tmpfiles.rules = "d /x"; }`,
    /systemd\.tmpfiles\.rules must be a list of strings/,
  ],
]
for (const [what, kind, module, message] of REFUSED) {
  test(`refused: ${what}`, async () => {
    const expression = `(import ${project.stub}/eval.nix { }).${kind} [ (${module}) ]`
    let answer: unknown
    try {
      answer = await evaluate(project, expression)
    } catch (error) {
      assert.match((error as Error).message, message)
      return
    }
    assert.unreachable(`it is taken: ${JSON.stringify(answer)}`)
  })
}

/**
 * Each makes an assertion fail, whose text has the way out: a module's text after the head, and
 * what the messages must say.
 */
const FAILED: [what: string, kind: 'nixos' | 'home', module: string, messages: RegExp[]][] = [
  ['all is well on NixOS', 'nixos', `${NIXOS} ${RPI} }`, []],
  ['all is well with Home Manager', 'home', `${HOME} ${RPI} }`, []],
  ['all is well on the box', 'nixos', `${BOX} services.nix-lan.box.users = [ "pi" ]; }`, []],
  ['no cache', 'home', `${HOME} }`, [/has no cache; add one: services\.nix-lan\.caches\.rpi\.host = "rpi\.local"/]],
  [
    'a name that is no name',
    'nixos',
    `${NIXOS} services.nix-lan.caches.Rpi_.host = "x"; }`,
    [/caches\.Rpi_: the name of a cache may have.*call it rpi/],
  ],
  [
    'a name that is too long',
    'home',
    `${HOME} services.nix-lan.caches.${'a'.repeat(41)}.host = "x"; }`,
    [/the name of a cache may have 40 characters/],
  ],
  [
    'neither host nor url',
    'home',
    `${HOME} services.nix-lan.caches.rpi.port = 22; }`,
    [/caches\.rpi has neither host nor url; add services\.nix-lan\.caches\.rpi\.host = /],
  ],
  [
    'both host and url',
    'home',
    `${HOME} ${RPI} services.nix-lan.caches.rpi.url = "http://x"; }`,
    [/caches\.rpi has both host and url; keep host/],
  ],
  [
    'url and port',
    'home',
    `${HOME} services.nix-lan.caches.n = { url = "http://x"; port = 1; ssh = "y"; }; }`,
    [/caches\.n has a url, with which ssh, port can't be used; remove that/],
  ],
  ['no user', 'nixos', `${NIXOS.replace('user = "alice";', '')} ${RPI} }`, [/user is not set.*Say services\.nix-lan\.user = "alice"/]],
  ['a user whom NixOS does not know', 'nixos', `${NIXOS} ${RPI} }`, []],
  [
    'two keys of one name',
    'nixos',
    `${NIXOS} ${RPI} nix.settings.trusted-public-keys = [ "old-1:${KEY}" "old-1:${KEY.replace('6', '7')}" ]; }`,
    [/several keys called old-1, and Nix believes only the first of one name/],
  ],
  [
    'two keys of one name on the box, one of them extra',
    'nixos',
    `${BOX} services.nix-lan.box.trustedPublicKeys = [ "old-1:${KEY}" ]; nix.settings.extra-trusted-public-keys = "old-1:${KEY.replace('6', '7')}"; }`,
    [/several keys called old-1/],
  ],
  ['one key twice', 'nixos', `${NIXOS} ${RPI} nix.settings.trusted-public-keys = [ "old-1:${KEY}" "old-1:${KEY}" ]; }`, []],
  [
    'linger for a user whom NixOS does not know',
    'nixos',
    `${NIXOS} ${RPI} services.nix-lan.linger = true; }`,
    [/set linger to false, and once run: loginctl enable-linger alice/],
  ],
  ['linger', 'nixos', `${NIXOS} ${RPI} services.nix-lan.linger = true; users.users.alice.isNormalUser = true; }`, []],
  ['a daemon that is not root', 'nixos', `${NIXOS} ${RPI} nix.daemonUser = "nix"; }`, [/nix\.daemonUser is nix/]],
  [
    'secret-key-files as text',
    'nixos',
    `${NIXOS} ${RPI} nix.settings.secret-key-files = "/a"; }`,
    [/write a list: nix\.settings\.secret-key-files = \[ "\/a" \];/],
  ],
  ['secret-key-files as a list', 'nixos', `${NIXOS} ${RPI} nix.settings.secret-key-files = [ "/a" ]; }`, []],
  [
    'another post-build-hook: the option for it',
    'nixos',
    `${NIXOS} ${RPI} nix.settings.post-build-hook = "/mine"; }`,
    [/write instead: services\.nix-lan\.extraHooks = \[ "\/mine" \];/],
  ],
  ['no host name', 'nixos', `${NIXOS} ${RPI} networking.hostName = ""; }`, []],
  ['a box without Nix managed', 'nixos', `${BOX} nix.enable = false; }`, [/services\.nix-lan\.box needs NixOS to manage Nix/]],
  [
    'a box that forwards nothing at all',
    'nixos',
    `${BOX} services.openssh.settings.DisableForwarding = true; }`,
    [/set services\.openssh\.settings\.DisableForwarding = false/],
  ],
  ['a box that leaves it to sshd', 'nixos', `${BOX} services.openssh.settings.AllowStreamLocalForwarding = null; }`, []],
  ['a box that says yes', 'nixos', `${BOX} services.openssh.settings.AllowStreamLocalForwarding = true; }`, []],
  [
    'a box that says no',
    'nixos',
    `${BOX} services.openssh.settings.AllowStreamLocalForwarding = false; }`,
    [/AllowStreamLocalForwarding = "local"/],
  ],
  [
    "a config.toml of one's own",
    'home',
    `${HOME} ${RPI} xdg.configFile."nix-lan/config.toml".text = "x"; }`,
    [/xdg\.configFile\."nix-lan\/config\.toml" is written by services\.nix-lan/],
  ],
  ['Nix not managed', 'nixos', `${NIXOS} ${RPI} nix.enable = false; }`, [/nix\.enable is false; set it to true/]],
  ['a box without sshd', 'nixos', `${BOX} services.openssh.enable = false; }`, [/services\.openssh\.enable is false; set it to true/]],
  [
    'a box that forwards nothing',
    'nixos',
    `${BOX} services.openssh.settings.AllowStreamLocalForwarding = "no"; }`,
    [/set services\.openssh\.settings\.AllowStreamLocalForwarding = "local"/],
  ],
  [
    'a box that forwards only the other way',
    'nixos',
    `${BOX} services.openssh.settings.AllowStreamLocalForwarding = "remote"; }`,
    [/AllowStreamLocalForwarding/],
  ],
  [
    'a box user who may not',
    'nixos',
    `${BOX} services.nix-lan.box.users = [ "pi" ]; nix.settings.allowed-users = [ "@wheel" ]; }`,
    [/pi may not use the nix-daemon here; set nix\.settings\.allowed-users = \[ "pi" \]/],
  ],
  [
    'a box user who may, by a group',
    'nixos',
    `${BOX} services.nix-lan.box.users = [ "pi" ]; users.users.pi.group = "pi"; nix.settings.allowed-users = [ "@pi" ]; }`,
    [],
  ],
]
for (const [what, kind, module, messages] of FAILED) {
  test(`assertions: ${what}`, async () => {
    // Only the assertions, as NixOS does: it evaluates the rest when they hold.
    const all = `((import ${project.stub}/eval.nix { }).${kind}Config [ (${module}) ]).assertions`
    const failed = (await evaluate(project, `map (one: one.message) (builtins.filter (one: !one.assertion) ${all})`)) as string[]
    assert.is(failed.length, messages.length, failed.join('\n'))
    for (const [i, message] of messages.entries()) assert.match(failed[i] ?? '', message)
  })
}

/** Each is allowed, with a warning that has the way out. */
const WARNED: [what: string, kind: 'nixos' | 'home', module: string, warnings: RegExp[]][] = [
  ['nothing', 'nixos', `${NIXOS} ${RPI} }`, []],
  ['nothing on the box', 'nixos', `${BOX} services.nix-lan.box.users = [ "pi" ]; users.users.pi.isNormalUser = true; }`, []],
  [
    'substituters = mkForce',
    'nixos',
    `${NIXOS} ${RPI} nix.settings.substituters = lib.mkForce [ "https://x" ]; }`,
    [/substituters lacks the cache/],
  ],
  [
    'nix.settings = mkForce',
    'nixos',
    `${NIXOS} ${RPI} nix.settings = lib.mkForce { }; }`,
    [/substituters lacks the cache/, /secret-key-files lacks \/etc\/nix\/nix-lan\.secret/, /post-build-hook is not that of nix-lan/],
  ],
  [
    'another hook by mkForce',
    'nixos',
    `${NIXOS} ${RPI} nix.settings.post-build-hook = lib.mkForce "/mine"; }`,
    [/post-build-hook is not that of nix-lan.*use services\.nix-lan\.extraHooks/],
  ],
  [
    'extraOptions',
    'nixos',
    `${NIXOS} ${RPI} nix.extraOptions = "cores = 1\\n  post-build-hook = /mine\\nsecret-key-files=/a\\nextra-substituters = https://y\\n"; }`,
    [/extraOptions sets post-build-hook once more/, /extraOptions sets secret-key-files once more.*use nix\.settings\.secret-key-files/],
  ],
  [
    "the box's keys lost by mkForce",
    'nixos',
    `${BOX} services.nix-lan.box.trustedPublicKeys = [ "a-1:${KEY}" ]; nix.settings.trusted-public-keys = lib.mkForce [ "b-1:${KEY}" ]; }`,
    [/box: nix\.settings\.trusted-public-keys lacks a key of services\.nix-lan\.box\.trustedPublicKeys/],
  ],
  [
    "the box's keys set once more by extraOptions; what only adds is no matter",
    'nixos',
    `${BOX} nix.extraOptions = "extra-trusted-public-keys = c-1:${KEY}\\ntrusted-public-keys = b-1:${KEY}\\nsecret-key-files = /a"; }`,
    [/box: nix\.extraOptions sets trusted-public-keys once more.*use services\.nix-lan\.box\.trustedPublicKeys/],
  ],
  ['a box user whom NixOS does not know', 'nixos', `${BOX} services.nix-lan.box.users = [ "pii" ]; }`, [/pii isn't one of users\.users/]],
]
for (const [what, kind, module, warnings] of WARNED) {
  test(`warnings: ${what}`, async () => {
    const found = `let c = (import ${project.stub}/eval.nix { }).${kind}Config [ (${module}) ]; in { inherit (c) warnings; failed = builtins.filter (one: !one.assertion) c.assertions; }`
    const answer = (await evaluate(project, found)) as { warnings: string[]; failed: unknown[] }
    assert.equal(answer.failed, [])
    assert.is(answer.warnings.length, warnings.length, answer.warnings.join('\n'))
    for (const [i, warning] of warnings.entries()) assert.match(answer.warnings[i] ?? '', warning)
  })
}

/**
 * What only nix-lan's own parser refuses, when the file is built: a module's text after the head,
 * and what the build says.
 */
const UNBUILT: [what: string, kind: 'nixos' | 'home', module: string, file: string, message: RegExp][] = [
  [
    'a setting that is not there',
    'nixos',
    `${NIXOS} ${RPI} services.nix-lan.settings.cache.rpi.prot = 22; }`,
    'environment.etc',
    /config\.toml:\d+: cache\.rpi\.prot: unknown key; did you mean port\?/,
  ],
  [
    'a URL without a host',
    'home',
    `${HOME} services.nix-lan.caches.n.url = "http:///x"; }`,
    'xdg.configFile',
    /config\.toml:\d+: cache\.n\.url: .*must go on with a host/,
  ],
  [
    'a destination without a host, and no package',
    'home',
    `${HOME} ${RPI} services.nix-lan.package = null; services.nix-lan.caches.rpi.ssh = "pi@"; }`,
    'xdg.configFile',
    /config\.toml:\d+: cache\.rpi\.ssh: /,
  ],
]
for (const [what, kind, module, files, message] of UNBUILT) {
  test(`not built: ${what}`, async () => {
    const expression = `((import ${project.stub}/eval.nix { }).${kind}Config [ (${module}) ]).${files}."nix-lan/config.toml".source`
    const built = await project.world.run('root', 'nix-build', ['--no-out-link', '--expr', expression], { env: LOCAL })
    assert.is.not(built.code, 0)
    assert.match(built.stderr, message)
  })
}

test("extraHooks: nix-lan's goes first, each is called with what Nix says, and the first that fails is the last", async () => {
  for (const [name, code] of [
    ['first', 0],
    ["it's second", 3],
    ['third', 0],
  ] as const) {
    const text = `#!/bin/sh\necho "${name}: $OUT_PATHS" >>/opt/hooks/log\nexit ${code}\n`
    project.world.write(`/opt/hooks/${name}`, text, { mode: 0o755 })
  }
  const hooks = ['first', "it's second", 'third'].map((name) => `"/opt/hooks/${name}"`).join(' ')
  const module = `${NIXOS} ${RPI} services.nix-lan.extraHooks = [ ${hooks} ]; }`
  const expression = `let c = (import ${project.stub}/eval.nix { }).nixosConfig [ (${module}) ];
    in (import ${project.stub}/pkgs.nix { system = "x86_64-linux"; }).writeScript "call" "#!/bin/sh\nexec \${c.nix.settings.post-build-hook}"`
  const call = await project.world.must('root', 'nix-build', ['--no-out-link', '--expr', expression], { env: LOCAL })
  assert.match(
    project.world.read((project.world.read(call).split(' ')[1] ?? '').trim()),
    /^#!\/bin\/sh\n\/nix\/store\/\S+\/post-build-hook\n/,
  )
  const called = await project.world.run('root', call, [], { env: { OUT_PATHS: '/nix/store/x' } })
  assert.is(called.code, 3, called.stderr)
  assert.is(project.world.read('/opt/hooks/log'), "first: /nix/store/x\nit's second: /nix/store/x\n")
})

test('the units stay the same from version to version, and a switch that finds them changed lets them run on', async () => {
  const expression = `let
      eval = import ${project.stub}/eval.nix { };
      pkgs = import ${project.stub}/pkgs.nix { system = "x86_64-linux"; };
      other = pkgs.callPackage ${project.folder}/nix/package.nix { nodejs-slim = pkgs.nodejs // { version = "24.0.0"; }; };
      unitsOf = package: (eval.nixosConfig [ (${NIXOS} ${RPI} }) { services.nix-lan = package; } ]).systemd.packages;
    in unitsOf { } ++ unitsOf { package = other; }`
  const built = await project.world.must('root', 'nix-build', ['--no-out-link', '--expr', expression], { env: LOCAL })
  const [one = '', another = ''] = built.split('\n')
  assert.is.not(one, another)
  for (const unit of ['user', 'system'].flatMap((folder) => readdirSync(`dist/systemd/${folder}`).map((name) => `${folder}/${name}`))) {
    const text = project.world.read(`${one}/lib/systemd/${unit}`)
    assert.is(project.world.read(`${another}/lib/systemd/${unit}`), text, unit)
    assert.not.match(text.replace(/\/nix\/store\/[^ ]*-coreutils-[^ ]*\/bin\/(touch|rm) /g, ''), '/nix/store/', unit)
    if (unit.endsWith('.service')) assert.match(text, /^\[Service\]\n(#.*\n)*X-RestartIfChanged=false\n/m, unit)
  }
})

test('the unit texts of the lab, made with the real library, still say what the module says', async () => {
  interface Unit {
    path?: string[]
    wantedBy?: string[]
    after?: string[]
    overrideStrategy?: string
    [section: string]: unknown
  }
  const { systemd, system } = (await evaluate(
    project,
    `let all = (import ${project.stub}/eval.nix { }).nixos [ ${project.folder}/nix/examples/nixos.nix ]; in { inherit (all) systemd system; }`,
  )) as {
    systemd: {
      services: Record<string, Unit>
      sockets: Record<string, Unit>
      user: { timers: Record<string, Unit> }
      tmpfiles: { rules: string[] }
    }
    system: { activationScripts: { 'nix-lan': { text: string } } }
  }
  const golden = readFileSync('test/lab/nixos/units.txt', 'utf8')
  const parts = golden
    .split(/^==> /m)
    .slice(1)
    .map((part): [string, string] => [part.slice(0, part.indexOf('\n')), part.slice(part.indexOf('\n') + 1)])
  const texts = new Map(parts)
  // The real escapeShellArg quotes only what needs it.
  const named = (text: string): string =>
    text
      .replace(/\/nix\/store\/[a-z0-9]{32}-/g, '/nix/store/HASH-')
      .replace(/nix-lan-\d+\.\d+\.\d+/g, 'nix-lan-VERSION')
      .replaceAll("'", '')
  const units = [
    ...Object.entries(systemd.services).map(([name, unit]) => [`system/${name}.service`, unit, 'serviceConfig'] as const),
    ...Object.entries(systemd.sockets).map(([name, unit]) => [`system/${name}.socket`, unit, 'socketConfig'] as const),
    ...Object.entries(systemd.user.timers).map(([name, unit]) => [`user/${name}.timer`, unit, 'timerConfig'] as const),
  ]
  for (const [name, unit, section] of units) {
    const text = texts.get(name) ?? texts.get(`${name}.d/overrides.conf`) ?? ''
    const said = { ...(unit.unitConfig as object), ...(unit[section] as object) }
    for (const [key, value] of Object.entries(said))
      for (const one of [value].flat()) assert.match(text, `\n${key}=${named(String(one))}\n`, `${name}: ${key}`)
    assert.is(/^WantedBy=(.*)$/m.exec(text)?.[1] ?? '', (unit.wantedBy ?? []).join(' '), name)
    assert.is(/^After=(.*)$/m.exec(text)?.[1] ?? '', (unit.after ?? []).join(' '), name)
    for (const path of unit.path ?? []) assert.match(text, `${named(path)}/bin:`, name)
  }
  const wanted = [...units.map(([name]) => name), 'activate', 'script/nix-lan-key', 'tmpfiles'].sort()
  assert.equal([...texts.keys()].map((name) => name.replace('.d/overrides.conf', '')).sort(), wanted)
  assert.is((texts.get('activate') ?? '').trim(), named(system.activationScripts['nix-lan'].text).trim())
  assert.is((texts.get('tmpfiles') ?? '').trim(), named(systemd.tmpfiles.rules.join('\n')))
})

test('Lix: a process of systemd for each connection has bash, and waits for the key; others have no such unit', async () => {
  for (const [pname, units] of [
    ['lix', ['nix-daemon', 'nix-daemon@']],
    ['nix', ['nix-daemon']],
  ] as const) {
    const nix = `nix.package = (import ${project.stub}/pkgs.nix { system = "x86_64-linux"; }).nix // { pname = "${pname}"; };`
    const services = (await evaluate(
      project,
      `((import ${project.stub}/eval.nix { }).nixos [ (${NIXOS} ${RPI} ${nix} }) ]).systemd.services`,
    )) as Record<string, { path: string[]; after: string[] }>
    const daemons = Object.keys(services).filter((name) => name.startsWith('nix-daemon'))
    assert.equal(daemons, units)
    for (const unit of daemons) assert.match(services[unit]?.path.join() ?? '', /-bash-/)
    if (pname === 'lix') assert.equal(services['nix-daemon@']?.after, ['nix-lan-key.service'])
  }
})

test('stop.sh: no new work, then what is being fetched, then the tunnels; nothing where the user or the machine is going anyway', async () => {
  const { world } = project
  const fake = (name: string, text: string): void => world.write(`/opt/fake/${name}`, `#!/bin/sh\n${text}\n`, { mode: 0o755 })
  fake('setpriv', 'while :; do case $1 in --*) shift ;; *) break ;; esac; done\nexec "$@"')
  fake('systemctl', 'case $* in is-system-running) cat /opt/fake/state ;; *) echo "$XDG_RUNTIME_DIR $*" >>/opt/fake/log; exit 1 ;; esac')
  fake('pgrep', 'echo "pgrep $*" >>/opt/fake/log\n[ "$(grep -c pgrep /opt/fake/log)" = 1 ]')
  fake('sleep', 'echo "sleep $*" >>/opt/fake/log')
  const stop = async (): Promise<string> => {
    world.write('/opt/fake/log', '')
    const env = { PATH: '/opt/fake:/usr/bin:/bin' }
    await world.must('root', 'bash', [`${project.folder}/nix/stop.sh`, 'alice'], { env })
    return world.read('/opt/fake/log')
  }
  world.write('/opt/fake/state', 'running\n')
  assert.is(await stop(), '', 'nobody is logged in')
  world.write('/run/user/1000/systemd/private', '')
  const user = '/run/user/1000 --user'
  assert.is(
    await stop(),
    [
      `${user} stop nix-lan-check* nix-lan-network* nix-lan-built@* nix-lan-upload@* nix-lan-gc@*`,
      'pgrep -f /nix-lan-connect .*/nix-lan/',
      'sleep 1',
      'pgrep -f /nix-lan-connect .*/nix-lan/',
      `${user} stop nix-lan@*.target nix-lan-tunnel@*.service`,
      `${user} reset-failed nix-lan*`,
      '',
    ].join('\n'),
  )
  world.write('/opt/fake/state', 'stopping\n')
  assert.is(await stop(), '', 'the machine is going down')
})

test('assertions: Home Manager on a Mac', async () => {
  const found = `((import ${project.stub}/eval.nix { system = "aarch64-darwin"; }).homeConfig [ (${HOME} ${RPI} }) ]).assertions`
  const failed = (await evaluate(project, `builtins.filter (one: !one.assertion) ${found}`)) as { message: string }[]
  assert.is(failed.length, 1)
  assert.match(failed[0]?.message ?? '', 'services.nix-lan needs Linux')
})

test('built: a file for a user whom the machine that builds does not know, in a home that it does not know', async () => {
  const module = `${NIXOS.replaceAll('"alice"', '"no-such-user"')} ${RPI} services.nix-lan.caches.rpi.env-file = "~/.x"; }`
  const expression = `((import ${project.stub}/eval.nix { }).nixosConfig [ (${module}) ]).environment.etc."nix-lan/config.toml".source`
  const built = await project.world.must('root', 'nix-build', ['--no-out-link', '--expr', expression], { env: LOCAL })
  assert.match(project.world.read(built), /^user = "no-such-user"$/m)
})

test.run()

/** Compares with a golden file, or with UPDATE=1 writes it. */
function golden(file: string, found: string): void {
  const text = found.replaceAll(`-nix-lan-${VERSION}`, '-nix-lan-VERSION') // a release must leave them fresh
  const path = `${GOLDEN}/${file}`
  if (process.env.UPDATE === '1') {
    mkdirSync(GOLDEN, { recursive: true })
    writeFileSync(path, text)
  }
  assert.is(text, readFileSync(path, 'utf8'), `${path} differs; if it should: UPDATE=1 npm test -- modules`)
}
