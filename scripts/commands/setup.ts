// nix-lan setup: installs nix-lan on this machine, or takes it away again.
import { parse } from '../cli/command.ts'
import { UsageError } from '../cli/errors.ts'

export const help = `nix-lan setup: makes a machine on your network the Nix cache of this one

Usage: sudo nix-lan setup [OPTION…] [USER@]HOST
       sudo nix-lan setup [OPTION…]
       sudo nix-lan setup --undo [--forget-key]

HOST is what you give to ssh to log in on the box: a name, or an alias of yours.
It shows what it will do, every file with its difference, and asks once. Then it
copies nix-lan to a place that only root can write to, makes a key that signs
what you build, puts one marked block at the end of nix.conf, makes the queue,
installs and starts the systemd user units, and asks the box to trust the key.
The end is a look at all of it by nix-lan doctor, whose exit code it takes over.
Interrupted, it is finished by the same command; run again, it changes only what
isn't right. Where each user has a Nix of her own, it works without sudo.

Options:
      --name CACHE   what the box is called here; default: the name of the host
      --user USER    whose ssh key and session; default: who called sudo
      --prefix DIR   where the programs go; default: /usr/local
      --no-linger    not from boot on, only while the user is logged in
      --no-sign      don't sign what was built here before
      --no-doctor    don't look at all of it at the end
      --dry-run      show what would be done, and do nothing
  -y, --yes          don't ask
      --undo         take back what setup did: every file as it was before
      --forget-key   with --undo: remove the signing key, too
  -h, --help         show this
      --version      show the version

Exit code: 0 done; 1 something is left to do, as it says, or you said no; 2
wrong usage, or a machine that this isn't for; 75 the box is away: this machine
is set up, the box's side is left for later.

Examples:
  sudo nix-lan setup pi@pi.local
  sudo nix-lan setup --dry-run --name attic nas
  sudo nix-lan setup --undo
`

/** The subcommand. @param argv what follows `setup` @returns the exit code */
export async function setup(argv: string[]): Promise<number> {
  const options = parse(argv, {
    boolean: ['dry-run', 'yes', 'undo', 'forget-key', 'no-linger', 'no-sign', 'no-doctor'],
    string: ['name', 'user', 'prefix'],
    alias: { y: 'yes' },
  })
  const [destination, surplus] = options.words
  if (surplus !== undefined) throw new UsageError(`one box at a time: ${surplus} is too much; see --help`)
  const undoing = options.flag('undo')
  if (options.flag('forget-key') && !undoing) throw new UsageError('--forget-key goes with --undo')
  if (undoing) {
    const extra = [...(destination ? [destination] : []), ...['name', 'user', 'prefix'].filter((name) => options.value(name) !== undefined)]
    if (extra.length > 0) throw new UsageError(`--undo takes back all that was set up, without ${extra.join(', ')}`)
  }
  const chosen = {
    destination,
    user: options.value('user'),
    name: options.value('name'),
    prefix: options.value('prefix'),
    dryRun: options.flag('dry-run'),
    yes: options.flag('yes'),
    linger: !options.flag('no-linger'),
    sign: !options.flag('no-sign'),
    doctor: !options.flag('no-doctor'),
    forgetKey: options.flag('forget-key'),
  }
  // Late: other subcommands run often, and need none of it.
  if (undoing) return await (await import('../setup/undo.ts')).undo(chosen, argv)
  return await (await import('../setup/setup.ts')).setUp(chosen, argv)
}
