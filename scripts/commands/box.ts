// nix-lan box: lists what a box keeps for its clients, lets go of some of it, and collects the
// box's garbage. Never lets anything go without asking.
import { parseSpan } from '../cli/amounts.ts'
import { nearest, type Parsed, parse } from '../cli/command.ts'
import { Away, Failure, UsageError } from '../cli/errors.ts'
import { bytes, count, oneLine, toJson } from '../cli/text.ts'
import { loadConfig, namedCache } from '../config/config.ts'
import { isSsh, type SshCache } from '../config/types.ts'
import { mustBeUser } from '../config/user.ts'
import { askLocal } from '../gc/local-daemon.ts'
import { ownKeyName } from '../keep/client.ts'
import { type BoxLook, keptIn, leavingIn, wordsOf, writeBoxLook } from '../keep/daily.ts'
import { noteForgotten, pruneGiven, sampleOf } from '../keep/given.ts'
import { clientName, contentsOf, type Link, linksIn, rewrite } from '../keep/keep.ts'
import { prepare, whileChanged } from '../keep/links.ts'
import { remoteOf } from '../keep/remote.ts'
import { openBox, type Shore } from '../keep/shore.ts'
import { holdingsOf, keepAnew } from '../keep/uploads.ts'
import { storeDir } from '../nix/store-path.ts'
import { storesOf } from '../queue/stores.ts'
import { FIRST_ANSWER, usable } from '../reach/reach.ts'
import { agreed } from '../setup/dialogue.ts'
import { runtimeDir, socketPath } from '../system/paths.ts'
import { touchSocket } from '../system/touch.ts'
import { ownTransfers } from '../system/transfers.ts'

const COMMON = `
      --json            the answer for scripts, see below
  -h, --help            show this
      --version         show the version`

const CACHE = '      --cache CACHE     which box; default: the only one'
const EXIT = `Exit code: 0 done; 1 you said no, nothing of that kind is kept, or the box
refused; 2 wrong usage or configuration; 75 not now: the box is away.`
/** The same for an action that only asks. */
const EXIT_ASKED = `Exit code: 0 done; 1 the box refused; 2 wrong usage or configuration; 75 not
now: the box is away.`

const HELP = `nix-lan box: what the box keeps, letting go of it, and its garbage collection

Usage: nix-lan box [ACTION] [OPTION…]

What was uploaded is kept on the box from its own garbage collection for as long
as \`keep\` in config.toml says; what \`nix-lan gc\` deleted here is kept until it
is forgotten. Without an action it lists.

Actions:
  list            what is kept, for which client
  forget PATH…    let go of these paths, or of what --older-than says
  gc              delete what nothing keeps on the box
  look            what the daily look finds: how much of what was uploaded is
                  still there, what goes soon, how full its disk is

Options:
${CACHE}${COMMON}

With --json, a list of objects, one for each client and day:
  kind    kept: uploaded; only: deleted on the client by nix-lan gc
  client  the name of the key that it signs with
  day     by the box's clock
  paths   how many
  size    bytes of their NARs

${EXIT}

Examples:
  nix-lan box
  nix-lan box forget --older-than 180d
  nix-lan box gc
`

const LIST = HELP.replace(/^nix-lan box: .*/, 'nix-lan box list: what the box keeps, for which client')
  .replace('Usage: nix-lan box [ACTION]', 'Usage: nix-lan box list')
  .replace(/ Without an action it lists\.\n\nActions:\n(.*\n)*?\n/, '\n\n')
  .replace(EXIT, EXIT_ASKED)
  .replace(/Examples:[\s\S]*/, 'Example:\n  nix-lan box list\n')

const FORGET = `nix-lan box forget: let go of what the box keeps

Usage: nix-lan box forget [OPTION…] PATH…
       nix-lan box forget [OPTION…] --older-than AGE

It deletes nothing yet: the box's next garbage collection does, if nothing else
there keeps the paths. What this machine has had the box forget isn't queued
again by itself; \`nix-lan queue add PATH\` queues it.

Options:
${CACHE}
      --client CLIENT   of what this client uploaded; default: this machine
      --older-than AGE  days that are longer ago, like 90d
  -y, --yes             don't ask${COMMON}

With --json, an object:
  forgotten  the paths
  links      how many links on the box were changed

${EXIT}

Examples:
  nix-lan box forget /nix/store/…-big
  nix-lan box forget --older-than 180d
`

const LOOK = `nix-lan box look: how much of what was uploaded the box still has

Usage: nix-lan box look [OPTION…]

Asks the box for up to 1000 of the paths that were uploaded to it, chosen at
random; how much it keeps, and what of that it will let go of within a week; how
full its disk is. What was fetched again since it was uploaded is kept anew. A
timer does this once a day; nix-lan status shows what it found.

Options:
${CACHE}${COMMON}

With --json, an object; sizes are in bytes:
  at       when, in milliseconds since 1970
  sample   asked and there: how many paths of each; null: nothing was uploaded
  kept     paths and bytes of what is kept of this machine's uploads
  only     paths and bytes of what nix-lan gc deleted here
  leaving  day, paths and bytes of what is let go of within a week, gone: paths
           and bytes of what is no longer here of that; null: nothing
  disk     total and free; null: not known
  anew     paths that were fetched again, and are kept anew

${EXIT_ASKED}

Example:
  nix-lan box look
`

const GC = `nix-lan box gc: delete what nothing keeps on the box

Usage: nix-lan box gc [OPTION…]

The same as nix-collect-garbage there, asked for through the tunnel: it deletes
what nothing roots, also what other users of the box have put there.

Options:
${CACHE}
  -y, --yes             don't ask${COMMON}

With --json, an object:
  deleted  the paths
  size     bytes of their NARs

${EXIT}

Example:
  nix-lan box gc
`

/** The help asked for: the action's, if one is named. @param argv what follows `box` */
export function helpFor(argv: readonly string[]): string {
  const helps: [string, string][] = [
    ['list', LIST],
    ['forget', FORGET],
    ['gc', GC],
    ['look', LOOK],
  ]
  return helps.find(([name]) => argv.includes(name))?.[1] ?? HELP
}

interface Call extends Shore {
  cache: SshCache
  /** Whose tunnel. */
  uid: number
  words: string[]
  options: Parsed
}

const ACTIONS = new Map<string, (call: Call) => Promise<number>>([
  ['list', list],
  ['forget', forget],
  ['gc', collect],
  ['look', look],
])

/** Milliseconds between two answers from a box: deleting thousands of paths is one question. */
const PATIENCE = 30 * 60_000

/** The subcommand. @param argv what follows `box` @returns the exit code */
export async function box(argv: string[]): Promise<number> {
  const options = parse(argv, { boolean: ['json', 'yes'], string: ['cache', 'client', 'older-than'], alias: { y: 'yes' } })
  const [action = 'list', ...words] = options.words
  const run = ACTIONS.get(action)
  if (!run) {
    const near = nearest(action, [...ACTIONS.keys()])
    throw new UsageError(`there is no action ${action}; ${near ? `did you mean ${near}?` : 'see nix-lan box --help'}`)
  }
  for (const option of ['client', 'older-than'])
    if (options.value(option) !== undefined && action !== 'forget') throw new UsageError(`--${option} goes with forget, not with ${action}`)
  if (words.length > 0 && action !== 'forget') throw new UsageError(`${action} takes no paths; see --help`)
  const config = loadConfig()
  mustBeUser(config, 'the tunnels and the ssh key are', 'nix-lan box')
  const boxes = config.caches.filter(isSsh)
  if (boxes.length === 0) throw new UsageError(`${config.file} has no box (a cache with host = "…")`)
  const cache = namedCache({ ...config, caches: boxes }, options.value('cache'))
  if (cache.kind !== 'ssh') throw new UsageError(`${cache.name} is a URL, not a box`)
  const answer = await usable(cache, config.uid, cache.deadline, FIRST_ANSWER)
  if (!answer.ok) throw new Away(`${cache.name} is away: ${answer.reason}`)
  const daemon = await openBox(cache, config.uid, PATIENCE)
  try {
    return await run({ cache, uid: config.uid, daemon, remote: remoteOf(cache), words, options })
  } finally {
    daemon.close()
  }
}

async function list({ cache, daemon, options }: Call): Promise<number> {
  const links = linksIn(await daemon.roots())
  const contents = await contentsOf(daemon, links)
  const infos = await daemon.infos([...new Set([...contents.values()].flatMap((paths) => [...paths]))])
  const rows = links.map(({ kind, client, day, link }) => {
    const paths = [...(contents.get(link) ?? [])]
    return { kind, client, day, paths: paths.length, size: paths.reduce((sum, path) => sum + (infos.get(path)?.size ?? 0), 0) }
  })
  if (options.flag('json')) {
    printJson(rows)
    return 0
  }
  if (rows.length === 0) print(`${cache.name} keeps nothing yet; an upload changes that, unless keep = "none"`)
  else print(table(rows))
  return 0
}

const WORDS = { kept: 'uploaded', only: 'deleted on the client by gc' } as const

function table(rows: readonly { kind: 'kept' | 'only'; client: string; day: string; paths: number; size: number }[]): string {
  const cells = [
    ['DAY', 'CLIENT', 'PATHS', 'SIZE', 'WHAT'],
    ...rows.map((row) => [row.day, row.client, String(row.paths), bytes(row.size), WORDS[row.kind]]),
  ]
  const width = (column: number): number => cells.reduce((most, row) => Math.max(most, (row[column] ?? '').length), 0)
  return cells
    .map(([day = '', client = '', paths = '', size = '', what = '']) =>
      [day.padEnd(width(0)), client.padEnd(width(1)), paths.padStart(width(2)), size.padStart(width(3)), what].join('  '),
    )
    .join('\n')
}

async function forget(call: Call): Promise<number> {
  const { words, options } = call
  const age = options.value('older-than')
  if (words.length > 0 === (age !== undefined)) throw new UsageError('forget needs either store paths, or --older-than AGE')
  const client = clientName(options.value('client') ?? (await ownKeyName()))
  const which = age === undefined ? thesePaths(words.map(storePath)) : olderThan(age)
  const folder = await settle(call, client)
  const changes = changesTo(await keptBy(call, client, folder), which)
  const asked = new Set(changes.flatMap(({ gone }) => gone))
  if (changes.length === 0) throw new Failure(`${call.cache.name} keeps nothing of that kind for ${client}; see nix-lan box list`)
  const only = changes.filter(({ link }) => link.kind === 'only').flatMap(({ gone }) => gone).length
  const warning = only === 0 ? '' : `, of which ${only} were deleted here by nix-lan gc and may be nowhere else`
  if (!(await agreed(`Let go of ${count(asked.size, 'path')} on ${call.cache.name}${warning}?`, options.flag('yes')))) return 1
  const agreedOn = new Set(changes.flatMap(({ link: { kind }, gone }) => gone.map((path) => `${kind} ${path}`)))
  // what gc has deleted here since the question is not let go of
  const still: Which = (link, path) => which(link, path) && agreedOn.has(`${link.kind} ${path}`)
  const { contents, done } = await letGoOf(call, client, folder, still)
  const forgotten = new Set(done.flatMap(({ gone }) => gone))
  if (client === clientName(await ownKeyName())) {
    const left = new Map(done.map(({ link, left }) => [link.link, left]))
    const kept = new Set([...contents].flatMap(([{ link }, paths]) => left.get(link) ?? [...paths]))
    noteForgotten(
      ownTransfers(),
      call.cache.name,
      [...forgotten].filter((path) => !kept.has(path)),
    )
  }
  if (options.flag('json')) printJson({ forgotten: [...forgotten], links: done.length })
  else print(`${count(forgotten.size, 'path')} no longer kept; the box's next garbage collection deletes them (nix-lan box gc)`)
  return 0
}

/** What a box keeps for a client, link by link. */
type Kept = ReadonlyMap<Link, ReadonlySet<string>>

async function keptBy({ daemon }: Shore, client: string, folder: string): Promise<Kept> {
  const links = linksIn(await daemon.roots()).filter((link) => link.client === client && link.link.startsWith(`${folder}/`))
  const contents = await contentsOf(daemon, links)
  return new Map(links.map((link) => [link, contents.get(link.link) ?? new Set()]))
}

/** Lets go of what is kept by now: the question may have stood for long. */
async function letGoOf(shore: Shore, client: string, folder: string, which: Which): Promise<{ contents: Kept; done: Change[] }> {
  const done: Change[] = []
  const contents = await whileChanged(async () => {
    const contents = await keptBy(shore, client, folder)
    for (const change of changesTo(contents, which)) {
      await rewrite(shore, change.link, change.left)
      done.push(change)
    }
    return contents
  })
  return { contents, done }
}

function ignoreFailure(error: unknown): void {
  if (!(error instanceof Failure)) throw error
}

/** Has all links of a client where they belong (links.ts, OUTSIDE). @returns what holds them */
async function settle(shore: Shore, client: string): Promise<string> {
  await prepare(shore, 'only', client)
  return (await prepare(shore, 'kept', client)).folder
}

interface Change {
  link: Link
  gone: string[]
  left: string[]
}

/** Whether to let go of a path that a link keeps. */
type Which = (link: Link, path: string) => boolean

const thesePaths =
  (paths: readonly string[]): Which =>
  (_, path) =>
    paths.includes(path)

function olderThan(age: string): Which {
  const seconds = parseSpan(age)
  if (seconds === undefined) throw new UsageError(`--older-than ${age}: not an age like 90d or 4w`)
  const day = new Date(Date.now() - seconds * 1000).toISOString().slice(0, 10)
  return (link) => link.day < day
}

function changesTo(contents: Kept, which: Which): Change[] {
  return [...contents].flatMap(([link, paths]) => {
    const gone = new Set([...paths].filter((path) => which(link, path)))
    return gone.size === 0 ? [] : [{ link, gone: [...gone], left: [...paths].filter((path) => !gone.has(path)) }]
  })
}

/** A store path as typed on the command line; it need not be here any more. */
function storePath(word: string): string {
  const path = word.startsWith('/') ? word : `${storeDir}/${word}`
  const [, name] = new RegExp(`^${storeDir}/([0-9a-z]{32}-[^/]+)`).exec(path) ?? []
  if (name === undefined) throw new UsageError(`${word} is not a store path like ${storeDir}/HASH-NAME`)
  return `${storeDir}/${name}`
}

/** More paths than this tell no more: the share of a thousand is right to three percent. */
const SAMPLE = 1000

async function look({ cache, uid, daemon, remote, options }: Call): Promise<number> {
  const client = clientName(await ownKeyName())
  const directory = ownTransfers()
  const now = Date.now()
  const askHere = askLocal(runtimeDir(uid))
  await settle({ daemon, remote }, client).catch(ignoreFailure) // of a box that runs neither sh nor sftp
  const before = await holdingsOf(daemon, client, askHere)
  const anew = cache.keep === 0 || cache.keep === null ? [] : await keepAnew({ daemon, remote }, client, before)
  const own = anew.length === 0 ? before : await holdingsOf(daemon, client, askHere)
  const all = [...new Set([...own.contents.values()].flatMap((paths) => [...paths]))]
  const holdings = { ...own, sizes: await daemon.infos(all) }
  const asked = sampleOf(pruneGiven(directory, cache.name, cache.keep || null, now), SAMPLE).map(({ path }) => path)
  const found: BoxLook = {
    at: now,
    sample: asked.length === 0 ? null : { asked: asked.length, there: (await daemon.valid(asked)).size },
    ...keptIn(holdings),
    leaving: leavingIn(holdings, cache.keep, now),
    disk: (await storesOf(cache, uid).disk()) ?? null,
  }
  writeBoxLook(directory, cache.name, found)
  if (options.flag('json')) printJson({ ...found, anew })
  else {
    for (const { text } of wordsOf(found)) print(text)
    if (anew.length > 0) print(`${count(anew.length, 'path')} fetched again: kept anew`)
  }
  return 0
}

async function collect({ cache, uid, daemon, options }: Call): Promise<number> {
  const dead = await daemon.infos(await daemon.dead())
  const size = [...dead.values()].reduce((sum, info) => sum + info.size, 0)
  if (dead.size > 0) {
    const question = `Delete ${count(dead.size, 'path')}, ${bytes(size)}, that nothing keeps on ${cache.name}?`
    if (!(await agreed(question, options.flag('yes')))) return 1
    await daemon.collectDead()
    touchSocket(socketPath(uid, cache.name), uid)
  }
  if (options.flag('json')) printJson({ deleted: [...dead.keys()], size })
  else
    print(dead.size === 0 ? `nothing to delete on ${cache.name}` : `${count(dead.size, 'path')}, ${bytes(size)}, deleted on ${cache.name}`)
  return 0
}

const print = (text: string): void => void process.stdout.write(`${text.split('\n').map(oneLine).join('\n')}\n`)
const printJson = (value: unknown): void => void process.stdout.write(`${toJson(value, 2)}\n`)
