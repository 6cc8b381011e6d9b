// The two stores of an upload as draining (upload.ts) sees them: this machine's, and the box's through nix-lan-connect --strict.
import type { SshCache } from './config.ts'
import { errorText, holdersOf, invalidPaths, NixError, nix, type PathInfo, pathInfos, setting } from './nix.ts'
import { usable } from './reach.ts'
import { storeUrl } from './store-url.ts'
import type { Stores } from './upload.ts'

/** A question to the box is given up after so many milliseconds for each batch: a link can go mute, and Nix would wait for ever. */
const QUESTION = 120_000

/**
 * The stores of a cache.
 * @param uid whose tunnel
 * @param live whether Nix may draw its progress on our stderr
 * @throws Failure when nix-lan-connect isn't there
 */
export function storesOf(cache: SshCache, uid: number, live: boolean): Stores {
  const store = storeUrl(cache, uid, { strict: true })
  const box = { store, timeout: QUESTION }
  let keys: Promise<string[]> | undefined
  return {
    async away() {
      const answer = await usable(cache, uid, cache.deadline)
      return answer.ok ? undefined : answer.reason
    },
    vanished: (paths) => invalidPaths(paths),
    closure: (paths) => pathInfos(paths, { closure: true }),
    holders: (paths) => holdersOf(paths),
    lacking: (paths) => invalidPaths(paths, box),
    onBox: (paths) => onBox(paths, box),
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
 * After a copy all of them are there, and one question does. `nix path-info` gives up at the first path that isn't (deleted again by the
 * box's garbage collection): then those are found first.
 */
async function onBox(paths: string[], box: { store: string; timeout: number }): Promise<Map<string, PathInfo>> {
  try {
    return await pathInfos(paths, box)
  } catch (error) {
    const missing = new Set(await invalidPaths(paths, box))
    if (missing.size === 0) throw error
    const there = paths.filter((path) => !missing.has(path))
    return await pathInfos(there, box)
  }
}

/**
 * One `nix copy`. `--derivation` takes a .drv for itself in every version; without it 2.4–2.14 take its outputs instead
 * (src/libcmd/installables.cc, toDerivations), so derivations are never in one call with outputs.
 */
async function copy(store: string, paths: string[], derivations: boolean, live: boolean): Promise<string | undefined> {
  const args = ['copy', '--to', store, ...(derivations ? ['--derivation'] : []), ...paths]
  if (live) {
    const watched = await nix(args, { inherit: ['stderr'] })
    if (watched.code === 0) return undefined
    // What it said is on the terminal; once more, to read it.
  }
  const outcome = await nix(args)
  if (outcome.failedToStart) throw new NixError(`nix can't be started (${outcome.failedToStart}): is it in PATH?`, '')
  return outcome.code === 0 ? undefined : outcome.stderr || `error: nix copy ended with ${outcome.signal ?? outcome.code}`
}
