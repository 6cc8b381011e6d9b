// nix-lan-tunnel: prepares what ssh needs, then becomes ssh, which forwards the socket of the box's
// nix-daemon to one of the user's own. JavaScript only decides: its head
// (scripts/heads/nix-lan-tunnel.sh) starts what this prints, so no runtime stays in memory.
import { main, parse } from '../cli/command.ts'
import { Away, Failure, UsageError } from '../cli/errors.ts'
import { loadConfig, namedCache } from '../config/config.ts'
import { type Config, isSsh, type SshCache } from '../config/types.ts'
import { mustBeUser } from '../config/user.ts'
import { type Agent, endWithUs, findAgent } from '../tunnel/agent.ts'
import { explanation, hintFor, keeperCommand, prepare } from '../tunnel/attempt.ts'
import { whyLate } from '../tunnel/late.ts'
import { Service } from '../tunnel/service.ts'
import { makeRoom, tunnelSocket } from '../tunnel/socket.ts'

const NAME = 'nix-lan-tunnel'
const HELP = `nix-lan-tunnel: forward the box's nix-daemon to a socket here, by ssh

Usage: nix-lan-tunnel [--print | --service] [CACHE]

The socket is /run/user/UID/nix-lan/CACHE.sock, where nix-lan-connect looks for
it, and is there until ssh ends. Without CACHE: the only box of the
configuration.

ssh asks for nothing, so the box's host key must be known, and your key usable
without a prompt: by an agent (SSH_AUTH_SOCK, or what env-file sets), or because
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

const warn = (text: string): void => void process.stderr.write(`${NAME}: ${text}\n`)

async function tunnel(argv: string[]): Promise<number> {
  const { words, flag, value } = parse(argv, { boolean: ['print', 'service', 'ready', 'late'], string: ['ended'] })
  if (words.length > 1) throw new UsageError('one cache at a time; see --help')
  const config = loadConfig()
  const cache = boxNamed(config, words[0])
  mustBeUser(config, 'the ssh keys of the tunnel are', NAME)
  const socket = tunnelSocket(config.uid, cache.name)
  const service = new Service(config.uid, cache, process.argv[1] ?? NAME, warn)
  const code = value('ended')
  if (flag('ready')) return await service.ready()
  if (code !== undefined) return await service.ended(Number(code))
  if (flag('late')) throw new Failure(`${cache.name}: ${await whyLate(cache)}`, 255)
  if (flag('service')) return await asService(service, cache, socket)
  const agent = await agentFor(cache)
  if (flag('print')) {
    endWithUs(agent, config.uid)
    process.stdout.write(explanation(cache, socket, await prepare(cache, socket), agent))
    return 0
  }
  await makeRoom(socket, cache.name)
  const attempt = await prepare(cache, socket)
  if (!attempt.answer.ok) throw new Away(`${cache.name} is away: ${attempt.answer.reason}`)
  process.stdout.write(keeperCommand(cache, socket, attempt, { hint: hintFor(cache, attempt) }, agent, agent.env))
  return 0
}

async function agentFor(cache: SshCache): Promise<Agent> {
  const agent = await findAgent(cache.envFile, process.env)
  if (agent.problem) warn(agent.problem)
  return agent
}

/**
 * Makes one attempt under systemd: a pause that is due, or ssh. A failure leads to a pause too,
 * unless a person has to fix something first.
 */
async function asService(service: Service, cache: SshCache, socket: string): Promise<number> {
  if (await service.waits()) return 0
  try {
    const agent = await agentFor(cache)
    await makeRoom(socket, cache.name)
    service.newLog()
    const attempt = await prepare(cache, socket, service.log)
    if (!attempt.answer.ok) return await service.failed(`away: ${attempt.answer.reason}`, true)
    process.stdout.write(keeperCommand(cache, socket, attempt, { service: true }, agent, service.environment(agent)))
    return 0
  } catch (error) {
    if (!(error instanceof Failure) || error instanceof UsageError) throw error
    return await service.failed(error.message, false)
  }
}

/** The box with that name; without a name the only box, however many other caches there are. */
function boxNamed(config: Config, name: string | undefined): SshCache {
  const boxes = { ...config, caches: config.caches.filter(isSsh) }
  if (name === undefined && boxes.caches.length === 0) throw new UsageError(`${config.file} has no box (a cache with host = "…")`)
  const cache = namedCache(name === undefined ? boxes : config, name)
  if (cache.kind === 'ssh') return cache
  throw new UsageError(`${cache.name} is a URL (${cache.url}), which needs no tunnel`)
}

void main(NAME, HELP, tunnel)
