// Undoes the setup: restores what the record says was there before. nix.conf comes first, with a
// restart of the daemon, before anything it names is removed. What somebody else has changed since
// stays, and is reported.
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { Failure, UsageError } from '../cli/errors.ts'
import { count } from '../cli/text.ts'
import { parseConfig } from '../config/parse.ts'
import { type Config, isSsh, type SshCache } from '../config/types.ts'
import { daemonPid, daemonState } from '../nix/daemon.ts'
import { readText } from '../nix/nix-conf.ts'
import { type Person, runAs } from '../system/as-user.ts'
import { realPath } from '../system/files.ts'
import { isBusy, takeLock } from '../system/lock.ts'
import { failedDir, queueDir, runtimeDir } from '../system/paths.ts'
import { lingers, systemdRuns } from '../system/systemd.ts'
import { ROOT_TRANSFERS, userTransfers } from '../system/transfers.ts'
import { effectiveUid, findUser, type User } from '../system/users.ts'
import { formerIn, withoutBlock } from './conf.ts'
import { agreed, attempt, done, say } from './dialogue.ts'
import { findNixConf } from './facts.ts'
import { inspect, isRight, markOf, put, type Seen, unfinished, type Want } from './files.ts'
import { foundRecord, foundUser, prefixIn } from './found.ts'
import { type Layout, ownerIn, systemLayout, userLayout } from './layout.ts'
import { howCalled, type Options } from './machine.ts'
import { forgetBrokers, forgetUnits, hasManager, setLinger, stopBrokers, stopUnits } from './manager.ts'
import { type Cleaning, cleaningOf, type Line, type Removed } from './mentions.ts'
import { personOf } from './person.ts'
import { type Entry, type Record, readRecord, writeRecord } from './record.ts'
import { entriesIn } from './remove-cache.ts'
import { restoreBoxes } from './restore-box.ts'
import { restartDaemon } from './setup.ts'
import { whyNotWritten } from './writable.ts'

/**
 * What to do with one path. `want` is undefined if the path is as it was, or isn't ours to change.
 */
export interface Restoration {
  path: string
  want: Want | undefined
  /** Seconds since 1970: the file's earlier mtime. */
  mtime?: number
  /** Why it stays, if it isn't as it was. */
  left?: string
}

/**
 * Decides what to do with one path; pure.
 * @param backup reads a backup
 */
export function restorationOf(entry: Entry, seen: Seen, backup: (name: string) => Buffer): Restoration {
  const { path, before, ours } = entry
  const known = ours.includes(markOf(seen)) || (before.kind === 'file' ? before.mark : markOf(before)) === markOf(seen)
  if (!known) {
    if (seen.kind === 'missing') return { path, want: undefined }
    return { path, want: undefined, left: 'changed since setup wrote it' }
  }
  const want = wantOf(entry, backup)
  return isRight(want, seen) ? { path, want: undefined } : { path, want, ...(before.kind === 'file' ? { mtime: before.mtime } : {}) }
}

function wantOf({ path, before }: Entry, backup: (name: string) => Buffer): Want {
  if (before.kind === 'missing') return { path, kind: 'missing' }
  if (before.kind === 'link') return { path, kind: 'link', target: before.target }
  const { mode, uid, gid } = before
  if (before.kind === 'directory') return { path, kind: 'directory', mode, uid, gid }
  return { path, kind: 'file', content: backup(before.backup), mode, uid, gid }
}

/**
 * nix.conf without what is ours; pure. If nothing else has changed, the original is restored;
 * otherwise the changes stay.
 * @param rest its text, one character per byte, without what is ours
 * @throws Failure for a block without an end
 */
export function nixConfRestoration(
  entry: Entry,
  seen: Seen,
  backup: (name: string) => Buffer,
  rest = (text: string): string => withoutBlock(text, entry.path),
): Restoration {
  const { path, before } = entry
  if (seen.kind !== 'file') return { path, want: undefined }
  const text = seen.content.toString('latin1') // bytes: lines added since may have any encoding
  const left = rest(text)
  const original = before.kind === 'file' ? backup(before.backup).toString('latin1') : ''
  if (left === original || left === `${original}\n`) return restorationOf({ ...entry, ours: [markOf(seen)] }, seen, backup)
  if (left === text) return { path, want: undefined }
  const { mode, uid, gid } = seen
  return { path, want: { path, kind: 'file', content: Buffer.from(left, 'latin1'), mode, uid, gid } }
}

/**
 * `nix-lan setup --undo`.
 * @returns the exit code
 */
export async function undo(options: Options, argv: readonly string[]): Promise<number> {
  const self = effectiveUid()
  const layout = layoutHere(self)
  const known = readRecord(layout.record)
  const owner = known ? undefined : (foundUser(layout) ?? findUser(process.env.SUDO_USER ?? self))
  const user = known ? (findUser(known.user) ?? { name: known.user, uid: known.uid, home: '/' }) : owner
  const config = user && configOf(layout, user)
  const caches = config?.caches.filter(isSsh) ?? []
  const top = topConf(layout, user)
  const record = known ?? (user && foundRecord(layout, user, findNixConf(top, readText).file, caches))
  if (!record || !user) {
    if (self !== 0 && existsSync('/etc/nix-lan')) throw new UsageError(`this needs root: sudo ${howCalled(argv)}`)
    removeLeftovers(layout)
    say('Nothing is set up here.')
    return 0
  }
  const lock = layout.single ? undefined : await takeLock('/run/nix-lan-setup.lock')
  if (lock && isBusy(lock)) throw new Failure('another nix-lan setup is running')
  const removed = removedBy(record, layout)
  const cleaning = cleaningOf(top, readBytes, removed)
  const own = layout.single ? undefined : cleaningOf(`${user.home}/.config/nix/nix.conf`, readBytes, { ...removed, publicKeys: [] }) // a key does no harm
  mustBeCleanable(cleaning, layout, own)
  const person = await personOf(user, caches[0]?.envFile ?? `${user.home}/.bashrc`)
  const waiting = await findWaiting(caches, person, layout)
  if (!known) say(`The record of the setup, ${layout.record}, is gone. This is what was found without it.\n`)
  sayPlan(record, waiting, options, cleaning)
  if (options.dryRun) return 0
  if (!(await agreed('Undo the setup?', options.yes))) {
    say('Nothing was changed.')
    return 1
  }
  for (const { cache, usable } of waiting) if (usable) await uploadFirst(cache, person, layout)
  const code = await takeBack(record, layout, person, options, cleaning, caches)
  if (!known && lingers(user.name)) say(`Whether setup enabled lingering isn't known. To end it: sudo loginctl disable-linger ${user.name}`)
  return code
}

/** Where setup would have put things for us: from the record, or from what names that place. */
function layoutHere(self: number): Layout {
  const user = self === 0 ? undefined : findUser(self)
  if (user) return userLayout(user)
  const { units } = systemLayout('/usr/local')
  const found = (): string | undefined => prefixIn([readText('/etc/nix/nix.conf') ?? '', readText(`${units}/nix-lan-check.service`) ?? ''])
  return systemLayout(readRecord('/etc/nix-lan/setup.json')?.prefix ?? found() ?? '/usr/local')
}

const topConf = ({ single }: Layout, user: User | undefined): string =>
  single && user ? `${user.home}/.config/nix/nix.conf` : '/etc/nix/nix.conf'

/** A file's bytes as a string, one character each. */
const readBytes = (path: string): string | undefined => {
  const seen = existsSync(path) ? inspect(realPath(path)) : undefined
  return seen?.kind === 'file' ? seen.content.toString('latin1') : undefined
}

/** What undo removes, excluding what was there before setup. */
function removedBy({ entries }: Record, layout: Layout): Removed {
  const goes = (path: string): boolean => !entries.some((entry) => entry.path === path && entry.before.kind !== 'missing')
  const both = `${layout.etc}/post-build-hook`
  return {
    connect: goes(`${layout.lib}/nix-lan-connect`) && goes(`${layout.bin}/nix-lan-connect`) ? `${layout.bin}/nix-lan-connect` : undefined,
    hooks: [`${layout.lib}/post-build-hook`, both].filter(goes),
    formerHook: formerIn(readText(both) ?? ''),
    secretKey: layout.secretKey,
    publicKeys: (readText(layout.publicKey) ?? '').split(/\s+/).filter(Boolean),
    directories: goes(`${layout.lib}/nix-lan-connect`) ? [layout.lib] : [],
  }
}

/**
 * Runs before anything is changed.
 * @param own the user's own nix.conf beside the system's: it isn't ours to change, and an account
 * that nix-daemon trusts can't build with what it would name
 * @throws Failure that names each line in the way
 */
export function mustBeCleanable({ texts, lines, unclear }: Cleaning, { single }: Pick<Layout, 'single'>, own?: Cleaning): void {
  const fixed = [...texts.keys()].flatMap((named) => {
    const why = whyNotWritten({ named, file: realPath(named) }, !single)
    return why === undefined ? [] : [{ named, why }]
  })
  const problems = [
    ...fixed.map(({ named, why }) => `${named} ${why}: undo can't change it`),
    ...[
      ...unclear,
      ...lines.filter(({ file }) => fixed.some(({ named }) => named === file)),
      ...(own?.lines ?? []),
      ...(own?.unclear ?? []),
    ].map(textOfLine),
  ]
  if (problems.length === 0) return
  throw new Failure(
    `these lines name what undo removes, and builds would fail; remove them and run it again. Nothing was changed.\n  ${problems.join('\n  ')}`,
  )
}

const textOfLine = ({ file, number, text }: Line): string => `${file}:${number}: ${Buffer.from(text, 'latin1').toString().trim()}`

/** Removes the leftovers of a run killed before it wrote its record. */
function removeLeftovers({ etc, backups, record }: Layout): void {
  rmSync(unfinished(record), { force: true })
  if (existsSync(backups) && readdirSync(etc).every((name) => name === 'setup.before')) rmSync(backups, { recursive: true })
  if (existsSync(etc) && readdirSync(etc).length === 0) put({ path: etc, kind: 'missing' })
}

/** The current configuration; without it, undo only doesn't know what is queued. */
function configOf(layout: Layout, user: User): Config | undefined {
  try {
    return parseConfig(readText(layout.config) ?? '', layout.config, () => user)
  } catch {
    return undefined
  }
}

interface Waiting {
  cache: SshCache
  paths: number
  usable: boolean
}

async function findWaiting(caches: readonly SshCache[], person: Person, { bin }: Layout): Promise<Waiting[]> {
  const found: Waiting[] = []
  for (const cache of caches) {
    const paths = entriesIn(queueDir(cache.name))
    if (paths === 0) continue
    const asked = await runAs(person, [`${bin}/nix-lan-available`, '--usable', cache.name], { timeout: 70_000 })
    found.push({ cache, paths, usable: asked.code === 0 })
  }
  return found
}

function sayPlan({ user, nixConf, box, linger }: Record, waiting: readonly Waiting[], { forgetKey }: Options, { lines }: Cleaning): void {
  say(`nix-lan was set up for ${user}. To do:\n`)
  for (const { cache, paths, usable } of waiting) {
    if (usable) say(`  upload what is queued for ${cache.name}: ${count(paths, 'path')}`)
    else say(`  keep the queue of ${cache.name}, which is away: ${count(paths, 'path')} in ${queueDir(cache.name)}`)
  }
  say(`  remove our block from ${nixConf} and restart nix-daemon`)
  for (const line of lines) say(`  remove what names nix-lan from ${textOfLine(line)}`)
  say(`  stop the units of ${user}`)
  for (const deed of box)
    say(
      `  on ${deed.ssh}: ${[deed.key ? `no longer trust ${deed.key.replace(/:.*/, '')}` : '', deed.member ? `take ${deed.member.replace(' ', ' out of the group ')}` : ''].filter(Boolean).join(', ')}`,
    )
  if (linger) say(`  no longer start ${user}'s systemd at boot: loginctl disable-linger ${user}`)
  say('  restore the files')
  say(forgetKey ? '  remove the signing key\n' : '  keep the signing key (--forget-key: remove it as well)\n')
}

async function uploadFirst({ name }: SshCache, person: Person, { bin }: Layout): Promise<void> {
  const uploaded = await runAs(person, [`${bin}/nix-lan`, 'queue', 'upload', '--cache', name], { inherit: ['stdout', 'stderr'] })
  if (uploaded.code !== 0) say(`  some paths could not be uploaded to ${name} and stay queued; nix-lan queue says why`)
}

async function takeBack(
  record: Record,
  layout: Layout,
  person: Person,
  options: Options,
  cleaning: Cleaning,
  caches: readonly SshCache[],
): Promise<number> {
  const backup = (name: string): Buffer => readFileSync(`${layout.backups}/${name}`)
  await restoreNixConf(record, layout, backup, cleaning)
  let problems = 0
  if (hasManager(person)) problems += await attempt('units stopped', () => stopUnits(person))
  const brokers = layout.systemUnits !== undefined && systemdRuns()
  if (brokers) await stopBrokers('*')
  problems += await restoreBoxes(record.box, person, caches)
  if (existsSync(layout.record)) {
    const owner = ownerIn(layout, person.uid, statSync(layout.etc).gid)
    writeRecord({ ...record, box: [] }, layout, owner, inspect)
  }
  problems += restoreFiles(record, layout, backup, options.forgetKey)
  if (hasManager(person)) await forgetUnits(person)
  if (brokers) await forgetBrokers()
  await removeTraces(record, layout, person)
  // Last: it ends the systemd manager that the earlier steps need.
  if (record.linger && lingers(person.name)) problems += await attempt(`lingering of ${person.name} is off`, () => setLinger(person, false))
  sayQueue(record)
  removeRecord(record, layout)
  say(problems === 0 ? 'nix-lan is gone.' : 'nix-lan is gone, except for what is named above.')
  return problems === 0 ? 0 : 1
}

async function restoreNixConf(record: Record, layout: Layout, backup: (name: string) => Buffer, { texts }: Cleaning): Promise<void> {
  const files = new Map([[record.nixConf, undefined], ...[...texts].map(([named, text]) => [realPath(named), text] as const)])
  const changes = [...files].map(([path, text]): Restoration => {
    const seen = inspect(path)
    const entry = record.entries.find((one) => one.path === path)
    if (entry) return nixConfRestoration(entry, seen, backup, text === undefined ? undefined : () => text)
    if (text === undefined || seen.kind !== 'file') return { path, want: undefined }
    return { path, want: { ...seen, path, content: Buffer.from(text, 'latin1') } }
  })
  for (const { want, mtime } of changes) {
    if (!want) continue
    put(want, mtime)
    done(`our lines removed from ${want.path}`)
  }
  const changed = statSync(record.nixConf, { throwIfNoEntry: false })?.ctimeMs ?? Date.now()
  if (!layout.single && (changes.some(({ want }) => want) || daemonState(await daemonPid(), changed) === 'outdated')) await restartDaemon()
}

/**
 * Restores in reverse order.
 * @returns the number of paths that stay
 */
function restoreFiles(record: Record, layout: Layout, backup: (name: string) => Buffer, forgetKey: boolean): number {
  const keys = [layout.secretKey, layout.publicKey]
  const skipped = new Set([record.nixConf, layout.etc, ...(forgetKey ? [] : keys)])
  let left = 0
  for (const entry of [...record.entries].reverse()) {
    rmSync(unfinished(entry.path), { force: true })
    if (skipped.has(entry.path)) continue
    const restoration = restorationOf(entry, inspect(entry.path), backup)
    if (restoration.want) put(restoration.want, restoration.mtime)
    else if (restoration.left) {
      left++
      say(`  left: ${entry.path}, ${restoration.left}`)
    }
  }
  if (forgetKey) for (const path of keys) put({ path, kind: 'missing' })
  done('files restored')
  return left
}

/** Removes what our programs left: root's counts and notes as root, the user's as the user. */
async function removeTraces(record: Record, layout: Layout, person: Person): Promise<void> {
  const caches = record.entries
    .map(({ path }) => path)
    .filter((path) => path.startsWith(queueDir('')))
    .map((path) => path.slice(queueDir('').length))
  if (!layout.single) {
    rmSync('/run/nix-lan', { recursive: true, force: true })
    for (const path of existsSync(ROOT_TRANSFERS) ? readdirSync(ROOT_TRANSFERS).map((name) => `${ROOT_TRANSFERS}/${name}`) : []) {
      // A broker's counts are the user's: root doesn't walk through what a user can change meanwhile.
      if (inspect(path).kind === 'directory') await runAs(person, ['find', path, '-mindepth', '1', '-delete'], { timeout: 20_000 })
      put({ path, kind: 'missing' })
    }
    put({ path: ROOT_TRANSFERS, kind: 'missing' })
  }
  const stamps = caches.map((cache) => `${person.home}/.local/share/systemd/timers/stamp-nix-lan-built@${cache}.timer`)
  await runAs(person, ['rm', '-rf', '--', ...stamps, userTransfers(person.home, undefined) ?? '', runtimeDir(person.uid)], {
    timeout: 20_000,
  })
  // Only empty ones that didn't exist before.
  for (const directory of [...record.home].reverse()) await runAs(person, ['rmdir', '--', directory], { timeout: 20_000 })
}

function sayQueue({ entries }: Record): void {
  const queues = entries.map(({ path }) => path).filter((path) => path.startsWith(`${queueDir('')}`) || path.startsWith(failedDir('')))
  for (const path of queues) {
    const paths = entriesIn(path)
    if (paths > 0) say(`  kept: ${path}, with ${count(paths, 'path')}; its links keep them from garbage collection until you remove them`)
  }
}

function removeRecord(record: Record, layout: Layout): void {
  rmSync(layout.backups, { recursive: true, force: true })
  put({ path: layout.record, kind: 'missing' })
  // Our directory, then the parents that setup created for it.
  const upwards = [...record.entries].reverse().filter(({ path }) => `${layout.etc}/`.startsWith(`${path}/`))
  for (const { path, before } of upwards) if (before.kind === 'missing') put({ path, kind: 'missing' })
}
