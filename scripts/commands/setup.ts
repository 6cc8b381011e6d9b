// nix-lan setup: installs nix-lan on this machine, or removes it.
import { parse } from '../cli/command.ts'
import { UsageError } from '../cli/errors.ts'

export const help = `nix-lan setup: makes a machine on your network the Nix cache of this one

Usage: sudo nix-lan setup [OPTION…] [USER@]HOST
       sudo nix-lan setup [OPTION…]
       sudo nix-lan setup --undo [--forget-key]

HOST is what you give to ssh to log in on the box: a name, address or alias.
Shows what it will do, with a diff of every file, and asks once. Then it copies
nix-lan to a place that only root can write to, makes a key that signs what you
build, adds one marked block to nix.conf, makes the queue, installs and starts
the systemd user units, and makes the box trust the key. Finally runs nix-lan
doctor and exits with its status. If it was interrupted, run it again: it
changes only what isn't right yet. A Nix without a daemon, which belongs to one
user, is set up by that user without sudo.

Options:
      --name CACHE   name of the box here; default: the name of the host
      --host HOST    the machine on the way to the box that must be reachable,
                     as HOST or HOST:PORT; needed only with a ProxyCommand
      --user USER    whose ssh key and session to use; default: who called sudo
      --prefix DIR   install the programs there; default: /usr/local
      --fallback X   keep: leave Nix's setting "fallback" alone; set, the
                     default: make it true unless nix.conf decides
      --remove NAME  remove a box: its table in config.toml, its queue and units
      --rename PAIR  OLD=NEW: give a box another name; its queue moves along
      --no-linger    start when the user logs in, not at boot
      --no-sign      don't sign what was built here before
      --no-doctor    don't run nix-lan doctor at the end
      --dry-run      show the plan and exit
  -y, --yes          don't ask
      --undo         undo the setup: every file as it was before
      --forget-key   with --undo: remove the signing key as well
  -h, --help         show this
      --version      show the version

Exit code: 0 done; 1 something is left for you to do, or you said no; 2 wrong
usage, or this machine can't be set up; 75 the box is away: this machine is set
up, the box's side isn't yet.

Examples:
  sudo nix-lan setup pi@pi.local
  sudo nix-lan setup --dry-run --name attic nas
  sudo nix-lan setup --undo
`

/** The subcommand. @param argv what follows `setup` @returns the exit code */
export async function setup(argv: string[]): Promise<number> {
  const options = parse(argv, {
    boolean: ['dry-run', 'yes', 'undo', 'forget-key', 'no-linger', 'no-sign', 'no-doctor'],
    string: ['name', 'user', 'prefix', 'fallback', 'host', 'remove', 'rename'],
    alias: { y: 'yes' },
  })
  const [destination, surplus] = options.words
  if (surplus !== undefined) throw new UsageError(`one box at a time; ${surplus} is one too many, see --help`)
  const undoing = options.flag('undo')
  if (options.flag('forget-key') && !undoing) throw new UsageError('--forget-key goes with --undo')
  if (undoing) {
    const extra = [
      ...(destination ? [destination] : []),
      ...['name', 'user', 'prefix', 'fallback', 'host', 'remove', 'rename'].filter((name) => options.value(name) !== undefined),
    ]
    if (extra.length > 0) throw new UsageError(`--undo undoes the whole setup; leave out ${extra.join(', ')}`)
  }
  const fallback = fallbackOf(options.value('fallback'))
  const chosen = {
    destination,
    user: options.value('user'),
    name: options.value('name'),
    host: options.value('host'),
    remove: options.value('remove'),
    rename: renameOf(options.value('rename')),
    prefix: options.value('prefix'),
    dryRun: options.flag('dry-run'),
    yes: options.flag('yes'),
    linger: !options.flag('no-linger'),
    sign: !options.flag('no-sign'),
    doctor: !options.flag('no-doctor'),
    forgetKey: options.flag('forget-key'),
    fallback,
  }
  // Imported late: other subcommands run often and need none of this.
  if (undoing) return await (await import('../setup/undo.ts')).undo(chosen, argv)
  return await (await import('../setup/setup.ts')).setUp(chosen, argv)
}

function fallbackOf(value: string | undefined): 'keep' | 'set' | undefined {
  if (value === undefined || value === 'keep' || value === 'set') return value
  throw new UsageError(`--fallback ${value}: must be keep or set`)
}

function renameOf(value: string | undefined): { from: string; to: string } | undefined {
  const [, from, to] = /^([^=]+)=([^=]+)$/.exec(value ?? '') ?? []
  if (value !== undefined && (from === undefined || to === undefined)) throw new UsageError(`--rename ${value}: must be OLD=NEW`)
  return from === undefined || to === undefined ? undefined : { from, to }
}
