// Judges who can write a path: what root runs or trusts must be root's alone. Only looks. Starts a
// program (getfacl) only for what a group may write, since post-build-hook and the dispatcher judge
// their configuration at each start.
import { lstatSync, readlinkSync } from 'node:fs'
import { dirname } from 'node:path'
import { shellWord } from '../cli/text.ts'
import { outputOf } from './exec.ts'
import { SYSTEM_DIRECTORIES } from './search-path.ts'
import { isInHome, membersOf, nameOf } from './users.ts'

/** Why somebody other than root can write or replace a path. */
export interface Doubt {
  why: string
  /** The command that fixes it; null where that would be wrong, as in a home directory. */
  fix: string | null
}

/** What identifies a file; from fstat or lstat with `bigint`. */
export interface Inode {
  dev: bigint
  ino: bigint
}

interface Stat extends Inode {
  uid: bigint
  gid: bigint
  mode: bigint
}

/** Linux follows no more links on the way to a file (path_resolution(7)). */
const MAX_LINKS = 40

/**
 * Why somebody other than root can write or replace what is, or will be, at `path`; undefined when
 * nobody can. The path and every directory on the way, through every symlink, must be root's, and
 * nobody else may write there by mode, group or ACL. A group without members may: that is Debian's
 * `staff` in /usr/local. A sticky directory (the store is 1775 root:nixbld, /tmp 1777) is good
 * enough for an entry of root's, which nobody else can rename or remove there.
 * @param path absolute; need not exist
 * @param opened fstat of the descriptor to read from: notices a file that was swapped after opening
 * @throws what lstat(2) throws but ENOENT
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

/** The end of a sentence that begins with what root does with the path. */
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

/** Judges a place where something has yet to be made. */
function doubtOfNew(at: string, stat: Stat): Doubt | undefined {
  const doubt = writers(at, stat)
  return doubt && { ...doubt, why: `${doubt.why}, and make there what is to be root's` }
}

/** Judges mode, group and ACL of something that is root's. */
function writers(at: string, stat: Stat): Doubt | undefined {
  const byGroup = (stat.mode & 0o020n) !== 0n
  if ((stat.mode & 0o002n) !== 0n)
    return { why: `everybody can write to ${at}`, fix: fixFor(at, `sudo chmod ${byGroup ? 'go' : 'o'}-w ${shellWord(at)}`) }
  // With an ACL, the group bits are its mask (acl(5)): without w there nobody else can write, and
  // `chmod g-w` takes it from all.
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

/** Whether `ls -ld` says that there is an ACL: with a plus sign behind the mode (ls(1), GNU). */
export const hasAcl = (listed: string): boolean => /^\S{10}\+/.test(listed)

/**
 * Who besides root may write, by the text of `getfacl --access --omit-header --numeric
 * --no-effective`, whose mask allows it.
 * @param gid the group of the file
 * @param members of a group, see membersOf()
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

/** No command of ours makes root the owner of a home directory, or of what is in it. */
function fixFor(at: string, command: string): string | null {
  return isInHome(at) ? null : command
}
