// Looks at the way to the box: one ssh connection, made just as the tunnel makes it but with a socket of its own, and a handshake
// through it. Leaves the real tunnel alone.
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import type { SshCache } from '../config/types.ts'
import { readText } from '../nix/nix-conf.ts'
import { BoxUnavailable } from '../protocol/box.ts'
import { greetBox } from '../protocol/dial.ts'
import { runtimeDir } from '../state/paths.ts'
import { run } from '../system/exec.ts'
import { searchEnv } from '../system/search-path.ts'
import { findAgent } from '../tunnel/agent.ts'
import { type AgentState, agentState } from '../tunnel/failure.ts'
import { portOptions, sshArguments, sshOptions } from '../tunnel/ssh.ts'
import { isDirect, parseFacts } from '../tunnel/ssh-config.ts'
import { gotIn, type Handshake, parseSocket, SOCKET_SCRIPT, type SocketFacts, type SshFacts } from './judge-box.ts'

/** Milliseconds for log-in and handshake, beyond the deadline: a slow box takes its time for the key exchange. */
const PATIENCE = 15_000

export interface Probe {
  ssh: SshFacts
  handshake: Handshake
  /** Only when the handshake failed. */
  socket?: SocketFacts
}

/**
 * Logs in and asks the box's nix-daemon for its version.
 * @param serviceAgent SSH_AUTH_SOCK as the tunnel's service has it, undefined for none; null: there are no services, our own counts
 */
export async function probeBox(cache: SshCache, uid: number, serviceAgent: string | undefined | null): Promise<Probe> {
  const own = process.env.SSH_AUTH_SOCK
  const given = serviceAgent === null ? own : serviceAgent
  const agent = await findAgent(cache.envFile, given ? { SSH_AUTH_SOCK: given } : {})
  const socket = agent.env.SSH_AUTH_SOCK ?? given
  const env = { ...searchEnv(), SSH_AUTH_SOCK: undefined, ...(socket ? { SSH_AUTH_SOCK: socket } : {}) }
  const limit = cache.deadline + PATIENCE
  const asked = await run('ssh', ['-G', ...sshOptions(cache), cache.ssh], { env, timeout: limit })
  const facts = asked.code === 0 ? parseFacts(asked.stdout) : new Map<string, string[]>()
  const port = portOptions(cache, facts)
  const byHand = ['ssh', ...(cache.port === 22 ? [] : port), cache.ssh].join(' ')
  const host = facts.get('hostkeyalias')?.[0] ?? facts.get('hostname')?.[0] ?? cache.host
  const knownAs = cache.port === 22 || !isDirect(cache, facts) ? host : `[${host}]:${cache.port}`
  const { log, failedToStart, timedOut, handshake } = await throughSsh(cache, uid, port, env, limit)
  const denied = !gotIn(log) && failedToStart === null
  const held = async (SSH_AUTH_SOCK: string | undefined): Promise<AgentState> =>
    denied && SSH_AUTH_SOCK ? agentState((await run('ssh-add', ['-l'], { env: { ...env, SSH_AUTH_SOCK }, timeout: 5000 })).code) : 'none'
  const from = agent.env.SSH_AUTH_SOCK === undefined && given && serviceAgent ? 'the environment of your systemd' : agent.from
  const ssh: SshFacts = {
    log,
    failedToStart,
    timedOut,
    byHand,
    knownAs,
    agent: { state: await held(socket), from, ...(socket ? { socket } : {}), ...(agent.problem ? { problem: agent.problem } : {}) },
    shellAgent: own === socket ? 'none' : await held(own),
  }
  if (handshake.ok || handshake.kind === 'old' || !gotIn(log)) return { ssh, handshake }
  return { ssh, handshake, socket: await askSocket(cache, port, env, limit) }
}

async function throughSsh(
  cache: SshCache,
  uid: number,
  port: readonly string[],
  env: Record<string, string | undefined>,
  limit: number,
): Promise<{ log: string; failedToStart: string | null; timedOut: boolean; handshake: Handshake }> {
  const directory = mkdtempSync(`${placeFor(uid)}/nix-lan-doctor-`)
  const [socket, logFile] = [`${directory}/s`, `${directory}/log`]
  const stop = new AbortController()
  let running = true
  try {
    const args = ['-v', '-E', logFile, ...sshArguments(cache, socket, { target: port })]
    const ssh = run('ssh', args, { env, abort: stop.signal })
    void ssh.then(() => {
      running = false
    })
    const until = Date.now() + limit
    while (running && Date.now() < until && !isThere(socket)) await new Promise((done) => setTimeout(done, 20))
    const there = isThere(socket)
    const handshake: Handshake = there ? await shake(socket, limit) : { ok: false, kind: 'missing', reason: 'no tunnel' }
    const timedOut = running && !there
    // What sshd says of a refused channel may come a moment after the channel has closed.
    if (there && !handshake.ok) await new Promise((done) => setTimeout(done, 100))
    stop.abort()
    const { failedToStart } = await ssh
    return { log: readText(logFile) ?? '', failedToStart, timedOut, handshake }
  } finally {
    stop.abort()
    rmSync(directory, { recursive: true, force: true })
  }
}

async function shake(socket: string, limit: number): Promise<Handshake> {
  try {
    return { ok: true, ...(await greetBox(socket, limit)) }
  } catch (error) {
    return { ok: false, kind: error instanceof BoxUnavailable ? error.kind : 'broken', reason: (error as Error).message }
  }
}

/** Asks the box itself who may use the socket, by sh on stdin, whatever the login shell. */
async function askSocket(
  cache: SshCache,
  port: readonly string[],
  env: Record<string, string | undefined>,
  timeout: number,
): Promise<SocketFacts> {
  const options = ['BatchMode=yes', 'ControlMaster=no', 'ControlPath=none', 'ClearAllForwardings=yes', 'RequestTTY=no', 'LogLevel=ERROR']
  const args = ['-T', ...options.flatMap((text) => ['-o', text]), ...port, cache.ssh, 'sh', '-s', '--', cache.daemonSocket]
  const asked = await run('ssh', args, { env, timeout, input: SOCKET_SCRIPT })
  return parseSocket(asked.stdout)
}

/** The runtime directory is the user's alone, and its path is short enough for a socket. */
function placeFor(uid: number): string {
  const directory = runtimeDir(uid).replace(/\/nix-lan$/, '')
  return isThere(directory) ? directory : tmpdir()
}

const isThere = (path: string): boolean => statSync(path, { throwIfNoEntry: false }) !== undefined
