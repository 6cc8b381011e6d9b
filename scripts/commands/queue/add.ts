// nix-lan queue add: queues the paths named, or what was built here and the box lacks.
import { basename } from 'node:path'
import { Away, Failure, UsageError } from '../../cli/errors.ts'
import { age, bytes as inBytes } from '../../cli/text.ts'
import type { Config, SshCache } from '../../config/types.ts'
import { mustBeUser } from '../../config/user.ts'
import { readForgotten, unforget } from '../../keep/given.ts'
import { invalidPaths, NixError, requisites } from '../../nix/nix.ts'
import { allPathInfos } from '../../nix/path-info.ts'
import { storeDir } from '../../nix/store-path.ts'
import { type Backfill, sortBackfill, type What } from '../../queue/backfill.ts'
import { enqueue, readQueue } from '../../queue/queue.ts'
import { storeNameOf } from '../../queue/store-name.ts'
import { storesOf } from '../../queue/stores.ts'
import { wanted } from '../../queue/upload.ts'
import { ownTransfers } from '../../system/transfers.ts'
import { readUploadState } from '../../system/upload-state.ts'
import { effectiveUid } from '../../system/users.ts'
import { type Action, CACHE, type Call, JSON_OPTION, paths, print, printJson, say } from './action.ts'

export const add: Action = {
  name: 'add',
  summary: 'queue store paths',
  forms: [
    ['PATH…', 'queue store paths, or links to them such as ./result'],
    ['--built', 'queue what was built here and the box lacks'],
    ['--closure PATH…', 'queue all that these need and the box lacks'],
    ['--all', 'queue all of this store that the box lacks'],
  ],
  about: [
    'A new box is filled by `add --built`, by `add --closure /run/current-system`, or by `add --all`. It shows how many paths and bytes that is, and how long they take at the rate of the last upload. --closure leaves out what came here from another cache, since it can be had from there. Interrupted or run again, it queues only what is still missing.',
    'The output of a content-addressed derivation (ca-derivations) is uploaded as a path, without its realisation: it comes back as a dependency, not by its derivation.',
  ],
  options: [
    CACHE,
    { long: 'built', text: 'what was built here' },
    { long: 'closure', text: 'the paths and all they need, but for what other caches have' },
    { long: 'all', text: 'every valid path of the store' },
    { long: 'dry-run', text: 'with --built, --closure, --all: show how much it is, and queue nothing' },
    JSON_OPTION,
  ],
  json: {
    what: 'an object for each cache',
    keys: [
      ['cache', 'its name'],
      ['added', 'names of the paths that were queued'],
      ['there', 'how many were queued before'],
      ['unwanted', 'how many the configuration keeps out'],
      ['bytes', 'with --built, --closure, --all, as all that follow: bytes of what was queued'],
      ['seconds', 'how long that takes at the rate of the last upload; null: not known'],
      ['onBox', 'how many the box has'],
      ['failed', 'how many failed before'],
      ['unsigned', 'how many are unsigned, or need something unsigned'],
      ['elsewhere', 'how many another cache has'],
      ['forgotten', 'with --built: how many you had the box forget; name them to queue them'],
    ],
  },
  exit: '0 done; 1 failed, nothing was queued; 2 wrong usage or configuration; 75 not now: the box is away.',
  examples: [
    'nix-lan queue add ./result',
    'nix-lan queue add --built --cache rpi',
    'nix-lan queue add --closure /run/current-system --dry-run',
  ],
  run,
}

async function run(call: Call): Promise<number> {
  const { config, caches, words, json } = call
  const ways = (['built', 'closure', 'all'] as const).filter((way) => call.options.flag(way))
  if (ways.length > 1) throw new UsageError(`--${ways.join(' and --')} exclude each other; see nix-lan queue add --help`)
  if (ways[0] !== undefined) return await addMany(call, ways[0])
  if (call.options.flag('dry-run')) throw new UsageError('--dry-run goes with --built, --closure or --all')
  if (words.length === 0) throw new UsageError('add needs store paths, or links to them: nix-lan queue add ./result')
  const names = [...new Set(words.map(storeNameOf))]
  const invalid = await invalidPaths(names.map((name) => `${storeDir}/${name}`))
  if (invalid.length > 0) throw new Failure(`not valid in this machine's store, nothing was queued: ${invalid.join(' ')}`)
  const answers = caches.map((cache) => {
    const ours = names.filter((name) => wanted(cache, name))
    const added = ours.filter((name) => enqueue(cache.name, name, config.user))
    if (effectiveUid() === config.uid) unforget(ownTransfers(), cache.name, ours.map(pathOf))
    return { cache: cache.name, added, there: ours.length - added.length, unwanted: names.length - ours.length }
  })
  if (json) printJson(answers)
  else
    for (const { cache, added, there, unwanted } of answers) {
      const rest = [there > 0 ? `${there} already there` : '', unwanted > 0 ? `${unwanted} kept out by derivations or exclude` : '']
      print(`${cache}: ${[`${added.length} queued`, ...rest.filter((text) => text !== '')].join(', ')}`)
    }
  return 0
}

const pathOf = (name: string): string => `${storeDir}/${name}`

/** What is being sorted, in words. */
const SUBJECT: Record<What, string> = { built: 'what was built here', closure: 'these closures', all: 'all of this store' }

async function addMany({ config, caches, words, options, json }: Call, what: What): Promise<number> {
  if (what === 'closure' && words.length === 0) throw new UsageError('add --closure needs paths: nix-lan queue add --closure ./result')
  if (what !== 'closure' && words.length > 0) throw new UsageError(`add takes either paths or --${what}`)
  mustBeUser(config, 'the queue, the tunnel and the ssh key are', `nix-lan queue add --${what}`)
  const named = words.map((word) => `${storeDir}/${storeNameOf(word)}`)
  const dryRun = options.flag('dry-run')
  const answers = []
  for (const cache of caches) {
    const { sorted, bytes, forgotten } = await backfillFor(cache, config, what, named)
    const names = sorted.missing.map((path) => basename(path))
    const added = dryRun ? names : names.filter((name) => enqueue(cache.name, name, config.user))
    if (!dryRun) unforget(ownTransfers(), cache.name, names.map(pathOf))
    const average = readUploadState(config.uid, cache.name)?.average ?? null
    const seconds = average === null ? null : Math.ceil(bytes / average)
    const { onBox, unsigned, queued, failed, unwanted, elsewhere } = sorted
    const counts = {
      ...{ bytes, seconds, there: queued.length, unwanted: unwanted.length, onBox: onBox.length },
      ...{ failed: failed.length, unsigned: unsigned.length, elsewhere: elsewhere.length, forgotten },
    }
    answers.push({ cache: cache.name, added, ...counts })
    if (!json) print(`${cache.name}: of ${SUBJECT[what]}, ${countsLine(added.length, counts, dryRun)}`)
    if (unsigned.length > 0) {
      const skipped = `of ${SUBJECT[what]}, ${paths(unsigned.length)} skipped: the path or one of its dependencies is unsigned`
      say(`${cache.name}: ${skipped}; to sign all that was built here: sudo nix-lan queue sign --built`)
    }
  }
  if (json) printJson(answers)
  return 0
}

/** What the box could be given. */
interface Found {
  sorted: Backfill
  /** Of what it lacks. */
  bytes: number
  /** How many it lacks because the user had it forget them. */
  forgotten: number
}

/** Sorts what the box could be given, and sums up what it lacks. @throws Away */
async function backfillFor(cache: SshCache, config: Config, what: What, named: string[]): Promise<Found> {
  const stores = storesOf(cache, config.uid)
  const mustBeThere = async (): Promise<void> => {
    const why = await stores.away()
    if (why !== undefined) throw new Away(`${cache.name} is away (${why}), and can't be asked what it has`)
  }
  await mustBeThere()
  try {
    const infos = await allPathInfos()
    const gone = named.filter((path) => !infos.has(path))
    if (gone.length > 0) throw new Failure(`not valid in this machine's store, nothing was queued: ${gone.join(' ')}`)
    const chosen = what === 'closure' ? await requisites(named) : infos.keys()
    const sorted = await sortBackfill(what, infos, cache, readQueue(cache.name, config.user), stores, chosen)
    // --built runs by itself, too; the others name what the user wants there.
    const forgotten = new Set(what === 'built' ? readForgotten(ownTransfers(), cache.name) : [])
    const before = sorted.missing.length
    sorted.missing = sorted.missing.filter((path) => !forgotten.has(path))
    const bytes = sorted.missing.reduce((sum, path) => sum + (infos.get(path)?.size ?? 0), 0)
    return { sorted, bytes, forgotten: before - sorted.missing.length }
  } catch (error) {
    if (error instanceof NixError) await mustBeThere()
    throw error
  }
}

type Counts = Record<'bytes' | 'there' | 'unwanted' | 'onBox' | 'failed' | 'elsewhere' | 'forgotten', number> & { seconds: number | null }

function countsLine(added: number, counts: Counts, dryRun: boolean): string {
  const { bytes, seconds, there, unwanted, onBox, failed, elsewhere, forgotten } = counts
  const time = seconds === null || added === 0 ? '' : `, about ${age(seconds * 1000)} at the rate of the last upload`
  const parts = [
    `${added} ${dryRun ? 'to be queued' : 'queued'}${added === 0 ? '' : ` (${inBytes(bytes)}${time})`}`,
    `${onBox} on the box`,
    there > 0 ? `${there} queued before` : '',
    failed > 0 ? `${failed} failed before` : '',
    unwanted > 0 ? `${unwanted} kept out by derivations or exclude` : '',
    elsewhere > 0 ? `${elsewhere} in another cache` : '',
    forgotten > 0 ? `${forgotten} forgotten there by your wish` : '',
  ]
  return parts.filter((part) => part !== '').join(', ')
}
