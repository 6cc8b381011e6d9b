// nix-lan-connect: the program that Nix runs as a store (ssh-ng://localhost?remote-program=…). Joins Nix to the box's nix-daemon through the
// tunnel's socket, and is an empty store while the box is away. Never writes to a store, and before the handshake nothing makes it exit.
import { closeSync, constants, fstatSync, lstatSync, openSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { main } from '../cli/command.ts'
import { Away, Failure, noTunnel, UsageError } from '../cli/errors.ts'
import { Outage } from '../connect/outage.ts'
import { NarUndelivered, serve, serveStrictly, type Upstream } from '../connect/session.ts'
import { ClientGone, stdio } from '../connect/stdio.ts'
import { EndOfStream } from '../protocol/byte-reader.ts'
import { type Box, BoxUnavailable } from '../protocol/worker.ts'
import { socketPath } from '../state/paths.ts'
import { fetchedBy, Transfers } from '../state/transfers.ts'

const HELP = `nix-lan-connect: what Nix starts as a store; the box, or an empty store

Usage: nix-lan-connect [OPTION…] [SOCKET | CACHE] --stdio

You name it in nix.conf, and Nix starts it:

  extra-substituters = ssh-ng://localhost?remote-program=/usr/local/bin/nix-lan-connect%20/run/user/1000/nix-lan/rpi.sock

SOCKET is the tunnel's socket (a path); CACHE a cache of the configuration,
when it isn't the only one. While the box is away, it is an empty store:
builds go on as if the cache weren't there.

Options:
      --strict            for uploads: exit 75 when the box is away, 2 when the
                          configuration is wrong
      --deadline SECONDS  how long to wait for the box's nix-daemon (default: 2,
                          or the cache's own)
      --stdio             what Nix adds: speak the worker protocol on stdin and
                          stdout
  -h, --help              show this
      --version           show the version

Exit code: 0 Nix has ended it; 1 the box was lost in the middle of a path, or
this isn't Nix; 2 wrong usage or configuration (--strict); 75 the box is away
(--strict).

Examples:
  nix-lan-available --usable    whether a box answers
  nix copy --to 'ssh-ng://localhost?remote-program=nix-lan-connect%20--strict' \\
    ./result
`
const DEADLINE = 2000
const LONGEST_LINE = 1000
const PAUSE = 1000 // milliseconds between two attempts of one process

interface Target {
  socket: string
  /** Milliseconds. */
  deadline: number
}

const args = process.argv.slice(2)
const strict = args.includes('--strict')
let transfers: Transfers | undefined
const fetched = (bytes: number): void => transfers?.add(1, bytes)
if (args.includes('--help') || args.includes('-h') || args.includes('--version')) main('nix-lan-connect', HELP, async () => 0)
else if (!args.includes('--stdio') && process.stdin.isTTY) main('nix-lan-connect', HELP, notByHand)
else connect()

// Whatever breaks outside of the conversation, a build must not: the conversation goes on, and a box that no longer answers it is given up.
process.on('uncaughtException', (error) => report(`this is a bug: ${error.message}`))

async function notByHand(): Promise<number> {
  throw new UsageError('this is started by Nix, not by hand; see --help')
}

async function connect(): Promise<void> {
  const client = stdio()
  try {
    if (strict) await serveStrictly(client, await dialStrictly(await findTarget()), fetched)
    else await serve(client, patientLine(await findTarget().catch(unknown)))
    process.exit(0)
  } catch (error) {
    if (error instanceof ClientGone || error instanceof EndOfStream) process.exit(strict ? 75 : 0)
    else {
      // the upstream has told it, once for each outage
      if (strict || !(error instanceof NarUndelivered)) report((error as Error).message)
      process.exit(error instanceof Failure ? error.exitCode : 1)
    }
  }
}

/** What is wrong with the command line or the configuration is a line, and an empty store. */
function unknown(error: Error): null {
  report(error.message)
  return null
}

/**
 * What the command line asks for. A socket's path needs no configuration, so that root has none to read, and Nix needn't wait while it is loaded.
 * @throws UsageError, and what loadConfig() throws
 */
async function findTarget(): Promise<Target> {
  const words = args.filter((word, i) => !word.startsWith('--') && args[i - 1] !== '--deadline')
  const at = args.indexOf('--deadline')
  const given = at < 0 ? undefined : Number(args[at + 1]) * 1000
  if (given !== undefined && !(given > 0 && given <= 60_000))
    throw new UsageError(`--deadline ${args[at + 1]}: give seconds, from 0.1 to 60`)
  if (words[0]?.includes('/')) return { socket: words[0], deadline: given ?? DEADLINE }
  const { loadConfig, namedCache } = await import('../config/config.ts')
  const config = loadConfig()
  const cache = namedCache(config, words[0])
  if (cache.kind === 'url') throw new UsageError(`${cache.name} is a cache with a url: Nix needs no connect for it`)
  return { socket: socketPath(config.uid, cache.name), deadline: given ?? cache.deadline }
}

/** @throws BoxUnavailable */
async function dialTarget({ socket, deadline }: Target): Promise<Box> {
  transfers ??= new Transfers(fetchedBy(socket))
  const way = becomeOwner(socket)
  if (!lstatSync(socket, { throwIfNoEntry: false })) throw new BoxUnavailable('missing', noTunnel(socket))
  const { dialBox } = await import('../protocol/dial.ts')
  return await dialBox(socket, deadline, way)
}

/** @throws Away when the box isn't there; Failure when it is too old */
async function dialStrictly(target: Target): Promise<Box> {
  try {
    const box = await dialTarget(target)
    await box.handshake // to its end: while we wait for Nix, which may take its time, we are deaf to the box
    return box
  } catch (error) {
    const message = (error as Error).message
    throw error instanceof BoxUnavailable && error.kind === 'old' ? new Failure(message) : new Away(message)
  }
}

/** A line to the box that never fails: whatever goes wrong is an outage. */
function patientLine(target: Target | null): Upstream {
  let outage: Outage | null = null
  try {
    if (target) outage = new Outage(target.socket)
  } catch (mistake) {
    report(`this is a bug: ${(mistake as Error).message}`) // no notes, then
  }
  function lost(error: Error): void {
    const reason = error instanceof BoxUnavailable ? error : new BoxUnavailable('broken', error.message)
    try {
      if (outage?.began(reason, Date.now())) report(`${reason.message}; going on without it`)
    } catch (mistake) {
      report(`this is a bug: ${(mistake as Error).message}`) // taking notes must not end the conversation
    }
  }
  let again = 0 // when the next attempt is worth its while: Nix may ask a thousand things in a second; by a clock that nobody sets
  async function dial(): Promise<Box | null> {
    if (!target || performance.now() < again) return null
    again = performance.now() + PAUSE
    try {
      if (outage?.heldBack(Date.now())) return null
      const box = await dialTarget(target)
      Promise.resolve(box.handshake)
        .then(() => outage?.ended())
        .catch(() => {}) // why a handshake fails is told to lost()
      return box
    } catch (error) {
      lost(error as Error)
      return null
    }
  }
  let told = false
  return {
    lost,
    report: (text) => {
      if (!told) report(text) // a box with a broken database says so for each of a thousand paths
      told = true
    },
    fetched,
    strict: false,
    dial,
  }
}

/** open(2): only the file itself, not to be read; node:fs has no name for it. */
const O_PATH = 0o10000000

/**
 * Root is needed for nothing here: become whoever owns the socket's directory, so that a socket or link which a user planted can
 * do no more than that user. Where nobody but root owns it we stay who we are.
 * @returns what to connect to
 */
function becomeOwner(socket: string): string {
  if (process.geteuid?.() !== 0) return socket
  const owner = lstatSync(dirname(socket), { throwIfNoEntry: false })
  // Not to be looked for as root: it may be made, with a link in it, in this very moment.
  if (!owner) throw new BoxUnavailable('missing', noTunnel(socket))
  if (owner.uid === 0) return socket
  if (lstatSync(socket, { throwIfNoEntry: false })) transfers?.open() // its file is root's
  try {
    process.setgroups?.([owner.gid])
    process.setgid?.(owner.gid)
    process.setuid?.(owner.uid)
    return socket
  } catch {
    return ownedBy(owner.uid, socket)
  }
}

/**
 * As root for good: Node 20 with a libuv of the system's (Debian 13) doesn't change users, because of CVE-2024-22017. So hold on to the socket itself,
 * see that it is that user's, and connect to just this one, wherever links lead by then.
 * @throws BoxUnavailable
 */
function ownedBy(uid: number, socket: string): string {
  if (!lstatSync(socket, { throwIfNoEntry: false })) throw new BoxUnavailable('missing', noTunnel(socket))
  const held = openSync(socket, O_PATH | constants.O_NOFOLLOW)
  const stat = fstatSync(held)
  if (stat.isSocket() && stat.uid === uid) return `/proc/self/fd/${held}`
  closeSync(held)
  throw new BoxUnavailable('broken', `${socket} is not a socket of the user's whose directory it is in`)
}

/** One line for the journal, of bearable length. A box's words may be in it, which mustn't move the cursor of a terminal. */
function report(line: string): void {
  const [first = ''] = line.slice(0, LONGEST_LINE).split('\n')
  try {
    writeSync(2, `nix-lan-connect: ${first.replace(/\p{Cc}/gu, '?')}\n`)
  } catch {
    // nobody reads it (`nix build 2>&1 | head`)
  }
}
