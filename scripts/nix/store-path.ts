// What a store path looks like. The one place that knows.

/** Nix's base-32 alphabet, and the characters and length of a name (libstore/path.cc, 2.8.0 and 2.34.8). */
const BASE_NAME = /^[0-9abcdfghijklmnpqrsvwxyz]{32}-[a-zA-Z0-9+._?=-]{1,211}$/

/** Whether `path` is exactly STORE/HASH-NAME. `store` is absolute, without a slash at its end. */
export function isStorePath(path: string, store: string): boolean {
  return path.startsWith(`${store}/`) && BASE_NAME.test(path.slice(store.length + 1))
}
