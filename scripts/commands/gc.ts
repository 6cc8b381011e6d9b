// nix-lan gc: deletes from this machine's store what nothing needs and the box has. Never deletes
// anything the box has not just confirmed and pinned.
import { lstatSync, mkdirSync, readlinkSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { parseSize, parseSpan } from '../cli/amounts.ts'
import { type Parsed, parse } from '../cli/command.ts'
import { Away, Failure, UsageError } from '../cli/errors.ts'
import { sudoFinds } from '../cli/sudo.ts'
import { bytes, count, oneLine, toJson } from '../cli/text.ts'
import { loadConfig, namedCache } from '../config/config.ts'
import { type Config, isSsh, type SshCache } from '../config/types.ts'
import { mustBeUser } from '../config/user.ts'
import { type Boxes, lookAtBoxes } from '../gc/boxes.ts'
import { type Collected, collect } from '../gc/collect.ts'
import { askBothSettings, type Here, lookHere, space } from '../gc/facts.ts'
import { type LocalNix, withLocalNix } from '../gc/local-daemon.ts'
import { type Facts, type Plan, planOf, sizeOf, type Wishes } from '../gc/plan.ts'
import { letGo, weigh } from '../gc/roots.ts'
import { groupsOf, leftoversText, planText, rootsText } from '../gc/screen.ts'
import { type Look, readLook, writeLook } from '../keep/gc-look.ts'
import { isSingleUser } from '../nix/daemon.ts'
import { enqueue } from '../queue/queue.ts'
import { wanted } from '../queue/upload.ts'
import { agreed } from '../setup/dialogue.ts'
import { isBusy, takeLock } from '../system/lock.ts'
import { runtimeDir } from '../system/paths.ts'
import { ownTransfers } from '../system/transfers.ts'
import { uploadQueue } from './queue/upload.ts'

export const help = `nix-lan gc: free space, by deleting only what the box can give back

Usage: nix-lan gc [OPTION…]

Deletes from this machine's store what nothing roots, and only what a box
confirms now: it has the path with all that it refers to, the same contents,
and a signature that Nix here believes. What goes is rooted on the box first,
and stays there until \`nix-lan box forget\`. Needs no sudo.

Nothing that waits to be uploaded is deleted. Sizes are those of the NARs; with
hard links (nix-store --optimise) less may become free.

Options:
  -n, --dry-run                only show what would go, what stays and why
      --free SIZE              only until so much is free, like 5G
      --max-freed SIZE         at most so much
      --older-than AGE         only what was registered here longer ago, like 7d
      --push                   upload first what is only here or queued
      --include-substitutable  also what the HTTP caches in force have
      --include-cheap          also, unconfirmed, what Nix builds quickly and
                               never fetches (allowSubstitutes = false)
      --auto                   as the timer does it: only if less is free than
                               gc.keep-free in config.toml, and then until it is
      --verify                 let the box read and hash all of it first
      --cache CACHE            only this box may confirm; default: any box
      --json                   the answer for scripts, see below
  -y, --yes                    don't ask
  -h, --help                   show this
      --version                show the version

With --json, one object; sizes are in bytes:
  goes       path and size of each path in the plan
  stays      path, size and reason of each dead path that stays
  deleted    the paths that were deleted; null with --dry-run
  alive      paths of the plan that something has begun to use
  lost       paths of the plan that the box has lost meanwhile
  early      paths of the plan that may not be on the box's disk yet
  freed      how much more is free on the file system; null with --dry-run
  stopped    why it ended before all was done; null if it didn't

Exit code: 0 done, or nothing to do; 1 you said no, it could not be rooted on
the box, or Nix refused; 2 wrong usage or configuration; 75 not now: no box is
there, or it went away, and what is left stays.

Examples:
  nix-lan gc --dry-run
  nix-lan gc --free 20G
  nix-lan gc --older-than 30d --yes
`

/** What the command line says. */
interface Options {
  dryRun: boolean
  json: boolean
  yes: boolean
  verify: boolean
  push: boolean
  /** Other caches may confirm too. */
  elsewhere: boolean
  auto: boolean
  /** Don't show the plan. */
  quiet: boolean
  cache: string | undefined
  free: number | undefined
  wishes: Wishes
}

/** The subcommand. @param argv what follows `gc` @returns the exit code */
export async function gc(argv: string[]): Promise<number> {
  const options = optionsOf(
    parse(argv, {
      boolean: ['dry-run', 'json', 'yes', 'include-cheap', 'include-substitutable', 'push', 'verify', 'auto'],
      string: ['free', 'max-freed', 'older-than', 'cache'],
      alias: { n: 'dry-run', y: 'yes' },
    }),
  )
  const config = loadConfig()
  mustBeUser(config, 'the tunnels and the ssh key are', 'nix-lan gc')
  if (options.auto) return await auto(config, options)
  return (await locked(config, (nix) => run(config, options, nix))).code
}

/** Milliseconds for which the last look is recent enough for status, while nothing has to go. */
const LOOK = 6 * 3_600_000

/**
 * Runs as the timer does: mostly it only finds that there is nothing to do. A box that is away is
 * no failure.
 */
async function auto(config: Config, options: Options): Promise<number> {
  if (options.dryRun || options.free !== undefined) throw new UsageError('--auto goes by gc.keep-free alone; see --help')
  const { keepFree } = config
  if (keepFree === undefined) {
    tell(`off: gc.keep-free is not set in ${config.file}`)
    return 0
  }
  const directory = ownTransfers()
  const last = directory === undefined ? undefined : readLook(directory)
  const enough = space().free >= keepFree
  if (enough && last !== undefined && Date.now() - last.at < LOOK && last.problem === null) return 0
  const trouble = (problem: string): void => {
    if (directory !== undefined) writeLook(directory, { ...(readLook(directory) ?? NOTHING_SEEN), problem })
  }
  try {
    const end = await locked(config, (nix) => run(config, { ...options, dryRun: enough, quiet: true, yes: true, free: keepFree }, nix))
    const { free } = space()
    if (free < keepFree)
      trouble(end.stopped ?? `only ${bytes(free)} are free of the ${bytes(keepFree)} of gc.keep-free, and the box can give back no more`)
    return end.code === 75 ? 0 : end.code
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    if (error instanceof Running) return 0
    if (!enough) trouble(error.message)
    if (error instanceof Away) return 0
    throw error
  }
}

const NOTHING_SEEN: Look = { at: 0, safe: { paths: 0, bytes: 0 }, onlyHere: { paths: 0, bytes: 0 }, problem: null }

/** Another gc runs; it says itself what becomes of that. */
class Running extends Away {}

/** Lets only one gc run at a time. */
async function locked<T>(config: Config, use: (nix: LocalNix) => Promise<T>): Promise<T> {
  const directory = ownRuntimeDirectory(config)
  const lock = await takeLock(`${directory}/gc.lock`)
  if (isBusy(lock)) throw new Running(`nix-lan gc is running already${lock.pid === undefined ? '' : `: process ${lock.pid}`}`)
  try {
    return await withLocalNix(directory, use)
  } finally {
    await lock.release()
  }
}

function optionsOf({ words, flag, value }: Parsed): Options {
  if (words.length > 0) throw new UsageError(`${words[0]}: gc takes no paths; see --help`)
  const wishes: Wishes = { cheap: flag('include-cheap') }
  const most = sizeIn(value('max-freed'), 'max-freed')
  if (most !== undefined) wishes.most = most
  const before = spanIn(value('older-than'))
  if (before !== undefined) wishes.before = Math.floor(Date.now() / 1000) - before
  return {
    dryRun: flag('dry-run'),
    json: flag('json'),
    yes: flag('yes'),
    verify: flag('verify'),
    push: flag('push'),
    elsewhere: flag('include-substitutable'),
    auto: flag('auto'),
    quiet: flag('json'),
    cache: value('cache'),
    free: sizeIn(value('free'), 'free'),
    wishes,
  }
}

function sizeIn(text: string | undefined, option: string): number | undefined {
  const size = text === undefined ? undefined : parseSize(text)
  if (text !== undefined && size === undefined) throw new UsageError(`--${option} ${text}: not a size like 500M or 5G`)
  return size
}

function spanIn(text: string | undefined): number | undefined {
  const seconds = text === undefined ? undefined : parseSpan(text)
  if (text !== undefined && seconds === undefined) throw new UsageError(`--older-than ${text}: not an age like 12h, 7d or 4w`)
  return seconds
}

function ownRuntimeDirectory({ uid, user }: Config): string {
  const directory = runtimeDir(uid)
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 })
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    throw new Failure(`${directory} can't be made (${code}): it takes a login session of ${user}'s, or loginctl enable-linger ${user}`)
  }
  return directory
}

function chosenBoxes(config: Config, name: string | undefined): SshCache[] {
  const boxes = name === undefined ? config.caches.filter(isSsh) : [namedCache(config, name)].filter(isSsh)
  if (boxes.length > 0) return boxes
  throw new UsageError(
    name === undefined
      ? `${config.file} has no box (a cache with host = "…"), so nothing can confirm what may go`
      : `${name} is a URL; only a box can confirm what may go, and keep it`,
  )
}

/** Everything one look finds. */
interface Sight {
  here: Here
  boxes: Boxes
  facts: Facts
}

/** How a run ended. */
interface End {
  code: number
  /** Why it ended before all was done. */
  stopped?: string
}

async function run(config: Config, options: Options, nix: LocalNix): Promise<End> {
  const chosen = chosenBoxes(config, options.cache)
  const before = space()
  const wishes = { ...options.wishes }
  if (options.free !== undefined) wishes.enough = Math.max(0, options.free - before.free)
  let sight = await look(chosen, config, nix, options)
  if (options.push && !options.dryRun && (await push(chosen, config, sight))) sight = await look(chosen, config, nix, options)
  const plan = planOf(sight.facts, wishes)
  remember(sight)
  const units = plan.units
  if (!options.quiet) await showPlan(plan, sight, nix, options, before.free)
  let collected: Collected | undefined
  if (!options.dryRun && units.length > 0) {
    const size = sizeOf(units.flat())
    if (!(await agreed(`Delete ${paths(units.flat().length)}, ${bytes(size)}?`, options.yes))) return { code: 1 }
    collected = await collect(units, sight.facts, {
      openLocal: nix.open,
      keepers: sight.boxes.keepers(options.verify, tell),
      progress: (deleted) => tell(`${count(deleted.length, 'path')} of ${units.flat().length} deleted`),
      enough: () => options.free !== undefined && space().free >= options.free,
    })
    remember(sight, collected.deleted)
  }
  const freed = collected ? Math.max(0, space().free - before.free) : null
  if (options.json) printJson(plan, sight, options, collected, freed)
  else if (collected && (!options.auto || collected.deleted.length > 0 || collected.stopped)) conclude(collected, freed ?? 0, before.free)
  const stopped = collected?.stopped
  return stopped ? { code: stopped.exitCode, stopped: stopped.message } : { code: 0 }
}

async function look(chosen: readonly SshCache[], config: Config, nix: LocalNix, { elsewhere }: Options): Promise<Sight> {
  const settings = await askBothSettings(isSingleUser())
  const daemon = await nix.open()
  try {
    const here = await lookHere(daemon, settings.system)
    tell(`${paths(here.dead.size)} without a root; asking ${chosen.map(({ name }) => name).join(' and ')}`)
    const boxes = await lookAtBoxes(chosen, config.uid, here, settings, elsewhere ? tell : undefined)
    for (const { name, why } of boxes.unused) say(`${name} confirms nothing: ${why}`)
    const { dead, notFetched, keepOutputs, keepDerivations, derivers } = here
    const isWanted = (path: string): boolean => chosen.some((cache) => wanted(cache, path))
    return { here, boxes, facts: { dead, doubts: boxes.doubts, notFetched, wanted: isWanted, keepOutputs, keepDerivations, derivers } }
  } finally {
    daemon.close()
  }
}

/**
 * Uploads what is only here, and what waits.
 * @returns whether anything was uploaded, so another look is worthwhile
 */
async function push(chosen: readonly SshCache[], config: Config, { here, facts, boxes }: Sight): Promise<boolean> {
  let uploaded = 0
  for (const cache of chosen.filter(({ name }) => boxes.names.includes(name))) {
    const missing = [...here.dead.keys()].filter((path) => facts.doubts.get(path) === 'missing' && wanted(cache, path))
    for (const path of missing) enqueue(cache.name, basename(path), config.user)
    tell(`${paths(missing.length)} queued for ${cache.name}`)
    const summary = await uploadQueue(cache, config)
    if ('uploaded' in summary) uploaded += summary.uploaded.length
  }
  return uploaded > 0
}

/** Saves what was seen, without what has been deleted since, for status. */
function remember({ here, facts }: Sight, deleted: readonly { path: string }[] = []): void {
  const directory = ownTransfers()
  if (directory === undefined) return
  const all = planOf(facts, {})
  const onlyHere = groupsOf(all, here.dead).flatMap(({ reason, paths }) => (reason === 'missing' || reason === 'unwanted' ? paths : []))
  const amount = (list: readonly { size: number }[]): { paths: number; bytes: number } => ({ paths: list.length, bytes: sizeOf(list) })
  const gone = new Set(deleted.map(({ path }) => path))
  const safe = all.units.flat().filter(({ path }) => !gone.has(path))
  writeLook(directory, { at: Date.now(), safe: amount(safe), onlyHere: amount(onlyHere), problem: null })
}

async function showPlan(plan: Plan, { here, boxes }: Sight, nix: LocalNix, options: Options, free: number): Promise<void> {
  if (options.free !== undefined && free >= options.free) print(`${bytes(free)} free already; asked for ${bytes(options.free)}`)
  print(planText(plan, here.dead, boxes.names, Date.now() / 1000) + leftoversText(here.leftovers))
  const daemon = await nix.open()
  try {
    const [roots, all] = [await daemon.roots(), await daemon.allValid()]
    const alive = await daemon.infos(all.filter((path) => !here.dead.has(path)))
    print(rootsText(weigh(roots, alive, MOST_ROOTS), (link) => letGo(link, factsOf(link))))
  } finally {
    daemon.close()
  }
}

/** At most this many roots are shown. */
const MOST_ROOTS = 5

/** Whether the user may remove a link, and whether a profile points to it now. */
function factsOf(link: string): { own: boolean; current: boolean } {
  try {
    const [, profile] = /^(.*)-\d+-link$/.exec(link) ?? []
    const own = lstatSync(dirname(link)).uid === process.getuid?.()
    return { own, current: profile !== undefined && linkTarget(profile) === basename(link) }
  } catch {
    return { own: false, current: false }
  }
}

function linkTarget(link: string): string | undefined {
  try {
    return basename(readlinkSync(link))
  } catch {
    return undefined
  }
}

function printJson(plan: Plan, { here }: Sight, { dryRun }: Options, collected: Collected | undefined, freed: number | null): void {
  const brief = ({ path, size }: { path: string; size: number }): object => ({ path, size })
  const answer = {
    goes: plan.units.flat().map(brief),
    stays: [...plan.stays].map(([path, reason]) => ({ path, size: here.dead.get(path)?.size ?? 0, reason })),
    deleted: dryRun ? null : (collected?.deleted ?? []).map(({ path }) => path),
    alive: collected?.alive ?? [],
    lost: collected?.lost ?? [],
    early: collected?.early ?? [],
    freed: dryRun ? null : (freed ?? 0),
    stopped: collected?.stopped?.message ?? null,
  }
  process.stdout.write(`${toJson(answer, 2)}\n`)
}

function conclude({ deleted, alive, lost, early, stopped }: Collected, freed: number, before: number): void {
  print(`${paths(deleted.length)} deleted; ${bytes(before + freed)} free, ${bytes(freed)} more than before`)
  if (alive.length > 0) say(`${staying(alive.length)}: something has begun to use them, or what they are needed for`)
  if (lost.length > 0) say(`${staying(lost.length)}: the box has lost ${lost.length === 1 ? 'it' : 'them'} meanwhile`)
  if (early.length > 0)
    say(
      `${staying(early.length)}: uploaded within the last hour, and the box, which runs no commands, can't be told to write them to its disk`,
    )
  if (stopped) say(`stopped, what is left stays: ${stopped.message}`)
}

const paths = (number: number): string => count(number, 'path')
const staying = (number: number): string => `${paths(number)} ${number === 1 ? 'stays' : 'stay'}`
const print = (text: string): void => void (text !== '' && process.stdout.write(sudoFinds(text.endsWith('\n') ? text : `${text}\n`)))
const say = (text: string): void => void process.stderr.write(`${oneLine(text)}\n`)
/** Speaks only to a person who waits. */
const tell = (text: string): void => void (process.stderr.isTTY && say(text))
