// nix-lan queue retry: puts what failed back into the queue.
import { putBack, readQueue } from '../../queue/queue.ts'
import { storeNameOf } from '../../queue/store-name.ts'
import { type Action, CACHE, type Call, EXIT, JSON_OPTION, print, printJson } from './action.ts'

export const retry: Action = {
  name: 'retry',
  summary: 'requeue what failed',
  forms: [['[PATH…]', 'requeue what failed: these paths, or all']],
  options: [CACHE, JSON_OPTION],
  json: {
    what: 'an object for each cache',
    keys: [
      ['cache', 'its name'],
      ['queued', 'the paths that are back in the queue'],
    ],
  },
  exit: `${EXIT.replace('1 failed', '1 failed, or none of the paths is among those that failed')}`,
  examples: ['nix-lan queue retry', 'nix-lan queue retry ./result && nix-lan queue upload'],
  run,
}

async function run({ config, caches, words, json }: Call): Promise<number> {
  const names = new Set(words.map(storeNameOf))
  const answers = caches.map((cache) => {
    const { failed } = readQueue(cache.name, config.user)
    const chosen = failed.filter((entry) => names.size === 0 || names.has(entry.name))
    return { cache: cache.name, queued: chosen.filter((entry) => putBack(entry, config.user)).map((entry) => entry.path) }
  })
  if (json) printJson(answers)
  else for (const { cache, queued } of answers) print(`${cache}: ${queued.length} back in the queue`)
  const found = answers.some(({ queued }) => queued.length > 0)
  return found || names.size === 0 ? 0 : 1
}
