// Draining the queue of one cache: what is decided, apart from how Nix is asked (stores.ts) and how
// links are moved (queue.ts), which come in as arguments. The rules: a path leaves the queue only
// when the box has it with a signature that this machine accepts, or when it is set aside with the
// reason, or when it is not in this store any more, or unwanted. While the box is away nothing
// counts as a failure. One bad path never holds up the others.

import { Failure } from '../cli/errors.ts'
import { excluded } from '../config/exclude.ts'
import type { SshCache } from '../config/types.ts'
import { batches, errorText, pathsInError } from '../nix/nix.ts'
import { type Closure, type PathInfo, unsigned } from '../nix/path-info.ts'
import { isDerivation } from '../nix/store-path.ts'
import type { Entry } from './queue.ts'

/** What draining asks of the two stores. Each may throw a Failure when a store can't be asked. */
export interface Stores {
  /** Undefined when the box can be used now, else why not. */
  away(): Promise<string | undefined>
  /** Those that aren't valid in this store. */
  invalid(paths: string[]): Promise<string[]>
  /** What this store knows of the paths and all they refer to, and which aren't valid in it. */
  closure(paths: string[]): Promise<Closure>
  /** The paths and everything in this store that refers to them, directly or not. */
  referrersClosure(paths: string[]): Promise<Set<string>>
  /** Those that the box lacks. */
  missing(paths: string[]): Promise<string[]>
  /** What the box knows of the paths; one that it lacks is left out. */
  onBox(paths: string[]): Promise<Map<string, PathInfo>>
  /**
   * Gives the box the signatures that this store has.
   * @returns undefined, or the reason why the box didn't take them
   */
  deliver(paths: string[]): Promise<string | undefined>
  /** Copies the closures. @returns undefined, or the stderr of Nix when it failed */
  copy(paths: string[], derivations: boolean): Promise<string | undefined>
  /** @throws Failure when Nix itself, as it copies, can't ask the box about a path */
  mustTakeNix(path: string): Promise<void>
  /** Names of the keys that this machine believes. */
  trustedKeys(): Promise<string[]>
}

/** Where the outcome of each entry goes as soon as it is known. */
export interface Ledger {
  /** `bytes`: of their NARs, without what went along with them. */
  uploaded(entries: Entry[], bytes: number): void
  failed(entry: Entry, reason: string): void
  /** Its path isn't in this store any more. */
  invalid(entry: Entry): void
  /** The configuration says that it isn't for this cache. */
  unwanted(entry: Entry): void
}

/** What became of the entries. Those in none of the lists are still queued. */
export interface Summary {
  uploaded: string[]
  failed: { path: string; reason: string }[]
  invalid: string[]
  unwanted: string[]
  /** Still queued, because they, or something they need, carry no signature. */
  unsigned: string[]
  /** Why draining stopped: the box is away. */
  away?: string
  /** Why draining stopped: something that is no single path's fault. */
  stopped?: string
}

/** Whether the configuration wants a store path uploaded to this cache at all. */
export function wanted(cache: SshCache, path: string): boolean {
  return (cache.derivations || !isDerivation(path)) && !excluded(cache.exclude, path)
}

const keyName = (signature: string): string => signature.slice(0, signature.indexOf(':'))

/**
 * Whether what the box has could come back: content-addressed, or with a signature of a key that
 * this machine believes. A signature that this machine has itself counts too: when its key isn't
 * believed, nix.conf is at fault, not the box.
 */
export function acceptable(box: PathInfo, here: PathInfo | undefined, trusted: readonly string[]): boolean {
  if (box.contentAddressed) return true
  return box.signatures.some((signature) => trusted.includes(keyName(signature)) || here?.signatures.includes(signature))
}

/** Faults of the box that no path is to blame for: to be tried again later, as they are. */
export const boxIsAtFault = (stderr: string): boolean =>
  /No space left on device|Disk quota exceeded|Read-only file system|Cannot allocate memory|Too many open files|database or disk is full/.test(
    stderr,
  )

/**
 * 75 while anything is left that can go later, 1 when something was set aside or doesn't belong
 * into the queue, 0 when all is done. Junk counts because systemd's DirectoryNotEmpty= starts the
 * upload anew, without a pause, as long as an upload that left anything exits 0.
 * @param left entries that are still queued
 * @param junk things in the queue's directory that nix-lan didn't put there
 */
export function exitCode(summary: Summary, left: number, junk: number): number {
  if (left > 0) return 75
  return summary.failed.length > 0 || junk > 0 ? 1 : 0
}

// Without one success, after so many single paths that failed with a message that names none, it
// isn't the paths.
const ENOUGH_SUSPECTS = 3

/**
 * Uploads the entries of one cache; what happened is told to the ledger as it happens, and is in
 * the summary.
 */
export async function drain(entries: readonly Entry[], cache: SshCache, stores: Stores, ledger: Ledger): Promise<Summary> {
  return await new Upload(cache, stores, ledger).run(entries)
}

/** Thrown to stop draining where it is: everything that isn't done stays queued. */
class Stop extends Error {}

class Upload {
  readonly summary: Summary = { uploaded: [], failed: [], invalid: [], unwanted: [], unsigned: [] }
  readonly cache: SshCache
  readonly stores: Stores
  readonly ledger: Ledger
  /** What this store knows of the paths of the present batch and all they refer to. */
  here = new Map<string, PathInfo>()
  succeeded = false
  suspects: { entry: Entry; stderr: string }[] = []

  constructor(cache: SshCache, stores: Stores, ledger: Ledger) {
    this.cache = cache
    this.stores = stores
    this.ledger = ledger
  }

  async run(entries: readonly Entry[]): Promise<Summary> {
    try {
      const kept = this.keepWanted(entries)
      if (kept.length === 0) return this.summary
      await this.stopIfAway()
      for (const derivations of [false, true]) {
        const kind = kept.filter((entry) => isDerivation(entry.name) === derivations)
        for (const group of groups(kind)) await this.upload(group, derivations)
      }
    } catch (error) {
      if (error instanceof Failure) await this.stopOnFailure(error)
      else if (!(error instanceof Stop)) throw error
    }
    return this.summary
  }

  keepWanted(entries: readonly Entry[]): Entry[] {
    const rest = entries.filter((entry) => !wanted(this.cache, entry.path))
    for (const entry of rest) {
      this.summary.unwanted.push(entry.path)
      this.ledger.unwanted(entry)
    }
    return entries.filter((entry) => wanted(this.cache, entry.path))
  }

  async upload(entries: Entry[], derivations: boolean): Promise<void> {
    const { invalid, infos } = await this.stores.closure(pathsOf(entries))
    this.here = infos
    for (const entry of entries.filter((entry) => invalid.has(entry.path))) {
      this.summary.invalid.push(entry.path)
      this.ledger.invalid(entry)
    }
    const valid = entries.filter((entry) => !invalid.has(entry.path))
    await this.copyAll(await this.keepSigned(valid), derivations)
  }

  /**
   * Without this, one unsigned path in a closure would make the whole copy fail. What the box has
   * doesn't count.
   */
  async keepSigned(entries: Entry[]): Promise<Entry[]> {
    const withoutSignature = [...this.here].filter(([, info]) => unsigned(info)).map(([path]) => path)
    const missing = withoutSignature.length > 0 ? await this.stores.missing(withoutSignature) : []
    if (missing.length === 0) return entries
    const referrersClosure = await this.stores.referrersClosure(missing)
    for (const entry of entries) if (referrersClosure.has(entry.path)) this.summary.unsigned.push(entry.path)
    return entries.filter((entry) => !referrersClosure.has(entry.path))
  }

  /** Copies until all of them are there, or set aside; stops when the box is away. */
  async copyAll(entries: Entry[], derivations: boolean): Promise<void> {
    let rest = entries
    let again = true
    while (rest.length > 0) {
      const stderr = await this.stores.copy(pathsOf(rest), derivations)
      if (stderr === undefined) return await this.settle(rest, derivations)
      await this.stopIfAway()
      if (boxIsAtFault(stderr)) this.stop(errorText(stderr))
      const held = await this.heldBy(stderr, rest)
      if (held.length > 0) {
        for (const entry of held) this.setAside(entry, this.explain(stderr))
        rest = rest.filter((entry) => !held.includes(entry))
      } else if (again) {
        again = false // the box may have been away for a moment
      } else {
        await this.searchByHalves(rest, derivations, stderr)
        return
      }
    }
  }

  /** The entries whose closure holds the first path in Nix's message that any of them does. */
  async heldBy(stderr: string, entries: Entry[]): Promise<Entry[]> {
    for (const culprit of pathsInError(stderr)) {
      const invalid = (await this.stores.invalid([culprit])).length > 0
      const referrersClosure = invalid ? new Set([culprit]) : await this.stores.referrersClosure([culprit])
      const held = entries.filter((entry) => referrersClosure.has(entry.path))
      if (held.length > 0) return held
    }
    return []
  }

  /** The message names no path: the culprits are found by copying halves of the halves. */
  async searchByHalves(entries: Entry[], derivations: boolean, stderr: string): Promise<void> {
    this.suspects = []
    await this.bisect(entries, derivations, stderr)
    // When everything fails alike, or the box can't even be asked, the fault is elsewhere, and
    // nothing is set aside.
    if (!this.succeeded && entries[0]) await this.stores.mustTakeNix(entries[0].path)
    if (this.suspects.length > 1 && !this.succeeded) this.stop(errorText(this.suspects[0]?.stderr ?? stderr))
    for (const { entry, stderr } of this.suspects) this.setAside(entry, errorText(stderr))
  }

  async bisect(entries: Entry[], derivations: boolean, stderr: string): Promise<void> {
    const [only] = entries
    if (only && entries.length === 1) {
      this.suspects.push({ entry: only, stderr })
      if (this.suspects.length >= ENOUGH_SUSPECTS && !this.succeeded) this.stop(errorText(stderr))
      return
    }
    const middle = Math.ceil(entries.length / 2)
    for (const part of [entries.slice(0, middle), entries.slice(middle)]) {
      const failure = await this.stores.copy(pathsOf(part), derivations)
      if (failure === undefined) {
        await this.settle(part, derivations)
        continue
      }
      await this.stopIfAway()
      await this.bisect(part, derivations, failure)
    }
  }

  /**
   * They were copied. One that the box had built itself was not, and neither was its signature (Nix
   * issue 4981).
   */
  async settle(entries: Entry[], derivations: boolean): Promise<void> {
    this.succeeded = true
    const unsure = derivations ? [] : entries.filter((entry) => !this.here.get(entry.path)?.contentAddressed)
    let { missing, withoutSignature } = await this.inspect(unsure)
    const signed = withoutSignature.filter((entry) => (this.here.get(entry.path)?.signatures.length ?? 0) > 0)
    if (signed.length > 0) {
      const refusal = await this.stores.deliver(pathsOf(signed))
      ;({ missing, withoutSignature } = await this.inspect(unsure))
      for (const entry of withoutSignature) if (signed.includes(entry)) this.setAside(entry, builtThere(entry.path, refusal))
    }
    for (const entry of withoutSignature) if (!signed.includes(entry)) this.summary.unsigned.push(entry.path)
    const done = entries.filter((entry) => !withoutSignature.includes(entry) && !missing.includes(entry))
    this.summary.uploaded.push(...pathsOf(done))
    this.ledger.uploaded(
      done,
      done.reduce((sum, entry) => sum + (this.here.get(entry.path)?.size ?? 0), 0),
    )
  }

  /**
   * `withoutSignature`: what the box has without a signature that this machine accepts. `missing`:
   * what it has already deleted again.
   */
  async inspect(entries: Entry[]): Promise<{ missing: Entry[]; withoutSignature: Entry[] }> {
    if (entries.length === 0) return { missing: [], withoutSignature: [] }
    const box = await this.stores.onBox(pathsOf(entries))
    const missing = entries.filter((entry) => !box.has(entry.path))
    const doubtful = (trusted: readonly string[]) => (entry: Entry) => {
      const there = box.get(entry.path)
      return there !== undefined && !acceptable(there, this.here.get(entry.path), trusted)
    }
    const unlike = entries.filter(doubtful([])) // hardly ever any: then Nix need not be asked for its keys
    return { missing, withoutSignature: unlike.length === 0 ? [] : unlike.filter(doubtful(await this.stores.trustedKeys())) }
  }

  /** Nix's message, and for a signature that the box doesn't know whose it is. */
  explain(stderr: string): string {
    const text = errorText(stderr)
    if (!/lacks a (valid )?signature/.test(text)) return text
    const culprit = pathsInError(stderr)[0] ?? ''
    const keys = (this.here.get(culprit)?.signatures ?? []).map(keyName)
    if (keys.length === 0) return text
    return `${text} (it is signed by ${keys.join(', ')}: add the public key to trusted-public-keys in the box's nix.conf, then retry)`
  }

  setAside(entry: Entry, reason: string): void {
    this.summary.failed.push({ path: entry.path, reason })
    this.ledger.failed(entry, reason)
  }

  async stopIfAway(): Promise<void> {
    const why = await this.stores.away()
    if (why === undefined) return
    this.summary.away = why
    throw new Stop()
  }

  stop(why: string): never {
    this.summary.stopped = why
    throw new Stop()
  }

  /**
   * A question that wasn't answered: because the box is away, or something is wrong with Nix here.
   */
  async stopOnFailure(failure: Failure): Promise<void> {
    const why = await this.stores.away()
    if (why !== undefined) this.summary.away = why
    else this.summary.stopped = failure.message
  }
}

const builtThere = (path: string, refusal: string | undefined): string =>
  `the box built it too, so a copy is not sent, nor its signature (${refusal ?? 'it took none'}); ` +
  `on the box: sudo nix-store --delete ${path}, then retry`

const pathsOf = (entries: readonly Entry[]): string[] => entries.map((entry) => entry.path)

/** Entries in groups whose paths fit a command line. */
function groups(entries: readonly Entry[]): Entry[][] {
  let start = 0
  return batches(pathsOf(entries)).map((batch) => {
    const group = entries.slice(start, start + batch.length)
    start += batch.length
    return group
  })
}
