// nix-lan queue upload: uploads what is queued, and says what became of it.
import { mkdirSync } from 'node:fs'
import { Failure, UsageError } from '../../cli/errors.ts'
import { age } from '../../cli/text.ts'
import type { Config, SshCache } from '../../config/types.ts'
import { mustBeUser } from '../../config/user.ts'
import { space } from '../../gc/facts.ts'
import { type Uploads, uploadsTo } from '../../keep/uploads.ts'
import { readQueue, remove, setAside } from '../../queue/queue.ts'
import { storesOf } from '../../queue/stores.ts'
import { drain, exitCode, type Ledger, type Summary } from '../../queue/upload.ts'
import { type Busy, isBusy, takeLock } from '../../state/lock.ts'
import { queueDir, runtimeDir, uploadLock } from '../../state/paths.ts'
import { Transfers, uploadedTo } from '../../state/transfers.ts'
import { ask, hasUserManager } from '../../system/systemd.ts'
import { type Action, CACHE, type Call, JSON_OPTION, paths, print, printJson, say } from './action.ts'

export const upload: Action = {
  name: 'upload',
  summary: 'upload what is queued, now',
  forms: [['', 'upload what is queued, all of it, now']],
  options: [CACHE, JSON_OPTION],
  json: {
    what: 'an object for each cache',
    keys: [
      ['cache', 'its name'],
      ['uploaded', 'paths that the box has now'],
      ['failed', 'path and reason of each that was set aside'],
      ['invalid', 'paths that are not in the store any more'],
      ['unwanted', 'paths that the configuration keeps out'],
      ['unsigned', 'paths that wait: they, or something they need, are unsigned'],
      ['left', 'how many are still queued'],
      ['junk', 'files in the queue that are no queued paths'],
      ['away', 'why the box is away; only then'],
      ['stopped', 'why the upload stopped early; only then'],
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
  const answers: object[] = []
  const codes: number[] = []
  for (const cache of caches) {
    const lock = await takeLock(lockFile(config, cache))
    if (isBusy(lock)) {
      say(`an upload to ${cache.name} is running already${holder(lock)}`)
      answers.push({ cache: cache.name, running: { pid: lock.pid, since: lock.since && new Date(lock.since).toISOString() } })
      codes.push(75)
      continue
    }
    const uploads = uploadsTo(cache, config.uid)
    try {
      const summary = await uploadTo(cache, config, json, uploads)
      const unkept = summary.uploaded.length === 0 ? undefined : await uploads.keep(summary.uploaded)
      if (summary.uploaded.length > 0) await freeSpace(cache, config)
      if (unkept !== undefined) say(`${cache.name}: uploaded, but the box's own garbage collection may delete it: ${unkept}`)
      const { queued, junk } = readQueue(cache.name, config.user)
      const inQueue = junk.filter(({ file }) => file.startsWith(`${queueDir(cache.name)}/`))
      answers.push({ cache: cache.name, ...summary, left: queued.length, junk: inQueue.map(({ file }) => file) })
      codes.push(exitCode(summary, queued.length, inQueue.length))
      for (const { file, what } of inQueue) say(`${cache.name}: ${file} is ${what}, which doesn't belong there: remove it by hand`)
      if (!json) conclude(cache.name, summary, queued.length)
    } finally {
      uploads.close()
      await lock.release()
    }
  }
  if (json) printJson(answers)
  return codes.includes(75) ? 75 : Math.max(0, ...codes)
}

/** What was uploaded may be what a full disk has to give: the timer looks only twice an hour. Never fails an upload. */
async function freeSpace({ name }: SshCache, { keepFree }: Config): Promise<void> {
  if (keepFree === undefined || !hasUserManager()) return
  try {
    if (space().free < keepFree) await ask('start', [`nix-lan-gc@${name}.service`])
  } catch (error) {
    if (!(error instanceof Failure)) throw error
  }
}

/** Drains until nothing new has come in meanwhile. */
async function uploadTo(cache: SshCache, config: Config, json: boolean, uploads: Uploads): Promise<Summary> {
  const live = !json && process.stderr.isTTY === true
  const total: Summary = { uploaded: [], failed: [], invalid: [], unwanted: [], unsigned: [] }
  const seen = new Set<string>()
  for (;;) {
    const fresh = readQueue(cache.name, config.user).queued.filter((entry) => !seen.has(entry.name))
    if (fresh.length === 0) return total
    for (const entry of fresh) seen.add(entry.name)
    await uploads.hold(fresh.map(({ path }) => path))
    const summary = await drain(fresh, cache, storesOf(cache, config.uid, live), ledger(cache.name, config.user))
    for (const key of ['uploaded', 'invalid', 'unwanted', 'unsigned'] as const) total[key].push(...summary[key])
    total.failed.push(...summary.failed)
    if (summary.away === undefined && summary.stopped === undefined) continue
    return { ...total, ...(summary.away === undefined ? { stopped: summary.stopped ?? '' } : { away: summary.away }) }
  }
}

function ledger(cache: string, user: string): Ledger {
  const transfers = new Transfers(uploadedTo(cache))
  return {
    uploaded(entries, bytes) {
      if (entries.length > 0) transfers.add(entries.length, bytes)
      for (const entry of entries) remove(entry, user)
    },
    failed(entry, reason) {
      setAside(entry, reason, user)
      say(`${cache}: set aside ${entry.path}: ${reason}`)
    },
    invalid(entry) {
      remove(entry, user)
      say(`${cache}: dropped ${entry.path}, which isn't in the store any more`)
    },
    unwanted(entry) {
      remove(entry, user)
    },
  }
}

function conclude(cache: string, summary: Summary, left: number): void {
  const { uploaded, failed, unsigned, away, stopped } = summary
  if (uploaded.length > 0) print(`${cache}: ${paths(uploaded.length)} uploaded`)
  else if (left === 0 && failed.length === 0) print(`${cache}: nothing left to upload`)
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

/** The lock of a cache, with its directory. */
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
