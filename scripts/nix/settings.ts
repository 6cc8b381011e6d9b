// Asks Nix for the settings in force: from all its files or, with an environment that hides the
// user's, from the system's alone. Never parses nix.conf itself.
import type { RunOptions } from '../system/exec.ts'
import { errorText, NixError, NoAnswer, nixProgram } from './nix.ts'

/** What `nix show-config` prints: values by name. */
export type Settings = ReadonlyMap<string, string>

/** Parses `name = value` lines; pure. */
export function parseSettings(output: string): Settings {
  const settings = new Map<string, string>()
  for (const line of output.split('\n')) {
    const [, name, value = ''] = /^([a-z0-9-]+) = ?(.*)$/.exec(line) ?? []
    if (name !== undefined) settings.set(name, value)
  }
  return settings
}

/** The words of a setting; empty if Nix doesn't know it. */
export const wordsOf = (settings: Settings, name: string): string[] => (settings.get(name) ?? '').split(' ').filter((word) => word !== '')

/**
 * The settings in force. 2.20 renamed `nix show-config` to `nix config show`; 2.35 still knows the
 * old name (src/nix/main.cc).
 * @param program which nix to ask; default: the first in PATH
 * @throws NixError with Nix's message
 */
export async function askSettings({ program = 'nix', ...options }: RunOptions & { program?: string } = {}): Promise<Settings> {
  let why = ''
  for (const words of [['show-config'], ['config', 'show']]) {
    const asked = await nixProgram(program, ['--option', 'extra-experimental-features', 'nix-command', ...words], options)
    if (asked.failedToStart) throw new NoAnswer(`nix can't be started (${asked.failedToStart}): is it in PATH?`)
    if (asked.timedOut) throw new NoAnswer('nix gave no answer in time')
    if (asked.code === 0) return parseSettings(asked.stdout)
    why ||= errorText(asked.stderr)
  }
  throw new NixError(why)
}

/** One setting in force, split at spaces. @throws NixError with Nix's message */
export const setting = async (name: string): Promise<string[]> => wordsOf(await askSettings(), name)
