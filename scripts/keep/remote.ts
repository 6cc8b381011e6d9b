// Runs sh on the box as the tunnel's user, for the little nix-daemon can't do: links in that user's
// home, `sync`, the date. The script goes in on stdin, since the login shell there may be anything;
// each answer starts with a word of ours, since that shell may print other lines. Where ssh runs no
// command, sftp does part of it (links.ts).
import { Away, Failure } from '../cli/errors.ts'
import { quote } from '../cli/text.ts'
import type { SshCache } from '../config/types.ts'
import { errorText } from '../nix/nix.ts'
import type { Outcome } from '../system/exec.ts'
import { effectiveUid } from '../system/users.ts'
import { endWithUs, findAgent } from '../tunnel/agent.ts'
import { portOptions, sftpCommand, sshCommand } from '../tunnel/ssh.ts'
import { askSsh } from '../tunnel/ssh-config.ts'
import { startPlain } from '../tunnel/start.ts'

/** Milliseconds for a script: `sync` may have to write a large upload to a slow SD card. */
const PATIENCE = 180_000
/** Most characters of output to take. */
const MOST = 2 ** 22

/** The box runs no sh for this user; `exitCode` 1. */
export class NoShell extends Failure {}

/** Runs scripts on one box. */
export interface Remote {
  /**
   * Runs one script.
   * @param values set as shell variables before the script
   * @param patience milliseconds before giving up
   * @returns what the script reported with `report KEY VALUE`; values of the same key stay in order
   * @throws Away when the box can't be reached, NoShell when it runs no sh, Failure when the script
   * failed
   */
  run(script: string, values: Readonly<Record<string, string>>, patience?: number): Promise<Map<string, string[]>>
  /**
   * Runs commands of sftp(1), up to the first that fails and doesn't begin with `-`.
   * @returns what it printed, the commands included
   * @throws Away when the box doesn't answer in time, Failure when it has no sftp or a command failed
   */
  sftp(commands: readonly string[]): Promise<string>
  /** Who logs in there. @throws Failure when ssh's configuration doesn't say, or it is no plain name */
  user(): Promise<string>
}

const MARK = 'nix-lan-keep'

/** Makes the Remote of a box. @param env where to look for the ssh agent */
export function remoteOf(cache: SshCache, env: Record<string, string | undefined> = process.env): Remote {
  let ways: Promise<Ways> | undefined
  let noShell: NoShell | undefined
  const start = async (way: 'shell' | 'sftp', input: string, timeout: number): Promise<Outcome> => {
    ways ??= waysTo(cache, env)
    const { [way]: argv, agent } = await ways
    const variables = Object.entries(agent).map(([name, value]) => `${name}=${value}`)
    // sftp prints times of this machine's time zone
    return await startPlain(['env', 'TZ=UTC', 'LC_ALL=C', ...variables, ...argv], { input, timeout, most: MOST })
  }
  return {
    async run(script, values, patience = PATIENCE) {
      if (noShell) throw noShell
      const assignments = Object.entries(values).map(([name, value]) => `${name}=${quote(value)}\n`)
      const input = `report() { printf '${MARK} %s %s\\n' "$1" "$2"; }\n${assignments.join('')}${script}\nreport done yes\n`
      const done = await start('shell', input, patience)
      const reported = reportsIn(done.stdout)
      if (reported.has('done')) return reported
      if (done.timedOut || done.code === 255)
        throw new Away(`${cache.name}: ssh: ${done.timedOut ? 'no answer in time' : lastLine(done.stderr)}`)
      if (reported.size === 0) {
        noShell = new NoShell(`${cache.name} runs no commands for ${cache.ssh} (${lastLine(done.stderr) || `exit ${done.code}`})`)
        throw noShell
      }
      throw new Failure(`${cache.name}: ${lastLine(done.stderr) || `the script ended with ${done.code ?? done.signal}`}`)
    },
    async sftp(commands) {
      const done = await start('sftp', `${commands.join('\n')}\n`, PATIENCE)
      if (done.timedOut) throw new Away(`${cache.name}: sftp: no answer in time`)
      if (done.code !== 0) throw new Failure(lastLine(done.stderr) || `sftp ended with ${done.code ?? done.signal}`)
      return done.stdout
    },
    async user() {
      ways ??= waysTo(cache, env)
      const { user } = await ways
      if (/^[A-Za-z0-9_][A-Za-z0-9_.-]*$/.test(user)) return user
      throw new Failure(`${cache.name}: ssh -G ${cache.ssh} names no user: ${user}`)
    },
  }
}

interface Ways {
  user: string
  shell: string[]
  sftp: string[]
  agent: Record<string, string>
}

async function waysTo(cache: SshCache, env: Record<string, string | undefined>): Promise<Ways> {
  const [agent, { facts }] = await Promise.all([findAgent(cache.envFile, env), askSsh(cache.ssh)])
  endWithUs(agent, effectiveUid())
  const target = portOptions(cache, facts)
  const [user = ''] = facts.get('user') ?? []
  return {
    user,
    shell: sshCommand(cache.ssh, 'sh -s', target),
    sftp: sftpCommand(cache.ssh, target),
    agent: agent.env,
  }
}

/** What a script has reported, among whatever else was printed. Pure. */
export function reportsIn(output: string): Map<string, string[]> {
  const found = new Map<string, string[]>()
  for (const line of output.split('\n')) {
    const [, key, value] = /^nix-lan-keep (\S+) (.*)$/.exec(line) ?? []
    if (key === undefined || value === undefined) continue
    const list = found.get(key)
    if (list) list.push(value)
    else found.set(key, [value])
  }
  return found
}

const lastLine = (text: string): string => (text.trim() === '' ? '' : errorText(text).slice(0, 300))

/** sh over ssh may have a PATH without Nix. */
const NIX_PATH = 'PATH=$PATH:/usr/bin:/bin:/nix/var/nix/profiles/default/bin:/run/current-system/sw/bin'

const VERIFY = `${NIX_PATH}
command -v nix-store >/dev/null || { echo 'there is no nix-store in PATH' >&2; exit 1; }
xargs -n 100 nix-store --verify-path 2>&1 <<END | while read -r line; do report said "$line"; done
$paths
END
`

/** Milliseconds for the box to read and hash everything. */
const HASHING = 6 * 3_600_000

/**
 * Has the box read these paths and check their hashes.
 * @throws Failure that names what is damaged there
 */
export async function verifyOn(remote: Remote, paths: readonly string[]): Promise<void> {
  const reported = await remote.run(VERIFY, { paths: paths.join('\n') }, HASHING)
  const said = reported.get('said') ?? []
  if (said.length > 0) throw new Failure(`the box can't vouch for what it has, so nothing is deleted: ${said.slice(0, 3).join('; ')}`)
}
