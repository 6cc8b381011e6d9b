// Every ssh command line of ours: the tunnel, a program that is run on the box, and what a person
// is told to type. Pure; who starts them decides as whom and for how long.
import type { SshCache } from '../config/types.ts'
import { forwardingsOf, isDirect, type SshFacts } from './ssh-config.ts'

/**
 * Seconds that an ssh server on a slow box may take, after its port has accepted, for the key
 * exchange.
 */
const KEY_EXCHANGE = 5

/** Seconds for ssh to get to a box that nobody has asked beforehand. */
const CONNECT = 10

/**
 * Options for every ssh of ours. The Host block of an alias is written for people who log in: none
 * of what it starts, forwards, asks or prints belongs to us. On the command line, since ssh takes
 * the first value that it finds (ssh_config(5)).
 * IgnoreUnknown: ssh ends at an option that it doesn't know, and SessionType, StdinNull and
 * ForkAfterAuthentication are from OpenSSH 8.7. It is `*` because the first value counts for this
 * one, too: a list of ours would void the user's `IgnoreUnknown UseKeychain`. LogLevel=INFO: at
 * ERROR, ssh says nothing when the server stops answering.
 * ServerAlive: ssh asks after 4 s of silence, and gives up when neither of two questions is
 * answered for 4 s each: after 12 s at most.
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

/** Nobody else's connection is used, and nobody else uses ours. */
const ALONE = ['ControlMaster=no', 'ControlPath=none']

/**
 * For a tunnel. StreamLocalBindUnlink=no: of two tunnels that start at once the second must fail to
 * bind instead of taking the first one's socket away; a stale socket has been removed before. (-N
 * and -n stand for SessionType and StdinNull.)
 */
const FORWARD = ['ExitOnForwardFailure=yes', 'StreamLocalBindUnlink=no', 'StreamLocalBindMask=0177']

/** For a program on the box. */
const PROGRAM = ['ClearAllForwardings=yes', 'SessionType=default', 'StdinNull=no']

const asOptions = (texts: readonly string[]): string[] => texts.flatMap((text) => ['-o', text])

/** `-p` for a port that ssh would not take by itself. */
export const portOption = (port: number): string[] => (port === 22 ? [] : ['-p', String(port)])

/**
 * The command that runs a program on the box, with our stdin as its stdin.
 * @param ssh the destination, which may be an alias
 * @param program one text for the login shell there
 * @param target further options that say where that is: portOption(), targetOptions()
 */
export function sshCommand(ssh: string, program: string, target: readonly string[] = []): string[] {
  return ['ssh', '-T', ...asOptions([...ALWAYS, ...ALONE, ...PROGRAM, `ConnectTimeout=${CONNECT}`]), ...target, '--', ssh, program]
}

/** What a person types to log in, and to answer what ssh asks there. */
export const loginCommand = (ssh: string, target: readonly string[] = []): string => ['ssh', ...target, ssh].join(' ')

/**
 * The same for a configured box.
 * @param facts of `ssh -G`: an alias for another machine has a port of its own
 */
export const loginByHand = (cache: SshCache, facts: SshFacts): string =>
  loginCommand(cache.ssh, cache.port === 22 ? [] : portOptions(cache, facts))

/**
 * A tunnel's arguments up to what it forwards, without an address: what `ssh -G` is asked with too.
 */
export function sshOptions(cache: SshCache): string[] {
  const timeout = Math.ceil(cache.deadline / 1000) + KEY_EXCHANGE
  return ['-N', '-T', '-n', ...asOptions([...ALWAYS, ...FORWARD, `ConnectTimeout=${timeout}`])]
}

/** What a tunnel is given besides its cache and its socket. */
export interface TunnelOptions {
  /** From targetOptions(). */
  target: readonly string[]
  /** A file for what ssh says, instead of stderr. */
  log?: string
  /**
   * The path of a control socket: the tunnel can be asked for its forwarding later, see
   * forwardCommand().
   */
  control?: string
  /** What it carries: Nix's questions and what it fetches, or uploads too. */
  traffic?: string[]
}

/** All arguments of the ssh that is a tunnel. */
export function sshArguments(cache: SshCache, socket: string, { target, log, control, traffic = [] }: TunnelOptions): string[] {
  const file = log === undefined ? [] : ['-E', log]
  const forwards =
    control === undefined
      ? [...asOptions(ALONE), ...target, '-L', forwarding(cache, socket)]
      : [...asOptions(['ControlMaster=yes', `ControlPath=${control}`, 'ControlPersist=no', 'ClearAllForwardings=yes']), ...target]
  return [...sshOptions(cache), ...file, ...traffic, ...forwards, '--', cache.ssh]
}

/** What ssh_config(5) has for IPQoS by default: 10.1 and later, 7.8 to 10.0, and Debian's. */
const USUAL_QOS = ['ef none', 'af21 cs1', 'lowdelay throughput']

/**
 * How ssh treats the traffic of a connection: what Nix waits for goes ahead of what is uploaded. An
 * IPQoS of the user's stays, who may have a router that drops what is marked.
 */
export function trafficOptions(cache: SshCache, facts: SshFacts, kind: 'lowdelay' | 'throughput'): string[] {
  const usual = USUAL_QOS.includes(facts.get('ipqos')?.[0] ?? '')
  const compression = cache.compression === undefined ? [] : [`Compression=${cache.compression ? 'yes' : 'no'}`]
  return asOptions([...(usual ? [`IPQoS=${kind}`] : []), ...compression])
}

const forwarding = (cache: SshCache, socket: string): string => `${socket}:${cache.daemonSocket}`

/**
 * Asks a tunnel with a control socket for its forwarding. That is how an alias with forwardings of
 * its own is used without them: any of those that fails would end the tunnel, each takes a port
 * that the user's own `ssh ALIAS` wants, and ClearAllForwardings clears -L as well (ssh_config(5)).
 * `-F none`: or the alias's forwardings would be asked for here.
 */
export const forwardCommand = (cache: SshCache, socket: string, control: string): string[] => [
  ...['ssh', '-F', 'none', '-o', 'LogLevel=ERROR', '-S', control, '-O', 'forward'],
  ...['-L', forwarding(cache, socket), 'box'],
]

/** Whether the alias makes forwardings of its own, so that the tunnel needs a control socket. */
export const needsControl = (facts: SshFacts): boolean => forwardingsOf(facts).length > 0

/**
 * The port, where ssh connects to `host`: the one that is asked whether the box is there. Elsewhere
 * ssh's own configuration knows; and where ssh could not be asked, a port that was configured.
 */
export function portOptions(cache: Pick<SshCache, 'host' | 'port'>, facts: SshFacts): string[] {
  if (facts.size === 0) return portOption(cache.port)
  return isDirect(cache, facts) ? ['-p', String(cache.port)] : []
}

/**
 * Options by which ssh connects to the address that has answered instead of resolving the name
 * again (10 s when the DNS server is silent), and still knows the box by its name: the name that
 * known_hosts has, `[name]:port` unless the port is 22 (sshd(8)). A HostKeyAlias of the user's
 * stays. In HostName, % begins a token (ssh_config(5), TOKENS).
 */
export function addressOptions(cache: SshCache, address: string, facts: SshFacts): string[] {
  const name = (facts.get('hostname')?.[0] ?? cache.host).toLowerCase()
  const alias = cache.port === 22 ? name : `[${name}]:${cache.port}`
  const known = facts.has('hostkeyalias') ? [] : [`HostKeyAlias=${alias}`]
  return asOptions([`HostName=${address.replaceAll('%', '%%')}`, ...known])
}

/**
 * What the keeper (scripts/heads/keeper.sh) says instead of ssh's exit code when it has ended ssh
 * itself: for a fresh login, or since ssh didn't log in within a minute.
 */
export const FRESH_LOGIN = 75
export const LATE = 76
