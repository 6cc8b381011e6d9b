// The one place that starts programs, never through a shell. Loads node:child_process at the first
// start: that takes 2 ms, and most commands on hot paths start nothing.
import type { ChildProcess, SpawnOptions } from 'node:child_process'
import { createRequire } from 'node:module'
import { harmless } from '../cli/text.ts'

export interface RunOptions {
  /** The program's whole environment; default: ours. */
  env?: Record<string, string | undefined>
  /** Milliseconds until the program is killed (SIGKILL) and `timedOut` is set. */
  timeout?: number
  /** Kills the program as the timeout does. */
  abort?: AbortSignal
  /** Gives the program a process group of its own, all of which is killed with it. */
  group?: boolean
  /** With `group`: ends (SIGTERM) what the program leaves in its group. */
  leaveNothing?: boolean
  /** What the program reads on stdin; /dev/null without it. */
  input?: string
  /** Streams that are not collected but go where ours go: for progress on a terminal. */
  inherit?: ('stdout' | 'stderr')[]
  /**
   * Streams whose text we copy to ours, without control characters: the program never holds our
   * terminal.
   */
  relay?: ('stdout' | 'stderr')[]
  /**
   * Characters per stream. A program that writes more is killed as the timeout does.
   */
  most?: number
  /** The program is ended (SIGTERM) when we are, even by SIGKILL. */
  guarded?: boolean
  /** Is told the process id. */
  started?: (pid: number) => void
  /** Is told what the program prints, as it comes. */
  heard?: (stream: 'stdout' | 'stderr', text: string) => void
}

export interface Outcome {
  /** Exit code, or null when a signal ended it or it could not be started. */
  code: number | null
  signal: string | null
  stdout: string
  stderr: string
  timedOut: boolean
  /** Why it could not be started: ENOENT, EACCES, … */
  failedToStart: string | null
}

const childProcess = () => createRequire('file:///')('node:child_process') as typeof import('node:child_process')

/** Runs a program to its end. Never throws: the outcome tells what happened. */
export function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const inherit = options.inherit ?? []
  const stdio: SpawnOptions['stdio'] = [
    options.input === undefined ? 'ignore' : 'pipe',
    inherit.includes('stdout') ? 'inherit' : 'pipe',
    inherit.includes('stderr') ? 'inherit' : 'pipe',
  ]
  return new Promise((resolve) => {
    const outcome: Outcome = { code: null, signal: null, stdout: '', stderr: '', timedOut: false, failedToStart: null }
    let child: ChildProcess
    try {
      child = childProcess().spawn(program, args, { stdio, env: options.env ?? process.env, detached: options.group === true })
    } catch (error) {
      // No file descriptor is left for its pipes (EMFILE), or its arguments are too long (E2BIG).
      resolve({ ...outcome, failedToStart: (error as NodeJS.ErrnoException).code ?? String(error) })
      return
    }
    const guard = options.guarded && child.pid ? guardOf(child.pid) : undefined
    if (child.pid) options.started?.(child.pid)
    const timer = options.timeout === undefined ? undefined : setTimeout(giveUp, options.timeout)
    let done = false
    // ^C reaches only processes in the terminal's session.
    function interrupt(): void {
      if (child.pid) signalGroup(child.pid, 'SIGINT')
      process.exit(130)
    }
    const apart = options.group === true && options.relay !== undefined
    if (apart) process.once('SIGINT', interrupt)
    function finish(): void {
      if (done) return
      done = true
      clearTimeout(timer)
      guard?.kill('SIGKILL')
      if (apart) process.off('SIGINT', interrupt)
      resolve(outcome)
    }
    // A grandchild may hold the pipes open: at the time limit we stop listening too.
    function giveUp(): void {
      if (done) return
      outcome.timedOut = true
      kill(child, options.group === true)
      child.stdout?.destroy()
      child.stderr?.destroy()
      finish()
    }
    function take(stream: 'stdout' | 'stderr', text: string): void {
      options.heard?.(stream, text)
      if (options.relay?.includes(stream)) process[stream].write(harmless(text))
      else if (outcome[stream].length + text.length > (options.most ?? Number.POSITIVE_INFINITY)) giveUp()
      else outcome[stream] += text
    }
    child.stdout?.setEncoding('utf8').on('data', (text: string) => take('stdout', text))
    child.stderr?.setEncoding('utf8').on('data', (text: string) => take('stderr', text))
    options.abort?.addEventListener('abort', giveUp)
    child.on('error', (error: NodeJS.ErrnoException) => {
      outcome.failedToStart = error.code ?? error.message
      finish()
    })
    // What is left may hold the pipes open, which `close` waits for.
    if (options.leaveNothing) child.on('exit', () => child.pid && signalGroup(child.pid, 'SIGTERM'))
    child.on('close', (code, signal) => {
      outcome.code = code
      outcome.signal = signal
      finish()
    })
    child.stdin?.on('error', () => {}) // a program may end without reading its input
    child.stdin?.end(options.input)
  })
}

/**
 * Runs a program and waits for it, blocking everything else.
 * @returns what it printed; undefined when it failed or could not be started
 * @param timeout milliseconds
 */
export function outputOf(
  program: string,
  args: readonly string[],
  { env, timeout }: { env: Record<string, string | undefined>; timeout: number },
): string | undefined {
  try {
    return childProcess().execFileSync(program, args, { env, timeout, stdio: ['ignore', 'pipe', 'ignore'], encoding: 'utf8' })
  } catch {
    return undefined
  }
}

/**
 * A process that ends another one when we end, however we do: the kernel closes our end of its
 * stdin. (PR_SET_PDEATHSIG looks at the thread that started the child, prctl(2), which a runtime
 * may end at any time.)
 */
function guardOf(pid: number): ChildProcess | undefined {
  try {
    const guard = childProcess().spawn('sh', ['-c', 'read -r _; kill "$0"', String(pid)], { stdio: ['pipe', 'ignore', 'ignore'] })
    guard.on('error', () => {}) // without it, the program ends by itself, later
    guard.stdin?.on('error', () => {})
    return guard
  } catch {
    return undefined
  }
}

function kill(child: ChildProcess, group: boolean): void {
  if (group && child.pid) signalGroup(child.pid, 'SIGKILL')
  child.kill('SIGKILL')
}

function signalGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal)
  } catch {
    // the runtime made no group, or it has ended
  }
}
