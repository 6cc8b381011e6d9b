// Proves that it all works: builds a tiny path, uploads it, deletes it here, fetches it back from
// the box with its signature required, and removes it everywhere. Nobody else has it (it contains a
// random name), its only GC root is the hook's link in the queue, which is removed at once, and it
// never counts as fetched (store-path.ts, isProbe).
import { randomBytes } from 'node:crypto'
import { lstatSync, readlinkSync, unlinkSync } from 'node:fs'
import { storeUrl } from '../config/store-url.ts'
import { type Config, isSsh, type SshCache } from '../config/types.ts'
import { clashes } from '../nix/keys.ts'
import { errorText, invalidPaths, nix, nixProgram } from '../nix/nix.ts'
import { readText } from '../nix/nix-conf.ts'
import { pathInfos } from '../nix/path-info.ts'
import { PROBE_NAME, storeDir } from '../nix/store-path.ts'
import { outputsOf } from '../queue/outputs.ts'
import { strayQueues } from '../queue/queue.ts'
import { storesOf } from '../queue/stores.ts'
import { drain, type Ledger } from '../queue/upload.ts'
import type { Outcome } from '../system/exec.ts'
import { failedDir, queueDir } from '../system/paths.ts'
import { failed, ok, skipped, type Verdict } from './check.ts'
import { DAEMON_JOURNAL, inConfigurationNix, type Machine, RESTART_DAEMON, setupAgain } from './fixes.ts'
import type { BoxKeys } from './judge-box.ts'

/** Milliseconds for each step: enough for a slow box and a busy disk; ends a hang. */
const STEP = 60_000

/** The steps for one cache; each runs once, when its check asks, after the steps before it. */
export interface RoundTrip {
  build(): Promise<Verdict>
  upload(): Promise<Verdict>
  fetch(): Promise<Verdict>
  /** Removes what is left: queue entries, the path here and on the box. Never throws. */
  clean(): Promise<void>
}

/**
 * `builtin:buildenv` is part of every Nix (src/libstore/builtins/buildenv.cc, 2.4 to 2.34.8, and
 * Lix): it needs no shell, no nixpkgs and nothing in the sandbox. Without packages it makes a
 * directory with one link, manifest.nix, to the value of `manifest`.
 */
export const expression = (content: string): string =>
  `derivation { name = "${PROBE_NAME}"; system = "builtin"; builder = "builtin:buildenv"; derivations = ""; manifest = ${JSON.stringify(content)}; }`

/** How often to try deleting a path still in use, and the milliseconds between tries. */
const ATTEMPTS = 5
const PAUSE = 500

/** Milliseconds for an interrupted step to end. */
const LAST_WORD = 10_000

/**
 * Substitutes nothing and builds nothing elsewhere; even users the daemon doesn't trust may set all
 * of these.
 */
const HERE = ['--option', 'substitute', 'false', '--option', 'builders', '', '--option', 'max-jobs', '1']

/** What the round trip needs. */
export interface Means {
  machine: Machine
  publicKey?: string
  substituter?: string
  /** What the box trusts; asked only if it refuses the upload. */
  boxKeys(): Promise<BoxKeys | undefined>
}

/** The round trip of a cache. */
export function roundTrip(config: Config, cache: SshCache, means: Means): RoundTrip {
  const content = `/nix-lan-doctor/${new Date().toISOString().slice(0, 10)}/${randomBytes(12).toString('hex')}`
  let out = ''
  let drv = ''
  const started = Date.now()
  const boxUrl = (): string => storeUrl(cache, config.uid, { strict: true })

  /** What clean() aborts and waits for: a step still running would bring back what was removed. */
  const stop = new AbortController()
  let running: Promise<unknown> = Promise.resolve()
  const step = (run: () => Promise<Verdict>) => (): Promise<Verdict> => {
    if (stop.signal.aborted) return Promise.resolve(skipped('interrupted'))
    const verdict = run()
    running = verdict.catch(() => {})
    return verdict
  }
  const ask = (program: string, args: readonly string[]): Promise<Outcome> =>
    nixProgram(program, args, { timeout: STEP, abort: stop.signal })

  return { build: step(build), upload: step(upload), fetch: step(fetch), clean }

  async function build(): Promise<Verdict> {
    const made = await ask('nix-instantiate', ['--expr', expression(content)])
    drv = made.stdout.trim()
    if (made.code !== 0) return failed(`a derivation can't be made: ${why(made)}`, null)
    // Known before the build, so an interrupted one leaves nothing behind either.
    out = outputsOf(readText(drv) ?? '', storeDir)?.[0] ?? ''
    const built = await ask('nix-store', ['--realise', ...HERE, drv])
    if (built.code !== 0) return failed(`a build fails: ${why(built)}`, null)
    if (content !== contentOf(out)) return failed(`${out} is not what should have been built`, null)
    // At once: the doctor uploads it itself, and the link is a GC root.
    const queued = isQueued()
    unqueue()
    if (!queued) return failed(`the hook did not put what was built into ${queueDir(cache.name)}`, RESTART_DAEMON)
    const info = (await pathInfos([out], { timeout: STEP })).get(out)
    if (!info || info.signatures.length === 0)
      return failed('what was built carries no signature: nix-daemon has no secret-key-files', RESTART_DAEMON)
    return ok(`a tiny path was built, signed by ${info.signatures.map((text) => text.split(':')[0]).join(' and ')}, and queued`)
  }

  async function upload(): Promise<Verdict> {
    const entry = { cache: cache.name, name: nameOf(out), path: out, state: 'queued' as const, added: started }
    const summary = await drain([entry], cache, storesOf(cache, config.uid), NO_LEDGER)
    const reason =
      summary.failed[0]?.reason ?? summary.away ?? summary.stopped ?? (summary.unsigned.length > 0 ? 'it is not signed' : undefined)
    if (reason !== undefined)
      return judgeUpload(reason, means.machine, means.publicKey, isRefused(reason) ? await means.boxKeys() : undefined)
    if (summary.unwanted.length > 0) return skipped('exclude in the configuration keeps even nix-lan-doctor from being uploaded')
    if (summary.uploaded.length === 0) return failed('it was deleted from the store before it was uploaded', null)
    return ok('the box took it')
  }

  async function fetch(): Promise<Verdict> {
    const kept = await remove()
    if (kept !== undefined) return failed(`it can't be deleted here, and so not fetched: ${kept}`, null)
    const substituter = means.substituter ?? storeUrl(cache, config.uid)
    const asked = [
      '--option',
      'substituters',
      substituter,
      '--option',
      'require-sigs',
      'true',
      '--option',
      'builders',
      '',
      '--option',
      'max-jobs',
      '0',
    ]
    if (stop.signal.aborted) return skipped('interrupted')
    const fetched = await ask('nix-store', ['--realise', ...asked, out])
    if (fetched.code !== 0) return judgeFetch(why(fetched))
    if (content !== contentOf(out)) return failed(`${out} came back with another content`, null)
    return ok(`deleted here, and fetched back from the box; the round trip took ${((Date.now() - started) / 1000).toFixed(1)} s`)
  }

  async function clean(): Promise<void> {
    stop.abort()
    await Promise.race([running, new Promise((done) => setTimeout(done, LAST_WORD))])
    if (drv === '') return
    unqueue()
    await remove().catch(() => {})
    for (const path of [out, drv].filter(Boolean)) await nix(['store', 'delete', '--store', boxUrl(), path], { timeout: STEP })
  }

  /**
   * Deletes output and derivation here, in one call: with keep-outputs the derivation keeps the
   * output alive, with keep-derivations the output keeps the derivation (src/libstore/gc.cc, 2.8.0
   * and 2.34.8). Retries while a background upload still holds them.
   * @returns why the output is still there
   */
  async function remove(): Promise<string | undefined> {
    const all = [out, drv].filter(Boolean)
    for (let attempt = 1; ; attempt++) {
      const invalid = new Set(await invalidPaths(all, { timeout: STEP }))
      const valid = all.filter((path) => !invalid.has(path)) // one invalid path fails the whole call
      if (valid.length === 0) return undefined
      const deleted = await store('nix-store', ['--delete', ...valid])
      if (deleted.code === 0) return undefined
      if (attempt === ATTEMPTS) return valid.includes(out) ? why(deleted) : undefined
      await new Promise((done) => setTimeout(done, PAUSE))
      unqueue()
    }
  }

  function isQueued(): boolean {
    return [out, drv].some((path) => lstatSync(`${queueDir(cache.name)}/${nameOf(path)}`, { throwIfNoEntry: false }) !== undefined)
  }

  /** Removes the hook's links, for every cache, and from queues that no cache has; only those two names. */
  function unqueue(): void {
    const caches = config.caches.filter(isSsh).map(({ name }) => name)
    for (const name of [...caches, ...strayQueues(caches).map(({ cache: lost }) => lost)]) {
      for (const directory of [queueDir(name), failedDir(name)])
        for (const path of [out, drv]) if (path !== '') unlink(`${directory}/${nameOf(path)}`)
    }
  }
}

/** Does nothing: unqueue() removes the links. */
const NO_LEDGER: Ledger = { expects: () => {}, uploaded: () => {}, failed: () => {}, invalid: () => {}, unwanted: () => {} }

const nameOf = (path: string): string => path.slice(path.lastIndexOf('/') + 1)

const store = (program: string, args: readonly string[]): Promise<Outcome> => nixProgram(program, args, { timeout: STEP })

const why = (outcome: Outcome): string =>
  outcome.failedToStart
    ? `${outcome.failedToStart}`
    : outcome.timedOut
      ? `nothing happened for ${STEP / 1000} s`
      : errorText(outcome.stderr)

function contentOf(out: string): string {
  try {
    return readlinkSync(`${out}/manifest.nix`)
  } catch {
    return ''
  }
}

function unlink(file: string): void {
  try {
    unlinkSync(file)
  } catch {
    // it doesn't exist
  }
}

/** Matches Nix's message (src/libstore/local-store.cc, addToStore). */
const isRefused = (reason: string): boolean => /lacks a (valid )?signature/.test(reason)

/**
 * Why the box refused it; pure.
 * @param box what it trusts, undefined if it doesn't tell
 */
export function judgeUpload(reason: string, machine: Machine, publicKey = '', box?: BoxKeys): Verdict {
  if (!isRefused(reason)) return failed(`the box did not take it: ${reason}`, null)
  const name = publicKey.slice(0, publicKey.indexOf(':'))
  const key = publicKey || 'what is in /etc/nix/nix-lan.public'
  const clash = publicKey && box && clashes([publicKey], box.trusted).length > 0
  const other = `the box trusts another key called ${name}, and of two with one name Nix trusts only the first`
  const found = clash ? other : `the box does not trust this machine's key${name ? ` ${name}` : ''}`
  if (box?.nixos)
    return failed(found, inConfigurationNix(`services.nix-lan.box.trustedPublicKeys = [ "${key}" ];`).replace('in', 'on the box, in'))
  if (clash) return failed(found, `in the box's nix.conf: put ${key} in place of the other ${name}, then restart its nix-daemon`)
  if (machine.recorded) return failed(found, setupAgain(machine))
  return failed(found, `in the box's nix.conf: extra-trusted-public-keys = ${key}, then restart its nix-daemon`)
}

/** Why it didn't come back; pure. */
export function judgeFetch(reason: string): Verdict {
  if (/lacks a (valid )?signature|signed by a trusted key/.test(reason))
    return failed('it came back, and was refused: nix-daemon does not trust its own key', RESTART_DAEMON)
  return failed(`the box has it, and nix-daemon did not fetch it: ${reason}`, DAEMON_JOURNAL)
}
