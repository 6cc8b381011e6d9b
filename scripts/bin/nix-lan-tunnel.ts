// nix-lan-tunnel: makes ready what ssh needs, and becomes ssh, which forwards the socket of the box's nix-daemon to one of the user's
// own. JavaScript only decides: its head (scripts/heads/nix-lan-tunnel.sh) starts what this prints, so that it isn't in memory meanwhile.
import { chmodSync, lstatSync, mkdirSync, unlinkSync } from 'node:fs'
import { createConnection } from 'node:net'
import { dirname } from 'node:path'
import { main, parse } from '../cli/command.ts'
import { Away, Failure, UsageError } from '../cli/errors.ts'
import { shellWord } from '../cli/text.ts'
import { loadConfig, namedCache } from '../config/config.ts'
import { type Config, isSsh, type SshCache } from '../config/types.ts'
import { mustBeUser } from '../config/user.ts'
import { type Answer, reachable } from '../reach/reach.ts'
import { socketPath } from '../state/paths.ts'
import { run } from '../system/exec.ts'
import { becomeProgram } from '../system/handover.ts'
import { searchEnv, searchPath } from '../system/search-path.ts'
import { findAgent } from '../tunnel/agent.ts'
import { Service } from '../tunnel/service.ts'
import {
  addressOptions,
  changesNothingElse,
  isDirect,
  KEEPER,
  otherForwardings,
  parseFacts,
  portOptions,
  type SshFacts,
  sshArguments,
  sshOptions,
} from '../tunnel/ssh.ts'

const NAME = 'nix-lan-tunnel'
const HELP = `nix-lan-tunnel: forward the box's nix-daemon to a socket here, by ssh

Usage: nix-lan-tunnel [--print | --service] [CACHE]

The socket is /run/user/UID/nix-lan/CACHE.sock, where nix-lan-connect looks for
it, and is there until ssh ends. Without CACHE: the only box of the
configuration.

ssh asks for nothing, so the box's host key must be known and your key be usable
without a word: by an agent (SSH_AUTH_SOCK, or what env-file sets), or because
it has no passphrase.

Options:
      --print    only show the ssh command
      --service  as systemd's nix-lan-tunnel@CACHE.service starts it: says when
                 a nix-daemon answers, and instead of ending because it can't
                 get there, says why and tries again, after up to a minute
  -h, --help     show this
      --version  show the version

Exit code: that of ssh (0 when it was told to end, 255 when it failed or the
link was lost); 1 a tunnel for this cache runs already, or its directory can't
be used; 2 wrong usage or configuration; 75 the box is away.

Examples:
  nix-lan-tunnel
  nix-lan-tunnel rpi
  nix-lan-tunnel --print rpi
`

const say = (text: string): void => void process.stderr.write(`${NAME}: ${text}\n`)

async function tunnel(argv: string[]): Promise<number> {
  const { words, flag, value } = parse(argv, { boolean: ['print', 'service', 'ready'], string: ['ended'] })
  if (words.length > 1) throw new UsageError('one cache at a time; see --help')
  const config = loadConfig()
  const cache = boxNamed(config, words[0])
  mustBeUser(config, 'the ssh keys of the tunnel are', NAME)
  const socket = socketFor(config.uid, cache)
  const self = process.argv[1] ?? NAME
  const service = new Service(config.uid, cache, self, say)
  const code = value('ended')
  if (flag('ready')) return await service.ready()
  if (code !== undefined) return await ended(service, cache, Number(code))
  if (flag('service')) return await asService(service, cache, socket)
  const agent = await agentFor(cache)
  if (!flag('print')) await makeRoom(dirname(socket), socket, cache.name)
  const { answer, facts, args } = await plan(cache, socket)
  if (!flag('print')) {
    if (!answer.ok) throw new Away(`${cache.name} is away: ${answer.reason}`)
    warn(facts)
  }
  process.stdout.write(
    flag('print')
      ? explanation(cache, answer, agent.from, agent.env, args)
      : command(socket, [hint(cache, facts), '', ''], agent.env, args),
  )
  return 0
}

/** ssh's arguments, and what they rest on. `log`: see sshArguments. */
async function plan(cache: SshCache, socket: string, log?: string): Promise<{ answer: Answer; facts: SshFacts; args: string[] }> {
  const [answer, facts] = await Promise.all([reachable(cache, cache.deadline), askSsh(cache, [])])
  return { answer, facts, args: sshArguments(cache, socket, await targetOptions(cache, answer, facts), log) }
}

/** Of what else ssh will do. */
function warn(facts: SshFacts): void {
  for (const other of otherForwardings(facts)) {
    say(`ssh also makes "${other}" of your ssh configuration, and ends if it can't; a Host alias of its own in ssh = "…" avoids that`)
  }
}

async function agentFor(cache: SshCache): ReturnType<typeof findAgent> {
  const agent = await findAgent(cache.envFile, process.env)
  if (agent.problem) say(agent.problem)
  return agent
}

/** One attempt of the unit's: a pause that is due, or ssh. What goes wrong, other than what is for a person to mend first, is a pause too. */
async function asService(service: Service, cache: SshCache, socket: string): Promise<number> {
  if (await service.waits()) return 0
  try {
    const agent = await agentFor(cache)
    await makeRoom(dirname(socket), socket, cache.name)
    service.newLog()
    const { answer, args } = await plan(cache, socket, service.log)
    if (!answer.ok) return await service.failed(`away: ${answer.reason}`, true)
    process.stdout.write(command(socket, ['', service.self, cache.name], service.environment(agent), args))
    return 0
  } catch (error) {
    if (!(error instanceof Failure) || error instanceof UsageError) throw error
    return await service.failed(error.message, false)
  }
}

/** ssh has ended by itself. */
async function ended(service: Service, cache: SshCache, code: number): Promise<number> {
  return await service.ended(code, async () => byHand(cache, await askSsh(cache, [])))
}

/** The box with that name; without one, the only box, however many other caches there are. */
function boxNamed(config: Config, name: string | undefined): SshCache {
  const boxes = { ...config, caches: config.caches.filter(isSsh) }
  if (name === undefined && boxes.caches.length === 0) throw new UsageError(`${config.file} has no box (a cache with host = "…")`)
  const cache = namedCache(name === undefined ? boxes : config, name)
  if (cache.kind === 'ssh') return cache
  throw new UsageError(`${cache.name} is a URL (${cache.url}), which needs no tunnel`)
}

/** @throws UsageError for a path that ssh -L or Nix would take apart, or the kernel refuse */
function socketFor(uid: number, cache: SshCache): string {
  const socket = socketPath(uid, cache.name)
  if (!/^\/[A-Za-z0-9_./+-]+$/.test(socket))
    throw new UsageError(`${socket}: XDG_RUNTIME_DIR may only have letters, digits and . _ + - in it`)
  if (Buffer.byteLength(socket) > 107)
    throw new UsageError(`${socket}: too long for a socket (107 bytes, unix(7)); XDG_RUNTIME_DIR must be shorter`)
  return socket
}

/** A directory that is ours alone, with no socket in it; a live one is left alone. */
async function makeRoom(directory: string, socket: string, cache: string): Promise<void> {
  makeDirectory(directory)
  const stat = lstatSync(socket, { throwIfNoEntry: false })
  if (!stat) return
  if (stat.isSocket() && (await accepts(socket))) throw new Failure(`a tunnel for ${cache} runs already: somebody listens on ${socket}`)
  if (stat.isDirectory()) throw new Failure(`${socket} is a directory; remove it`)
  unlinkSync(socket)
}

function makeDirectory(directory: string): void {
  try {
    mkdirSync(directory, { mode: 0o700 })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') {
      throw new Failure(
        `${dirname(directory)} is not there: it comes with a login, or without one after: sudo loginctl enable-linger $USER`,
      )
    }
    if (code !== 'EEXIST') throw new Failure(`${directory} can't be made: ${code}`)
  }
  const stat = lstatSync(directory)
  if (!stat.isDirectory()) throw new Failure(`${directory} is not a directory, so sockets in it can't be trusted; remove it`)
  if (stat.uid !== process.getuid?.()) throw new Failure(`${directory} belongs to somebody else (uid ${stat.uid}); remove it`)
  if ((stat.mode & 0o777) !== 0o700) chmodSync(directory, 0o700)
}

/** Whether somebody listens there. A listener whose queue is full (EAGAIN) is one too. */
function accepts(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const connection = createConnection(socket)
    connection.on('connect', () => resolve(true)).on('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'EAGAIN'))
    connection.on('connect', () => connection.destroy())
  })
}

/** What ssh makes of its configuration for this box; nothing when it can't be asked: then ssh itself will say why. */
async function askSsh(cache: SshCache, more: readonly string[]): Promise<SshFacts> {
  const asked = await run('ssh', ['-G', ...sshOptions(cache), ...more, cache.ssh], { env: searchEnv(), timeout: cache.deadline })
  return asked.code === 0 ? parseFacts(asked.stdout) : new Map()
}

async function targetOptions(cache: SshCache, answer: Answer, facts: SshFacts): Promise<string[]> {
  const port = portOptions(cache, facts)
  if (!answer.ok || !isDirect(cache, facts) || answer.address === cache.host) return port
  const all = [...port, ...addressOptions(cache, answer.address, facts)]
  return changesNothingElse(facts, await askSsh(cache, all)) ? all : port
}

/** What to try when ssh could not log in: it asks nobody here, so an unknown host key or a locked key is "failed" and no more. */
function hint(cache: SshCache, facts: SshFacts): string {
  return `${NAME}: no tunnel to ${cache.name}; ssh can't ask anything here, but it can by hand: ${byHand(cache, facts)}`
}

function byHand(cache: SshCache, facts: SshFacts): string {
  const port = cache.port === 22 ? [] : portOptions(cache, facts)
  return ['ssh', ...port, cache.ssh].join(' ')
}

/** A shell keeps the socket's life and ssh's the same. `more`: its second to fourth argument, see KEEPER. */
function command(socket: string, more: readonly string[], env: Record<string, string>, args: readonly string[]): string {
  return becomeProgram({
    program: '/bin/sh',
    args: ['-c', KEEPER, NAME, socket, ...more, 'ssh', ...args],
    shift: process.argv.length - 2,
    env: { ...env, PATH: searchPath(process.env.PATH) },
  })
}

function explanation(cache: SshCache, answer: Answer, from: string, env: Record<string, string>, args: readonly string[]): string {
  const there = answer.ok ? `reachable at ${answer.address} port ${answer.port}` : `away: ${answer.reason}`
  const words = [...Object.entries(env).map(([name, value]) => `${name}=${value}`), 'ssh', ...args]
  return `# ${cache.name} is ${there}\n# SSH_AUTH_SOCK: from ${from}\n${words.map(shellWord).join(' ')}\n`
}

void main(NAME, HELP, tunnel)
