// Finds a derivation's output paths for the sh head of post-build-hook, when it can't find them
// itself.
import { readFileSync } from 'node:fs'
import { UsageError } from '../cli/errors.ts'
import { isStorePath, storeDir } from '../nix/store-path.ts'
import { run } from '../system/exec.ts'
import { searchEnv } from '../system/search-path.ts'

/** Milliseconds for Nix to answer; the head allows 0.9 s in all. */
const LIMIT = 600

const store = storeDir.replace(/\/$/, '')

/**
 * A derivation's outputs: from its file if they are written there, else from Nix's database.
 * @returns the paths or, as text, why neither source knows them
 * @throws UsageError when `drv` is no derivation in the store
 */
export async function outputsFor(drv: string): Promise<string[] | string> {
  if (!isStorePath(drv, store) || !drv.endsWith('.drv')) throw new UsageError(`DRV_PATH is not a derivation in ${store}: "${drv}"`)
  const read = outputsOf(textOf(drv), store)
  if (read) return read
  // Leaves out NIX_CONFIG, which names this very hook, but turns the feature on: derivations that
  // need it were built with it.
  const env = { ...searchEnv(), NIX_CONFIG: 'extra-experimental-features = ca-derivations' }
  const query = ['--query', '--outputs', drv]
  // Nix 2.8 and older print such a derivation's outputs only when asked to build it. It is built
  // already, and with these options nothing can be built.
  const unable = ['--force-realise', '--option', 'max-jobs', '0', '--option', 'builders', '', '--option', 'substitute', 'false']
  const until = Date.now() + LIMIT
  let why = ''
  for (const args of [query, [...query, ...unable]]) {
    const asked = await run('nix-store', args, { env, timeout: Math.max(1, until - Date.now()) })
    const found = outputsPrinted(asked.stdout, store)
    if (asked.code === 0 && found.length > 0) return found
    why ||= asked.timedOut ? `no answer in ${LIMIT} ms` : asked.failedToStart || asked.stderr.trim().split('\n')[0] || 'no answer'
    if (asked.timedOut || asked.failedToStart) break
  }
  return `not queued: nix-store --query doesn't know the outputs of ${drv} (${why}); try: nix-lan queue add PATH…`
}

function textOf(file: string): string {
  try {
    return readFileSync(file, 'latin1')
  } catch {
    return '' // Nix may still know it
  }
}

/**
 * A derivation's output paths, from the text of its .drv file (an ATerm; libstore/derivations.cc,
 * 2.8.0 and 2.34.8):
 *     Derive([("out","/nix/store/…","",""),…],…     DrvWithVersion("xp-dyn-drv",[("out",…
 * Undefined when it is no derivation, or has an output whose path only the store's database knows:
 * a path that depends on the output's content stands there as "".
 */
export function outputsOf(text: string, store: string): string[] | undefined {
  const head = /^(?:Derive\(|DrvWithVersion\("[^"\\]*",)\[/.exec(text)
  if (!head) return undefined
  const tuple = /\("(?:[^"\\]|\\.)*","((?:[^"\\]|\\.)*)","(?:[^"\\]|\\.)*","(?:[^"\\]|\\.)*"\)([,\]])/sy
  tuple.lastIndex = head[0].length
  const paths: string[] = []
  for (;;) {
    const found = tuple.exec(text)
    const path = found?.[1] ?? ''
    if (!found || !isStorePath(path, store)) return undefined
    paths.push(path)
    if (found[2] === ']') return paths
  }
}

/** The paths `nix-store --query --outputs` printed; lines that are no store path are left out. */
export function outputsPrinted(text: string, store: string): string[] {
  return text.split('\n').filter((line) => isStorePath(line, store))
}
