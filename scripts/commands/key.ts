// nix-lan key: prints the public key this machine signs its builds with, for another machine to
// trust. Never prints a secret.
import { parse } from '../cli/command.ts'
import { Failure, UsageError } from '../cli/errors.ts'
import { toJson } from '../cli/text.ts'
import { ownKeys } from '../keep/client.ts'
import { askSettings, wordsOf } from '../nix/settings.ts'
import { whatSetsUp } from '../system/nixos.ts'

export const help = `nix-lan key: the public key that this machine signs its builds with

Usage: nix-lan key [OPTION…]

Another machine fetches from the box what was built here only if it trusts this
key: type what this prints after \`sudo nix-lan trust\` there.

Options:
      --json     a list, for scripts
  -h, --help     show this
      --version  show the version

Exit code: 0 done; 1 this machine has no key, or it can't be read; 2 wrong
usage.

Examples:
  nix-lan key
  ssh other-laptop sudo nix-lan trust --yes "$(nix-lan key)"
`

/** The subcommand. @param argv what follows `key` @returns the exit code */
export async function key(argv: string[]): Promise<number> {
  const { words, flag } = parse(argv, { boolean: ['json'] })
  if (words.length > 0) throw new UsageError(`${words[0]}: key takes no words; see --help`)
  const settings = await askSettings({ timeout: 20_000 })
  const keys = ownKeys(settings)
  const files = wordsOf(settings, 'secret-key-files')
  if (files.length === 0) throw new Failure(`this machine signs nothing: nix.conf has no secret-key-files; ${whatSetsUp()} makes a key`)
  if (keys.length === 0) throw new Failure(`the public half of ${files.join(', ')} can't be read here; try: sudo nix-lan key`)
  process.stdout.write(flag('json') ? `${toJson(keys, 2)}\n` : `${keys.join('\n')}\n`)
  return 0
}
