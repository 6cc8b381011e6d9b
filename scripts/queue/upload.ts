// Drains the queue of one cache. Decides only: how Nix is asked (stores.ts) and how links are moved
// (queue.ts) come in as arguments. The rules: a path leaves the queue only when the box has it with
// a signature this machine accepts, when it is set aside with the reason, when it is no longer in
// this store, or when it is unwanted. While the box is away nothing counts as a failure. One bad
// path never holds up the others.

import { Failure } from '../cli/errors.ts'
import { age, bytes } from '../cli/text.ts'
import { excluded } from '../config/exclude.ts'
import type { SshCache } from '../config/types.ts'
import { batches, errorText, pathsInError } from '../nix/nix.ts'
import { type Closure, type PathInfo, unsigned } from '../nix/path-info.ts'
import { isDerivation } from '../nix/store-path.ts'
import { onNixos } from '../system/nixos.ts'
import type { Amount } from '../system/upload-state.ts'
import type { Entry } from './queue.ts'

/**
 * The questions draining asks of the two stores. Each may throw a Failure if its store can't be
 * asked.
 */
export interface Stores {
  /** Undefined when the box can be used now, else why not. */
  away(): Promise<string | undefined>
  /** The ones that aren't valid in this store. */
  invalid(paths: string[]): Promise<string[]>
  /**
   * What this store knows of the paths and all they refer to, and which of them aren't valid in it.
   */
  closure(paths: string[]): Promise<Closure>
  /** The paths and everything in this store that refers to them, directly or not. */
  referrersClosure(paths: string[]): Promise<Set<string>>
  /** The ones the box lacks. */
  missing(paths: string[]): Promise<string[]>
  /** What the box knows of the paths, leaving out those it lacks. */
  onBox(paths: string[]): Promise<Map<string, PathInfo>>
  /** Gives the box this store's signatures. @returns undefined, or why the box didn't take them */
  deliver(paths: string[]): Promise<string | undefined>
  /**
   * Copies the closures.
   * @returns undefined, or Nix's stderr when it failed
   * @throws Silence
   */
  copy(paths: string[], derivations: boolean, patience: Patience): Promise<string | undefined>
  /**
   * Deletes what failed copies of these paths have left on the box: Nix keeps it until the next
   * copy of that path, or its garbage collection (2.8.0 and 2.34.8, local-store.cc, addToStore).
   * Never throws: what can't be deleted stays.
   */
  discard(paths: string[]): Promise<void>
  /** Has Nix ask the box about a path, the way it copies. @throws Failure when it can't */
  mustTakeNix(path: string): Promise<void>
  /**
   * The disk of the box's store; undefined if it can't be asked, as where ssh may run no command.
   */
  disk(): Promise<Disk | undefined>
  /** Names of the keys this machine trusts. */
  trustedKeys(): Promise<string[]>
}

/** Milliseconds for which a copy may get nowhere with a path; undefined: before the first. */
export type Patience = (path: string | undefined) => number

/** Bytes of the disk that holds a store. */
export interface Disk {
  total: number
  free: number
}

/** Where each entry's outcome goes as soon as it is known. */
export interface Ledger {
  /** How much is to be copied, as far as is known. */
  expects(amount: Amount): void
  /** `bytes`: of their own NARs, without what went along with them. */
  uploaded(entries: Entry[], bytes: number): Promise<void> | void
  failed(entry: Entry, reason: string): void
  /** Its path is no longer in this store. */
  invalid(entry: Entry): void
  /** The configuration excludes it from this cache. */
  unwanted(entry: Entry): void
  /** How often uploads have ended because the box took nothing more of a path. */
  silences?(path: string | undefined): number
  /** Now so many have; 0: that is forgotten. */
  silent?(path: string | undefined, times: number): void
}

/**
 * The box takes nothing more of a path, though it is there: ssh's own keep-alive ends the copy
 * otherwise.
 */
export class Silence extends Failure {
  /** Undefined: Nix had not begun any. */
  readonly path: string | undefined
  constructor(path: string | undefined, milliseconds: number) {
    const what = path === undefined ? '' : ` of ${nameOf(path)}`
    super(`the box takes nothing${path === undefined ? '' : ' more'}${what}: no progress for ${age(milliseconds)}`)
    this.path = path
  }
}

/**
 * How long a path may get nowhere, in milliseconds. A box may be silent for long after the last
 * byte: `min-free` there runs a whole garbage collection, auto-optimise-store links each file
 * (2.8.0, local-store.cc, addToStore).
 * @param bytes of its NAR
 * @param met how often it has exceeded that already
 */
export const patienceFor = (bytes: number, met: number): number => (600_000 + Math.ceil(bytes / 2 ** 20) * 1000) * 2 ** met

/** The silence with which a path is set aside. */
const LAST_SILENCE = 3

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
  /** Why draining stopped: a fault that is not any one path's. */
  stopped?: string
  /**
   * The box's disk has no room for a path of `need` bytes; smaller ones went. `free` is what the
   * box says, null if it doesn't.
   */
  full?: { need: number; free: number | null }
}

/** Whether the configuration wants a store path uploaded to this cache at all. */
export function wanted(cache: SshCache, path: string): boolean {
  return (cache.derivations || !isDerivation(path)) && !excluded(cache.exclude, path)
}

const keyName = (signature: string): string => signature.slice(0, signature.indexOf(':'))

/**
 * Whether this machine would take back what the box has: it is content-addressed, or signed by a
 * key this machine trusts. A signature this machine has itself counts too: if its key isn't
 * trusted, nix.conf is at fault, not the box.
 */
export function acceptable(box: PathInfo, here: PathInfo | undefined, trusted: readonly string[]): boolean {
  if (box.contentAddressed) return true
  return box.signatures.some((signature) => trusted.includes(keyName(signature)) || here?.signatures.includes(signature))
}

/** Whether the box's disk has no room. */
const boxIsFull = (stderr: string): boolean => /No space left on device|Disk quota exceeded|database or disk is full/.test(stderr)

/**
 * Whether the box is at fault rather than any path: the paths are to be tried again later,
 * unchanged.
 */
export const boxIsAtFault = (stderr: string): boolean =>
  boxIsFull(stderr) || /Read-only file system|Cannot allocate memory|Too many open files/.test(stderr)

/**
 * The Nix feature a path needs that is off (MissingExperimentalFeature in
 * libutil/experimental-features.cc, 2.8.0 and 2.34.8).
 */
const missingFeature = (text: string): string | undefined => /experimental Nix feature '([^']+)' is disabled/.exec(text)?.[1]

/**
 * 75 while anything is left that can go later, 1 when something was set aside or doesn't belong in
 * the queue, 0 when all is done. Junk counts because systemd's DirectoryNotEmpty= restarts the
 * upload at once, again and again, as long as an upload that left anything exits 0.
 * @param left entries that are still queued
 * @param junk things in the queue's directory that nix-lan didn't put there
 */
export function exitCode(summary: Summary, left: number, junk: number): number {
  if (left > 0) return 75
  return summary.failed.length > 0 || junk > 0 ? 1 : 0
}

// After this many single paths failed with a message that names none, and none succeeded, the paths
// aren't to blame.
const ENOUGH_SUSPECTS = 3

/** Bytes of NARs per copy: what has arrived is known after each. A single path may be larger. */
const BATCH = 256 * 2 ** 20

/** Above this many entries the box is asked only about them, not about all they refer to. */
const MANY = 2000

/**
 * Uploads one cache's entries, the smallest first. Reports each outcome to the ledger as it
 * happens, and all of them in the summary.
 * @param most entries of this many bytes or more wait: the box had no room for them
 */
export async function drain(
  entries: readonly Entry[],
  cache: SshCache,
  stores: Stores,
  ledger: Ledger,
  most = Number.POSITIVE_INFINITY,
): Promise<Summary> {
  return await new Upload(cache, stores, ledger, most).run(entries)
}

/** Thrown to stop draining where it is; whatever isn't done stays queued. */
class Stop extends Error {}

class Upload {
  readonly summary: Summary = { uploaded: [], failed: [], invalid: [], unwanted: [], unsigned: [] }
  readonly cache: SshCache
  readonly stores: Stores
  readonly ledger: Ledger
  /** The box has no room for a path of this many bytes. */
  most: number
  /** What this store knows of the paths and all they refer to. */
  here = new Map<string, PathInfo>()
  succeeded = false
  suspects: { entry: Entry; stderr: string }[] = []

  constructor(cache: SshCache, stores: Stores, ledger: Ledger, most: number) {
    this.cache = cache
    this.stores = stores
    this.ledger = ledger
    this.most = most
  }

  async run(entries: readonly Entry[]): Promise<Summary> {
    try {
      const kept = this.keepWanted(entries)
      if (kept.length === 0) return this.summary
      await this.stopIfAway()
      const ready = await this.keepReady(kept)
      for (const derivations of [false, true]) {
        const kind = ready.filter((entry) => isDerivation(entry.name) === derivations)
        for (const batch of this.batches(kind)) await this.copyAll(batch, derivations)
      }
    } catch (error) {
      if (error instanceof Failure) await this.stopOnFailure(error)
      else if (!(error instanceof Stop)) throw error
    }
    return this.summary
  }

  size = (path: string): number => this.here.get(path)?.size ?? 0

  /** The smallest first, in groups of up to BATCH bytes whose paths fit a command line. */
  batches(entries: readonly Entry[]): Entry[][] {
    const sorted = [...entries].sort((a, b) => this.size(a.path) - this.size(b.path) || a.added - b.added)
    const parts: Entry[][] = []
    let room = 0
    for (const entry of sorted) {
      const size = this.size(entry.path)
      const last = parts[parts.length - 1]
      if (last && size <= room) {
        last.push(entry)
        room -= size
      } else {
        parts.push([entry])
        room = BATCH - size
      }
    }
    return parts.flatMap(groups)
  }

  /**
   * Leaves out what isn't valid here, what Nix can't read, and what is held back for lack of a
   * signature or of room.
   */
  async keepReady(entries: Entry[]): Promise<Entry[]> {
    const { invalid, broken, infos } = await this.stores.closure(pathsOf(entries))
    this.here = infos
    const valid: Entry[] = []
    for (const entry of entries) {
      const problem = broken.get(entry.path)
      if (invalid.has(entry.path)) {
        this.summary.invalid.push(entry.path)
        this.ledger.invalid(entry)
      } else if (problem !== undefined) this.setAside(entry, unreadable(problem))
      else valid.push(entry)
    }
    if (valid.length === 0) return []
    const withoutSignature = [...infos].filter(([, info]) => unsigned(info)).map(([path]) => path)
    const asked = valid.length > MANY ? new Set([...pathsOf(valid), ...withoutSignature]) : infos.keys()
    const missing = new Set(await this.stores.missing([...asked]))
    // One unsigned path in a closure would fail the whole copy, unless the box has that path
    // already.
    const blockers = withoutSignature.filter((path) => missing.has(path))
    const blocked = blockers.length === 0 ? new Set<string>() : await this.stores.referrersClosure(blockers)
    for (const { path } of valid) if (blocked.has(path)) this.summary.unsigned.push(path)
    const large = [...missing].filter((path) => this.size(path) >= this.most)
    const held = large.length === 0 ? new Set<string>() : await this.stores.referrersClosure(large)
    const going = [...missing].filter((path) => !blocked.has(path) && !held.has(path))
    this.ledger.expects({ paths: going.length, bytes: going.reduce((sum, path) => sum + this.size(path), 0) })
    return valid.filter(({ path }) => !blocked.has(path) && !held.has(path))
  }

  keepWanted(entries: readonly Entry[]): Entry[] {
    const rest = entries.filter((entry) => !wanted(this.cache, entry.path))
    for (const entry of rest) {
      this.summary.unwanted.push(entry.path)
      this.ledger.unwanted(entry)
    }
    return entries.filter((entry) => wanted(this.cache, entry.path))
  }

  /** Copies until all of them are there or set aside; stops when the box is away. */
  async copyAll(entries: Entry[], derivations: boolean): Promise<void> {
    let rest = entries.filter(({ path }) => this.size(path) < this.most)
    let again = true
    while (rest.length > 0) {
      const stderr = await this.copy(rest, derivations)
      if (stderr instanceof Silence) {
        rest = await this.without(stderr, rest)
        continue
      }
      if (stderr === undefined) return await this.settle(rest, derivations)
      await this.stopIfAway()
      if (boxIsFull(stderr)) {
        await this.discardLeftovers(stderr)
        return await this.fill(rest, derivations, stderr)
      }
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

  /**
   * Copies once.
   * @returns undefined; Nix's stderr when it failed; Silence of a path that has met it often enough
   * @throws Silence, which ends the upload, the first times
   */
  async copy(entries: Entry[], derivations: boolean): Promise<string | undefined | Silence> {
    try {
      return await this.stores.copy(pathsOf(entries), derivations, (path) =>
        patienceFor(path === undefined ? 0 : this.size(path), this.ledger.silences?.(path) ?? 0),
      )
    } catch (error) {
      if (!(error instanceof Silence)) throw error
      const times = (this.ledger.silences?.(error.path) ?? 0) + 1
      this.ledger.silent?.(error.path, times < LAST_SILENCE ? times : 0)
      if (error.path === undefined || times < LAST_SILENCE) throw error
      return error
    }
  }

  /** Sets aside what the box has taken nothing of, often enough. @returns the other entries */
  async without({ path, message }: Silence, entries: Entry[]): Promise<Entry[]> {
    const held = await this.withIn(path, entries)
    for (const entry of held) this.setAside(entry, message)
    return entries.filter((entry) => !held.includes(entry))
  }

  /** The box is full: copies those of these entries, sorted by size, that still fit. */
  async fill(entries: Entry[], derivations: boolean, stderr: string): Promise<void> {
    const [only] = entries
    if (only && entries.length === 1) return await this.noRoomFor(only, stderr)
    const middle = Math.ceil(entries.length / 2)
    await this.copyAll(entries.slice(0, middle), derivations)
    await this.copyAll(entries.slice(middle), derivations)
  }

  /**
   * What a copy that found no room has written takes all the room there was: without its deletion
   * nothing else would fit, however small.
   */
  async discardLeftovers(stderr: string): Promise<void> {
    const begun = copiedIn(stderr).filter((path) => this.here.has(path))
    const leftovers = begun.length === 0 ? [] : await this.stores.missing(begun)
    if (leftovers.length > 0) await this.stores.discard(leftovers)
  }

  /** A path larger than the disk never fits: set aside. Else stops trying anything this large. */
  async noRoomFor(entry: Entry, stderr: string): Promise<void> {
    const path = lastCopied(stderr) ?? entry.path
    const need = this.size(path) || this.size(entry.path)
    const disk = await this.stores.disk()
    if (disk && need > disk.total) {
      const there = `the disk of the box's store has ${bytes(disk.total)} in all`
      this.setAside(entry, `too large for the box: ${nameOf(path)} needs ${bytes(need)}, and ${there}`)
      return
    }
    this.most = Math.max(1, need)
    this.summary.full = { need, free: disk?.free ?? null }
    const free = disk ? `, ${bytes(disk.free)} are free` : ''
    this.summary.stopped = `the box's disk is full: ${nameOf(path)} needs ${bytes(need)}${free} (${errorText(stderr)})`
  }

  /** The entries held up by the first path in Nix's message that is in any entry's closure. */
  async heldBy(stderr: string, entries: Entry[]): Promise<Entry[]> {
    for (const culprit of pathsInError(stderr)) {
      const held = await this.withIn(culprit, entries)
      if (held.length > 0) return held
    }
    return []
  }

  /** The entries that are this path, or need it. */
  async withIn(path: string | undefined, entries: Entry[]): Promise<Entry[]> {
    if (path === undefined) return []
    const invalid = (await this.stores.invalid([path])).length > 0
    const referrersClosure = invalid ? new Set([path]) : await this.stores.referrersClosure([path])
    return entries.filter((entry) => referrersClosure.has(entry.path))
  }

  /** The message names no path: finds the culprits by copying ever smaller halves. */
  async searchByHalves(entries: Entry[], derivations: boolean, stderr: string): Promise<void> {
    this.suspects = []
    await this.bisect(entries, derivations, stderr)
    // When everything fails alike, or the box can't even be asked, the fault is elsewhere: set
    // nothing aside.
    if (!this.succeeded && entries[0]) await this.stores.mustTakeNix(entries[0].path)
    if (this.suspects.length > 1 && !this.succeeded) this.stop(errorText(this.suspects[0]?.stderr ?? stderr))
    for (const { entry, stderr } of this.suspects) this.setAside(entry, errorText(stderr))
  }

  async bisect(entries: Entry[], derivations: boolean, stderr: string): Promise<void> {
    const [only] = entries
    if (only && entries.length === 1) {
      const feature = missingFeature(stderr)
      if (feature !== undefined) {
        this.setAside(only, `${errorText(stderr)} (on the box: add extra-experimental-features = ${feature} to nix.conf, then retry)`)
        return
      }
      this.suspects.push({ entry: only, stderr })
      if (this.suspects.length >= ENOUGH_SUSPECTS && !this.succeeded) this.stop(errorText(stderr))
      return
    }
    const middle = Math.ceil(entries.length / 2)
    for (const part of [entries.slice(0, middle), entries.slice(middle)]) {
      const failure = await this.copy(part, derivations)
      if (failure instanceof Silence) {
        await this.copyAll(await this.without(failure, part), derivations)
        continue
      }
      if (failure === undefined) {
        await this.settle(part, derivations)
        continue
      }
      await this.stopIfAway()
      await this.bisect(part, derivations, failure)
    }
  }

  /**
   * Settles entries after their copy succeeded. One that the box had built itself was not copied,
   * and neither was its signature (Nix issue 4981).
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
    await this.ledger.uploaded(
      done,
      done.reduce((sum, entry) => sum + (this.here.get(entry.path)?.size ?? 0), 0),
    )
  }

  /**
   * `withoutSignature`: entries the box has, but with no signature this machine accepts. `missing`:
   * entries it has already deleted again.
   */
  async inspect(entries: Entry[]): Promise<{ missing: Entry[]; withoutSignature: Entry[] }> {
    if (entries.length === 0) return { missing: [], withoutSignature: [] }
    const box = await this.stores.onBox(pathsOf(entries))
    const missing = entries.filter((entry) => !box.has(entry.path))
    const doubtful = (trusted: readonly string[]) => (entry: Entry) => {
      const there = box.get(entry.path)
      return there !== undefined && !acceptable(there, this.here.get(entry.path), trusted)
    }
    const unlike = entries.filter(doubtful([])) // hardly ever any, so Nix is rarely asked for its keys
    return { missing, withoutSignature: unlike.length === 0 ? [] : unlike.filter(doubtful(await this.stores.trustedKeys())) }
  }

  /** Nix's message and, if the box doesn't know the signing key, how to add it. */
  explain(stderr: string): string {
    const text = errorText(stderr)
    if (!/lacks a (valid )?signature/.test(text)) return text
    const culprit = pathsInError(stderr)[0] ?? ''
    const keys = (this.here.get(culprit)?.signatures ?? []).map(keyName)
    if (keys.length === 0) return text
    const [key] = keys
    return `${text} (it is signed by ${keys.join(', ')}: ${onNixos() ? '' : 'sudo nix-lan setup makes the box trust it; by hand, '}put the public key into trusted-public-keys in the box's nix.conf, in place of any other ${key}, since of two with one name Nix trusts only the first; then retry)`
  }

  /** Sets an entry aside; if that fails it stays queued, and holds up no other. */
  setAside(entry: Entry, reason: string): void {
    try {
      this.ledger.failed(entry, reason)
      this.summary.failed.push({ path: entry.path, reason })
    } catch (error) {
      if (!(error instanceof Failure)) throw error
      this.summary.stopped = error.message
    }
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

  /** A question went unanswered: the box is away, or something is wrong with Nix here. */
  async stopOnFailure(failure: Failure): Promise<void> {
    const why = await this.stores.away()
    if (why !== undefined) this.summary.away = why
    else this.summary.stopped = failure.message
  }
}

const unreadable = (problem: string): string =>
  missingFeature(problem) === undefined
    ? `this machine's Nix can't read it: ${problem}`
    : `${problem} (on this machine: add extra-experimental-features = ${missingFeature(problem)} to nix.conf, then retry)`

/** The paths Nix began to copy, in that order. */
const copiedIn = (stderr: string): string[] => [...stderr.matchAll(/^copying path '([^']+)'/gm)].map(([, path = '']) => path)

/** The path Nix began to copy last. */
const lastCopied = (stderr: string): string | undefined => copiedIn(stderr).at(-1)

const nameOf = (path: string): string => path.slice(path.lastIndexOf('/') + 34)

const builtThere = (path: string, refusal: string | undefined): string =>
  `the box built it too, so a copy is not sent, nor its signature (${refusal ?? 'it took none'}); ` +
  `on the box: sudo nix-store --delete ${path}, then retry`

const pathsOf = (entries: readonly Entry[]): string[] => entries.map((entry) => entry.path)

/** Groups entries so that each group's paths fit a command line. */
function groups(entries: readonly Entry[]): Entry[][] {
  let start = 0
  return batches(pathsOf(entries)).map((batch) => {
    const group = entries.slice(start, start + batch.length)
    start += batch.length
    return group
  })
}
