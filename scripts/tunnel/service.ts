// nix-lan-tunnel as a systemd unit: what it tells systemd and the journal, its pauses, and what it
// remembers in between. Only effects; the decisions are in failure.ts and state.ts.
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs'
import { Failure } from '../cli/errors.ts'
import { harmless } from '../cli/text.ts'
import type { SshCache } from '../config/types.ts'
import { FIRST_ANSWER, usable } from '../reach/reach.ts'
import { run } from '../system/exec.ts'
import { becomeProgram } from '../system/handover.ts'
import { runtimeDir } from '../system/paths.ts'
import { searchEnv, searchPath } from '../system/search-path.ts'
import { ask } from '../system/systemd.ts'
import { type Agent, askAgent } from './agent.ts'
import { endOf, READY_MARK, reasonOf, whyNotReady } from './failure.ts'
import { whyLate } from './late.ts'
import { FRESH_LOGIN, LATE, loginByHand, sshOptions } from './ssh.ts'
import { agentSocket, askSsh } from './ssh-config.ts'
import { afterFailure, forgetTunnelState, forSleep, pauseLeft, readTunnelState, uptime, writeTunnelState } from './state.ts'

/** ssh's exit code for a lost link, which the unit doesn't count as a failure. */
const LINK_LOST = 255
const CHECK = 'nix-lan-check.service'
/** Milliseconds for systemd-notify, which normally needs only a few. */
const NOTIFY_LIMIT = 2000
/** Set while SSH_AUTH_SOCK comes from env-file, which may give another one at the next attempt. */
const FROM_FILE = 'NIX_LAN_AGENT_FROM_FILE'
/** Sleeps, then becomes nix-lan-tunnel again. */
const WAIT = 'sleep "$1" && shift && exec "$@"'

export class Service {
  readonly uid: number
  readonly cache: SshCache
  /** The path of nix-lan-tunnel. */
  readonly self: string
  /** ssh's log file. */
  readonly log: string
  private readonly warn: (text: string) => void

  constructor(uid: number, cache: SshCache, self: string, warn: (text: string) => void) {
    this.uid = uid
    this.cache = cache
    this.self = self
    this.log = `${runtimeDir(uid)}/${cache.name}.ssh.log`
    this.warn = warn
  }

  /** Arranges for a pause if one is due. @returns whether it is */
  async waits(): Promise<boolean> {
    const state = readTunnelState(this.uid, this.cache.name)
    const left = pauseLeft(state, uptime())
    if (left === 0) return false
    await this.status(`waiting ${Math.ceil(left)} s: ${state?.reason}`)
    const env: Record<string, string | null> = process.env[FROM_FILE] ? { SSH_AUTH_SOCK: null, SSH_AGENT_PID: null, [FROM_FILE]: null } : {}
    process.stdout.write(
      becomeProgram({
        program: '/bin/sh',
        args: ['-c', WAIT, 'nix-lan-tunnel', forSleep(left), this.self, '--service', this.cache.name],
        shift: process.argv.length - 2,
        env: { ...env, PATH: searchPath(process.env.PATH) },
      }),
    )
    return true
  }

  /** Empties the log, since ssh appends. @throws Failure */
  newLog(): void {
    try {
      writeFileSync(this.log, '', { mode: 0o600 })
    } catch (error) {
      throw new Failure(`${this.log} can't be written (${(error as NodeJS.ErrnoException).code})`)
    }
  }

  /** The variables for ssh and for what runs after it. */
  environment(agent: Agent): Record<string, string> {
    return agent.env.SSH_AUTH_SOCK ? { ...agent.env, [FROM_FILE]: this.cache.envFile } : agent.env
  }

  /** Tells systemd that a nix-daemon answers now, or records why none does. @returns 0 or 75 */
  async ready(): Promise<number> {
    const { name, daemonSocket, ssh, deadline } = this.cache
    const answer = await usable(this.cache, this.uid, deadline, FIRST_ANSWER)
    if (!answer.ok) {
      const before = readTunnelState(this.uid, name)
      const reason = whyNotReady(this.readLog(), answer.reason, daemonSocket, ssh)
      if (before?.reason !== reason) {
        this.warn(`${name}: ${reason}`)
        writeTunnelState(this.uid, name, { ...afterFailure(before, reason, new Date(), 0), notBefore: 0 })
      }
      await this.status(`connected, but no nix-daemon answers: ${reason}`)
      return 75
    }
    this.markReady()
    forgetTunnelState(this.uid, name)
    return await this.notify('--ready', `--status=${answer.detail ?? 'a nix-daemon'} on the box answers`)
  }

  /**
   * Called when ssh has ended on its own. If the tunnel was ready, systemd has to learn that it no
   * longer is; if not, it is tried again.
   */
  async ended(code: number): Promise<number> {
    if (code === FRESH_LOGIN) return await this.again()
    if (code === LATE) return await this.failed(await whyLate(this.cache), false)
    const log = this.readLog()
    const end = endOf(log, code)
    const { host, envFile, ssh } = this.cache
    const { facts } = await askSsh(ssh, sshOptions(this.cache))
    const agent = end.kind === 'denied' ? await askAgent(agentSocket(facts, process.env)) : 'none'
    const byHand = loginByHand(this.cache, facts)
    const reason = reasonOf(end, { host, envFile, agent, byHand }, log)
    const mayBeAway = ['lost', 'unconnected', 'other'].includes(end.kind)
    if (end.kind !== 'lost') return await this.failed(reason, mayBeAway, end.kind === 'denied')
    await this.note(reason, mayBeAway)
    await this.status(reason)
    return code === 0 ? 0 : LINK_LOST
  }

  /**
   * The keeper ended an ssh through which no nix-daemon answered, to log in afresh: nothing new to
   * report, and no long pause.
   * @returns the exit code
   */
  private async again(): Promise<number> {
    const before = readTunnelState(this.uid, this.cache.name)
    if (before) writeTunnelState(this.uid, this.cache.name, { ...before, notBefore: uptime() + 1 })
    return !unitHoldsOthers() && (await this.waits()) ? 0 : 75
  }

  /**
   * Pauses after a failed attempt, then makes the next one.
   * @param refused it was the login that the box refused
   * @returns the exit code
   */
  async failed(reason: string, mayBeAway: boolean, refused = false): Promise<number> {
    await this.note(reason, mayBeAway, refused)
    // What env-file starts (say, an ssh agent per attempt) would pile up; systemd cleans it up when
    // the unit ends.
    return !unitHoldsOthers() && (await this.waits()) ? 0 : 75
  }

  /**
   * Remembers the reason, reports it if it is new, and has a check find out whether the box is
   * there at all.
   */
  private async note(reason: string, mayBeAway: boolean, refused = false): Promise<void> {
    const before = readTunnelState(this.uid, this.cache.name)
    if (before?.reason !== reason) this.warn(`${this.cache.name}: ${reason}`)
    writeTunnelState(this.uid, this.cache.name, afterFailure(before, reason, new Date(), uptime(), refused))
    if (!mayBeAway) return
    await ask('restart', [CHECK]).catch((error) => {
      if (!(error instanceof Failure)) throw error // no units installed or no systemd: nobody to ask
    })
  }

  private markReady(): void {
    try {
      appendFileSync(this.log, `${READY_MARK}\n`)
    } catch {
      // /run is full: the tunnel works, and how it will end is told less well
    }
  }

  private readLog(): string {
    try {
      return harmless(readFileSync(this.log, 'utf8').replaceAll('\r', ''))
    } catch {
      return ''
    }
  }

  private async status(text: string): Promise<void> {
    await this.notify(`--status=${text}`)
  }

  /** @returns 0, or 1 if systemd can't be told */
  private async notify(...args: string[]): Promise<number> {
    const told = await run('systemd-notify', args, { env: searchEnv(), timeout: NOTIFY_LIMIT })
    if (told.code === 0) return 0
    this.warn(`systemd-notify fails, so that systemd doesn't know how the tunnel is: ${told.failedToStart ?? told.stderr.trim()}`)
    return 1
  }
}

/**
 * Whether the unit's control group (cgroups(7), version 2) holds more than us and the shell that
 * started us; false if that can't be told.
 */
function unitHoldsOthers(): boolean {
  try {
    const [, path] = /^0::(\/.*\/nix-lan-tunnel@[^/]*\.service)$/m.exec(readFileSync('/proc/self/cgroup', 'utf8')) ?? []
    if (path === undefined) return false
    const pids = readFileSync(`/sys/fs/cgroup${path}/cgroup.procs`, 'utf8').trim().split('\n')
    const others = pids.filter((pid) => Number(pid) !== process.pid && Number(pid) !== process.ppid)
    return others.some((pid) => readFileSync(`/proc/${pid}/comm`, 'utf8') !== 'sleep\n') // sleep is the keeper's and ends on its own
  } catch {
    return false
  }
}
