// The TypeScript of post-build-hook: what its head (scripts/heads/post-build-hook.sh) can't do in sh. The head calls it rarely, puts a time
// limit on it, and makes the links itself. It prints store paths on stdout and, one line for each, what it has to say on stderr.
import { chmodSync, chownSync, lstatSync, mkdirSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { main, parse } from '../cli/command.ts'
import { Failure, UsageError } from '../cli/errors.ts'
import { loadConfig } from '../config/config.ts'
import { type Config, isSsh } from '../config/types.ts'
import { isStorePath } from '../nix/store-path.ts'
import { type Entry, outputsOf, outputsPrinted, planDirectory } from '../queue/directories.ts'
import { failedDir, queueDir, stateDir } from '../state/paths.ts'
import { run } from '../system/exec.ts'
import { searchEnv } from '../system/search-path.ts'

const HELP = `post-build-hook: queue what Nix has just built

Usage: post-build-hook [OPTION]

Nix runs this after every build; it puts what was built in the queue of every
cache, for "nix-lan queue upload" to copy. It takes a few milliseconds and never
fails a build. In nix.conf:

  post-build-hook = /path/to/nix-lan/dist/post-build-hook

The queue is ${stateDir}/gcroots/nix-lan/queue/CACHE/:
links, which keep the paths from being garbage-collected. From Nix the hook
takes OUT_PATHS and DRV_PATH in the environment, and no arguments. The options
are for people, and for itself.

Options:
      --make-queue  make the directories of the queue for the caches of the
                    configuration
      --outputs     print the outputs of the derivation DRV_PATH
  -h, --help        show this
      --version     show the version

Exit code: from Nix always 0. For people: 0 done; 1 something could not be done;
2 wrong usage or configuration.

Example:
  sudo /path/to/nix-lan/dist/post-build-hook --make-queue
`

// The head allows 0.9 s for all of it.
const QUERY_LIMIT = 600

const store = (process.env.NIX_STORE_DIR || '/nix/store').replace(/\/$/, '')
const self = process.geteuid?.() ?? 0

async function hook(argv: string[]): Promise<number> {
  const args = parse(argv, { boolean: ['make-queue', 'outputs'] })
  if (args.words.length > 0) throw new UsageError(`it takes no arguments, but was given "${args.words[0]}"; see --help`)
  if (!args.flag('make-queue') && !args.flag('outputs')) throw new UsageError('nothing to do; see --help')
  const wrong = args.flag('make-queue') ? makeQueue() : []
  if (args.flag('outputs')) {
    const found = await outputs(process.env.DRV_PATH ?? '')
    if (typeof found === 'string') wrong.push(found)
    else process.stdout.write(`${found.join('\n')}\n`)
  }
  // Nix writes the hook's name before each line itself.
  for (const line of wrong) process.stderr.write(`nix-lan: ${line}\n`)
  return wrong.length > 0 ? 1 : 0
}

/** The outputs of a derivation: from its file if they stand there, else from Nix's database. As text: why neither knows them. */
async function outputs(drv: string): Promise<string[] | string> {
  if (!isStorePath(drv, store) || !drv.endsWith('.drv')) throw new UsageError(`DRV_PATH is not a derivation in ${store}: "${drv}"`)
  const read = outputsOf(textOf(drv), store)
  if (read) return read
  // NIX_CONFIG, which names this very hook, is left out; but derivations that need the feature were built with it, so it is on.
  const env = { ...searchEnv(), NIX_CONFIG: 'extra-experimental-features = ca-derivations' }
  const query = ['--query', '--outputs', drv]
  // Up to Nix 2.8 at least, the outputs of such a derivation are told only if asked to build it; it is built, and this can't build.
  const unable = ['--force-realise', '--option', 'max-jobs', '0', '--option', 'builders', '', '--option', 'substitute', 'false']
  const until = Date.now() + QUERY_LIMIT
  let why = ''
  for (const args of [query, [...query, ...unable]]) {
    const asked = await run('nix-store', args, { env, timeout: Math.max(1, until - Date.now()) })
    const found = outputsPrinted(asked.stdout, store)
    if (asked.code === 0 && found.length > 0) return found
    why ||= asked.timedOut ? `no answer in ${QUERY_LIMIT} ms` : asked.failedToStart || asked.stderr.trim().split('\n')[0] || 'no answer'
    if (asked.timedOut || asked.failedToStart) break
  }
  return `not queued: the outputs of ${drv}, since nix-store --query can't tell them (${why}); try: nix-lan queue add PATH…`
}

function textOf(file: string): string {
  try {
    return readFileSync(file, 'latin1')
  } catch {
    return '' // Nix may still know it
  }
}

/** Makes the directories that the configuration asks for. Returns what is wrong; the head doesn't ask again until something changes. */
function makeQueue(): string[] {
  let wrong: string[]
  try {
    wrong = makeDirectories(loadConfig())
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    wrong = [`no queue yet, so that what is built is not queued: ${error.message}`]
  }
  remember(wrong.length > 0)
  return wrong
}

/** Makes queue and failed directories of all caches that take uploads. Returns what could not be made, and the way out. */
function makeDirectories(config: Config): string[] {
  const caches = config.caches.filter(isSsh)
  if (caches.length === 0) return [`${config.file} names no cache that takes uploads, so that nothing is queued; add one with host = "…"`]
  const parents = [`${stateDir}/gcroots/nix-lan`, dirname(queueDir('x')), dirname(failedDir('x'))]
  const wrong: string[] = []
  const make = (path: string, owner: number): boolean => {
    const problem = makeDirectory(path, owner)
    if (problem) wrong.push(problem)
    return !problem
  }
  // As an ordinary user we can only work in parents that are there already, whosever they are.
  if (!parents.every((path) => make(path, self === 0 ? 0 : entryAt(path).uid))) return wrong
  for (const { name } of caches) {
    make(queueDir(name), config.uid)
    make(failedDir(name), config.uid)
  }
  return wrong
}

/** Makes one directory, mode 0755, or gives it to its owner. Returns what is wrong, if anything. */
function makeDirectory(path: string, owner: number): string | undefined {
  const step = planDirectory(path, entryAt(path), owner, self)
  if (step === 'nothing') return undefined
  if (typeof step === 'object') return step.wrong
  try {
    if (step === 'make') {
      mkdirSync(path)
      chmodSync(path, 0o755) // whatever the umask
    }
    if (owner !== self) chownSync(path, owner, lstatSync(path).gid)
    return undefined
  } catch (error) {
    return `can't make ${path} (${(error as NodeJS.ErrnoException).code}); try: sudo post-build-hook --make-queue`
  }
}

function entryAt(path: string): Entry {
  try {
    const found = lstatSync(path)
    return { kind: found.isDirectory() ? 'directory' : 'other', uid: found.uid }
  } catch {
    return { kind: 'missing', uid: self }
  }
}

/**
 * Leaves what the head looks at, so that it does not come back for each build: the queue newer than the configuration; and, if there is
 * none, a file that says so until the next boot (root's in /run/nix-lan, a user's in XDG_RUNTIME_DIR/nix-lan).
 */
function remember(wrong: boolean): void {
  const queue = dirname(queueDir('x'))
  const directory = self === 0 ? '/run' : process.env.XDG_RUNTIME_DIR
  quietly(() => {
    const configured = statSync('/etc/nix-lan/config.toml').mtimeMs
    const time = Math.max(Date.now(), configured + 2) / 1000 // a clock may have been ahead; 2: a time loses its last digits here
    utimesSync(queue, time, time)
  })
  if (wrong && directory) {
    quietly(() => mkdirSync(`${directory}/nix-lan`, { mode: 0o755 }))
    quietly(() => writeFileSync(`${directory}/nix-lan/no-queue`, ''))
  }
}

/** What can't be remembered is said again: no more than a nuisance. */
function quietly(act: () => void): void {
  try {
    act()
  } catch {
    // see above
  }
}

main('post-build-hook', HELP, hook)
