// Starts a broker by knocking at its socket, for the next time that Nix asks.
import { createConnection } from 'node:net'

/**
 * Has systemd start the service behind a socket: connects and closes at once. The connection is
 * made before this returns (connect(2) on a unix socket never waits for the other side to accept),
 * even if we then block. Never throws.
 */
export function wake(socket: string): void {
  createConnection({ path: socket })
    .on('error', () => {})
    .destroy()
}
