// Finds and reads the configuration file. A privileged process reads it only if nobody but root can
// have written it.
import { closeSync, constants, fstatSync, lstatSync, openSync, readlinkSync, readSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { ConfigError } from '../cli/errors.ts'

/** The machine's configuration; the only one that a privileged process reads. */
export const SYSTEM_FILE = '/etc/nix-lan/config.toml'

/** More than any configuration needs: a larger file is there by mistake. */
export const MAX_BYTES = 1024 * 1024

/**
 * The files to look for; the first that exists counts. `named` means that NIX_LAN_CONFIG names the
 * only one, which has to exist.
 */
export function candidates(privileged: boolean, named: string | undefined, home: string | undefined): { files: string[]; named: boolean } {
  if (privileged) return { files: [SYSTEM_FILE], named: false }
  if (named) return { files: [resolve(named)], named: true }
  return { files: home ? [SYSTEM_FILE, `${home}/.config/nix-lan/config.toml`] : [SYSTEM_FILE], named: false }
}

/**
 * The text of a configuration file, or undefined if there is none.
 * @param privileged refuse a file that anybody but root can have written
 * @throws ConfigError naming the file and what is wrong with it
 */
export function readConfigFile(file: string, privileged: boolean): string | undefined {
  const fd = open(file)
  if (fd === undefined) return undefined
  try {
    const stat = fstatSync(fd, { bigint: true })
    if (stat.isDirectory()) throw new ConfigError(`${file}: is a directory; the configuration must be a file`)
    if (!stat.isFile()) throw new ConfigError(`${file}: is not a regular file; the configuration must be one`)
    if (privileged) {
      const doubt = distrust(file, stat)
      if (doubt) throw new ConfigError(`${file}: not read as root, because ${doubt}`)
    }
    return decode(file, readAll(file, fd))
  } finally {
    closeSync(fd)
  }
}

// Opens first and checks the descriptor, so that the file checked is the file read. O_NONBLOCK: a
// FIFO must not make us wait.
function open(file: string): number | undefined {
  try {
    return openSync(file, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error)
    if (code === 'ENOENT' && isSymlink(file)) {
      throw new ConfigError(`${file}: is a symlink to ${readlinkSync(file)}, which does not exist; fix or remove the link`)
    }
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    if (code === 'EISDIR') throw new ConfigError(`${file}: is a directory; the configuration must be a file`)
    if (code === 'ELOOP') throw new ConfigError(`${file}: is a symlink that leads back to itself; fix or remove the link`)
    const cure = code === 'EACCES' ? `this user may not; it holds no secret: sudo chmod a+r ${file}, and a+x its directories` : code
    throw new ConfigError(`${file}: can't be read: ${cure}`)
  }
}

function isSymlink(file: string): boolean {
  try {
    return lstatSync(file).isSymbolicLink()
  } catch {
    return false
  }
}

function readAll(file: string, fd: number): Buffer {
  const buffer = Buffer.allocUnsafe(MAX_BYTES + 1)
  let length = 0
  while (length < buffer.length) {
    const got = readSync(fd, buffer, length, buffer.length - length, null)
    if (got === 0) break
    length += got
  }
  if (length > MAX_BYTES) throw new ConfigError(`${file}: is larger than 1 MiB; that can't be a configuration of nix-lan`)
  return buffer.subarray(0, length)
}

// Buffer, not TextDecoder: in a Node without ICU the latter has no `fatal`.
function decode(file: string, bytes: Buffer): string {
  const text = bytes.toString('utf8')
  if (Buffer.from(text).equals(bytes)) return text
  const lines = text.split('\n')
  let from = 0
  let line = 1
  for (; line < lines.length; line++) {
    const end = bytes.indexOf(10, from) + 1
    const part = bytes.subarray(from, end)
    if (!Buffer.from(part.toString('utf8')).equals(part)) break
    from = end
  }
  throw new ConfigError(`${file}:${line}: is not UTF-8; save it as UTF-8 text`)
}

interface Stat {
  uid: bigint
  mode: bigint
  dev: bigint
  ino: bigint
}

const writable = (stat: Stat): boolean => (stat.mode & 0o022n) !== 0n
const sticky = (stat: Stat): boolean => (stat.mode & 0o1000n) !== 0n
const octal = (stat: Stat): string => (stat.mode & 0o7777n).toString(8).padStart(4, '0')

/**
 * Why somebody other than root may have written the file, or undefined if nobody can have. The file
 * and every directory on the way, through every symlink, must be root's and not writable by group
 * or others. A sticky directory (the store is 1775 root:nixbld, /tmp 1777) will do for an entry of
 * root's, which nobody else can rename or remove there.
 * @param opened fstat of the descriptor that is read: notices a file swapped after it was opened
 */
export function distrust(file: string, opened: Stat): string | undefined {
  if (opened.uid !== 0n) return `it belongs to uid ${opened.uid}; sudo chown root ${file}`
  if (writable(opened)) return `group or others can write to it (mode ${octal(opened)}); sudo chmod go-w ${file}`
  const todo = file.split('/').filter((part) => part !== '')
  let at = '/'
  let stat = lstatSync(at, { bigint: true })
  for (let links = 0; ; ) {
    const doubt = distrustDirectory(at, stat)
    if (doubt) return doubt
    const part = todo.shift()
    if (part === undefined) return 'it has just been replaced; try again'
    if (part === '.') continue
    const next = part === '..' ? dirname(at) : `${at === '/' ? '' : at}/${part}`
    const nextStat = lstatSync(next, { bigint: true })
    if (writable(stat) && nextStat.uid !== 0n) return `${next} belongs to uid ${nextStat.uid}, in a directory where others can write`
    if (nextStat.isSymbolicLink()) {
      if (++links > 40) return 'there are too many symlinks on the way to it'
      const target = readlinkSync(next)
      todo.unshift(...target.split('/').filter((name) => name !== ''))
      if (target.startsWith('/')) at = '/'
      stat = lstatSync(at, { bigint: true })
    } else if (nextStat.isDirectory()) {
      at = next
      stat = nextStat
    } else {
      const same = nextStat.dev === opened.dev && nextStat.ino === opened.ino && todo.length === 0
      return same ? undefined : 'it has just been replaced; try again'
    }
  }
}

function distrustDirectory(directory: string, stat: Stat): string | undefined {
  if (stat.uid !== 0n) return `the directory ${directory} belongs to uid ${stat.uid}, who can replace it; sudo chown root ${directory}`
  if (writable(stat) && !sticky(stat)) {
    return `group or others can write to the directory ${directory} (mode ${octal(stat)}); sudo chmod go-w ${directory}`
  }
  return undefined
}
