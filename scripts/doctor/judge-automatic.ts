// Judges what makes it all happen by itself: the user's systemd, the units, timer and linger, NetworkManager's dispatcher, the tunnel.
// Pure: facts in, a verdict out.
import type { Doubt } from '../system/trust.ts'
import { failed, ok, type Verdict, warning } from './check.ts'

/** A unit as systemd knows it, beside what it should be. */
export interface UnitFacts {
  name: string
  /** loaded, not-found, masked, error, bad-setting; '' when systemd didn't say. */
  loadState: string
  file: string
  /** Whether its text is that of this version, whatever the directory of the programs. Undefined: not compared. */
  same?: boolean
  /** systemd has read an older text than the file has. */
  needsReload: boolean
}

/** `session`: whether the user's systemd answers. */
export function judgeSession(state: string, user: string, uid: number): Verdict {
  if (/^(running|degraded|starting|initializing|maintenance)/.test(state)) return ok(`the systemd of ${user} answers`)
  if (state === 'ENOENT') return warning('no systemd here: start nix-lan-tunnel and `nix-lan queue upload` yourself', null)
  return failed(`no systemd of ${user}'s answers in /run/user/${uid}: ${state || 'it says nothing'}`, `sudo loginctl enable-linger ${user}`)
}

/** `units`: they are there, and of this version. */
export function judgeUnits(units: readonly UnitFacts[]): Verdict {
  const lacking = units.filter(({ loadState }) => loadState === 'not-found')
  if (lacking.length > 0) return failed(`systemd has no ${lacking.map(({ name }) => name).join(', ')}`, 'sudo nix-lan setup')
  const bad = units.find(({ loadState }) => loadState !== 'loaded')
  if (bad?.loadState === 'masked') return failed(`${bad.name} is masked`, `systemctl --user unmask ${bad.name}`)
  if (bad) return failed(`systemd can't use ${bad.name}: ${bad.loadState || 'no answer'}`, `systemctl --user status ${bad.name}`)
  const old = units.find(({ same }) => same === false)
  if (old) return failed(`${old.file} is not that of this version of nix-lan`, 'sudo nix-lan setup')
  const stale = units.find(({ needsReload }) => needsReload)
  if (stale) return failed(`systemd has not read ${stale.file} since it was changed`, 'systemctl --user daemon-reload')
  return ok(`${units.length} units, of this version`)
}

/** `timer`: the check that notices a box being switched on. */
export function judgeTimer(enabled: string, active: string): Verdict {
  const fix = 'systemctl --user enable --now nix-lan-check.timer'
  if (!/^(enabled|enabled-runtime|static|linked|alias|generated)/.test(enabled))
    return failed(`nix-lan-check.timer is ${enabled || 'not enabled'}`, fix)
  if (active !== 'active') return failed(`nix-lan-check.timer is ${enabled}, but ${active || 'not active'}`, fix)
  return ok(`nix-lan-check.timer is ${enabled}`)
}

/** `linger`: without it nothing happens before the user logs in, which on a laptop is mostly all right. */
export function judgeLinger(lingers: boolean, user: string): Verdict {
  if (lingers) return ok(`${user}'s units run from boot on`)
  return warning(`${user}'s units run only while ${user} is logged in`, `sudo loginctl enable-linger ${user}`)
}

export interface DispatcherFacts {
  /** Whether there is a NetworkManager at all. */
  manager: boolean
  /** A single-user installation, which has nothing of root's. */
  single: boolean
  directory: string
  /** The script that is nix-lan's. */
  file?: string
  /** ENOENT for a link that leads nowhere. */
  missing?: string
  executable: boolean
  doubt?: Doubt
}

/** `dispatcher`: NetworkManager runs only what root owns, nobody else can write, and is executable (NetworkManager-dispatcher(8)). */
export function judgeDispatcher({ manager, single, directory, file, missing, executable, doubt }: DispatcherFacts): Verdict {
  if (!manager) return ok('no NetworkManager here: the timer alone notices that the network has changed')
  if (file === undefined && single) return ok("none, since it would be root's: the timer alone notices that the network has changed")
  if (file === undefined)
    return failed(`${directory} has no nix-lan-dispatcher, so that a change of network is noticed late`, 'sudo nix-lan setup')
  if (missing !== undefined) return failed(`${file} leads nowhere (${missing})`, 'sudo nix-lan setup')
  if (doubt !== undefined) {
    return failed(`NetworkManager does not run ${file}: ${doubt.why}`, doubt.fix ?? 'sudo nix-lan setup')
  }
  if (!executable) return failed(`NetworkManager does not run ${file}: it is not executable`, `sudo chmod a+rx ${file}`)
  return ok(`${file}, and nobody but root can change it`)
}

/** `tunnel`: whether the box's nix-daemon answers through the socket that Nix uses. */
export function judgeTunnel(
  answer: { ok: true; detail?: string } | { ok: false; reason: string },
  { units, state, reason, cache }: { units: boolean; state: string; reason?: string; cache: string },
): Verdict {
  if (answer.ok) return ok(`the box answers through it${answer.detail ? ` (${answer.detail})` : ''}`)
  const why = reason ? `; last time: ${reason}` : ''
  if (!units) return failed(answer.reason, `nix-lan-tunnel ${cache} &`)
  return failed(
    `${answer.reason} (nix-lan-tunnel@${cache} is ${state || 'unknown'})${why}`,
    'systemctl --user restart nix-lan-check.service',
  )
}
