// Asking a nix-daemon whether it is there, as little as that takes; independent of what nix-lan
// itself does.
import { createConnection } from 'node:net'

// A whole greeting of Nix's worker protocol 1.21: magic, version, no CPU affinity, no reserved
// space (Nix 2.8, src/libstore/daemon.cc, processConnection). One that is broken off would leave an
// error in the daemon's log, where tests look for errors.
export const GREETING = Buffer.from(new BigUint64Array([0x6e697863n, 0x115n, 0n, 0n]).buffer)

/**
 * Whether somebody accepts there, and answers what it is told, if it is told something: tries once.
 * The answer to a greeting is whole with the daemon's magic, its version and "last": 24 bytes.
 */
export async function accepted(where: string | number, greeting: Buffer | undefined): Promise<boolean> {
  const socket = typeof where === 'number' ? createConnection(where, '127.0.0.1') : createConnection(where)
  const answer = await new Promise<boolean>((resolve) => {
    let got = 0
    socket.setTimeout(3000, () => resolve(false))
    socket.on('error', () => resolve(false)).on('close', () => resolve(false))
    if (greeting) socket.write(greeting)
    else socket.on('connect', () => resolve(true))
    socket.on('data', (bytes) => {
      got += bytes.length
      if (got >= 24) resolve(true)
    })
  })
  socket.destroy()
  return answer
}

/** Whether a nix-daemon answers at this unix socket, within 3 s. */
export function greets(socket: string): Promise<boolean> {
  return accepted(socket, GREETING)
}
