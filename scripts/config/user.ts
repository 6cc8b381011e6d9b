// Whose the tunnels, the queue and the keys are.
import { UsageError } from '../cli/errors.ts'
import { effectiveUid } from '../system/users.ts'
import type { Config } from './types.ts'

/**
 * Refuses to work for anybody but the user of the configuration, root too.
 * @param what is the user's, with its verb: "the tunnels are"
 * @param command what that user is to run
 * @throws UsageError
 */
export function mustBeUser({ user, uid, file }: Config, what: string, command: string): void {
  if (effectiveUid() === uid) return
  throw new UsageError(`${what} ${user}'s (user in ${file}); run it as ${user}: sudo -u ${user} ${command}`)
}
