// Roots of other Debian releases, each with its own Nix: built once by mmdebstrap into the user's
// cache folder, never modified afterwards (worlds and labs put an overlay over them).
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname } from 'node:path'
import { run } from '../../scripts/system/exec.ts'
import { PATH } from './needs.ts'

/**
 * A Debian release and what `nix --version` says in it (when this was written): 2.3.7 (which only
 * reads nix/), 2.8.0, 2.26.3, 2.34.8.
 */
export type Suite = 'bullseye' | 'bookworm' | 'trixie' | 'forky'

const INCLUDE = 'nix-bin,openssh-server,openssh-client,busybox-static'
const INCLUDE_OLD = 'nix-bin'

/** A mirror may hiccup. */
const ATTEMPTS = 3

/** What is on its way in this process: a pair may need the same release twice at once. */
const pending = new Map<string, Promise<string>>()

/** What a root is made of. */
export interface RootPlan {
  suite: Suite
  /**
   * Where it shall lie. What is in it must follow from this name, since a root that is there is
   * taken as it is.
   */
  root: string
  /** Packages, with commas between. */
  include: string
  /** sh commands for mmdebstrap's --customize-hook, with the root in $1. */
  hooks?: readonly string[]
}

/** Where all that is kept between runs lies. */
export function cacheFolder(): string {
  return `${process.env.XDG_CACHE_HOME || `${homedir()}/.cache`}/nix-lan`
}

/**
 * The folder of a release's root with Nix and ssh; builds it when it isn't there (a download of
 * about 60 MB, 10 to 60 s). @throws as builtRoot
 */
export function debianRoot(suite: Suite): Promise<string> {
  return builtRoot({ suite, root: `${cacheFolder()}/roots/${suite}`, include: suite === 'bullseye' ? INCLUDE_OLD : INCLUDE })
}

/**
 * The folder of a root; builds it when it isn't there, once, whoever else wants it at the same
 * time. @throws Error with mmdebstrap's last lines
 */
export function builtRoot(plan: RootPlan): Promise<string> {
  const root = pending.get(plan.root) ?? build(plan)
  pending.set(plan.root, root)
  return root
}

// $0: the root, then mmdebstrap's command. What is unfinished has another name, so that a root is
// whole or not there.
const BUILD = `[ -e "$0/.complete" ] && exit
rm -rf --one-file-system "$0" "$0.unfinished"
"$@" && touch "$0.unfinished/.complete" && mv "$0.unfinished" "$0"`

async function build({ suite, root, include, hooks = [] }: RootPlan): Promise<string> {
  if (existsSync(`${root}/.complete`)) return root
  mkdirSync(dirname(root), { recursive: true })
  const args = ['--quiet', '--variant=minbase', `--include=${include}`, '--dpkgopt=force-unsafe-io']
  args.push('--aptopt=Acquire::Languages "none"', '--aptopt=Acquire::Check-Valid-Until "false"', '--aptopt=Acquire::Retries "5"')
  args.push(...hooks.map((hook) => `--customize-hook=${hook}`), suite, `${root}.unfinished`, ...(await mirror()))
  for (let attempt = 1; ; attempt++) {
    // flock(1): the kernel ends the lock with its holder, however that ends
    const command = [`${root}.lock`, 'sh', '-c', BUILD, root, 'mmdebstrap', ...args]
    const built = await run('flock', command, { env: { ...process.env, PATH }, timeout: 540_000, group: true })
    if (built.code === 0) return root
    if (attempt < ATTEMPTS && !built.timedOut) continue
    const why = built.stderr.slice(-2000) || built.failedToStart || 'time limit'
    throw new Error(`mmdebstrap could not build a root of Debian ${suite}: ${why}`)
  }
}

/**
 * The mirror that this machine itself uses when it is a Debian; otherwise none, and mmdebstrap
 * takes Debian's own.
 */
async function mirror(): Promise<string[]> {
  const debian = existsSync('/etc/os-release') && /^ID=debian$/m.test(readFileSync('/etc/os-release', 'utf8'))
  if (debian) {
    const { stdout } = await run('apt-get', ['indextargets', '--format', '$(REPO_URI)', 'Created-By: Packages'])
    const found = stdout.split('\n').find((line) => /^https?:/.test(line) && !line.includes('security'))
    if (found) return [found]
  }
  return []
}
