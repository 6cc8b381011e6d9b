// nix-lan check: asks whether each box is there, and starts or stops its target to match. Run by a
// timer every 30 seconds, by NetworkManager's dispatcher when the network changes, by a tunnel when
// it ends, and by a person in doubt. So it does little work, never exceeds a deadline, and prints
// only news.
import { lstatSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { parse } from '../cli/command.ts'
import { Failure } from '../cli/errors.ts'
import { toJson } from '../cli/text.ts'
import { loadConfig, namedCache } from '../config/config.ts'
import { type Cache, isSsh, type SshCache } from '../config/types.ts'
import { mustBeUser } from '../config/user.ts'
import { listens } from '../reach/listening.ts'
import { type Answer, reachable } from '../reach/reach.ts'
import { isJournal } from '../system/journal.ts'
import { runtimeDir, socketPath } from '../system/paths.ts'
import { type AskOptions, ask, hasUserManager, showUnits, targetOf, tunnelUnitOf } from '../system/systemd.ts'
import { touchSocket } from '../system/touch.ts'
import { type Action, actionFor, describe, type Facts, needsNoAnswer } from '../tunnel/decide.ts'
import { forgetTunnelState, pauseLeft, readTunnelState, tunnelStateFile, uptime, writeTunnelState } from '../tunnel/state.ts'

export const help = `nix-lan check: start or stop the tunnels, as the boxes are there or not

Usage: nix-lan check [OPTION…] [CACHE…]

Asks whether the boxes are there, and starts or stops their tunnels (the systemd
target nix-lan@CACHE.target) to match; without CACHE, all of them, at once. It
never stops a tunnel whose ssh is alive. A timer does the same every 30 seconds,
and nix-lan-dispatcher when the network changes.

Options:
      --json     the answer for scripts, see below
  -h, --help     show this
      --version  show the version

With --json, a list with an object for each cache:
  cache    its name
  state    reachable or away
  ms       milliseconds until that was clear
  address  where it is, and port; not when it is away
  reason   why it is away
  tunnel   its unit as systemd calls it (active: it answers), for a box, where
           there are units
  action   start, stop, retry (a pause after failures ends), revive (it had been
           given up) or none

Exit code: 0 done, whether the boxes are there or not; 1 systemd refused; 2
wrong usage or configuration.

Example:
  nix-lan check     rpi: reachable at 192.168.1.20 port 22 (12 ms); starting its
                    tunnel
`

/** Unit properties to ask for. */
const PROPERTIES = ['LoadState', 'ActiveState', 'StateChangeTimestampMonotonic']
/**
 * More time than systemd gets elsewhere: nobody waits for this, and a check that fails leaves its
 * unit red until the next one.
 */
const SYSTEMD: AskOptions = { limit: 10_000 }
/**
 * Milliseconds for which a changed configuration counts as news; longer than the timer's period.
 */
const RECENT = 60_000

/** Who is asking, and when. */
interface Occasion {
  byTimer: boolean
  /** The output goes to the journal, every 30 seconds, so only news is printed. */
  quiet: boolean
  configured: boolean
}

/** The outcome for one cache. */
interface Done {
  cache: Cache
  facts: Facts
  action: Action
  /** What systemd refused. */
  problem?: string
}

export async function check(argv: string[]): Promise<number> {
  const { words, flag } = parse(argv, { boolean: ['json'] })
  const config = loadConfig()
  mustBeUser(config, 'the tunnels are', 'nix-lan check')
  const names = [...new Set(words)]
  const chosen = names.length > 0 ? names.map((name) => namedCache(config, name)) : config.caches
  const quiet = !flag('json') && isJournal(1)
  const occasion = { quiet, byTimer: quiet && isByTimer(config.uid), configured: isRecent(config.file) }
  const caches = chosen.filter((cache) => cache.kind === 'ssh' || !quiet) // a URL has nothing to switch
  const done = await checkAll(caches, config.uid, occasion)
  const problems = done.flatMap(({ problem }) => problem ?? [])
  if (flag('json')) process.stdout.write(`${toJson(done.map(plain))}\n`)
  else {
    const told = done.filter(({ action, problem }) => !problem && (action !== 'none' || !quiet))
    process.stdout.write(told.map(({ cache, facts, action }) => `${describe(cache.name, facts, action)}\n`).join(''))
  }
  for (const problem of new Set(problems)) process.stderr.write(`nix-lan check: ${problem}\n`)
  return problems.length > 0 ? 1 : 0
}

function isRecent(file: string): boolean {
  const changed = statSync(file, { throwIfNoEntry: false })?.ctimeMs ?? 0
  return Math.abs(Date.now() - changed) < RECENT
}

async function checkAll(caches: Cache[], uid: number, occasion: Occasion): Promise<Done[]> {
  const boxes = caches.filter(isSsh)
  const units = hasUserManager() ? unitsOf(boxes) : Promise.resolve(new Map<string, Facts['units']>())
  units.catch(() => {}) // each box reports it
  const done = await Promise.all(
    caches.map((cache) => (cache.kind === 'ssh' ? checkBox(cache, uid, occasion, units) : checkUrl(cache, occasion))),
  )
  if (boxes.length > 0 && done.every(({ facts, problem }) => !facts.units && !problem)) {
    const why = hasUserManager()
      ? 'the systemd units of nix-lan are not installed'
      : 'you have no systemd user manager here (it comes with a login, or with: sudo loginctl enable-linger $USER)'
    process.stderr.write(`nix-lan check: ${why}, so nothing was switched; by hand: nix-lan-tunnel\n`)
  }
  return done
}

/**
 * The state of each box's target and tunnel, in one call; no entry for boxes whose units are not
 * installed.
 */
async function unitsOf(boxes: readonly SshCache[]): Promise<Map<string, Facts['units']>> {
  const shown = await showUnits(
    boxes.flatMap(({ name }) => [targetOf(name), tunnelUnitOf(name)]),
    PROPERTIES,
    SYSTEMD,
  )
  const found = new Map<string, Facts['units']>()
  for (const [i, { name }] of boxes.entries()) {
    const [target, tunnel] = shown.slice(2 * i)
    if (target && tunnel && target.LoadState === 'loaded') found.set(name, { target, tunnel })
  }
  return found
}

/**
 * Whether it was the timer that started this check. systemd tells each later start of the unit, too,
 * whoever asks for it, what triggered it last (Unit.activation_details; seen with 252 and 257). So a
 * trigger counts once: its time is kept.
 */
function isByTimer(uid: number): boolean {
  const { TRIGGER_UNIT: unit = '', TRIGGER_TIMER_MONOTONIC_USEC: at = '' } = process.env // systemd.exec(5)
  if (!unit.endsWith('.timer')) return false
  const kept = `${runtimeDir(uid)}/check.trigger`
  try {
    if (readFileSync(kept, 'utf8') === at) return false
  } catch {
    // none yet
  }
  try {
    mkdirSync(runtimeDir(uid), { recursive: true, mode: 0o700 })
    writeFileSync(kept, at, { mode: 0o600 })
  } catch {
    // /run is full: what comes next counts as the timer's, too
  }
  return true
}

const NO_PAUSE = { left: 0, age: 0, reason: '' }

async function checkUrl(cache: Cache, { byTimer, configured }: Occasion): Promise<Done> {
  const answer = await reachable(cache, cache.deadline)
  return { cache, facts: { answer, listening: false, units: null, pause: NO_PAUSE, byTimer, configured }, action: 'none' }
}

async function checkBox(cache: SshCache, uid: number, occasion: Occasion, units: ReturnType<typeof unitsOf>): Promise<Done> {
  const socket = socketPath(uid, cache.name)
  const pause = pauseOf(uid, cache.name) // read first: a pause that begins during this check is not for it to end
  const listening = await listens(socket)
  const { byTimer, configured } = occasion
  const before: Facts = { answer: null, listening, units: null, pause, byTimer, configured }
  if (listening && !byTimer) touchSocket(socket, uid)
  const asked = byTimer && listening ? null : reachable(cache, cache.deadline)
  try {
    before.units = (await units).get(cache.name) ?? null
    const answer = asked || !needsNoAnswer(before) ? await (asked ?? reachable(cache, cache.deadline)) : null
    const facts = { ...before, answer }
    return { cache, facts, action: await act(cache, uid, socket, facts) }
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    return { cache, facts: { ...before, answer: await asked }, action: 'none', problem: error.message }
  }
}

/** How long the tunnel's pause has left. */
function pauseOf(uid: number, cache: string): Facts['pause'] {
  const state = readTunnelState(uid, cache)
  const left = pauseLeft(state, uptime())
  if (!state || left === 0) return NO_PAUSE
  const failed = lstatSync(tunnelStateFile(uid, cache), { throwIfNoEntry: false })?.mtimeMs ?? 0
  return { left, age: (Date.now() - failed) / 1000, reason: state.reason }
}

/** Does what is planned, and returns what was done. @throws Failure when systemd refuses */
async function act(cache: SshCache, uid: number, socket: string, facts: Facts): Promise<Action> {
  const action = actionFor(facts)
  switch (action) {
    case 'start':
      forgetTunnelState(uid, cache.name)
      await ask('start', [targetOf(cache.name)], SYSTEMD)
      break
    case 'retry':
      endPause(uid, cache.name)
      await ask('restart', [tunnelUnitOf(cache.name)], SYSTEMD)
      break
    case 'revive':
      await ask('start', [tunnelUnitOf(cache.name)], SYSTEMD)
      break
    case 'stop':
      if (!(await isStillSo(cache, socket, facts))) return 'none'
      await ask('stop', [targetOf(cache.name)], SYSTEMD)
  }
  return action
}

function endPause(uid: number, cache: string): void {
  const state = readTunnelState(uid, cache)
  if (state) writeTunnelState(uid, cache, { ...state, notBefore: 0 })
}

/**
 * Checks once more before stopping: an answer takes up to the deadline, and meanwhile another check
 * may have found the box and started what we would stop.
 */
async function isStillSo(cache: SshCache, socket: string, facts: Facts): Promise<boolean> {
  const units = (await unitsOf([cache])).get(cache.name) ?? null
  const since = (of: Facts['units']): string | undefined => of?.target.StateChangeTimestampMonotonic
  return since(units) === since(facts.units) && actionFor({ ...facts, units, listening: await listens(socket) }) === 'stop'
}

/** As documented in --help. */
function plain({ cache, facts: { answer, units }, action }: Done): Record<string, unknown> {
  const { ok, ...rest }: Partial<Answer> = answer ?? {}
  const tunnel = units ? { tunnel: units.tunnel.ActiveState } : {}
  return { cache: cache.name, state: ok ? 'reachable' : 'away', ...rest, ...tunnel, ...(cache.kind === 'ssh' ? { action } : {}) }
}
