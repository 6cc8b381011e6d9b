// Where programs are looked for. A service's PATH may have next to nothing in it: NixOS gives user services neither getent nor bash.

const DIRECTORIES = '/usr/local/bin:/usr/bin:/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin'

/** PATH, and at its end the directories where every system has its programs. */
export const searchPath = (path: string | undefined): string => (path ? `${path}:${DIRECTORIES}` : DIRECTORIES)

/** Our environment with that PATH, for a program to be started in. */
export const searchEnv = (): Record<string, string | undefined> => ({ ...process.env, PATH: searchPath(process.env.PATH) })
