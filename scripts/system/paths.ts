// Where things are. One place, so every script and test means the same file.

/**
 * Nix's state directory; reads NIX_STATE_DIR as Nix does (nix-env(1), Common Environment
 * Variables).
 */
export const stateDir = process.env.NIX_STATE_DIR || '/nix/var/nix'

/**
 * A cache's queue: one symlink per store path, each a GC root. The directory belongs to the user,
 * its parents to root.
 */
export const queueDir = (cache: string): string => `${stateDir}/gcroots/nix-lan/queue/${cache}`

/**
 * What could not be uploaded: for each path the symlink, still a GC root, and next to it `.NAME`
 * with the reason.
 */
export const failedDir = (cache: string): string => `${stateDir}/gcroots/nix-lan/failed/${cache}`

/** The user's directory for sockets, mode 0700. Our XDG_RUNTIME_DIR counts only for our own uid. */
export function runtimeDir(uid: number): string {
  const own = process.getuid?.() === uid ? process.env.XDG_RUNTIME_DIR : undefined
  return `${own || `/run/user/${uid}`}/nix-lan`
}

/**
 * The file that a running upload to a cache keeps locked: next to the socket, in a directory only
 * the user can write to.
 */
export const uploadLock = (uid: number, cache: string): string => `${runtimeDir(uid)}/${cache}.upload.lock`

/** The socket for uploads to a cache, if they have their own ssh connection. */
export const uploadSocketPath = (uid: number, cache: string): string => `${runtimeDir(uid)}/${cache}.upload.sock`

/**
 * Names the process that keeps a cache's tunnel; uploads ask it for their connection, see
 * tunnel/uploads.ts.
 */
export const keeperFile = (uid: number, cache: string): string => `${runtimeDir(uid)}/${cache}.keeper`

/**
 * The socket by which nix.conf names a cache where the system's systemd holds it, for whoever the
 * user is (scripts/units/system/nix-lan-broker@.socket).
 */
export const brokerSocket = (cache: string): string => `/run/nix-lan/${cache}.sock`

/**
 * Root's file beside it: whose the cache is, and what nix-lan-connect needs of the configuration
 * (config/connect-file.ts).
 */
export const connectFile = (cache: string): string => `/etc/nix-lan/connect/${cache}`

/** The socket a cache's tunnel listens on. */
export const socketPath = (uid: number, cache: string): string => `${runtimeDir(uid)}/${cache}.sock`
