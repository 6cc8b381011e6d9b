// The broker of a box: one process that answers all of Nix's sessions, so that what is known of the
// box outlives each. Nix 2.24 to 2.33 start a session for each NAR (NixOS/nix#6950), and any nix
// command starts one: here that costs neither a start of JavaScript nor a handshake with the box.
//
// systemd holds the listening socket (nix-lan-broker@CACHE.socket) and starts us at the first
// connection; what connects while there is none of us waits in the kernel. A session lives in one
// connection, and nothing of it in another's: when we are killed, those that we held are lost.
import { spawn } from 'node:child_process'
import { createConnection, createServer, type Server, type Socket } from 'node:net'
import { Failure, UsageError } from '../cli/errors.ts'
import { type Box, BoxUnavailable } from '../protocol/box.ts'
import type { ByteReader } from '../protocol/byte-reader.ts'
import { MAGIC_CLIENT, OUR_VERSION, u64 } from '../protocol/wire.ts'
import { brokerSocket, connectFile, socketPath } from '../system/paths.ts'
import { searchEnv } from '../system/search-path.ts'
import { nixHasLeft } from './client.ts'
import { Link } from './links.ts'
import { Memory } from './memory.ts'
import { NarUndelivered, SILENCE, serve } from './session.ts'
import { brokersCache, readSettings } from './settings.ts'
import { socketClient } from './socket-client.ts'
import { redialling, report, type Target, type Upstream } from './upstream.ts'

/** The first file descriptor that systemd passes (sd_listen_fds(3)). */
const FIRST_FD = 3
/** Connections to the box at once, of all sessions. Each is a process there. */
const MOST = 6
/** Milliseconds for which a connection that nobody uses is kept. */
const IDLE = 10_000
/** Milliseconds without a byte on any connection after which one more is made for who waits. */
const STALLED = 5000
/** Milliseconds without a session after which the broker ends. */
const UNUSED = 600_000
/** Milliseconds that sessions have left after SIGTERM. */
const LAST_SESSIONS = 8000
/** Milliseconds in which we have to greet ourselves. */
const GREETED = 5000
/** Bytes of Nix's hello. Who says no more, asks nothing: the watchdog, or nix-lan-connect that wakes us. */
const HELLO = 32

/** What all sessions have in common: the connections to the box, and what is known of it. */
export class Shared {
  readonly memory: Memory
  private readonly base: Upstream
  private readonly clock: NodeJS.Timeout
  /** For questions: pipelined, since their answers are short. */
  private front: Link | null = null
  private opening: Promise<Link | null> | null = null
  /** For NARs that aren't read ahead: each is one session's until it is delivered. */
  private readonly streams = new Set<Socket>()
  private dialling = 0
  private idle: { box: Box; since: number }[] = []
  private waiting: (() => void)[] = []
  private moved = { bytes: 0, at: 0 }

  /** @param base reaches the box, see redialling() */
  constructor(base: Upstream) {
    this.base = base
    const further = base.further && { ...base.further, most: () => MOST - 1 - Math.max(1, this.streaming) }
    this.memory = new Memory({ report, ...(further && { further }) }, SILENCE, (reason) => this.front?.giveUp(reason))
    this.clock = setInterval(() => this.tick(), 1000)
  }

  /** How many connections to the box there are, as far as they aren't a pipe's. */
  get connections(): number {
    return (this.front ? 1 : 0) + this.memory.connections + this.streaming
  }

  private get streaming(): number {
    return this.streams.size + this.dialling
  }

  /** What one session needs. */
  upstream(): Upstream {
    const { redial } = this.base
    let told = false
    return {
      ...this.base,
      report: (text) => {
        if (!told) report(text)
        told = true
      },
      dial: () => this.stream(),
      dialApart: () => this.base.dial(),
      ...(redial && {
        redial: (since?: number, further?: boolean) => {
          const waiting = redial(since, further)
          return { ...waiting, next: () => waiting.next().then((box) => box && this.track(box)) }
        },
      }),
      ask: (question, read) => this.ask(question, read),
      release: (box) => this.release(box),
    }
  }

  close(): void {
    clearInterval(this.clock)
    this.front?.close()
    this.memory.close()
    for (const socket of this.streams) socket.destroy()
  }

  private tick(): void {
    if (this.front?.tick(SILENCE)) this.dropFront()
    const now = performance.now()
    for (const { box, since } of this.idle.splice(0)) {
      if (now - since < IDLE && !box.reader.stale) this.idle.push({ box, since })
      else box.socket.destroy()
    }
    let bytes = 0
    for (const socket of this.streams) bytes += socket.bytesRead
    if (bytes !== this.moved.bytes || this.waiting.length === 0) this.moved = { bytes, at: now }
    else if (now - this.moved.at > STALLED) {
      this.moved.at = now
      this.waiting.shift()?.()
    }
  }

  // --- questions ---

  private async ask<T>(question: Buffer, read: (reader: ByteReader) => Promise<T>): Promise<T | null> {
    const used = this.front
    const link = this.base.givenUp?.() ? null : await this.linked()
    if (!link) {
      this.memory.boxLost()
      return null
    }
    try {
      return await link.ask(question, (reader) => read(reader))
    } catch (error) {
      // the box may have closed it just before we asked: a tunnel that was started anew
      if (link !== used || (error instanceof BoxUnavailable && error.kind === 'unresponsive')) throw error
      this.memory.boxLost()
      const another = await this.linked()
      return another && (await another.ask(question, (reader) => read(reader)))
    }
  }

  private async linked(): Promise<Link | null> {
    if (this.front?.stale) this.dropFront()
    if (this.front) return this.front
    this.opening ??= this.open().finally(() => {
      this.opening = null
    })
    return await this.opening
  }

  private async open(): Promise<Link | null> {
    const box = await this.base.dial()
    if (!box) return null
    this.front = new Link(box, () => this.memory.boxLost())
    return this.front
  }

  private dropFront(): void {
    this.front?.close()
    this.front = null
  }

  // --- NARs ---

  private async stream(): Promise<Box | null> {
    for (;;) {
      const box = this.idle.pop()?.box
      if (box && !box.reader.stale) return box
      box?.socket.destroy()
      if (box) continue
      if (this.streaming < Math.max(1, MOST - 1 - this.memory.connections)) break
      let stalled = true
      await new Promise<void>((resolve) =>
        this.waiting.push(() => {
          stalled = this.idle.length === 0
          resolve()
        }),
      )
      if (stalled) break
    }
    this.dialling++
    const box = await this.base.dial().finally(() => this.dialling--)
    if (!box) this.waiting.shift()?.()
    return box && this.track(box)
  }

  private track(box: Box): Box {
    this.streams.add(box.socket)
    box.socket.once('close', () => {
      this.streams.delete(box.socket)
      this.waiting.shift()?.()
    })
    return box
  }

  private release(box: Box): null {
    if (box.reader.stale) box.socket.destroy()
    else {
      this.idle.push({ box, since: performance.now() })
      box.reader.goOn() // to notice when the box closes it
    }
    this.waiting.shift()?.()
    return null
  }
}

/** Times are milliseconds. */
export interface Serving {
  /** How long to go on without a session. */
  unused?: number
  /** How long sessions may still last once the broker has been told to end. */
  lastSessions?: number
}

/** Serves sessions; see runBroker(). */
export class Broker {
  private readonly server: Server
  private readonly shared: Shared
  private readonly sockets = new Set<Socket>()
  private lastUse = performance.now()
  /** Resolves when it has ended. */
  readonly ended: Promise<void>
  private finish: () => void = () => {}
  private readonly lastSessions: number
  private readonly clock: NodeJS.Timeout

  constructor(target: Target, { unused = UNUSED, lastSessions = LAST_SESSIONS }: Serving = {}) {
    this.shared = new Shared(redialling(target, process.env.STATE_DIRECTORY))
    this.lastSessions = lastSessions
    this.server = createServer({ allowHalfOpen: true }, (socket) => void this.session(socket))
    this.server.on('error', (error) => report(error.message))
    this.ended = new Promise((resolve) => {
      this.finish = resolve
    })
    this.clock = setInterval(
      () => {
        if (this.inUse()) this.lastUse = performance.now()
        else if (performance.now() - this.lastUse > unused) this.stop()
      },
      Math.min(1000, unused),
    )
  }

  /**
   * @param where a socket that somebody has made, or the path of one to make
   * @throws what listen() fails with
   */
  listen(where: { fd: number } | { path: string }): Promise<void> {
    return new Promise((resolve, reject) => {
      this.server.once('error', reject)
      this.server.listen(where, () => resolve())
    })
  }

  /** Takes no more sessions, and ends with the last, or after a while. */
  stop(): void {
    clearInterval(this.clock)
    const end = (): void => {
      for (const socket of this.sockets) socket.destroy()
      this.shared.close()
      this.finish()
    }
    this.server.close(end)
    for (const socket of this.sockets) if (socket.bytesRead <= HELLO) socket.destroy()
    setTimeout(end, this.lastSessions).unref()
  }

  private inUse(): boolean {
    for (const { bytesRead } of this.sockets) if (bytesRead > HELLO) return true
    return false
  }

  private async session(socket: Socket): Promise<void> {
    this.sockets.add(socket)
    socket.once('close', () => {
      this.sockets.delete(socket)
      if (socket.bytesRead > HELLO) this.lastUse = performance.now()
    })
    try {
      await serve(socketClient(socket), this.shared.upstream(), this.shared.memory)
      socket.end()
    } catch (error) {
      // the upstream has reported a NAR, once per outage
      if (!nixHasLeft(error) && !(error instanceof NarUndelivered)) report((error as Error).message)
      socket.destroy()
    }
  }
}

/**
 * Runs the broker of a cache until it hasn't been used for ten minutes, or systemd stops it.
 * @returns the exit code
 * @throws UsageError when it wasn't started by systemd, or as root; Failure
 */
export async function runBroker(cache: string): Promise<number> {
  if (process.env.LISTEN_FDS !== '1' || process.env.LISTEN_PID !== String(process.pid))
    throw new UsageError('--broker is for systemd, which passes it a socket: nix-lan-broker@.socket')
  if (brokersCache(brokerSocket(cache)) !== cache) throw new UsageError(`"${cache}" is not the name of a cache`)
  const uid = process.getuid?.() ?? 0
  if (uid === 0) throw new UsageError('the broker runs as the user whose tunnel it uses, not as root: nix-lan setup says so to systemd')
  const { deadline, patience } = readSettings(connectFile(cache))
  const broker = new Broker({ socket: socketPath(uid, cache), deadline, patience })
  await broker.listen({ fd: FIRST_FD }).catch((error: Error) => {
    throw new Failure(`no socket is passed: ${error.message}`)
  })
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => broker.stop())
  notify('READY=1')
  feedWatchdog(brokerSocket(cache))
  await broker.ended
  return 0
}

/** Tells systemd something; see sd_notify(3). */
function notify(state: string): void {
  if (!process.env.NOTIFY_SOCKET) return
  spawn('systemd-notify', [state], { stdio: 'ignore', env: searchEnv() }).on('error', (error) => report(`systemd-notify: ${error.message}`))
}

/**
 * Tells systemd that we still answer, whenever we do: so that it ends a broker that is stopped, or
 * busy, or accepts and says nothing.
 */
function feedWatchdog(socket: string): void {
  const allowed = Number(process.env.WATCHDOG_USEC) / 1000
  if (!(allowed > 0)) return
  setInterval(() => {
    greetOurselves(socket, Math.min(GREETED, allowed / 4)).then(
      () => notify('WATCHDOG=1'),
      (error: Error) => report(`no answer from ourselves: ${error.message}`),
    )
  }, allowed / 3)
}

/** @throws Error when nobody answers the hello within so many milliseconds */
function greetOurselves(path: string, limit: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = createConnection({ path }, () => socket.write(Buffer.concat([u64(MAGIC_CLIENT), u64(OUR_VERSION), u64(0), u64(0)])))
    const timer = setTimeout(() => socket.destroy(new Error('late')), limit)
    socket.on('data', () => {
      resolve()
      socket.destroy()
    })
    socket.on('error', reject)
    socket.on('close', () => {
      clearTimeout(timer)
      reject(new Error('closed'))
    })
  })
}
