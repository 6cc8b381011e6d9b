// Where programs are looked for. A service's PATH may have next to nothing in it: NixOS gives user services neither getent nor bash.

const DIRECTORIES = '/usr/local/bin:/usr/bin:/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin'

/** PATH, and at its end the directories where every system has its programs; a PATH that was made here stays as it is. */
export function searchPath(path: string | undefined): string {
  if (!path) return DIRECTORIES
  return path === DIRECTORIES || path.endsWith(`:${DIRECTORIES}`) ? path : `${path}:${DIRECTORIES}`
}

/** The same, and where programs of the administrator's are (runuser, usermod). */
export const systemPath = (): string => `${searchPath(process.env.PATH)}:/usr/sbin:/sbin`

/** Our environment with that PATH, for a program to be started in. */
export const searchEnv = (): Record<string, string | undefined> => ({ ...process.env, PATH: searchPath(process.env.PATH) })
