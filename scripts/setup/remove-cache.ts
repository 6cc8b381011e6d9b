// Cleans up after caches that were removed from the configuration or renamed. Their queues would
// keep paths from garbage collection forever, and their units would fail forever.
import { chownSync, existsSync, mkdirSync, readdirSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { Failure, UsageError } from '../cli/errors.ts'
import { count } from '../cli/text.ts'
import { parseConfig } from '../config/parse.ts'
import { type Config, isSsh } from '../config/types.ts'
import { type Person, runAs } from '../system/as-user.ts'
import { run } from '../system/exec.ts'
import { failedDir, queueDir } from '../system/paths.ts'
import { brokerTransfers, ROOT_TRANSFERS, userTransfers } from '../system/transfers.ts'
import type { User } from '../system/users.ts'
import { inspect, put } from './files.ts'
import type { BoxDeed } from './record.ts'
import type { Item } from './show.ts'

/** A queue without a cache. */
export interface Stray {
  name: string
  queued: number
  failed: number
  /** The cache it belongs to now; undefined: none. */
  to: string | undefined
}

/**
 * Decides which queues have no cache, and what happens to each; pure. A queue moves to the cache
 * with the same login, or to the only new cache if no other queue lacks one.
 * @param queues names of the queues that exist
 * @param deeds what setup did on the boxes
 */
export function straysAmong(queues: readonly string[], config: Config, deeds: readonly BoxDeed[]): Pick<Stray, 'name' | 'to'>[] {
  const caches = config.caches.filter(isSsh)
  const lost = queues.filter((name) => !caches.some((cache) => cache.name === name))
  const fresh = caches.filter(({ name }) => !queues.includes(name))
  return lost.map((name) => {
    const login = deeds.find(({ cache }) => cache === name)?.ssh
    const same = fresh.find(({ ssh }) => ssh === login)
    const only = lost.length === 1 && fresh.length === 1 && login === undefined ? fresh[0] : undefined
    return { name, to: (same ?? only)?.name }
  })
}

/**
 * The queues without a cache, and what is in them.
 * @param moves the user's decisions: the new name, or null for none
 */
export function findStrays(config: Config, deeds: readonly BoxDeed[], moves: ReadonlyMap<string, string | null> = new Map()): Stray[] {
  const names = [...new Set([queueDir('x'), failedDir('x')].flatMap((path) => directoriesIn(dirname(path))))]
  return straysAmong(names, config, deeds).map(({ name, to }) => ({
    name,
    queued: entriesIn(queueDir(name)),
    failed: entriesIn(failedDir(name)),
    to: moves.has(name) ? (moves.get(name) ?? undefined) : to,
  }))
}

const directoriesIn = (path: string): string[] =>
  existsSync(path) ? readdirSync(path).filter((name) => inspect(`${path}/${name}`).kind === 'directory') : []

/** Paths in a queue, without the hidden files beside them that hold the reasons for failures. */
export const entriesIn = (directory: string): number =>
  existsSync(directory) ? readdirSync(directory).filter((name) => !name.startsWith('.')).length : 0

/** What setup will do about a stray queue, for the plan; pure. */
export function strayItem({ name, queued, failed, to }: Stray, config: string): Item {
  const what = [count(queued, 'path'), ...(failed > 0 ? [`${failed} that could not be uploaded`] : [])].join(' and ')
  const title =
    to === undefined
      ? `let go of the queue of ${name}, which ${config} no longer has: ${what}`
      : `move the queue of ${name}, now called ${to}: ${what}`
  const lines =
    to === undefined && queued + failed > 0 ? ['they stay in the store until garbage collection; rename the cache to keep them queued'] : []
  return { title: `${title}, and stop its units`, lines, rank: 0 }
}

/**
 * Moves a queue to its new cache, or drops it. Links in the user's directory are moved and removed
 * as the user; the directory itself is inside one of root's.
 * @throws Failure with what the program said
 */
export async function settle({ name, to }: Stray, person: Person): Promise<void> {
  for (const place of [queueDir, failedDir]) {
    const from = place(name)
    if (!existsSync(from)) continue
    if (to !== undefined)
      await mustRun(person, ['find', from, '-mindepth', '1', '-maxdepth', '1', '-exec', 'mv', '-n', '-t', place(to), '--', '{}', '+'])
    // Whatever is left is already in the new queue.
    await mustRun(person, ['find', from, '-mindepth', '1', '-delete'])
    put({ path: from, kind: 'missing' })
  }
  if (to !== undefined)
    await moveCounts(
      [
        { directory: userTransfers(person.home, undefined) ?? '' },
        { directory: ROOT_TRANSFERS, ours: true },
        { directory: brokerTransfers(name), becomes: brokerTransfers(to) },
      ],
      name,
      to,
      person,
    )
  await runAs(person, ['rm', '-f', '--', `${person.home}/.local/share/systemd/timers/stamp-nix-lan-built@${name}.timer`], {
    timeout: 20_000,
  })
}

/** What a file of counts or notes (system/transfers.ts, keep/) is called after a rename; undefined: as before. Pure. */
export function renamedNote(file: string, from: string, to: string): string | undefined {
  const [, kind, rest = ''] = new RegExp(`^([a-z]+)\\.${from}(\\..*)?$`).exec(file) ?? []
  if (kind !== undefined) return `${kind}.${to}${rest}`
  const [, before, after] = new RegExp(`^(fetched\\..*%2F)${from}(\\.sock\\..*)$`).exec(file) ?? []
  return before === undefined ? undefined : `${before}${to}${after}`
}

/**
 * Has what was counted and noted for a cache go on under its new name. What is there under the new
 * name stays. Never fails a setup.
 * @param places each directory, and the one it becomes; all of it is done as the user, who may have
 *   put links on the way, but for what is `ours`
 */
export async function moveCounts(
  places: readonly { directory: string; becomes?: string; ours?: boolean }[],
  from: string,
  to: string,
  person: Person,
): Promise<void> {
  for (const { directory, becomes = directory, ours = false } of places) {
    if (inspect(directory).kind !== 'directory') continue
    const pairs = readdirSync(directory).flatMap((file) => {
      const now = renamedNote(file, from, to)
      return now === undefined ? [] : [`${directory}/${file}`, `${becomes}/${now}`]
    })
    if (becomes !== directory && !existsSync(becomes)) {
      const { uid, gid } = statSync(directory)
      mkdirSync(becomes, { mode: 0o755 })
      chownSync(becomes, uid, gid)
    }
    const argv = ['sh', '-c', 'while [ $# -gt 1 ]; do mv -n -- "$1" "$2"; shift 2; done', 'sh', ...pairs]
    if (ours) await run('sh', argv.slice(1), { timeout: 20_000 })
    else await runAs(person, argv, { timeout: 20_000 })
    if (becomes !== directory) await runAs(person, ['find', directory, '-mindepth', '1', '-delete'], { timeout: 20_000 })
    if (becomes !== directory) put({ path: directory, kind: 'missing' })
  }
}

async function mustRun(person: Person, argv: string[]): Promise<void> {
  const { code, stderr, failedToStart } = await runAs(person, argv, { timeout: 60_000 })
  if (code !== 0) throw new Failure(`${argv[1]} can't be emptied: ${stderr.trim() || failedToStart}`)
}

// ---- config.toml

const header = (name: string): RegExp => new RegExp(`^\\s*\\[\\s*cache\\s*\\.\\s*(?:"${name}"|'${name}'|${name})\\s*\\]`)

/**
 * config.toml without a cache; pure. Comments above the next table stay.
 * @throws UsageError if that can't be done line by line, or no cache would be left
 */
export function withoutCache(text: string, name: string, file: string, user: User): string {
  mustHave(text, name, file, user)
  const lines = text.split('\n')
  const start = lines.findIndex((line) => header(name).test(line))
  const next = lines.findIndex((line, i) => i > start && /^\s*\[/.test(line))
  let end = next < 0 ? lines.length : next
  while (next >= 0 && end > start + 1 && /^\s*(#|$)/.test(lines[end - 1] ?? '')) end--
  const rest = [...lines.slice(0, start), ...lines.slice(end)]
    .join('\n')
    .replace(/\n{3,}/g, '\n\n')
    .trimEnd()
  return checked(`${rest}\n`, text, name, undefined, file, user)
}

/**
 * config.toml with a cache renamed; pure.
 * @throws UsageError if that can't be done line by line
 */
export function withRenamed(text: string, name: string, to: string, file: string, user: User): string {
  mustHave(text, name, file, user)
  const lines = text.split('\n').map((line) => (header(name).test(line) ? line.replace(/\[[^\]]*\]/, `[cache.${to}]`) : line))
  return checked(lines.join('\n'), text, name, to, file, user)
}

function mustHave(text: string, name: string, file: string, user: User): void {
  const names = parseConfig(text, file, () => user).caches.map((cache) => cache.name)
  if (!names.includes(name)) throw new UsageError(`no cache is called ${name}; ${file} has ${names.join(', ')}`)
  if (!text.split('\n').some((line) => header(name).test(line)))
    throw new UsageError(`${file} has ${name}, but not below a line [cache.${name}]; change it there, then run setup again`)
}

/**
 * The new text, if that cache is all that differs.
 * @throws UsageError otherwise
 */
function checked(text: string, before: string, name: string, to: string | undefined, file: string, user: User): string {
  const was = parseConfig(before, file, () => user).caches
  if (to === undefined && was.length === 1) throw new UsageError(`${name} is the only cache; to remove nix-lan: sudo nix-lan setup --undo`)
  if (was.some((cache) => cache.name === to)) throw new UsageError(`${file} already has a cache ${to}`)
  const meant = was.flatMap((cache) => (cache.name !== name ? [cache] : to === undefined ? [] : [{ ...cache, name: to }]))
  if (JSON.stringify(parseConfig(text, file, () => user).caches) === JSON.stringify(meant)) return text
  throw new UsageError(`setup can't take [cache.${name}] out of ${file} by itself; change it there, then run setup again`)
}
