// Judges the way to the box: name, port, log-in, nix-daemon's socket there, the protocol. Pure: what ssh and the box said in, a verdict out.
import { type AgentState, endOf } from '../tunnel/failure.ts'
import { failed, ok, type Verdict } from './check.ts'
import { protocolText } from './judge-nix.ts'

export type Reached = { ok: true; address: string; port?: number; ms: number } | { ok: false; reason: string; ms: number }

const NAMELESS = /(has no address|was not resolved within|can't be started)/

/** `name`: the box's name leads to an address. A box on mDNS that is away has none: so that is said too. */
export function judgeName(answer: Reached, host: string): Verdict {
  if (!answer.ok && NAMELESS.test(answer.reason)) {
    return failed(
      `away: ${answer.reason}`,
      `switch the box on, and be in its network; \`getent ahosts ${host}\` says when its name is known`,
    )
  }
  return ok(answer.ok ? `${host} is ${answer.address}` : `${host} has an address`)
}

/** `port`: something accepts there. */
export function judgePort(answer: Reached, host: string, port: number): Verdict {
  if (answer.ok) return ok(`port ${answer.port ?? port} accepts, after ${answer.ms} ms`)
  const refused = /connection refused/.test(answer.reason)
  return failed(
    refused ? answer.reason : `away: ${answer.reason}`,
    refused ? `start sshd on ${host}, or set port in the configuration` : 'switch the box on, and be in its network',
  )
}

/** What came of one ssh connection made just as the tunnel makes it. */
export interface SshFacts {
  /** ssh's log, with -v. */
  log: string
  /** ssh could not be started: ENOENT, … */
  failedToStart: string | null
  timedOut: boolean
  /** What the user types to log in by hand: `ssh pi@rpi.local`. */
  byHand: string
  /** `socket`: where the tunnel would find it; `from`: who says so. */
  agent: { state: AgentState; from: string; socket?: string; problem?: string }
  /** Another agent, of which the user's shell knows, and what it holds; none where there is none or it is the same. */
  shellAgent: AgentState
  /** The name that known_hosts has. */
  knownAs: string
}

/** Whether ssh got in, by its log with -v (OpenSSH 8.4 to 10, sshconnect2.c, ssh_userauth2). */
export const gotIn = (log: string): boolean => /^(debug1: )?Authenticated to /m.test(log)

/** `login`: ssh gets in without asking anything. */
export function judgeLogin(facts: SshFacts): Verdict {
  const { log, byHand, failedToStart } = facts
  if (gotIn(log)) return ok(`${byHand} gets in without a question`)
  if (failedToStart)
    return failed(`ssh can't be started (${failedToStart})`, 'install the OpenSSH client (Debian: sudo apt install openssh-client)')
  const { kind, said } = endOf(withoutDebug(log), 255)
  if (kind === 'host-key-changed') {
    const [, where] = /Offending \S+ key in (\S+:\d+)/.exec(log) ?? []
    const [, forget = `ssh-keygen -R '${facts.knownAs}'`] = /^\s+(ssh-keygen -f (["'])[^\n]*\2 -R \2[^\n]*\2)\s*$/m.exec(log) ?? []
    return failed(
      `another host key than the one in ${where ?? 'known_hosts'}: the box was set up anew, or it is not the box`,
      `${forget}    # if it is the box; then, once: ${byHand}`,
    )
  }
  if (kind === 'host-key-unknown')
    return failed('the host key is not known yet', `${byHand}    # once, and look at the key before you say yes`)
  if (kind === 'denied') return judgeDenied(facts)
  if (facts.timedOut) return failed('the port accepts, but ssh does not get through in time', `${byHand}    # does that take long, too?`)
  return failed(said, `${byHand}    # says more`)
}

function judgeDenied({ log, agent, shellAgent, byHand }: SshFacts): Verdict {
  const destination = byHand.replace(/^ssh /, '')
  const problem = agent.problem ? `; ${agent.problem}` : ''
  if (/agent refused operation/.test(log))
    return failed('the ssh agent refuses to use the key: is it locked, or does it want a confirmation?', 'ssh-add -X')
  // The box would take the key, and ssh then can't use it: it wants a passphrase, and BatchMode asks for none.
  if (/Server accepts key/.test(log)) {
    if (shellAgent === 'keys' && agent.state !== 'keys') {
      const found = 'the key has a passphrase; the agent that your shell knows holds keys, the one that the tunnel knows does not'
      return failed(found, 'systemctl --user import-environment SSH_AUTH_SOCK')
    }
    if (agent.state === 'keys' || agent.state === 'empty')
      return failed(
        `the key has a passphrase, and the agent (from ${agent.from}) does not hold it`,
        `SSH_AUTH_SOCK=${agent.socket ?? ''} ssh-add`,
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

/** What the box's shell says of nix-daemon's socket, when the handshake through ssh failed. */
export interface SocketFacts {
  user: string
  state: 'writable' | 'denied' | 'missing' | 'unknown'
  /** The group of the directory that keeps the user out. */
  group: string
}

/** Reads what SOCKET_SCRIPT prints. */
export function parseSocket(output: string): SocketFacts {
  const [, user = '', state = '', group = ''] = /^nix-lan (\S+) (\S+) (\S*)$/m.exec(output) ?? []
  return { user, state: state === 'writable' || state === 'denied' || state === 'missing' ? state : 'unknown', group }
}

/** sh for the box: may this user connect to the socket $1, and if not, whose is it? Given on stdin: a login shell may be anything. */
export const SOCKET_SCRIPT = `s=$1 d=\${1%/*}
if [ -w "$s" ]; then w=writable; elif [ -e "$s" ] || { [ -d "$d" ] && ! [ -x "$d" ]; }; then w=denied
elif [ -d "$d" ]; then w=missing; else p=\${d%/*}; if [ -d "$p" ] && ! [ -x "$p" ]; then w=denied d=$p; else w=missing; fi; fi
f=$d; [ "$w" != denied ] || ! [ -e "$s" ] || f=$s
g=$(ls -ldL -- "$f" 2>/dev/null | { read -r _ _ _ g _ && echo "$g"; })
echo "nix-lan $(id -un) $w $g"
`

export type Handshake = { ok: true; version: number; nix: string } | { ok: false; kind: string; reason: string }

/** `box's daemon`: it answers to the user who logs in. `socket`: undefined when the box wasn't asked. */
export function judgeBox(answer: Handshake, path: string, destination: string, socket: SocketFacts | undefined, log: string): Verdict {
  if (answer.ok) return ok(`Nix ${answer.nix || 'older than 2.5'} answers, protocol ${protocolText(answer.version)}`)
  if (answer.kind === 'old') return failed(answer.reason, 'install a later Nix on the box')
  const onBox = (command: string): string => `ssh -t ${destination} ${command}`
  if (/administratively prohibited/.test(log)) {
    return failed(
      "the box's sshd forbids to forward a socket",
      "in the box's /etc/ssh/sshd_config: AllowStreamLocalForwarding yes, then restart its sshd",
    )
  }
  if (socket?.state === 'denied') {
    const found = `${socket.user} may not use ${path} on the box${socket.group ? `, which is for group ${socket.group}` : ''}`
    return failed(
      found,
      socket.group && socket.group !== 'root' ? onBox(`sudo usermod -aG ${socket.group} ${socket.user}`) : `let ${socket.user} use it`,
    )
  }
  const start = onBox('sudo systemctl restart nix-daemon.socket')
  if (socket?.state === 'missing') return failed(`there is no ${path} on the box: no nix-daemon runs there`, start)
  if (socket?.state === 'writable' && /open failed/.test(log)) return failed('nobody listens there: no nix-daemon runs on the box', start)
  if (socket?.state === 'writable' && answer.kind === 'broken') {
    return failed(
      `the box's nix-daemon turns ${socket.user} away, or ends at once`,
      `on the box: is ${socket.user} in allowed-users of nix.conf? journalctl -u nix-daemon -n 20`,
    )
  }
  return failed(answer.reason, start)
}
