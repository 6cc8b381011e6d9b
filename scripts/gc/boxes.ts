// Asks the boxes about the dead paths: which boxes can be used, what each confirms, and how each
// keeps what goes.

import { Away, Failure } from '../cli/errors.ts'
import { kinship } from '../config/kinship.ts'
import type { SshCache } from '../config/types.ts'
import { keyNameIn } from '../keep/client.ts'
import { clientName, pin } from '../keep/keep.ts'
import { remoteOf, verifyOn } from '../keep/remote.ts'
import { openBox } from '../keep/shore.ts'
import { NixError } from '../nix/nix.ts'
import { type Keys, readKeys } from '../nix/signature.ts'
import type { Daemon } from '../protocol/daemon-ops.ts'
import { FIRST_ANSWER, usable } from '../reach/reach.ts'
import { damagedOn } from '../system/damage.ts'
import { socketPath } from '../system/paths.ts'
import { touchSocket } from '../system/touch.ts'
import { ownTransfers } from '../system/transfers.ts'
import type { Keeper } from './collect.ts'
import { type Doubt, doubts, doubtsOf } from './confirm.ts'
import { type BothSettings, believedKeys, type Here, inForce, isInForce } from './facts.ts'
import { infosOnCaches } from './narinfo.ts'

/** Milliseconds between two answers from a box. */
const PATIENCE = 120_000

/** What the boxes said. */
export interface Boxes {
  /** Why a path can't be had back; a path that can is not in it. */
  doubts: Map<string, Doubt>
  /** Names of the boxes that were asked. */
  names: string[]
  /** Boxes that could not be used, and why. */
  unused: { name: string; why: string }[]
  /** For collect(). @param verify have the boxes hash everything first */
  keepers(verify: boolean, tell: (text: string) => void): Keeper[]
}

/**
 * Asks the boxes, one after the other, about all that is dead and everything it refers to.
 * @param elsewhere if given, also ask the HTTP caches in force about what no box has, and report
 * progress to it
 * @throws Away when no box is there, Failure when those that are there may confirm nothing
 */
export async function lookAtBoxes(
  chosen: readonly SshCache[],
  uid: number,
  here: Here,
  settings: BothSettings,
  elsewhere?: (text: string) => void,
): Promise<Boxes> {
  const keys = readKeys(believedKeys(settings))
  const client = clientName(keyNameIn(settings.system))
  const unused: Boxes['unused'] = []
  const asked: { cache: SshCache; doubts: Map<string, Doubt> }[] = []
  let away = true
  for (const cache of chosen) {
    const socket = socketPath(uid, cache.name)
    const answer = await usable(cache, uid, cache.deadline, FIRST_ANSWER)
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
  const others = elsewhere === undefined ? [] : await askOthers(here, settings, keys, asked, elsewhere)
  return {
    doubts: doubts(here.known, [...asked.map((one) => one.doubts), ...others]),
    names: asked.map(({ cache }) => cache.name),
    unused,
    keepers: (verify, tell) =>
      asked.map(({ cache, doubts }, at) => {
        const earlier = asked.slice(0, at)
        // One box is enough: the first that has it.
        const has = (path: string): boolean => here.dead.has(path) && !doubts.has(path) && earlier.every((other) => other.doubts.has(path))
        return keeperOf(cache, uid, has, client, verify, tell)
      }),
  }
}

/** What the HTTP caches in force have of the paths no box would give back. */
async function askOthers(
  here: Here,
  settings: BothSettings,
  keys: Keys,
  boxes: readonly { doubts: ReadonlyMap<string, Doubt> }[],
  tell: (text: string) => void,
): Promise<Map<string, Doubt>[]> {
  const urls = inForce(settings).filter((url) => /^https?:/.test(url))
  const doubtful = [...here.known.keys()].filter((path) => boxes.every((box) => box.doubts.has(path)))
  const total = urls.length * doubtful.length
  const offers = await infosOnCaches(urls, doubtful, (done) => {
    if (done % 1000 === 0 || done === total) tell(`${done} of ${total} questions to ${urls.join(' and ')} answered`)
  })
  return await Promise.all(offers.map((offer) => doubtsOf(here.known, offer, keys)))
}

const NOT_IN_FORCE = 'it is not among the substituters in force, so that Nix would fetch nothing from it; `nix-lan doctor` says more'

const open = (cache: SshCache, uid: number): Promise<Daemon> => openBox(cache, uid, PATIENCE)

async function ask(cache: SshCache, uid: number, here: Here, keys: Keys): Promise<Map<string, Doubt>> {
  const box = await open(cache, uid)
  try {
    const valid = await box.valid([...here.known.keys()])
    const there = await box.infos([...here.known.keys()].filter((path) => valid.has(path)))
    const damaged = damagedOn({ cache: cache.name, socket: socketPath(uid, cache.name), own: ownTransfers() })
    return await doubtsOf(here.known, there, keys, (path) => damaged.has(path))
  } finally {
    box.close()
  }
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
        const { early } = await pin({ daemon, remote }, { kind: 'only', client, paths, sync: true })
        // a session that has an older list would call missing what another machine put there
        touchSocket(socketPath(uid, cache.name), uid)
        if (verify && early.length < paths.length) {
          tell(`${cache.name} reads and hashes what goes`)
          await verifyOn(
            remote,
            paths.filter((path) => !early.includes(path)),
          )
        }
        return early
      } finally {
        daemon.close()
      }
    },
  }
}
