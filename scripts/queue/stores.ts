// Gives draining (upload.ts) its two stores: this machine's, asked through Nix, and the box's,
// asked at the tunnel's socket. Nix copies to the box through nix-lan-connect --strict.
import { readFileSync } from 'node:fs'
import { storeUrl } from '../config/store-url.ts'
import type { SshCache } from '../config/types.ts'
import { errorText, invalidPaths, NixError, nix, referrersClosure } from '../nix/nix.ts'
import { closureOrAll } from '../nix/path-info.ts'
import { setting } from '../nix/settings.ts'
import { infosOnBox, validOnBox } from '../protocol/ask.ts'
import { type Daemon, openDaemon, Refused } from '../protocol/daemon-ops.ts'
import { FIRST_ANSWER, usable } from '../reach/reach.ts'
import { run } from '../system/exec.ts'
import { socketPath } from '../system/paths.ts'
import { searchEnv } from '../system/search-path.ts'
import { touchSocket } from '../system/touch.ts'
import { effectiveUid } from '../system/users.ts'
import { endWithUs, findAgent } from '../tunnel/agent.ts'
import { portOption, sshCommand } from '../tunnel/ssh.ts'
import { uploadSocket } from '../tunnel/uploads.ts'
import { type Disk, type Patience, Silence, type Stores } from './upload.ts'

/**
 * Milliseconds before a question to the box is given up: a link can go unresponsive, and Nix would
 * wait forever.
 */
const QUESTION = 120_000
/** Milliseconds for the box to report its disk, login included. */
const DISK = 20_000

const UNWATCHED: Watcher = { copying: () => {}, sent: () => {}, over: () => {} }

/**
 * The stores of a cache.
 * @param uid whose tunnel
 * @param watcher is told of copies as they go
 * @throws Failure when nix-lan-connect isn't there
 */
export function storesOf(cache: SshCache, uid: number, watcher: Watcher = UNWATCHED): Stores {
  const store = storeUrl(cache, uid, { strict: true })
  const socket = socketPath(uid, cache.name)
  const limits = { deadline: cache.deadline, patience: QUESTION }
  let keys: Promise<string[]> | undefined
  let halfDone = false // a copy failed: some of it may have arrived
  return {
    async away() {
      const answer = await usable(cache, uid, cache.deadline, FIRST_ANSWER)
      if (answer.ok && halfDone) {
        halfDone = false
        touchSocket(socket, uid)
      }
      return answer.ok ? undefined : answer.reason
    },
    invalid: (paths) => invalidPaths(paths),
    closure: (paths) => closureOrAll(paths),
    referrersClosure: (paths) => referrersClosure(paths),
    async missing(paths) {
      const there = await validOnBox(socket, paths, limits)
      return paths.filter((path) => !there.has(path))
    },
    onBox: (paths) => infosOnBox(socket, paths, limits),
    async mustTakeNix(path) {
      await invalidPaths([path], { store, timeout: QUESTION })
    },
    async deliver(paths) {
      const outcome = await nix(['store', 'copy-sigs', '--store', store, '--substituter', 'auto', ...paths], { timeout: QUESTION })
      return outcome.code === 0 ? undefined : errorText(outcome.stderr)
    },
    async copy(paths, derivations, patience) {
      const through = storeUrl(cache, uid, { strict: true, socket: await uploadSocket(cache, uid) })
      halfDone = true // whatever comes of it
      const problem = await copyTo(through, paths, derivations, patience, watcher)
      // Not if it failed: a box that has become unresponsive would be waited for anew after each
      // touch. away(), which is asked next, knows.
      if (problem === undefined) {
        halfDone = false
        touchSocket(socket, uid)
      }
      return problem
    },
    discard: (paths) => discard(socket, paths, limits),
    disk: () => askDisk(cache),
    trustedKeys() {
      keys ??= setting('trusted-public-keys').then((words) => words.map((word) => word.slice(0, word.indexOf(':'))))
      return keys
    },
  }
}

/** Follows a copy as it goes. */
export interface Watcher {
  /** Nix begins a path. */
  copying(path: string): void
  /** Nix has written this many bytes since the copy began. */
  sent(bytes: number): void
  /** The copy has ended. */
  over(): void
}

/** Milliseconds between looks at a copy. */
const LOOK = 1000

/**
 * Runs one `nix copy`, which ends when we do. `--derivation` takes a .drv itself in every version;
 * without it 2.4–2.14 take its outputs instead (src/libcmd/installables.cc, toDerivations), so
 * derivations never share a call with outputs. With -v it prints `copying path '…'` as it begins
 * each (2.8.0, 2.26.3, 2.34.8). No log format of 2.8.0 says how many bytes have gone, so the
 * kernel's count of what it wrote to nix-lan-connect has to do (proc_pid_io(5), wchar).
 * @returns undefined, or Nix's stderr when it failed
 * @throws Silence when it got nowhere for that long; it is killed then
 */
export async function copyTo(
  store: string,
  paths: string[],
  derivations: boolean,
  patience: Patience,
  watcher: Watcher = UNWATCHED,
): Promise<string | undefined> {
  const args = ['copy', '-v', '--log-format', 'raw', '--to', store, ...(derivations ? ['--derivation'] : []), ...paths]
  let pid = 0
  let path: string | undefined
  // Looks are counted, not the time: a suspended machine is no silence of the box.
  let [sum, quiet] = [0, 0]
  const silence = new AbortController()
  const look = setInterval(() => {
    const now = written(pid)
    quiet = now === sum ? quiet + LOOK : 0
    sum = now
    if (quiet >= patience(path)) silence.abort()
    else watcher.sent(now)
  }, LOOK)
  let line = ''
  const heard = (_: string, text: string): void => {
    const lines = `${line}${text}`.split('\n')
    line = (lines.pop() ?? '').slice(-500)
    for (const one of lines) {
      const [, begun] = /^copying path '([^']+)'/.exec(one) ?? []
      if (begun === undefined) continue
      path = begun
      quiet = 0
      watcher.copying(path)
    }
  }
  const started = (id: number): void => {
    pid = id
  }
  const outcome = await nix(args, { guarded: true, started, heard, abort: silence.signal })
  clearInterval(look)
  watcher.over()
  if (silence.signal.aborted) throw new Silence(path, quiet)
  if (outcome.failedToStart) throw new NixError(`nix can't be started (${outcome.failedToStart}): is it in PATH?`)
  return outcome.code === 0 ? undefined : outcome.stderr || `error: nix copy ended with ${outcome.signal ?? outcome.code}`
}

function written(pid: number): number {
  try {
    return Number(/^wchar: (\d+)$/m.exec(readFileSync(`/proc/${pid}/io`, 'latin1'))?.[1] ?? 0)
  } catch {
    return 0 // it has just ended
  }
}

/** Milliseconds to wait until nothing of a failed copy holds its path on the box any more. */
const HELD = 3000

/**
 * The daemon that took a path holds it by a temporary root until it sees that its client has gone;
 * so this is tried for a while.
 */
async function discard(socket: string, paths: readonly string[], limits: { deadline: number; patience: number }): Promise<void> {
  for (const path of paths)
    for (const until = Date.now() + HELD; ; await new Promise((resolve) => setTimeout(resolve, 200))) {
      let daemon: Daemon | undefined
      try {
        daemon = await openDaemon(socket, 'the box', limits)
        await daemon.delete([path])
        break
      } catch (error) {
        if (!(error instanceof NixError)) throw error
        if (!(error instanceof Refused) || Date.now() > until) return
      } finally {
        daemon?.close()
      }
    }
}

/** Asks for the disk of the box's store, over ssh; undefined: it doesn't say. */
export async function askDisk(cache: SshCache): Promise<Disk | undefined> {
  const [program = '', ...args] = sshCommand(cache.ssh, 'df -Pk /nix/store', portOption(cache.port))
  const agent = await findAgent(cache.envFile, process.env)
  endWithUs(agent, effectiveUid())
  const asked = await run(program, args, { env: { ...searchEnv(), ...agent.env }, timeout: DISK, most: 65_536 })
  return asked.code === 0 ? diskIn(asked.stdout) : undefined
}

/**
 * Parses the output of `df -Pk` (POSIX df): a heading, then device, 1024-blocks, used, available,
 * capacity and mount point. Pure.
 */
export function diskIn(output: string): Disk | undefined {
  const [, total, free] = /^\S.*?\s(\d+)\s+\d+\s+(\d+)\s+\d+%\s+\/\S*$/m.exec(output) ?? []
  return total === undefined ? undefined : { total: Number(total) * 1024, free: Number(free) * 1024 }
}
