// Describes the user whose ssh and systemd setup uses, as seen from root.
import { type Person, runAs } from '../system/as-user.ts'
import { systemctl } from '../system/systemd.ts'
import { effectiveUid, type User } from '../system/users.ts'
import { endWithUs, findAgent } from '../tunnel/agent.ts'

/**
 * The user, with the ssh agent the tunnel will find: the one known to the user's systemd or, if
 * there is none or it holds no key, the one named in `env-file`, a file that the user sources,
 * never root.
 */
export async function personOf(user: User, envFile: string): Promise<Person> {
  const login = { ...user, env: {} }
  const root = effectiveUid() !== user.uid
  const shown = await systemctl(['show-environment'], root ? { owner: user } : {})
  const socket = /^SSH_AUTH_SOCK=([^$'"\s]+)$/m.exec(shown.stdout)?.[1] ?? (root ? undefined : process.env.SSH_AUTH_SOCK)
  const given: Record<string, string> = socket ? { SSH_AUTH_SOCK: socket } : {}
  const agent = await findAgent(envFile, given, 5000, root ? (argv, options) => runAs(login, argv, options) : undefined)
  endWithUs(agent, user.uid)
  return { ...login, env: { ...given, ...agent.env } }
}
