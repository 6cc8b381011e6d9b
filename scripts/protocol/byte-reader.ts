// Reading a byte stream in pieces of known length, without ever holding much more than one chunk of
// it.

/** The stream ended where more was expected. */
export class EndOfStream extends Error {}

/** What feeds a reader: told, when it was held back, that there is room again. */
export interface Source {
  resume(): void
}

/**
 * So many bytes may wait to be read before the source is held back. Pausing for each of many small
 * messages costs more than the messages.
 */
const ROOM = 65536

/**
 * Whoever feeds it stops when push() says so, and goes on at resume(). The memory of the chunk that
 * stopped it may be used again after that, so take() copies and peek() lends.
 */
export class ByteReader {
  private chunk: Buffer = Buffer.alloc(0)
  private over: Error | null = null
  private wake: (() => void) | null = null
  private held = true
  private taker: ((chunk: Buffer) => number) | null = null
  private readonly source: Source

  /** @param source begins, too, at its first resume(), or earlier */
  constructor(source: Source) {
    this.source = source
  }

  /**
   * Offers a chunk to whoever streams: see stream().
   * @returns what wasn't taken, nearly always nothing: to be pushed or lent
   */
  offer(chunk: Buffer): Buffer {
    if (!this.taker || this.chunk.length > 0) return chunk
    return chunk.subarray(this.taker(chunk))
  }

  /** Takes a chunk. Returns whether there is room for more; if not, resume() will say when. */
  push(chunk: Buffer): boolean {
    this.chunk = this.chunk.length === 0 ? chunk : Buffer.concat([this.chunk, chunk])
    this.held = this.chunk.length >= ROOM
    this.wake?.()
    return !this.held
  }

  /** Takes a chunk whose memory the source will use again, so that it must stop until resume(). */
  lend(chunk: Buffer): void {
    this.push(chunk)
    this.held = true
  }

  /**
   * No more is to come: waiting and later reads fail with `reason`; what has come can still be
   * read.
   */
  finish(reason: Error): void {
    this.over ??= reason
    this.wake?.()
  }

  /**
   * Lends the bytes at hand, at least one; they are good until consume() or the next read. Rejects
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
   * Has every chunk taken in the moment it comes, without holding the source back in between, which
   * costs more than to copy it.
   * @param take takes from a chunk that is lent, and returns how many bytes it has taken
   * @param done whether that was enough; asked after each
   * @throws what `take` throws, and the reason for the end of the stream
   */
  async stream(take: (chunk: Buffer) => number, done: () => boolean): Promise<void> {
    do this.consume(take(await this.peek()))
    while (!done() && !(await this.takeOffers(take, done)))
  }

  /**
   * Takes what is offered. Resolves to whether that was enough; if not, something has been pushed.
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
          if (done()) end(() => resolve(true))
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

  private goOn(): void {
    if (!this.held) return
    this.held = false
    this.source.resume()
  }

  /** What is at hand, without waiting; it may be nothing. Lent like peek()'s. */
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
