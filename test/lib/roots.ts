// Roots of other Debian releases, each with its own Nix: built once by mmdebstrap into the user's cache folder, never modified afterwards
// (worlds put an overlay over them).
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { run } from '../../scripts/lib/run.ts'
import { PATH } from './needs.ts'

/** A Debian release and what `nix --version` says in it (when this was written): 2.3.7 (which only reads nix/), 2.8.0, 2.26.3, 2.34.8. */
export type Suite = 'bullseye' | 'bookworm' | 'trixie' | 'forky'

const INCLUDE = 'nix-bin,openssh-server,openssh-client,busybox-static'
const INCLUDE_OLD = 'nix-bin'

/** A mirror may hiccup. */
const ATTEMPTS = 2

/** What is on its way in this process: a pair may need the same release twice at once. */
const pending = new Map<Suite, Promise<string>>()

/** The folder of a release's root; builds it when it isn't there (a download of about 60 MB, 10 to 60 s). @throws Error with mmdebstrap's last lines */
export function debianRoot(suite: Suite): Promise<string> {
  const root = pending.get(suite) ?? build(suite)
  pending.set(suite, root)
  return root
}

async function build(suite: Suite): Promise<string> {
  const folder = `${process.env.XDG_CACHE_HOME || `${homedir()}/.cache`}/nix-lan/roots`
  const root = `${folder}/${suite}`
  if (existsSync(`${root}/.complete`)) return root
  mkdirSync(folder, { recursive: true })
  const unfinished = `${folder}/.${suite}-${process.pid}`
  const args = ['--quiet', '--variant=minbase', `--include=${suite === 'bullseye' ? INCLUDE_OLD : INCLUDE}`, '--dpkgopt=force-unsafe-io']
  args.push('--aptopt=Acquire::Languages "none"', '--aptopt=Acquire::Check-Valid-Until "false"', suite, unfinished, ...(await mirror()))
  for (let attempt = 1; ; attempt++) {
    const built = await run('mmdebstrap', args, { env: { ...process.env, PATH }, timeout: 300_000 })
    if (built.code === 0) break
    rmSync(unfinished, { recursive: true, force: true })
    if (attempt < ATTEMPTS) continue
    const why = built.stderr.slice(-2000) || built.failedToStart || 'time limit'
    throw new Error(`mmdebstrap could not build a root of Debian ${suite}: ${why}`)
  }
  writeFileSync(`${unfinished}/.complete`, '')
  try {
    renameSync(unfinished, root)
  } catch (error) {
    // another test was faster, or an unfinished root of old lies there
    if (!existsSync(`${root}/.complete`)) throw error
    rmSync(unfinished, { recursive: true, force: true })
  }
  return root
}

/** The mirror that this machine itself uses when it is a Debian; otherwise none, and mmdebstrap takes Debian's own. */
async function mirror(): Promise<string[]> {
  const debian = existsSync('/etc/os-release') && /^ID=debian$/m.test(readFileSync('/etc/os-release', 'utf8'))
  if (debian) {
    const { stdout } = await run('apt-get', ['indextargets', '--format', '$(REPO_URI)', 'Created-By: Packages'])
    const found = stdout.split('\n').find((line) => /^https?:/.test(line) && !line.includes('security'))
    if (found) return [found]
  }
  return []
}
