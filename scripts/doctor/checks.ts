// Lists the doctor's checks: what is checked, in which order, and what each check needs. read-*.ts
// reads, judge-*.ts judges.

import { existsSync, realpathSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { execPath } from 'node:process'
import { Failure } from '../cli/errors.ts'
import { sudoFinds } from '../cli/sudo.ts'
import { SYSTEM_FILE } from '../config/file.ts'
import { type Config, isSsh, type SshCache, type UrlCache } from '../config/types.ts'
import { pruneGiven, sampleOf } from '../keep/given.ts'
import { askHome, type HomeFacts } from '../keep/home.ts'
import { notKept } from '../keep/outcome.ts'
import { remoteOf } from '../keep/remote.ts'
import { publicKeyOf } from '../nix/keys.ts'
import { readText, substitutersOf, valuesOf } from '../nix/nix-conf.ts'
import { type Settings, wordsOf } from '../nix/settings.ts'
import { needsBash } from '../nix/version.ts'
import { validOnBox } from '../protocol/ask.ts'
import { readQueue, strayQueues } from '../queue/queue.ts'
import { storesOf } from '../queue/stores.ts'
import { wanted } from '../queue/upload.ts'
import { FIRST_ANSWER, usable } from '../reach/reach.ts'
import { run } from '../system/exec.ts'
import { realPath } from '../system/files.ts'
import { failedDir, queueDir, socketPath } from '../system/paths.ts'
import { findIn, RUNTIMES } from '../system/runtime.ts'
import { DIRECTORIES } from '../system/search-path.ts'
import { lingers } from '../system/systemd.ts'
import { ownTransfers } from '../system/transfers.ts'
import { readUploadState } from '../system/upload-state.ts'
import { effectiveUid } from '../system/users.ts'
import { readTunnelState } from '../tunnel/state.ts'
import { type Check, failed, ok, type Verdict, warning } from './check.ts'
import { type Facts, includesIn, rightUrl } from './facts.ts'
import { inConfigurationNix, inSettings, knownFixes, makeQueue, setupFirst } from './fixes.ts'
import { judgeDispatcher, judgeLinger, judgeSession, judgeTimer, judgeTunnel, judgeUnits } from './judge-automatic.ts'
import { judgeBox, judgeKept, judgeLogin, judgeName, judgePort } from './judge-box.ts'
import { judgeBroker } from './judge-broker.ts'
import {
  judgeBash,
  judgeConnect,
  judgeEntries,
  judgeHook,
  judgeKey,
  judgeQueue,
  judgeRuntime,
  judgeStrays,
  judgeUnsigned,
  type KeyFacts,
} from './judge-files.ts'
import {
  connectFor,
  flakeReplaces,
  judgeBuilders,
  judgeConf,
  judgeDaemon,
  judgeFallback,
  judgeMinFree,
  judgeOwn,
  judgeSubstituter,
  judgeVersion,
} from './judge-nix.ts'
import { tunnelFacts } from './read-automatic.ts'
import { askKeys } from './read-box.ts'
import { brokerFacts } from './read-broker.ts'
import { code, dispatcherFacts, hiddenOf, hookFacts, lineWith, pinnedIn, programFacts, queueFacts } from './read-files.ts'
import { askBuilt } from './read-nix.ts'
import { roundTrip } from './round-trip.ts'

/**
 * All checks, in order: the machine's, then those of each cache.
 * @param clean collects what to clean up at the end
 */
export function allChecks(facts: Facts, caches: Config['caches'], self: string, clean: (() => Promise<void>)[]): Check[] {
  const checks = [
    ...machineChecks(facts, self),
    ...caches.flatMap((cache) => (cache.kind === 'ssh' ? boxChecks(facts, cache, clean) : urlChecks(facts, cache))),
  ]
  return checks.map((check) => ({ ...check, run: async () => withPlace(await check.run(), self) }))
}

function withPlace(verdict: Verdict, self: string): Verdict {
  return verdict.fix === null ? verdict : { ...verdict, fix: sudoFinds(verdict.fix, self) }
}

/** The fixes root knows without the user's part, as the list of checks prints them. */
export const rootsFixes = ({ machine, config }: Facts, self: string): string[] =>
  knownFixes(machine, (config?.caches ?? []).filter(isSsh), execPath).map((fix) => sudoFinds(fix, self))

const settingsOf = async (facts: Facts): Promise<Settings> => {
  const settings = await facts.system()
  return typeof settings === 'string' ? new Map() : settings
}

const runsAsRoot = ({ machine }: Facts): boolean => machine.kind !== 'single'

function machineChecks(facts: Facts, self: string): Check[] {
  const boxes = (facts.config?.caches ?? []).some(isSsh)
  const { machine } = facts
  const always: Check[] = [
    { name: 'configuration', needs: [], root: true, run: () => judgeConfig(facts) },
    { name: 'nix', needs: [], root: true, run: async () => await facts.nix().then(({ version, why }) => judgeVersion(version, why)) },
    { name: 'nix.conf', needs: ['nix'], root: true, run: async () => await checkConf(facts) },
    { name: 'daemon', needs: ['nix'], run: async () => judgeDaemon(await facts.daemon(), machine) },
  ]
  const forBoxes: Check[] = [
    { name: 'runtime', needs: [], root: true, run: () => checkRuntime(facts, self) },
    { name: 'bash', needs: ['nix'], root: true, run: async () => await checkBash(facts) },
    { name: 'hook', needs: ['nix.conf'], root: true, run: async () => await checkHook(facts, self) },
    { name: 'signing', needs: ['nix.conf'], root: true, run: async () => judgeKey(keyFacts(await settingsOf(facts)), machine) },
    { name: 'fallback', needs: ['nix.conf'], root: true, run: async () => judgeFallback(await settingsOf(facts), machine) },
    { name: 'min-free', needs: ['nix.conf'], root: true, run: async () => judgeMinFree(await settingsOf(facts), machine) },
    {
      name: 'builders',
      needs: ['nix.conf'],
      root: true,
      run: async () => judgeBuilders((await settingsOf(facts)).get('builders') ?? '', (file) => readText(file) ?? ''),
    },
    { name: 'unsigned', needs: ['nix.conf', 'daemon', 'signing'], online: true, run: async () => await checkUnsigned(facts) },
    {
      name: 'queues',
      needs: ['configuration'],
      root: true,
      run: () => judgeStrays(strayQueues(boxNames(facts)), (cache) => [queueDir(cache), failedDir(cache)].filter(existsSync), machine),
    },
    ...automaticChecks(facts),
  ]
  return boxes || !facts.config ? [...always, ...forBoxes] : always
}

const boxNames = ({ config }: Facts): string[] => (config?.caches ?? []).filter(isSsh).map(({ name }) => name)

async function checkHook(facts: Facts, self: string): Promise<Verdict> {
  const file = (await settingsOf(facts)).get('post-build-hook') ?? ''
  return judgeHook(hookFacts(file, runsAsRoot(facts)), beside(self, 'post-build-hook'), facts.machine)
}

/** One of our programs: next to the name we were called by, else next to the file behind it. */
function beside(self: string, program: string): string {
  const places = [dirname(self), dirname(realpathSync(self))].map((directory) => join(directory, program))
  return places.find((file) => existsSync(file)) ?? program
}

function automaticChecks(facts: Facts): Check[] {
  const { config, machine } = facts
  const automatic = async (): Promise<boolean> => (await facts.session()) !== 'ENOENT'
  const withSystemd = (judge: () => Verdict | Promise<Verdict>) => async () => ((await automatic()) ? await judge() : ok('no systemd here'))
  return [
    {
      name: 'session',
      needs: ['configuration'],
      run: async () => judgeSession(await facts.session(), config?.uid ?? 0, machine),
    },
    { name: 'units', needs: ['session'], run: withSystemd(async () => judgeUnits(await facts.units(), machine)) },
    {
      name: 'timer',
      needs: ['session'],
      excuses: ['units'],
      run: withSystemd(async () => await facts.timer().then(({ enabled, active }) => judgeTimer(enabled, active))),
    },
    { name: 'linger', needs: ['session'], run: withSystemd(() => judgeLinger(lingers(machine.user), machine)) },
    { name: 'dispatcher', needs: [], root: true, run: () => judgeDispatcher(dispatcherFacts(), machine) },
  ]
}

async function checkConf(facts: Facts): Promise<Verdict> {
  const { conf: file } = facts.machine
  const hidden = hiddenOf(file)
  const includes = includesIn(file)
  return judgeConf(
    { settings: await facts.system(), version: (await facts.nix()).version, includes, ...(hidden ? { hidden } : {}) },
    facts.machine,
  )
}

/**
 * The user reads the configuration; nix-lan's programs that run as root trust it only if nobody
 * else can have written it.
 */
function judgeConfig(facts: Facts): Verdict {
  const { config, problem, none, machine } = facts
  const { doubt } = config?.file === SYSTEM_FILE && runsAsRoot(facts) ? programFacts(config.file, true) : {}
  if (doubt !== undefined) return failed(`root does not trust ${config?.file}: ${doubt.why}`, doubt.fix)
  if (config) return ok(`${config.file}: user ${config.user}, ${config.caches.map(({ name }) => name).join(', ')}`)
  const [first = ''] = problem.split('\n')
  if (none) return failed(first.replace(/\. First step: .*/, ''), setupFirst(machine))
  const [, cure] = /(sudo chmod a\+r \S+), and a\+x/.exec(first) ?? []
  if (cure) return failed(first.replace(/: this user may not; .*/, ': you may not read it'), cure)
  return failed(
    first,
    machine.kind === 'nixos' ? inConfigurationNix('services.nix-lan') : 'fix that line; `nix-lan doctor --offline` reads it again',
  )
}

/**
 * `runtime`, for the daemon's PATH as far as we can see it.
 * @param self the name we were called by
 */
async function checkRuntime(facts: Facts, self: string): Promise<Verdict> {
  const directories = [...new Set([...(await facts.daemonPath()).split(':'), ...DIRECTORIES])]
  const path = directories.join(':')
  const file = pinnedIn(beside(self, 'nix-lan-connect')) ?? findIn(directories, RUNTIMES)
  if (file === undefined) return judgeRuntime({ path, own: execPath }, facts.machine)
  const version = realpathSync(file) === realpathSync(execPath) ? ownVersion() : await versionOf(file, path)
  const { doubt } = programFacts(file, runsAsRoot(facts))
  return judgeRuntime({ file, version, path, own: execPath, ...(doubt === undefined ? {} : { doubt }) }, facts.machine)
}

const ownVersion = (): string => process.versions.deno ?? process.versions.bun ?? process.version

async function versionOf(file: string, path: string): Promise<string> {
  const asked = await run(file, ['--version'], { env: { PATH: path }, timeout: 20_000 })
  return asked.failedToStart ?? (asked.stdout.trim().split('\n')[0] || asked.stderr.trim().split('\n')[0] || '')
}

/** `bash`, for the same PATH. */
async function checkBash(facts: Facts): Promise<Verdict> {
  const { version } = await facts.nix()
  const path = await facts.daemonPath()
  return judgeBash(version !== undefined && needsBash(version), findIn(path.split(':'), ['bash']), path, facts.machine)
}

function keyFacts(settings: Settings): KeyFacts {
  const files = wordsOf(settings, 'secret-key-files')
  const trusted = wordsOf(settings, 'trusted-public-keys')
  const [file] = files
  if (file === undefined) return { files, trusted }
  const publicKey = publicKeyOf(file)
  const key = publicKey === undefined ? {} : { publicKey }
  try {
    return { files, trusted, mode: statSync(file).mode & 0o777, ...key }
  } catch (error) {
    return { files, trusted, missing: code(error), ...key }
  }
}

async function checkUnsigned({ machine }: Facts): Promise<Verdict> {
  const { built, unsigned } = await askBuilt()
  return judgeUnsigned(unsigned.length, built, machine)
}

// ---- a box

function boxChecks(facts: Facts, cache: SshCache, clean: (() => Promise<void>)[]): Check[] {
  const config = facts.config
  if (!config) return []
  const socket = socketPath(config.uid, cache.name)
  const forCache = (check: Omit<Check, 'cache'>): Check => ({ ...check, cache: cache.name })
  return [
    { name: 'substituter', needs: ['nix.conf'], root: true, run: async () => await checkSubstituter(facts, cache, config.uid) },
    { name: 'connect', needs: ['substituter'], root: true, run: async () => await checkConnect(facts, cache, config.uid) },
    {
      name: 'broker',
      needs: ['configuration'],
      root: true,
      run: async () => judgeBroker(await brokerFacts(cache, config.user), cache.name, facts.machine),
    },
    { name: 'own settings', needs: ['substituter'], run: async () => await checkOwn(facts, cache, socket) },
    {
      name: 'queue',
      needs: ['configuration'],
      root: true,
      run: () =>
        judgeQueue(
          queueFacts(cache.name, config.uid),
          config.user,
          makeQueue([queueDir(cache.name), failedDir(cache.name)], facts.machine),
        ),
    },
    { name: 'waiting', needs: ['queue'], run: () => checkEntries(cache, config) },
    { name: 'name', needs: ['configuration'], online: true, run: async () => judgeName(await facts.reach(cache), cache.host) },
    { name: 'port', needs: ['name'], online: true, run: async () => judgePort(await facts.reach(cache), cache.host, cache.port) },
    { name: 'login', needs: ['port'], online: true, run: async () => judgeLogin((await facts.probe(cache)).ssh) },
    { name: "box's daemon", needs: ['login'], online: true, run: async () => await checkBox(facts, cache) },
    {
      name: 'tunnel',
      needs: ["box's daemon"],
      excuses: ['runtime', 'units', 'timer', 'session'],
      online: true,
      run: async () => await checkTunnel(facts, cache, config.uid),
    },
    { name: 'kept', needs: ['tunnel'], online: true, run: async () => await checkKept(facts, cache, config.uid) },
    ...roundTripChecks(facts, config, cache, clean),
  ].map(forCache)
}

async function checkSubstituter(facts: Facts, cache: SshCache, uid: number): Promise<Verdict> {
  const { system } = facts.conf()
  const last = system.filter(({ key }) => key === 'substituters' || key === 'binary-caches').pop()
  const replacing = last ? lineWith(last.where, [last.key]) : undefined
  const about = {
    cache: cache.name,
    socket: socketPath(uid, cache.name),
    url: rightUrl(cache, uid, (await facts.nix()).version),
    settings: await settingsOf(facts),
    system,
    ours: isInBlock(readText(facts.machine.conf) ?? '', cache.name),
    ...(replacing ? { replacing } : {}),
  }
  return judgeSubstituter(about, facts.machine)
}

/** Whether the lines that setup wrote (setup/conf.ts) name a socket of this cache. */
const isInBlock = (text: string, cache: string): boolean =>
  new RegExp(`^# nix-lan begin[\\s\\S]*?/nix-lan/${cache}\\.sock[\\s\\S]*?^# nix-lan end`, 'm').test(text)

async function checkConnect(facts: Facts, cache: SshCache, uid: number): Promise<Verdict> {
  const found = connectFor(wordsOf(await settingsOf(facts), 'substituters'), cache.name, socketPath(uid, cache.name))
  const [, right = 'nix-lan-connect'] = /remote-program=([^%&]*)/.exec(rightUrl(cache, uid)) ?? []
  return judgeConnect(programFacts(found?.program ?? '', runsAsRoot(facts)), right, facts.machine)
}

async function checkOwn(facts: Facts, cache: SshCache, socket: string): Promise<Verdict> {
  const { system, all } = facts.conf()
  const flake = `${process.cwd()}/flake.nix`
  const replaces = flakeReplaces(readText(flake) ?? '')
  const own = { settings: await facts.own(), system, own: all.slice(system.length), behind: realPath }
  return judgeOwn({ cache: cache.name, socket, ...own, ...(replaces ? { flake } : {}) })
}

function checkEntries(cache: SshCache, { user, uid }: Config): Verdict {
  const { queued, failed: failures, junk } = readQueue(cache.name, user)
  const state = effectiveUid() === uid ? readUploadState(uid, cache.name) : undefined
  const stopped = state?.stopped ? { why: state.stopped, full: state.full !== null } : undefined
  return judgeEntries(queued.filter(({ path }) => wanted(cache, path)).length, failures.length, junk, cache.name, stopped)
}

async function checkBox(facts: Facts, cache: SshCache): Promise<Verdict> {
  const { handshake, socket, ssh } = await facts.probe(cache)
  return judgeBox(handshake, cache.daemonSocket, destinationOf(ssh), socket, ssh.log)
}

const destinationOf = ({ byHand }: { byHand: string }): string => byHand.replace(/^ssh /, '')

async function checkTunnel(facts: Facts, cache: SshCache, uid: number): Promise<Verdict> {
  const answer = await usable(cache, uid, Math.max(cache.deadline, 5000), FIRST_ANSWER)
  const units = (await facts.session()) !== 'ENOENT'
  const unit = answer.ok || !units ? { state: '', status: '' } : await tunnelFacts(cache.name)
  const reason = readTunnelState(uid, cache.name)?.reason ?? unit.status
  return judgeTunnel(answer, { units, state: unit.state, cache: cache.name, ...(reason ? { reason } : {}) })
}

/** How many uploaded paths the box is asked about. */
const SAMPLE = 1000

async function checkKept(facts: Facts, cache: SshCache, uid: number): Promise<Verdict> {
  const directory = ownTransfers()
  const given = pruneGiven(directory, cache.name, cache.keep || null, Date.now())
  const asked = sampleOf(given, SAMPLE).map(({ path }) => path)
  const limits = { deadline: Math.max(cache.deadline, 5000), patience: 20_000 }
  const [{ ssh }, there, disk, home] = await Promise.all([
    facts.probe(cache),
    validOnBox(socketPath(uid, cache.name), asked, limits),
    storesOf(cache, uid).disk(),
    homeOn(cache),
  ])
  const problem = cache.keep === 0 ? undefined : notKept(directory, cache.name)
  return judgeKept({ asked: asked.length, there: there.size, problem, disk, home }, cache.name, destinationOf(ssh))
}

async function homeOn(cache: SshCache): Promise<HomeFacts | undefined> {
  try {
    return await askHome(remoteOf(cache))
  } catch (error) {
    if (error instanceof Failure) return undefined
    throw error
  }
}

function roundTripChecks(facts: Facts, config: Config, cache: SshCache, clean: (() => Promise<void>)[]): Omit<Check, 'cache'>[] {
  let trip: ReturnType<typeof roundTrip> | undefined
  const start = async (): Promise<Verdict> => {
    const settings = await settingsOf(facts)
    const substituter = connectFor(wordsOf(settings, 'substituters'), cache.name, socketPath(config.uid, cache.name))?.url
    const [key = ''] = wordsOf(settings, 'secret-key-files')
    const publicKey = publicKeyOf(key)
    trip = roundTrip(config, cache, {
      machine: facts.machine,
      boxKeys: async () => await askKeys(await facts.probe(cache)),
      ...(publicKey ? { publicKey } : {}),
      ...(substituter ? { substituter } : {}),
    })
    clean.push(trip.clean)
    return await trip.build()
  }
  const never = failed('it was not built', null)
  return [
    { name: 'build', needs: ['daemon', 'hook', 'signing', 'connect', 'queue', 'bash'], online: true, run: start },
    { name: 'upload', needs: ['build', 'tunnel'], online: true, run: async () => (await trip?.upload()) ?? never },
    { name: 'fetch', needs: ['upload', 'own settings', 'runtime'], online: true, run: async () => (await trip?.fetch()) ?? never },
  ]
}

// ---- a cache behind a URL

function urlChecks(facts: Facts, cache: UrlCache): Check[] {
  return [
    { name: 'allowed', cache: cache.name, needs: ['nix.conf'], root: true, run: () => checkAllowed(facts, cache) },
    {
      name: 'answers',
      cache: cache.name,
      needs: ['configuration'],
      online: true,
      run: async () => await checkUrl(cache, facts.config?.uid ?? 0),
    },
  ]
}

/**
 * From a user it doesn't trust, the daemon accepts a substituter only if its own nix.conf names it.
 */
function checkAllowed(facts: Facts, cache: UrlCache): Verdict {
  const { system } = facts.conf()
  const allowed = [...valuesOf(system, new Set(['trusted-substituters', 'trusted-binary-caches']), []), ...substitutersOf(system)]
  const same = (url: string): string => url.replace(/\/$/, '')
  const { machine } = facts
  if (allowed.some((url) => same(url) === same(cache.url))) return ok(`${machine.conf} allows ${cache.url}`)
  return warning(
    `${machine.conf} does not name ${cache.url}: nix-daemon takes it only from trusted-users`,
    inSettings(machine, 'extra-trusted-substituters', cache.url, `[ "${cache.url}" ]`),
  )
}

async function checkUrl(cache: UrlCache, uid: number): Promise<Verdict> {
  const answer = await usable(cache, uid, cache.deadline)
  if (answer.ok) return ok(`${cache.url} answers, after ${answer.ms} ms`)
  return warning(`away: ${answer.reason}`, null)
}
