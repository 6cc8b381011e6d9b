// Carries out a plan: pins on the box what is about to go, asks the box once more before each part,
// then deletes the part. When in doubt it stops, and what is left stays. The two daemons and the
// box's shell come in as arguments.
import { Failure } from '../cli/errors.ts'
import { storePathsIn } from '../nix/store-path.ts'
import { type Daemon, Refused } from '../protocol/daemon-ops.ts'
import type { Local } from './confirm.ts'
import { type Facts, without } from './plan.ts'

/** A box that confirms some of the paths. */
export interface Keeper {
  name: string
  /** Whether it has confirmed this path. */
  has(path: string): boolean
  /** A new connection to its nix-daemon. */
  open(): Promise<Daemon>
  /**
   * Roots these paths there, on disk, until somebody lets go.
   * @returns those it could not, since nobody knows whether they are on its disk yet
   * @throws Failure when it can't, Refused when one of them is no longer valid
   */
  pin(paths: readonly string[]): Promise<string[]>
}

/** What collect() works with. */
export interface Hands {
  /** A new connection to this machine's Nix. */
  openLocal(): Promise<Daemon>
  keepers: readonly Keeper[]
  /** Called after each part with everything deleted so far. */
  progress(deleted: readonly Local[]): void
  /** Whether enough has gone; asked before each part. */
  enough(): boolean
}

/** The outcome. */
export interface Collected {
  deleted: Local[]
  /** Paths of the plan that turned out to be alive, or to be needed by something alive. */
  alive: string[]
  /** Paths of the plan that the box has lost meanwhile. */
  lost: string[]
  /** Paths of the plan that may not be on the box's disk yet. */
  early: string[]
  /** Why it stopped early. */
  stopped?: Failure
}

/** Paths deleted at once: each call makes Nix look for all roots, in /proc too. */
const PART = 5000
/** How often a part is retried without what turned out to be alive. */
const TRIES = 5

/** Deletes as many of a plan's units as it can. */
export async function collect(units: readonly Local[][], facts: Facts, hands: Hands): Promise<Collected> {
  const result: Collected = { deleted: [], alive: [], lost: [], early: [] }
  try {
    let left = await pinAll([...units], facts, hands, result)
    while (left.length > 0 && !hands.enough()) {
      const missing = await lostMeanwhile(partOf(left), hands)
      if (missing.length > 0) {
        result.lost.push(...missing)
        left = without(left, missing, facts)
        continue
      }
      const part = partOf(left)
      left = left.slice(part.length)
      const alive = await deletePart(part, facts, hands, result)
      if (alive.length > 0) left = without(left, alive, facts)
      hands.progress(result.deleted)
    }
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    result.stopped = error
  }
  return result
}

/** Pins everything first, leaving out what a box has lost by now. */
async function pinAll(units: Local[][], facts: Facts, hands: Hands, result: Collected): Promise<Local[][]> {
  let left = units
  for (let tries = 0; ; tries++) {
    try {
      for (const keeper of hands.keepers) {
        const paths = left.flat().flatMap(({ path }) => (keeper.has(path) ? [path] : []))
        const early = paths.length > 0 ? await keeper.pin(paths) : []
        result.early.push(...early)
        if (early.length > 0) left = without(left, early, facts)
      }
      return left
    } catch (error) {
      if (!(error instanceof Refused) || tries >= TRIES) throw error
      const missing = await lostMeanwhile(left, hands)
      if (missing.length === 0) throw error
      result.lost.push(...missing)
      left = without(left, missing, facts)
    }
  }
}

/** The first units, up to PART paths. */
function partOf(units: readonly Local[][]): Local[][] {
  let paths = 0
  let count = 0
  for (const unit of units) {
    if (count > 0 && paths + unit.length > PART) break
    paths += unit.length
    count++
  }
  return units.slice(0, count)
}

/** The paths that the box which confirmed them no longer has. */
async function lostMeanwhile(units: readonly Local[][], { keepers }: Hands): Promise<string[]> {
  const paths = units.flat().map(({ path }) => path)
  const lost: string[] = []
  for (const keeper of keepers) {
    const asked = paths.filter((path) => keeper.has(path))
    if (asked.length === 0) continue
    const box = await keeper.open()
    try {
      const valid = await box.valid(asked)
      lost.push(...asked.filter((path) => !valid.has(path)))
    } finally {
      box.close()
    }
  }
  return lost
}

/** Deletes a part. @returns what is alive, if anything is */
async function deletePart(part: readonly Local[][], facts: Facts, hands: Hands, result: Collected): Promise<string[]> {
  const alive: string[] = []
  let left = [...part]
  for (let tries = 0; left.length > 0; tries++) {
    const refusal = await tryToDelete(left, hands)
    const still = await validHere(left, hands)
    result.deleted.push(...left.flat().filter(({ path }) => !still.has(path)))
    left = left.map((unit) => unit.filter(({ path }) => still.has(path))).filter((unit) => unit.length > 0)
    if (refusal === undefined && left.length === 0) break
    const named = storePathsIn(refusal?.message ?? '').find((path) => still.has(path))
    // If the message names none of them, everything left counts as alive.
    const culprits = named === undefined || tries >= TRIES ? left.flat().map(({ path }) => path) : [named]
    const rest = without(left, culprits, facts)
    const stay = left.filter((unit) => !rest.includes(unit)).flatMap((unit) => unit.map(({ path }) => path))
    alive.push(...new Set([...culprits, ...stay]))
    left = rest
  }
  result.alive.push(...alive)
  return alive
}

async function tryToDelete(units: readonly Local[][], hands: Hands): Promise<Refused | undefined> {
  const daemon = await hands.openLocal()
  try {
    await daemon.delete(units.flat().map(({ path }) => path))
    return undefined
  } catch (error) {
    if (error instanceof Refused) return error
    throw error
  } finally {
    daemon.close()
  }
}

async function validHere(units: readonly Local[][], hands: Hands): Promise<Set<string>> {
  const daemon = await hands.openLocal()
  try {
    return await daemon.valid(units.flat().map(({ path }) => path))
  } finally {
    daemon.close()
  }
}
