// nix-lan queue upload: uploads what is queued, and says what became of it.
import { mkdirSync } from 'node:fs'
import { Failure, UsageError } from '../../cli/errors.ts'
import { age, oneLine } from '../../cli/text.ts'
import type { Config, SshCache } from '../../config/types.ts'
import { mustBeUser } from '../../config/user.ts'
import { space } from '../../gc/facts.ts'
import { askLocal } from '../../gc/local-daemon.ts'
import { type Uploads, uploadsTo } from '../../keep/uploads.ts'
import { Progress } from '../../queue/progress.ts'
import { type Entry, readQueue, remove, setAside } from '../../queue/queue.ts'
import { storesOf } from '../../queue/stores.ts'
import { drain, exitCode, type Ledger, type Stores, type Summary } from '../../queue/upload.ts'
import { asksDisk, type Decision, decide } from '../../queue/wait.ts'
import { isJournal } from '../../system/journal.ts'
import { type Busy, isBusy, type Lock, takeLock } from '../../system/lock.ts'
import { queueDir, runtimeDir, uploadLock } from '../../system/paths.ts'
import { readPower } from '../../system/power.ts'
import { ask, hasUserManager } from '../../system/systemd.ts'
import { Transfers, uploadedTo } from '../../system/transfers.ts'
import { progressText, readUploadState, type UploadState } from '../../system/upload-state.ts'
import { type Action, CACHE, type Call, JSON_OPTION, paths, print, printJson, say } from './action.ts'
import { healBox, sayRefused, sortOut } from './damage.ts'

export const upload: Action = {
  name: 'upload',
  summary: 'upload what is queued, now',
  forms: [['', 'upload what is queued, all of it, now']],
  about: [
    'The smallest paths go first. While another upload runs, this one shows how that goes, then uploads what is left. The upload in the background waits while the connection is metered or the battery is low, and tries what the box has no room for at growing intervals; this one does not wait.',
  ],
  options: [CACHE, JSON_OPTION],
  json: {
    what: 'an object for each cache',
    keys: [
      ['cache', 'its name'],
      ['uploaded', 'paths that the box has now'],
      ['healed', 'paths whose damaged copies on the box were replaced'],
      ['failed', 'path and reason of each that was set aside'],
      ['invalid', 'paths that are not in the store any more'],
      ['unwanted', 'paths that the configuration keeps out'],
      ['unsigned', 'paths that wait: they, or something they need, are unsigned'],
      ['left', 'how many are still queued'],
      ['junk', 'files in the queue that are no queued paths'],
      ['away', 'why the box is away; only then'],
      ['stopped', 'why the upload stopped early, or waits; only then'],
      ['full', 'with stopped: the box has no room; need and free (null: not known), in bytes'],
      ['running', 'pid and since of another upload that runs; then there is nothing else'],
    ],
  },
  exit: '0 done; 1 something failed, see `nix-lan queue`; 2 wrong usage or configuration; 75 not now: the box is away, or something waits for its turn (nothing is lost).',
  examples: ['nix-lan queue upload', 'nix-lan queue upload --cache rpi --json'],
  run,
}

async function run({ config, caches, words, json }: Call): Promise<number> {
  if (words.length > 0) throw new UsageError('upload takes no paths; see --help')
  mustBeUser(config, 'the queue, the tunnel and the ssh key are', 'nix-lan queue upload')
  const background = isJournal(1)
  const answers: object[] = []
  const codes: number[] = []
  for (const cache of caches) {
    let lock = await takeLock(lockFile(config, cache))
    if (isBusy(lock)) {
      say(`an upload to ${cache.name} is running already${holder(lock)}`)
      if (json || background) {
        answers.push({ cache: cache.name, running: { pid: lock.pid, since: lock.since && new Date(lock.since).toISOString() } })
        codes.push(75)
        continue
      }
      lock = await follow(config, cache)
    }
    const uploads = uploadsTo(cache, config.uid, askLocal(runtimeDir(config.uid)))
    try {
      const { answer, code } = await uploadAll(cache, config, background, json, uploads)
      answers.push(answer)
      codes.push(code)
    } finally {
      uploads.close()
      await lock.release()
    }
  }
  if (json) printJson(answers)
  return codes.includes(75) ? 75 : Math.max(0, ...codes)
}

/**
 * Starts gc when the disk is short: what was uploaded may be all a full disk has to give, and gc's
 * timer looks only twice an hour. After each batch, since an upload that keeps getting more to do
 * doesn't end. Never fails an upload.
 */
async function freeSpace({ name }: SshCache, { keepFree }: Config): Promise<void> {
  if (keepFree === undefined || !hasUserManager()) return
  try {
    if (space().free < keepFree) await ask('start', [`nix-lan-gc@${name}.service`])
  } catch (error) {
    if (!(error instanceof Failure)) throw error
  }
}

/** Milliseconds between looks at another upload. */
const LOOK = 500

/** Shows how another upload goes until it ends. @returns the lock, now ours */
async function follow(config: Config, cache: SshCache): Promise<Lock> {
  let shown = ''
  for (;;) {
    const lock = await takeLock(lockFile(config, cache))
    if (!isBusy(lock)) {
      if (shown !== '' && process.stderr.isTTY) process.stderr.write('\r\u001b[K')
      return lock
    }
    const state = readUploadState(config.uid, cache.name)
    const text = state && state.all.paths > 0 ? `${cache.name}: ${progressText(state)}` : ''
    if (text !== shown && process.stderr.isTTY) process.stderr.write(`\r\u001b[K${oneLine(text)}`)
    shown = text
    await new Promise((resolve) => setTimeout(resolve, LOOK))
  }
}

/** Uploads to one cache, or finds that it has to wait; says what became of it. */
async function uploadAll(
  cache: SshCache,
  config: Config,
  background: boolean,
  json: boolean,
  uploads: Uploads,
): Promise<{ answer: object; code: number }> {
  const progress = new Progress(config.uid, cache.name, background ? 'journal' : !json && process.stderr.isTTY ? 'terminal' : 'nobody')
  const before = readUploadState(config.uid, cache.name)
  const decision = background ? await whatNow(cache, config, before) : { most: Number.POSITIVE_INFINITY }
  if ('waits' in decision) {
    const left = readQueue(cache.name, config.user).queued.length
    if (before?.stopped !== decision.waits && left > 0) say(`${cache.name} waits: ${decision.waits}; ${stay(left)}`)
    if (before?.stopped !== decision.waits || asksDisk(before, Date.now())) progress.waits(decision.waits, before)
    return { answer: { cache: cache.name, stopped: decision.waits, left }, code: left > 0 ? 75 : 0 }
  }
  const asked: Promise<void>[] = []
  const uploaded = (): void => void asked.push(freeSpace(cache, config))
  const { summary, unkept, healed, seen } = await drainAll(cache, config, progress, decision.most, uploads, uploaded)
  progress.ended(summary, decision.most === Number.POSITIVE_INFINITY ? undefined : before)
  await Promise.all(asked)
  if (unkept !== undefined) say(`${cache.name}: uploaded, but the box's own garbage collection may delete it: ${unkept}`)
  const { queued, junk } = readQueue(cache.name, config.user)
  const inQueue = junk.filter(({ file }) => file.startsWith(`${queueDir(cache.name)}/`))
  for (const { file, what } of inQueue) say(`${cache.name}: ${file} is ${what}, which doesn't belong there: remove it by hand`)
  if (!json) conclude(cache.name, summary, queued.length, healed.length)
  const answer = { cache: cache.name, ...summary, healed, left: queued.length, junk: inQueue.map(({ file }) => file) }
  // What has come in since the last look: with 0, the path unit starts an upload at once; with 75,
  // systemd does so in half a minute.
  const finished = background && summary.away === undefined && summary.stopped === undefined
  const left = finished ? queued.filter(({ path }) => seen.has(path)) : queued
  return { answer, code: exitCode(summary, left.length, inQueue.length) }
}

/**
 * Uploads what is queued for one cache, now, and has the box keep it. Reports problems on stderr.
 * @returns what became of it, or who is uploading already
 */
export async function uploadQueue(cache: SshCache, config: Config): Promise<Summary | Busy> {
  const lock = await takeLock(lockFile(config, cache))
  if (isBusy(lock)) {
    say(`an upload to ${cache.name} is running already${holder(lock)}`)
    return lock
  }
  const uploads = uploadsTo(cache, config.uid, askLocal(runtimeDir(config.uid)))
  try {
    const progress = new Progress(config.uid, cache.name, process.stderr.isTTY ? 'terminal' : 'nobody')
    const { summary, unkept } = await drainAll(cache, config, progress, Number.POSITIVE_INFINITY, uploads, () => {})
    progress.ended(summary, undefined)
    if (unkept !== undefined) say(`${cache.name}: uploaded, but the box's own garbage collection may delete it: ${unkept}`)
    sayWhatStays(cache.name, summary, readQueue(cache.name, config.user).queued.length)
    return summary
  } finally {
    uploads.close()
    await lock.release()
  }
}

/** Gathers what decides whether an upload nobody asked for goes now. */
async function whatNow(cache: SshCache, config: Config, before: UploadState | undefined): Promise<Decision> {
  const now = Date.now()
  const [power, disk] = await Promise.all([readPower(), asksDisk(before, now) ? storesOf(cache, config.uid).disk() : undefined])
  return decide({ power, before, disk, now }, config, readQueue(cache.name, config.user).queued)
}

/** A closure of more paths than this, or this whole store, is not rooted during an upload. */
const MOST_HELD = 20_000

/**
 * Drains until nothing new has come in meanwhile. A path that is built and queued again after its
 * upload is new, too.
 * @returns the rounds together, why the box doesn't keep what was uploaded last, and whose damaged
 * copies there were replaced; the paths that were looked at and not uploaded
 */
async function drainAll(
  cache: SshCache,
  config: Config,
  progress: Progress,
  most: number,
  uploads: Uploads,
  batch: () => void,
): Promise<{ summary: Summary; unkept: string | undefined; healed: string[]; seen: ReadonlySet<string> }> {
  const total: Summary = { uploaded: [], failed: [], invalid: [], unwanted: [], unsigned: [] }
  const healed: string[] = []
  const plain = storesOf(cache, config.uid, progress)
  let held: string[] = []
  const stores: Stores = {
    ...plain,
    // Before the box is asked what it has: what it has by then stays until the upload has arrived,
    // which it must refer to.
    async closure(paths) {
      const closure = await plain.closure(paths)
      if (closure.infos.size <= MOST_HELD) held = [...new Set([...held, ...closure.infos.keys()])]
      await uploads.hold(held)
      return closure
    },
    async discard(paths) {
      uploads.close() // it roots them
      await plain.discard(paths)
      await uploads.hold(held)
    },
  }
  const arrivals = new Arrivals(cache, config, uploads, { whyAway: () => stores.away(), batch })
  const seen = new Set<string>()
  const outcomes = ledger(cache.name, config.user, progress, arrivals)
  const queuedSince = (seen: ReadonlySet<string>): Entry[] =>
    readQueue(cache.name, config.user).queued.filter((entry) => !seen.has(entry.path))
  for (;;) {
    const found = await healBox(cache, config, progress, seen.size === 0 && !isJournal(1))
    healed.push(...found.healed)
    const { fresh, damaged } = sortOut(queuedSince(seen), found)
    if (seen.size === 0) sayRefused(cache.name, found, damaged)
    for (const { entry, reason } of damaged) {
      if (reason === undefined) continue
      seen.add(entry.path)
      try {
        outcomes.failed(entry, reason)
        total.failed.push({ path: entry.path, reason })
      } catch (error) {
        if (!(error instanceof Failure)) throw error
        total.stopped = error.message
      }
    }
    if (fresh.length === 0) {
      if (damaged.some(({ reason }) => reason === undefined)) total.stopped = found.problem ?? 'the box could not be given good copies'
      return { summary: total, unkept: arrivals.unkept, healed, seen }
    }
    for (const entry of fresh) seen.add(entry.path)
    held = fresh.map(({ path }) => path)
    await uploads.hold(held)
    const summary = await drain(fresh, cache, stores, outcomes, total.full?.need ?? most)
    await arrivals.settle()
    if (arrivals.away !== undefined) summary.away ??= arrivals.away
    const uploaded = summary.uploaded.filter((path) => !arrivals.left.has(path))
    for (const path of uploaded) seen.delete(path)
    total.uploaded.push(...uploaded)
    for (const key of ['invalid', 'unwanted', 'unsigned'] as const) total[key].push(...summary[key])
    total.failed.push(...summary.failed)
    if (summary.stopped !== undefined) total.stopped = summary.stopped
    if (summary.full) total.full = summary.full // what comes in meanwhile may fit
    if (summary.away !== undefined) return { summary: { ...total, away: summary.away }, unkept: arrivals.unkept, healed, seen }
    if (summary.stopped !== undefined && !summary.full) return { summary: total, unkept: arrivals.unkept, healed, seen }
  }
}

/**
 * Bytes after which what has arrived is kept at once, and gc may have it, without waiting for the
 * rest.
 */
const MUCH = 2 ** 26

/** `batch` is called when something has left the queue. */
interface Calls {
  whyAway(): Promise<string | undefined>
  batch(): void
}

/**
 * What has arrived on the box and is still queued: it leaves the queue when the box keeps it, or
 * won't. So an upload that ends in between, killed or with its tunnel, leaves nothing that the
 * box's own garbage collection may take. Keeping costs two logins, so it is done for many at once.
 */
class Arrivals {
  /** Why the box doesn't keep what was uploaded last. */
  unkept: string | undefined
  /** The box went away before it could keep what has arrived, and why. */
  away: string | undefined
  /** What has arrived and stays queued, since the box went away. */
  readonly left = new Set<string>()
  private entries: Entry[] = []
  private bytes = 0
  private readonly user: string
  private readonly uploads: Uploads
  private readonly calls: Calls
  private readonly transfers: Transfers

  constructor({ name }: SshCache, { user }: Config, uploads: Uploads, calls: Calls) {
    this.user = user
    this.uploads = uploads
    this.calls = calls
    this.transfers = new Transfers(uploadedTo(name))
  }

  async add(entries: readonly Entry[], bytes: number): Promise<void> {
    this.entries.push(...entries)
    this.bytes += bytes
    if (this.bytes >= MUCH) await this.settle()
  }

  /** Has the box keep what has arrived, and takes it out of the queue. */
  async settle(): Promise<void> {
    const { entries, bytes } = this
    this.entries = []
    this.bytes = 0
    if (entries.length === 0) return
    const paths = entries.map(({ path }) => path)
    this.unkept = await this.uploads.keep(paths)
    if (this.unkept !== undefined) {
      this.away = await this.calls.whyAway()
      if (this.away !== undefined) {
        this.unkept = undefined
        for (const path of paths) this.left.add(path)
        return
      }
      this.uploads.note(paths, this.unkept)
    }
    this.transfers.add(entries.length, bytes)
    for (const entry of entries) remove(entry, this.user)
    this.calls.batch()
  }
}

function ledger(cache: string, user: string, progress: Progress, arrivals: Arrivals): Ledger {
  const tell = (text: string): void => {
    progress.clear()
    say(text)
  }
  return {
    expects: (amount) => progress.expects(amount),
    uploaded: (entries, bytes) => arrivals.add(entries, bytes),
    failed(entry, reason) {
      setAside(entry, reason, user)
      tell(`${cache}: set aside ${entry.path}: ${reason}`)
    },
    invalid(entry) {
      remove(entry, user)
      tell(`${cache}: dropped ${entry.path}, which isn't in the store any more`)
    },
    unwanted(entry) {
      remove(entry, user)
    },
    silences: (path) => progress.silences(path),
    silent: (path, times) => progress.silent(path, times),
  }
}

function conclude(cache: string, summary: Summary, left: number, healed: number): void {
  const { uploaded, failed } = summary
  if (healed > 0) print(`${cache}: ${paths(healed)} healed`)
  if (uploaded.length > 0) print(`${cache}: ${paths(uploaded.length)} uploaded`)
  else if (left === 0 && failed.length === 0 && healed === 0) print(`${cache}: nothing left to upload`)
  sayWhatStays(cache, summary, left)
}

/** Reports what was not uploaded, and why. */
function sayWhatStays(cache: string, { failed, unsigned, away, stopped }: Summary, left: number): void {
  if (failed.length > 0) say(`${cache}: ${paths(failed.length)} set aside; see \`nix-lan queue\``)
  if (unsigned.length > 0) {
    say(`${cache}: ${paths(unsigned.length)} skipped: the path or one of its dependencies is unsigned; try \`sudo nix-lan queue sign\``)
  }
  const other = left - unsigned.length
  if (other > 0 && away === undefined && stopped === undefined)
    say(`${cache}: ${stay(other)}: the box has deleted them again already, or they have just come in`)
  if (away !== undefined) say(`${cache} is away (${away}); ${stay(left)}`)
  if (stopped !== undefined) say(`${cache}: stopped: ${stopped}; ${stay(left)}`)
}

const stay = (number: number): string => `${paths(number)} ${number === 1 ? 'stays' : 'stay'} queued`

function holder({ pid, since }: Busy): string {
  if (pid === undefined || since === undefined) return ''
  return `: process ${pid}, since ${new Date(since).toLocaleTimeString('en-GB')} (${age(Date.now() - since)})`
}

/** The path of a cache's lock; makes its directory. */
function lockFile(config: Config, cache: SshCache): string {
  const dir = runtimeDir(config.uid)
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 })
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    throw new Failure(
      `${dir} can't be made (${code}): it needs a login session of ${config.user}'s, or loginctl enable-linger ${config.user}`,
    )
  }
  return uploadLock(config.uid, cache.name)
}
