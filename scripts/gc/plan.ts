// Decides what `nix-lan gc` deletes and what it leaves, and why. Pure. Nix deletes a path only
// together with all that refers to it, and with keep-outputs and keep-derivations (nix.conf(5))
// outputs only with their derivations or the other way round (src/libstore/gc.cc,
// deleteReferrersClosure, 2.8.0 and 2.34.8). So it selects units: a path with all that has to go
// with it.
import { isDerivation } from '../nix/store-path.ts'
import { type Doubt, type Local, referrersIn } from './confirm.ts'

/** Why a dead path stays. */
export type Reason =
  | Doubt
  /** No box has it, nor would be given it. */
  | 'unwanted'
  /** Never fetched (allowSubstitutes = false). */
  | 'not-fetched'
  /** Registered too recently for --older-than. */
  | 'recent'
  /** Something that has to go with it, or before it, stays. */
  | 'needed'
  /** The limits are reached. */
  | 'limit'

/** What the plan rests on. */
export interface Facts {
  /** The valid paths that nothing roots. */
  dead: ReadonlyMap<string, Local>
  /** Why a dead path can't be had back; a path that isn't in it can. */
  doubts: ReadonlyMap<string, Doubt>
  /** Outputs that are never fetched because they build quickly. */
  notFetched: ReadonlySet<string>
  /** Whether the configuration lets a path be uploaded. */
  wanted?: (path: string) => boolean
  keepOutputs: boolean
  keepDerivations: boolean
  /** Each dead path's valid derivations; needed only with keepOutputs. */
  derivers: ReadonlyMap<string, readonly string[]>
}

/** What the user wants. Sizes are bytes of NARs, times are seconds since 1970. */
export interface Wishes {
  /** Delete at most this much. */
  most?: number
  /** Stop once this much is reached. */
  enough?: number
  /** Only what was registered before this time. */
  before?: number
  /** Also what is never fetched but builds quickly. */
  cheap?: boolean
}

/** The paths that go, in units: any number of units from the start may go without the rest. */
export interface Plan {
  units: Local[][]
  stays: Map<string, Reason>
}

/** Makes the plan: the oldest registration first and, within a second, the largest first. */
export function planOf(facts: Facts, wishes: Wishes): Plan {
  const { dead } = facts
  const companions = companionsOf(facts)
  const stays = mustStay(facts, wishes, companions)
  const order = [...dead.values()]
    .filter(({ path }) => !stays.has(path))
    .sort((a, b) => a.registered - b.registered || b.size - a.size || (a.path < b.path ? -1 : 1))
  const units: Local[][] = []
  const taken = new Set<string>()
  let total = 0
  for (const { path } of order) {
    if (taken.has(path)) continue
    const unit = unitOf(path, companions, taken).flatMap((member) => dead.get(member) ?? [])
    const size = sizeOf(unit)
    if (total >= (wishes.enough ?? Number.POSITIVE_INFINITY) || total + size > (wishes.most ?? Number.POSITIVE_INFINITY)) {
      stays.set(path, 'limit')
      continue
    }
    for (const member of unit) taken.add(member.path)
    units.push(unit)
    total += size
  }
  return { units, stays }
}

/** Bytes of NARs. */
export const sizeOf = (paths: readonly Pick<Local, 'size'>[]): number => paths.reduce((sum, { size }) => sum + size, 0)

/** For each dead path, those that have to go with it or before it. */
function companionsOf({ dead, keepOutputs, keepDerivations, derivers }: Facts): Map<string, string[]> {
  const companions = referrersIn(dead)
  const add = (path: string, companion: string): void => {
    const list = companions.get(path)
    if (list) list.push(companion)
    else companions.set(path, [companion])
  }
  for (const [path, { deriver }] of dead) {
    if (keepDerivations && isDerivation(deriver) && deriver !== path) add(deriver, path)
    if (keepOutputs) for (const derivation of derivers.get(path) ?? []) add(path, derivation)
  }
  return companions
}

function mustStay(facts: Facts, wishes: Wishes, companions: ReadonlyMap<string, readonly string[]>): Map<string, Reason> {
  const stays = new Map<string, Reason>()
  for (const [path, info] of facts.dead) {
    const reason = reasonFor(info, facts, wishes)
    if (reason !== undefined) stays.set(path, reason)
  }
  // A companion that isn't dead, or that we know nothing about, stays.
  for (const [path, list] of companions)
    if (facts.dead.has(path) && !stays.has(path) && list.some((companion) => !facts.dead.has(companion))) stays.set(path, 'needed')
  const bound = inverse(companions)
  const todo = [...stays.keys()]
  for (let path = todo.pop(); path !== undefined; path = todo.pop()) {
    for (const other of bound.get(path) ?? []) {
      if (stays.has(other) || !facts.dead.has(other)) continue
      stays.set(other, 'needed')
      todo.push(other)
    }
  }
  return stays
}

function reasonFor(info: Local, { doubts, notFetched, wanted }: Facts, wishes: Wishes): Reason | undefined {
  const doubt = doubts.get(info.path)
  if (notFetched.has(info.path)) {
    // What is rebuilt rather than fetched needs no confirmation.
    if (!wishes.cheap) return 'not-fetched'
  } else if (doubt !== undefined) return doubt === 'missing' && wanted?.(info.path) === false ? 'unwanted' : doubt
  return wishes.before !== undefined && info.registered >= wishes.before ? 'recent' : undefined
}

/** A path and all that has to go with it, except what is taken already. */
function unitOf(start: string, companions: ReadonlyMap<string, readonly string[]>, taken: ReadonlySet<string>): string[] {
  const unit = new Set([start])
  for (const path of unit) for (const companion of companions.get(path) ?? []) if (!taken.has(companion)) unit.add(companion)
  return [...unit]
}

/**
 * What is left of a list of paths to delete once some have turned out to be alive. Those stay, as
 * does everything that can't go before they do, and each unit with any of that.
 * @param left in units of a plan
 */
export function without(left: readonly Local[][], alive: readonly string[], facts: Facts): Local[][] {
  const bound = inverse(companionsOf(facts))
  const staying = new Set(alive)
  let rest = [...left]
  for (;;) {
    for (const path of staying) for (const other of bound.get(path) ?? []) staying.add(other)
    const cut = rest.filter((unit) => unit.some(({ path }) => staying.has(path)))
    if (cut.length === 0) return rest
    rest = rest.filter((unit) => !cut.includes(unit))
    for (const { path } of cut.flat()) staying.add(path)
  }
}

/** For each path, those it is a companion of. */
function inverse(map: ReadonlyMap<string, readonly string[]>): Map<string, string[]> {
  const result = new Map<string, string[]>()
  for (const [key, values] of map)
    for (const value of values) {
      const list = result.get(value)
      if (list) list.push(key)
      else result.set(value, [key])
    }
  return result
}
