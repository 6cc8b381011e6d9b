// Reading a byte stream in pieces of known length, without ever holding more than one chunk of it.

/** The stream ended where more was expected. */
export class EndOfStream extends Error {}

/** What feeds a reader: told when there is room for the next chunk. */
export interface Source {
  resume(): void
}

/**
 * Holds at most one chunk. Whoever feeds it pauses after each push() and goes on at resume(). A chunk's memory may be used again
 * after that, so take() copies and peek() lends.
 */
export class ByteReader {
  private chunk: Buffer = Buffer.alloc(0)
  private over: Error | null = null
  private wake: (() => void) | null = null
  private readonly source: Source
  private readonly ahead: boolean

  /** @param ahead ask for the next chunk as soon as one is used up, so that the end of the stream is noticed while nobody reads */
  constructor(source: Source, ahead: boolean) {
    this.source = source
    this.ahead = ahead
  }

  push(chunk: Buffer): void {
    // A stream may deliver once more after pause().
    this.chunk = this.chunk.length === 0 ? chunk : Buffer.concat([this.chunk, chunk])
    this.wake?.()
  }

  /** No more is to come: waiting and later reads fail with `reason`; what has come can still be read. */
  finish(reason: Error): void {
    this.over ??= reason
    this.wake?.()
  }

  /** What has come and wasn't read yet, without waiting. */
  get pending(): number {
    return this.chunk.length
  }

  /** Lends the bytes at hand, at least one; they are good until consume() or the next read. Rejects at the end of the stream. */
  async peek(): Promise<Buffer> {
    while (this.chunk.length === 0) {
      if (this.over) throw this.over
      await new Promise<void>((resolve) => {
        this.wake = resolve
        this.source.resume()
      })
      this.wake = null
    }
    return this.chunk
  }

  /** Marks `length` bytes of what peek() lent as read. */
  consume(length: number): void {
    this.chunk = this.chunk.subarray(length)
    if (this.chunk.length === 0 && this.ahead && !this.over) this.source.resume()
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
