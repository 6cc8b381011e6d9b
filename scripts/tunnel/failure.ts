// Explains why a tunnel ended or isn't ready: turns ssh's log and the ssh agent's state into one
// line for a person, with the way out. Pure. The messages are those of OpenSSH 9.2 to 10.x
// (sshconnect.c, sshconnect2.c, clientloop.c, channels.c), which are never translated.

/**
 * We append this to ssh's log once a nix-daemon has answered; whatever follows tells how the link
 * was lost.
 */
export const READY_MARK = 'nix-lan: the tunnel is ready'

/**
 * What `ssh-add -l` reports: keys, no keys (a locked agent shows none), no agent, or nothing in
 * time.
 */
export type AgentState = 'keys' | 'empty' | 'none' | 'unresponsive'

/** The exit code of `ssh-add -l` (ssh-add(1)); null: it was killed or isn't installed. */
export function agentState(code: number | null): AgentState {
  if (code === 0) return 'keys'
  if (code === 1) return 'empty'
  return code === 2 ? 'none' : 'unresponsive'
}

/** How the tunnel ended. `lost`: after it had been ready. */
export type Kind =
  | 'lost'
  | 'configuration'
  | 'host-key-changed'
  | 'host-key-unknown'
  | 'denied'
  | 'unconnected'
  | 'socket'
  | 'forwarding'
  | 'other'

export interface End {
  kind: Kind
  /** ssh's own words, on one line. */
  said: string
}

const KINDS: [Kind, RegExp][] = [
  [
    'configuration',
    /terminating, \d+ bad configuration options|^Bad owner or permissions on |^Cannot execute command-line and remote command/m,
  ],
  ['host-key-changed', /REMOTE HOST IDENTIFICATION HAS CHANGED|^Host key for .* has changed/m],
  ['host-key-unknown', /^Host key verification failed|^No .* host key is known for/m],
  ['denied', /Permission denied \(|Too many authentication failures|agent refused operation/],
  [
    'unconnected',
    /^ssh: (connect to host|Could not resolve)|^Connection (closed|reset|timed out)|^kex_exchange_identification|banner exchange/m,
  ],
  ['socket', /^unix_listener|cannot bind to path|^Could not request local forwarding/m],
  ['forwarding', /forwarding failed|cannot listen to port|^bind \[/m],
]

/** @param log ssh's messages @param code its exit code */
export function endOf(log: string, code: number): End {
  const [before = '', after] = log.split(`${READY_MARK}\n`)
  if (after !== undefined) return { kind: 'lost', said: lastWords(after, code) }
  const [kind = 'other', pattern] = KINDS.find(([, found]) => found.test(before)) ?? []
  const lines = before.split('\n')
  // The first complaint about a file tells more than the final "terminating, N bad options".
  const line = kind === 'configuration' ? lines.find((text) => text.trim() !== '') : pattern && lines.find((text) => pattern.test(text))
  return { kind, said: line && kind !== 'host-key-changed' ? line.trim() : lastWords(before, code) }
}

/**
 * The last line that isn't about a single connection through the tunnel, or the timeout: ssh
 * reports that before it says goodbye.
 */
function lastWords(log: string, code: number): string {
  const lines = log.split('\n').filter((line) => line.trim() !== '' && !/^channel \d+: open failed/.test(line))
  const cause = lines.find((line) => /^Timeout, server /.test(line)) ?? lines.at(-1)
  if (cause !== undefined) return cause.trim()
  return code > 128 && code < 160 ? `ssh was ended by signal ${code - 128}` : `ssh ended with exit code ${code}`
}

/** What else the explanation needs. */
export interface Circumstances {
  /** The host name that must be reachable. */
  host: string
  /** The ssh command that logs in by hand. */
  byHand: string
  agent: AgentState
  /** The file that sets SSH_AUTH_SOCK. */
  envFile: string
}

/** One line: what happened and the way out. The same end always gives the same words. */
export function reasonOf({ kind, said }: End, about: Circumstances, log = ''): string {
  const { host, byHand } = about
  switch (kind) {
    case 'lost':
      return `the link to the box was lost (${said})`
    case 'configuration':
      return `ssh refuses its own configuration (${said})`
    case 'host-key-changed':
      return (
        `another machine calls itself ${host}, or the box was set up anew: its host key is not the one that is known, and nothing was sent to it. ` +
        `If it is the box: ${forgetCommand(log) ?? `ssh-keygen -R ${host}`} and then, once by hand: ${byHand}`
      )
    case 'host-key-unknown':
      return `the host key of ${host} is not known yet, and ssh can ask nobody here; nothing was sent to it. Once by hand: ${byHand}`
    case 'denied':
      return denied(said, about)
    case 'unconnected':
      return `ssh could not connect (${said})`
    case 'socket':
      return `ssh could not make the tunnel's socket (${said})`
    case 'forwarding':
      return `ssh could not make another forwarding of your ssh configuration (${said}); with a Host alias of its own in ssh = "…" there is none`
    case 'other':
      return `no tunnel (${said}); ssh can't ask anything here, but it can by hand: ${byHand}`
  }
}

/**
 * Takes the command that removes the old key from ssh's output: the file may not be
 * ~/.ssh/known_hosts. OpenSSH 10 uses single quotes.
 */
function forgetCommand(log: string): string | undefined {
  return /^\s+(ssh-keygen -f (["']).*\2 -R \2.*\2)\s*$/m.exec(log)?.[1]
}

function denied(said: string, { byHand, agent, envFile }: Circumstances): string {
  const closed = 'a key with a passphrase can only be used through one'
  if (/agent refused operation/.test(said))
    return `the ssh agent refuses to use the key (${said}); is it locked, or does it wait for a confirmation?`
  if (agent === 'none')
    return `the box refuses the login, and there is no ssh agent (SSH_AUTH_SOCK is not set in ${envFile}, or nobody listens there): ${closed}`
  if (agent === 'empty')
    return `the box refuses the login, and the ssh agent holds no key: it is locked, or wants \`ssh-add\`; the tunnel waits for it`
  if (agent === 'unresponsive') return `the box refuses the login, and the ssh agent gives no answer: ${closed}`
  return `the box refuses the login: it takes none of the keys that the ssh agent holds (${said}); try by hand: ${byHand}`
}

/**
 * Why no nix-daemon answers through a tunnel that ssh has set up.
 * @param log what ssh wrote
 * @param reason why our own query failed
 */
export function whyNotReady(log: string, reason: string, daemonSocket: string, ssh: string): string {
  const last = log.match(/^channel \d+: open failed.*$/gm)?.at(-1) ?? ''
  if (/administratively prohibited/.test(last))
    return `the box's sshd forbids forwarding to a socket (AllowStreamLocalForwarding or AllowTcpForwarding in its sshd_config)`
  if (last !== '')
    return (
      `${ssh} can't open ${daemonSocket} on the box: its nix-daemon isn't running, that user may not use it (on Debian: the group nix-users), ` +
      `or its sshd forbids forwarding; nix-lan doctor finds out which`
    )
  return reason
}
