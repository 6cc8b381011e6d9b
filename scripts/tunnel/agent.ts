// Finds the ssh agent: the one our own environment names or, if that names none or one without
// keys, the one set by the file that sets it for the user's shells. A separate bash sources that
// file, its output discarded and its time limited: it may print, wait for a terminal, start
// programs or exit. What it starts ends with it.
import { existsSync, readFileSync, statSync } from 'node:fs'
import { inSeconds } from '../cli/text.ts'
import { whenWeEnd } from '../system/exec.ts'
import { type AgentState, agentState } from './failure.ts'
import { agentSocket, type SshFacts } from './ssh-config.ts'
import { type Start, startPlain } from './start.ts'
import { uptime } from './state.ts'

export interface Agent {
  /** What to add to ssh's environment. */
  env: Record<string, string>
  /** Where the agent was found, for people. */
  from: string
  /** What went wrong and what to do about it. ssh is tried anyway: a key may need no agent. */
  problem?: string
  /** The agent process, if env-file started it for us; see endWithUs(). */
  begun?: Process
}

/** Milliseconds for sourcing an env-file. */
const ENV_FILE_LIMIT = 5000
/** Milliseconds for an agent to list its keys. */
const AGENT_LIMIT = 2000

// Prints the status and the values, each followed by NUL. The trap covers a file that calls `exit`
// (inside one of its functions, not even the trap prints anything). SIGTERM means that we have
// ended: so does the agent, if it began after the tick $2.
const SOURCE = [
  `nix_lan_report() { printf '%s\\0' "$1" "\${SSH_AUTH_SOCK-}" "\${SSH_AGENT_PID-}"; }`,
  'nix_lan_end() { [ "${20}" -gt "$nix_lan_since" ] && kill "$SSH_AGENT_PID"; }',
  'nix_lan_since=$2',
  `trap 'nix_lan_report $?' EXIT`,
  `trap 'read -r nix_lan_stat <"/proc/$SSH_AGENT_PID/stat" && nix_lan_end \${nix_lan_stat##*) }; exit' TERM`,
  '. "$1" >/dev/null 2>&1',
  'set -- $?',
  'trap - EXIT',
  'nix_lan_report "$1"',
].join('\n')

/**
 * The agent for ssh: our own environment's, unless that holds no key and the one env-file names
 * does. (Debian 13 and its derivatives start an empty ssh-agent with every user manager and put it
 * into the environment of all units; the agent with the keys is a different one.)
 * @param ours our environment
 * @param limit milliseconds for sourcing the file
 */
export async function findAgent(
  envFile: string,
  ours: Record<string, string | undefined>,
  limit = ENV_FILE_LIMIT,
  start: Start = startPlain,
): Promise<Agent> {
  if (!ours.SSH_AUTH_SOCK) return await agentOfFile(envFile, limit, start)
  const own: Agent = { env: {}, from: 'the environment' }
  if (!existsSync(envFile) || (await holdsKeys(ours.SSH_AUTH_SOCK, start))) return own
  const other = await agentOfFile(envFile, limit, start)
  const socket = other.env.SSH_AUTH_SOCK
  const begun = other.begun ? { begun: other.begun } : {}
  if (!socket || socket === ours.SSH_AUTH_SOCK || !(await holdsKeys(socket, start))) return { ...own, ...begun }
  return { ...other, from: `${envFile}, since the agent of the environment holds no key` }
}

/**
 * Asks the agent at a socket what keys it holds now (`ssh-add -l`).
 * @param socket SSH_AUTH_SOCK; undefined if there is no agent: then nothing is asked
 */
export async function askAgent(socket: string | undefined, start: Start = startPlain): Promise<AgentState> {
  if (!socket) return 'none'
  const asked = await start(['env', `SSH_AUTH_SOCK=${socket}`, 'ssh-add', '-l'], { timeout: AGENT_LIMIT })
  return agentState(asked.code)
}

const holdsKeys = async (socket: string, start: Start): Promise<boolean> => (await askAgent(socket, start)) === 'keys'

async function agentOfFile(envFile: string, limit: number, start: Start): Promise<Agent> {
  if (!existsSync(envFile)) return { env: {}, from: `nowhere: SSH_AUTH_SOCK is not set, and there is no ${envFile}` }
  const since = await nextTick()
  const sourced = await start(['bash', '--noprofile', '--norc', '-c', SOURCE, 'bash', envFile, String(since)], {
    timeout: limit,
    guarded: true,
    group: true,
    leaveNothing: true,
  })
  const [status, socket, pid = ''] = sourced.stdout.split('\0')
  if (socket) {
    const begun = begunAfter(Number(pid), since)
    return { env: { SSH_AUTH_SOCK: socket, ...(pid ? { SSH_AGENT_PID: pid } : {}) }, from: envFile, ...(begun ? { begun } : {}) }
  }
  const problem = problemOf(envFile, limit, sourced, status)
  return { env: {}, from: `nowhere: ${envFile} sets no SSH_AUTH_SOCK`, ...(problem ? { problem } : {}) }
}

/**
 * Whether every key ssh could use, from its identity files or its agent, is a security key: those
 * want a touch at each login (ssh-keygen(1), FIDO AUTHENTICATOR).
 */
export async function wantTouch(facts: SshFacts, env = process.env, start: Start = startPlain): Promise<boolean> {
  const files = (facts.get('identityfile') ?? []).map((file) => file.replace(/^~(?=\/)/, env.HOME ?? '~'))
  // Without a public half, the file's name has to tell.
  const ofFiles = files.filter((file) => existsSync(file)).map((file) => textOf(`${file}.pub`) ?? (file.endsWith('_sk') ? 'sk-' : 'ssh-'))
  const socket = agentSocket(facts, env)
  if (!socket) return allSecurityKeys(ofFiles)
  const asked = await start(['env', `SSH_AUTH_SOCK=${socket}`, 'ssh-add', '-L'], { timeout: AGENT_LIMIT })
  const held = asked.code === 0 ? asked.stdout.trim().split('\n').filter(Boolean) : []
  return allSecurityKeys([...ofFiles, ...held])
}

/**
 * Whether there are keys and all of them are security keys.
 * @param keys public keys in authorized_keys(5) format; pure
 */
const allSecurityKeys = (keys: readonly string[]): boolean => keys.length > 0 && keys.every((key) => key.startsWith('sk-'))

/** The process env-file started, as heads/keeper.sh takes it: PID:TICK. */
export const beginningOf = ({ begun }: Agent): string => (begun ? `${begun.pid}:${begun.begun}` : '')

/** A process, identified well enough to tell it from a later one with the same number. */
interface Process {
  pid: number
  uid: number
  /** Start time in clock ticks since boot. */
  begun: number
}

/** Clock ticks per second in what Linux tells programs (proc_pid_stat(5), USER_HZ). */
const HZ = 100

/**
 * Waits for the current clock tick to end and returns it: what starts from now on starts in a later
 * one.
 */
async function nextTick(): Promise<number> {
  const tick = Math.floor(uptime() * HZ)
  await new Promise((resolve) => setTimeout(resolve, 1000 / HZ + 1))
  return tick
}

/**
 * The process id, if the process recorded as PID:TICK is still the same one.
 * @param uid the user it must belong to
 */
export function isStill(text: string, uid: number): number | undefined {
  const [, pid, tick] = /^(\d+):(\d+)\n?$/.exec(text) ?? []
  const found = pid ? processOf(Number(pid)) : undefined
  return found && found.uid === uid && found.begun === Number(tick) ? found.pid : undefined
}

/** The process with that number, if it started after that tick. */
function begunAfter(pid: number, tick: number): Process | undefined {
  const found = Number.isSafeInteger(pid) && pid > 1 ? processOf(pid) : undefined
  return found && found.begun > tick ? found : undefined
}

/** The text of a small file; undefined if it can't be read. */
export function textOf(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return undefined
  }
}

function processOf(pid: number): Process | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    // Start after the name in parentheses, which may hold anything: state is field 3, starttime 22.
    const begun = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19])
    return { pid, uid: statSync(`/proc/${pid}`).uid, begun }
  } catch {
    return undefined // it has ended
  }
}

/**
 * Ends the agent env-file started for us when we end, also by a signal; otherwise each command would
 * leave another one behind, with the key in it. Never touches an agent that was there before
 * (keychain's, gpg's).
 * @param uid the user the agent must belong to
 */
export function endWithUs({ begun }: Agent, uid: number): void {
  if (begun?.uid === uid) whenWeEnd(END_AGENT, begun.pid, begun.begun, uid)
}

/**
 * $1 is a process, $2 its start, $3 its user: another one by that number is left alone. After the
 * name in parentheses, which may hold anything, only numbers follow.
 */
const END_AGENT = [
  'read -r stat <"/proc/$1/stat"',
  'while read -r key _ uid _ && [ "$key" != Uid: ]; do :; done <"/proc/$1/status"',
  'set -- "$@" ${stat##*) }',
  '[ "${23} $uid" = "$2 $3" ] && kill "$1"',
].join('\n')

/**
 * Why a file gave no SSH_AUTH_SOCK; undefined if it simply sets none, which is not a failure. A
 * file that ends in `[ … ] && …` leaves status 1.
 */
function problemOf(
  file: string,
  limit: number,
  { timedOut, failedToStart, code }: { timedOut: boolean; failedToStart: string | null; code: number | null },
  status: string | undefined,
): string | undefined {
  const cure = 'ssh is tried without an agent; set env-file to a file that only sets SSH_AUTH_SOCK'
  if (failedToStart) return `env-file ${file} needs bash, which can't be started (${failedToStart}); ssh is tried without an agent`
  if (timedOut) return `env-file ${file} was ended after ${inSeconds(limit)}: does it wait for something? ${cure}`
  if (!status) return `env-file ${file} exited (${code ?? 'by a signal'}) before its SSH_AUTH_SOCK could be read; ${cure}`
  if (status !== '0' && status !== '1')
    return `env-file ${file} failed with status ${status} and set no SSH_AUTH_SOCK; try: bash -n ${file}`
  return undefined
}
