// What the boxes say of the dead: which of them can be used, what each confirms, and how each keeps what goes.
import { Away, Failure } from '../cli/errors.ts'
import type { SshCache } from '../config/types.ts'
import { keyNameIn } from '../keep/client.ts'
import { clientName, pin } from '../keep/keep.ts'
import { remoteOf, verifyOn } from '../keep/remote.ts'
import { NixError } from '../nix/nix.ts'
import { readKeys } from '../nix/signature.ts'
import { type Daemon, openDaemon } from '../protocol/daemon-ops.ts'
import { usable } from '../reach/reach.ts'
import { socketPath } from '../state/paths.ts'
import { kinship } from '../wrapper/substituters.ts'
import type { Keeper } from './collect.ts'
import { type Doubt, doubts } from './confirm.ts'
import { type BothSettings, believedKeys, type Here, isInForce } from './facts.ts'

/** Milliseconds between two answers of a box. */
const PATIENCE = 120_000

/** What the boxes have said. */
export interface Boxes {
  /** What stands against each path that no box confirms. */
  doubts: Map<string, Doubt>
  /** Names of the boxes that were asked. */
  names: string[]
  /** Boxes that could not be used, and why. */
  unused: { name: string; why: string }[]
  /** For collect(). @param verify let the boxes hash all of it first */
  keepers(verify: boolean, tell: (text: string) => void): Keeper[]
}

/**
 * Asks the boxes, one after the other, about all that is dead and what it refers to.
 * @throws Away when none of them is there, Failure when none of those that are there may confirm anything
 */
export async function lookAtBoxes(chosen: readonly SshCache[], uid: number, here: Here, settings: BothSettings): Promise<Boxes> {
  const keys = readKeys(believedKeys(settings))
  const client = clientName(keyNameIn(settings.system))
  const unused: Boxes['unused'] = []
  const asked: { cache: SshCache; doubts: Map<string, Doubt> }[] = []
  let away = true
  for (const cache of chosen) {
    const socket = socketPath(uid, cache.name)
    const answer = await usable(cache, uid, cache.deadline)
    if (!answer.ok) {
      unused.push({ name: cache.name, why: `it is away (${answer.reason})` })
      continue
    }
    away = false
    if (!isInForce(settings, (url) => kinship(url, { cache, socket }) === 'connect')) {
      unused.push({ name: cache.name, why: NOT_IN_FORCE })
      continue
    }
    try {
      asked.push({ cache, doubts: await ask(cache, uid, here, keys) })
    } catch (error) {
      if (!(error instanceof NixError)) throw error
      unused.push({ name: cache.name, why: error.message })
      away = true
    }
  }
  if (asked.length === 0) {
    const why = unused.map((one) => `${one.name}: ${one.why}`).join('; ')
    throw away ? new Away(`nothing can be confirmed now, so nothing is deleted: ${why}`) : new Failure(`nothing is deleted: ${why}`)
  }
  return {
    doubts: inCommon(asked.map((one) => one.doubts)),
    names: asked.map(({ cache }) => cache.name),
    unused,
    keepers: (verify, tell) => {
      const taken = new Set<Map<string, Doubt>>()
      return asked.map(({ cache, doubts }) => {
        const earlier = [...taken]
        taken.add(doubts)
        // One box is enough: the first that confirms.
        const has = (path: string): boolean => here.dead.has(path) && !doubts.has(path) && earlier.every((other) => other.has(path))
        return keeperOf(cache, uid, has, client, verify, tell)
      })
    },
  }
}

const NOT_IN_FORCE = 'it is not among the substituters in force, so that Nix would fetch nothing from it; `nix-lan doctor` says more'

const open = (cache: SshCache, uid: number): Promise<Daemon> =>
  openDaemon(socketPath(uid, cache.name), 'the box', { deadline: cache.deadline, patience: PATIENCE })

async function ask(cache: SshCache, uid: number, here: Here, keys: ReturnType<typeof readKeys>): Promise<Map<string, Doubt>> {
  const box = await open(cache, uid)
  try {
    const valid = await box.valid([...here.known.keys()])
    const there = await box.infos([...here.known.keys()].filter((path) => valid.has(path)))
    return doubts(here.known, there, keys)
  } finally {
    box.close()
  }
}

/** What stands against a path on every box; of several reasons, one that says more than that it isn't there. */
function inCommon(all: readonly ReadonlyMap<string, Doubt>[]): Map<string, Doubt> {
  const [first = new Map<string, Doubt>(), ...others] = all
  const common = new Map<string, Doubt>()
  for (const [path, doubt] of first) {
    const reasons = [doubt, ...others.flatMap((other) => other.get(path) ?? [])]
    if (reasons.length === all.length) common.set(path, reasons.find((reason) => reason !== 'missing') ?? 'missing')
  }
  return common
}

function keeperOf(
  cache: SshCache,
  uid: number,
  has: (path: string) => boolean,
  client: string,
  verify: boolean,
  tell: (text: string) => void,
): Keeper {
  const remote = remoteOf(cache)
  return {
    name: cache.name,
    has,
    open: () => open(cache, uid),
    async pin(paths) {
      const daemon = await open(cache, uid)
      try {
        tell(`${cache.name} roots what goes`)
        await pin({ daemon, remote }, { kind: 'only', client, paths, sync: true })
        if (verify) {
          tell(`${cache.name} reads and hashes what goes`)
          await verifyOn(remote, paths)
        }
      } finally {
        daemon.close()
      }
    },
  }
}
