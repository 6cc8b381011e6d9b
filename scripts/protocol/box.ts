// A connection to the box's nix-daemon: what it is, how to send on it, and why there is none.
// dial.ts makes it, and is loaded only when there is a socket.
import type { Socket } from 'node:net'
import type { ByteReader } from './byte-reader.ts'

export interface Box {
  /** The protocol that was agreed on, for example 0x0122 for 1.34. */
  version: number
  /** The box's version of Nix, when the handshake has ended; empty when it is too old to say. */
  nix: string
  socket: Socket
  reader: ByteReader
  /**
   * What the daemon has yet to say before it takes questions; null when it has said all. Rejects
   * with BoxUnavailable.
   */
  handshake: Promise<void> | null
}

/**
 * Sends a box the first bytes of an operation or more, and has its handshake behind it then. sshd
 * leaves Nagle's algorithm on for forwarded sockets (RFC 896), and so holds back each small piece
 * that follows another until that is acknowledged, which the other end puts off for 40 ms, unless
 * it has something to say itself. So the first byte goes ahead, and acknowledges the daemon's
 * hello.
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
 * Why there is no box behind a socket. `unresponsive`: it accepted and said nothing until the
 * deadline.
 */
export class BoxUnavailable extends Error {
  readonly kind: 'missing' | 'refused' | 'unresponsive' | 'broken' | 'old'
  constructor(kind: BoxUnavailable['kind'], message: string) {
    super(message)
    this.kind = kind
  }
}
