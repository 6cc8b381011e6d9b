// The TypeScript of post-build-hook: does what its head (scripts/heads/post-build-hook.sh) can't do
// in sh. The head starts it rarely, with a time limit, and makes the links itself. Store paths go
// to stdout; problems go to stderr, a line each.
import { main, parse } from '../cli/command.ts'
import { UsageError } from '../cli/errors.ts'
import { harmless } from '../cli/text.ts'
import { makeQueue } from '../queue/directories.ts'
import { outputsFor } from '../queue/outputs.ts'
import { stateDir } from '../system/paths.ts'

const HELP = `post-build-hook: queue what Nix has just built

Usage: post-build-hook [OPTION]

Nix runs this after every build; it puts what was built in the queue of every
cache, for "nix-lan queue upload" to copy. It takes a few milliseconds and never
fails a build. In nix.conf:

  post-build-hook = /path/to/nix-lan/dist/post-build-hook

It makes links in ${stateDir}/gcroots/nix-lan/queue/CACHE/, which
keep the paths from being garbage-collected. From Nix the hook takes OUT_PATHS
and DRV_PATH in the environment, and no arguments. The options are for people,
and for itself.

Options:
      --make-queue  make the directories of the queue for the caches of the
                    configuration
      --outputs     print the outputs of the derivation DRV_PATH
  -h, --help        show this
      --version     show the version

Exit code: from Nix always 0. For people: 0 done; 1 something could not be done;
2 wrong usage or configuration.

Example:
  sudo /path/to/nix-lan/dist/post-build-hook --make-queue
`

async function hook(argv: string[]): Promise<number> {
  const args = parse(argv, { boolean: ['make-queue', 'outputs'] })
  if (args.words.length > 0) throw new UsageError(`it takes no arguments, but was given "${args.words[0]}"; see --help`)
  if (!args.flag('make-queue') && !args.flag('outputs')) throw new UsageError('nothing to do; see --help')
  const { wrong, strays } = args.flag('make-queue') ? makeQueue() : { wrong: [], strays: [] }
  if (args.flag('outputs')) {
    const found = await outputsFor(process.env.DRV_PATH ?? '')
    if (typeof found === 'string') wrong.push(found)
    else process.stdout.write(`${found.join('\n')}\n`)
  }
  // Nix itself puts the hook's name before each line.
  for (const line of [...wrong, ...strays]) process.stderr.write(`nix-lan: ${harmless(line)}\n`)
  return wrong.length > 0 ? 1 : 0
}

main('post-build-hook', HELP, hook)
