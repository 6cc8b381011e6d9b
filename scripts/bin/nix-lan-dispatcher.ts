// The TypeScript of nix-lan-dispatcher: prints help for people, and tells its head
// (scripts/heads/nix-lan-dispatcher.sh), which does the rest, whose boxes these are. Runs as root:
// trusts nothing that anybody else can write, and touches nothing of the user's.
import { mkdirSync, renameSync, writeFileSync } from 'node:fs'
import { main, parse } from '../cli/command.ts'
import { Failure, UsageError } from '../cli/errors.ts'
import { loadConfig } from '../config/config.ts'
import { readConfigFile, SYSTEM_FILE } from '../config/file.ts'
import { effectiveUid } from '../system/users.ts'

const HELP = `nix-lan-dispatcher: look for the boxes when the network changes

Usage: nix-lan-dispatcher INTERFACE ACTION
       nix-lan-dispatcher [OPTION]

NetworkManager runs this when the network changes. It asks the systemd of the
configuration's user to look which boxes are there now, and returns at once:

  sudo ln -s /path/to/nix-lan/dist/nix-lan-dispatcher \\
    /etc/NetworkManager/dispatcher.d/90-nix-lan

NetworkManager only takes files that root owns and nobody else can write to.
Actions that matter: up, down, vpn-up, vpn-down, dhcp4-change, dhcp6-change,
reapply, connectivity-change, dns-change; all others, and those of the interface
lo, are left alone. What it did: journalctl -t nix-lan-dispatcher

Options:
      --owner    print the user of the configuration and the uid, as root, who
                 then remembers them until the configuration changes
  -h, --help     show this
      --version  show the version

Exit code: 0 for an event, whatever happens; else 2 for wrong usage or
configuration.

Example:
  sudo nix-lan-dispatcher eth0 up
`

/** Where the head finds the last answer: in a directory that only root can write. */
const MEMORY = '/run/nix-lan/dispatcher'

async function dispatcher(argv: string[]): Promise<number> {
  const { words, flag } = parse(argv, { boolean: ['owner'] })
  if (words.length > 0) throw new UsageError('an event is an interface and an action; see --help')
  if (!flag('owner')) process.stdout.write(HELP)
  else return owner()
  return 0
}

/**
 * Prints "USER UID", or in one line what is wrong with the configuration (exit 2): the head takes
 * either from stdout.
 */
function owner(): number {
  try {
    const privileged = effectiveUid() === 0
    const before = privileged ? readConfigFile(SYSTEM_FILE, true) : undefined
    const { user, uid } = loadConfig()
    process.stdout.write(`${user} ${uid}\n`)
    // Unchanged before and after, so this is the text that was parsed.
    if (before !== undefined && readConfigFile(SYSTEM_FILE, true) === before) remember(`${user} ${uid}\n${before}`)
    return 0
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    const [line = ''] = error.message.split('\n')
    process.stdout.write(`${line}\n`)
    return error.exitCode
  }
}

/** Writes the file atomically. If that fails, the next event just takes longer: it asks again. */
function remember(text: string): void {
  try {
    mkdirSync('/run/nix-lan', { mode: 0o755, recursive: true })
    const temporary = `${MEMORY}.${process.pid}`
    writeFileSync(temporary, text, { mode: 0o600 })
    renameSync(temporary, MEMORY)
  } catch {
    // see above
  }
}

void main('nix-lan-dispatcher', HELP, dispatcher)
