// Looks at the box: whether it lets the user log in, whether that user may use its nix-daemon and
// whether it trusts our key, and how to fix what is missing. Each step is one ssh that runs `sh -s`
// (or `sudo -n sh -s`) with a script on stdin, since the login shell there may be anything. Every
// value in a script is one quoted word.

import { Failure } from '../cli/errors.ts'
import { quote } from '../cli/text.ts'
import { clashes, isPublicKey } from '../nix/keys.ts'
import { type Person, runAs } from '../system/as-user.ts'
import type { Outcome, RunOptions } from '../system/exec.ts'
import { SYSTEM_DIRECTORIES } from '../system/search-path.ts'
import { BOX_PROBE } from '../system/texts.ts'
import { endOf } from '../tunnel/failure.ts'
import { portOptions, sshCommand } from '../tunnel/ssh.ts'
import { askSsh } from '../tunnel/ssh-config.ts'
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
  /** The public keys its nix-daemon trusts. */
  keys: string[]
  /** The file for settings, links resolved. */
  conf: string
  /** Whether that file exists. */
  confExists: boolean
  /** Whether setup may write it: not if it is generated, in the Nix store or read-only. */
  confWritable: boolean
  nixos: boolean
  /** What a nix-store that fails says, such as a syntax error in nix.conf; '' if it works. */
  nixError: string
}

/** The outcome of asking a box. */
export type BoxAnswer =
  | { kind: 'there'; facts: BoxFacts }
  | { kind: 'away'; why: string }
  | { kind: 'refused'; why: string; cure: string }
  /** Login works, which is all the tunnel needs, but the account runs no command. */
  | { kind: 'shell-less'; why: string }

/** What root has to fix on the box. */
export interface BoxNeeds {
  keys: string[]
  /** The user to add to a group. */
  member?: { user: string; group: string }
}

const PATHS = `PATH=$PATH:${SYSTEM_DIRECTORIES.join(':')}`

/** The same as restartDaemon() on this machine. */
const RESTART = 'systemctl reset-failed nix-daemon.service 2>/dev/null || :; systemctl try-restart nix-daemon.service'

const PROBE = `${PATHS}\n${BOX_PROBE}`

/**
 * Where a box is: how ssh gets there, and the machine whose reachability shows whether it is there.
 */
type Place = Pick<Box, 'ssh' | 'host' | 'port'>

/**
 * Runs a program on the box. An alias of another machine, or one behind a jump host, has a port of
 * its own.
 */
async function runThere(person: Person, box: Place, program: string, options: RunOptions): Promise<Outcome> {
  const { facts } = await askSsh(box.ssh, [], (argv, how) => runAs(person, argv, how))
  return await runAs(person, sshCommand(box.ssh, program, box.port === 22 ? [] : portOptions(box, facts)), options)
}

/**
 * Asks the box about itself.
 * @param daemonSocket the path of its nix-daemon's socket
 */
export async function askBox(person: Person, box: Box, daemonSocket: string): Promise<BoxAnswer> {
  const asked = await runThere(person, box, 'sh -s', { input: `socket=${quote(daemonSocket)}\n${PROBE}`, timeout: 40_000 })
  return answerOf(asked, box, person.name)
}

/** Interprets the outcome of ssh; pure. */
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
  if (asked.timedOut) return { kind: 'away', why }
  // 255 is ssh's own exit code; if the message isn't about the connection, the fault is on our side
  // or in ssh's configuration.
  const unreachable = asked.stderr.trim() === '' || kind === 'unconnected'
  if (asked.code === 255) return unreachable ? { kind: 'away', why } : { kind: 'refused', why, cure: `see what this does: ${login}` }
  const nonsense = /^nix-lan-box /m.test(asked.stdout)
  if (asked.code === null || nonsense)
    return { kind: 'refused', why: nonsense ? 'its answer makes no sense' : why, cure: `see what this does: ${login}` }
  return { kind: 'shell-less', why: said.at(-1) ?? asked.stdout.trim().split('\n')[0] ?? '' }
}

/** What may become a word of a command, by kind: a box's answers are a stranger's text. */
const PATTERNS = {
  user: /^[A-Za-z_][A-Za-z0-9_.@-]{0,63}$/,
  group: /^[A-Za-z_][A-Za-z0-9_.-]{0,63}$/,
  conf: /^(\/[A-Za-z0-9_+-][A-Za-z0-9._+-]{0,100}){1,12}$/,
  said: /^[\x20-\x7e]{1,300}$/,
}

/** More trusted keys than any box has. */
const MOST_KEYS = 10_000

function factsIn(output: string): BoxFacts | undefined {
  const found = new Map<string, string>()
  for (const line of output.split('\n')) {
    const [, key, value] = /^nix-lan-box (\S+) ?(.*)$/.exec(line) ?? []
    if (key !== undefined && value !== undefined) found.set(key, value)
  }
  const checked = (key: string, pattern: RegExp): string => {
    const value = found.get(key) ?? ''
    return pattern.test(value) ? value : ''
  }
  const user = checked('user', PATTERNS.user)
  const conf = checked('conf', PATTERNS.conf)
  const root = found.get('root')
  const socket = found.get('socket')
  if (!user || !root || !socket || !conf) return undefined
  return {
    user,
    root: root === 'is root' || root === 'sudo' ? root : 'no',
    nix: checked('nix', PATTERNS.said),
    nixError: checked('nix-error', PATTERNS.said),
    socket: socket === 'usable' || socket === 'forbidden' ? socket : 'missing',
    group: checked('group', PATTERNS.group),
    keys: (found.get('keys') ?? '').split(' ', MOST_KEYS).filter(isPublicKey),
    conf,
    confExists: found.get('conf-exists') === 'yes',
    confWritable: found.get('conf-writable') === 'yes',
    nixos: found.get('nixos') === 'yes',
  }
}

/** What root has to fix on the box; pure. */
export function boxNeeds(facts: BoxFacts, publicKeys: readonly string[]): BoxNeeds {
  const clashing = clashes(publicKeys, facts.keys).map(({ ours }) => ours)
  const keys = publicKeys.filter((key) => !facts.keys.includes(key) && !clashing.includes(key))
  const mayJoin = facts.socket === 'forbidden' && facts.group !== '' && facts.group !== 'root'
  return { keys, ...(mayJoin ? { member: { user: facts.user, group: facts.group } } : {}) }
}

/** Problems on the box that setup can't fix, for the user; pure. */
export function boxTroubles(facts: BoxFacts, daemonSocket: string, publicKeys: readonly string[]): string[] {
  const troubles: string[] = []
  if (facts.nixError !== '') troubles.push(`nix-store fails: ${facts.nixError.replace(/\.$/, '')}`)
  else if (facts.nix === '') troubles.push('there is no nix-store: install Nix there')
  if (facts.socket === 'missing') troubles.push(`there is no ${daemonSocket}: nix-lan needs multi-user Nix, with nix-daemon, on the box`)
  const from = facts.nixos ? 'its configuration.nix' : facts.confWritable ? facts.conf : `what ${facts.conf} is generated from`
  for (const clash of clashes(publicKeys, facts.keys)) troubles.push(`${clashText(clash)} from ${from}, then run setup here again`)
  return troubles
}

/** The fixes as lines to paste on the box; pure. */
export function linesToPaste(needs: BoxNeeds, facts: Pick<BoxFacts, 'conf' | 'nixos' | 'confWritable'>): string[] {
  const keys = needs.keys.join(' ')
  if (facts.nixos) {
    const lines = keys ? [`nix.settings.extra-trusted-public-keys = [ ${needs.keys.map((key) => `"${key}"`).join(' ')} ];`] : []
    if (needs.member) lines.push(`users.users."${needs.member.user}".extraGroups = [ "${needs.member.group}" ];`)
    return lines.length > 0 ? ['# in its configuration.nix, then nixos-rebuild switch:', ...lines] : []
  }
  const lines: string[] = []
  if (keys && !facts.confWritable)
    lines.push(`# in what ${facts.conf} is generated from, then restart nix-daemon:`, `extra-trusted-public-keys = ${keys}`)
  else if (keys)
    lines.push(`echo ${quote(`extra-trusted-public-keys = ${keys}`)} | sudo tee -a ${facts.conf}`, 'sudo systemctl restart nix-daemon')
  if (needs.member) lines.push(`sudo usermod -aG ${needs.member.group} ${needs.member.user}`)
  return lines
}

/** Whether setup can fix the box itself. */
export const mayFix = (facts: BoxFacts, needs: BoxNeeds): boolean =>
  facts.root !== 'no' && !facts.nixos && (facts.confWritable || needs.keys.length === 0)

/** Cleans up after a failure, such as a full disk. */
const LEAVE_NOTHING = `trap 'rm -f -- "$conf.nix-lan-new"' EXIT`

const NOT_IN_STORE = 'case $conf in /nix/store/*) echo "$conf is in the Nix store" >&2; exit 1 ;; esac'

/**
 * The script that root on the box runs to fix it; each part is done completely or not at all.
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
      NOT_IN_STORE,
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
 * The script that root on the box runs to undo fixScript. Removes only blocks that contain exactly
 * our line. Writes nothing where a link leads elsewhere by now, or into the store: root follows no
 * link that a user can change.
 */
export function restoreScript(deed: BoxDeed): string {
  const lines = ['set -eu', PATHS]
  if (deed.conf && deed.key) {
    lines.push(
      `conf=${quote(deed.conf)} lines=${quote([deed.key, ...(deed.formerKeys ?? [])].map((key) => `extra-trusted-public-keys = ${key}`).join('\n'))}`,
      'export lines',
      'if grep -qxF -e "$lines" -- "$conf" 2>/dev/null; then',
      '  at=$(readlink -f -- "$conf")',
      '  case $at in "$conf") ;; *) echo "$conf is now a link to $at" >&2; exit 1 ;; esac',
      `  ${NOT_IN_STORE}`,
      `  ${LEAVE_NOTHING}`,
      '  cp -p -- "$conf" "$conf.nix-lan-new"',
      `  awk '/^# nix-lan begin/ { held = $0; ours = 0; next }
    held != "" && /^# nix-lan end/ { if (!ours) print held "\\n" $0; held = ""; next }
    held != "" { if (index("\\n" ENVIRON["lines"] "\\n", "\\n" $0 "\\n")) ours = 1; held = held "\\n" $0; next }
    { print }
    END { if (held != "") print held }' "$conf" >"$conf.nix-lan-new"`,
      ...(deed.made ? ['  if ! [ -s "$conf.nix-lan-new" ]; then rm -f -- "$conf.nix-lan-new" "$conf"; fi'] : []),
      '  if [ -e "$conf.nix-lan-new" ]; then mv -- "$conf.nix-lan-new" "$conf"; fi',
      RESTART,
      'fi',
    )
  }
  const [user, group] = deed.member?.split(' ') ?? []
  if (user && group) lines.push(`gpasswd -d ${quote(user)} ${quote(group)} >/dev/null 2>&1 || :`)
  return `${lines.join('\n')}\n`
}

/**
 * Runs a script as root on the box.
 * @throws Failure with what the box said
 */
export async function runOnBox(person: Person, box: Place, root: 'is root' | 'sudo', script: string): Promise<void> {
  const done = await runThere(person, box, root === 'sudo' ? 'sudo -n sh -s' : 'sh -s', { input: script, timeout: 60_000 })
  if (done.code !== 0) throw new Failure(`on ${box.ssh}: ${done.stderr.trim().split('\n').at(-1) || `ssh ended with ${done.code}`}`)
}
