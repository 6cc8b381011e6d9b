// Judges who can write to a path: what root runs or trusts must be writable by root alone. Never
// changes anything. Starts a program (getfacl) only if a group may write, because post-build-hook
// and the dispatcher check their configuration at each start.
import { lstatSync, readlinkSync } from 'node:fs'
import { dirname } from 'node:path'
import { shellWord } from '../cli/text.ts'
import { outputOf } from './exec.ts'
import { SYSTEM_DIRECTORIES } from './search-path.ts'
import { isInHome, membersOf, nameOf } from './users.ts'

/** Why somebody other than root can write to or replace a path. */
export interface Doubt {
  why: string
  /** The command that fixes it; null where that would be wrong, such as in a home directory. */
  fix: string | null
}

/** Identifies a file; from fstat or lstat with `bigint`. */
export interface Inode {
  dev: bigint
  ino: bigint
}

interface Stat extends Inode {
  uid: bigint
  gid: bigint
  mode: bigint
}

/** Linux follows no more symlinks than this on the way to a file (path_resolution(7)). */
const MAX_LINKS = 40

/**
 * Why somebody other than root can write to or replace what is, or will be, at `path`; undefined if
 * nobody can. The path and every directory on the way, through every symlink, must belong to root,
 * and mode, group and ACL must let nobody else write. A group without members may, such as Debian's
 * `staff` in /usr/local. A sticky directory (the store is 1775 root:nixbld, /tmp 1777) is fine for
 * an entry of root's: nobody else can rename or remove it there.
 * @param path absolute; need not exist
 * @param opened fstat of the descriptor to read from; catches a file swapped after opening
 * @throws what lstat(2) throws, except ENOENT
 */
export function doubtAbout(path: string, opened?: Inode): Doubt | undefined {
  const todo = parts(path)
  let at = '/'
  let stat: Stat = lstatSync(at, { bigint: true })
  for (let links = 0; ; ) {
    const doubt = doubtOf(at, stat)
    if (doubt) return doubt
    const part = todo.shift()
    if (part === undefined) return opened && (stat.dev !== opened.dev || stat.ino !== opened.ino) ? REPLACED : undefined
    if (part === '.') continue
    if (!isDirectory(stat)) return { why: `${at} is not a directory; move it away`, fix: null }
    const next = part === '..' ? dirname(at) : `${at === '/' ? '' : at}/${part}`
    const found = lstatSync(next, { bigint: true, throwIfNoEntry: false })
    if (!found) return opened ? REPLACED : doubtOfNew(at, stat)
    if (isSymlink(found)) {
      if (found.uid !== 0n) return { why: `${next} is a link of ${nameOf(Number(found.uid))}'s`, fix: null }
      if (++links > MAX_LINKS) return { why: 'there are too many links on the way to it', fix: null }
      const target = readlinkSync(next)
      todo.unshift(...parts(target))
      if (target.startsWith('/')) at = '/'
      stat = lstatSync(at, { bigint: true })
    } else {
      at = next
      stat = found
    }
  }
}

/** The end of a sentence that starts with what root does with the path. */
export const doubtText = ({ why, fix }: Doubt): string => (fix === null ? why : `${why}; try: ${fix}`)

const REPLACED: Doubt = { why: 'it has just been replaced; try again', fix: null }

const parts = (path: string): string[] => path.split('/').filter((part) => part !== '')

const type = (stat: Stat): bigint => stat.mode & 0o170000n
const isDirectory = (stat: Stat): boolean => type(stat) === 0o040000n
const isSymlink = (stat: Stat): boolean => type(stat) === 0o120000n
const isSticky = (stat: Stat): boolean => isDirectory(stat) && (stat.mode & 0o1000n) !== 0n

function doubtOf(at: string, stat: Stat): Doubt | undefined {
  if (stat.uid !== 0n) return { why: `${at} belongs to ${nameOf(Number(stat.uid))}`, fix: fixFor(at, `sudo chown root ${shellWord(at)}`) }
  return isSticky(stat) ? undefined : writers(at, stat)
}

/** Judges a directory in which something is yet to be created. */
function doubtOfNew(at: string, stat: Stat): Doubt | undefined {
  const doubt = writers(at, stat)
  return doubt && { ...doubt, why: `${doubt.why}, and make there what is to be root's` }
}

/** Judges mode, group and ACL of something that belongs to root. */
function writers(at: string, stat: Stat): Doubt | undefined {
  const byGroup = (stat.mode & 0o020n) !== 0n
  if ((stat.mode & 0o002n) !== 0n)
    return { why: `everybody can write to ${at}`, fix: fixFor(at, `sudo chmod ${byGroup ? 'go' : 'o'}-w ${shellWord(at)}`) }
  // With an ACL, the group bits are its mask (acl(5)): without w there nobody else can write, and
  // `chmod g-w` takes write access from all its entries.
  const who = byGroup ? whoByGroup(at, Number(stat.gid)) : undefined
  return who === undefined ? undefined : { why: `${who} can write to ${at}`, fix: fixFor(at, `sudo chmod g-w ${shellWord(at)}`) }
}

function whoByGroup(at: string, gid: number): string | undefined {
  const env = { PATH: SYSTEM_DIRECTORIES.join(':'), LC_ALL: 'C' }
  const options = { env, timeout: 5000 }
  const acl = outputOf('getfacl', ['--access', '--omit-header', '--numeric', '--absolute-names', '--no-effective', '--', at], options)
  if (acl !== undefined) return whoInAcl(acl, gid)
  const listed = outputOf('ls', ['-ld', '--', at], options) ?? ''
  return hasAcl(listed) ? 'somebody whom its ACL names (install getfacl to see who)' : whoInGroup(gid)
}

/** Whether `ls -ld` shows an ACL: a plus sign after the mode (ls(1), GNU). */
export const hasAcl = (listed: string): boolean => /^\S{10}\+/.test(listed)

/**
 * Who besides root may write, from the output of `getfacl --access --omit-header --numeric
 * --no-effective`, given that the mask allows it.
 * @param gid the file's group
 * @param members looks up a group's members, see membersOf()
 */
export function whoInAcl(acl: string, gid: number, members: typeof membersOf = membersOf): string | undefined {
  for (const line of acl.split('\n')) {
    const [, tag, id = '', write] = /^(user|group):(\d*):.(.)/.exec(line) ?? []
    if (write !== 'w') continue
    if (tag === 'user' && id !== '' && id !== '0') return nameOf(Number(id))
    const who = tag === 'group' ? whoInGroup(id === '' ? gid : Number(id), members) : undefined
    if (who !== undefined) return who
  }
  return undefined
}

function whoInGroup(gid: number, members: typeof membersOf = membersOf): string | undefined {
  const found = members(gid)
  if (!found) return `group ${gid}`
  return found.members.length === 0 ? undefined : `group ${found.name} (${found.members.slice(0, 3).join(', ')})`
}

/** We never suggest a command that makes root the owner of a home directory or anything in it. */
function fixFor(at: string, command: string): string | null {
  return isInHome(at) ? null : command
}
