// nix/package.nix built for real, and what it installs used as Nix and systemd would use it. The
// stand-in's builder runs the same install phase that nixpkgs' stdenv would.
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../lib/needs.ts'
import { accepts, DAEMON_SOCKET, GREETING, nixConf } from '../nix/world.ts'
import { below, createProject, evaluate, LOCAL, NIXES, type Project, textOf } from './project.ts'

const VERSION = JSON.parse(textOf('package.json')).version
/** What is for people and for Nix; the hook and the dispatcher are named by their path in lib/. */
const COMMANDS = readdirSync('dist').filter((name) => name.startsWith('nix-lan') && name !== 'nix-lan-dispatcher')
/** All that find a JavaScript runtime. */
const PROGRAMS = [...COMMANDS, 'nix-lan-dispatcher', 'post-build-hook']

/** What callPackage makes of package.nix, as far as nixpkgs reads it. */
interface Made {
  meta: { mainProgram?: string; homepage?: string; changelog?: string }
  strictDeps: boolean
  tests: object
}

for (const { nix, version } of NIXES.filter((one) => one.version !== '2.3')) {
  const test = needs(suite(`package, Nix ${version}`), ...(nix === 'host' ? ['root', 'nix'] : ['root', 'roots']))
  let project: Project
  let out = ''
  const list = (folder: string): string[] => readdirSync(project.world.path(`${out}/${folder}`)).sort()
  const read = (file: string): string => readFileSync(project.world.path(`${out}/${file}`), 'utf8')

  test.before(async () => {
    project = await createProject(nix)
    out = await build(project)
  })
  test.after(() => project?.world.close())

  test('has the commands in bin, and all files side by side in lib', () => {
    assert.equal(list('bin'), COMMANDS)
    assert.equal(
      below(project.world.path(`${out}/lib/nix-lan`)),
      below('dist').filter((file) => file !== 'demo'),
    )
    for (const program of PROGRAMS) {
      const { mode } = statSync(project.world.path(`${out}/lib/nix-lan/${program}`))
      assert.is(mode & 0o777, 0o555, program)
    }
    assert.is(read('share/doc/nix-lan/LICENSE'), textOf('LICENSE'))
  })

  test('the text of the programs is that of dist, but for the lines with the runtime and perl', () => {
    const perl = /^nix_lan_perl='\/nix\/store\/[a-z0-9]{32}-perl-5\.40\/bin\/perl'$/m
    const node = /^nix_lan_pinned='\/nix\/store\/[a-z0-9]{32}-nodejs-slim-20\.0\.0\/bin\/node'$/m
    for (const program of PROGRAMS) {
      const text = read(`lib/nix-lan/${program}`)
      assert.match(text, node, program)
      const same = text.replace(node, "nix_lan_pinned=''").replace(perl, "nix_lan_perl=''")
      assert.is(same, textOf(`dist/${program}`), program)
      assert.is(perl.test(text), program === 'nix-lan-connect', program)
    }
  })

  test('the programs run by their links, with nothing in the environment', async () => {
    for (const command of COMMANDS) {
      const said = await project.world.must('alice', 'env', ['-i', `${out}/bin/${command}`, '--version'])
      assert.is(said, `${command} ${VERSION}`)
    }
    for (const program of ['post-build-hook', 'nix-lan-dispatcher']) {
      const said = await project.world.must('root', 'env', ['-i', `${out}/lib/nix-lan/${program}`, '--version'])
      assert.is(said, `${program} ${VERSION}`)
    }
  })

  test('the units are those of dist, and start the programs of the package', () => {
    const units = (folder: string): string[] =>
      ['user', 'system'].flatMap((of) => readdirSync(`${folder}/${of}`).map((unit) => `${of}/${unit}`))
    assert.equal(units(project.world.path(`${out}/lib/systemd`)).sort(), units('dist/systemd').sort())
    let started = 0
    for (const unit of units('dist/systemd')) {
      const text = read(`lib/systemd/${unit}`)
      const same = text.replaceAll(/\/nix\/store\/[^/]*-coreutils-[^/]*\/bin\//g, '/usr/bin/env ')
      assert.is(same, textOf(`dist/systemd/${unit}`).replaceAll('/usr/bin/env nix-lan', `${out}/bin/nix-lan`), unit)
      for (const [, program = ''] of text.matchAll(/^Exec\w+=[-@:+!]*(\S+)/gm)) {
        // /bin/sh is on every system; what it starts is looked for on the machine it runs on
        if (program === '/bin/sh' || /-coreutils-[^/]*\/bin\/(touch|rm)$/.test(program)) continue
        assert.ok(program.startsWith(`${out}/bin/`), `${unit} starts ${program}`)
        assert.ok(existsSync(project.world.path(program)), program)
        started += 1
      }
    }
    assert.ok(started >= 4, `only ${started} programs are started`)
  })

  test('man pages and completions are where man, bash, zsh and fish look', () => {
    const places: Record<string, string> = {
      'man/man1': 'man/man1',
      'man/man5': 'man/man5',
      'completions/bash': 'bash-completion/completions',
      'completions/zsh': 'zsh/site-functions',
      'completions/fish': 'fish/vendor_completions.d',
    }
    const kinds = ['man', 'completions'].flatMap((kind) => readdirSync(`dist/${kind}`).map((folder) => `${kind}/${folder}`))
    assert.equal(kinds.sort(), Object.keys(places).sort())
    for (const [from, to] of Object.entries(places)) {
      assert.equal(list(`share/${to}`), readdirSync(`dist/${from}`).sort())
      for (const file of list(`share/${to}`)) assert.is(read(`share/${to}/${file}`), textOf(`dist/${from}/${file}`))
    }
  })

  test('a unit that starts something else by /usr/bin/env ends the build', async () => {
    const unit = `${project.folder}/dist/systemd/user/nix-lan-check.service`
    const good = textOf('dist/systemd/user/nix-lan-check.service')
    project.world.write(unit, good.replace('/usr/bin/env nix-lan', '/usr/bin/env -S nix-lan'))
    const built = await project.world.run('root', 'nix-build', buildArguments(project), { env: LOCAL })
    project.world.write(unit, good)
    assert.is.not(built.code, 0)
    assert.match(built.stderr, /nix-lan: a unit starts something by \/usr\/bin\/env that it should not/)
  })

  test('the pinned runtime is the one that runs, whatever PATH has', async () => {
    const marked = await build(project, 'nodejs-slim = marked;')
    for (const program of PROGRAMS.filter((name) => name !== 'nix-lan-run')) {
      const said = await project.world.run('alice', `${marked}/lib/nix-lan/${program}`, ['--help'])
      assert.is(
        said.stdout,
        `marked --no-concurrent-recompilation --no-concurrent-sparkplug ${marked}/lib/nix-lan/${program} --help\n`,
        said.stderr,
      )
    }
  })

  test('a file without the line where the runtime belongs ends the build', async () => {
    const file = `${project.folder}/dist/nix-lan`
    const good = readFileSync(file)
    project.world.write(file, good.toString().replace("nix_lan_pinned=''", "nix_lan_pinned=''; :"))
    const built = await project.world.run('root', 'nix-build', buildArguments(project), { env: LOCAL })
    project.world.write(file, good.toString(), { mode: 0o755 })
    assert.is.not(built.code, 0)
    assert.match(built.stderr, /nix-lan: .*nix-lan has no line nix_lan_pinned='' where the runtime could be pinned/)
  })

  test('too old a Node ends the evaluation, and the message says what to do', async () => {
    const old = await project.world.run('root', 'nix-build', buildArguments(project, 'nodejs-slim = { version = "16.20.2"; };'), {
      env: LOCAL,
    })
    assert.is.not(old.code, 0)
    assert.match(old.stderr, /nix-lan needs Node 18\.19 or later, and this is 16\.20\.2: use nix-lan\.override/)
  })

  test('meta has what nixpkgs asks for, and names only a home that package.json has', async () => {
    const expression = `let pkgs = import ${project.stub}/pkgs.nix { system = "x86_64-linux"; };
        made = pkgs.callPackage ${project.folder}/nix/package.nix { tests.one = 1; }; in { inherit (made) meta strictDeps tests; }`
    const made = async (): Promise<Made> => (await evaluate(project, expression)) as Made
    const { meta, strictDeps, tests } = await made()
    assert.equal([meta.mainProgram, meta.homepage, meta.changelog, strictDeps, tests], ['nix-lan', undefined, undefined, true, { one: 1 }])
    const file = `${project.folder}/package.json`
    const good = readFileSync(file, 'utf8')
    assert.not.ok('homepage' in JSON.parse(good), 'nix-lan has a home now: this test changes')
    writeFileSync(file, JSON.stringify({ ...JSON.parse(good), homepage: 'https://example.org/nix-lan#readme' }))
    const { meta: at } = await made()
    writeFileSync(file, good)
    assert.is(at.homepage, 'https://example.org/nix-lan#readme')
    assert.is(at.changelog, `https://example.org/nix-lan/blob/v${VERSION}/CHANGELOG.md`)
  })

  test('Nix uses the hook and connect of the package: built, queued, and the box is an empty store', async () => {
    const { world } = project
    // As on NixOS: links in a stable place, and a daemon whose PATH has next to nothing in it (nix
    // up to 2.19 needs bash there).
    await world.must('root', 'mkdir', ['-p', '/run/current-system/sw'])
    await world.must('root', 'ln', ['-s', `${out}/bin`, '/run/current-system/sw/bin'])
    world.write('/etc/nix-lan/config.toml', 'user = "alice"\n[cache.rpi]\nhost = "rpi.invalid"\n')
    const substituter = 'ssh-ng://localhost?remote-program=/run/current-system/sw/bin/nix-lan-connect%20/run/user/1000/nix-lan/rpi.sock'
    const settings = { substituters: substituter, 'post-build-hook': `${out}/lib/nix-lan/post-build-hook` }
    world.write('/etc/nix/nix.conf', nixConf(settings))
    const bash = await world.must('root', 'nix-build', [...pkgsArguments(project), '--attr', 'bash', '--no-out-link'], { env: LOCAL })
    await world.must('root', `${out}/lib/nix-lan/post-build-hook`, ['--make-queue'])
    const daemon = world.start('root', 'env', ['-i', `PATH=${bash}/bin`, '/usr/bin/nix-daemon'])
    await accepts(world.path(DAEMON_SOCKET), daemon, GREETING)
    const built = await world.run('alice', 'nix-build', ['/opt/nix-lan/t.nix', '--no-out-link', '--argstr', 'name', 'packaged'])
    await daemon.stop()
    assert.is(built.code, 0, built.stderr)
    assert.not.match(built.stderr, /warning|error|unexpected/)
    const queued = readdirSync(world.path('/nix/var/nix/gcroots/nix-lan/queue/rpi'))
    assert.ok(queued.includes(built.stdout.trim().replace('/nix/store/', '')), `${built.stdout} not in ${queued}: ${built.stderr}`)
  })

  test.run()
}

/** Options for the stand-in's packages; `override` is Nix for what callPackage is given. */
function pkgsArguments(project: Project, override = ''): string[] {
  // a Node that only says how it was called
  const marked = `pkgs.stdenvNoCC.mkDerivation {
    pname = "node"; version = "20.0.0"; meta = { };
    installPhase = "mkdir -p $out/bin; printf '#!/bin/sh\\\\necho marked \\"$@\\"\\\\n' >$out/bin/node; chmod +x $out/bin/node";
  }`
  return [
    '--expr',
    `let pkgs = import ${project.stub}/pkgs.nix { system = builtins.currentSystem; }; marked = ${marked}; in
     pkgs // { nix-lan = pkgs.callPackage ${project.folder}/nix/package.nix { ${override} }; }`,
  ]
}

const buildArguments = (project: Project, override?: string): string[] => [
  ...pkgsArguments(project, override),
  '--attr',
  'nix-lan',
  '--no-out-link',
]

/** Builds the package; its path in the store. */
function build(project: Project, override?: string): Promise<string> {
  return project.world.must('root', 'nix-build', buildArguments(project, override), { env: LOCAL })
}
