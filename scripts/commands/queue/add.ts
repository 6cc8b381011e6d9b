// nix-lan queue add: queues paths that are named, or what was built here and the box lacks.
import { basename } from 'node:path'
import { Away, Failure, UsageError } from '../../cli/errors.ts'
import type { Config, SshCache } from '../../config/types.ts'
import { mustBeUser } from '../../config/user.ts'
import { invalidPaths, NixError } from '../../nix/nix.ts'
import { allPathInfos } from '../../nix/path-info.ts'
import { storeDir } from '../../nix/store-path.ts'
import { type Built, sortBuilt } from '../../queue/built.ts'
import { enqueue, readQueue } from '../../queue/queue.ts'
import { storeNameOf } from '../../queue/store-name.ts'
import { storesOf } from '../../queue/stores.ts'
import { wanted } from '../../queue/upload.ts'
import { type Action, CACHE, type Call, JSON_OPTION, paths, print, printJson, say } from './action.ts'

export const add: Action = {
  name: 'add',
  summary: 'queue store paths',
  forms: [
    ['PATH…', 'queue store paths, or links to them such as ./result'],
    ['--built', 'queue what was built here and the box lacks'],
  ],
  options: [CACHE, { long: 'built', text: 'what was built here and the box lacks' }, JSON_OPTION],
  json: {
    what: 'an object for each cache',
    keys: [
      ['cache', 'its name'],
      ['added', 'names of the paths that were queued'],
      ['there', 'how many were queued before'],
      ['unwanted', 'how many the configuration keeps out'],
      ['onBox', 'with --built: how many the box has'],
      ['failed', 'with --built: how many failed before'],
      ['unsigned', 'with --built: how many are unsigned, or need something unsigned'],
    ],
  },
  exit: '0 done; 1 failed, nothing was queued; 2 wrong usage or configuration; 75 not now: the box is away.',
  examples: ['nix-lan queue add ./result', 'nix-lan queue add --built --cache rpi'],
  run,
}

async function run(call: Call): Promise<number> {
  const { config, caches, words, json } = call
  if (call.options.flag('built')) return await addBuilt(call)
  if (words.length === 0) throw new UsageError('add needs store paths, or links to them: nix-lan queue add ./result')
  const names = [...new Set(words.map(storeNameOf))]
  const invalid = await invalidPaths(names.map((name) => `${storeDir}/${name}`))
  if (invalid.length > 0) throw new Failure(`not valid in this machine's store, nothing was queued: ${invalid.join(' ')}`)
  const answers = caches.map((cache) => {
    const ours = names.filter((name) => wanted(cache, name))
    const added = ours.filter((name) => enqueue(cache.name, name, config.user))
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

async function addBuilt({ config, caches, words, json }: Call): Promise<number> {
  if (words.length > 0) throw new UsageError('add takes either paths or --built')
  mustBeUser(config, 'the queue, the tunnel and the ssh key are', 'nix-lan queue add --built')
  const answers = []
  for (const cache of caches) {
    const sorted = await builtFor(cache, config)
    const added = sorted.missing.map((path) => basename(path)).filter((name) => enqueue(cache.name, name, config.user))
    const { onBox, unsigned, queued, failed, unwanted } = sorted
    const counts = {
      there: queued.length,
      unwanted: unwanted.length,
      onBox: onBox.length,
      failed: failed.length,
      unsigned: unsigned.length,
    }
    answers.push({ cache: cache.name, added, ...counts })
    if (!json) print(`${cache.name}: ${builtLine(added.length, counts)}`)
    if (unsigned.length > 0) {
      const what = `of what was built here, ${paths(unsigned.length)} skipped: the path or one of its dependencies is unsigned`
      say(`${cache.name}: ${what}; to sign all that was built here: sudo nix-lan queue sign --built`)
    }
  }
  if (json) printJson(answers)
  return 0
}

/** @throws Away */
async function builtFor(cache: SshCache, config: Config): Promise<Built> {
  const stores = storesOf(cache, config.uid)
  const mustBeThere = async (): Promise<void> => {
    const why = await stores.away()
    if (why !== undefined) throw new Away(`${cache.name} is away (${why}), and can't be asked what it has`)
  }
  await mustBeThere()
  try {
    return await sortBuilt(await allPathInfos(), cache, readQueue(cache.name, config.user), stores)
  } catch (error) {
    if (error instanceof NixError) await mustBeThere()
    throw error
  }
}

function builtLine(added: number, { there, unwanted, onBox, failed }: Record<'there' | 'unwanted' | 'onBox' | 'failed', number>): string {
  const parts = [
    `${added} queued`,
    `${onBox} on the box`,
    there > 0 ? `${there} queued before` : '',
    failed > 0 ? `${failed} failed before` : '',
    unwanted > 0 ? `${unwanted} kept out by exclude` : '',
  ]
  return `of what was built here, ${parts.filter((part) => part !== '').join(', ')}`
}
