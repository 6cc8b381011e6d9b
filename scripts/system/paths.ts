// Where things lie. One place, so that every script and every test means the same file.

/**
 * Nix's state directory; NIX_STATE_DIR as Nix itself reads it (nix-env(1), Common Environment
 * Variables).
 */
export const stateDir = process.env.NIX_STATE_DIR || '/nix/var/nix'

/**
 * The queue of a cache: one symlink per store path, each of them a GC root. The directory is the
 * user's, its parents are root's.
 */
export const queueDir = (cache: string): string => `${stateDir}/gcroots/nix-lan/queue/${cache}`

/**
 * What could not be uploaded: the symlink, still a GC root, and beside it `.NAME` with the reason.
 */
export const failedDir = (cache: string): string => `${stateDir}/gcroots/nix-lan/failed/${cache}`

/**
 * The user's directory for sockets, mode 0700. Our own XDG_RUNTIME_DIR counts only for ourselves.
 */
export function runtimeDir(uid: number): string {
  const own = process.getuid?.() === uid ? process.env.XDG_RUNTIME_DIR : undefined
  return `${own || `/run/user/${uid}`}/nix-lan`
}

/**
 * What the one upload to a cache that runs has locked: beside its socket, in a directory that only
 * the user can write.
 */
export const uploadLock = (uid: number, cache: string): string => `${runtimeDir(uid)}/${cache}.upload.lock`

/** The socket for uploads to a cache, when they have an ssh connection of their own. */
export const uploadSocketPath = (uid: number, cache: string): string => `${runtimeDir(uid)}/${cache}.upload.sock`

/**
 * Which process keeps the tunnel of a cache, for who wants that connection; see tunnel/uploads.ts.
 */
export const keeperFile = (uid: number, cache: string): string => `${runtimeDir(uid)}/${cache}.keeper`

/** The socket that the tunnel of a cache listens on. */
export const socketPath = (uid: number, cache: string): string => `${runtimeDir(uid)}/${cache}.sock`
