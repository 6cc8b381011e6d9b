// Checks that the caller is the user who owns the tunnels, the queue and the keys.
import { UsageError } from '../cli/errors.ts'
import { effectiveUid } from '../system/users.ts'
import type { Config } from './types.ts'

/**
 * Refuses to work for anybody but the configured user, root included.
 * @param what the thing that belongs to that user, with its verb: "the tunnels are"
 * @param command what that user should run
 * @throws UsageError
 */
export function mustBeUser({ user, uid, file }: Config, what: string, command: string): void {
  if (effectiveUid() === uid) return
  throw new UsageError(`${what} ${user}'s (user in ${file}); run it as ${user}: sudo -u ${user} ${command}`)
}
