// Tells every session of connect that something has changed at the other end of a tunnel: touches
// the tunnel's socket, whose times a session looks at before it answers from memory.
import { lstatSync, lutimesSync } from 'node:fs'

/**
 * Touches a tunnel's socket. To be called when the box has just taken or deleted something, so that
 * sessions ask it anew (connect/infos.ts), and when the network has changed, so that they dial a
 * box again that they had found unresponsive (connect/outage.ts, whose note holds for the same
 * times). Whoever has just heard from the box makes nobody wait by that: it answers.
 * Touches only a socket of our own; somebody may put a link in its place at any time, but
 * lutimes(3) follows none. Never throws.
 */
export function touchSocket(socket: string, uid: number): void {
  try {
    const stat = lstatSync(socket)
    if (!stat.isSocket() || stat.uid !== uid) return
    const now = new Date()
    lutimesSync(socket, now, now)
  } catch {
    // gone by now, as connect sees too
  }
}
