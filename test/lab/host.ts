// One machine of a lab: what is run on it, its files, its journal, its power.
import { spawn } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { placeFile } from '../lib/as-user.ts'
import { finished, kill, pause, type Result, type RunOptions } from '../lib/processes.ts'
import type { Suite } from '../lib/roots.ts'
import type { Holder } from './holder.ts'
import type { Lan } from './lan.ts'

export type User = 'root' | 'alice'
export const ALICE = 1000

/**
 * How long, in milliseconds, a machine may take to go off or to come up, before the test is given
 * up.
 */
const POWER_LIMIT = 300_000

const PATHS = {
  root: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  alice: '/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games', // what a login on Debian gives
}

/**
 * Lets nix-daemon be started as often as a test likes: systemd refuses more than five starts in ten
 * seconds (systemd.unit(5)), which no person reaches, and a test does on a quick machine.
 */
export const RESET_NIX = 'systemctl reset-failed nix-daemon.service nix-daemon.socket'
/** Restarts nix-daemon, however often that was done just now. As root. */
export const RESTART_NIX = `${RESET_NIX}; systemctl restart nix-daemon`

/** A command that enters a machine. */
export interface Entry {
  command: string[]
  env: Record<string, string | undefined>
}

/**
 * What journalctl(1) is given for a unit of alice's: what it prints, and what systemd says of it.
 * (--user-unit means root's own, for root.)
 */
export function ofUserUnit(unit: string): string[] {
  return [`_SYSTEMD_USER_UNIT=${unit}`, '+', `USER_UNIT=${unit}`]
}

/** One machine; made by createLab. */
export class Host {
  /** In commands and messages: laptop, box, … */
  readonly name: string
  /** What it calls itself: pi for the box, so that it is pi.local. */
  readonly hostname: string
  readonly suite: Suite
  private readonly holder: Holder
  private readonly lan: Lan
  private on = false
  private used = false
  private wentOff: (() => void)[] = []

  constructor(holder: Holder, lan: Lan, name: string, hostname: string, suite: Suite) {
    this.holder = holder
    this.lan = lan
    this.name = name
    this.hostname = hostname
    this.suite = suite
    holder.onEnded((ended, code) => {
      if (ended !== name) return
      if (code === 133) holder.switchOn(name, hostname)
      else this.on = false
      for (const tell of this.wentOff.splice(0)) tell()
    })
  }

  /** Its systemd, by our pids; undefined while it is off. */
  private init(): number | undefined {
    try {
      const pid = Number(readFileSync(`${this.holder.cgroup}/${this.name}/payload/init.scope/cgroup.procs`, 'utf8').split('\n')[0])
      return pid > 0 ? pid : undefined
    } catch {
      return undefined
    }
  }

  /**
   * Where a file of the machine lies for us, also while it is off. (Absolute symlinks in it are
   * followed in *our* root.)
   */
  path(inside: string): string {
    const pid = this.init()
    return pid ? `/proc/${pid}/root${inside}` : this.holder.path(`${this.holder.dir}/${this.name}/root${inside}`)
  }

  /** Writes a file, with its folders. Default: root's, 0644; with `user` 'alice' hers. */
  write(inside: string, text: string, { mode = 0o644, user = 'root' as User } = {}): void {
    placeFile(this.path(inside), text, user === 'root' ? 0 : ALICE, mode)
  }

  /** The text of a file. */
  read(inside: string): string {
    return readFileSync(this.path(inside), 'utf8')
  }

  /**
   * The environment of a user as a login gives it: alice's has her user manager. Nothing of ours is
   * in it.
   */
  private env(user: User, more: Record<string, string | undefined> = {}): Record<string, string | undefined> {
    const run = `/run/user/${ALICE}`
    const session = { XDG_RUNTIME_DIR: run, DBUS_SESSION_BUS_ADDRESS: `unix:path=${run}/bus`, SHELL: '/bin/bash' }
    const own = user === 'root' ? { HOME: '/root' } : { HOME: '/home/alice', ...session }
    return { PATH: PATHS[user], LANG: 'C.UTF-8', USER: user, LOGNAME: user, ...own, ...more }
  }

  /**
   * The command that runs a program on the machine, as that user with her groups. @throws Error
   * while it is off
   */
  private command(user: User, command: string, args: readonly string[], cwd: string): [string, ...string[]] {
    const pid = this.init()
    if (!pid) throw new Error(`${this.name} is off: ${command} can't be run on it`)
    const cgroup = `${this.holder.cgroup}/${this.name}/payload/lab` // so that freeze() finds it
    mkdirSync(cgroup, { recursive: true })
    const become = ['setpriv', `--reuid=${user}`, `--regid=${user}`, '--init-groups']
    const there = ['sh', '-c', 'cd "$0" && exec "$@"', cwd, command, ...args]
    const all = ['nsenter', '--target', String(pid), '--all', '--', ...become, ...there]
    return ['sh', '-c', 'echo 0 >"$0/cgroup.procs"; exec "$@"', cgroup, ...all]
  }

  /**
   * Runs a program on the machine to its end, from the user's home. Throws only while the machine
   * is off.
   */
  run(user: User, command: string, args: readonly string[] = [], options: RunOptions = {}): Promise<Result> {
    const [program, ...rest] = this.command(user, command, args, options.cwd ?? (user === 'root' ? '/' : '/home/alice'))
    return finished(spawn(program, rest, { stdio: ['pipe', 'pipe', 'pipe'], env: this.env(user, options.env) }), options)
  }

  /** As run, and throws when the exit code isn't 0. The stdout, without the last newline. */
  async must(user: User, command: string, args: readonly string[] = [], options: RunOptions = {}): Promise<string> {
    const result = await this.run(user, command, args, options)
    if (result.code === 0) return result.stdout.replace(/\n$/, '')
    const how = result.timedOut ? 'took too long' : `exit ${result.code ?? result.signal}`
    throw new Error(`${this.name}: ${user} ran ${[command, ...args].join(' ').slice(0, 300)}: ${how}\n${result.stdout}${result.stderr}`)
  }

  /**
   * What another process, with a terminal, runs to do so: for `npm run lab`. @throws Error while
   * the machine is off
   */
  entry(user: User, command: string, args: readonly string[]): Entry {
    return { command: this.command(user, command, args, user === 'root' ? '/root' : '/home/alice'), env: this.env(user) }
  }

  /**
   * systemctl --user, as alice. stdout, whatever its exit code (is-active and its like say much
   * with it).
   */
  async systemctl(...args: string[]): Promise<string> {
    return (await this.run('alice', 'systemctl', ['--user', ...args])).stdout.trim()
  }

  /** RESTART_NIX. */
  async restartNix(): Promise<void> {
    await this.must('root', 'sh', ['-ec', RESTART_NIX])
  }

  /**
   * Lines of the journal, oldest first, each with date, host and process: all that was said by now,
   * since journald is asked to take down what waits for it. `since`: milliseconds
   * since 1970, as Date.now() gives them. `match`: arguments of journalctl(1), such as
   * ofUserUnit('nix-lan-tunnel@pi.service') or ['-u', 'nix-daemon'].
   */
  async journal({ since, match = [] }: { since?: number; match?: string[] } = {}): Promise<string[]> {
    const from = since === undefined ? [] : [`--since=@${(since / 1000).toFixed(3)}`]
    const read = 'journalctl --sync; exec journalctl --no-pager --quiet --output=short-precise "$@"'
    const { stdout } = await this.run('root', 'sh', ['-c', read, 'sh', ...from, ...match])
    return stdout.split('\n').filter((line) => line !== '')
  }

  /** Whether it is switched on (which doesn't say that it has booted). */
  isOn(): boolean {
    return this.on
  }

  /**
   * on: and has booted. off: systemctl poweroff, to its end. reboot: and has booted again. crash:
   * gone within a moment, without a word to anyone (its port of the bridge is cut before).
   */
  async power(what: 'on' | 'off' | 'reboot' | 'crash'): Promise<void> {
    if (what === 'on') {
      if (!this.on) this.switchOn()
      await this.booted()
    } else if (what === 'crash') {
      await this.lan.must('ip', ['link', 'set', `vb-${this.name}`, 'nomaster'])
      await this.goesOff(() => kill(this.init() ?? 0, 'SIGKILL'))
    } else {
      await this.goesOff(() => void this.run('root', 'systemctl', [what === 'off' ? 'poweroff' : 'reboot']))
      if (what === 'reboot') await this.booted()
    }
  }

  /** Whether it has ever been switched on. */
  wasOn(): boolean {
    return this.used
  }

  /** Switches it on, and doesn't wait. */
  switchOn(): void {
    this.on = true
    this.used = true
    this.holder.switchOn(this.name, this.hostname)
  }

  private async goesOff(how: () => void): Promise<void> {
    if (!this.on) return
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`${this.name} has not gone off\n${this.console()}`)), POWER_LIMIT)
    })
    const off = new Promise<void>((resolve) => this.wentOff.push(resolve))
    how()
    await Promise.race([off, late])
    clearTimeout(timer)
  }

  /**
   * Waits for the end of its boot. Returns what systemctl is-system-running says: running, or
   * degraded. @throws Error with its console
   */
  async booted(): Promise<string> {
    for (const end = Date.now() + POWER_LIMIT; Date.now() < end; await pause(50)) {
      if (!this.init()) continue
      const { stdout } = await this.run('root', 'systemctl', ['is-system-running', '--wait'], { timeout: POWER_LIMIT })
      if (/^(running|degraded)$/m.test(stdout)) return stdout.trim()
    }
    throw new Error(`${this.name} does not boot\n${this.console()}`)
  }

  /** What its console has shown last. */
  console(): string {
    try {
      return readFileSync(this.holder.path(`${this.holder.dir}/${this.name}/console`), 'utf8').slice(-4000)
    } catch {
      return ''
    }
  }

  /**
   * Stops all of its processes as a suspend does, until thaw(); its kernel, which is ours, goes on.
   */
  freeze(): void {
    writeFileSync(`${this.holder.cgroup}/${this.name}/payload/cgroup.freeze`, '1')
  }

  /** And lets them go on. */
  thaw(): void {
    writeFileSync(`${this.holder.cgroup}/${this.name}/payload/cgroup.freeze`, '0')
  }
}
