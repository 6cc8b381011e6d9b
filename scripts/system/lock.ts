// Locks files so that only one process at a time does a job. Never leaves a stale lock: it is the
// kernel's, flock(2). JavaScript has no flock, and not every runtime can hand an open file to a
// child, so a child holds the lock: util-linux's flock(1) around a `cat`, which ends when our end
// of its stdin closes. The kernel closes that however we end.
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { readFileSync, statSync } from 'node:fs'
import { Failure } from '../cli/errors.ts'

/** The lock is ours until release() resolves or we end. */
export interface Lock {
  release(): Promise<void>
}

/** Somebody else has the lock: who and since when, as far as is known. */
export interface Busy {
  pid?: number
  /** Milliseconds since 1970. */
  since?: number
}

/**
 * $0 is our process id, $1 the time, $2 the file. Writes the first two to the file, disk space
 * permitting, before a line on stdout reports that the lock is ours.
 */
const HOLD = '{ echo "$0 $1" > "$2"; } 2>/dev/null; echo locked && exec cat'

/**
 * Takes the lock or says who has it, without waiting.
 * @param file created if missing, and never removed; holds the process id and start time of the
 *   current or last holder
 * @throws Failure if the file can't be created or locked, or flock can't be started
 */
export function takeLock(file: string): Promise<Lock | Busy> {
  return new Promise((resolve, reject) => {
    const args = ['-n', file, 'sh', '-c', HOLD, String(process.pid), String(Date.now()), file]
    let child: ChildProcessWithoutNullStreams
    try {
      child = spawn('flock', args, { stdio: ['pipe', 'pipe', 'pipe'] })
    } catch (error) {
      reject(notStarted(error as NodeJS.ErrnoException))
      return
    }
    let errors = ''
    child.on('error', (error) => reject(notStarted(error)))
    // Without file descriptors for them there are no streams, whatever the type says (Node,
    // child_process, EMFILE and ENFILE); the error comes in a moment.
    if (!child.stdin) return
    child.stdin.on('error', () => {}) // the child has already ended
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors += text
    })
    const ended = new Promise<void>((done) => child.once('close', () => done()))
    const release = (): Promise<void> => {
      child.stdin.end()
      return ended
    }
    child.stdout.once('data', () => resolve({ release }))
    child.once('close', (code) => {
      if (code === 1 && errors === '') resolve(readHolder(file))
      else reject(new Failure(`${file}: can't be locked (${errors.trim() || `flock ended with ${code}`})`))
    })
  })
}

const notStarted = ({ code, message }: NodeJS.ErrnoException): Failure =>
  new Failure(
    code === 'ENOENT'
      ? 'flock is not in PATH: install util-linux'
      : `flock can't be started (${code ?? message}): too many files are open or too many processes run, see ulimit -a`,
  )

/**
 * Whether somebody has the lock now, without trying to take it (proc_locks(5): `1: FLOCK ADVISORY
 * WRITE PID MAJOR:MINOR:INODE START END`).
 */
export function isLocked(file: string): boolean {
  try {
    const { ino } = statSync(file)
    const lines = readFileSync('/proc/locks', 'latin1').split('\n')
    return lines.some((line) => new RegExp(`^\\d+: FLOCK .* [0-9a-f]+:[0-9a-f]+:${ino} `).test(line))
  } catch {
    return false // no such file yet
  }
}

export const isBusy = (lock: Lock | Busy): lock is Busy => !('release' in lock)

function readHolder(file: string): Busy {
  try {
    const [, pid, since] = /^(\d+) (\d+)\n$/.exec(readFileSync(file, 'utf8')) ?? []
    return pid === undefined ? {} : { pid: Number(pid), since: Number(since) }
  } catch {
    return {}
  }
}
