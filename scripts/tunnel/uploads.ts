// The way for uploads. A tunnel carries what Nix waits for, and on a slow link an upload through it
// would fill it for seconds: so uploads have an ssh connection of their own, which the keeper of
// the tunnel makes at the first need and holds as long as the tunnel.
import type { SshCache } from '../config/types.ts'
import { listens } from '../reach/listening.ts'
import { keeperFile, socketPath, uploadSocketPath } from '../system/paths.ts'
import { isStill, textOf } from './agent.ts'

/** Milliseconds for the login. */
const LOGIN_LIMIT = 20_000

/**
 * The socket that an upload to a box goes through: that of the connection for uploads, or the
 * tunnel's where uploads share that, or the other one could not be made.
 * @param uid whose tunnel; our own
 * @param limit milliseconds until it must be there
 */
export async function uploadSocket(cache: SshCache, uid: number, limit = LOGIN_LIMIT): Promise<string> {
  const own = uploadSocketPath(uid, cache.name)
  if (await listens(own)) return own
  const keeper = isStill(textOf(keeperFile(uid, cache.name)) ?? '', uid)
  if (keeper === undefined) return socketPath(uid, cache.name)
  process.kill(keeper, 'SIGUSR1')
  for (const end = Date.now() + limit; Date.now() < end; await new Promise((resolve) => setTimeout(resolve, 50)))
    if (await listens(own)) return own
  return socketPath(uid, cache.name)
}
