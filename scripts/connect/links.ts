// A session's extra connections, besides the one that answers Nix: on these, questions are
// pipelined, sent before earlier ones are answered.
import { type Box, BoxUnavailable, send } from '../protocol/box.ts'
import type { ByteReader } from '../protocol/byte-reader.ts'

/**
 * Maximum of extra connections, by default; with the session's own that makes six. Each is a
 * process on the box, and on a Pi that costs.
 */
const MOST = 5
/** Seconds after which a connection that nobody uses is closed: Nix may keep a session for days. */
const IDLE = 10

interface Waiting {
  read(reader: ByteReader, alive: () => void): Promise<unknown>
  resolve(value: unknown): void
  reject(reason: Error): void
}

/** One connection. Answers come in the order of the questions. */
export class Link {
  /** Why it has failed; undefined while it works. */
  failure: Error | undefined
  private readonly box: Box
  private readonly waiting: Waiting[] = []
  private readonly failed: (reason: Error) => void
  private unsent: Buffer[] = []
  private sending = false
  private listening = false
  private silent = 0
  private idle = 0

  /** @param failed called once, when the connection is lost; never after close() */
  constructor(box: Box, failed: (reason: Error) => void) {
    this.box = box
    this.failed = failed
  }

  /**
   * Whether it has been lost, perhaps while nobody listened. What comes before the end of the
   * handshake is the handshake's: a daemon's hello may come as one piece.
   */
  get stale(): boolean {
    if (this.failure) return true
    const { handshake, socket, reader } = this.box
    return this.waiting.length === 0 && (handshake ? socket.destroyed : reader.stale)
  }

  /** How many answers are outstanding. */
  get pending(): number {
    return this.waiting.length
  }

  /**
   * Asks one question.
   * @param read reads the answer, and nothing beyond it; called when its turn comes. It calls
   * `alive` for each part of a long answer.
   * @throws whatever `read` throws, which ends the connection, or whatever else ended it
   */
  ask<T>(question: Buffer, read: (reader: ByteReader, alive: () => void) => Promise<T>): Promise<T> {
    if (this.failure) return Promise.reject(this.failure)
    return new Promise<T>((resolve, reject) => {
      this.waiting.push({ read, resolve: resolve as (value: unknown) => void, reject })
      this.unsent.push(question)
      if (!this.sending) this.sendAll()
      if (!this.listening) this.listen()
    })
  }

  /**
   * To be called every second. Gives up a box that owes an answer and has been silent for `most`
   * calls. Returns whether the connection has been idle for long.
   */
  tick(most: number): boolean {
    this.idle = this.waiting.length > 0 ? 0 : this.idle + 1
    if (this.waiting.length > 0 && ++this.silent >= most)
      this.fail(new BoxUnavailable('unresponsive', `the box has said nothing for ${most} s`))
    return this.idle > IDLE
  }

  close(): void {
    this.end(new Error('closed'))
  }

  /** It is useless: elsewhere the box was found to be silent. */
  giveUp(reason: Error): void {
    this.fail(reason)
  }

  /** Sends everything asked in this turn of the event loop as one piece. */
  private async sendAll(): Promise<void> {
    this.sending = true
    try {
      await Promise.resolve()
      while (this.unsent.length > 0) {
        const bytes = Buffer.concat(this.unsent)
        this.unsent = []
        await send(this.box, bytes)
      }
      this.sending = false
    } catch (error) {
      this.fail(error as Error)
    }
  }

  private async listen(): Promise<void> {
    this.listening = true
    this.silent = 0
    const alive = (): void => {
      this.silent = 0
    }
    try {
      await this.box.handshake // until then, what comes isn't for us
      for (let next = this.waiting[0]; next; next = this.waiting[0]) {
        const value = await next.read(this.box.reader, alive)
        alive()
        this.waiting.shift()
        next.resolve(value)
      }
      this.listening = false
    } catch (error) {
      this.fail(error as Error)
    }
  }

  private fail(reason: Error): void {
    if (this.failure) return
    this.end(reason)
    this.failed(reason)
  }

  private end(reason: Error): void {
    if (this.failure) return
    this.failure = reason
    this.box.socket.destroy()
    this.box.reader.finish(reason)
    for (const { reject } of this.waiting.splice(0)) reject(reason)
  }
}

/** All of a session's extra connections. */
export class Links {
  private readonly dial: () => Promise<Box>
  private readonly lost: (reason: Error) => void
  private readonly most: () => number
  private readonly open = new Set<Link>()
  private opening = 0
  private closed = false

  /**
   * @param dial connects to the box
   * @param lost called for each connection that fails
   * @param most how many there may be at once
   */
  constructor(dial: () => Promise<Box>, lost: (reason: Error) => void, most = () => MOST) {
    this.dial = dial
    this.lost = lost
    this.most = most
  }

  /** How many there are. */
  get size(): number {
    return this.open.size + this.opening
  }

  /** Opens another connection; null when there are enough, or the box can't be reached. */
  async another(): Promise<Link | null> {
    if (this.closed || this.size >= this.most()) return null
    this.opening++
    try {
      const box = await this.dial()
      const link = new Link(box, (reason) => {
        this.open.delete(link)
        this.lost(reason)
      })
      this.open.add(link)
      if (this.closed) this.close()
      return link
    } catch (error) {
      this.lost(error as Error)
      return null
    } finally {
      this.opening--
    }
  }

  /** The one that owes the fewest answers, if there is one. */
  leastBusy(): Link | null {
    const [least] = [...this.open].filter(({ stale }) => !stale).sort((a, b) => a.pending - b.pending)
    return least ?? null
  }

  drop(link: Link): void {
    this.open.delete(link)
    link.close()
  }

  /** See Link.tick(). */
  tick(most: number): void {
    for (const link of this.open) if (link.tick(most)) this.drop(link)
  }

  /** Closes all of them, including those still being opened. */
  close(): void {
    this.closed = true
    for (const link of this.open) link.close()
    this.open.clear()
  }
}
