// This machine's processes, for tests that have to end or stop some.
import type { ChildProcess } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'

/** The pids of all processes. */
export function allProcesses(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
}

/** Sends a signal; a process that is gone is none of our business. */
export function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {
    // gone meanwhile
  }
}

/**
 * Waits until these have ended, with all of their threads. A signal only asks for that: what a
 * killed one listens at is its own until then. @throws Error after a minute
 */
export async function gone(pids: Iterable<number>): Promise<void> {
  const end = Date.now() + 60_000
  for (const pid of pids)
    for (; runs(pid); await pause(5)) if (Date.now() > end) throw new Error(`process ${pid} was killed, and still runs after a minute`)
}

function runs(pid: number): boolean {
  try {
    const ended = /^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'latin1'))
    return !ended || readdirSync(`/proc/${pid}/task`).length > 1
  } catch {
    return false
  }
}

/**
 * Signals a process and all that descend from it, and returns whom. nsenter itself waits outside
 * and would not hand a signal on.
 */
export function killTree(root: number | undefined, signal: NodeJS.Signals): Set<number> {
  if (root === undefined) return new Set()
  const tree = treeOf(root)
  // What is stopped starts nothing any more: else a child that is born between the look and the kill
  // would live on.
  if (signal === 'SIGKILL')
    for (let size = 0; size < tree.size; ) {
      size = tree.size
      for (const pid of tree) kill(pid, 'SIGSTOP')
      for (const pid of treeOf(root)) tree.add(pid)
    }
  tree.delete(root)
  for (const pid of tree) kill(pid, signal)
  if (tree.size > 0 && signal !== 'SIGKILL') return tree
  kill(root, signal)
  return tree.add(root)
}

/** A process and all that descend from it. */
function treeOf(root: number): Set<number> {
  const parents = new Map<number, number>()
  for (const pid of allProcesses()) {
    try {
      parents.set(pid, Number(/\) \S (\d+)/.exec(readFileSync(`/proc/${pid}/stat`, 'latin1'))?.[1]))
    } catch {
      // gone meanwhile
    }
  }
  const tree = new Set([root])
  for (let size = 0; size < tree.size; ) {
    size = tree.size
    for (const [pid, parent] of parents) if (tree.has(parent)) tree.add(pid)
  }
  return tree
}

/** How a program ended. */
export interface Result {
  code: number | null
  signal: string | null
  stdout: string
  stderr: string
  timedOut: boolean
  /** From start to end, in milliseconds. */
  ms: number
}

/** What a program is run with. */
export interface RunOptions {
  /** Added to the user's environment; undefined removes one. */
  env?: Record<string, string | undefined>
  /** Milliseconds (default 300 000) after which it, and what it started, is killed. */
  timeout?: number
  cwd?: string
  input?: string
}

/** Waits for a program that was started just now, with three pipes. Never throws. */
export function finished(child: ChildProcess, options: Pick<RunOptions, 'timeout' | 'input'>): Promise<Result> {
  const started = process.hrtime.bigint()
  const result: Result = { code: null, signal: null, stdout: '', stderr: '', timedOut: false, ms: 0 }
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    result.stdout += text
  })
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    result.stderr += text
  })
  child.stdin?.on('error', () => {})
  child.stdin?.end(options.input)
  return new Promise((resolve) => {
    const timer = setTimeout(() => {
      result.timedOut = true
      killTree(child.pid, 'SIGKILL')
    }, options.timeout ?? 300_000)
    child.on('error', (error) => {
      result.stderr += String(error)
    })
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      Object.assign(result, { code, signal, ms: Number(process.hrtime.bigint() - started) / 1e6 })
      resolve(result)
    })
  })
}

/** Waits so many milliseconds. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
