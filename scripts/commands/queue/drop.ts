// nix-lan queue drop: takes paths out of the queue, or out of those that failed. Nothing roots them
// afterwards.
import { UsageError } from '../../cli/errors.ts'
import { readQueue, remove } from '../../queue/queue.ts'
import { storeNameOf } from '../../queue/store-name.ts'
import { type Action, CACHE, type Call, EXIT, JSON_OPTION, print, printJson } from './action.ts'

export const drop: Action = {
  name: 'drop',
  summary: 'take paths out of the queue',
  forms: [
    ['PATH…', 'take these paths out of the queue'],
    ['--failed', 'forget all that failed'],
    ['--all', 'empty the queue'],
  ],
  about: ['What is dropped is not uploaded, and a garbage collection may delete it.'],
  options: [CACHE, { long: 'failed', text: 'all that failed' }, { long: 'all', text: 'all that is there' }, JSON_OPTION],
  json: {
    what: 'an object for each cache',
    keys: [
      ['cache', 'its name'],
      ['dropped', 'the paths that were taken out'],
    ],
  },
  exit: `${EXIT.replace('1 failed', '1 failed, or none of the paths is there')}`,
  examples: ['nix-lan queue drop ./result', 'nix-lan queue drop --failed'],
  run,
}

async function run({ config, caches, words, options, json }: Call): Promise<number> {
  const all = options.flag('all')
  const failedOnly = options.flag('failed')
  if ([words.length > 0, all, failedOnly].filter(Boolean).length !== 1)
    throw new UsageError('drop needs either paths, or --failed, or --all')
  const names = new Set(words.map(storeNameOf))
  const answers = caches.map((cache) => {
    const { queued, failed } = readQueue(cache.name, config.user)
    const chosen = failedOnly ? failed : [...queued, ...failed].filter((entry) => all || names.has(entry.name))
    return { cache: cache.name, dropped: chosen.filter((entry) => remove(entry, config.user)).map((entry) => entry.path) }
  })
  if (json) printJson(answers)
  else for (const { cache, dropped } of answers) print(`${cache}: ${dropped.length} dropped`)
  return words.length > 0 && answers.every(({ dropped }) => dropped.length === 0) ? 1 : 0
}
