// Looks up users and groups in the passwd and group databases. Doesn't use os.userInfo(): it knows
// no other user, and Bun takes the name from $USER, where sudo and su may leave somebody else's.
import { readFileSync } from 'node:fs'
import { outputOf } from './exec.ts'
import { searchEnv } from './search-path.ts'

export interface User {
  name: string
  uid: number
  home: string
}

/** The effective user id; 0 if the runtime can't tell, so that only root's files are trusted. */
export function effectiveUid(): number {
  return process.geteuid?.() ?? process.getuid?.() ?? 0
}

/** Whether a field is a uid_t or gid_t: 32 bits. */
const isId = (field: string | undefined): field is string => /^\d{1,10}$/.test(field ?? '') && Number(field) < 2 ** 32

/** The user with this name or uid in passwd(5) lines, if there is one. */
export function userIn(passwd: string, who: string | number): User | undefined {
  for (const line of passwd.split('\n')) {
    const [name, , uid, , , home] = line.split(':')
    if (!name || !isId(uid) || !home?.startsWith('/')) continue
    if (typeof who === 'number' ? Number(uid) === who : name === who) return { name, uid: Number(uid), home }
  }
  return undefined
}

/**
 * Looks a user up in /etc/passwd, which every nsswitch.conf asks first and which needs no program;
 * otherwise (LDAP, homed, …) with `getent passwd`, for at most two seconds.
 */
export function findUser(who: string | number): User | undefined {
  return userIn(textOf('/etc/passwd'), who) ?? userIn(getent('passwd', who), who)
}

/** A user's name for a sentence, or `uid 1234` if there is none. */
export const nameOf = (uid: number): string => findUser(uid)?.name ?? `uid ${uid}`

/**
 * Whether a path is a person's home directory or inside one. The homes of root and system users,
 * such as /usr/sbin, don't count.
 */
export function isInHome(path: string): boolean {
  const homes = passwdFields().flatMap(([, , uid, , , home = '']) => (Number(uid) >= 1000 && Number(uid) < 65534 ? [home] : []))
  return path.startsWith('/home/') || homes.some((home) => /^\/./.test(home) && (path === home || path.startsWith(`${home}/`)))
}

/** A group, from a group(5) line. */
export interface Group {
  name: string
  gid: number
  /** Users who have it as a supplementary group. */
  members: string[]
}

/** The groups in group(5) lines. */
export function groupsIn(text: string): Group[] {
  return text.split('\n').flatMap((line) => {
    const [name, , gid, members = ''] = line.split(':')
    return name && isId(gid) ? [{ name, gid: Number(gid), members: members.split(',').filter(Boolean) }] : []
  })
}

/** The groups in /etc/group. */
export const localGroups = (): Group[] => groupsIn(textOf('/etc/group'))

/** Looks a group up the way findUser() looks up a user. */
export const findGroup = (gid: number): Group | undefined =>
  localGroups().find((group) => group.gid === gid) ?? groupsIn(getent('group', gid)).find((group) => group.gid === gid)

/**
 * A group with all its members except root, including those whose primary group it is (from
 * /etc/passwd only: a directory service doesn't list them); undefined for an unknown group.
 */
export function membersOf(gid: number): Group | undefined {
  const group = findGroup(gid)
  if (!group) return undefined
  const users = passwdFields()
  const root = users.filter(([, , uid]) => uid === '0').map(([name]) => name)
  const primary = users.filter((fields) => fields[3] === String(gid)).map(([name = '']) => name)
  return { ...group, members: [...new Set([...group.members, ...primary])].filter((name) => !root.includes(name)) }
}

const passwdFields = (): string[][] =>
  textOf('/etc/passwd')
    .split('\n')
    .map((line) => line.split(':'))

function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}

// We may have a daemon's PATH, with next to nothing in it.
const getent = (database: 'passwd' | 'group', who: string | number): string =>
  outputOf('getent', [database, String(who)], { env: searchEnv(), timeout: 2000 }) ?? ''
