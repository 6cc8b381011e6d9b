// nix-lan queue: what waits to be uploaded and what could not be; and uploading it. Never builds, never fetches.
import { lstatSync, mkdirSync, readlinkSync, realpathSync } from 'node:fs'
import { basename, dirname, resolve } from 'node:path'
import { nearest, type Parsed, parse } from '../cli/command.ts'
import { Away, Failure, UsageError } from '../cli/errors.ts'
import { age, count, oneLine, toJson } from '../cli/text.ts'
import { loadConfig, namedCache } from '../config/config.ts'
import { type Config, isSsh, type SshCache } from '../config/types.ts'
import { mustBeUser } from '../config/user.ts'
import { invalidPaths, NixError, referrersClosure } from '../nix/nix.ts'
import { allPathInfos } from '../nix/path-info.ts'
import { signClosures, toSign } from '../nix/signing.ts'
import { isStoreName, storeDir } from '../nix/store-path.ts'
import { type Built, sortBuilt } from '../queue/built.ts'
import { askNix, CHEAP, type Known, NOTHING_KNOWN, type Row, rowsOf, table } from '../queue/list.ts'
import { type Entry, enqueue, putBack, type Queue, readQueue, remove, setAside } from '../queue/queue.ts'
import { storesOf } from '../queue/stores.ts'
import { drain, exitCode, type Ledger, type Summary, wanted } from '../queue/upload.ts'
import { type Busy, isBusy, takeLock } from '../state/lock.ts'
import { queueDir, runtimeDir, uploadLock } from '../state/paths.ts'
import { Transfers, uploadedTo } from '../state/transfers.ts'

export const help = `nix-lan queue: what waits to be uploaded to the box, and what could not be

Usage: nix-lan queue [ACTION] [OPTION…]

Actions:
  list               what is queued, unsigned, failed (without an action: this)
  add PATH…          queue store paths, or links to them such as ./result
  add --built        queue what was built here and the box lacks
  upload             upload what is queued, all of it, now
  retry [PATH…]      put what failed back into the queue: these, or all
  drop PATH…         take these out; or --failed: all that failed; or --all
  sign [--built]     sign what is queued, was built here and isn't signed; or
                     all that was built here; with sudo

Options:
      --cache CACHE    only this cache; default: each one that is reached by ssh
      --json           the answer for scripts, see below
      --full           list: sizes and signatures however long the list is
      --built          add, sign: what was built here
      --failed, --all  drop: all that failed; all that is there
      --key-file FILE  sign: instead of the secret-key-files of nix.conf
  -h, --help           show this
      --version        show the version

With --json, sign prints one object, list an object for each path, the others
one for each cache:
  list    cache, path, state, added (a time), size, error; null: not known
  add     cache, added (names), there and unwanted (how many); with --built
          onBox, failed and unsigned (how many), too
  upload  cache, uploaded, failed, invalid, unwanted, unsigned, left, junk, and
          away or stopped (why); or cache and running, another upload's pid
  retry   cache, queued (paths)
  drop    cache, dropped (paths)
  sign    signed, foreign (unsigned, and not from here), keyFiles

Exit code: 0 done; 1 something failed, see list; 2 wrong usage or configuration;
75 not now: the box is away or something is left that can go later (nothing is
lost).

Examples:
  nix-lan queue
  nix-lan queue add ./result && nix-lan queue upload
  nix-lan queue retry
  sudo nix-lan queue sign
`

const ACTIONS = new Map<string, (call: Call) => Promise<number>>([
  ['list', list],
  ['add', add],
  ['upload', upload],
  ['retry', retry],
  ['drop', drop],
  ['sign', sign],
])

/** What an action is called with. */
interface Call {
  config: Config
  caches: SshCache[]
  words: string[]
  options: Parsed
  json: boolean
}

/** The subcommand. @param argv what follows `queue` @returns the exit code */
export async function queue(argv: string[]): Promise<number> {
  const options = parse(argv, { boolean: ['json', 'full', 'failed', 'all', 'built'], string: ['cache', 'key-file'] })
  const [action = 'list', ...words] = options.words
  const run = ACTIONS.get(action)
  if (!run) {
    const near = nearest(action, [...ACTIONS.keys()])
    throw new UsageError(`there is no action ${action}; ${near ? `did you mean ${near}?` : 'see nix-lan queue --help'}`)
  }
  for (const [option, owner] of Object.entries({ full: 'list', failed: 'drop', all: 'drop' })) {
    if (options.flag(option) && action !== owner) throw new UsageError(`--${option} goes with ${owner}, not with ${action}`)
  }
  if (options.flag('built') && !['add', 'sign'].includes(action)) throw new UsageError(`--built goes with add or sign, not with ${action}`)
  if (options.value('key-file') !== undefined && action !== 'sign') throw new UsageError(`--key-file goes with sign, not with ${action}`)
  if (words.length > 0 && ['list', 'upload', 'sign'].includes(action)) throw new UsageError(`${action} takes no paths; see --help`)
  const config = loadConfig()
  return await run({ config, caches: chosenCaches(config, options.value('cache')), words, options, json: options.flag('json') })
}

function chosenCaches(config: Config, name: string | undefined): SshCache[] {
  if (name !== undefined) {
    const cache = namedCache(config, name)
    if (cache.kind !== 'ssh') throw new UsageError(`${name} is read only (${cache.url}): nothing is uploaded to it`)
    return [cache]
  }
  const caches = config.caches.filter(isSsh)
  if (caches.length === 0) throw new UsageError(`${config.file} has no cache that is reached by ssh: nothing is uploaded to the others`)
  return caches
}

async function list({ config, caches, options, json }: Call): Promise<number> {
  const rows: Row[] = []
  for (const cache of caches) {
    const queue = shown(readQueue(cache.name, config.user), cache)
    const entries = [...queue.queued, ...queue.failed]
    const ask = options.flag('full') || entries.length <= CHEAP
    const known = ask ? await whatNixKnows(entries) : NOTHING_KNOWN
    const own = rowsOf(cache.name, queue, known)
    rows.push(...own)
    if (!json) process.stdout.write(`${heading(cache.name, own, ask)}\n${table(own, Date.now())}${cures(own)}`)
  }
  if (json) printJson(rows.map((row) => ({ ...row, added: row.added === null ? null : new Date(row.added).toISOString() })))
  return 0
}

/** What the configuration keeps from being uploaded will be dropped without a word, so it isn't listed either. */
const shown = (queue: Queue, cache: SshCache): Queue => ({ ...queue, queued: queue.queued.filter((entry) => wanted(cache, entry.path)) })

/** The list is useful without Nix's answer too. */
async function whatNixKnows(entries: Entry[]): Promise<Known> {
  try {
    return await askNix(entries, referrersClosure)
  } catch (error) {
    if (!(error instanceof NixError)) throw error
    say(`sizes and signatures are not known: ${error.message}`)
    return NOTHING_KNOWN
  }
}

function heading(cache: string, rows: readonly Row[], asked: boolean): string {
  const counts = ['queued', 'unsigned', 'failed', 'invalid', 'junk']
    .map((state) => ({ state, count: rows.filter((row) => row.state === state).length }))
    .filter(({ count }) => count > 0)
    .map(({ state, count }) => `${count} ${state}`)
  const rest = asked ? '' : ' (sizes and signatures: --full)'
  return `${cache}: ${counts.length > 0 ? counts.join(', ') : 'nothing queued'}${rest}`
}

function cures(rows: readonly Row[]): string {
  const has = (state: Row['state']): boolean => rows.some((row) => row.state === state)
  const lines: string[] = []
  if (has('unsigned'))
    lines.push(
      'unsigned: these, or something they need, carry no signature, and the others',
      '          go without them; `sudo nix-lan queue sign` signs what was built here',
    )
  if (has('failed')) lines.push('failed: `nix-lan queue retry` puts them back,', '        `nix-lan queue drop --failed` forgets them')
  return lines.map((line) => `${line}\n`).join('')
}

async function add(call: Call): Promise<number> {
  const { config, caches, words, json } = call
  if (call.options.flag('built')) return await addBuilt(call)
  if (words.length === 0) throw new UsageError('add needs store paths, or links to them: nix-lan queue add ./result')
  const names = [...new Set(words.map(storeName))]
  const invalid = await invalidPaths(names.map((name) => `${storeDir}/${name}`))
  if (invalid.length > 0) throw new Failure(`not valid in this machine's store, nothing was queued: ${invalid.join(' ')}`)
  const answers = caches.map((cache) => {
    const ours = names.filter((name) => wanted(cache, name))
    const added = ours.filter((name) => enqueue(cache.name, name, config.user))
    return { cache: cache.name, added, there: ours.length - added.length, unwanted: names.length - ours.length }
  })
  if (json) printJson(answers)
  else
    for (const { cache, added, there, unwanted } of answers) {
      const rest = [there > 0 ? `${there} already there` : '', unwanted > 0 ? `${unwanted} kept out by derivations or exclude` : '']
      print(`${cache}: ${[`${added.length} queued`, ...rest.filter((text) => text !== '')].join(', ')}`)
    }
  return 0
}

async function addBuilt({ config, caches, words, json }: Call): Promise<number> {
  if (words.length > 0) throw new UsageError('add takes either paths or --built')
  mustBeUser(config, WHOSE, 'nix-lan queue add --built')
  const answers = []
  for (const cache of caches) {
    const sorted = await builtFor(cache, config)
    const added = sorted.missing.map((path) => basename(path)).filter((name) => enqueue(cache.name, name, config.user))
    const { onBox, unsigned, queued, failed, unwanted } = sorted
    const counts = {
      there: queued.length,
      unwanted: unwanted.length,
      onBox: onBox.length,
      failed: failed.length,
      unsigned: unsigned.length,
    }
    answers.push({ cache: cache.name, added, ...counts })
    if (!json) print(`${cache.name}: ${builtLine(added.length, counts)}`)
    if (unsigned.length > 0) {
      const what = `of what was built here, ${paths(unsigned.length)} can't go, for want of a signature there or on what is needed`
      say(`${cache.name}: ${what}; to sign all that was built here: sudo nix-lan queue sign --built`)
    }
  }
  if (json) printJson(answers)
  return 0
}

/** @throws Away */
async function builtFor(cache: SshCache, config: Config): Promise<Built> {
  const stores = storesOf(cache, config.uid, false)
  const mustBeThere = async (): Promise<void> => {
    const why = await stores.away()
    if (why !== undefined) throw new Away(`${cache.name} is away (${why}), and can't be asked what it has`)
  }
  await mustBeThere()
  try {
    return await sortBuilt(await allPathInfos(), cache, readQueue(cache.name, config.user), stores)
  } catch (error) {
    if (error instanceof NixError) await mustBeThere()
    throw error
  }
}

function builtLine(added: number, { there, unwanted, onBox, failed }: Record<'there' | 'unwanted' | 'onBox' | 'failed', number>): string {
  const parts = [
    `${added} queued`,
    `${onBox} on the box`,
    there > 0 ? `${there} queued before` : '',
    failed > 0 ? `${failed} failed before` : '',
    unwanted > 0 ? `${unwanted} kept out by exclude` : '',
  ]
  return `of what was built here, ${parts.filter((part) => part !== '').join(', ')}`
}

/** The last part of the store path that a word means: a store path, something below one, its last part, or a link to one. */
function storeName(word: string): string {
  if (isStoreName(word)) return word
  let path = resolve(word)
  for (let hops = 0; hops < 40; hops++) {
    const name = path.startsWith(`${storeDir}/`) ? path.slice(storeDir.length + 1).split('/')[0] : undefined
    if (name !== undefined && isStoreName(name)) return name
    const next = follow(path)
    if (next === undefined || next === path) break
    path = next
  }
  throw new UsageError(`${word} is neither a store path nor a link to one`)
}

/** One link further: a store path may itself be a link, so only as far as needed. */
function follow(path: string): string | undefined {
  try {
    return lstatSync(path).isSymbolicLink() ? resolve(dirname(path), readlinkSync(path)) : realpathSync(path)
  } catch {
    return undefined
  }
}

async function retry({ config, caches, words, json }: Call): Promise<number> {
  const names = new Set(words.map(storeName))
  const answers = caches.map((cache) => {
    const { failed } = readQueue(cache.name, config.user)
    const chosen = failed.filter((entry) => names.size === 0 || names.has(entry.name))
    return { cache: cache.name, queued: chosen.filter((entry) => putBack(entry, config.user)).map((entry) => entry.path) }
  })
  if (json) printJson(answers)
  else for (const { cache, queued } of answers) print(`${cache}: ${queued.length} back in the queue`)
  const found = answers.some(({ queued }) => queued.length > 0)
  return found || names.size === 0 ? 0 : 1
}

async function drop({ config, caches, words, options, json }: Call): Promise<number> {
  const all = options.flag('all')
  const failedOnly = options.flag('failed')
  if ([words.length > 0, all, failedOnly].filter(Boolean).length !== 1)
    throw new UsageError('drop needs either paths, or --failed, or --all')
  const names = new Set(words.map(storeName))
  const answers = caches.map((cache) => {
    const { queued, failed } = readQueue(cache.name, config.user)
    const chosen = failedOnly ? failed : [...queued, ...failed].filter((entry) => all || names.has(entry.name))
    return { cache: cache.name, dropped: chosen.filter((entry) => remove(entry, config.user)).map((entry) => entry.path) }
  })
  if (json) printJson(answers)
  else for (const { cache, dropped } of answers) print(`${cache}: ${dropped.length} dropped`)
  return words.length > 0 && answers.every(({ dropped }) => dropped.length === 0) ? 1 : 0
}

async function sign({ config, caches, options, json }: Call): Promise<number> {
  const entries = caches
    .map((cache) => shown(readQueue(cache.name, config.user), cache))
    .flatMap(({ queued, failed }) => [...queued, ...failed])
  const built = options.flag('built') ? toSign(await allPathInfos()).own : []
  const all = new Set([...entries.map((entry) => entry.path), ...built])
  const { signed, foreign, keyFiles } = await signClosures([...all], options.value('key-file'))
  if (json) printJson({ signed, foreign, keyFiles })
  else print(`${paths(signed.length)} signed with ${keyFiles.join(' and ')}`)
  if (foreign.length > 0 && !json) {
    say(`${paths(foreign.length)} without a signature came from elsewhere; if you trust them, sign them with:`)
    say(`sudo nix --extra-experimental-features nix-command store sign --key-file ${keyFiles[0]} ${foreign.join(' ')}`)
  }
  return 0
}

async function upload({ config, caches, json }: Call): Promise<number> {
  mustBeUser(config, WHOSE, 'nix-lan queue upload')
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
    try {
      const summary = await uploadTo(cache, config, json)
      const { queued, junk } = readQueue(cache.name, config.user)
      const inQueue = junk.filter(({ file }) => file.startsWith(`${queueDir(cache.name)}/`))
      answers.push({ cache: cache.name, ...summary, left: queued.length, junk: inQueue.map(({ file }) => file) })
      codes.push(exitCode(summary, queued.length, inQueue.length))
      for (const { file, what } of inQueue) say(`${cache.name}: ${file} is ${what}, which doesn't belong there: remove it by hand`)
      if (!json) conclude(cache.name, summary, queued.length)
    } finally {
      await lock.release()
    }
  }
  if (json) printJson(answers)
  return codes.includes(75) ? 75 : Math.max(0, ...codes)
}

const WHOSE = 'the queue, the tunnel and the ssh key are'

/** Drains until nothing new has come in meanwhile. */
async function uploadTo(cache: SshCache, config: Config, json: boolean): Promise<Summary> {
  const live = !json && process.stderr.isTTY === true
  const total: Summary = { uploaded: [], failed: [], invalid: [], unwanted: [], unsigned: [] }
  const seen = new Set<string>()
  for (;;) {
    const fresh = readQueue(cache.name, config.user).queued.filter((entry) => !seen.has(entry.name))
    if (fresh.length === 0) return total
    for (const entry of fresh) seen.add(entry.name)
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
    say(`${cache}: ${paths(unsigned.length)} can't go, for want of a signature there or on what is needed; try \`sudo nix-lan queue sign\``)
  }
  if (away !== undefined) say(`${cache} is away (${away}); ${stay(left)}`)
  if (stopped !== undefined) say(`${cache}: stopped: ${stopped}; ${stay(left)}`)
}

const paths = (number: number): string => count(number, 'path')
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
      `${dir} can't be made (${code}): it takes a login session of ${config.user}'s, or loginctl enable-linger ${config.user}`,
    )
  }
  return uploadLock(config.uid, cache.name)
}

const print = (text: string): void => void process.stdout.write(`${oneLine(text)}\n`)
const say = (text: string): void => void process.stderr.write(`${oneLine(text)}\n`)
const printJson = (value: unknown): void => void process.stdout.write(`${toJson(value, 2)}\n`)
