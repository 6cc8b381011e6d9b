// npm run release: makes nix-lan-VERSION.tar.gz, with which `sudo nix-lan-VERSION/dist/nix-lan
// setup` works without git and npm. The same sources give the same bytes. `npm version` calls npm
// run release -- --version, which puts the new version everywhere.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Packed along with dist/: the papers for whoever sets nix-lan up from it. */
const PAPERS = ['LICENSE', 'README.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'SECURITY.md', 'docs', 'nix']

async function main(args: string[]): Promise<void> {
  // These variables change what zx runs; ZX_PREFIX even prepends shell code (zx 8, "Environment
  // variables").
  for (const name of Object.keys(process.env)) if (name.startsWith('ZX_')) delete process.env[name]
  const { $ } = await import('zx')
  const run = $({ stdio: ['ignore', 'pipe', 'inherit'], quiet: true })
  const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string }

  /**
   * Called after `npm version` has changed package.json: updates the other places that name the
   * version, for the same commit.
   */
  async function setVersion(): Promise<void> {
    const today = new Date().toISOString().slice(0, 10)
    replace('scripts/cli/version.ts', /VERSION = '.*'/, `VERSION = '${version}'`)
    replace('CHANGELOG.md', /^## (Unreleased|.*, unreleased)$/m, `## ${version}, ${today}`)
    await run`npm run build`
    await run`git add scripts/cli/version.ts CHANGELOG.md dist`
  }

  async function pack(): Promise<void> {
    const name = `nix-lan-${version}`
    const folder = mkdtempSync(join(tmpdir(), 'nix-lan-release-'))
    try {
      mkdirSync(join(folder, name))
      await run`npm run build -- --check`
      await run`cp -R dist ${PAPERS} ${join(folder, name)}`
      await run`rm ${join(folder, name, 'dist/demo')}` // the demo needs Debian and root
      const alike = ['--sort=name', '--mtime=@0', '--owner=0', '--group=0', '--numeric-owner', '--mode=go-w']
      await run`tar --create ${alike} --directory=${folder} ${name} | gzip --no-name --best >${`${name}.tar.gz`}`
      console.log(`${name}.tar.gz`)
    } finally {
      rmSync(folder, { recursive: true })
    }
  }

  if (args.length === 0) await pack()
  else if (args[0] === '--version' && args.length === 1) await setVersion()
  else throw new Error('usage: npm run release [-- --version]')
}

/** @throws Error if nothing matches: an old version would be left behind */
function replace(file: string, pattern: RegExp, text: string): void {
  const before = readFileSync(file, 'utf8')
  if (!pattern.test(before)) throw new Error(`${file} has nothing that matches ${pattern}`)
  writeFileSync(file, before.replace(pattern, text))
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error instanceof Error ? error.message : error)
  process.exitCode = 1
})
