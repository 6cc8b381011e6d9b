// Finds the connection for uploads. A tunnel carries what Nix is waiting for, and on a slow link an
// upload would clog it for seconds. So uploads get their own ssh connection, which the tunnel's
// keeper opens when first needed and holds as long as the tunnel.
import type { SshCache } from '../config/types.ts'
import { accepts, listens } from '../reach/listening.ts'
import { keeperFile, socketPath, uploadSocketPath } from '../system/paths.ts'
import { isStill, textOf } from './agent.ts'
import { controlSocket } from './socket.ts'

/** Milliseconds for the keeper to log in. */
const LOGIN_LIMIT = 20_000

/**
 * The socket an upload to a box goes through: that of the upload connection, or the tunnel's if
 * uploads share it or the upload connection could not be opened.
 * @param uid whose tunnel it is: ours
 * @param limit milliseconds to wait for the socket
 */
export async function uploadSocket(cache: SshCache, uid: number, limit = LOGIN_LIMIT): Promise<string> {
  const own = uploadSocketPath(uid, cache.name)
  if (await alive(own)) return own
  const keeper = isStill(textOf(keeperFile(uid, cache.name)) ?? '', uid)
  if (keeper === undefined) return socketPath(uid, cache.name)
  process.kill(keeper, 'SIGUSR1')
  for (const end = Date.now() + limit; Date.now() < end; await new Promise((resolve) => setTimeout(resolve, 50)))
    if (await alive(own)) return own
  return socketPath(uid, cache.name)
}

/**
 * Whether the ssh behind the upload socket is alive. /proc/net/unix also lists sockets with the
 * same path on other file systems (containers that share our network namespace), so ask ssh itself:
 * on its control socket, where a probe opens no channel to the box.
 */
async function alive(own: string): Promise<boolean> {
  const control = controlSocket(own)
  return (await listens(own)) && (control === undefined || (await accepts(control)))
}
