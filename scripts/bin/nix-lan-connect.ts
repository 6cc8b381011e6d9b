// nix-lan-connect: the program that Nix runs as a store (ssh-ng://localhost?remote-program=…).
// Joins Nix to the box's nix-daemon through the tunnel's socket, and is an empty store while the
// box is away. Never writes to a store, and nothing makes it exit before the handshake.
import { main } from '../cli/command.ts'
import { Failure, UsageError } from '../cli/errors.ts'
import { nixHasLeft } from '../connect/client.ts'
import { NarUndelivered, serve, serveStrictly } from '../connect/session.ts'
import { brokersCache, DEADLINE, PATIENCE, readTarget } from '../connect/settings.ts'
import { stdio } from '../connect/stdio.ts'
import { dialOrAway, redialling, report, type Target } from '../connect/upstream.ts'
import { socketPath } from '../system/paths.ts'

const HELP = `nix-lan-connect: what Nix starts as a store; the box, or an empty store

Usage: nix-lan-connect [OPTION…] [SOCKET | CACHE] --stdio

You name it in nix.conf, and Nix starts it:

  extra-substituters = ssh-ng://localhost?remote-program=/usr/local/bin/nix-lan-connect%20/run/nix-lan/rpi.sock

SOCKET is the path of the tunnel's socket, or of the broker's in /run/nix-lan:
then perl relays to the broker if one runs; /etc/nix-lan/connect/CACHE says
whose tunnel it is. CACHE is a cache of the configuration, when it isn't the
only one. While the box is away, it is an empty store: builds go on as if the
cache weren't there.

Options:
      --strict            for uploads: exit 75 when the box is away, 2 when the
                          configuration is wrong
      --deadline SECONDS  how long to wait for the box's nix-daemon to shake
                          hands (default: 2, or the cache's own); its first
                          answer may take 30
      --patience SECONDS  how long to wait for a box that is lost, or gets
                          nowhere, during a fetch (default: 60, or the cache's
                          own)
      --broker CACHE      be the broker of a cache, for all sessions of Nix;
                          nix-lan-broker@CACHE.service starts it
      --stdio             what Nix adds: speak the worker protocol on stdin and
                          stdout
  -h, --help              show this
      --version           show the version

Exit code: 0 Nix closed the connection; 1 the box was lost in the middle of a
path, or this isn't Nix; 2 wrong usage or configuration (--strict); 75 the box
is away (--strict).

Examples:
  nix-lan-available --usable    whether a box answers
  nix copy --to 'ssh-ng://localhost?remote-program=nix-lan-connect%20--strict' \\
    ./result
`
const WITH_SECONDS = ['--deadline', '--patience']

const args = process.argv.slice(2)
if (args.includes('--help') || args.includes('-h') || args.includes('--version')) main('nix-lan-connect', HELP, async () => 0)
else if (args[0] === '--broker' && args.length === 2) main('nix-lan-connect', HELP, broker)
else if (!args.includes('--stdio') && process.stdin.isTTY) main('nix-lan-connect', HELP, notByHand)
else connect(args.includes('--strict'))

// Whatever breaks outside the conversation must not break a build: the conversation goes on, and a
// box that no longer answers it is given up.
process.on('uncaughtException', (error) => report(`this is a bug: ${error.message}`))

async function notByHand(): Promise<number> {
  throw new UsageError('this is started by Nix, not by hand; see --help')
}

async function broker(): Promise<number> {
  const { runBroker } = await import('../connect/broker.ts')
  process.exit(await runBroker(args[1] ?? ''))
}

async function connect(strict: boolean): Promise<void> {
  const client = stdio()
  try {
    if (strict) {
      const { box, fetched } = await dialOrAway(await findTarget(args))
      await serveStrictly(client, box, fetched)
    } else {
      const upstream = redialling(await findTarget(args).catch(unknown))
      relieveHead()
      await serve(client, upstream)
    }
    process.exit(0)
  } catch (error) {
    if (nixHasLeft(error)) process.exit(strict ? 75 : 0)
    else {
      // the upstream has reported it, once per outage
      if (strict || !(error instanceof NarUndelivered)) report((error as Error).message)
      process.exit(error instanceof Failure ? error.exitCode : 1)
    }
  }
}

/**
 * Tells the head, just before we read, that Nix no longer needs its empty store. From then on we end
 * with it: Nix knows its process and not ours, and may kill it while we wait for a box.
 */
function relieveHead(): void {
  const head = Number(process.env.NIX_LAN_HEAD)
  if (head !== process.ppid) return
  process.kill(head, 'SIGUSR1')
  setInterval(() => {
    if (process.ppid !== head) process.exit(0)
  }, 1000).unref()
}

/** A mistake in the command line or the configuration costs one line, and leaves an empty store. */
function unknown(error: Error): null {
  report(error.message)
  return null
}

/**
 * What the command line asks for. A socket's path needs no configuration: root has none to read,
 * and Nix needn't wait for it to load.
 * @throws UsageError, and whatever loadConfig() throws
 */
async function findTarget(args: readonly string[]): Promise<Target> {
  const words = args.filter((word, i) => !word.startsWith('--') && !WITH_SECONDS.includes(args[i - 1] ?? ''))
  const given = seconds(args, '--deadline', 0.1, 60)
  const patience = seconds(args, '--patience', 0, 3600)
  const brokers = brokersCache(words[0] ?? '')
  if (brokers !== undefined) {
    if (process.env.NIX_LAN_WAKE) {
      const { wakeLater } = await import('../connect/wake.ts')
      wakeLater(words[0] ?? '')
    }
    const target = await readTarget(brokers)
    return { ...target, deadline: given ?? target.deadline, patience: patience ?? target.patience }
  }
  if (words[0]?.includes('/')) return { socket: words[0], deadline: given ?? DEADLINE, patience: patience ?? PATIENCE }
  const { loadConfig, namedCache } = await import('../config/config.ts')
  const config = loadConfig()
  const cache = namedCache(config, words[0])
  if (cache.kind === 'url') throw new UsageError(`${cache.name} is a cache with a url: Nix needs no connect for it`)
  return { socket: socketPath(config.uid, cache.name), deadline: given ?? cache.deadline, patience: patience ?? cache.patience }
}

/**
 * The value of an option, in milliseconds; undefined when it isn't given.
 * @throws UsageError
 */
function seconds(args: readonly string[], option: string, least: number, most: number): number | undefined {
  const at = args.indexOf(option)
  if (at < 0) return undefined
  const value = Number(args[at + 1])
  if (args[at + 1] !== '' && value >= least && value <= most) return value * 1000
  throw new UsageError(`${option} ${args[at + 1]}: give seconds, from ${least} to ${most}`)
}
