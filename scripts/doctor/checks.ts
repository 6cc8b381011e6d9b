// The doctor's list: what is checked, in which order, and what each check rests on. Reading is in read-*.ts, judging in judge-*.ts.

import { existsSync, realpathSync, statSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { execPath } from 'node:process'
import { SYSTEM_FILE } from '../config/file.ts'
import { type Config, isSsh, type SshCache, type UrlCache } from '../config/types.ts'
import { readText, substitutersOf, valuesOf } from '../nix/nix-conf.ts'
import { type Settings, wordsOf } from '../nix/settings.ts'
import { howToMake, readQueue } from '../queue/queue.ts'
import { wanted } from '../queue/upload.ts'
import { usable } from '../reach/reach.ts'
import { socketPath } from '../state/paths.ts'
import { run } from '../system/exec.ts'
import { findIn, RUNTIMES } from '../system/runtime.ts'
import { DIRECTORIES } from '../system/search-path.ts'
import { lingers } from '../system/systemd.ts'
import { readTunnelState } from '../tunnel/state.ts'
import { type Check, failed, ok, type Verdict, warning } from './check.ts'
import { type Facts, includesIn, rightUrl } from './facts.ts'
import { judgeDispatcher, judgeLinger, judgeSession, judgeTimer, judgeTunnel, judgeUnits } from './judge-automatic.ts'
import { judgeBox, judgeLogin, judgeName, judgePort } from './judge-box.ts'
import { judgeBash, judgeConnect, judgeEntries, judgeHook, judgeKey, judgeQueue, judgeRuntime, judgeUnsigned } from './judge-files.ts'
import {
  afterwards,
  connectFor,
  flakeReplaces,
  judgeBuilders,
  judgeConf,
  judgeDaemon,
  judgeOwn,
  judgeSubstituter,
  judgeVersion,
  needsBash,
} from './judge-nix.ts'
import { tunnelFacts } from './read-automatic.ts'
import { code, dispatcherFacts, hiddenOf, hookFacts, lineWith, pinnedIn, programFacts, publicKeyBeside, queueFacts } from './read-files.ts'
import { askBuilt } from './read-nix.ts'
import { roundTrip } from './round-trip.ts'

/** All checks, in order: the machine's, then those of each cache. @param clean collects what has to be cleaned up at the end */
export function allChecks(facts: Facts, caches: Config['caches'], self: string, clean: (() => Promise<void>)[]): Check[] {
  const checks = [
    ...machineChecks(facts, self),
    ...caches.flatMap((cache) => (cache.kind === 'ssh' ? boxChecks(facts, cache, clean) : urlChecks(facts, cache))),
  ]
  return checks.map((check) => ({ ...check, run: async () => sudoFinds(await check.run(), self) }))
}

/**
 * `sudo nix-lan` with the place of nix-lan, unless sudo finds it everywhere: its secure_path need not have /usr/local/bin (Debian testing in
 * November 2026), and who may read sudoers(5) is root.
 */
export function sudoFinds(verdict: Verdict, self: string): Verdict {
  const program = resolve(self)
  if (verdict.fix === null || ['/usr/bin', '/run/current-system/sw/bin'].includes(dirname(program))) return verdict
  return { ...verdict, fix: verdict.fix.replaceAll('sudo nix-lan ', `sudo ${program} `) }
}

const settingsOf = async (facts: Facts): Promise<Settings> => {
  const settings = await facts.system()
  return typeof settings === 'string' ? new Map() : settings
}

function machineChecks(facts: Facts, self: string): Check[] {
  const boxes = (facts.config?.caches ?? []).some(isSsh)
  const always: Check[] = [
    { name: 'configuration', needs: [], run: () => judgeConfig(facts) },
    { name: 'nix', needs: [], run: async () => await facts.nix().then(({ version, why }) => judgeVersion(version, why)) },
    {
      name: 'nix.conf',
      needs: ['nix'],
      run: async () => await checkConf(facts),
    },
    { name: 'daemon', needs: ['nix'], run: async () => judgeDaemon(await facts.daemon()) },
  ]
  const forBoxes: Check[] = [
    { name: 'runtime', needs: [], run: () => checkRuntime(facts, self) },
    { name: 'bash', needs: ['nix'], run: async () => await checkBash(facts) },
    {
      name: 'hook',
      needs: ['nix.conf'],
      run: async () =>
        judgeHook(
          hookFacts((await settingsOf(facts)).get('post-build-hook') ?? '', !facts.single),
          beside(self, 'post-build-hook'),
          facts.confFile,
          afterwards(facts.single),
        ),
    },
    { name: 'signing', needs: ['nix.conf'], run: async () => judgeKey(keyFacts(await settingsOf(facts), facts.confFile)) },
    {
      name: 'builders',
      needs: ['nix.conf'],
      run: async () => judgeBuilders((await settingsOf(facts)).get('builders') ?? '', (file) => readText(file) ?? ''),
    },
    {
      name: 'unsigned',
      needs: ['nix.conf', 'daemon', 'signing'],
      online: true,
      run: checkUnsigned,
    },
    ...automaticChecks(facts),
  ]
  return boxes || !facts.config ? [...always, ...forBoxes] : always
}

/** A program of ours: beside the name that we were called by, else beside the file behind it. */
function beside(self: string, program: string): string {
  const places = [dirname(self), dirname(realpathSync(self))].map((directory) => join(directory, program))
  return places.find((file) => existsSync(file)) ?? program
}

function automaticChecks(facts: Facts): Check[] {
  const { config } = facts
  const automatic = async (): Promise<boolean> => (await facts.session()) !== 'ENOENT'
  const withSystemd = (judge: () => Verdict | Promise<Verdict>) => async () => ((await automatic()) ? await judge() : ok('no systemd here'))
  return [
    { name: 'session', needs: ['configuration'], run: async () => judgeSession(await facts.session(), facts.user, config?.uid ?? 0) },
    { name: 'units', needs: ['session'], run: withSystemd(async () => judgeUnits(await facts.units())) },
    {
      name: 'timer',
      needs: ['session'],
      excuses: ['units'],
      run: withSystemd(async () => await facts.timer().then(({ enabled, active }) => judgeTimer(enabled, active))),
    },
    { name: 'linger', needs: ['session'], run: withSystemd(() => judgeLinger(lingers(facts.user), facts.user)) },
    { name: 'dispatcher', needs: [], run: () => judgeDispatcher(dispatcherFacts(facts.single)) },
  ]
}

async function checkConf(facts: Facts): Promise<Verdict> {
  const { confFile: file } = facts
  const hidden = hiddenOf(file)
  const includes = includesIn(file)
  return judgeConf({ settings: await facts.system(), version: (await facts.nix()).version, file, includes, ...(hidden ? { hidden } : {}) })
}

/** The configuration is the user's to read; what is root's of nix-lan believes it only when nobody else can have written it. */
function judgeConfig({ config, problem, single }: Facts): Verdict {
  const { doubt } = config?.file === SYSTEM_FILE && !single ? programFacts(config.file, true) : {}
  if (doubt !== undefined) {
    return failed(`root does not believe ${config?.file}: ${doubt.why}`, doubt.fix)
  }
  if (config) return ok(`${config.file}: user ${config.user}, ${config.caches.map(({ name }) => name).join(', ')}`)
  const [first = '', ...more] = problem.split('\n')
  const [, cure] = /(sudo chmod a\+r \S+), and a\+x/.exec(first) ?? []
  if (cure) return failed(first.replace(/: this user may not; .*/, ': you may not read it'), cure)
  return failed(first, more.length > 0 ? more.join('\n').trim() : 'fix that line; `nix-lan doctor --offline` reads it again')
}

/** `runtime`, for the daemon's PATH as we can see it. @param self the name that we were called by */
export async function checkRuntime(facts: Facts, self: string): Promise<Verdict> {
  const directories = [...new Set([...(await facts.daemonPath()).split(':'), ...DIRECTORIES])]
  const path = directories.join(':')
  const file = pinnedIn(beside(self, 'nix-lan-connect')) ?? findIn(directories, RUNTIMES)
  if (file === undefined) return judgeRuntime({ path, own: execPath })
  const version = realpathSync(file) === realpathSync(execPath) ? ownVersion() : await versionOf(file, path)
  const { doubt } = programFacts(file, !facts.single)
  return judgeRuntime({ file, version, path, own: execPath, ...(doubt === undefined ? {} : { doubt }) })
}

const ownVersion = (): string => process.versions.deno ?? process.versions.bun ?? process.version

async function versionOf(file: string, path: string): Promise<string> {
  const asked = await run(file, ['--version'], { env: { PATH: path }, timeout: 20_000 })
  return asked.failedToStart ?? (asked.stdout.trim().split('\n')[0] || asked.stderr.trim().split('\n')[0] || '')
}

/** `bash`, likewise. */
export async function checkBash(facts: Facts): Promise<Verdict> {
  const { version } = await facts.nix()
  const path = await facts.daemonPath()
  return judgeBash(version !== undefined && needsBash(version), findIn(path.split(':'), ['bash']), path)
}

function keyFacts(settings: Settings, conf: string): Parameters<typeof judgeKey>[0] {
  const files = wordsOf(settings, 'secret-key-files')
  const trusted = wordsOf(settings, 'trusted-public-keys')
  const [file] = files
  if (file === undefined) return { files, trusted, conf }
  const publicKey = publicKeyBeside(file)
  const key = publicKey === undefined ? {} : { publicKey }
  try {
    return { files, trusted, conf, mode: statSync(file).mode & 0o777, ...key }
  } catch (error) {
    return { files, trusted, conf, missing: code(error), ...key }
  }
}

async function checkUnsigned(): Promise<Verdict> {
  const { built, unsigned } = await askBuilt()
  return judgeUnsigned(unsigned.length, built)
}

// ---- a box

function boxChecks(facts: Facts, cache: SshCache, clean: (() => Promise<void>)[]): Check[] {
  const config = facts.config
  if (!config) return []
  const socket = socketPath(config.uid, cache.name)
  const forCache = (check: Omit<Check, 'cache'>): Check => ({ ...check, cache: cache.name })
  return [
    { name: 'substituter', needs: ['nix.conf'], run: async () => await checkSubstituter(facts, cache, config.uid) },
    { name: 'connect', needs: ['substituter'], run: async () => await checkConnect(facts, cache, config.uid) },
    { name: 'own settings', needs: ['substituter'], run: async () => await checkOwn(facts, cache, socket) },
    {
      name: 'queue',
      needs: ['configuration'],
      run: () => judgeQueue(queueFacts(cache.name, config.uid), config.user, makeCommand(cache.name, config.user)),
    },
    { name: 'waiting', needs: ['queue'], run: () => checkEntries(cache, config.user) },
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
    ...roundTripChecks(facts, config, cache, clean),
  ].map(forCache)
}

function makeCommand(cache: string, user: string): string {
  return howToMake(cache, user).replace(/^.*: /, '')
}

async function checkSubstituter(facts: Facts, cache: SshCache, uid: number): Promise<Verdict> {
  const { system } = facts.conf()
  const last = system.filter(({ key }) => key === 'substituters' || key === 'binary-caches').pop()
  const replacing = last ? lineWith(last.where, [last.key]) : undefined
  return judgeSubstituter({
    cache: cache.name,
    socket: socketPath(uid, cache.name),
    url: rightUrl(cache, uid),
    settings: await settingsOf(facts),
    system,
    file: facts.confFile,
    after: afterwards(facts.single),
    ...(replacing ? { replacing } : {}),
  })
}

async function checkConnect(facts: Facts, cache: SshCache, uid: number): Promise<Verdict> {
  const found = connectFor(wordsOf(await settingsOf(facts), 'substituters'), cache.name, socketPath(uid, cache.name))
  const [, right = 'nix-lan-connect'] = /remote-program=([^%&]*)/.exec(rightUrl(cache, uid)) ?? []
  return judgeConnect(programFacts(found?.program ?? '', !facts.single), right, afterwards(facts.single))
}

async function checkOwn(facts: Facts, cache: SshCache, socket: string): Promise<Verdict> {
  const { system, all } = facts.conf()
  const flake = `${process.cwd()}/flake.nix`
  const replaces = flakeReplaces(readText(flake) ?? '')
  return judgeOwn({ cache: cache.name, socket, settings: await facts.own(), own: all.slice(system.length), ...(replaces ? { flake } : {}) })
}

function checkEntries(cache: SshCache, user: string): Verdict {
  const { queued, failed: failures, junk } = readQueue(cache.name, user)
  return judgeEntries(queued.filter(({ path }) => wanted(cache, path)).length, failures.length, junk, cache.name)
}

async function checkBox(facts: Facts, cache: SshCache): Promise<Verdict> {
  const { handshake, socket, ssh } = await facts.probe(cache)
  return judgeBox(handshake, cache.daemonSocket, ssh.byHand.replace(/^ssh /, ''), socket, ssh.log)
}

async function checkTunnel(facts: Facts, cache: SshCache, uid: number): Promise<Verdict> {
  const answer = await usable(cache, uid, Math.max(cache.deadline, 5000))
  const units = (await facts.session()) !== 'ENOENT'
  const unit = answer.ok || !units ? { state: '', status: '' } : await tunnelFacts(cache.name)
  const reason = readTunnelState(uid, cache.name)?.reason ?? unit.status
  return judgeTunnel(answer, { units, state: unit.state, cache: cache.name, ...(reason ? { reason } : {}) })
}

function roundTripChecks(facts: Facts, config: Config, cache: SshCache, clean: (() => Promise<void>)[]): Omit<Check, 'cache'>[] {
  let trip: ReturnType<typeof roundTrip> | undefined
  const start = async (): Promise<Verdict> => {
    const settings = await settingsOf(facts)
    const substituter = connectFor(wordsOf(settings, 'substituters'), cache.name, socketPath(config.uid, cache.name))?.url
    const [key = ''] = wordsOf(settings, 'secret-key-files')
    const publicKey = publicKeyBeside(key)
    trip = roundTrip(config, cache, { ...(publicKey ? { publicKey } : {}), ...(substituter ? { substituter } : {}) })
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
    { name: 'allowed', cache: cache.name, needs: ['nix.conf'], run: () => checkAllowed(facts, cache) },
    {
      name: 'answers',
      cache: cache.name,
      needs: ['configuration'],
      online: true,
      run: async () => await checkUrl(cache, facts.config?.uid ?? 0),
    },
  ]
}

/** The daemon takes a substituter from a user it doesn't trust only when its own nix.conf names it. */
function checkAllowed(facts: Facts, cache: UrlCache): Verdict {
  const { system } = facts.conf()
  const allowed = [...valuesOf(system, new Set(['trusted-substituters', 'trusted-binary-caches']), []), ...substitutersOf(system)]
  const same = (url: string): string => url.replace(/\/$/, '')
  if (allowed.some((url) => same(url) === same(cache.url))) return ok(`${facts.confFile} allows ${cache.url}`)
  return warning(
    `${facts.confFile} does not name ${cache.url}: nix-daemon takes it only from trusted-users`,
    `in ${facts.confFile}: extra-trusted-substituters = ${cache.url}`,
  )
}

async function checkUrl(cache: UrlCache, uid: number): Promise<Verdict> {
  const answer = await usable(cache, uid, cache.deadline)
  if (answer.ok) return ok(`${cache.url} answers, after ${answer.ms} ms`)
  return warning(`away: ${answer.reason}`, null)
}
