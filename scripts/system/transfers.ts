// Counts what was fetched from a box and uploaded to it; `nix-lan status` shows that as saved. Each
// path or upload appends a line to the month's file, so concurrent writers need no lock and nothing
// is lost when Nix kills connect along with its last answer (it does: SIGKILL right after closing
// the pipes; 2.34.8, libstore/ssh.hh, Connection; libutil/unix/processes.cc, ~Pid). A month that
// nobody can still have open is rewritten as one line. Never makes anything fail: what can't be
// counted goes uncounted.
import {
  chmodSync,
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  writeFileSync,
  writeSync,
} from 'node:fs'

/** Where root's daemon counts; everybody can read it. */
export const ROOT_TRANSFERS = '/var/lib/nix-lan'

/** Where a cache's broker counts (nix-lan-broker@.service, StateDirectory=); its owner is the user. */
export const brokerTransfers = (cache: string): string => `${ROOT_TRANSFERS}/${cache}`

/** The name under which to count what was fetched through a tunnel's socket. */
export const fetchedBy = (socket: string): string => `fetched.${encodeURIComponent(socket)}`

/** The name under which to count what was uploaded to a cache. */
export const uploadedTo = (cache: string): string => `uploaded.${cache}`

/**
 * Number of paths, bytes of their NARs, and the time of the last one in milliseconds since 1970.
 */
export interface Sum {
  paths: number
  bytes: number
  last: number
}

/** Counts transfers under one name. */
export class Transfers {
  private readonly name: string
  private readonly directory: string | undefined
  private file: number | null | undefined

  /**
   * @param name from fetchedBy() or uploadedTo()
   * @param directory where to count; undefined: don't
   */
  constructor(name: string, directory: string | undefined = ownTransfers()) {
    this.name = name
    this.directory = directory
  }

  /**
   * Opens the file now instead of at the first count: for a root process about to drop its
   * privileges.
   */
  open(): void {
    if (this.file === undefined) this.file = this.directory === undefined ? null : openFile(this.directory, this.name, Date.now())
  }

  /** Adds paths and bytes of their NARs. */
  add(paths: number, bytes: number): void {
    this.open()
    try {
      // O_APPEND keeps lines whole, in whatever order
      if (typeof this.file === 'number') writeSync(this.file, lineOf({ paths, bytes, last: Date.now() }))
    } catch {
      // a full disk
    }
  }
}

/**
 * Where this process counts: root for everybody; the broker in the directory that systemd made for
 * it (systemd.exec(5), StateDirectory=); an ordinary user, for a Nix without a daemon and for uploads
 * (XDG Base Directory Specification).
 */
export function ownTransfers(): string | undefined {
  if (process.geteuid?.() === 0) return ROOT_TRANSFERS
  if (process.env.STATE_DIRECTORY?.startsWith(`${ROOT_TRANSFERS}/`)) return process.env.STATE_DIRECTORY
  return userTransfers(process.env.HOME, process.env.XDG_STATE_HOME)
}

/** Where a user's own Nix and uploads are counted; undefined without a home. */
export function userTransfers(home: string | undefined, stateHome: string | undefined): string | undefined {
  if (stateHome?.startsWith('/')) return `${stateHome}/nix-lan`
  return home?.startsWith('/') ? `${home}/.local/state/nix-lan` : undefined
}

/**
 * Opens this month's file, creating it and its directory if needed. @returns null if there is no
 * such place
 */
function openFile(directory: string, name: string, now: number): number | null {
  try {
    return ownDirectory(directory) ? openMonth(directory, name, now) : null
  } catch {
    return null // such as on a read-only file system
  }
}

/**
 * Whether a directory is ours, and nobody else can write to it, so nobody can plant a link there.
 * Makes it if needed.
 * @throws when it can't be made
 */
export function ownDirectory(directory: string): boolean {
  let stat = lstatSync(directory, { throwIfNoEntry: false })
  if (!stat) {
    mkdirSync(directory, { recursive: true, mode: 0o755 })
    if (process.geteuid?.() === 0) chmodSync(directory, 0o755) // everybody's status must be able to read it, whatever the umask
    stat = lstatSync(directory)
  }
  return stat.isDirectory() && stat.uid === process.geteuid?.() && (stat.mode & 0o022) === 0
}

/** More bytes than a month of non-stop fetching leaves. */
const MOST = 2 ** 26

const APPEND = constants.O_WRONLY | constants.O_APPEND | constants.O_NOFOLLOW | constants.O_NONBLOCK

function openMonth(directory: string, name: string, now: number): number | null {
  const path = `${directory}/${name}.${month(now)}`
  let file: number
  try {
    file = openSync(path, APPEND)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    file = openSync(path, APPEND | constants.O_CREAT, 0o644)
    fchmodSync(file, 0o644) // whatever the umask
    condense(directory, name, now)
  }
  if (fstatSync(file).isFile()) return file
  closeSync(file)
  return null
}

/**
 * Once a month, reduces each earlier month to one line, except the previous one: a long session may
 * still be counting there.
 */
function condense(directory: string, name: string, now: number): void {
  const recent = [month(now), month(firstOfMonth(now) - 1)]
  for (const file of months(directory, name)) {
    if (recent.some((ending) => file.endsWith(ending))) continue
    const lines = readLines(`${directory}/${file}`)
    if (lines.length < 2) continue
    const temporary = `${directory}/.${file}.${process.pid}`
    writeFileSync(temporary, lineOf(total(lines)))
    chmodSync(temporary, 0o644)
    renameSync(temporary, `${directory}/${file}`)
  }
}

const month = (time: number): string => new Date(time).toISOString().slice(0, 7)
const firstOfMonth = (time: number): number => Date.parse(`${month(time)}-01T00:00:00Z`)

/** The files of a name, oldest first. */
function months(directory: string, name: string): string[] {
  return readdirSync(directory)
    .filter((file) => file.startsWith(`${name}.`) && /^\d{4}-\d\d$/.test(file.slice(name.length + 1)))
    .sort()
}

/** A line of the file: seconds since 1970, paths, bytes. */
const lineOf = ({ paths, bytes, last }: Sum): string => `${Math.floor(last / 1000)} ${paths} ${bytes}\n`

/** The lines of a file, without malformed ones (cut off by a full disk). */
function readLines(path: string): Sum[] {
  return readSmall(path)
    .split('\n')
    .flatMap((line) => {
      const [, seconds, paths, bytes] = /^(\d{10}) (\d{1,9}) (\d{1,15})$/.exec(line) ?? []
      return seconds === undefined ? [] : [{ paths: Number(paths), bytes: Number(bytes), last: Number(seconds) * 1000 }]
    })
}

/**
 * The text of a file a user may have made and root reads; '' if it isn't a regular file or is too
 * large to be ours.
 */
function readSmall(path: string): string {
  const file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  try {
    const stat = fstatSync(file)
    return stat.isFile() && stat.size < MOST ? readFileSync(file, 'latin1') : ''
  } finally {
    closeSync(file)
  }
}

/** The sum of the counts; `last` is 0 if there are none. */
function total(counts: readonly Sum[]): Sum {
  const sum = { paths: 0, bytes: 0, last: 0 }
  for (const { paths, bytes, last } of counts) {
    sum.paths += paths
    sum.bytes += bytes
    if (last > sum.last) sum.last = last
  }
  return sum
}

/** Totals: of all time, of the last seven days, and since midnight. */
export interface Counted {
  all: Sum
  week: Sum
  today: Sum
}

/**
 * Adds up what was counted under a name.
 * @param directories where to look; those missing or unreadable count as empty
 * @param now milliseconds since 1970; the day starts at midnight local time
 */
export function counted(name: string, directories: readonly string[], now: number): Counted {
  const counts = directories.flatMap((directory) => {
    try {
      return months(directory, name).flatMap((file) => readLines(`${directory}/${file}`))
    } catch {
      return []
    }
  })
  const midnight = new Date(now).setHours(0, 0, 0, 0)
  const since = (time: number): Sum => total(counts.filter(({ last }) => last >= time))
  return { all: total(counts), week: since(now - 7 * 86_400_000), today: since(midnight) }
}
