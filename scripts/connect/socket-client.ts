// Nix, at the other end of a unix socket, with a relay in between: a session of the broker's.
import type { Socket } from 'node:net'
import { ByteReader, EndOfStream } from '../protocol/byte-reader.ts'
import { type Client, ClientGone } from './client.ts'

/** @param socket a connection that was accepted, with allowHalfOpen */
export function socketClient(socket: Socket): Client {
  const reader = new ByteReader({ resume: () => socket.resume() })
  const over = (): void => reader.finish(new EndOfStream('Nix closed the connection'))
  let lost: Error | undefined
  socket.on('data', (chunk: Buffer) => {
    if (!reader.push(chunk)) socket.pause()
  })
  socket.on('end', over)
  socket.on('error', (error) => {
    lost = error
  })
  socket.on('close', over)

  /** Bytes that the kernel takes at once, which is nearly always, cost no promise. */
  function write(bytes: Buffer): Promise<void> | undefined {
    if (socket.destroyed) throw new ClientGone(lost?.message ?? 'Nix has closed the connection')
    let written: (error?: Error | null) => void = () => {}
    socket.write(bytes, (error) => written(error))
    if (socket.writableLength === 0) return undefined
    return new Promise((resolve, reject) => {
      written = (error) => (error ? reject(new ClientGone(error.message)) : resolve())
    })
  }

  return {
    reader,
    write,
    bothWays: () => {},
    get gone() {
      return socket.destroyed
    },
    whenGone: (callback) => void socket.once('close', callback),
    end: () => void socket.end(),
  }
}
