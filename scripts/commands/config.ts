// nix-lan config: checks a configuration file, for people and for the builds in nix/.
import { nearest, parse, print } from '../cli/command.ts'
import { UsageError } from '../cli/errors.ts'
import { harmless } from '../cli/text.ts'
import { checkConfigFile, loadConfig } from '../config/config.ts'
import { isSsh } from '../config/types.ts'

export const help = `nix-lan config: checks a configuration file

Usage: nix-lan config check [OPTION…] [FILE]

Checks this file; without one, the one that nix-lan uses here. Reports the first
mistake: file, line, key, and what is allowed there.

Options:
      --no-user-lookup  for another machine: don't look up the user; ~ stays ~
  -h, --help            show this
      --version         show the version

Exit code: 0 the file is valid; 2 it is not, or wrong usage.

Examples:
  nix-lan config check
  nix-lan config check --no-user-lookup ./config.toml
`

/** The subcommand. @param argv what follows `config` @returns the exit code */
export async function config(argv: string[]): Promise<number> {
  const options = parse(argv, { boolean: ['no-user-lookup'] })
  const [action, file, surplus] = options.words
  if (action === undefined) throw new UsageError('which action? nix-lan config check [FILE]')
  if (action !== 'check') {
    const near = nearest(action, ['check'])
    throw new UsageError(`there is no action ${action}; ${near ? `did you mean ${near}?` : 'see nix-lan config --help'}`)
  }
  if (surplus !== undefined) throw new UsageError(`one file at a time: ${surplus} is too much; see nix-lan config --help`)
  const lookUp = !options.flag('no-user-lookup')
  if (file === undefined && !lookUp) throw new UsageError('--no-user-lookup needs a FILE; see nix-lan config --help')
  const found = file === undefined ? loadConfig() : checkConfigFile(file, lookUp)
  const caches = found.caches.map((cache) => `${cache.name} (${isSsh(cache) ? cache.host : cache.url})`)
  print(harmless(`${found.file}: valid; ${caches.join(', ')}\n`))
  return 0
}
