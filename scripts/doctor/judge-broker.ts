// Judges what the broker of a cache needs. Pure: facts in, a verdict out. Nothing of it can fail a
// build: without it, nix-lan-connect does all of the broker's work in each of its own processes.
import { failed, ok, type Verdict } from './check.ts'
import { type Machine, restartBroker, SYSTEM_RELOAD, setupAgain } from './fixes.ts'

/** A path, as stat(2) has it. */
export interface Place {
  path: string
  kind: 'file' | 'socket' | 'other' | 'missing'
  owner: string
  mode: number
}

export interface BrokerFacts {
  /** Whether systemd runs this machine. */
  systemd: boolean
  /** Whether there is a perl where nix-daemon's children find it. */
  perl: boolean
  /** Whose the cache is, by config.toml. */
  user: string
  /** Root's file for nix-lan-connect. */
  file: Place
  /** What it says, and whether config.toml says the same; undefined if it can't be read. */
  settings: { user: string; same: boolean } | undefined
  socket: Place
  /** The socket's unit, then the broker's. */
  units: {
    name: string
    loadState: string
    active: string
    result: string
    file: string
    /** Whether its text is this version's. */
    same: boolean
    needsReload: boolean
    /** For whom it is, by its drop-in. */
    user: string
  }[]
}

/** `broker`: one process that answers for the box, whichever nix command asks. */
export function judgeBroker(facts: BrokerFacts, cache: string, machine: Machine): Verdict {
  const { systemd, file, settings, user } = facts
  if (file.kind === 'missing') {
    if (systemd && (machine.recorded || machine.kind === 'nixos')) return failed(`there is no ${file.path}`, setupAgain(machine))
    return ok('none here: each nix-lan-connect asks the box by itself')
  }
  const bad = file.kind !== 'file' || file.owner !== 'root' || (file.mode & 0o022) !== 0
  if (bad || !settings)
    return failed(
      `nix-lan-connect does not believe ${file.path}: ${bad ? whyNot(file) : 'it names no user, or has a line of another kind'}`,
      setupAgain(machine),
    )
  if (settings.user !== user) return failed(`${file.path} is for ${settings.user}, not for ${user}`, setupAgain(machine))
  if (!settings.same) return failed(`${file.path} has another deadline or patience than the configuration`, setupAgain(machine))
  if (!systemd) return ok('no systemd here: each nix-lan-connect asks the box by itself')
  return judgeBrokerUnits(facts, machine) ?? judgeSocket(facts, cache)
}

function whyNot({ kind, owner, mode }: Place): string {
  if (kind !== 'file') return 'it is no plain file'
  return owner === 'root' ? `others may write to it (mode ${mode.toString(8)})` : `it is ${owner}'s, not root's`
}

function judgeBrokerUnits({ units, user }: BrokerFacts, machine: Machine): Verdict | undefined {
  const missing = units.find(({ loadState }) => loadState === 'not-found')
  if (missing) return failed(`systemd has no ${missing.name}`, setupAgain(machine))
  const bad = units.find(({ loadState }) => loadState !== 'loaded')
  if (bad?.loadState === 'masked') return failed(`${bad.name} is masked`, `sudo systemctl unmask ${bad.name}`)
  if (bad) return failed(`systemd can't use ${bad.name}: ${bad.loadState}`, `systemctl status ${bad.name}`)
  const old = units.find(({ same }) => !same)
  if (old) return failed(`${old.file} is not that of this version of nix-lan`, setupAgain(machine))
  const stale = units.find(({ needsReload }) => needsReload)
  if (stale) return failed(`systemd has not reloaded ${stale.name} since it changed`, SYSTEM_RELOAD)
  const foreign = units.find((unit) => unit.user !== user)
  return foreign && failed(`${foreign.name} is for ${foreign.user}, not for ${user}`, setupAgain(machine))
}

function judgeSocket({ units, socket, perl, user }: BrokerFacts, cache: string): Verdict {
  const [unit, service] = units
  if (unit && unit.active !== 'active')
    return failed(`${unit.name} is ${unit.active}${unit.result === 'success' ? '' : ` (${unit.result})`}`, restartBroker(cache))
  if (socket.kind !== 'socket') return failed(`there is no socket at ${socket.path}`, restartBroker(cache))
  if (socket.owner !== user || socket.mode !== 0o600)
    return failed(`${socket.path} is ${socket.owner}'s, with mode ${socket.mode.toString(8)}, not ${user}'s with 600`, restartBroker(cache))
  const state = service?.active === 'active' ? 'runs' : 'starts when Nix asks'
  return ok(
    perl
      ? state
      : `${state}; install perl, and no nix command starts JavaScript to ask it: that takes 25 ms, on a Raspberry Pi ten times that`,
  )
}
