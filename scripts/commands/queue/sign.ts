// nix-lan queue sign: signs what was built here before this machine had a key. Never signs what
// came from elsewhere.
import { UsageError } from '../../cli/errors.ts'
import { allPathInfos } from '../../nix/path-info.ts'
import { signClosures, toSign } from '../../nix/signing.ts'
import { shown } from '../../queue/list.ts'
import { readQueue } from '../../queue/queue.ts'
import { type Action, CACHE, type Call, EXIT, JSON_OPTION, paths, print, printJson, say } from './action.ts'

export const sign: Action = {
  name: 'sign',
  summary: 'sign what was built here and carries no signature',
  sudo: true,
  forms: [
    ['', 'sign what is queued and was built here; with sudo'],
    ['--built', 'sign all that was built here; with sudo'],
  ],
  about: [
    'Nix signs each build once nix.conf has a secret-key-files line; this is for what was built before that. It never signs what came from elsewhere: that is for you to judge.',
  ],
  options: [
    CACHE,
    { long: 'built', text: 'all that was built here, queued or not' },
    { long: 'key-file', value: 'FILE', text: 'the secret key; default: secret-key-files of nix.conf' },
    JSON_OPTION,
  ],
  json: {
    what: 'one object',
    keys: [
      ['signed', 'the paths that were signed'],
      ['foreign', 'unsigned paths that were not built here'],
      ['keyFiles', 'the keys they were signed with'],
    ],
  },
  exit: EXIT,
  examples: ['sudo nix-lan queue sign', 'sudo nix-lan queue sign --built'],
  run,
}

async function run({ config, caches, words, options, json }: Call): Promise<number> {
  if (words.length > 0) throw new UsageError('sign takes no paths; see --help')
  const entries = caches
    .map((cache) => shown(readQueue(cache.name, config.user), cache))
    .flatMap(({ queued, failed }) => [...queued, ...failed])
  const built = options.flag('built') ? toSign(await allPathInfos()).own : []
  const all = new Set([...entries.map((entry) => entry.path), ...built])
  const { signed, foreign, keyFiles } = await signClosures([...all], options.value('key-file'))
  if (json) printJson({ signed, foreign, keyFiles })
  else print(`${paths(signed.length)} signed with ${keyFiles.join(' and ')}`)
  if (foreign.length > 0 && !json) {
    say(`${paths(foreign.length)} without a signature came from elsewhere; if you trust them, sign them with:`)
    say(`sudo nix --extra-experimental-features nix-command store sign --key-file ${keyFiles[0]} ${foreign.join(' ')}`)
  }
  return 0
}
