// What is released: the npm package, installed globally, and the tarball. Neither needs the
// network, since dist/ is in them as it is.
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { VERSION } from '../../scripts/cli/version.ts'

const test = suite('release')
const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-release-test-'))
test.after(() => rmSync(TMP, { recursive: true }))

interface Manifest {
  version: string
  man: string[]
  bin: Record<string, string>
}
const manifest = JSON.parse(readFileSync('package.json', 'utf8')) as Manifest
const run = (program: string, args: string[], cwd = TMP): string =>
  execFileSync(program, args, {
    cwd,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, npm_config_offline: 'true' },
  })

/** A copy of the sources as git has them and as they are now, in which a release may write. */
function copy(name: string): string {
  const folder = join(TMP, name)
  run('git', ['clone', '--quiet', '--no-hardlinks', resolve('.'), folder])
  const changed = run('git', ['ls-files', '--modified', '--others', '--exclude-standard'], resolve('.')).split('\n')
  for (const file of changed.filter((path) => path && existsSync(path))) run('cp', ['--parents', file, folder], resolve('.'))
  run('cp', ['-a', realpathSync('node_modules'), join(folder, 'node_modules')]) // a link would change the paths that bundles name
  return folder
}

/** The files of ours that the README links to. */
function linked(): string[] {
  const found = [...readFileSync('README.md', 'utf8').matchAll(/\]\((?!https?:|#)([^)#]+)/g)].map(([, to = '']) => to)
  assert.ok(found.length > 3)
  return found
}

test('package.json names every man page of dist/, and nothing else', () => {
  const pages = ['man1', 'man5'].flatMap((section) => readdirSync(`dist/man/${section}`).map((page) => `dist/man/${section}/${page}`))
  assert.equal([...manifest.man].sort(), pages.sort())
})

test('npm pack, installed globally: commands and man pages are there, and work', () => {
  const [packed = ''] = run('npm', ['pack', '--silent', '--pack-destination', TMP], resolve('.')).trim().split('\n').slice(-1)
  const prefix = join(TMP, 'prefix')
  run('npm', ['install', '--global', '--silent', '--no-audit', '--no-fund', '--prefix', prefix, join(TMP, packed)])
  for (const name of Object.keys(manifest.bin)) assert.is(run(join(prefix, 'bin', name), ['--version']), `${name} ${VERSION}\n`)
  for (const page of manifest.man) assert.ok(existsSync(join(prefix, 'share/man', page.replace('dist/man/', ''))), page)
  const folder = join(prefix, 'lib/node_modules/nix-lan')
  assert.not(existsSync(join(folder, 'dist/demo')))
  for (const to of linked()) assert.ok(existsSync(join(folder, to)), `README.md links to ${to}`)
})

test('the tarball: dist/ byte for byte, the papers, nothing else; the same bytes each time', () => {
  const sources = copy('tarball')
  const make = (): Buffer => {
    run('sh', ['build/start.sh', 'release.ts'], sources)
    return readFileSync(join(sources, `nix-lan-${VERSION}.tar.gz`))
  }
  const first = make()
  assert.ok(first.equals(make()))
  run('tar', ['xzf', join(sources, `nix-lan-${VERSION}.tar.gz`)])
  const folder = join(TMP, `nix-lan-${VERSION}`)
  assert.equal(readdirSync(folder).sort(), [
    'CHANGELOG.md',
    'CONTRIBUTING.md',
    'LICENSE',
    'README.md',
    'SECURITY.md',
    'dist',
    'docs',
    'nix',
  ])
  for (const to of linked()) assert.ok(existsSync(join(folder, to)), `README.md links to ${to}`)
  const { stdout } = spawnSync('diff', ['-r', resolve('dist'), join(folder, 'dist')], { encoding: 'utf8' })
  assert.is(stdout, `Only in ${resolve('dist')}: demo\n`)
  assert.is(statSync(join(folder, 'dist/nix-lan')).mode & 0o777, 0o755)
  assert.is(run(join(folder, 'dist/nix-lan'), ['--version']), `nix-lan ${VERSION}\n`)
})

test('npm version leaves nothing behind that says the old one', () => {
  const sources = copy('version')
  const changelog = readFileSync(join(sources, 'CHANGELOG.md'), 'utf8').replace(/^## .*$/m, '## Unreleased')
  writeFileSync(join(sources, 'CHANGELOG.md'), changelog)
  const git = (...args: string[]): string => run('git', ['-c', 'user.name=x', '-c', 'user.email=x@example.org', ...args], sources)
  git('add', '--all')
  git('commit', '--quiet', '--allow-empty', '--message=now')
  run('npm', ['version', '--no-git-tag-version', '7.8.9'], sources)
  assert.is(run(join(sources, 'dist/nix-lan'), ['--version']), 'nix-lan 7.8.9\n')
  run('npm', ['run', 'build', '--', '--check'], sources)
  assert.match(readFileSync(join(sources, 'CHANGELOG.md'), 'utf8'), /^## 7\.8\.9, \d{4}-\d\d-\d\d$/m)
  const stale = spawnSync(
    'git',
    ['grep', '--files-with-matches', '--fixed-strings', VERSION, '--', ':!CHANGELOG.md', ':!package-lock.json', ':!test/unit'],
    {
      cwd: sources,
      encoding: 'utf8',
    },
  )
  assert.is(stale.stdout, '')
})

test.run()
