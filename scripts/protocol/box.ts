// A connection to the box's nix-daemon: what it is, how to send on it, and why there is none.
// dial.ts makes it, and is loaded only when there is a socket.
import type { Socket } from 'node:net'
import type { ByteReader } from './byte-reader.ts'

export interface Box {
  /** The protocol version agreed on, for example 0x0122 for 1.34. */
  version: number
  /** The box's version of Nix, once the handshake is done; empty if it is too old to say. */
  nix: string
  socket: Socket
  reader: ByteReader
  /**
   * What the daemon has yet to say before it takes questions; null once it has said everything.
   * Rejects with BoxUnavailable.
   */
  handshake: Promise<void> | null
}

/**
 * Sends an operation, or at least its first bytes; once it returns, the handshake is done. sshd
 * leaves Nagle's algorithm (RFC 896) on for forwarded sockets, so it holds back each small piece
 * until the one before it is acknowledged, and the other end delays its ACK by 40 ms unless it has
 * something to say itself. So the first byte goes ahead, and acknowledges the daemon's hello.
 * @throws BoxUnavailable when the handshake fails
 */
export async function send(box: Box, bytes: Buffer): Promise<void> {
  if (!box.handshake) {
    box.socket.write(bytes)
    return
  }
  box.socket.write(bytes.subarray(0, 1))
  await box.handshake
  box.socket.write(bytes.subarray(1))
}

/**
 * Why there is no box behind a socket. `unresponsive`: it accepted the connection and said nothing
 * until the deadline. `slow`: it says something, but gets nowhere.
 */
export class BoxUnavailable extends Error {
  readonly kind: 'missing' | 'refused' | 'unresponsive' | 'slow' | 'broken' | 'old'
  constructor(kind: BoxUnavailable['kind'], message: string) {
    super(message)
    this.kind = kind
  }
}
