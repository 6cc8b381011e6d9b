// Judges what makes nix-lan work automatically: the user's systemd, the units, timer and linger,
// NetworkManager's dispatcher, the tunnel. Pure: facts in, a verdict out.
import type { Doubt } from '../system/trust.ts'
import { failed, ok, type Verdict, warning } from './check.ts'
import { CHECK_AGAIN, linger, type Machine, setupAgain, startTunnel, TIMER_ENABLE, UNITS_RELOAD } from './fixes.ts'

/** A unit as systemd sees it, compared with what it should be. */
export interface UnitFacts {
  name: string
  /** loaded, not-found, masked, error, bad-setting; '' if systemd didn't say. */
  loadState: string
  file: string
  /** Whether its text is this version's, the programs' directory aside. Undefined: not compared. */
  same?: boolean
  /** The file has changed since systemd read it. */
  needsReload: boolean
}

/** `session`: the user's systemd answers. */
export function judgeSession(state: string, uid: number, machine: Machine): Verdict {
  const { user } = machine
  if (/^(running|degraded|starting|initializing|maintenance)/.test(state)) return ok(`the systemd of ${user} answers`)
  if (state === 'ENOENT') return warning('no systemd here: start nix-lan-tunnel and `nix-lan queue upload` yourself', null)
  return failed(`no systemd of ${user}'s answers in /run/user/${uid}: ${state || 'it says nothing'}`, linger(machine))
}

/** `units`: they are installed, and from this version. */
export function judgeUnits(units: readonly UnitFacts[], machine: Machine): Verdict {
  const missing = units.filter(({ loadState }) => loadState === 'not-found')
  if (missing.length > 0) return failed(`systemd has no ${missing.map(({ name }) => name).join(', ')}`, setupAgain(machine))
  const bad = units.find(({ loadState }) => loadState !== 'loaded')
  if (bad?.loadState === 'masked') return failed(`${bad.name} is masked`, `systemctl --user unmask ${bad.name}`)
  if (bad) return failed(`systemd can't use ${bad.name}: ${bad.loadState || 'no answer'}`, `systemctl --user status ${bad.name}`)
  const old = units.find(({ same }) => same === false)
  if (old) return failed(`${old.file} is not that of this version of nix-lan`, setupAgain(machine))
  const stale = units.find(({ needsReload }) => needsReload)
  if (stale) return failed(`systemd has not reloaded ${stale.file} since it changed`, UNITS_RELOAD)
  return ok(`${units.length} units, of this version`)
}

/** `timer`: it starts the check that notices when a box is switched on. */
export function judgeTimer(enabled: string, active: string): Verdict {
  if (!/^(enabled|enabled-runtime|static|linked|alias|generated)/.test(enabled))
    return failed(`nix-lan-check.timer is ${enabled || 'not enabled'}`, TIMER_ENABLE)
  if (active !== 'active') return failed(`nix-lan-check.timer is ${enabled}, but ${active || 'not active'}`, TIMER_ENABLE)
  return ok(`nix-lan-check.timer is ${enabled}`)
}

/** `linger`: without it nothing happens before the user logs in, which suits most laptops. */
export function judgeLinger(lingers: boolean, machine: Machine): Verdict {
  const { user } = machine
  if (lingers) return ok(`${user}'s units run from boot on`)
  return warning(`${user}'s units run only while ${user} is logged in`, linger(machine))
}

export interface DispatcherFacts {
  /** Whether NetworkManager's directory for such scripts exists; setup asks the same. */
  manager: boolean
  directory: string
  /** nix-lan's script. */
  file?: string
  /** Where nix-lan-network.path is enabled, if it is. */
  network?: string
  /** ENOENT for a dangling link. */
  missing?: string
  executable: boolean
  doubt?: Doubt
}

/**
 * `dispatcher`: NetworkManager runs only what is executable, belongs to root and is writable by
 * nobody else (NetworkManager-dispatcher(8)).
 */
export function judgeDispatcher(facts: DispatcherFacts, machine: Machine): Verdict {
  const { manager, directory, file, missing, executable, doubt, network } = facts
  const alone = 'only the timer notices that the network has changed'
  if (file === undefined && network !== undefined && (!manager || machine.kind === 'single'))
    return ok('nix-lan-network.path notices that the network has changed')
  if (!manager) return ok(`no NetworkManager here: ${alone}`)
  if (file === undefined && machine.kind === 'single') return ok(`none, since it would have to be root's: ${alone}`)
  if (file === undefined) return failed(`${directory} has no nix-lan-dispatcher: ${alone}`, setupAgain(machine))
  if (missing !== undefined) return failed(`${file} leads nowhere (${missing})`, setupAgain(machine))
  if (doubt !== undefined) return failed(`NetworkManager does not run ${file}: ${doubt.why}`, doubt.fix ?? setupAgain(machine))
  if (!executable) return failed(`NetworkManager does not run ${file}: it is not executable`, `sudo chmod a+rx ${file}`)
  return ok(`${file}, and nobody but root can change it`)
}

/** `tunnel`: the box's nix-daemon answers through the socket that Nix uses. */
export function judgeTunnel(
  answer: { ok: true; detail?: string } | { ok: false; reason: string },
  { units, state, reason, cache }: { units: boolean; state: string; reason?: string; cache: string },
): Verdict {
  if (answer.ok) return ok(`the box answers through it${answer.detail ? ` (${answer.detail})` : ''}`)
  if (!units) return failed(answer.reason, startTunnel(cache))
  const why = reason ? `; last time: ${reason}` : ''
  return failed(`${answer.reason} (nix-lan-tunnel@${cache} is ${state || 'unknown'})${why}`, CHECK_AGAIN)
}
