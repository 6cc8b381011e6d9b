// nix-lan-run: runs a command with exactly the caches that can be used now as substituters. This
// decides; the sh head of the bundle becomes the command (scripts/system/handover.ts). Changes
// NIX_CONFIG and nothing else. Whatever is wrong on our side (no configuration, no nix to ask, a
// bug) costs one line on stderr, and the command runs as it is: a wrapper must not break Nix.
import { writeSync } from 'node:fs'
import { basename } from 'node:path'
import { parse } from '../cli/command.ts'
import { Failure, UsageError } from '../cli/errors.ts'
import { harmless } from '../cli/text.ts'
import { VERSION } from '../cli/version.ts'
import { becomeProgram } from '../system/handover.ts'
import { changes, wholeEnvironment } from '../wrapper/environment.ts'
import { explain, explainJson } from '../wrapper/explain.ts'
import { settingFor, storyOf } from '../wrapper/outlook.ts'
import { findProgram, readInvocation } from '../wrapper/program.ts'

const NAME = 'nix-lan-run'

const HELP = `nix-lan-run: run a command with exactly the caches that can be used now

Usage: nix-lan-run [OPTION…] COMMAND [ARGUMENT…]

As a link called nix, nix-build, nix-shell, nixos-rebuild or home-manager, in a
directory that comes first in PATH, it is that command:

  ln -s "$(command -v nix-lan-run)" ~/bin/nix

The caches of the configuration (/etc/nix-lan/config.toml) that can be used are
added to Nix's substituters, through NIX_CONFIG, so that nix in a nix-shell has
them too; those that can't be used are left out, also where nix.conf names them.
Your own --option substituters … still wins.

Options, before the command:
      --explain  say what would be done and why; run nothing
      --json     with --explain: the answer for scripts, see below
  -h, --help     show this
      --version  show the version

With --json, one object:
  command  what was asked for
  program  what it runs; null: nothing, and reason says why
  setting  the line that NIX_CONFIG gets; null: none
  caches   name, action (add, there: in nix.conf already, or leave out), url,
           usable (ok, with address and ms, or with reason) and reason of each
  dropped  url, name, reason and where of each entry of nix.conf left out
  notes    what else there is to say

Exit code: the command's; 127 if there is no such command, 126 if it can't be
run, 2 for wrong usage.

Examples:
  nix-lan-run nix build nixpkgs#hello
  nix-lan-run nix-shell -p jq
  nix-lan-run --explain nix build
  sudo nix-lan-run nixos-rebuild switch    not nix-lan-run sudo …: sudo drops
                                           what it sets
`

async function main(): Promise<void> {
  let code = 1
  try {
    code = await start(process.argv.slice(2))
  } catch (error) {
    warn(error instanceof Failure ? error.message : `this is a bug in nix-lan ${VERSION}: ${error instanceof Error ? error.stack : error}`)
    if (error instanceof Failure) code = error.exitCode
  }
  process.exit(code)
}

/** Prints what the head is to do or show. Returns its exit code, unless it becomes the command. */
async function start(argv: string[]): Promise<number> {
  const { own, command, shift } = readInvocation(basename(process.env.NIX_LAN_CALLED_AS ?? process.argv[1] ?? NAME), argv)
  const options = parse(own, { boolean: ['explain', 'json'] })
  if (options.flag('help')) return print(HELP)
  if (options.flag('version')) return print(`${NAME} ${VERSION}\n`)
  if (options.flag('json') && !options.flag('explain')) throw new UsageError('--json belongs to --explain')
  if (command === undefined || command === '') throw new UsageError('which command? For example: nix-lan-run nix build; see --help')
  const found = findProgram(command)
  if (options.flag('explain')) {
    const story = { command, found, ...(await storyOf(command)) }
    print(options.flag('json') ? explainJson(story) : explain(story))
    return found.ok ? 0 : found.code
  }
  if (!found.ok) throw new Failure(found.reason, found.code)
  return print(becomeProgram({ ...wholeEnvironment(found.program), shift, ...changes(found, await settingFor(warn)) }))
}

/**
 * Prints to stdout, the head's pipe. Not process.stdout: loading Node's streams takes as long as
 * everything else here.
 */
function print(text: string): number {
  write(1, text)
  return 0
}

/** Prints one line on stderr. A closed stderr must not keep a command from running. */
function warn(message: string): void {
  try {
    write(2, `${NAME}: ${harmless(message)}\n`)
  } catch {
    // closed, or full and non-blocking
  }
}

function write(fd: number, text: string): void {
  const bytes = Buffer.from(text)
  for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done)
}

main()
