// nix-lan status: shows on one screen what is there, what waits and what was fetched. Only asks,
// never changes anything, and never waits for a box that is away: what it says about one comes
// from the last check and the tunnel's socket.
import { existsSync } from 'node:fs'
import { parse } from '../cli/command.ts'
import { Failure, noTunnel, UsageError } from '../cli/errors.ts'
import { sudoFinds } from '../cli/sudo.ts'
import { toJson } from '../cli/text.ts'
import { watch } from '../cli/watch.ts'
import { loadConfig, namedCache } from '../config/config.ts'
import { type Cache, type Config, isSsh, type SshCache } from '../config/types.ts'
import { space } from '../gc/facts.ts'
import { readBoxLook } from '../keep/daily.ts'
import { type Look, readLook } from '../keep/gc-look.ts'
import { notKept } from '../keep/outcome.ts'
import { sizesOf } from '../nix/nix.ts'
import { CHEAP } from '../queue/list.ts'
import { type Queue, readQueue, strayQueues } from '../queue/queue.ts'
import { wanted } from '../queue/upload.ts'
import { type Answer, usable } from '../reach/reach.ts'
import {
  assess,
  type CheckFacts,
  isRunning,
  plain,
  type QueueStatus,
  type Shown,
  screen,
  timestamp,
  type UnitsOf,
} from '../status/status.ts'
import { damagedOn } from '../system/damage.ts'
import { isLocked } from '../system/lock.ts'
import { onNixos } from '../system/nixos.ts'
import { noteFolder, whoWaits } from '../system/outage-note.ts'
import { socketPath, uploadLock } from '../system/paths.ts'
import { hasUserManager, showUnits, targetOf, tunnelUnitOf, type UnitFacts } from '../system/systemd.ts'
import {
  brokerTransfers,
  type Counted,
  counted,
  fetchedBy,
  ownTransfers,
  ROOT_TRANSFERS,
  uploadedTo,
  userTransfers,
} from '../system/transfers.ts'
import { readUploadState } from '../system/upload-state.ts'
import { effectiveUid } from '../system/users.ts'
import { readTunnelState, uptime } from '../tunnel/state.ts'

export const help = `nix-lan status: what is there, what waits and what was fetched, on one screen

Usage: nix-lan status [OPTION…] [CACHE…]

For each cache, or those that are named: whether Nix can use it, since when or
why not; its tunnel; what waits to be uploaded and what failed; what was
uploaded to it and fetched from it. It waits for no box that is away: then it
says what the last check found. \`nix-lan\` alone does the same.

Options:
  -w, --watch    draw it again every 2 seconds, until q or ^C
      --json     the answer for scripts, see below
  -h, --help     show this
      --version  show the version

With --json, one object. "check" has timer (whether something looks for boxes by
itself) and last (when it did); null without systemd. "gc" is what nix-lan gc
has seen last: at (a time), safe (what it can delete) and onlyHere, with paths
and bytes of each, problem; null: nothing. "filling" is what fills this disk
while a box is away: cache, size and free in bytes, left (milliseconds until it
is full; null: can't be told); null: nothing does soon. "strays" lists queues
that no cache has: cache (its former name), queued and failed (how many), which
stay in the store. "caches" is a list with an object for each cache; times are
ISO 8601, null is what isn't known or doesn't apply:
  cache     its name
  state     usable, slow (its nix-daemon shakes hands, but hasn't answered
            yet), reachable (but no answer), away, or unknown (the tunnel is
            somebody else's)
  since     since when
  reason    why it isn't usable
  detail    of one that is usable, such as "Nix 2.26.3"
  ms        milliseconds until it answered
  waiting   since and until: how long a fetch has waited for it, and will
  tunnel    state (systemd's ActiveState), status (its words), failures (in a
            row), retry (seconds until the next attempt)
  queue     queued (how many), size (bytes), oldest (a time), failed (path and
            reason of each), uploading (whether), upload (done and all: paths
            and bytes of each; rate: bytes in a second; left: seconds; path),
            waits (why it doesn't upload now), retry (when it tries again),
            problem (why there is no queue)
  uploaded  last (a time), today, week (7 days), all: paths and bytes of each
  fetched   the same
  notKept   why the box keeps nothing of what was uploaded last
  box       what the daily look found: at (a time) and what nix-lan box look
            prints; null: none yet
  damaged   paths whose copies on the box are damaged

Exit code: 0 done, whatever is away; 1 something could not be asked; 2 wrong
usage or configuration.

Examples:
  nix-lan status
  nix-lan status --watch rpi
  nix-lan status --json | jq -r '.caches[] | select(.state != "usable").cache'
`

/**
 * Milliseconds to wait for an answer through an existing tunnel: ssh takes 8 s to notice a dead
 * link, and until then every status waits this long.
 */
const ANSWER = 500
/**
 * Milliseconds for Nix to report the sizes of what is queued: it takes 30, on a busy machine ten
 * times that.
 */
const SIZES = 500
/** Milliseconds between redraws of --watch. */
const REDRAW = 2000

/** The subcommand. @param argv what follows `status` @returns the exit code */
export async function status(argv: string[]): Promise<number> {
  const { words, flag } = parse(argv, { boolean: ['watch', 'json'], alias: { w: 'watch' } })
  if (flag('watch') && flag('json')) throw new UsageError('--watch and --json exclude each other; see --help')
  const { stdout } = process
  if (flag('watch') && !stdout.isTTY) throw new UsageError('--watch draws on a terminal, which stdout is not; see --json')
  const config = loadConfig()
  const names = [...new Set(words)]
  const caches = names.length > 0 ? names.map((name) => namedCache(config, name)) : config.caches
  const colour = stdout.isTTY === true && !process.env.NO_COLOR && process.env.TERM !== 'dumb'
  const draw = async (): Promise<string> => {
    const { all, check } = await look(config, caches)
    const strays = strayQueues(config.caches.filter(isSsh).map(({ name }) => name))
    const space = { gc: lastLook(config), free: freeSpace(), keepFree: config.keepFree, strays }
    if (flag('json')) return `${toJson(plain(all, check, space), 2)}\n`
    const width = flag('watch') ? stdout.columns || 80 : null
    return screen(all, check, { now: Date.now(), width, wrap: width === null && stdout.isTTY ? stdout.columns : null, colour }, space)
  }
  if (flag('watch')) return await watch(draw, REDRAW)
  stdout.write(await draw())
  return 0
}

/** What `nix-lan gc` saw last. Only for the user's own: root doesn't read a user's file. */
function lastLook({ uid }: Config): Look | undefined {
  const directory = ownTransfers()
  return directory === undefined || effectiveUid() !== uid ? undefined : readLook(directory)
}

/** Bytes free on the file system of the store; undefined if it doesn't say. */
function freeSpace(): number | undefined {
  try {
    return space().free
  } catch {
    return undefined
  }
}

/** Everything known about the caches, gathered in parallel. */
async function look(config: Config, caches: readonly Cache[]): Promise<{ all: Shown[]; check: CheckFacts | null }> {
  const boxes = caches.filter(isSsh)
  const systemd = boxes.length > 0 ? askSystemd(config, boxes) : Promise.resolve(NO_SYSTEMD)
  const all = await Promise.all(
    caches.map((cache) => (cache.kind === 'ssh' ? lookAtBox(config, cache, systemd) : lookAtUrl(cache, config.uid))),
  )
  return { all: all.map(withWays), check: (await systemd).check }
}

/** Spells the commands in what was found so that this machine's sudo finds them. */
function withWays(shown: Shown): Shown {
  const { status, queue } = shown
  return {
    ...shown,
    status: { ...status, reason: status.reason === null ? null : sudoFinds(status.reason) },
    queue: queue && { ...queue, failed: queue.failed.map(({ path, reason }) => ({ path, reason: sudoFinds(reason) })) },
  }
}

async function lookAtUrl(cache: Cache, uid: number): Promise<Shown> {
  const answer = await usable(cache, uid, cache.deadline) // nothing else knows how it is
  const facts = { name: cache.name, answer, socket: null, units: null, tunnelState: undefined, uptime: 0 }
  return { status: assess(facts), queue: null, fetched: null, uploaded: null }
}

async function lookAtBox(config: Config, cache: SshCache, systemd: Promise<Systemd>): Promise<Shown> {
  const path = socketPath(config.uid, cache.name)
  const socket = existsSync(path)
  const own = effectiveUid() === config.uid
  const hidden = !own && effectiveUid() !== 0 ? { hiddenBy: config.user } : {}
  const [answer, queue, { units, check }] = await Promise.all([ask(cache, config.uid, path, socket), queueOf(config, cache), systemd])
  const unitsOf = units.get(cache.name) ?? null
  const tunnelState = own ? readTunnelState(config.uid, cache.name) : undefined // root doesn't read a user's file
  // root's, the broker's, the user's
  const notes = own ? [noteFolder(0), `${ROOT_TRANSFERS}/${cache.name}`, noteFolder(config.uid)] : [noteFolder(0)]
  const wait = whoWaits(notes, path, Date.now())
  const counts = own ? ownTransfers() : userTransfers(config.home, undefined)
  const damaged = [...damagedOn({ cache: cache.name, socket: path, own: counts }).keys()]
  const unkept = own && cache.keep !== 0 ? notKept(ownTransfers(), cache.name) : undefined
  const box = own ? readBoxLook(ownTransfers(), cache.name) : undefined
  queue.uploading ||= isRunning(unitsOf?.upload)
  return {
    status: assess({
      name: cache.name,
      answer,
      socket,
      units: unitsOf,
      tunnelState,
      uptime: uptime(),
      looked: check?.last !== null,
      nixos: onNixos(),
      ...hidden,
      ...(wait && { wait }),
    }),
    queue,
    fetched: transfersOf(fetchedBy(path), cache, config),
    uploaded: transfersOf(uploadedTo(cache.name), cache, config),
    ...(unkept === undefined ? {} : { notKept: unkept }),
    ...(box === undefined ? {} : { box }),
    ...(damaged.length === 0 ? {} : { damaged }),
  }
}

/** Without a socket there is nobody to ask, so no networking code is loaded. */
async function ask(cache: SshCache, uid: number, path: string, socket: boolean): Promise<Answer> {
  if (!socket) return { ok: false, reason: noTunnel(path), ms: 0 }
  return await usable(cache, uid, Math.min(ANSWER, cache.deadline))
}

/** What root's daemon, the broker and the user's own Nix have counted. */
function transfersOf(name: string, cache: SshCache, config: Config): Counted {
  const own = effectiveUid() === config.uid ? ownTransfers() : userTransfers(config.home, undefined)
  return counted(name, [ROOT_TRANSFERS, brokerTransfers(cache.name), ...(own === undefined ? [] : [own])], Date.now())
}

async function queueOf(config: Config, cache: SshCache): Promise<QueueStatus> {
  const queue = queueIn(config, cache)
  if (typeof queue === 'string') return { queued: 0, size: null, oldest: null, failed: [], uploading: false, upload: null, problem: queue }
  const queued = queue.queued.filter((entry) => wanted(cache, entry.path))
  return {
    queued: queued.length,
    size: await sizeOf(queued.map((entry) => entry.path)),
    oldest: queued[0]?.added ?? null,
    failed: queue.failed.map(({ path, reason }) => ({ path, reason: reason ?? '' })),
    uploading: isLocked(uploadLock(config.uid, cache.name)),
    upload: effectiveUid() === config.uid ? (readUploadState(config.uid, cache.name) ?? null) : null, // again a user's file
    problem: null,
  }
}

/** The queue, or why it can't be read. */
function queueIn(config: Config, cache: SshCache): Queue | string {
  try {
    return readQueue(cache.name, config.user)
  } catch (error) {
    if (error instanceof Failure) return error.message
    throw error
  }
}

/**
 * Bytes of the NARs; null when Nix doesn't answer quickly, or one of the paths is no longer valid.
 */
async function sizeOf(paths: readonly string[]): Promise<number | null> {
  if (paths.length === 0) return 0
  if (paths.length > CHEAP) return null
  try {
    return (await sizesOf(paths, { timeout: SIZES })).reduce((sum, size) => sum + size, 0)
  } catch {
    return null
  }
}

interface Systemd {
  units: ReadonlyMap<string, UnitsOf>
  check: CheckFacts | null
}

const NO_SYSTEMD: Systemd = { units: new Map(), check: null }
const PROPERTIES = ['LoadState', 'ActiveState', 'SubState', 'ActiveEnterTimestamp', 'InactiveEnterTimestamp', 'StatusText']

/**
 * What the user's systemd knows, in one question; nothing where there is no systemd, where it can't
 * be asked, or where it knows no such units.
 */
async function askSystemd(config: Config, boxes: readonly SshCache[]): Promise<Systemd> {
  const uid = effectiveUid()
  const owner = uid !== config.uid && uid === 0 ? { name: config.user, uid: config.uid } : undefined
  if ((!owner && uid !== config.uid) || !hasUserManager(owner ? { owner } : {})) return NO_SYSTEMD
  const three = boxes.flatMap(({ name }) => [targetOf(name), tunnelUnitOf(name), `nix-lan-upload@${name}.service`])
  let facts: UnitFacts[]
  try {
    facts = await showUnits(['nix-lan-check.timer', 'nix-lan-check.service', ...three], PROPERTIES, owner ? { owner } : {})
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    process.stderr.write(`nix-lan status: ${error.message}\n`)
    return NO_SYSTEMD
  }
  const [timer = {}, service = {}, ...rest] = facts
  const units = boxes.map(({ name }, at): [string, UnitsOf] => {
    const [target = {}, tunnel = {}, upload = {}] = rest.slice(3 * at, 3 * at + 3)
    return [name, { target, tunnel, upload }]
  })
  const installed = units.filter(([, { target }]) => target.LoadState !== 'not-found')
  if (service.LoadState === 'not-found') return { units: new Map(installed), check: null }
  return { units: new Map(installed), check: { timer: timer.ActiveState === 'active', last: timestamp(service.InactiveEnterTimestamp) } }
}
