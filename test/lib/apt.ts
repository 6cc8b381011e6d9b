// Installs what the demo and the tests need, on Debian and its kin. Always said by the caller
// before it is done.
import { PATH } from './needs.ts'

/**
 * Installs Debian packages, as root; apt's errors go to stderr as they come.
 * @throws Error with what apt-get said
 */
export async function installPackages(packages: string[]): Promise<void> {
  // They change what zx runs; ZX_PREFIX even puts shell code in front (zx 8, "Environment
  // variables").
  for (const name of Object.keys(process.env)) if (name.startsWith('ZX_')) delete process.env[name]
  const { $ } = await import('zx') // the lite version, zx/core; loaded late, since it is seldom needed
  const env = { ...process.env, PATH, DEBIAN_FRONTEND: 'noninteractive' }
  const apt = $({ env, stdio: ['ignore', 'pipe', 'inherit'], quiet: true })
  await apt`apt-get update -qq -o Acquire::Retries=5`
  await apt`apt-get install -y -qq -o Acquire::Retries=5 --no-install-recommends ${packages}`
}
