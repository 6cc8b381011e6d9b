// What the tunnel is made of: the ssh command for a cache. Pure; scripts/bin/nix-lan-tunnel.ts asks the world and does it.
import type { SshCache } from '../config/types.ts'

/** What `ssh -G` says: the values of each keyword, in lower case, in its order. */
export type SshFacts = ReadonlyMap<string, readonly string[]>

/** Seconds that an ssh server on a slow box may take, after its port has accepted, for the key exchange. */
const KEY_EXCHANGE = 5

/**
 * Options for every tunnel, whatever ~/.ssh/config says. Not ClearAllForwardings, which clears our own -L too (ssh_config(5)).
 * StreamLocalBindUnlink=no: of two tunnels that start at once the second must fail to bind instead of taking the first one's socket
 * away; a stale socket has been removed before. LogLevel=INFO: at ERROR, ssh says nothing when the server stops answering.
 * ServerAlive: ssh asks after 4 s of silence, and gives up when neither of two questions is answered for 4 s each: after 12 s at most.
 */
const OPTIONS = [
  'BatchMode=yes',
  'ExitOnForwardFailure=yes',
  'StreamLocalBindUnlink=no',
  'StreamLocalBindMask=0177',
  'ServerAliveInterval=4',
  'ServerAliveCountMax=2',
  'ControlMaster=no',
  'ControlPath=none',
  'PermitLocalCommand=no',
  'RemoteCommand=none',
  'ForwardAgent=no',
  'ForwardX11=no',
  'Tunnel=no',
  'RequestTTY=no',
  'LogLevel=INFO',
]

const option = (text: string): string[] => ['-o', text]

/** ssh's arguments up to the forwarding, without an address: what `ssh -G` is asked with too. */
export function sshOptions(cache: SshCache): string[] {
  const timeout = Math.ceil(cache.deadline / 1000) + KEY_EXCHANGE
  return ['-N', '-T', '-n', ...[...OPTIONS, `ConnectTimeout=${timeout}`].flatMap(option)]
}

/** All of ssh's arguments. `target`: from targetOptions. `log`: a file for what ssh says, instead of stderr. */
export function sshArguments(cache: SshCache, socket: string, target: readonly string[], log?: string): string[] {
  const file = log === undefined ? [] : ['-E', log]
  return [...sshOptions(cache), ...file, ...target, '-L', `${socket}:${cache.daemonSocket}`, cache.ssh]
}

/** Reads the output of `ssh -G`. */
export function parseFacts(output: string): SshFacts {
  const facts = new Map<string, string[]>()
  for (const line of output.split('\n')) {
    const [, keyword, value = ''] = /^(\S+) ?(.*)$/.exec(line) ?? []
    if (keyword === undefined) continue
    const values = facts.get(keyword.toLowerCase())
    if (values) values.push(value)
    else facts.set(keyword.toLowerCase(), [value])
  }
  return facts
}

/**
 * Whether ssh itself connects to the `host` of the cache, so that our answer about that one is about what ssh will meet. Not so with a
 * jump host, a proxy, or an alias for another machine.
 */
export function isDirect(cache: SshCache, facts: SshFacts): boolean {
  const none = (keyword: string): boolean => ['none', undefined].includes(facts.get(keyword)?.[0])
  if (facts.get('hostname')?.[0]?.toLowerCase() !== cache.host.toLowerCase()) return false
  return none('proxyjump') && none('proxycommand')
}

/** The port, where ssh connects to `host`: the one that is asked whether the box is there. Elsewhere ssh's own configuration knows. */
export const portOptions = (cache: SshCache, facts: SshFacts): string[] => (isDirect(cache, facts) ? ['-p', String(cache.port)] : [])

/**
 * Options by which ssh connects to the address that has answered instead of resolving the name again (10 s when the DNS server is
 * silent), and still knows the box by its name: the name that known_hosts has, `[name]:port` unless the port is 22 (sshd(8)).
 * A HostKeyAlias of the user's stays. In HostName, % begins a token (ssh_config(5), TOKENS).
 */
export function addressOptions(cache: SshCache, address: string, facts: SshFacts): string[] {
  const name = (facts.get('hostname')?.[0] ?? cache.host).toLowerCase()
  const alias = cache.port === 22 ? name : `[${name}]:${cache.port}`
  const known = facts.has('hostkeyalias') ? [] : option(`HostKeyAlias=${alias}`)
  return [...option(`HostName=${address.replaceAll('%', '%%')}`), ...known]
}

/**
 * Whether those options change nothing but what they are for. A `Match host` block in ~/.ssh/config no longer matches when HostName is an
 * address, and %h in a value would become the address: then ssh has to resolve the name by itself.
 */
export function changesNothingElse(before: SshFacts, after: SshFacts): boolean {
  if ((before.get('canonicalizehostname')?.[0] ?? 'false') !== 'false') return false
  const meant = ['hostname', 'port', ...(before.has('hostkeyalias') ? [] : ['hostkeyalias'])]
  const text = (facts: SshFacts): string => JSON.stringify([...facts].filter(([keyword]) => !meant.includes(keyword)))
  return text(before) === text(after) && !text(before).includes('%h')
}

/** The user's own forwardings for this destination, which ssh would make too: any that fails ends the tunnel. */
export function otherForwardings(facts: SshFacts): string[] {
  const keywords = ['LocalForward', 'RemoteForward', 'DynamicForward']
  return keywords.flatMap((keyword) => (facts.get(keyword.toLowerCase()) ?? []).map((value) => `${keyword} ${value}`))
}

/** What the keeper says instead of ssh's exit code (0, 255 or that of a signal) when it has ended ssh itself, for a fresh login. */
export const FRESH_LOGIN = 75

/**
 * sh code that runs ssh and removes its socket: ssh leaves it behind however it ends (OpenSSH 9.2: TERM, INT, HUP, lost link, KILL).
 * $1: the socket; $2: what to say when ssh failed before it made that; $3 and $4: under systemd this program and the cache, else empty; then
 * the command. Signals become TERM for ssh (a background child ignores INT), and ssh's exit code is ours.
 * Under systemd somebody asks through the socket, with growing pauses, until the box answers (not ssh's LocalCommand: that is run by the
 * user's own shell, whatever it is, and ssh waits for it). Who gets no answer for a minute logs in anew: the groups of a user, on which the
 * use of a nix-daemon may depend, are those of the login. And when ssh ends without having been told to, `--ended` has the last word.
 * The one who asks also ends by itself when ssh has: a TERM in the first moment of its life is lost, since the trap is still ours then.
 * A socket that somebody listens on by then is another tunnel's, and stays (proc_pid_net(5), /proc/net/unix: flag 00010000, path last).
 */
export const KEEPER = `socket=$1 hint=$2 self=$3 cache=$4 pid= stop= told= asking=
shift 4
trap 'stop=1 told=1; [ -z "$pid" ] || kill "$pid" 2>/dev/null' HUP INT QUIT TERM
"$@" &
pid=$!
[ -z "$stop" ] || kill "$pid"
if [ -n "$self" ]; then
  (
    while ! [ -S "$socket" ]; do
      kill -0 "$pid" 2>/dev/null || exit 0
      sleep 0.1
    done
    for pause in 0.2 0.4 0.8 1.5 3 6 12 12 12 12; do
      "$self" --ready "$cache"
      said=$?
      [ $said != 0 ] || exit 0
      sleep "$pause"
    done
    if [ $said != 75 ]; then # it is systemd that can't be told
      until "$self" --ready "$cache"; do sleep 12; done
      exit 0
    fi
    trap '' TERM
    kill "$pid"
    exit ${FRESH_LOGIN}
  ) &
  asking=$!
fi
while stop=; wait "$pid"; code=$?; [ -n "$stop" ]; do :; done
if [ -n "$asking" ]; then
  kill "$asking" 2>/dev/null
  wait "$asking" 2>/dev/null
  [ $? != ${FRESH_LOGIN} ] || code=${FRESH_LOGIN}
fi
[ -n "$self" ] || [ "$code" != 255 ] || [ -S "$socket" ] || printf '%s\\n' "$hint" >&2
ours=1
while read -r _ _ _ flags _ _ _ path; do
  if [ "$flags $path" = "00010000 $socket" ]; then ours=; fi
done </proc/net/unix
[ -z "$ours" ] || rm -f -- "$socket"
if [ -n "$self" ] && [ -z "$told" ]; then exec "$self" --ended "$code" "$cache"; fi
exit "$code"`
