// Reads a byte stream in pieces of known length. Never holds much more than one chunk of it.

/** The stream ended where more was expected. */
export class EndOfStream extends Error {}

/** What feeds a reader. After it was held back, resume() tells it that there is room again. */
export interface Source {
  resume(): void
}

/**
 * Bytes that may wait to be read before the source is held back. Pausing for each of many small
 * messages costs more than the messages.
 */
const ROOM = 65536

/**
 * The source stops when push() says so, and goes on at resume(). It may then reuse the memory of
 * the chunk that stopped it, so take() copies and peek() only lends.
 */
export class ByteReader {
  private chunk: Buffer = Buffer.alloc(0)
  private over: Error | null = null
  private wake: (() => void) | null = null
  private held = true
  private taker: ((chunk: Buffer) => number) | null = null
  private readonly source: Source

  /** @param source starts at its first resume(), or earlier */
  constructor(source: Source) {
    this.source = source
  }

  /** Whether the source has to stop until resume(). */
  get full(): boolean {
    return this.held
  }

  /**
   * Offers a chunk to a running stream().
   * @returns what wasn't taken, nearly always nothing: to be pushed or lent. If nothing, `full` says
   * whether the source has to stop
   */
  offer(chunk: Buffer): Buffer {
    if (!this.taker || this.chunk.length > 0) return chunk
    return chunk.subarray(this.taker(chunk))
  }

  /** Takes a chunk. Returns whether there is room for more; if not, resume() says when there is. */
  push(chunk: Buffer): boolean {
    this.chunk = this.chunk.length === 0 ? chunk : Buffer.concat([this.chunk, chunk])
    this.held = this.chunk.length >= ROOM
    this.wake?.()
    return !this.held
  }

  /** Takes a chunk whose memory the source will reuse, so it must stop until resume(). */
  lend(chunk: Buffer): void {
    this.push(chunk)
    this.held = true
  }

  /** Whether nothing more will come, or something has come that nobody has asked for. */
  get stale(): boolean {
    return this.over !== null || this.chunk.length > 0
  }

  /** Ends the stream: what has arrived can still be read; reads beyond that fail with `reason`. */
  finish(reason: Error): void {
    this.over ??= reason
    this.wake?.()
  }

  /**
   * Lends the bytes at hand, at least one; they are valid until consume() or the next read. Rejects
   * at the end of the stream.
   */
  async peek(): Promise<Buffer> {
    while (this.chunk.length === 0) {
      if (this.over) throw this.over
      await new Promise<void>((resolve) => {
        this.wake = resolve
        this.goOn()
      })
      this.wake = null
    }
    return this.chunk
  }

  /** Marks `length` bytes of what peek() lent as read. */
  consume(length: number): void {
    this.chunk = this.chunk.subarray(length)
  }

  /**
   * Has every chunk taken the moment it arrives, without holding the source back in between, which
   * costs more than copying.
   * @param take takes from the chunk it is lent, and returns how many bytes it took
   * @param done whether that was enough; asked after each chunk, whose memory then stays valid until
   * the next read
   * @throws what `take` throws, or the reason why the stream ended
   */
  async stream(take: (chunk: Buffer) => number, done: () => boolean): Promise<void> {
    do this.consume(take(await this.peek()))
    while (!done() && !(await this.takeOffers(take, done)))
  }

  /**
   * Takes what is offered. Resolves to true once that is enough, to false if something is pushed.
   */
  private takeOffers(take: (chunk: Buffer) => number, done: () => boolean): Promise<boolean> {
    return new Promise<boolean>((resolve, reject) => {
      const end = (settle: () => void): void => {
        this.taker = null
        this.wake = null
        settle()
      }
      this.taker = (chunk) => {
        try {
          const taken = take(chunk)
          if (done()) {
            this.held = true // the last chunk may still be in use
            end(() => resolve(true))
          }
          return taken
        } catch (error) {
          end(() => reject(error))
          return 0
        }
      }
      this.wake = () => {
        if (this.chunk.length > 0) end(() => resolve(false))
        else if (this.over) end(() => reject(this.over))
      }
      this.goOn()
    })
  }

  /** Lets the source go on before the next read: an idle one notices the end of its stream. */
  goOn(): void {
    if (!this.held) return
    this.held = false
    this.source.resume()
  }

  /** What is at hand, without waiting; possibly nothing. Lent, as by peek(). */
  atHand(): Buffer {
    return this.chunk
  }

  /** Exactly `length` bytes, as a copy. */
  async take(length: number): Promise<Buffer> {
    const result = Buffer.allocUnsafe(length)
    let filled = 0
    while (filled < length) {
      const part = (await this.peek()).subarray(0, length - filled)
      part.copy(result, filled)
      filled += part.length
      this.consume(part.length)
    }
    return result
  }
}
