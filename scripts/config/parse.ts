// Parses and checks the configuration, a TOML file; pure. Errors name file, line and key, what was
// found and what is allowed. Imports nothing heavy: the hot paths load it.
import { parse, TomlDate, TomlError, type TomlTable } from 'smol-toml'
import { parseSize } from '../cli/amounts.ts'
import { nearest } from '../cli/command.ts'
import { ConfigError } from '../cli/errors.ts'
import { oneLine } from '../cli/text.ts'
import type { User } from '../system/users.ts'
import { tomlHint } from './toml-hint.ts'
import { lineOf, type Path } from './toml-line.ts'
import { type Cache, type Config, DEFAULT_DEADLINE, DEFAULT_PATIENCE } from './types.ts'

const TOP_KEYS = ['user', 'metered', 'battery', 'gc', 'cache']
const GC_KEYS = ['keep-free']
const SSH_KEYS = [
  'host',
  'ssh',
  'port',
  'daemon-socket',
  'env-file',
  'derivations',
  'exclude',
  'keep',
  'deadline',
  'patience',
  'upload-connection',
  'compression',
]
const URL_KEYS = ['url', 'deadline']
const SCHEMES = ['http', 'https', 'file', 'ssh', 'ssh-ng']
const NIX_DAEMON = '/nix/var/nix/daemon-socket/socket'

const HOST_OR_URL = 'host = "rpi.local" for a box that you reach by ssh, url = "http://nas.local:5000" for a cache to fetch from only'

// Keeps the socket's path, /run/user/UID/nix-lan/NAME.sock, below the 108 bytes of sockaddr_un
// (unix(7)).
const MAX_NAME = 40

/** A cache to paste, for messages. */
const EXAMPLE_CACHE = '[cache.rpi]\nhost = "rpi.local"\nssh = "pi@rpi.local"\n'

/** The text being read, for messages. */
interface Source {
  text: string
  file: string
}

/**
 * Parses the text of a configuration; pure.
 * @param file what messages call it
 * @param userOf finds the user by name (undefined: the caller), or throws an Error that says why it
 *   can't
 * @throws ConfigError (exit 2)
 */
export function parseConfig(text: string, file: string, userOf: (name: string | undefined) => User): Config {
  const source = { text, file }
  const table = parseToml(source)
  for (const key of Object.keys(table)) if (!TOP_KEYS.includes(key)) throw unknownTopKey(source, key, table[key])
  const user = readUser(source, table.user, userOf)
  const keepFree = readKeepFree(source, table.gc)
  const tables = cacheTables(source, table.cache)
  const caches = tables.map(([name, entry]) => readCache(source, name, entry, user.home))
  const metered = readMetered(source, table.metered)
  const battery = readBattery(source, table.battery)
  const all = { file, user: user.name, uid: user.uid, home: user.home, metered, battery, caches }
  return keepFree === undefined ? all : { ...all, keepFree }
}

// ---- messages

/** `FILE:LINE: KEY: what is wrong`. */
function wrong(source: Source, path: Path, what: string): ConfigError {
  const line = lineOf(source.text, path)
  return new ConfigError(`${source.file}${line ? `:${line}` : ''}: ${path.length ? `${keyName(path)}: ` : ''}${what}`)
}

/**
 * A key as written in TOML: `cache.rpi.port`, `cache."odd name"`; list elements as `exclude[2]`.
 */
function keyName(path: Path): string {
  let name = ''
  for (const part of path) {
    if (typeof part === 'number') name += `[${part + 1}]`
    else name += `${name && '.'}${/^[A-Za-z0-9_-]+$/.test(part) ? part : shorten(JSON.stringify(part))}`
  }
  return name
}

const shorten = (text: string): string => (text.length > 60 ? `${text.slice(0, 57)}...` : text)

/** `; did you mean rpi?`, or '' if no known word is close. */
export const didYouMean = (word: string, known: readonly string[]): string => {
  const near = nearest(word.toLowerCase().replace(/_/g, '-'), known)
  return near ? `; did you mean ${near}?` : ''
}

/** A value and its type, for a message. */
function show(value: unknown): string {
  if (typeof value === 'string') return `the string ${shorten(JSON.stringify(value))}`
  if (typeof value === 'bigint' || typeof value === 'number') return `the number ${shorten(String(value))}`
  if (typeof value === 'boolean') return String(value)
  if (Array.isArray(value)) return 'a list'
  return value instanceof TomlDate ? 'a date' : 'a table'
}

// ---- the document

function parseToml(source: Source): TomlTable {
  try {
    // Bigints keep 22 and 22.0 apart.
    return parse(source.text, { integersAsBigInt: true })
  } catch (error) {
    if (!(error instanceof TomlError)) throw error
    const hint = tomlHint(source.text.split(/\r?\n/)[error.line - 1] ?? '')
    const message =
      hint ??
      (error.message.split('\n')[0] ?? '').replace(/^Invalid TOML document: /, '').replace(/^invalid value$/, '$&; text needs quotes')
    throw new ConfigError(`${source.file}:${error.line}:${error.column}: is not valid TOML: ${message}`)
  }
}

const isTable = (value: unknown): value is TomlTable =>
  typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date)

function unknownTopKey(source: Source, key: string, value: unknown): ConfigError {
  if (isTable(value) && ('host' in value || 'url' in value)) {
    return wrong(source, [key], `unknown table; a cache is written [${keyName(['cache', key])}]`)
  }
  if ([...SSH_KEYS, ...URL_KEYS].includes(key)) return wrong(source, [key], 'belongs to a cache; write it below a line [cache.NAME]')
  return wrong(
    source,
    [key],
    `unknown key${didYouMean(key, TOP_KEYS)}; allowed here: user, metered, battery, gc.keep-free, and tables [cache.NAME]`,
  )
}

function readMetered(source: Source, value: unknown): Config['metered'] {
  if (value === undefined) return 'wait'
  if (value === 'wait' || value === 'upload') return value
  throw wrong(source, ['metered'], `found ${show(value)}; must be "wait" or "upload"`)
}

function readBattery(source: Source, value: unknown): number {
  if (value === undefined) return 20
  if (typeof value === 'bigint' && value >= 0n && value <= 100n) return Number(value)
  throw wrong(source, ['battery'], `found ${show(value)}; must be a whole number of percent, 0 to 100, like 20`)
}

function readUser(source: Source, value: unknown, userOf: (name: string | undefined) => User): User {
  const name = value === undefined ? undefined : text(source, ['user'], value, 'the name of a user, like "alice"')
  // The name becomes an argument of getent, which takes digits for a uid.
  if (name !== undefined && (!/^[^-\s:/][^\s:/]*$/.test(name) || /^\d+$/.test(name))) {
    throw wrong(source, ['user'], `found ${show(name)}; must be the name of a user, like "alice"`)
  }
  if (name === 'root')
    throw wrong(
      source,
      ['user'],
      'is root; nix-lan works with an ordinary user\'s ssh key, session and queue: name that user, like "alice"',
    )
  try {
    return userOf(name)
  } catch (error) {
    throw wrong(source, ['user'], (error as Error).message)
  }
}

function readKeepFree(source: Source, value: unknown): number | undefined {
  if (value === undefined) return undefined
  if (!isTable(value)) throw wrong(source, ['gc'], `found ${show(value)}; must be a table: gc.keep-free = "5G"`)
  for (const key of Object.keys(value))
    if (!GC_KEYS.includes(key))
      throw wrong(source, ['gc', key], `unknown key${didYouMean(key, GC_KEYS)}; allowed here: ${GC_KEYS.join(', ')}`)
  if (value['keep-free'] === undefined) return undefined
  const must = 'a size in quotes, like "5G"'
  const found = text(source, ['gc', 'keep-free'], value['keep-free'], must)
  const size = parseSize(found)
  if (size === undefined || size === 0) throw wrong(source, ['gc', 'keep-free'], `found ${show(found)}; must be ${must}`)
  return size
}

function cacheTables(source: Source, value: unknown): [string, TomlTable][] {
  const how = 'each cache is a table of its own: [cache.NAME], below it host = "…" or url = "…"'
  if (value === undefined) throw new ConfigError(`${source.file}: no cache in it; add one, for example:\n\n${EXAMPLE_CACHE}`)
  if (Array.isArray(value)) throw wrong(source, ['cache'], `found a list; ${how}, with single brackets and a name`)
  if (!isTable(value)) throw wrong(source, ['cache'], `found ${show(value)}; ${how}`)
  const entries = Object.entries(value)
  if (entries.length === 0) throw wrong(source, ['cache'], `no cache in it; ${how}`)
  return entries.map(([name, entry]) => {
    if (!isTable(entry)) throw wrong(source, ['cache', name], `found ${show(entry)}; ${how}`)
    checkName(source, name)
    return [name, entry]
  })
}

function checkName(source: Source, name: string): void {
  if (name === '') throw wrong(source, ['cache', name], 'the name of a cache is empty; call it something, like [cache.rpi]')
  if (!/^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/.test(name)) {
    throw wrong(source, ['cache', name], 'the name of a cache may hold a-z, 0-9 and - only, and not start or end with -; like [cache.rpi]')
  }
  if (name.length > MAX_NAME) {
    const why = 'since it is part of the path of a socket'
    throw wrong(source, ['cache', name], `the name of a cache may have ${MAX_NAME} characters, ${why}; this one has ${name.length}`)
  }
}

// ---- one cache

function readCache(source: Source, name: string, entry: TomlTable, home: string): Cache {
  const path = ['cache', name]
  checkKeys(source, name, entry)
  const of = (key: string): [Source, Path, unknown] => [source, [...path, key], entry[key]]
  const deadline = readDeadline(...of('deadline'))
  if ('url' in entry) return { kind: 'url', name, url: readUrl(...of('url')), deadline }
  const host = readHost(...of('host'))
  return {
    kind: 'ssh',
    name,
    host,
    ssh: entry.ssh === undefined ? host : readSsh(...of('ssh')),
    port: readPort(...of('port')),
    daemonSocket: readDaemonSocket(...of('daemon-socket')),
    envFile: readEnvFile(...of('env-file'), home),
    derivations: readFlag(...of('derivations')),
    exclude: readExclude(...of('exclude')),
    keep: readKeep(...of('keep')),
    deadline,
    patience: readPatience(...of('patience')),
    ...(entry['upload-connection'] === undefined ? {} : { uploadConnection: readUploadConnection(...of('upload-connection')) }),
    ...(entry.compression === undefined ? {} : { compression: readFlag(...of('compression')) }),
  }
}

function checkKeys(source: Source, name: string, entry: TomlTable): void {
  const path = ['cache', name]
  const isUrl = 'url' in entry
  if (isUrl && 'host' in entry) {
    throw wrong(source, path, `has both host and url; keep one: ${HOST_OR_URL}`)
  }
  const allowed = isUrl ? URL_KEYS : SSH_KEYS
  const list = `allowed here: ${allowed.join(', ')}`
  for (const key of Object.keys(entry)) {
    if (allowed.includes(key)) continue
    const at = [...path, key]
    if (isUrl && SSH_KEYS.includes(key)) throw wrong(source, at, `is only for a cache with host; this one has url, so ${list}`)
    const nested = entry[key]
    if (isTable(nested) && key !== 'gc')
      throw wrong(
        source,
        at,
        `a dot in [${keyName([...at, ...namesBelow(nested)])}] makes a table inside of ${name}, and names hold no dots; call it [cache.${name}]`,
      )
    if (TOP_KEYS.includes(key)) throw wrong(source, at, `belongs to the top of the file, above the first [cache.NAME]; ${list}`)
    throw wrong(source, at, `unknown key${didYouMean(key, allowed)}; ${list}`)
  }
  if (!isUrl && !('host' in entry)) {
    throw wrong(source, path, `has neither host nor url; add one: ${HOST_OR_URL}`)
  }
}

/** The names that go on after a dotted one: `arpa`, for the `home` of [cache.pi.home.arpa]. */
function namesBelow(table: TomlTable): string[] {
  const [[name, value] = [], surplus] = Object.entries(table)
  return name !== undefined && surplus === undefined && isTable(value) ? [name, ...namesBelow(value)] : []
}

/** A non-empty string with nothing in it that a terminal would obey. */
function text(source: Source, path: Path, value: unknown, must: string): string {
  if (typeof value !== 'string') throw wrong(source, path, `found ${show(value)}; must be ${must}`)
  if (value === '') throw wrong(source, path, `is empty; must be ${must}`)
  if (oneLine(value) !== value) throw wrong(source, path, `found ${show(value)}, with a control character; must be ${must}`)
  return value
}

// Host and ssh destination become arguments of getent and ssh, and ssh_config's %h and %r may put
// them into a shell command.
const UNSAFE = /[\s"'`“”„‟‘’‚«»$\\;&<>|(){}*?!#,/]/

function readHost(source: Source, path: Path, value: unknown): string {
  const must = 'the name or address of the box, like "rpi.local" or "192.168.1.5"'
  const host = text(source, path, value, must)
  const bad = (hint: string): ConfigError => wrong(source, path, `found ${show(host)}; must be ${must}${hint}`)
  if (host.startsWith('-')) throw bad(', and not start with -')
  if (/\s/.test(host)) throw bad(', without spaces')
  if (host.includes('://')) throw bad('; for an address like that there is the key url, in place of host')
  if (host.includes('@')) throw bad(`; who to log in as belongs into ssh = ${shorten(JSON.stringify(host.replace(/:\d*$/, '')))}`)
  if (/^\[.*\]/.test(host)) throw bad(', without brackets')
  if (/^[^:]*:\d*$/.test(host)) throw bad('; the port belongs into port = 22')
  if (UNSAFE.test(host) || host.length > 253) throw bad('')
  return host
}

function readSsh(source: Source, path: Path, value: unknown): string {
  const must = 'what you give to ssh to log in there, like "pi@rpi.local" or an alias from ~/.ssh/config'
  const ssh = text(source, path, value, must)
  const bad = (hint: string): ConfigError => wrong(source, path, `found ${show(ssh)}; must be ${must}${hint}`)
  if (/(^|@)-/.test(ssh)) throw bad('; neither user nor host may start with -')
  if (/\s/.test(ssh)) throw bad(', without spaces; options belong into ~/.ssh/config')
  if (ssh.includes('://')) throw bad('; written as user@host, and the port as port = 22')
  const [, user, host] = /^(.*)@([^@]+)$/.exec(ssh) ?? []
  if (user !== undefined && /^[A-Za-z0-9._-]+\\[A-Za-z0-9._-]+$/.test(user) && !UNSAFE.test(host ?? ''))
    throw bad(`; for a user like that write an alias into ~/.ssh/config (Host, HostName ${host}, User ${user}) and name it here`)
  if (/^([^@]*@)?[^:@]*:\d*$/.test(ssh)) throw bad('; the port belongs into port = 22')
  if (UNSAFE.test(ssh) || /(^|@)(@|$)/.test(ssh)) throw bad('')
  return ssh
}

function readPort(source: Source, path: Path, value: unknown): number {
  if (value === undefined) return 22
  if (typeof value === 'bigint' && value >= 1n && value <= 65535n) return Number(value)
  throw wrong(source, path, `found ${show(value)}; must be a whole number from 1 to 65535, without quotes: port = 22`)
}

// ssh reads `-L` as LOCAL:REMOTE with \ as its escape, and since 8.4 expands % and ${} in it.
function readDaemonSocket(source: Source, path: Path, value: unknown): string {
  if (value === undefined) return NIX_DAEMON
  const must = `the absolute path of nix-daemon's socket on the box, like ${JSON.stringify(NIX_DAEMON)}`
  const socket = text(source, path, value, must)
  if (!socket.startsWith('/')) throw wrong(source, path, `found ${show(socket)}, a relative path; must be ${must}`)
  if (/[\s:%$\\"']/.test(socket)) throw wrong(source, path, `found ${show(socket)}; must be ${must}, without spaces, quotes and : % $ \\`)
  const length = Buffer.byteLength(socket)
  if (length > 107) throw wrong(source, path, `found a path of ${length} bytes; the path of a socket has 107 at most`)
  return socket
}

function readEnvFile(source: Source, path: Path, value: unknown, home: string): string {
  const must = 'the path of a shell file that sets SSH_AUTH_SOCK: absolute, or in the home directory like "~/.bashrc"'
  const file = value === undefined ? '~/.bashrc' : text(source, path, value, must)
  if (file.startsWith('~/')) return `${home === '/' ? '' : home}${file.slice(1)}`
  if (file.startsWith('/')) return file
  throw wrong(source, path, `found ${show(file)}; must be ${must}`)
}

function readFlag(source: Source, path: Path, value: unknown): boolean {
  if (value === undefined) return true
  if (typeof value === 'boolean') return value
  throw wrong(source, path, `found ${show(value)}; must be true or false, without quotes`)
}

function readUploadConnection(source: Source, path: Path, value: unknown): 'own' | 'shared' {
  if (value === 'own' || value === 'shared') return value
  throw wrong(source, path, `found ${show(value)}; must be "own" or "shared"`)
}

// Only characters a store path's name can have (nix, src/libstore/path.cc, checkName): any other
// pattern could never match.
function readExclude(source: Source, path: Path, value: unknown): string[] {
  if (value === undefined) return []
  const must = 'a list of patterns for the name after the hash, like ["*-source"]'
  if (!Array.isArray(value)) throw wrong(source, path, `found ${show(value)}; must be ${must}`)
  return value.map((item, i) => {
    const at = [...path, i]
    const glob = text(source, at, item, 'a pattern in quotes, like "*-source"')
    if (glob.includes('/')) throw wrong(source, at, `found ${show(glob)}; must be for the name after the hash, like "*-source"`)
    if (/^[0-9A-Za-z+\-._?=*]+$/.test(glob)) return glob
    const allowed = 'names have 0-9 A-Z a-z + - . _ ? = only; * stands for any characters, ? for one'
    throw wrong(source, at, `found ${show(glob)}, which no store path can match; ${allowed}`)
  })
}

function readKeep(source: Source, path: Path, value: unknown): number | null {
  const must = 'a number of days in quotes, like "60d", or "forever" or "none"'
  const found = value === undefined ? '60d' : text(source, path, value, must)
  if (found === 'forever') return null
  if (found === 'none') return 0
  const [, days] = /^(\d{1,5})d$/.exec(found) ?? []
  if (days === undefined || Number(days) === 0) throw wrong(source, path, `found ${show(found)}; must be ${must}`)
  return Number(days)
}

function readDeadline(source: Source, path: Path, value: unknown): number {
  if (value === undefined) return DEFAULT_DEADLINE
  return readTime(source, path, value, 100, 60_000, 'a time from 100ms to 60s in quotes, like "2s" or "500ms"')
}

function readPatience(source: Source, path: Path, value: unknown): number {
  if (value === undefined) return DEFAULT_PATIENCE
  return readTime(source, path, value, 0, 3_600_000, 'a time from 0s to 3600s in quotes, like "60s" or "500ms"')
}

/** Milliseconds, from `least` to `most`. */
function readTime(source: Source, path: Path, value: unknown, least: number, most: number, must: string): number {
  const found = text(source, path, value, must)
  const [, digits, unit] = /^(\d{1,7})(ms|s)$/.exec(found) ?? []
  if (digits === undefined) throw wrong(source, path, `found ${show(found)}; must be ${must}`)
  const ms = Number(digits) * (unit === 's' ? 1000 : 1)
  if (ms < least) throw wrong(source, path, `found ${show(found)}, which is too short; must be ${must}`)
  if (ms > most) throw wrong(source, path, `found ${show(found)}, which is too long; must be ${must}`)
  return ms
}

function readUrl(source: Source, path: Path, value: unknown): string {
  const must = `a store URL that begins with ${SCHEMES.map((scheme) => `${scheme}://`).join(', ')}`
  const url = text(source, path, value, `${must}, like "http://nas.local:5000"`)
  const bad = (what: string): ConfigError => wrong(source, path, `found ${show(url)}${what}`)
  const scheme = /^([A-Za-z][A-Za-z0-9+.-]*):\/\//.exec(url)?.[1]
  if (scheme === undefined) throw bad(`, without a scheme; must be ${must}`)
  if (!SCHEMES.includes(scheme)) throw bad(`; the scheme ${scheme} is not supported; must be ${must}`)
  // Nix splits `substituters` at white space.
  if (/\s/.test(url)) throw bad(`; must be ${must}, without spaces (write %20)`)
  if (scheme === 'file' && !/^file:\/\/\/./.test(url)) throw bad('; must go on with an absolute path, like "file:///mnt/cache"')
  if (scheme !== 'file' && !hasHost(url)) throw bad(`; must go on with a host, which can't start with -, like "${scheme}://nas.local"`)
  return url
}

// The host of an ssh store becomes an argument of ssh.
const hasHost = (url: string): boolean => /^[a-z-]+:\/\/[^/?#]/.test(url) && !/:\/\/([^/?#]*@)?(-|$|[/?#])/.test(url)
