// Judges the way to the box: name, port, login, nix-daemon's socket there, the protocol. Pure: what
// ssh and the box said in, a verdict out.

import { bytes, count, shellWord } from '../cli/text.ts'
import { isNearlyFull, percentFull } from '../keep/daily.ts'
import { type HomeFacts, whyAway } from '../keep/home.ts'
import { SYSTEM_DIRECTORIES } from '../system/search-path.ts'
import { BOX_KEYS } from '../system/texts.ts'
import { type AgentState, endOf } from '../tunnel/failure.ts'
import { reasonFor } from '../tunnel/late.ts'
import { failed, ok, type Verdict, warning } from './check.ts'
import {
  BOX_AWAY,
  BOX_JOURNAL,
  collectOnBox,
  emptyBox,
  inConfigurationNix,
  keepOutside,
  lookAt,
  mountBox,
  onBox,
  queueBuilt,
  RESTART_BOX,
  startSshd,
} from './fixes.ts'
import { protocolText } from './judge-nix.ts'

export type Reached = { ok: true; address: string; port?: number; ms: number } | { ok: false; reason: string; ms: number }

const NAMELESS = /(has no address|was not resolved within|can't be started)/

/**
 * `name`: the box's name resolves to an address. An mDNS box that is away has none, so the verdict
 * says "away" too.
 */
export function judgeName(answer: Reached, host: string): Verdict {
  if (!answer.ok && NAMELESS.test(answer.reason)) {
    return failed(`away: ${answer.reason}`, BOX_AWAY)
  }
  return ok(answer.ok ? `${host} is ${answer.address}` : `${host} has an address`)
}

const ANY_FAMILY = 'set AddressFamily any for that host in ~/.ssh/config'

/** `port`: something accepts connections there. */
export function judgePort(answer: Reached, host: string, port: number): Verdict {
  if (answer.ok) return ok(`port ${answer.port ?? port} accepts, after ${answer.ms} ms`)
  if (/\(AddressFamily /.test(answer.reason)) return failed(answer.reason, ANY_FAMILY)
  const refused = /connection refused/.test(answer.reason)
  return failed(refused ? answer.reason : `away: ${answer.reason}`, refused ? startSshd(host) : BOX_AWAY)
}

/** The outcome of one ssh connection, made exactly as the tunnel makes it. */
export interface SshFacts {
  /** ssh's log, with -v. */
  log: string
  /** Why ssh could not be started: ENOENT, … */
  failedToStart: string | null
  timedOut: boolean
  /** What the user types to log in by hand: `ssh pi@rpi.local`. */
  byHand: string
  /** `socket`: where the tunnel would find it; `from`: where that is set. */
  agent: { state: AgentState; from: string; socket?: string; problem?: string }
  /** What the agent of the user's shell holds; 'none' if there is none or it is the same one. */
  shellAgent: AgentState
  /** The box's name in known_hosts. */
  knownAs: string
}

/** Whether ssh got in, from its log with -v (OpenSSH 8.4 to 10, sshconnect2.c, ssh_userauth2). */
export const gotIn = (log: string): boolean => /^(debug1: )?Authenticated to /m.test(log)

/** `login`: ssh gets in without asking anything. */
export function judgeLogin(facts: SshFacts): Verdict {
  const { log, byHand, failedToStart } = facts
  if (gotIn(log)) return ok(`${byHand} gets in without a question`)
  if (failedToStart)
    return failed(`ssh can't be started (${failedToStart})`, 'install the OpenSSH client (Debian: sudo apt install openssh-client)')
  const { kind, said } = endOf(withoutDebug(log), 255)
  if (kind === 'host-key-changed') {
    const [, file, line] = /^Offending \S+ key in (\/\S+):(\d+)/m.exec(log) ?? []
    const forget = `ssh-keygen ${file ? `-f ${shellWord(file)} ` : ''}-R ${shellWord(facts.knownAs)}`
    return failed(
      `another host key than the one in ${file ? `${file}:${line}` : 'known_hosts'}: the box was set up anew, or it is not the box`,
      `${forget}    # if it is the box; then, once: ${byHand}`,
    )
  }
  if (kind === 'host-key-unknown')
    return failed('the host key is not known yet', `${byHand}    # once, and look at the key before you say yes`)
  if (kind === 'denied') return judgeDenied(facts)
  if (facts.timedOut && facts.agent.state === 'unresponsive')
    return failed(
      reasonFor('unresponsive', byHand),
      `unlock it; then this answers: SSH_AUTH_SOCK=${shellWord(facts.agent.socket ?? '')} ssh-add -l`,
    )
  if (facts.timedOut) return failed('the port accepts, but ssh does not get through in time', `${byHand}    # does that take long, too?`)
  return failed(said, `${byHand}    # says more`)
}

function judgeDenied({ log, agent, shellAgent, byHand }: SshFacts): Verdict {
  const destination = byHand.replace(/^ssh /, '')
  const problem = agent.problem ? `; ${agent.problem}` : ''
  if (/agent refused operation/.test(log))
    return failed('the ssh agent refuses to use the key: is it locked, or does it want a confirmation?', 'ssh-add -X')
  // The box would accept the key, but it has a passphrase, which BatchMode doesn't ask for.
  if (/Server accepts key/.test(log)) {
    if (shellAgent === 'keys' && agent.state !== 'keys') {
      const found = 'the key has a passphrase; the agent that your shell knows holds keys, the one that the tunnel knows does not'
      return failed(found, 'systemctl --user import-environment SSH_AUTH_SOCK')
    }
    if (agent.state === 'keys' || agent.state === 'empty')
      return failed(
        `the key has a passphrase, and the agent (from ${agent.from}) does not hold it`,
        `SSH_AUTH_SOCK=${shellWord(agent.socket ?? '')} ssh-add`,
      )
    const found = `the key has a passphrase, and there is no agent: SSH_AUTH_SOCK comes from ${agent.from}${problem}`
    return failed(found, 'start an ssh-agent when you log in, set SSH_AUTH_SOCK in env-file, then: ssh-add')
  }
  if (/Offering public key/.test(log)) return failed('the box refuses the keys that it is offered', `ssh-copy-id ${destination}`)
  return failed(`there is no key to log in with${problem}`, `ssh-keygen -t ed25519 && ssh-copy-id ${destination}`)
}

/** ssh's log as it would be without -v. */
const withoutDebug = (log: string): string =>
  log
    .split(/\r?\n/)
    .filter((line) => !/^(debug\d: |OpenSSH_)/.test(line))
    .join('\n')

/** What the box's shell says about itself and nix-daemon's socket. */
export interface SocketFacts {
  user: string
  state: 'writable' | 'denied' | 'missing' | 'unknown'
  /** The group of the directory that keeps the user out. */
  group: string
  nixos: boolean
  /** Whether there is a shell at all: no forced command, no nologin. */
  shell: boolean
  /** Whether somebody is known to listen there. */
  listens: boolean
  /** What is wrong with the disk that holds Nix's database, and where it is mounted. */
  disk?: { problem: 'read-only' | 'full'; at: string }
}

const UNKNOWN: SocketFacts = { user: '', state: 'unknown', group: '', nixos: false, shell: true, listens: false }

/** A mount point that may become part of a command. */
const MOUNT_POINT = /^\/[A-Za-z0-9/_.-]*$/

/** KiB below which a disk counts as full: Nix's database can't grow any more. */
const FULL = 1024

/** A name as adduser(8) accepts it: what the box says becomes part of a command. */
const NAME = /^[a-z_][a-z0-9_-]{0,31}$/

/** Parses the output of heads/box-socket.sh. */
export function parseSocket(output: string): SocketFacts {
  const [line, user = '', state = '', group = '', nixos] = /^nix-lan (\S+) (\S+) (\S*) (nixos|other)$/m.exec(output) ?? []
  const known = state === 'writable' || state === 'denied' || state === 'missing' ? state : 'unknown'
  const safe = (name: string): string => (NAME.test(name) ? name : '')
  const disk = parseDisk(output)
  const listens = /^nix-lan-listens$/m.test(output)
  const [shell, there] = [line !== undefined, nixos === 'nixos']
  return { user: safe(user), state: known, group: safe(group), nixos: there, shell, listens, ...(disk && { disk }) }
}

function parseDisk(output: string): SocketFacts['disk'] {
  const [, mode, mount = '', free = ''] = /^nix-lan-disk (ro|rw) (\S+) (\d*)$/m.exec(output) ?? []
  const at = MOUNT_POINT.test(mount) ? mount : ''
  if (mode === 'ro') return { problem: 'read-only', at }
  return free !== '' && Number(free) < FULL ? { problem: 'full', at } : undefined
}

export type Handshake = { ok: true; version: number; nix: string } | { ok: false; kind: string; reason: string }

/**
 * What makes a box's sshd forward to a socket. ssh is told the same for all that forbids it as for a
 * daemon that doesn't listen (OpenSSH 9.2 and 10.0, serverloop.c and channels.c).
 */
const ALLOWS = ['AllowStreamLocalForwarding yes', 'AllowTcpForwarding yes', 'DisableForwarding no']
const ALLOWS_NIXOS = 'services.openssh.settings = { AllowStreamLocalForwarding = "yes"; AllowTcpForwarding = true; };'
const FORBIDS = "the box's sshd forbids forwarding to a socket"

/**
 * `box's daemon`: it answers the user who logs in.
 * @param socket undefined if the box wasn't asked
 */
export function judgeBox(answer: Handshake, path: string, destination: string, socket: SocketFacts | undefined, log: string): Verdict {
  if (answer.ok) return ok(`Nix ${answer.nix || 'older than 2.5'} answers, protocol ${protocolText(answer.version)}`)
  if (answer.kind === 'old') return failed(answer.reason, 'install a later Nix on the box')
  const { state, nixos, shell, group, user, listens } = socket ?? UNKNOWN
  const there = (text: string): string => inConfigurationNix(text).replace('in configuration.nix', "in the box's configuration.nix")
  const refused = /open failed/.test(log)
  // other servers give the reason (RFC 4254, 5.1)
  if (/administratively prohibited/.test(log) || (state === 'writable' && listens && refused)) {
    const words = `in the box's /etc/ssh/sshd_config: ${ALLOWS.join(', ')}, then restart its sshd`
    const key = 'if its authorized_keys restricts the key: port-forwarding after restrict'
    return failed(FORBIDS, `${nixos ? there(ALLOWS_NIXOS) : words}; ${key}`)
  }
  const who = user || 'the user'
  if (state === 'denied') {
    const found = `${who} may not use ${path} on the box${group ? `, which is for group ${group}` : ''}`
    if (!group || group === 'root' || !user) return failed(found, `on the box: let ${who} use it`)
    if (nixos) return failed(found, there(`users.users.${user}.extraGroups = [ "${group}" ];`))
    return failed(found, onBox(destination, `sudo usermod -aG ${group} ${user}`, true))
  }
  const start = onBox(destination, RESTART_BOX, shell)
  if (socket?.disk) {
    const { problem, at } = socket.disk
    const words = `the disk of the box's /nix${at && `, mounted on ${at},`} is ${problem}: its nix-daemon can't answer`
    if (problem === 'full') return failed(words, emptyBox(destination, shell))
    return failed(words, mountBox(destination, at || '/nix', shell))
  }
  if (answer.kind === 'slow') return failed(answer.reason, onBox(destination, BOX_JOURNAL, shell))
  if (state === 'missing') return failed(`there is no ${path} on the box: no nix-daemon runs there`, start)
  if (state === 'writable' && refused) return failed('nobody listens there: no nix-daemon runs on the box', start)
  if (state === 'writable' && answer.kind === 'broken') {
    return failed(
      `the box's nix-daemon turns ${who} away, or ends at once`,
      nixos
        ? there(`nix.settings.allowed-users = [ "${who}" ];`)
        : `on the box: is ${who} in allowed-users of nix.conf? journalctl -u nix-daemon -n 20`,
    )
  }
  if (!shell && refused) return failed(`no nix-daemon listens on the box, or ${FORBIDS}: it runs no command that would tell`, start)
  return failed(answer.reason, start)
}

/** What the box says about the keys it trusts. */
export interface BoxKeys {
  trusted: string[]
  nixos: boolean
}

/** sh for the box: the keys its nix-daemon trusts. Passed on stdin. */
export const KEYS_SCRIPT = `PATH=$PATH:${SYSTEM_DIRECTORIES.join(':')}\n${BOX_KEYS}`

/**
 * Parses the output of KEYS_SCRIPT; undefined if there is no shell, or no Nix that answers. Only
 * words in the form of a key count.
 */
export function parseKeys(output: string): BoxKeys | undefined {
  const [, nixos, keys] = /^nix-lan (nixos|other) (\S.*)$/m.exec(output) ?? []
  if (keys === undefined) return undefined
  return { trusted: keys.split(' ').filter((key) => /^[^\s:]{1,200}:[A-Za-z0-9+/=]{1,200}$/.test(key)), nixos: nixos === 'nixos' }
}

export interface KeptFacts {
  /** Why the box keeps nothing of what was uploaded last. */
  problem?: string | undefined
  /** Of how many uploaded paths, chosen at random, how many are there. */
  asked: number
  there: number
  /** Bytes of the disk of its store, if it says. */
  disk?: { total: number; free: number } | undefined
  /** The home of the user who logs in there, if it says. */
  home?: HomeFacts | undefined
}

/**
 * `kept`: the box still has what was uploaded, will have it tomorrow, and has room for more.
 * @param destination for ssh by hand
 */
export function judgeKept({ problem, asked, there, disk, home }: KeptFacts, cache: string, destination: string): Verdict {
  const why = home && NAME.test(home.user) ? whyAway(home) : undefined
  if (home && why !== undefined && (!home.outside || home.left > 0)) {
    const lost = `the home of ${home.user} on the box ${why}: a garbage collection there while it is away deletes what was uploaded`
    return warning(lost, home.outside ? lookAt(cache) : keepOutside(cache, destination, home.user, home.shell))
  }
  if (there < asked) {
    const gone = `a sample of ${count(asked, 'uploaded path')}: ${asked - there} gone`
    return warning(`${gone}, deleted there${problem === undefined ? '' : `, since it keeps nothing: ${problem}`}`, queueBuilt(cache))
  }
  if (problem !== undefined) return warning(`its own garbage collection may delete what is uploaded: ${problem}`, null)
  const room = disk ? `; its disk is ${percentFull(disk)} % full, ${bytes(disk.free)} are free` : ''
  const sample = asked === 0 ? 'nothing was uploaded yet' : `a sample of ${count(asked, 'uploaded path')}: all there`
  const all = home?.outside ? `${sample}, kept outside of the home` : sample
  return disk && isNearlyFull(disk) ? warning(`${all}${room}`, collectOnBox(cache)) : ok(`${all}${room}`)
}
