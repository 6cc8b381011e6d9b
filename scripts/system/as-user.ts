// Programs that setup and doctor, run by root, start as the user: with that user's rights, home and ssh agent, and nothing of root's environment.

import { type Outcome, type RunOptions, run } from './exec.ts'
import { systemPath } from './search-path.ts'
import { effectiveUid, type User } from './users.ts'

/** Someone to run programs as. `env`: what is added to the bare environment of a login, such as SSH_AUTH_SOCK. */
export interface Person extends User {
  env: Record<string, string>
}

/** The program and arguments that run a command as the person, and its environment: nothing when that is who we are. */
function command(person: Person, argv: readonly string[]): { argv: string[]; env: Record<string, string | undefined> } {
  if (effectiveUid() === person.uid) return { argv: [...argv], env: { ...process.env, ...person.env } }
  const bare = {
    HOME: person.home,
    USER: person.name,
    LOGNAME: person.name,
    PATH: systemPath(),
    XDG_RUNTIME_DIR: `/run/user/${person.uid}`,
    ...(process.env.TERM ? { TERM: process.env.TERM } : {}),
    ...(process.env.LANG ? { LANG: process.env.LANG } : {}),
    ...person.env,
  }
  return { argv: ['runuser', '-u', person.name, '--', ...argv], env: bare }
}

/** Characters. Whoever the person is, or logs in to, doesn't fill our memory. */
const MOST = 2 ** 24

/**
 * Runs a program as the person. Never throws: what happened is in the outcome. For root it has no hold on our terminal, neither as its own (it is in a
 * session of its own) nor as an open file: who has either can type there what root's shell will read, and read what root types (TIOCSTI; ioctl_tty(2)).
 */
export function runAs(person: Person, argv: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const { argv: all, env } = command(person, argv)
  const [program = '', ...args] = all
  const other = effectiveUid() !== person.uid
  const apart = other ? { group: true, most: MOST, relay: options.inherit ?? [], inherit: [] } : {}
  return run(program, args, { env, group: options.timeout !== undefined, ...options, ...apart })
}
