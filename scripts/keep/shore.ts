// A connection to a box's nix-daemon, through the tunnel.
import type { SshCache } from '../config/types.ts'
import { type Daemon, openDaemon } from '../protocol/daemon-ops.ts'
import { socketPath } from '../system/paths.ts'
import type { Remote } from './remote.ts'

/** A box: its nix-daemon, and its shell. */
export interface Shore {
  daemon: Daemon
  remote: Remote
}

/**
 * Connects to a box's nix-daemon.
 * @param uid whose tunnel
 * @param patience milliseconds between two answers
 * @throws NixError when it can't be reached
 */
export const openBox = (cache: SshCache, uid: number, patience: number): Promise<Daemon> =>
  openDaemon(socketPath(uid, cache.name), 'the box', { deadline: cache.deadline, patience })
