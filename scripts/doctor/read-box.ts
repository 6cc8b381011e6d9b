// Looks at the way to the box: one ssh connection, made exactly as the tunnel makes it but with a
// socket of its own, and a handshake through it. Leaves the real tunnel alone.
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { quote } from '../cli/text.ts'
import type { SshCache } from '../config/types.ts'
import { readText } from '../nix/nix-conf.ts'
import { BoxUnavailable } from '../protocol/box.ts'
import { greetBox } from '../protocol/dial.ts'
import { listens } from '../reach/listening.ts'
import { FIRST_ANSWER } from '../reach/reach.ts'
import { run } from '../system/exec.ts'
import { runtimeDir } from '../system/paths.ts'
import { searchEnv } from '../system/search-path.ts'
import { BOX_SOCKET } from '../system/texts.ts'
import { askAgent, endWithUs, findAgent } from '../tunnel/agent.ts'
import { prepare } from '../tunnel/attempt.ts'
import type { AgentState } from '../tunnel/failure.ts'
import { forwardCommand, loginByHand, portOptions, sshCommand } from '../tunnel/ssh.ts'
import { agentSocket, isDirect } from '../tunnel/ssh-config.ts'
import { type BoxKeys, gotIn, type Handshake, KEYS_SCRIPT, parseKeys, parseSocket, type SocketFacts, type SshFacts } from './judge-box.ts'

/**
 * Milliseconds for login and handshake, beyond the deadline: key exchange takes long on a slow box.
 */
const PATIENCE = 15_000

export interface Probe {
  ssh: SshFacts
  handshake: Handshake
  /** Only if the handshake failed. */
  socket?: SocketFacts
  /**
   * Runs this sh script on the box, with `args` as `$1` and following.
   * @returns what it printed
   */
  ask(script: string, ...args: string[]): Promise<string>
}

/** The keys the box's nix-daemon trusts; undefined if it can't be asked. */
export const askKeys = async ({ ask }: Pick<Probe, 'ask'>): Promise<BoxKeys | undefined> => parseKeys(await ask(KEYS_SCRIPT))

/**
 * Logs in and asks the box's nix-daemon for its version.
 * @param serviceAgent SSH_AUTH_SOCK of the tunnel's service, undefined if it has none; null: there
 *   are no services, so our own counts
 */
export async function probeBox(cache: SshCache, uid: number, serviceAgent: string | undefined | null): Promise<Probe> {
  const own = process.env.SSH_AUTH_SOCK
  const given = serviceAgent === null ? own : serviceAgent
  const agent = await findAgent(cache.envFile, given ? { SSH_AUTH_SOCK: given } : {})
  endWithUs(agent, uid)
  const socket = agent.env.SSH_AUTH_SOCK ?? given
  const env = { ...searchEnv(), SSH_AUTH_SOCK: undefined, ...(socket ? { SSH_AUTH_SOCK: socket } : {}) }
  const limit = cache.deadline + PATIENCE
  const { facts, log, failedToStart, timedOut, handshake } = await throughSsh(cache, uid, env, limit)
  const host = facts.get('hostkeyalias')?.[0] ?? facts.get('hostname')?.[0] ?? cache.host
  const knownAs = cache.port === 22 || !isDirect(cache, facts) ? host : `[${host}]:${cache.port}`
  const denied = !gotIn(log) && failedToStart === null
  const asked = agentSocket(facts, { ...process.env, SSH_AUTH_SOCK: socket })
  const held = async (agentSocket: string | undefined): Promise<AgentState> => (denied ? await askAgent(agentSocket) : 'none')
  const from = agent.env.SSH_AUTH_SOCK === undefined && given && serviceAgent ? 'the environment of your systemd' : agent.from
  const ssh: SshFacts = {
    log,
    failedToStart,
    timedOut,
    byHand: loginByHand(cache, facts),
    knownAs,
    agent: { state: await held(asked), from, ...(asked ? { socket: asked } : {}), ...(agent.problem ? { problem: agent.problem } : {}) },
    shellAgent: own === socket ? 'none' : await held(own),
  }
  const ask = async (script: string, ...args: string[]): Promise<string> => {
    // On stdin, to work with any login shell.
    const [program = '', ...words] = sshCommand(cache.ssh, ['sh', '-s', '--', ...args.map(quote)].join(' '), portOptions(cache, facts))
    return (await run(program, words, { env, timeout: limit, input: script, most: MOST })).stdout
  }
  if (handshake.ok || handshake.kind === 'old' || !gotIn(log)) return { ssh, handshake, ask }
  return { ssh, handshake, ask, socket: parseSocket(await ask(BOX_SOCKET, cache.daemonSocket)) }
}

/** Characters to read of what the box prints. */
const MOST = 2 ** 20

interface Through {
  facts: Awaited<ReturnType<typeof prepare>>['facts']
  log: string
  failedToStart: string | null
  timedOut: boolean
  handshake: Handshake
}

async function throughSsh(cache: SshCache, uid: number, env: Record<string, string | undefined>, limit: number): Promise<Through> {
  const directory = mkdtempSync(`${placeFor(uid)}/nix-lan-doctor-`)
  const [socket, logFile] = [`${directory}/s`, `${directory}/log`]
  const stop = new AbortController()
  let running = true
  try {
    const { facts, args, control } = await prepare(cache, socket, logFile)
    const ssh = run('ssh', ['-v', ...args], { env, abort: stop.signal })
    void ssh.then(() => {
      running = false
    })
    const until = Date.now() + limit
    let asked = control === undefined
    // ssh makes the file a moment before it listens there
    while (running && Date.now() < until && !(await listens(socket))) {
      if (control && !asked && existsSync(control)) {
        asked = true
        const [program = '', ...words] = forwardCommand(cache, socket, control)
        await run(program, words, { env, timeout: limit })
      }
      await new Promise((done) => setTimeout(done, 20))
    }
    const there = existsSync(socket)
    const handshake: Handshake = there ? await shake(socket, limit) : { ok: false, kind: 'missing', reason: 'no tunnel' }
    const timedOut = running && !there
    // sshd's message about a refused channel may arrive just after the channel has closed.
    if (there && !handshake.ok) await new Promise((done) => setTimeout(done, 100))
    stop.abort()
    const { failedToStart } = await ssh
    return { facts, log: readText(logFile) ?? '', failedToStart, timedOut, handshake }
  } finally {
    stop.abort()
    rmSync(directory, { recursive: true, force: true })
  }
}

async function shake(socket: string, limit: number): Promise<Handshake> {
  try {
    return { ok: true, ...(await greetBox(socket, limit, limit + FIRST_ANSWER)) }
  } catch (error) {
    return { ok: false, kind: error instanceof BoxUnavailable ? error.kind : 'broken', reason: (error as Error).message }
  }
}

/** The runtime directory: only the user's, and its path is short enough for a socket. */
function placeFor(uid: number): string {
  const directory = runtimeDir(uid).replace(/\/nix-lan$/, '')
  return existsSync(directory) ? directory : tmpdir()
}
