// nix-lan queue: shows what waits to be uploaded and what failed, and uploads it. Never builds or
// fetches.
import { UsageError } from '../../cli/errors.ts'
import { loadConfig, namedCache } from '../../config/config.ts'
import { type Config, isSsh, type SshCache } from '../../config/types.ts'
import { type Action, helpOf, overview, readAction } from './action.ts'
import { add } from './add.ts'
import { drop } from './drop.ts'
import { list } from './list.ts'
import { retry } from './retry.ts'
import { sign } from './sign.ts'
import { upload } from './upload.ts'

const ACTIONS: readonly Action[] = [list, add, upload, retry, drop, sign]

/** The help asked for: the action's, if one is named. @param argv what follows `queue` */
export function helpFor(argv: readonly string[]): string {
  const action = ACTIONS.find(({ name }) => argv.includes(name))
  return action ? helpOf(action) : overview(ACTIONS, list)
}

/** The subcommand. @param argv what follows `queue` @returns the exit code */
export async function queue(argv: string[]): Promise<number> {
  const { action, words, options } = readAction(argv, ACTIONS, list)
  if (action === list && words.length > 0) throw new UsageError('list takes no paths; see --help')
  const config = loadConfig()
  return await action.run({ config, caches: chosenCaches(config, options.value('cache')), words, options, json: options.flag('json') })
}

function chosenCaches(config: Config, name: string | undefined): SshCache[] {
  if (name !== undefined) {
    const cache = namedCache(config, name)
    if (cache.kind !== 'ssh') throw new UsageError(`${name} is read only (${cache.url}): nothing is uploaded to it`)
    return [cache]
  }
  const caches = config.caches.filter(isSsh)
  if (caches.length === 0) throw new UsageError(`${config.file} has no cache that is reached by ssh: nothing is uploaded to the others`)
  return caches
}
