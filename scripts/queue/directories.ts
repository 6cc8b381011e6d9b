// Makes the queue's directories: decides what each one needs (planDirectory), then does it. Root
// makes directories here that end up a user's, and never works inside one: their parents stay
// root's.
import { chmodSync, chownSync, lstatSync, mkdirSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { Failure } from '../cli/errors.ts'
import { loadConfig } from '../config/config.ts'
import { type Config, isSsh } from '../config/types.ts'
import { failedDir, queueDir, stateDir } from '../system/paths.ts'
import { effectiveUid } from '../system/users.ts'
import { strayQueues } from './queue.ts'

const self = effectiveUid()

/** What lstat says of a queue directory, or that nothing is there. */
export interface Entry {
  kind: 'directory' | 'other' | 'missing'
  uid: number
}

/**
 * What a directory needs: `nothing`, to `make` it, to `give` it to its owner, or, as text, what is
 * wrong with it.
 */
export type Step = 'nothing' | 'make' | 'give' | { wrong: string }

/**
 * Decides what one directory that should belong to `owner` needs. Gives away only what root itself
 * made: in a parent that is root's, nobody else can have put it there.
 * @param self our own user id
 */
export function planDirectory(path: string, entry: Entry, owner: number, self: number): Step {
  if (entry.kind === 'missing') return 'make'
  if (entry.kind === 'other') return { wrong: `${path} is not a directory; remove it` }
  if (entry.uid === owner) return 'nothing'
  if (self === 0 && entry.uid === 0) return 'give'
  return { wrong: `${path} belongs to user ${entry.uid}, not ${owner}; try: sudo chown ${owner} ${path}` }
}

/**
 * Makes the directories the configuration asks for, and leaves the marks that keep the head from
 * asking again at each build.
 * @returns a line each: what is wrong, and which queues no cache has, into which the head goes on
 *   putting what is built
 */
export function makeQueue(): { wrong: string[]; strays: string[] } {
  let wrong: string[]
  let strays: string[] = []
  try {
    const config = loadConfig()
    wrong = makeDirectories(config)
    strays = strayQueues(config.caches.filter(isSsh).map(({ name }) => name)).map(
      ({ cache }) =>
        `no cache is called ${cache} any more, but what is built still waits for it, and stays in the store; see nix-lan doctor`,
    )
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    wrong = [`no queue yet, so nothing that is built is queued: ${error.message}`]
  }
  remember(wrong.length > 0)
  return { wrong, strays }
}

/**
 * Makes the queue and failed directories of all caches that take uploads.
 * @returns what could not be made, each with the way out
 */
function makeDirectories(config: Config): string[] {
  const caches = config.caches.filter(isSsh)
  if (caches.length === 0) return [`${config.file} names no cache that takes uploads, so nothing is queued; add one with host = "…"`]
  const parents = [`${stateDir}/gcroots/nix-lan`, dirname(queueDir('x')), dirname(failedDir('x'))]
  const wrong: string[] = []
  const make = (path: string, owner: number): boolean => {
    const problem = makeDirectory(path, owner)
    if (problem) wrong.push(problem)
    return !problem
  }
  // An ordinary user can only work in parents that exist already, whoever owns them.
  if (!parents.every((path) => make(path, self === 0 ? 0 : entryAt(path).uid))) return wrong
  for (const { name } of caches) {
    make(queueDir(name), config.uid)
    make(failedDir(name), config.uid)
  }
  return wrong
}

/** Makes one directory, mode 0755, or gives it to its owner. @returns what is wrong, if anything */
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
 * Leaves the marks the head checks, so it doesn't come back at each build: a queue newer than the
 * configuration or, if there is no queue, a file that says so until the next boot (root's in
 * /run/nix-lan, a user's in XDG_RUNTIME_DIR/nix-lan).
 */
function remember(wrong: boolean): void {
  const queue = dirname(queueDir('x'))
  const directory = self === 0 ? '/run' : process.env.XDG_RUNTIME_DIR
  quietly(() => {
    const configured = statSync('/etc/nix-lan/config.toml').mtimeMs
    const time = Math.max(Date.now(), configured + 2) / 1000 // the configuration may be dated ahead; 2: a time loses its last digits here
    utimesSync(queue, time, time)
  })
  if (wrong && directory) {
    quietly(() => mkdirSync(`${directory}/nix-lan`, { mode: 0o755 }))
    quietly(() => writeFileSync(`${directory}/nix-lan/no-queue`, ''))
  }
}

/** If a mark can't be left, the message comes again: no more than a nuisance. */
function quietly(act: () => void): void {
  try {
    act()
  } catch {
    // see above
  }
}
