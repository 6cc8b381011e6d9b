// Finds and reads the configuration file. A privileged process reads it only if nobody but root can
// have written it.
import { closeSync, constants, fstatSync, lstatSync, openSync, readlinkSync, readSync } from 'node:fs'
import { resolve } from 'node:path'
import { ConfigError } from '../cli/errors.ts'
import { doubtAbout, doubtText } from '../system/trust.ts'

/** The machine's configuration; the only one a privileged process reads. */
export const SYSTEM_FILE = '/etc/nix-lan/config.toml'

/** More than any configuration needs; a larger file is a mistake. */
export const MAX_BYTES = 1024 * 1024

/**
 * The files to look for; the first that exists counts. `named`: NIX_LAN_CONFIG names the only one,
 * and it must exist.
 */
export function candidates(privileged: boolean, named: string | undefined, home: string | undefined): { files: string[]; named: boolean } {
  if (privileged) return { files: [SYSTEM_FILE], named: false }
  if (named) return { files: [resolve(named)], named: true }
  return { files: home ? [SYSTEM_FILE, `${home}/.config/nix-lan/config.toml`] : [SYSTEM_FILE], named: false }
}

/**
 * The text of a configuration file; undefined if there is none.
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
      const doubt = doubtAbout(file, stat)
      if (doubt) throw new ConfigError(`${file}: not read as root, because ${doubtText(doubt)}`)
    }
    return decode(file, readAll(file, fd))
  } finally {
    closeSync(fd)
  }
}

// Opens first and checks the descriptor, so the file checked is the file read. O_NONBLOCK: never
// wait on a FIFO.
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

// Buffer, not TextDecoder, which lacks `fatal` in a Node without ICU.
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
