// Types of the parsed configuration, and its defaults that others need, too. Every value has been
// checked and needs no second look.

/** Milliseconds. nix-lan-connect has the same defaults. */
export const DEFAULT_DEADLINE = 2000
export const DEFAULT_PATIENCE = 60_000

/** The user's own box, reached by ssh: fetched from and uploaded to. */
export interface SshCache {
  kind: 'ssh'
  name: string
  /** The name or address that must be reachable. Never starts with `-`, has no white space. */
  host: string
  /** The destination or alias given to ssh. Never starts with `-`, has no white space. */
  ssh: string
  port: number
  /** Absolute path on the box, without characters that are special in `ssh -L`. */
  daemonSocket: string
  /** Absolute path, `~` expanded for the configured user. */
  envFile: string
  derivations: boolean
  /** Globs on the name after the hash; see excluded(). */
  exclude: string[]
  /** How many days the box keeps uploads; null: forever, 0: it need not. */
  keep: number | null
  /** Milliseconds, 100 to 60,000. */
  deadline: number
  /** Milliseconds that a fetch waits for a box that is lost, 0 to 3,600,000. */
  patience: number
  /**
   * Whether uploads get their own ssh connection or share the tunnel's; undefined: their own,
   * unless each login needs a touch.
   */
  uploadConnection?: 'own' | 'shared'
  /** Whether ssh compresses. */
  compression?: boolean
}

/** Somebody else's cache that isn't always there: only fetched from. */
export interface UrlCache {
  kind: 'url'
  name: string
  /** A store URL of Nix: http, https, file, ssh or ssh-ng. */
  url: string
  /** Milliseconds, 100 to 60,000. */
  deadline: number
}

export type Cache = SshCache | UrlCache

export interface Config {
  /** The file it was read from. */
  file: string
  /** Whose ssh key, session and queue nix-lan uses. */
  user: string
  uid: number
  home: string
  /** Whether the background upload waits while the connection is metered, or uploads anyway. */
  metered: 'wait' | 'upload'
  /** The background upload waits below this percentage of battery without external power. */
  battery: number
  /** At least one, in the order of the file. */
  caches: Cache[]
  /** Bytes that `nix-lan gc --auto` keeps free; if unset, it collects nothing. */
  keepFree?: number
}

/** Whether a cache is a box: reached by ssh through a tunnel, and uploaded to. */
export const isSsh = (cache: Cache): cache is SshCache => cache.kind === 'ssh'
