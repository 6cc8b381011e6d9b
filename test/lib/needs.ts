// What a test needs of the machine, and what happens when it isn't there: as root, apt-get is asked
// for just that; what is still missing skips exactly those tests, counted and named. With CI=true,
// test/main.ts makes a skip a failure.
import { execFileSync } from 'node:child_process'
import { accessSync, constants, realpathSync } from 'node:fs'
import type { Test } from 'uvu'

/** Where programs are looked for: daemons such as sshd lie outside an ordinary user's PATH. */
export const PATH = `${process.env.PATH ?? ''}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin`

/** The Debian packages that hold what the tests may need, by need. */
export const PACKAGES: Record<string, string> = {
  nix: 'nix-bin',
  sshd: 'openssh-server',
  ssh: 'openssh-client',
  unshare: 'util-linux',
  nsenter: 'util-linux',
  mmdebstrap: 'mmdebstrap',
  roots: 'mmdebstrap',
  shellcheck: 'shellcheck',
  bash: 'bash',
  ip: 'iproute2',
  busybox: 'busybox',
  python3: 'python3-minimal',
  setfacl: 'acl',
  'systemd-nspawn': 'systemd-container',
  script: 'bsdutils',
  zsh: 'zsh',
  fish: 'fish',
  groff: 'groff-base',
  mandoc: 'mandoc',
}

/**
 * The names of tests that were skipped, and why. A global, since each test file is a bundle of its
 * own; test/lib/one.ts makes and reads it.
 */
const skips = (globalThis as unknown as { NIX_LAN_SKIPS?: string[] }).NIX_LAN_SKIPS ?? []

/**
 * The absolute path of a program, or undefined; with `outside`, one that doesn't lead into that
 * folder.
 */
export function which(program: string, outside?: string): string | undefined {
  for (const folder of PATH.split(':')) {
    try {
      accessSync(`${folder}/${program}`, constants.X_OK)
      if (!outside || !realpathSync(`${folder}/${program}`).startsWith(outside)) return `${folder}/${program}`
    } catch {
      // not in this one
    }
  }
  return undefined
}

/**
 * Those of `wanted` that this machine lacks. A need is the name of a program, or one of `root`
 * (root who may make mount and pid namespaces), `nix` (a Nix that doesn't live in /nix itself, such
 * as Debian's: a world has a /nix of its own), `roots` (roots of other Debian releases can be
 * built).
 */
export function missing(wanted: readonly string[]): string[] {
  return wanted.filter((need) => !has(need))
}

/** Whether the machine has it. */
export function has(need: string): boolean {
  if (need === 'root') return mayUnshare()
  if (need === 'roots') return which('mmdebstrap') !== undefined
  return which(need, need === 'nix' ? '/nix/' : undefined) !== undefined
}

let unshared: boolean | undefined
function mayUnshare(): boolean {
  if (unshared === undefined) {
    try {
      execFileSync('unshare', ['--mount', '--pid', '--fork', 'true'], { stdio: 'ignore', env: { PATH } })
      unshared = process.getuid?.() === 0
    } catch {
      unshared = false
    }
  }
  return unshared
}

/**
 * The same suite when the machine has all that is `wanted`; otherwise one that skips, and names,
 * every test given to it, and runs no hook:
 *     const test = needs(suite('fetch'), 'root', 'nix', 'ssh', 'sshd')
 */
export function needs<T>(test: Test<T>, ...wanted: string[]): Test<T> {
  install(missing(wanted))
  const lacks = missing(wanted)
  if (lacks.length === 0) return telling(test)
  const skip = (name: string) => {
    skips.push(`${name} (needs ${lacks.join(', ')})`)
    test.skip()
  }
  const hook = Object.assign(() => {}, { each: () => {} })
  return Object.assign(skip, { only: skip, skip: test.skip, before: hook, after: hook, run: test.run }) as unknown as Test<T>
}

/** As root where there is apt-get: installs what holds these. NIX_LAN_TEST_INSTALL=no: never. */
function install(needs: readonly string[]): void {
  const packages = [...new Set(needs.flatMap((need) => PACKAGES[need] ?? []))]
  if (packages.length === 0 || process.env.NIX_LAN_TEST_INSTALL === 'no' || process.getuid?.() !== 0 || !has('apt-get')) return
  console.log(`the tests need ${needs.join(', ')}: apt-get install ${packages.join(' ')}`)
  const env = { ...process.env, PATH, DEBIAN_FRONTEND: 'noninteractive' }
  try {
    execFileSync('apt-get', ['update', '-qq'], { env, stdio: 'ignore' })
    execFileSync('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...packages], { env, stdio: 'ignore' })
  } catch (error) {
    console.log(`apt-get failed: ${(error as Error).message}`)
  }
}

/** The same suite, but an error in a before-hook is printed: uvu swallows it. */
function telling<T>(test: Test<T>): Test<T> {
  const register = test.before
  const before = (hook: (state: T) => unknown) =>
    register(async (state) => {
      try {
        await hook(state as T)
      } catch (error) {
        console.error(error)
        throw error
      }
    })
  return Object.assign(test, { before: Object.assign(before, { each: register.each }) }) as Test<T>
}
