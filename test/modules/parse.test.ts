// Every .nix file of the project is read by Nix 2.3, 2.8, 2.26 and 2.34; and the flake, from 2.8
// on, is what `nix flake` thinks a flake is.
import { readFileSync, writeFileSync } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { run } from '../../scripts/system/exec.ts'
import { needs } from '../lib/needs.ts'
import type { Result } from '../lib/processes.ts'
import { createProject, evaluate, LOCAL, NIXES, nixFiles, type Project, textOf } from './project.ts'

for (const { nix, version } of NIXES) {
  const wanted = nix === 'host' ? ['root', 'nix', 'python3'] : ['root', 'roots', 'python3']
  const test = needs(suite(`Nix ${version}`), ...wanted)
  let project: Project

  test.before(async () => {
    project = await createProject(nix)
  })
  test.after(() => project?.world.close())

  test('is the version that is meant', async () => {
    assert.match(await project.world.must('root', 'nix', ['--version']), new RegExp(`\\(Nix\\) ${version.replace('.', '\\.')}\\.`))
  })

  test('every .nix file parses', async () => {
    const files = nixFiles()
    assert.ok(files.length > 15, `only ${files.length} files`)
    const parse = ['--parse', ...files.map((file) => `${project.folder}/${file}`)]
    await project.world.must('root', 'nix-instantiate', parse, { env: LOCAL })
  })

  test('a file that is no Nix does not', async () => {
    project.world.write('/opt/broken.nix', '{ a = 1 }\n')
    const broken = await project.world.run('root', 'nix-instantiate', ['--parse', '/opt/broken.nix'], { env: LOCAL })
    assert.match(broken.stderr, /syntax error/)
    assert.is(broken.code, 1)
  })

  test('default.nix is the package', async () => {
    const pkgs = `import ${project.stub}/pkgs.nix { system = "x86_64-linux"; }`
    const args = ['--expr', `import ${project.folder} { pkgs = ${pkgs}; }`]
    assert.match(await project.world.must('root', 'nix-instantiate', args, { env: LOCAL }), /-nix-lan-\d+\.\d+\.\d+\.drv$/)
  })

  test('dist-from-source.nix finds each package of package-lock.json in the registry', async () => {
    const pkgs = `(import ${project.stub}/pkgs.nix { system = "x86_64-linux"; })`
    const args = `{ registry = "https://npm.invalid/"; importNpmLock = { __functor = _: given: toString (map (one: one.resolved or "") (builtins.attrValues given.packageLock.packages)); npmConfigHook = ""; }; }`
    const urls = await evaluate(project, `(${pkgs}.callPackage ${project.folder}/nix/dist-from-source.nix ${args}).npmDeps`)
    const all = String(urls).trim().split(' ')
    assert.is(all.length, Object.keys(JSON.parse(textOf('package-lock.json')).packages).length - 1)
    for (const url of all) assert.match(url, /^https:\/\/npm\.invalid\/(@[a-z-]+\/)?([a-z0-9-]+)\/-\/\2-\d[^/]*\.tgz$/)
  })

  test('the virtual machine test: its nodes are configurations without a fault, its script is Python', async () => {
    const pkgs = `import ${project.stub}/pkgs.nix { system = "x86_64-linux"; }`
    const script = await evaluate(project, `((${pkgs}).testers.runNixOSTest ${project.folder}/nix/test.nix).testScript`)
    const compiled = await run('python3', ['-c', 'import ast, sys; ast.parse(sys.stdin.read())'], { input: String(script) })
    assert.is(compiled.code, 0, compiled.stderr)
    assert.match(String(script), /^laptop\.start\(\)$/m)
  })

  if (version !== '2.3') {
    const allSystems = version === '2.8' ? [] : ['--all-systems'] // 2.8 has no such option, and always means all
    test('nix flake check', async () => {
      const checked = await flake(project, 'check', '--no-build', ...allSystems)
      assert.is(checked.code, 0, checked.stderr)
      // homeModules has no meaning for Nix itself
      const warnings = checked.stderr.split('\n').filter((line) => line.startsWith('warning:') && !/lock file|homeModules/.test(line))
      assert.equal(
        warnings,
        warnings.filter((line) => /--all-systems/.test(line)),
      )
    })

    test('nix flake show', async () => {
      const shown = await flake(project, 'show', '--json', ...allSystems)
      assert.is(shown.code, 0, shown.stderr)
      assert.equal(outputs(JSON.parse(shown.stdout)), OUTPUTS)
    })

    test('nix flake check evaluates the configurations of checks.nix, and names the one that is amiss', async () => {
      const file = `${project.folder}/nix/nixos.nix`
      const good = readFileSync(file, 'utf8')
      assert.ok(good.includes('sshdValue "DisableForwarding" "no" == "no"'))
      writeFileSync(file, good.replace('sshdValue "DisableForwarding" "no" == "no"', 'true'))
      const checked = await flake(project, 'check', '--no-build', ...allSystems)
      writeFileSync(file, good)
      assert.is(checked.code, 1)
      assert.match(checked.stderr, /not refused: DisableForwarding = false/)
    })

    test('nix flake check refuses a flake with a mistake in it', async () => {
      const file = `${project.folder}/flake.nix`
      const good = readFileSync(file, 'utf8')
      writeFileSync(file, good.replace('nix-lan = package pkgs;', 'nix-lan = { };'))
      const checked = await flake(project, 'check', '--no-build', ...allSystems)
      writeFileSync(file, good)
      assert.is(checked.code, 1)
      assert.match(checked.stderr, /packages\.[a-z0-9_-]+\.nix-lan/)
    })
  }

  test.run()
}

const SYSTEMS = ['aarch64-linux', 'x86_64-linux']
const FOR_A_SYSTEM: Record<string, string> = {
  'apps/default': 'app',
  'apps/nix-lan': 'app',
  'apps/nix-lan-run': 'app',
  'checks/modules': 'derivation',
  'checks/package': 'derivation',
  'checks/vm': 'derivation',
  'devShells/default': 'derivation',
  'packages/default': 'derivation',
  'packages/nix-lan': 'derivation',
}
/** What the flake has: a line for each output that Nix knows the type of. */
const OUTPUTS = [
  ...Object.entries(FOR_A_SYSTEM).flatMap(([path, type]) => SYSTEMS.map((system) => `${path.replace('/', `/${system}/`)}: ${type}`)),
  'homeModules: unknown',
  'nixosModules/default: nixos-module',
  'overlays/default: nixpkgs-overlay',
].sort()

/** Such lines of what `nix flake show --json` prints. */
function outputs(shown: object, path = ''): string[] {
  if ('type' in shown) return [`${path}: ${shown.type}`]
  return Object.entries(shown)
    .flatMap(([name, inside]) => outputs(inside, path ? `${path}/${name}` : name))
    .sort()
}

/** Runs `nix flake`, with the stand-in in the place of nixpkgs. */
function flake(project: Project, ...args: string[]): Promise<Result> {
  const input = ['--override-input', 'nixpkgs', `path:${project.stub}`, '--no-write-lock-file']
  return project.world.run('root', 'nix', ['flake', ...args, `path:${project.folder}`, ...input], { env: { ...LOCAL, HOME: '/root' } })
}
