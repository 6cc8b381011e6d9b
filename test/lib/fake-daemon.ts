// A nix-daemon in this process that knows a few paths: for the contract of what asks one, where no
// Nix is needed.
import { createServer, type Server, type Socket } from 'node:net'
import { ByteReader } from '../../scripts/protocol/byte-reader.ts'
import { MAGIC_SERVER, Recorder, STDERR_LAST, string, strings, u64 } from '../../scripts/protocol/wire.ts'

const LAST = u64(STDERR_LAST)

/**
 * A server that speaks protocol 1.35 (Nix 2.15) and answers QueryPathInfo and QueryValidPaths, as
 * 2.15's src/libstore/daemon.cc does.
 * @param signatures those of a path; undefined: it isn't there
 */
export function fakeDaemon(signatures: (path: string) => string[] | undefined): Server {
  return createServer((socket) => {
    const reader = new ByteReader({ resume: () => socket.resume() })
    socket.on('error', () => {})
    socket.on('data', (bytes) => reader.push(bytes))
    serve(socket, new Recorder(reader), signatures).catch((error) => socket.destroy(error))
  })
}

async function serve(socket: Socket, client: Recorder, signatures: (path: string) => string[] | undefined): Promise<void> {
  socket.write(Buffer.concat([u64(MAGIC_SERVER), u64(0x0123)]))
  for (let words = 0; words < 4; words++) await client.u64()
  socket.write(Buffer.concat([string('2.15.0'), u64(2), LAST]))
  for (;;) {
    const operation = await client.u64()
    if (operation === 26) {
      const signed = signatures(await client.string())
      const info = [u64(1), string(''), string('0'.repeat(64)), strings([]), u64(0), u64(120), u64(0), strings(signed ?? []), string('')]
      socket.write(Buffer.concat([LAST, ...(signed ? info : [u64(0)])]))
    } else if (operation === 31) {
      const paths = await client.strings()
      await client.u64()
      socket.write(Buffer.concat([LAST, strings(paths.filter((path) => signatures(path)))]))
    } else throw new Error(`operation ${operation}`)
  }
}
