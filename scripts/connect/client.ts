// Nix, as a session sees it: something that asks on one side and is answered on the other.
import { type ByteReader, EndOfStream } from '../protocol/byte-reader.ts'

/** The program at the other end of stdin and stdout: Nix. */
export interface Client {
  reader: ByteReader
  /**
   * Writes at once, if it may wait in place, and returns nothing; else a promise for when the bytes
   * are out. Their memory may be used again in either case. Throws, or rejects, when nobody reads
   * any more.
   */
  write(bytes: Buffer): Promise<void> | undefined
  /**
   * From now on it is read and written at the same time. Until then we are deaf to all else while
   * we wait for its next question.
   */
  bothWays(): void
  /** No more answers are to come. */
  end(): void
}

/** Nobody reads what we write: Nix is gone, and that is no one's fault. */
export class ClientGone extends Error {}

/** Whether an error only says that Nix has ended the conversation. */
export const nixHasLeft = (error: unknown): boolean => error instanceof ClientGone || error instanceof EndOfStream
