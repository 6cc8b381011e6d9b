// Starts a broker by knocking at its socket, for the next time that Nix asks.
import { createConnection } from 'node:net'

/** Milliseconds for which a broker's start doesn't compete with a session. */
const LATER = 1000

/**
 * Has systemd start the service behind a socket: when this process ends, or after a second. A
 * broker's start takes as much processor time as ours, and this session doesn't need it.
 */
export function wakeLater(socket: string): void {
  let awake = false
  const knock = (): void => {
    if (!awake) wake(socket)
    awake = true
  }
  setTimeout(knock, LATER).unref()
  process.on('exit', knock)
}

/**
 * Connects and closes at once. The connection is made before this returns (connect(2) on a unix
 * socket never waits for the other side to accept), so this also works while the process ends.
 * Never throws.
 */
function wake(socket: string): void {
  createConnection({ path: socket })
    .on('error', () => {})
    .destroy()
}
