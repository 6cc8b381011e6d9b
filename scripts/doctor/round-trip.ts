// The proof: builds a tiny path, uploads it, deletes it here, fetches it back from the box with signatures required, and takes it away again
// everywhere. One that nobody else has (a random name in it), so that nothing is found where it should not be.
import { randomBytes } from 'node:crypto'
import { lstatSync, readlinkSync, unlinkSync } from 'node:fs'
import { storeUrl } from '../config/store-url.ts'
import { type Config, isSsh, type SshCache } from '../config/types.ts'
import { errorText, invalidPaths, nix, nixProgram } from '../nix/nix.ts'
import { pathInfos } from '../nix/path-info.ts'
import { storesOf } from '../queue/stores.ts'
import { drain, type Ledger } from '../queue/upload.ts'
import { failedDir, queueDir } from '../state/paths.ts'
import type { Outcome } from '../system/exec.ts'
import { failed, ok, skipped, type Verdict } from './check.ts'

/** Milliseconds for each step: a slow box and a busy disk get through, a hang ends. */
const STEP = 60_000

/** The steps of one cache; each is done once, when its check asks, and rests on those before it. */
export interface RoundTrip {
  build(): Promise<Verdict>
  upload(): Promise<Verdict>
  fetch(): Promise<Verdict>
  /** Takes away whatever is left: queue entries, the path here and on the box. Never throws. */
  clean(): Promise<void>
}

/**
 * `builtin:buildenv` is part of every Nix (src/libstore/builtins/buildenv.cc, 2.4 to 2.34.8, and Lix): it needs no shell, no nixpkgs and nothing in
 * the sandbox. With no packages it makes a directory with one link, manifest.nix, to what `manifest` says.
 */
export const expression = (content: string): string =>
  `derivation { name = "nix-lan-doctor"; system = "builtin"; builder = "builtin:buildenv"; derivations = ""; manifest = ${JSON.stringify(content)}; }`

/** Nothing is substituted, and nothing built elsewhere; all of them may be set by users whom the daemon doesn't trust. */
const HERE = ['--option', 'substitute', 'false', '--option', 'builders', '', '--option', 'max-jobs', '1']

/**
 * The round trip of a cache.
 * @param seen what an upload that the box refuses is explained with: the public key, and the destination to log in to
 */
export function roundTrip(config: Config, cache: SshCache, seen: { publicKey?: string; substituter?: string }): RoundTrip {
  const content = `/nix-lan-doctor/${new Date().toISOString().slice(0, 10)}/${randomBytes(12).toString('hex')}`
  let out = ''
  let drv = ''
  const started = Date.now()
  const boxUrl = (): string => storeUrl(cache, config.uid, { strict: true })

  return { build, upload, fetch, clean }

  async function build(): Promise<Verdict> {
    const made = await store('nix-instantiate', ['--expr', expression(content)])
    drv = made.stdout.trim()
    if (made.code !== 0) return failed(`a derivation can't be made: ${why(made)}`, null)
    const built = await store('nix-store', ['--realise', ...HERE, drv])
    if (built.code !== 0) return failed(`a build fails: ${why(built)}`, null)
    out = built.stdout.trim()
    if (content !== contentOf(out)) return failed(`${out} is not what was to be built`, null)
    // Out of the queue at once: it is ours to upload, and nothing of it should be left on the box.
    const queued = isQueued()
    unqueue()
    if (!queued)
      return failed(`what is built is not in ${queueDir(cache.name)}: the hook did not put it there`, 'sudo systemctl restart nix-daemon')
    const info = (await pathInfos([out], { timeout: STEP })).get(out)
    if (!info || info.signatures.length === 0)
      return failed('what is built carries no signature: nix-daemon has no secret-key-files', 'sudo systemctl restart nix-daemon')
    return ok(`a tiny path was built, signed by ${info.signatures.map((text) => text.split(':')[0]).join(' and ')}, and queued`)
  }

  async function upload(): Promise<Verdict> {
    const entry = { cache: cache.name, name: nameOf(out), path: out, state: 'queued' as const, added: started }
    const summary = await drain([entry], cache, storesOf(cache, config.uid, false), NO_LEDGER)
    const reason =
      summary.failed[0]?.reason ?? summary.away ?? summary.stopped ?? (summary.unsigned.length > 0 ? 'it is not signed' : undefined)
    if (reason !== undefined) return judgeUpload(reason, cache.ssh, seen.publicKey)
    if (summary.unwanted.length > 0) return skipped('exclude in the configuration keeps even nix-lan-doctor from being uploaded')
    if (summary.uploaded.length === 0) return failed('it invalid from the store before it was uploaded', null)
    return ok('the box took it')
  }

  async function fetch(): Promise<Verdict> {
    const deleted = await store('nix-store', ['--delete', out])
    if ((await invalidPaths([out], { timeout: STEP })).length === 0)
      return failed(`it can't be deleted here, so not fetched either: ${why(deleted)}`, null)
    const substituter = seen.substituter ?? storeUrl(cache, config.uid)
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
    const fetched = await store('nix-store', ['--realise', ...asked, out])
    if (fetched.code !== 0) return judgeFetch(why(fetched))
    if (content !== contentOf(out)) return failed(`${out} came back with another content`, null)
    return ok(`deleted here, and fetched back from the box; the round trip took ${((Date.now() - started) / 1000).toFixed(1)} s`)
  }

  async function clean(): Promise<void> {
    if (drv === '') return
    unqueue()
    const all = [out, drv].filter((path) => path !== '')
    // One at a time: a path that isn't valid any more fails the whole call.
    for (const path of all) await store('nix-store', ['--delete', path])
    for (const path of all) await nix(['store', 'delete', '--store', boxUrl(), path], { timeout: STEP }).catch(() => {})
  }

  function isQueued(): boolean {
    return [out, drv].some((path) => lstatSync(`${queueDir(cache.name)}/${nameOf(path)}`, { throwIfNoEntry: false }) !== undefined)
  }

  /** The links that the hook made, for every cache; only those two names. */
  function unqueue(): void {
    for (const { name } of config.caches.filter(isSsh)) {
      for (const directory of [queueDir(name), failedDir(name)])
        for (const path of [out, drv]) if (path !== '') unlink(`${directory}/${nameOf(path)}`)
    }
  }
}

/** The links in the queue are taken away by unqueue(), for every cache. */
const NO_LEDGER: Ledger = { uploaded: () => {}, failed: () => {}, invalid: () => {}, unwanted: () => {} }

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
    // it isn't there
  }
}

/** Why the box didn't take it; pure. The words are Nix's (src/libstore/local-store.cc, addToStore). */
export function judgeUpload(reason: string, destination: string, publicKey: string | undefined): Verdict {
  if (!/lacks a (valid )?signature/.test(reason)) return failed(`the box did not take it: ${reason}`, null)
  const key = publicKey ?? 'what is in /etc/nix/nix-lan.public'
  const found = `the box does not believe the key${publicKey ? ` ${publicKey.split(':')[0]}` : ''} of this machine`
  if (publicKey === undefined)
    return failed(found, `in the box's nix.conf: extra-trusted-public-keys = ${key}, then restart its nix-daemon`)
  return failed(
    found,
    `ssh -t ${destination} "echo 'extra-trusted-public-keys = ${key}' | sudo tee -a /etc/nix/nix.conf && sudo systemctl restart nix-daemon"`,
  )
}

/** Why it didn't come back; pure. */
export function judgeFetch(reason: string): Verdict {
  if (/lacks a (valid )?signature|signed by a trusted key/.test(reason)) {
    return failed('it came back, and was refused: nix-daemon does not believe its own key', 'sudo systemctl restart nix-daemon')
  }
  return failed(
    `the box has it, and nix-daemon did not fetch it: ${reason}`,
    'journalctl -u nix-daemon -n 20    # says what nix-lan-connect said',
  )
}
