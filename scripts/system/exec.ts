// Starts programs, for everything else here; never through a shell. Loads node:child_process on
// first use: that takes 2 ms, and most commands on hot paths start nothing.
import type { ChildProcess, SpawnOptions } from 'node:child_process'
import { createRequire } from 'node:module'
import type { Socket } from 'node:net'
import { harmless } from '../cli/text.ts'

export interface RunOptions {
  /** The program's entire environment; default: ours. */
  env?: Record<string, string | undefined>
  /** Milliseconds until the program is killed (SIGKILL) and `timedOut` is set. */
  timeout?: number
  /** Aborting kills the program as the timeout does. */
  abort?: AbortSignal
  /** Gives the program its own process group, which is killed as a whole. */
  group?: boolean
  /** With `group`: terminates (SIGTERM) whatever the program leaves running in its group. */
  leaveNothing?: boolean
  /** What the program reads on stdin; default: /dev/null. */
  input?: string
  /** Streams that go where ours go instead of being collected: for progress on a terminal. */
  inherit?: ('stdout' | 'stderr')[]
  /**
   * Streams we copy to ours without control characters, so the program never holds our terminal.
   */
  relay?: ('stdout' | 'stderr')[]
  /** The most characters per stream; a program that writes more is killed, as by the timeout. */
  most?: number
  /**
   * Ends the program, or its group, when we end, even if by SIGKILL: SIGTERM, a second later
   * SIGKILL. Excludes `input`.
   */
  guarded?: boolean
  /** Called with the process id. */
  started?: (pid: number) => void
  /** Called with what the program prints, as it arrives. */
  heard?: (stream: 'stdout' | 'stderr', text: string) => void
}

export interface Outcome {
  /** Exit code; null if a signal ended it or it could not be started. */
  code: number | null
  signal: string | null
  stdout: string
  stderr: string
  timedOut: boolean
  /** Why it could not be started: ENOENT, EACCES, … */
  failedToStart: string | null
}

const childProcess = () => createRequire('file:///')('node:child_process') as typeof import('node:child_process')

/** Runs a program and waits for it to end. Never throws: the outcome tells what happened. */
export function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const inherit = options.inherit ?? []
  const stdio: SpawnOptions['stdio'] = [
    options.input === undefined && !options.guarded ? 'ignore' : 'pipe',
    inherit.includes('stdout') ? 'inherit' : 'pipe',
    inherit.includes('stderr') ? 'inherit' : 'pipe',
  ]
  return new Promise((resolve) => {
    const outcome: Outcome = { code: null, signal: null, stdout: '', stderr: '', timedOut: false, failedToStart: null }
    let child: ChildProcess
    try {
      const [file, words] = options.guarded ? ['sh', ['-c', HELD, 'sh', program, ...args]] : [program, args]
      child = childProcess().spawn(file, words, { stdio, env: options.env ?? process.env, detached: options.group === true })
    } catch (error) {
      // No file descriptors left for the pipes (EMFILE), or the arguments are too long (E2BIG).
      resolve({ ...outcome, failedToStart: (error as NodeJS.ErrnoException).code ?? String(error) })
      return
    }
    if (child.pid) options.started?.(child.pid)
    const guard = options.guarded && child.pid ? whenWeEnd(GUARD, options.group ? -child.pid : child.pid) : undefined
    // A runtime runs timers before it reads, and it may be us who are late (suspended, or swapped out):
    // one round for what the program has said by then, one for its end.
    const timer = options.timeout === undefined ? undefined : setTimeout(() => setImmediate(() => setImmediate(giveUp)), options.timeout)
    let done = false
    // ^C only reaches the terminal's session, and the program isn't in it.
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
    // A grandchild may hold the pipes open, so at the time limit we also stop listening.
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
    // Leftover processes may hold the pipes open, and `close` waits for those.
    if (options.leaveNothing) child.on('exit', () => child.pid && signalGroup(child.pid, 'SIGTERM'))
    child.on('close', (code, signal) => {
      outcome.code = code
      outcome.signal = signal
      if (options.guarded && code !== null) outcome.failedToStart = UNSTARTED[code] ?? null
      finish()
    })
    child.stdin?.on('error', () => {}) // the program may end without reading its input
    child.stdin?.end(options.guarded ? '\n' : options.input)
  })
}

/**
 * Runs a program synchronously.
 * @returns its stdout; undefined if it failed or could not be started
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
 * Becomes the program once it gets a line, which we write when the guard is there: were we killed
 * between the two, nothing would end the program.
 */
const HELD = 'read -r _ && exec "$@" </dev/null'

/** How sh ends when it can't become a program (POSIX, exec). */
const UNSTARTED: Record<number, string> = { 126: 'EACCES', 127: 'ENOENT' }

/**
 * Ends a process or, by its negative number, a group. SIGTERM is not enough for a `nix copy` whose
 * stderr has lost its reader: Nix 2.8.0 then waits for itself for ever, and its daemon on the box
 * keeps the path locked. (`kill -KILL --` is none of dash's.)
 */
const GUARD = 'kill -s TERM -- "$1" || exit; sleep 1; kill -s KILL -- "$1"'

/**
 * Has sh run a script when we end, however that happens: the kernel then closes our end of its
 * stdin. (PR_SET_PDEATHSIG is tied to the thread that started the child, prctl(2), and a runtime may
 * end that thread at any time.) What a terminal or systemd sends to all that we have started, sh
 * survives: it is in a session of its own where the runtime can make one, and ignores it.
 * @param words the script's $1, $2, …
 * @returns sh; undefined if it could not be started
 */
export function whenWeEnd(script: string, ...words: readonly (string | number)[]): ChildProcess | undefined {
  const all = ['-c', `trap '' HUP INT TERM; read -r _; { ${script}; } 2>/dev/null`, 'sh', ...words.map(String)]
  try {
    const guard = childProcess().spawn('sh', all, { stdio: ['pipe', 'ignore', 'ignore'], detached: true })
    guard.on('error', () => {}) // without it, what was to be ended just ends later, on its own
    guard.stdin?.on('error', () => {})
    guard.unref()
    ;(guard.stdin as Partial<Socket> | null)?.unref?.()
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
    // the runtime made no group, or the group is gone
  }
}
