// Runs programs as another user, for root: with that user's rights, home and ssh agent. Never
// passes on root's environment.

import { type Outcome, type RunOptions, run } from './exec.ts'
import { systemPath } from './search-path.ts'
import { effectiveUid, type User } from './users.ts'

/**
 * A user to run programs as. `env` is added to a bare login environment, for example SSH_AUTH_SOCK.
 */
export interface Person extends User {
  env: Record<string, string>
}

/**
 * The command line and environment to run a command as the person; both keep their own if we are
 * that person.
 */
function command(person: Person, argv: readonly string[]): { argv: string[]; env: Record<string, string | undefined> } {
  if (effectiveUid() === person.uid) return { argv: [...argv], env: { ...process.env, ...person.env } }
  const login = {
    HOME: person.home,
    USER: person.name,
    LOGNAME: person.name,
    PATH: systemPath(),
    XDG_RUNTIME_DIR: `/run/user/${person.uid}`,
    ...(process.env.TERM ? { TERM: process.env.TERM } : {}),
    ...(process.env.LANG ? { LANG: process.env.LANG } : {}),
    ...person.env,
  }
  return { argv: ['runuser', '-u', person.name, '--', ...argv], env: login }
}

/**
 * The most characters of output: neither the person nor a machine they log in to may fill our
 * memory.
 */
const MOST = 2 ** 24

/**
 * Runs a program as the person. Never throws: the outcome tells what happened. For root, the
 * program gets its own session and no open file on our terminal; otherwise it could inject input
 * into root's shell and read what root types (TIOCSTI; ioctl_tty(2)).
 */
export function runAs(person: Person, argv: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const { argv: all, env } = command(person, argv)
  const [program = '', ...args] = all
  const other = effectiveUid() !== person.uid
  const apart = other ? { group: true, most: MOST, relay: options.inherit ?? [], inherit: [] } : {}
  return run(program, args, { env, group: options.timeout !== undefined, ...options, ...apart })
}
