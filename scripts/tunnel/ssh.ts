// Builds every ssh command line of ours: for the tunnel, for running a program on the box, and for
// what a person is told to type. Pure: callers decide as which user and for how long it runs.
import type { SshCache } from '../config/types.ts'
import { forwardingsOf, isDirect, type SshFacts } from './ssh-config.ts'

/** Seconds an ssh server on a slow box may need for the key exchange once its port has accepted. */
const KEY_EXCHANGE = 5

/** Seconds for ssh to reach a box that nobody has probed beforehand. */
const CONNECT = 10

/**
 * Options for every ssh we start. An alias's Host block is written for people who log in; we want
 * nothing it starts, forwards, asks or prints. These go on the command line because ssh takes the
 * first value it finds (ssh_config(5)). IgnoreUnknown: ssh exits at an option it doesn't know, and
 * SessionType, StdinNull and ForkAfterAuthentication only exist since OpenSSH 8.7. It is `*`
 * because the first value counts here, too: a list of our own would override the user's
 * `IgnoreUnknown UseKeychain`. LogLevel=INFO: at ERROR, ssh says nothing when the server stops
 * answering. ServerAlive: ssh probes after 4 s of silence and gives up when two probes in a row go
 * unanswered for 4 s each: after 12 s at most.
 */
const ALWAYS = [
  'IgnoreUnknown=*',
  'BatchMode=yes',
  'ConnectionAttempts=1',
  'ServerAliveInterval=4',
  'ServerAliveCountMax=2',
  'ForkAfterAuthentication=no',
  'PermitLocalCommand=no',
  'RemoteCommand=none',
  'RequestTTY=no',
  'ForwardAgent=no',
  'ForwardX11=no',
  'Tunnel=no',
  'VisualHostKey=no',
  'LogLevel=INFO',
]

/** Uses nobody else's connection and shares ours with nobody. */
const ALONE = ['ControlMaster=no', 'ControlPath=none']

/**
 * For a tunnel. StreamLocalBindUnlink=no: if two tunnels start at once, the second must fail to
 * bind rather than take over the first one's socket; a stale socket has been removed by then.
 * ClearAllForwardings=no: an alias's yes would clear our -L, too. (-N and -n stand in for
 * SessionType and StdinNull.)
 */
const FORWARD = ['ExitOnForwardFailure=yes', 'StreamLocalBindUnlink=no', 'StreamLocalBindMask=0177', 'ClearAllForwardings=no']

/** For a program on the box. */
const PROGRAM = ['ClearAllForwardings=yes', 'SessionType=default', 'StdinNull=no']

const asOptions = (texts: readonly string[]): string[] => texts.flatMap((text) => ['-o', text])

/** `-p` for a port other than ssh's default. */
export const portOption = (port: number): string[] => (port === 22 ? [] : ['-p', String(port)])

/**
 * The command that runs a program on the box, with our stdin as its stdin.
 * @param ssh the destination, which may be an alias
 * @param program one string for the login shell there
 * @param target options that say where to connect: portOption(), targetOptions()
 */
export function sshCommand(ssh: string, program: string, target: readonly string[] = []): string[] {
  return ['ssh', '-T', ...asOptions([...ALWAYS, ...ALONE, ...PROGRAM, `ConnectTimeout=${CONNECT}`]), ...target, '--', ssh, program]
}

/**
 * The command that runs sftp(1)'s commands from stdin. It starts ssh with `-s`, with which a
 * SessionType of ours would clash (OpenSSH 9.2, ssh.c).
 * @param ssh the destination, which may be an alias
 * @param target as for sshCommand()
 */
export function sftpCommand(ssh: string, target: readonly string[] = []): string[] {
  const port = target.map((word) => (word === '-p' ? '-P' : word))
  // HOST:PATH is how sftp reads a destination, so an IPv6 address needs brackets.
  const [, user = '', host = ssh] = /^([^@]*@)?(.*)$/.exec(ssh) ?? []
  const place = /:.*:/.test(host) ? `${user}[${host}]` : ssh
  return ['sftp', '-b', '-', ...asOptions([...ALWAYS, ...ALONE, 'StdinNull=no', `ConnectTimeout=${CONNECT}`]), ...port, '--', place]
}

/** What a person types to log in and answer ssh's prompts. */
const loginCommand = (ssh: string, target: readonly string[] = []): string => ['ssh', ...target, ssh].join(' ')

/**
 * The login command for a configured box.
 * @param facts from `ssh -G`: an alias for another machine has its own port
 */
export const loginByHand = (cache: SshCache, facts: SshFacts): string =>
  loginCommand(cache.ssh, cache.port === 22 ? [] : portOptions(cache, facts))

/**
 * A tunnel's arguments before its forwarding, without an address; `ssh -G` is called with the same
 * ones.
 */
export function sshOptions(cache: SshCache): string[] {
  const timeout = Math.ceil(cache.deadline / 1000) + KEY_EXCHANGE
  return ['-N', '-T', '-n', ...asOptions([...ALWAYS, ...FORWARD, `ConnectTimeout=${timeout}`])]
}

/** What a tunnel needs besides its cache and socket. */
export interface TunnelOptions {
  /** From targetOptions(). */
  target: readonly string[]
  /** A file for ssh's messages; default: stderr. */
  log?: string
  /**
   * The path of a control socket, over which the tunnel can be asked for its forwarding later; see
   * forwardCommand().
   */
  control?: string
  /** Options for the kind of traffic it carries; from trafficOptions(). */
  traffic?: string[]
}

/** All arguments of a tunnel's ssh. */
export function sshArguments(cache: SshCache, socket: string, { target, log, control, traffic = [] }: TunnelOptions): string[] {
  const file = log === undefined ? [] : ['-E', log]
  const [first, forwards] =
    control === undefined
      ? [[], [...asOptions(ALONE), ...target, '-L', forwarding(cache, socket)]]
      : [
          // Before sshOptions(), since the first one counts.
          asOptions(['ClearAllForwardings=yes']),
          [...asOptions(['ControlMaster=yes', `ControlPath=${control}`, 'ControlPersist=no']), ...target],
        ]
  return [...first, ...sshOptions(cache), ...file, ...traffic, ...forwards, '--', cache.ssh]
}

/** ssh_config(5)'s defaults for IPQoS: since 10.1, from 7.8 to 10.0, and Debian's. */
const USUAL_QOS = ['ef none', 'af21 cs1', 'lowdelay throughput']

/**
 * How ssh marks a connection's traffic: what Nix is waiting for goes ahead of uploads. An IPQoS set
 * by the user stays: their router may drop marked packets.
 */
export function trafficOptions(cache: SshCache, facts: SshFacts, kind: 'lowdelay' | 'throughput'): string[] {
  const usual = USUAL_QOS.includes(facts.get('ipqos')?.[0] ?? '')
  const compression = cache.compression === undefined ? [] : [`Compression=${cache.compression ? 'yes' : 'no'}`]
  return asOptions([...(usual ? [`IPQoS=${kind}`] : []), ...compression])
}

const forwarding = (cache: SshCache, socket: string): string => `${socket}:${cache.daemonSocket}`

/**
 * Asks a tunnel for its forwarding over the control socket. This is how an alias that has its own
 * forwardings is used without them: any that fails would end the tunnel, each takes a port the
 * user's own `ssh ALIAS` wants, and ClearAllForwardings clears -L as well (ssh_config(5)). Without
 * `-F none`, this command would request the alias's forwardings.
 */
export const forwardCommand = (cache: SshCache, socket: string, control: string): string[] => [
  ...['ssh', '-F', 'none', '-o', 'LogLevel=ERROR', '-S', control, '-O', 'forward'],
  ...['-L', forwarding(cache, socket), 'box'],
]

/** Whether the tunnel needs a control socket, because the alias has its own forwardings. */
export const needsControl = (facts: SshFacts): boolean => forwardingsOf(facts).length > 0

/**
 * The option for the port. If ssh connects directly to `host`, it is the port we probe; otherwise
 * ssh's own configuration knows it. If ssh could not be asked, it is the configured port.
 */
export function portOptions(cache: Pick<SshCache, 'host' | 'port'>, facts: SshFacts): string[] {
  if (facts.size === 0) return portOption(cache.port)
  return isDirect(cache, facts) ? ['-p', String(cache.port)] : []
}

/**
 * Options that make ssh connect to the address that answered instead of resolving the name again
 * (10 s when the DNS server is silent), yet look the host key up by name, as known_hosts has it:
 * `[name]:port` unless the port is 22 (sshd(8)). A HostKeyAlias set by the user stays. In HostName,
 * % starts a token (ssh_config(5), TOKENS).
 */
export function addressOptions(cache: SshCache, address: string, facts: SshFacts): string[] {
  const name = (facts.get('hostname')?.[0] ?? cache.host).toLowerCase()
  const alias = cache.port === 22 ? name : `[${name}]:${cache.port}`
  const known = facts.has('hostkeyalias') ? [] : [`HostKeyAlias=${alias}`]
  return asOptions([`HostName=${address.replaceAll('%', '%%')}`, ...known])
}

/**
 * What the keeper (scripts/heads/keeper.sh) reports instead of ssh's exit code when it ended ssh
 * itself: to log in afresh, or because ssh didn't log in within a minute.
 */
export const FRESH_LOGIN = 75
export const LATE = 76
