// The box's side: whether it lets the user in, whether that user may use its nix-daemon, whether it trusts our key; and what to do about it.
// All of it goes through one ssh that runs `sh -s` (or `sudo -n sh -s`), with the script on its stdin: the login shell there may be
// anything. What comes from outside the script is put in as one quoted word.

import { Failure } from '../cli/errors.ts'
import { quote } from '../cli/text.ts'
import { clashes } from '../nix/keys.ts'
import { type Person, runAs } from '../system/as-user.ts'
import type { Outcome } from '../system/exec.ts'
import { endOf } from '../tunnel/failure.ts'
import { type Box, clashText } from './plan.ts'
import type { BoxDeed } from './record.ts'

/** What a box says of itself. */
export interface BoxFacts {
  user: string
  /** How the user can become root there without being asked anything. */
  root: 'is root' | 'sudo' | 'no'
  /** What `nix-store --version` says, or where it is: up to Nix 2.8 at least, it fails for who may not use the daemon. '' when there is none. */
  nix: string
  socket: 'usable' | 'forbidden' | 'missing'
  /** The group that may use the daemon, when the user may not. */
  group: string
  /** The public keys that its nix-daemon trusts. */
  keys: string[]
  /** The file for settings, behind links. */
  conf: string
  nixos: boolean
}

/** What came of asking. */
export type BoxAnswer = { kind: 'there'; facts: BoxFacts } | { kind: 'away'; why: string } | { kind: 'refused'; why: string; cure: string }

/** What is wrong on the box and can be mended by root there. */
export interface BoxNeeds {
  keys: string[]
  /** Who must get into which group. */
  member?: { user: string; group: string }
}

const PATHS = 'PATH=$PATH:/usr/sbin:/sbin:/usr/bin:/bin:/nix/var/nix/profiles/default/bin:/run/current-system/sw/bin'

/** As restartDaemon() does here. */
const RESTART = 'systemctl reset-failed nix-daemon.service 2>/dev/null || :; systemctl try-restart nix-daemon.service'

/** Each line begins with a word of ours: a login shell may print other things. */
const PROBE = `${PATHS}
say() { printf 'nix-lan-box %s %s\\n' "$1" "$2"; }
say user "$(id -un)"
if [ "$(id -u)" = 0 ]; then say root 'is root'; elif sudo -n true 2>/dev/null; then say root sudo; else say root no; fi
say nix "$(nix-store --version 2>/dev/null || command -v nix-store)"
directory=\${socket%/*}
if [ -S "$socket" ] && [ -w "$socket" ]; then say socket usable
elif [ -S "$socket" ] || { [ -d "$directory" ] && ! [ -x "$directory" ]; }; then
  say socket forbidden
  if [ -S "$socket" ]; then say group "$(stat -L -c %G "$socket")"; else say group "$(stat -L -c %G "$directory")"; fi
else say socket missing; fi
settings=$(nix --option extra-experimental-features nix-command config show 2>/dev/null ||
  nix --option extra-experimental-features nix-command show-config 2>/dev/null)
say keys "$(printf '%s\\n' "$settings" | sed -n 's/^trusted-public-keys = //p')"
conf=/etc/nix/nix.conf
if grep -Eq '^[[:space:]]*!?include[[:space:]]+([^[:space:]]*/)?nix\\.custom\\.conf' "$conf" 2>/dev/null; then conf=/etc/nix/nix.custom.conf; fi
say conf "$(readlink -f "$conf" 2>/dev/null || echo "$conf")"
if [ -e /etc/NIXOS ]; then say nixos yes; fi
`

/** Seconds for ssh to get there. */
const CONNECT = 10

/** ssh's arguments for one command there. It asks nobody anything, and forwards nothing. */
export function sshCommand({ ssh, port }: Pick<Box, 'ssh' | 'port'>, command: string): string[] {
  const options = ['BatchMode=yes', `ConnectTimeout=${CONNECT}`, 'ClearAllForwardings=yes', 'PermitLocalCommand=no', 'RequestTTY=no']
  const portOption = port === 22 ? [] : ['-p', String(port)]
  return ['ssh', '-T', ...options.flatMap((option) => ['-o', option]), ...portOption, '--', ssh, command]
}

/** Asks the box. @param daemonSocket the path of its nix-daemon's socket */
export async function askBox(person: Person, box: Box, daemonSocket: string): Promise<BoxAnswer> {
  const asked = await runAs(person, sshCommand(box, 'sh -s'), { input: `socket=${quote(daemonSocket)}\n${PROBE}`, timeout: 40_000 })
  return answerOf(asked, box, person.name)
}

/** What an ssh that has ended means; pure. */
export function answerOf(
  asked: Pick<Outcome, 'code' | 'stdout' | 'stderr' | 'timedOut' | 'failedToStart'>,
  box: Box,
  user: string,
): BoxAnswer {
  const facts = factsIn(asked.stdout)
  if (facts) return { kind: 'there', facts }
  const said = asked.stderr.trim().split('\n').filter(Boolean)
  const why = asked.timedOut ? 'no answer in time' : (said.at(-1) ?? asked.failedToStart ?? `ssh ended with ${asked.code}`).trim()
  const login = `ssh ${box.port === 22 ? '' : `-p ${box.port} `}${box.ssh}`
  const { kind } = endOf(asked.stderr, asked.code ?? 255)
  if (kind === 'host-key-changed' || kind === 'host-key-unknown') {
    const changed = kind === 'host-key-changed'
    const cure = changed
      ? `if the box was installed anew, as ${user}: ssh-keygen -R ${box.host}, then ${login}`
      : `as ${user}, once, and say yes if that is your box: ${login}`
    return { kind: 'refused', why: changed ? 'its host key has changed' : 'its host key is not known yet', cure }
  }
  if (kind === 'denied') {
    return {
      kind: 'refused',
      why,
      cure: `as ${user}: ssh-copy-id ${box.port === 22 ? '' : `-p ${box.port} `}${box.ssh} (a key with a passphrase must be in the agent)`,
    }
  }
  if (asked.code === 255 || asked.timedOut) return { kind: 'away', why }
  return { kind: 'refused', why, cure: `see what ${login} does` }
}

function factsIn(output: string): BoxFacts | undefined {
  const found = new Map<string, string>()
  for (const line of output.split('\n')) {
    const [, key, value] = /^nix-lan-box (\S+) ?(.*)$/.exec(line) ?? []
    if (key !== undefined && value !== undefined) found.set(key, value)
  }
  const root = found.get('root')
  const socket = found.get('socket')
  const conf = found.get('conf')
  if (!found.get('user') || !root || !socket || !conf) return undefined
  return {
    user: found.get('user') ?? '',
    root: root === 'is root' || root === 'sudo' ? root : 'no',
    nix: found.get('nix') ?? '',
    socket: socket === 'usable' || socket === 'forbidden' ? socket : 'missing',
    group: found.get('group') ?? '',
    keys: (found.get('keys') ?? '').split(' ').filter(Boolean),
    conf,
    nixos: found.get('nixos') === 'yes',
  }
}

/** What root has to do on the box; pure. */
export function boxNeeds(facts: BoxFacts, publicKeys: readonly string[]): BoxNeeds {
  const clashing = clashes(publicKeys, facts.keys)
  const keys = publicKeys.filter((key) => !facts.keys.includes(key) && !clashing.includes(key))
  const mayJoin = facts.socket === 'forbidden' && /^[a-z_][a-z0-9_-]*$/i.test(facts.group) && facts.group !== 'root'
  return { keys, ...(mayJoin ? { member: { user: facts.user, group: facts.group } } : {}) }
}

/** What no root can do for us, but a person must know; pure. */
export function boxTroubles(facts: BoxFacts, daemonSocket: string, publicKeys: readonly string[]): string[] {
  const troubles: string[] = []
  if (facts.nix === '') troubles.push('there is no nix-store in sight: install Nix there')
  if (facts.socket === 'missing')
    troubles.push(`there is no ${daemonSocket}: nix-lan needs the multi-user Nix, with nix-daemon, on the box`)
  for (const key of clashes(publicKeys, facts.keys)) troubles.push(`${clashText(key)} of ${facts.conf}`)
  return troubles
}

/** The same as lines for a person to paste on the box. */
export function linesToPaste(needs: BoxNeeds, facts: Pick<BoxFacts, 'conf' | 'nixos'>): string[] {
  if (facts.nixos) {
    const lines =
      needs.keys.length > 0 ? [`nix.settings.extra-trusted-public-keys = [ ${needs.keys.map((key) => `"${key}"`).join(' ')} ];`] : []
    if (needs.member) lines.push(`users.users.${needs.member.user}.extraGroups = [ "${needs.member.group}" ];`)
    return lines.length > 0 ? ['# in its configuration.nix, then nixos-rebuild switch:', ...lines] : []
  }
  const lines = needs.keys.map((key) => `echo ${quote(`extra-trusted-public-keys = ${key}`)} | sudo tee -a ${facts.conf}`)
  if (lines.length > 0) lines.push('sudo systemctl restart nix-daemon')
  if (needs.member) lines.push(`sudo usermod -aG ${needs.member.group} ${needs.member.user}`)
  return lines
}

/** On a full disk, say. */
const LEAVE_NOTHING = `trap 'rm -f -- "$conf.nix-lan-new"' EXIT`

/** A script for root there that does it, each part whole or not at all. @param from this machine's name, for a comment */
export function mendScript(needs: BoxNeeds, conf: string, from: string): string {
  const lines = ['set -eu', PATHS, `conf=${quote(conf)}`]
  if (needs.keys.length > 0) {
    const block = [
      `# nix-lan begin: the key of ${from}, added by nix-lan setup there`,
      `extra-trusted-public-keys = ${needs.keys.join(' ')}`,
      '# nix-lan end',
    ]
    lines.push(
      'mkdir -p "${conf%/*}"',
      LEAVE_NOTHING,
      'if [ -e "$conf" ]; then cp -p -- "$conf" "$conf.nix-lan-new"; else (umask 022; : >"$conf.nix-lan-new"); fi',
      '[ -z "$(tail -c 1 "$conf.nix-lan-new")" ] || echo >>"$conf.nix-lan-new"',
      `printf '%s\\n' ${block.map(quote).join(' ')} >>"$conf.nix-lan-new"`,
      'mv -- "$conf.nix-lan-new" "$conf"',
      RESTART,
    )
  }
  if (needs.member) lines.push(`usermod -aG ${quote(needs.member.group)} -- ${quote(needs.member.user)}`)
  return `${lines.join('\n')}\n`
}

/** A script for root there that takes back what mendScript did. Only a block with exactly our line goes. */
export function restoreScript(deed: BoxDeed): string {
  const lines = ['set -eu', PATHS]
  if (deed.conf && deed.key) {
    lines.push(
      `conf=${quote(deed.conf)} line=${quote(`extra-trusted-public-keys = ${deed.key}`)}`,
      'export line',
      'if [ -e "$conf" ]; then',
      LEAVE_NOTHING,
      '  cp -p -- "$conf" "$conf.nix-lan-new"',
      `  awk '/^# nix-lan begin/ { held = $0; ours = 0; next }
    held != "" && /^# nix-lan end/ { if (!ours) print held "\\n" $0; held = ""; next }
    held != "" { if ($0 == ENVIRON["line"]) ours = 1; held = held "\\n" $0; next }
    { print }
    END { if (held != "") print held }' "$conf" >"$conf.nix-lan-new"`,
      '  mv -- "$conf.nix-lan-new" "$conf"',
      RESTART,
      'fi',
    )
  }
  const [user, group] = deed.member?.split(' ') ?? []
  if (user && group) lines.push(`gpasswd -d ${quote(user)} ${quote(group)} >/dev/null 2>&1 || :`)
  return `${lines.join('\n')}\n`
}

/** Runs a script as root there. @throws Failure with what the box said */
export async function runOnBox(person: Person, box: Pick<Box, 'ssh' | 'port'>, root: 'is root' | 'sudo', script: string): Promise<void> {
  const done = await runAs(person, sshCommand(box, root === 'sudo' ? 'sudo -n sh -s' : 'sh -s'), { input: script, timeout: 60_000 })
  if (done.code !== 0) throw new Failure(`on ${box.ssh}: ${done.stderr.trim().split('\n').at(-1) || `ssh ended with ${done.code}`}`)
}

/** Where ssh really goes for a destination, an alias say: `ssh -G` as the user. */
export async function resolveDestination(person: Person, destination: string): Promise<{ host: string; port: number }> {
  const asked = await runAs(person, ['ssh', '-G', '--', destination], { timeout: 10_000 })
  const value = (keyword: string): string | undefined => new RegExp(`^${keyword} (.*)$`, 'm').exec(asked.stdout)?.[1]
  const host = value('hostname')
  if (asked.code !== 0 || !host) throw new Failure(`ssh doesn't take ${destination}: ${asked.stderr.trim() || asked.failedToStart}`)
  return { host, port: Number(value('port') ?? 22) }
}
