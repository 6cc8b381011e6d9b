// The file beside the broker's socket, /etc/nix-lan/connect/CACHE: what nix-lan-connect needs to know
// when it is given a path, since it then reads no configuration. Written by setup and the NixOS
// module. Pure.
import { DEFAULT_DEADLINE, DEFAULT_PATIENCE, type SshCache } from './types.ts'

/** What the file says; times in seconds, undefined: the default. */
export interface ConnectSettings {
  user: string
  deadline?: number
  patience?: number
}

/** The settings of a cache that aren't the defaults, in seconds. */
export function unusualTimes({ deadline, patience }: Pick<SshCache, 'deadline' | 'patience'>): Omit<ConnectSettings, 'user'> {
  return {
    ...(deadline === DEFAULT_DEADLINE ? {} : { deadline: deadline / 1000 }),
    ...(patience === DEFAULT_PATIENCE ? {} : { patience: patience / 1000 }),
  }
}

/** The file's text. */
export function connectFileText(user: string, cache: Pick<SshCache, 'deadline' | 'patience'>): string {
  return Object.entries({ user, ...unusualTimes(cache) })
    .map(([key, value]) => `${key}=${value}\n`)
    .join('')
}

/**
 * Parses it. Ignores keys that it doesn't know: a newer version may have written them.
 * @returns undefined if it names no user, or a time is no number
 */
export function parseConnectFile(text: string): ConnectSettings | undefined {
  const values = new Map(text.split('\n').map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]))
  const user = values.get('user')
  if (!user) return undefined
  const settings: ConnectSettings = { user }
  for (const key of ['deadline', 'patience'] as const) {
    const value = values.get(key)
    if (value === undefined) continue
    if (!/^\d+(\.\d+)?$/.test(value)) return undefined
    settings[key] = Number(value)
  }
  return settings
}
