// Nix, as a session sees it: it asks on one side and is answered on the other.
import { type ByteReader, EndOfStream } from '../protocol/byte-reader.ts'

/** The program at the other end of stdin and stdout: Nix. */
export interface Client {
  reader: ByteReader
  /**
   * Writes in place where that may block, and returns nothing; otherwise returns a promise that
   * resolves once the bytes are out. Either way their memory may then be reused.
   * @throws (or rejects) when nobody reads any more
   */
  write(bytes: Buffer): Promise<void> | undefined
  /**
   * From now on reads and writes happen at the same time. Until then, waiting for Nix's next
   * question blocks everything else.
   */
  bothWays(): void
  /** Whether Nix has closed the connection for good: nobody reads what we would write. */
  readonly gone?: boolean
  /** Calls back once it has, in the middle of whatever is being done; see `gone`. */
  whenGone?(callback: () => void): void
  /** No more answers will follow. */
  end(): void
}

/** Nobody reads what we write: Nix is gone, and nobody is to blame. */
export class ClientGone extends Error {}

/** Whether an error only means that Nix has ended the conversation. */
export const nixHasLeft = (error: unknown): boolean => error instanceof ClientGone || error instanceof EndOfStream
