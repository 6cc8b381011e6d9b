// The two stores of an upload as draining (upload.ts) sees them: this machine's, asked through Nix,
// and the box's, asked at the tunnel's socket and copied to by Nix through nix-lan-connect
// --strict.

import { storeUrl } from '../config/store-url.ts'
import type { SshCache } from '../config/types.ts'
import { errorText, invalidPaths, NixError, nix, referrersClosure } from '../nix/nix.ts'
import { closureOf } from '../nix/path-info.ts'
import { setting } from '../nix/settings.ts'
import { infosOnBox, validOnBox } from '../protocol/ask.ts'
import { usable } from '../reach/reach.ts'
import { socketPath } from '../state/paths.ts'
import type { Stores } from './upload.ts'

/**
 * A question to the box is given up after so many milliseconds: a link can go unresponsive, and Nix
 * would wait for ever.
 */
const QUESTION = 120_000

/**
 * The stores of a cache.
 * @param uid whose tunnel
 * @param live whether Nix may draw its progress on our stderr
 * @throws Failure when nix-lan-connect isn't there
 */
export function storesOf(cache: SshCache, uid: number, live: boolean): Stores {
  const store = storeUrl(cache, uid, { strict: true })
  const socket = socketPath(uid, cache.name)
  const limits = { deadline: cache.deadline, patience: QUESTION }
  let keys: Promise<string[]> | undefined
  return {
    async away() {
      const answer = await usable(cache, uid, cache.deadline)
      return answer.ok ? undefined : answer.reason
    },
    invalid: (paths) => invalidPaths(paths),
    closure: (paths) => closureOf(paths),
    referrersClosure: (paths) => referrersClosure(paths),
    async missing(paths) {
      const there = await validOnBox(socket, paths, limits)
      return paths.filter((path) => !there.has(path))
    },
    onBox: (paths) => infosOnBox(socket, paths, limits),
    async mustTakeNix(path) {
      await invalidPaths([path], { store, timeout: QUESTION })
    },
    async deliver(paths) {
      const outcome = await nix(['store', 'copy-sigs', '--store', store, '--substituter', 'auto', ...paths], { timeout: QUESTION })
      return outcome.code === 0 ? undefined : errorText(outcome.stderr)
    },
    copy: (paths, derivations) => copy(store, paths, derivations, live),
    trustedKeys() {
      keys ??= setting('trusted-public-keys').then((words) => words.map((word) => word.slice(0, word.indexOf(':'))))
      return keys
    },
  }
}

/**
 * One `nix copy`. `--derivation` takes a .drv for itself in every version; without it 2.4–2.14 take
 * its outputs instead (src/libcmd/installables.cc, toDerivations), so derivations are never in one
 * call with outputs.
 */
async function copy(store: string, paths: string[], derivations: boolean, live: boolean): Promise<string | undefined> {
  const args = ['copy', '--to', store, ...(derivations ? ['--derivation'] : []), ...paths]
  if (live) {
    const watched = await nix(args, { inherit: ['stderr'] })
    if (watched.code === 0) return undefined
    // What it said is on the terminal; once more, to read it.
  }
  const outcome = await nix(args)
  if (outcome.failedToStart) throw new NixError(`nix can't be started (${outcome.failedToStart}): is it in PATH?`)
  return outcome.code === 0 ? undefined : outcome.stderr || `error: nix copy ended with ${outcome.signal ?? outcome.code}`
}
