// Who a user is: name, uid and home directory from the passwd database. Not os.userInfo(): Bun takes the name from $USER,
// which sudo and su may leave as somebody else's, and it can't be asked about another user.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

export interface User {
  name: string
  uid: number
  home: string
}

/** The effective user id. Where the runtime can't tell, 0: then only root's files are believed, which is the careful answer. */
export function effectiveUid(): number {
  return process.geteuid?.() ?? process.getuid?.() ?? 0
}

/** The user with this name or uid in the lines of passwd(5), if there is one. */
export function userIn(passwd: string, who: string | number): User | undefined {
  for (const line of passwd.split('\n')) {
    const [name, , uid, , , home] = line.split(':')
    if (!name || !uid || !/^\d+$/.test(uid) || !home?.startsWith('/')) continue
    if (typeof who === 'number' ? Number(uid) === who : name === who) return { name, uid: Number(uid), home }
  }
  return undefined
}

/**
 * Looks a user up: in /etc/passwd, which every nsswitch.conf asks first and which starts no program, else (LDAP, homed, …)
 * by `getent passwd`, for at most two seconds.
 */
export function findUser(who: string | number): User | undefined {
  return userIn(passwdFile(), who) ?? userIn(getent(who), who)
}

function passwdFile(): string {
  try {
    return readFileSync('/etc/passwd', 'utf8')
  } catch {
    return ''
  }
}

// PATH may be a daemon's, with next to nothing in it.
function getent(who: string | number): string {
  const PATH = `${process.env.PATH ?? ''}:/usr/bin:/bin:/run/current-system/sw/bin`
  try {
    // Late, since loading it costs every command 2 ms, and most users are in /etc/passwd.
    const { execFileSync } = createRequire('file:///')('node:child_process') as typeof import('node:child_process')
    const env = { ...process.env, PATH }
    return execFileSync('getent', ['passwd', String(who)], { env, timeout: 2000, stdio: ['ignore', 'pipe', 'ignore'], encoding: 'utf8' })
  } catch {
    return ''
  }
}
