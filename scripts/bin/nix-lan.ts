// nix-lan, the command for people: a table of subcommands, each in its own file in commands/.
import { main, nearest } from '../cli/command.ts'
import { UsageError } from '../cli/errors.ts'
import { hasConfig } from '../config/config.ts'

interface Command {
  help: string
  run: (argv: string[]) => Promise<number>
}

/**
 * Loaded on demand: a check, which runs twice a minute, would take a third longer with all of them.
 */
const COMMANDS = new Map<string, () => Promise<Command>>([
  ['box', () => import('../commands/box.ts').then(({ box, helpFor }) => ({ help: helpFor(process.argv.slice(3)), run: box }))],
  ['check', () => import('../commands/check.ts').then(({ check, help }) => ({ help, run: check }))],
  ['config', () => import('../commands/config.ts').then(({ config, help }) => ({ help, run: config }))],
  ['doctor', () => import('../commands/doctor.ts').then(({ doctor, help }) => ({ help, run: doctor }))],
  ['gc', () => import('../commands/gc.ts').then(({ gc, help }) => ({ help, run: gc }))],
  ['key', () => import('../commands/key.ts').then(({ key, help }) => ({ help, run: key }))],
  [
    'queue',
    () => import('../commands/queue/index.ts').then(({ helpFor, queue }) => ({ help: helpFor(process.argv.slice(3)), run: queue })),
  ],
  ['setup', () => import('../commands/setup.ts').then(({ setup, help }) => ({ help, run: setup }))],
  ['status', () => import('../commands/status.ts').then(({ status, help }) => ({ help, run: status }))],
  ['trust', () => import('../commands/trust.ts').then(({ trust, help }) => ({ help, run: trust }))],
])

const HELP = `nix-lan: a machine on your network as a Nix cache, for one that comes and goes

Usage: nix-lan [COMMAND] [OPTION…]

Commands:
  status   what is there, what waits, what was fetched (without a command: this)
  check    whether the boxes are there; starts and stops their tunnels
  config   whether a configuration file is valid
  doctor   what is wrong, and how to fix it
  box      what the box keeps, letting go of it, its garbage collection
  gc       free space, by deleting only what the box can give back
  queue    what waits to be uploaded: list, add, upload, retry, drop, sign
  key      the public key that this machine signs with
  trust    believe what another machine has signed
  setup    installs all this on a machine, and takes it away again

Options:
  -h, --help     show this; \`nix-lan COMMAND --help\` for a command
      --version  show the version

Exit code: 0 done; 1 no, or failed; 2 wrong usage or configuration; 75 not now:
the box is away, and nothing is lost.

Examples:
  nix-lan
  nix-lan queue
`

async function none(argv: string[]): Promise<number> {
  const [word] = argv
  if (word === undefined ? hasConfig() : word.startsWith('-')) return await (await import('../commands/status.ts')).status(argv)
  if (word !== undefined) {
    const near = nearest(word, [...COMMANDS.keys()])
    throw new UsageError(`there is no command ${word}${near ? `; did you mean ${near}?` : '; see nix-lan --help'}`)
  }
  process.stdout.write(HELP)
  return 0
}

async function start(name: string): Promise<void> {
  const command = await COMMANDS.get(name)?.()
  if (command) await main(`nix-lan ${name}`, command.help, (argv) => command.run(argv.slice(1)))
  else await main('nix-lan', HELP, none)
}

void start(process.argv[2] ?? '')
