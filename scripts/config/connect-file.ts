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
 * Parses it for whoever judges it; nix-lan-connect has a parser of its own (connect/settings.ts),
 * which refuses the same lines.
 * @returns undefined if it names no user, a time is no number, or a line is none of these
 */
export function parseConnectFile(text: string): ConnectSettings | undefined {
  const settings: ConnectSettings = { user: '' }
  for (const line of text.split('\n')) {
    const [, key, value = ''] = /^(\w+)=(.*)$/.exec(line) ?? []
    if (key === 'user') settings.user = value
    else if (key === 'deadline' || key === 'patience') {
      if (!/^\d+(\.\d+)?$/.test(value)) return undefined
      settings[key] = Number(value)
    } else if (line !== '' && !line.startsWith('#')) return undefined
  }
  return settings.user === '' ? undefined : settings
}
