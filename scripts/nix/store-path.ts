// Recognises store paths: STORE/HASH-NAME. Pure, and imports nothing: hook and connect load it at
// each start.

/** The store directory; reads NIX_STORE_DIR as Nix does. */
export const storeDir = process.env.NIX_STORE_DIR || '/nix/store'

/**
 * Hash, dash, name: Nix's base-32 alphabet (src/libutil/hash.cc), and the allowed characters and
 * length of a name (src/libstore/path.cc); the same in 2.8.0 and 2.34.8.
 */
const BASE_NAME = '[0-9abcdfghijklmnpqrsvwxyz]{32}-[0-9a-zA-Z+._?=-]{1,211}'
const WHOLE = new RegExp(`^${BASE_NAME}$`)

/** Whether `name` is the last part of a store path, HASH-NAME. */
export const isStoreName = (name: string): boolean => WHOLE.test(name)

/** Whether `path` is exactly STORE/HASH-NAME. `store` is absolute, without a trailing slash. */
export const isStorePath = (path: string, store: string): boolean =>
  path.startsWith(`${store}/`) && isStoreName(path.slice(store.length + 1))

/** Whether a store path, or its last part, is a derivation's. */
export const isDerivation = (path: string): boolean => path.endsWith('.drv')

/**
 * The store paths in a text, each once, in order. An unquoted path at the end of a sentence keeps
 * the full stop: it may be part of the name.
 */
export function storePathsIn(text: string, store = storeDir): string[] {
  const pattern = new RegExp(`${store.replace(/[^A-Za-z0-9/]/g, '\\$&')}/${BASE_NAME}`, 'g')
  return [...new Set(text.match(pattern) ?? [])]
}

/**
 * The name of what `nix-lan doctor` builds, uploads and fetches back, so that it isn't counted as
 * the user's transfer.
 */
export const PROBE_NAME = 'nix-lan-doctor'

/** Whether a store path is the doctor's probe. */
export const isProbe = (path: string): boolean => path.endsWith(`-${PROBE_NAME}`) || path.endsWith(`-${PROBE_NAME}.drv`)
