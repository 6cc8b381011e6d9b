// Makes and removes the links that keep manifests, in the home of the tunnel's user on the box or,
// where that isn't always there, in a directory that root has made (OUTSIDE): by sh or, where ssh
// runs no command (ForceCommand internal-sftp, a login shell like nologin), by sftp(1). That has no
// `readlink`, no `sync` and no `date`: the targets come from the box's roots, what is on its disk is
// told by its age, and the time by that of a link just made.
import { Failure } from '../cli/errors.ts'
import { isStorePath, storeDir } from '../nix/store-path.ts'
import type { Daemon } from '../protocol/daemon-ops.ts'
import { NoShell, type Remote } from './remote.ts'
import type { Shore } from './shore.ts'

/** `kept`: for a while. `only`: it is no longer on the client. */
export type Kind = 'kept' | 'only'

/** Below the home directory on the box. */
export const FOLDER = '.local/state/nix-lan'

/**
 * Holds a directory for each user whose home isn't always there, made by root: USER's links are in
 * OUTSIDE/USER if that exists, and move there from the home. A garbage collection removes an
 * indirect root whose link it doesn't find, and with it what the link keeps; what lies below
 * gcroots is a root by itself (src/libstore/gc.cc, findRoots, 2.8.0 to 2.34.8).
 */
export const OUTSIDE = '/nix/var/nix/gcroots/nix-lan-kept'

/** What is on the box before a link is made. */
export interface Prepared {
  /** The box's date, YYYY-MM-DD. */
  date: string
  /** What holds the links, below KIND/CLIENT, by its real path. */
  folder: string
  /** The links of this client and kind: day → manifest. */
  links: Map<string, string>
  /**
   * Milliseconds since 1970 by the box's clock, rounded down to the minute, where the box can't be
   * told to write to its disk.
   */
  unsynced?: number
}

const DAY_PATTERN = /^\d{4}-\d\d-\d\d$/

/** Does it by sh; where there is none by sftp. @throws NoShell that names the way out */
async function byEither<T>(sh: () => Promise<T>, sftp: () => Promise<T>): Promise<T> {
  try {
    return await sh()
  } catch (error) {
    if (!(error instanceof NoShell)) throw error
    try {
      return await sftp()
    } catch (second) {
      // A box that is away is away: its exit code is another one.
      if (!(second instanceof Failure) || second.exitCode !== 1) throw second
      throw new NoShell(`${error.message}, nor sftp (${second.message}); ${ALLOW}`)
    }
  }
}

const ALLOW =
  'in its sshd_config, either no ForceCommand, or `ForceCommand internal-sftp` with `Subsystem sftp internal-sftp` ' +
  '(in authorized_keys: no command=, or command="internal-sftp")'

// Copied before they are removed, so there is never a moment without a root. A link that OUTSIDE
// has with another target stays where it is.
const PREPARE = `report date "$(date -u +%Y-%m-%d)"
old=$(cd && cd "$folder" 2>/dev/null && pwd -P) || old=
if cd "$outside/$(id -un)" 2>/dev/null; then
  here=$(pwd -P)
  if [ -n "$old" ] && [ "$old" != "$here" ]; then
    for link in "$old/$kind/$client"/*; do
      [ -L "$link" ] || continue
      day=$kind/$client/\${link##*/}
      [ -L "$day" ] || { mkdir -p "$kind/$client" && cp -P "$link" "$day"; } || exit 1
      [ "$(readlink "$day")" != "$(readlink "$link")" ] || rm -f "$link" || exit 1
    done
  fi
  report folder "$here"
elif [ -n "$old" ]; then
  cd "$old"
  report folder "$old"
else
  cd && report folder "$(pwd -P)/$folder"
  exit 0
fi
cd "$kind/$client" 2>/dev/null || exit 0
for link in *; do if [ -L "$link" ]; then report link "$link $(readlink "$link")"; fi; done
`

/**
 * Asks for the box's date and our links there; has those in the home move to OUTSIDE if that is
 * there.
 * @throws Failure as Remote.run() does, and when the answer makes no sense
 */
export const prepare = ({ daemon, remote }: Shore, kind: Kind, client: string): Promise<Prepared> =>
  byEither(
    () => prepareBySh(remote, kind, client),
    () => prepareBySftp(daemon, remote, kind, client),
  )

async function prepareBySh(remote: Remote, kind: Kind, client: string): Promise<Prepared> {
  // PREPARE ends early if there is no folder yet; what it has reported by then counts.
  const reported = await remote.run(`(\n${PREPARE}) || exit 1`, { folder: FOLDER, outside: OUTSIDE, kind, client })
  const [date = ''] = reported.get('date') ?? []
  const [folder = ''] = reported.get('folder') ?? []
  if (!DAY_PATTERN.test(date) || !folder.startsWith('/'))
    throw new Failure(`the box must give its date and the folder for its links, but gave: ${date} ${folder}`)
  const links = (reported.get('link') ?? []).map((line) => line.split(' '))
  const ours = links.filter(([day, target]) => DAY_PATTERN.test(day ?? '') && isStorePath(target ?? '', storeDir))
  return { date, folder, links: new Map(ours.map(([day = '', target = '']) => [day, target])) }
}

/** sftp commands that change to what holds the links; `pwd` before and after. */
async function entering(remote: Remote): Promise<string[]> {
  const parents = FOLDER.split('/').map((_, at, parts) => parts.slice(0, at + 1).join('/'))
  return ['pwd', ...parents.map((parent) => `-mkdir ${parent}`), `-cd ${FOLDER}`, `-cd ${await outsideOf(remote)}`, 'pwd']
}

const outsideOf = async (remote: Remote): Promise<string> => `${OUTSIDE}/${await remote.user()}`

/** What sftp has printed for each `pwd`. Pure. */
export const directoriesIn = (said: string): string[] =>
  [...said.matchAll(/^Remote working directory: (\/.*)$/gm)].map(([, directory = '']) => directory)

/** @param said what sftp printed for entering() @throws Failure when it has entered nothing */
function entered(said: string): { home: string; folder: string } {
  const [home, folder] = directoriesIn(said).map((directory) => directory.replace(/\/$/, ''))
  if (home === undefined || folder === undefined || folder === home)
    throw new Failure(`sftp can't create ${FOLDER} in ${home ?? 'the home directory'} on the box; make it writable there`)
  return { home, folder }
}

async function prepareBySftp(daemon: Daemon, remote: Remote, kind: Kind, client: string): Promise<Prepared> {
  const place = `${kind}/${client}`
  const clock = `${place}/.clock`
  const enter = await entering(remote)
  const said = await remote.sftp([
    ...enter,
    `-mkdir ${kind}`,
    `-mkdir ${place}`,
    `-rm ${clock}`,
    `symlink clock ${clock}`,
    `ls -lna ${place}`,
    `rm ${clock}`,
  ])
  const { home, folder } = entered(said)
  const unsynced = timeOf(said, clock, Date.now())
  if (unsynced === undefined) throw new Failure("sftp doesn't show what time it is on the box")
  const links = await linksAmong(daemon, `${folder}/${place}/`)
  const moved = folder.startsWith(`${home}/`) ? new Map<string, string>() : await linksAmong(daemon, `${home}/${FOLDER}/${place}/`)
  const moves = [...moved].flatMap(([day, target]) => {
    const there = links.get(day)
    if (there !== undefined && there !== target) return []
    return [...(there === undefined ? [`symlink ${target} ${folder}/${place}/${day}`] : []), `-rm ${FOLDER}/${place}/${day}`]
  })
  if (moves.length > 0) await remote.sftp(moves)
  return { date: new Date(unsynced).toISOString().slice(0, 10), folder, links: new Map([...moved, ...links]), unsynced }
}

async function linksAmong(daemon: Daemon, prefix: string): Promise<Map<string, string>> {
  const ours = (await daemon.roots()).filter(({ link, path }) => link.startsWith(prefix) && isStorePath(path, storeDir))
  const days = ours.map(({ link, path }): [string, string] => [link.slice(prefix.length), path])
  return new Map(days.filter(([day]) => DAY_PATTERN.test(day)))
}

const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec']

/**
 * The time of a link in what sftp's `ls -ln` prints, in milliseconds since 1970, with TZ=UTC and
 * LC_ALL=C: `Nov 26 23:06`, or `Nov 26  2025` for one more than half a year away (OpenSSH 9.2,
 * sftp-common.c, ls_file). Pure.
 */
export function timeOf(listing: string, file: string, now: number): number | undefined {
  const line = listing.split('\n').find((one) => /^l[rwx-]{9}/.test(one) && one.endsWith(` ${file}`))
  const [, name = '', day, clock = '', year] = / ([A-Z][a-z]{2}) +(\d{1,2}) +(?:(\d\d:\d\d)|(\d{4})) \S+$/.exec(line ?? '') ?? []
  const month = MONTHS.indexOf(name)
  if (month < 0) return undefined
  if (year !== undefined) return Date.UTC(Number(year), month, Number(day))
  const [hour, minute] = clock.split(':').map(Number)
  const inYear = (one: number): number => Date.UTC(one, month, Number(day), hour, minute)
  const ours = new Date(now).getUTCFullYear()
  return [ours - 1, ours, ours + 1].map(inYear).sort((a, b) => Math.abs(a - now) - Math.abs(b - now))[0]
}

/** A link has another target than it had: another nix-lan has kept something, or let go of it. */
export class Changed extends Failure {}

const changed = (date: string): Changed => new Changed(`what the box keeps under ${date} has changed meanwhile; try again`)

/** How often to do something again when another nix-lan has changed a link meanwhile. */
const TRIES = 3

/**
 * Does something again when another nix-lan has changed a link meanwhile: an upload, gc and the daily
 * look may all keep something.
 * @throws Changed when that happens each time
 */
export async function whileChanged<T>(act: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await act()
    } catch (error) {
      if (!(error instanceof Changed) || tries >= TRIES) throw error
    }
  }
}

// rename(2), not unlink and symlink, so there is never a moment without a root. The temporary name
// starts with a dot, so it is never taken for a day's.
const LINK = `set -e
cd "$outside/$(id -un)" 2>/dev/null || { cd; mkdir -p "$folder"; cd "$folder"; }
mkdir -p "$kind/$client"
cd "$kind/$client"
if [ "$(readlink "$date")" = "$before" ]; then
  ln -s "$manifest" ".new.$$"
  mv -f ".new.$$" "$date"
  report linked "$(pwd -P)/$date"
else
  report changed yes
fi
`

/** What a day's link is to lead to. */
interface Target {
  manifest: string
  /** What it leads to now; '': there is no link. */
  before: string
}

/**
 * Makes a day's link, or has it lead to another manifest.
 * @returns its real path on the box
 * @throws Changed when it leads to something else than `before` by now (sftp can't tell); Failure
 * as Remote does
 */
export const putLink = ({ remote }: Shore, kind: Kind, client: string, date: string, { manifest, before }: Target): Promise<string> =>
  byEither(
    async () => {
      const reported = await remote.run(LINK, { folder: FOLDER, outside: OUTSIDE, kind, client, date, manifest, before })
      if (reported.has('changed')) throw changed(date)
      return linked(reported.get('linked')?.[0])
    },
    async () => {
      const place = `${kind}/${client}`
      const fresh = `${place}/.new.${process.pid}`
      // sftp's rename is posix-rename@openssh.com, which replaces (sftp(1)).
      const said = await remote.sftp([
        ...(await entering(remote)),
        `-rm ${fresh}`,
        `symlink ${manifest} ${fresh}`,
        `rename ${fresh} ${place}/${date}`,
      ])
      return linked(`${entered(said).folder}/${place}/${date}`)
    },
  )

function linked(link: string | undefined): string {
  if (link?.startsWith('/')) return link
  throw new Failure(`the box didn't create the link: ${link}`)
}

const LET_GO = `for day in $days; do
  for link in "$HOME/$folder/$kind/$client/$day" "$outside/$(id -un)/$kind/$client/$day"; do
    if [ -z "$before" ] || [ ! -L "$link" ] || [ "$(readlink "$link")" = "$before" ]; then
      rm -f "$link" || exit 1
    else
      report changed yes
    fi
  done
done
`

/**
 * Removes links; the box may then delete what nothing else keeps.
 * @param days YYYY-MM-DD
 * @param before only links that lead to this manifest; default: any
 * @throws Changed when a link leads to something else than `before` (sftp can't tell), Failure as
 * Remote does
 */
export const letGo = ({ remote }: Pick<Shore, 'remote'>, kind: Kind, client: string, days: readonly string[], before = ''): Promise<void> =>
  byEither(
    async () => {
      const reported = await remote.run(LET_GO, { folder: FOLDER, outside: OUTSIDE, kind, client, days: days.join(' '), before })
      if (reported.has('changed')) throw changed(days.join(', '))
    },
    async () => {
      const folders = [FOLDER, await outsideOf(remote)]
      await remote.sftp(days.flatMap((day) => folders.map((folder) => `-rm ${folder}/${kind}/${client}/${day}`)))
    },
  )
