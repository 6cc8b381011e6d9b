// What `nix-lan gc` deletes and what it leaves, and why: pure. Nix deletes a path only together
// with all that refers to it, and with keep-outputs and keep-derivations (nix.conf(5)) outputs only
// with their derivations or the other way round (src/libstore/gc.cc, deleteReferrersClosure, 2.8.0
// and 2.34.8). So the selection is made of units: a path with all that has to go with it.
import { isDerivation } from '../nix/store-path.ts'
import { type Doubt, type Local, referrersIn } from './confirm.ts'

/** Why a dead path stays. */
export type Reason =
  | Doubt
  /** Never fetched (allowSubstitutes = false). */
  | 'not-fetched'
  /** Registered too short a time ago for --older-than. */
  | 'recent'
  /** Something that stays has to go with it, or before it. */
  | 'needed'
  /** The limits are reached. */
  | 'limit'

/** What the plan rests on. */
export interface Facts {
  /** What nothing roots, of the valid paths. */
  dead: ReadonlyMap<string, Local>
  /** What stands against a dead path; one that isn't in it can be had back. */
  doubts: ReadonlyMap<string, Doubt>
  /** Outputs that are never fetched: they are quickly built. */
  notFetched: ReadonlySet<string>
  keepOutputs: boolean
  keepDerivations: boolean
  /** For each dead path its valid derivations; needed only with keepOutputs. */
  derivers: ReadonlyMap<string, readonly string[]>
}

/** What the user wants. Sizes are bytes of NARs, times seconds since 1970. */
export interface Wishes {
  /** At most so much. */
  most?: number
  /** No more than it takes to reach so much. */
  enough?: number
  /** Only what was registered before. */
  before?: number
  /** Also what is never fetched, but quickly built. */
  cheap?: boolean
}

/** The paths that go, in units: any number of units from the start may go without the others. */
export interface Plan {
  units: Local[][]
  stays: Map<string, Reason>
}

/** Makes the plan: the oldest registration first, of the same second the largest first. */
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

/** For each dead path those that have to go at the same time, or before. */
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
  // A companion that isn't dead, or that we know nothing of, stays.
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

function reasonFor(info: Local, { doubts, notFetched }: Facts, wishes: Wishes): Reason | undefined {
  const doubt = doubts.get(info.path)
  if (notFetched.has(info.path)) {
    // What is built, not fetched, needs nobody who confirms it.
    if (!wishes.cheap) return 'not-fetched'
  } else if (doubt !== undefined) return doubt
  return wishes.before !== undefined && info.registered >= wishes.before ? 'recent' : undefined
}

/** A path and all that has to go with it, without what has been taken already. */
function unitOf(start: string, companions: ReadonlyMap<string, readonly string[]>, taken: ReadonlySet<string>): string[] {
  const unit = new Set([start])
  for (const path of unit) for (const companion of companions.get(path) ?? []) if (!taken.has(companion)) unit.add(companion)
  return [...unit]
}

/**
 * What is left of a list of paths to delete when some of them have turned out to be alive: they
 * stay, so does what can't go before them, and whole units with that.
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

/** For each path those that it is a companion of. */
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
