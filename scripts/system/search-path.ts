// Where to look for programs. A service's PATH may be nearly empty: on NixOS, user services get
// neither getent nor bash. The sh heads have the same list; test/unit/search-path.test.ts compares
// them.

/** Where systems keep their programs, in search order; only root can write there. */
export const DIRECTORIES = ['/usr/local/bin', '/usr/bin', '/bin', '/run/current-system/sw/bin', '/nix/var/nix/profiles/default/bin']

/** The same plus the directories of administrators' programs (runuser, usermod, getfacl). */
export const SYSTEM_DIRECTORIES = [...DIRECTORIES, '/usr/local/sbin', '/usr/sbin', '/sbin']

const JOINED = DIRECTORIES.join(':')

/**
 * Appends the directories where systems keep their programs to PATH, unless it already ends with
 * them.
 */
export function searchPath(path: string | undefined): string {
  if (!path) return JOINED
  return path === JOINED || path.endsWith(`:${JOINED}`) ? path : `${path}:${JOINED}`
}

/** Our PATH followed by all system directories. */
export const systemPath = (): string => [process.env.PATH, ...SYSTEM_DIRECTORIES].filter(Boolean).join(':')

/** Our environment with the PATH of searchPath(). */
export const searchEnv = (): Record<string, string | undefined> => ({ ...process.env, PATH: searchPath(process.env.PATH) })
