// Reads the state of what makes nix-lan work automatically: the user's systemd and its units. Never
// changes anything.
import type { SshCache } from '../config/types.ts'
import { readText } from '../nix/nix-conf.ts'
import { realPath } from '../system/files.ts'
import { problemOf, showUnits, systemctl, tunnelUnitOf } from '../system/systemd.ts'
import { UNITS } from '../system/texts.ts'
import type { UnitFacts } from './judge-automatic.ts'

/** Milliseconds. systemd answers in about 10; it takes longer just after boot. */
const PATIENCE = 10_000

/**
 * The state reported by the user's systemd: running, degraded, …; ENOENT without systemd; otherwise
 * why it doesn't answer.
 */
export async function sessionState(): Promise<string> {
  const asked = await systemctl(['is-system-running'], { limit: PATIENCE })
  if (asked.failedToStart) return asked.failedToStart
  return asked.stdout.trim().replace(/^offline$/, '') || problemOf(asked)
}

/**
 * The SSH_AUTH_SOCK of the user's services; undefined: they have none; null: systemd doesn't say.
 */
export async function serviceAgent(): Promise<string | undefined | null> {
  const asked = await systemctl(['show-environment'], { limit: PATIENCE })
  if (asked.code !== 0) return null
  const [, socket] = /^SSH_AUTH_SOCK=(.+)$/m.exec(asked.stdout) ?? []
  return socket
}

/** The units of these caches as systemd has them, compared with the text they should have. */
export async function unitFacts(caches: readonly SshCache[]): Promise<UnitFacts[]> {
  const names = [...new Set(Object.keys(UNITS).flatMap((name) => (name.includes('@.') ? instances(name, caches) : [name])))]
  const found = await showUnits(names, ['Id', 'LoadState', 'FragmentPath', 'NeedDaemonReload'], { limit: PATIENCE })
  return names.map((name, at) => {
    const { LoadState = '', FragmentPath = '', NeedDaemonReload } = found[at] ?? {}
    const text = FragmentPath === '' ? undefined : readText(FragmentPath)
    const right = UNITS[name.replace(/@.*\./, '@.')]
    const same = text === undefined || right === undefined ? {} : { same: anywhere(text) === anywhere(right) }
    // Resolved: systemd 252 on Debian says /etc/xdg/systemd/user, a link to /etc/systemd/user.
    return { name, loadState: LoadState, file: realPath(FragmentPath), ...same, needsReload: NeedDaemonReload === 'yes' }
  })
}

const instances = (template: string, caches: readonly SshCache[]): string[] => caches.map(({ name }) => template.replace('@.', `@${name}.`))

/**
 * A unit's text without comments and the programs' directory, which depends on the installation.
 */
export function anywhere(text: string): string {
  return text
    .split('\n')
    .map((line) => line.trim().replace(/^(Exec[A-Za-z]*=[-+]?)(\/usr\/bin\/env |\/\S*\/)(?=(nix-lan|post-build-hook|(touch|rm) ))/, '$1'))
    .filter((line) => line !== '' && !/^[#;]/.test(line))
    .join('\n')
}

export async function timerFacts(): Promise<{ enabled: string; active: string }> {
  const [facts] = await showUnits(['nix-lan-check.timer'], ['UnitFileState', 'ActiveState'], { limit: PATIENCE })
  return { enabled: facts?.UnitFileState ?? '', active: facts?.ActiveState ?? '' }
}

/** A tunnel's state and status line, from systemd. */
export async function tunnelFacts(cache: string): Promise<{ state: string; status: string }> {
  const [facts] = await showUnits([tunnelUnitOf(cache)], ['ActiveState', 'StatusText'], { limit: PATIENCE })
  return { state: facts?.ActiveState ?? '', status: facts?.StatusText ?? '' }
}
