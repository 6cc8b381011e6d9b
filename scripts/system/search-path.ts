// Where programs are looked for. A service's PATH may have next to nothing in it: NixOS gives user
// services neither getent nor bash. The sh heads have the same list: test/unit/search-path.test.ts
// compares them.

/** Where every system has its programs, in the order of search; nobody but root can write there. */
export const DIRECTORIES = ['/usr/local/bin', '/usr/bin', '/bin', '/run/current-system/sw/bin', '/nix/var/nix/profiles/default/bin']

/** Where programs of the administrator's are (runuser, usermod, NetworkManager). */
export const SYSTEM_DIRECTORIES = [...DIRECTORIES, '/usr/local/sbin', '/usr/sbin', '/sbin']

const JOINED = DIRECTORIES.join(':')

/**
 * PATH, and at its end the directories where every system has its programs; a PATH that was made
 * here stays as it is.
 */
export function searchPath(path: string | undefined): string {
  if (!path) return JOINED
  return path === JOINED || path.endsWith(`:${JOINED}`) ? path : `${path}:${JOINED}`
}

/** The same, and where programs of the administrator's are. */
export const systemPath = (): string => [process.env.PATH, ...SYSTEM_DIRECTORIES].filter(Boolean).join(':')

/** Our environment with that PATH, for a program to be started in. */
export const searchEnv = (): Record<string, string | undefined> => ({ ...process.env, PATH: searchPath(process.env.PATH) })
