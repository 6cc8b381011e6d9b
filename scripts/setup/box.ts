// The box's side: whether it lets the user log in, whether that user may use its nix-daemon and
// whether it trusts our key, and how to fix what is missing. Each step is one ssh that runs `sh -s`
// (or `sudo -n sh -s`) with a script on stdin, since the login shell there may be anything. Every
// value in a script is one quoted word.

import { Failure } from '../cli/errors.ts'
import { quote } from '../cli/text.ts'
import { clashes } from '../nix/keys.ts'
import { type Person, runAs } from '../system/as-user.ts'
import type { Outcome } from '../system/exec.ts'
import { SYSTEM_DIRECTORIES } from '../system/search-path.ts'
import { endOf } from '../tunnel/failure.ts'
import { type Box, clashText } from './plan.ts'
import type { BoxDeed } from './record.ts'

/** What a box answers about itself. */
export interface BoxFacts {
  user: string
  /** How the user becomes root there without a password prompt. */
  root: 'is root' | 'sudo' | 'no'
  /**
   * The output of `nix-store --version`, or the program's path (up to at least 2.8 it fails for a
   * user who may not use the daemon); '' if there is none.
   */
  nix: string
  socket: 'usable' | 'forbidden' | 'missing'
  /** The group that may use the daemon, if the user may not. */
  group: string
  /** The public keys that its nix-daemon trusts. */
  keys: string[]
  /** The file for settings, links resolved. */
  conf: string
  nixos: boolean
}

/** The outcome of asking a box. */
export type BoxAnswer = { kind: 'there'; facts: BoxFacts } | { kind: 'away'; why: string } | { kind: 'refused'; why: string; cure: string }

/** What root has to fix on the box. */
export interface BoxNeeds {
  keys: string[]
  /** The user to add to a group. */
  member?: { user: string; group: string }
}

const PATHS = `PATH=$PATH:${SYSTEM_DIRECTORIES.join(':')}`

/** The same as restartDaemon() on this machine. */
const RESTART = 'systemctl reset-failed nix-daemon.service 2>/dev/null || :; systemctl try-restart nix-daemon.service'

/** Each answer begins with a word of ours: a login shell may print other lines. */
const PROBE = `${PATHS}
report() { printf 'nix-lan-box %s %s\\n' "$1" "$2"; }
report user "$(id -un)"
if [ "$(id -u)" = 0 ]; then report root 'is root'; elif sudo -n true 2>/dev/null; then report root sudo; else report root no; fi
report nix "$(nix-store --version 2>/dev/null || command -v nix-store)"
directory=\${socket%/*}
if [ -S "$socket" ] && [ -w "$socket" ]; then report socket usable
elif [ -S "$socket" ] || { [ -d "$directory" ] && ! [ -x "$directory" ]; }; then
  report socket forbidden
  if [ -S "$socket" ]; then report group "$(stat -L -c %G "$socket")"; else report group "$(stat -L -c %G "$directory")"; fi
else report socket missing; fi
settings=$(nix --option extra-experimental-features nix-command config show 2>/dev/null ||
  nix --option extra-experimental-features nix-command show-config 2>/dev/null)
report keys "$(printf '%s\\n' "$settings" | sed -n 's/^trusted-public-keys = //p')"
conf=/etc/nix/nix.conf
if grep -Eq '^[[:space:]]*!?include[[:space:]]+([^[:space:]]*/)?nix\\.custom\\.conf' "$conf" 2>/dev/null; then conf=/etc/nix/nix.custom.conf; fi
report conf "$(readlink -f "$conf" 2>/dev/null || echo "$conf")"
if [ -e /etc/NIXOS ]; then report nixos yes; fi
`

/** ssh's ConnectTimeout, in seconds. */
const CONNECT = 10

/** The ssh command line that runs one command there. It never prompts and forwards nothing. */
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

/** Tells what the outcome of ssh means; pure. */
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
      ? `if you reinstalled the box, as ${user}: ssh-keygen -R ${box.host}, then ${login}`
      : `as ${user}, log in once and confirm that it is your box: ${login}`
    return { kind: 'refused', why: changed ? 'its host key has changed' : 'its host key is unknown', cure }
  }
  if (kind === 'denied') {
    return {
      kind: 'refused',
      why,
      cure: `as ${user}: ssh-copy-id ${box.port === 22 ? '' : `-p ${box.port} `}${box.ssh} (a key with a passphrase must be in the agent)`,
    }
  }
  if (asked.code === 255 || asked.timedOut) return { kind: 'away', why }
  return { kind: 'refused', why, cure: `see what this does: ${login}` }
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

/** What root has to fix on the box; pure. */
export function boxNeeds(facts: BoxFacts, publicKeys: readonly string[]): BoxNeeds {
  const clashing = clashes(publicKeys, facts.keys)
  const keys = publicKeys.filter((key) => !facts.keys.includes(key) && !clashing.includes(key))
  const mayJoin = facts.socket === 'forbidden' && /^[a-z_][a-z0-9_-]*$/i.test(facts.group) && facts.group !== 'root'
  return { keys, ...(mayJoin ? { member: { user: facts.user, group: facts.group } } : {}) }
}

/** Problems on the box that setup can't fix, for the user to know; pure. */
export function boxTroubles(facts: BoxFacts, daemonSocket: string, publicKeys: readonly string[]): string[] {
  const troubles: string[] = []
  if (facts.nix === '') troubles.push('there is no nix-store: install Nix there')
  if (facts.socket === 'missing') troubles.push(`there is no ${daemonSocket}: nix-lan needs multi-user Nix, with nix-daemon, on the box`)
  for (const key of clashes(publicKeys, facts.keys)) troubles.push(`${clashText(key)} of ${facts.conf}`)
  return troubles
}

/** The fixes as lines to paste on the box; pure. */
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

/** Cleans up after a failure, such as a full disk. */
const LEAVE_NOTHING = `trap 'rm -f -- "$conf.nix-lan-new"' EXIT`

/**
 * The script by which root on the box fixes it; each part is done completely or not at all.
 * @param from this machine's name, for a comment
 */
export function fixScript(needs: BoxNeeds, conf: string, from: string): string {
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

/**
 * The script by which root on the box undoes fixScript. It removes only a block with exactly our
 * line.
 */
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

/**
 * The host and port that ssh resolves a destination to, an alias for example: `ssh -G` as the user.
 */
export async function resolveDestination(person: Person, destination: string): Promise<{ host: string; port: number }> {
  const asked = await runAs(person, ['ssh', '-G', '--', destination], { timeout: 10_000 })
  const value = (keyword: string): string | undefined => new RegExp(`^${keyword} (.*)$`, 'm').exec(asked.stdout)?.[1]
  const host = value('hostname')
  if (asked.code !== 0 || !host) throw new Failure(`ssh rejects ${destination}: ${asked.stderr.trim() || asked.failedToStart}`)
  return { host, port: Number(value('port') ?? 22) }
}
