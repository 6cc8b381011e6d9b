// Connects to the tunnel's socket for a strict session: the handshake waits in the middle for what
// the client says of itself.
import type { Box } from './box.ts'
import { Guard, hear, hello, openSocket, welcome } from './dial.ts'
import { MAGIC_CLIENT, Recorder, u64, VERSION_WITH_FEATURES } from './wire.ts'

/** A box that has said its version, and waits for its client's. */
export interface Acquaintance {
  /** The protocol version that the box speaks. */
  version: number
  /**
   * Says hello for a client, and reads the box's welcome.
   * @param version the protocol version that the client speaks
   * @param features the client's, if both speak 1.38 or later
   * @throws BoxUnavailable, always by the deadline
   */
  introduce(version: number, features: readonly string[]): Promise<Introduced>
}

export interface Introduced {
  box: Box
  /** The box's features; empty before 1.38. */
  features: string[]
  /** The rest of the welcome, as the box sent it: its version, its trust, its messages. */
  welcome: Buffer
}

/**
 * Connects to a nix-daemon's socket in the name of a client that hasn't said its version yet. Costs
 * a round trip more than dialBox().
 * @param path the tunnel's socket
 * @param deadline milliseconds for the box's version, and for its welcome
 * @param way another path to the same socket, to connect to
 * @throws BoxUnavailable, always by the deadline
 */
export async function dialForClient(path: string, deadline: number, way = path): Promise<Acquaintance> {
  const { socket, reader } = openSocket(path, way)
  const guard = new Guard(path, socket, reader)
  guard.start(deadline)
  socket.write(u64(MAGIC_CLIENT))
  const spoken = await guard.watch(hear(new Recorder(reader), path))
  guard.stop()
  return {
    version: spoken,
    introduce: async (version, features) => {
      guard.start(deadline)
      const box: Box = { version: Math.min(spoken, version), nix: '', socket, reader, handshake: null }
      const listed = box.version >= VERSION_WITH_FEATURES
      socket.write(hello(version, listed ? features : undefined))
      const theirs = listed ? await guard.watch(new Recorder(reader).strings()) : []
      const greeting = new Recorder(reader)
      await guard.watch(welcome(box, greeting))
      guard.stop()
      return { box, features: theirs, welcome: Buffer.from(greeting.bytes) }
    },
  }
}
