// Prepares one attempt at a tunnel: what to ask beforehand, the ssh command line that follows from
// it, and the sh code that makes the head of nix-lan-tunnel become ssh. Changes nothing.
import { quote, shellWord } from '../cli/text.ts'
import type { SshCache } from '../config/types.ts'
import { type Answer, reachable } from '../reach/reach.ts'
import { becomeProgram } from '../system/handover.ts'
import { searchPath } from '../system/search-path.ts'
import { KEEPER } from '../system/texts.ts'
import { type Agent, beginningOf, wantTouch } from './agent.ts'
import { controlSocket } from './socket.ts'
import { addressOptions, forwardCommand, loginByHand, needsControl, portOptions, sshArguments, sshOptions, trafficOptions } from './ssh.ts'
import { askSsh, changesNothingElse, familyOf, isDirect, type SshFacts } from './ssh-config.ts'

/** What was found out for an attempt, and how ssh will be started. */
export interface Attempt {
  answer: Answer
  facts: SshFacts
  /** Why ssh could not be asked about its configuration; ssh itself will say so, too. */
  problem?: string
  args: string[]
  /**
   * The control socket over which ssh is asked for the forwarding, if it doesn't set that up
   * itself.
   */
  control?: string
  /**
   * The ssh connection for uploads, if they have their own: ssh's arguments and its two sockets.
   */
  uploads?: { args: string[]; socket: string; control: string }
}

/**
 * Asks at the same time whether the box is there and how ssh reads its configuration. The answer is
 * of an address that ssh would take.
 */
export async function findBox(cache: SshCache): Promise<Pick<Attempt, 'answer' | 'facts' | 'problem'>> {
  const [first, asked] = await Promise.all([reachable(cache, cache.deadline), askSsh(cache.ssh, sshOptions(cache))])
  return { ...asked, answer: await asSshWould(cache, first, asked.facts) }
}

/**
 * Finds the box, and says what ssh has to be started with.
 * @param log a file for ssh's messages; default: stderr
 */
export async function prepare(cache: SshCache, socket: string, log?: string): Promise<Attempt> {
  const asked = await findBox(cache)
  const { answer } = asked
  const control = needsControl(asked.facts) ? controlSocket(socket) : undefined
  const target = await targetOptions(cache, answer, asked.facts)
  const traffic = trafficOptions(cache, asked.facts, 'lowdelay')
  const options = { target, traffic, ...(log ? { log } : {}), ...(control ? { control } : {}) }
  const uploads = answer.ok && (await haveOwn(cache, asked.facts)) ? forUploads(cache, socket, target, asked.facts) : undefined
  return { ...asked, args: sshArguments(cache, socket, options), ...(control ? { control } : {}), ...(uploads ? { uploads } : {}) }
}

/** Whether uploads get their own connection. */
async function haveOwn(cache: SshCache, facts: SshFacts): Promise<boolean> {
  if (cache.uploadConnection !== undefined) return cache.uploadConnection === 'own'
  return !(await wantTouch(facts))
}

function forUploads(cache: SshCache, tunnel: string, target: readonly string[], facts: SshFacts): Attempt['uploads'] {
  const socket = tunnel.replace(/\.sock$/, '.upload.sock')
  const control = controlSocket(socket)
  if (control === undefined) return undefined
  const traffic = trafficOptions(cache, facts, 'throughput')
  return { args: sshArguments(cache, socket, { target, control, traffic }), socket, control }
}

/** Asks again with the one address family ssh accepts, if the answer came from the other. */
async function asSshWould(cache: SshCache, answer: Answer, facts: SshFacts): Promise<Answer> {
  const family = familyOf(facts)
  if (!family || !answer.ok || !isDirect(cache, facts) || answer.address.includes(':') === (family === 6)) return answer
  const again = await reachable(cache, cache.deadline, family)
  if (again.ok) return again
  return { ...again, reason: `${again.reason} (AddressFamily ${facts.get('addressfamily')?.[0]} in ssh's configuration)` }
}

/**
 * The options for where ssh connects to: the port and address that answered, if ssh would connect
 * to that host directly.
 */
async function targetOptions(cache: SshCache, answer: Answer, facts: SshFacts): Promise<string[]> {
  const port = portOptions(cache, facts)
  if (!answer.ok || !isDirect(cache, facts) || answer.address === cache.host) return port
  const all = [...port, ...addressOptions(cache, answer.address, facts)]
  return changesNothingElse(facts, (await askSsh(cache.ssh, [...sshOptions(cache), ...all])).facts) ? all : port
}

/**
 * Under systemd, nix-lan-tunnel handles ssh's end; when run by hand, a failure ends with a hint.
 */
type Mode = { service: true } | { hint: string }

/**
 * The sh code that makes the head become the keeper, which runs ssh.
 * @param agent ends with the tunnel when run by hand; under systemd the unit takes care of that
 * @param env variables to add to the environment
 */
export function keeperCommand(
  cache: SshCache,
  socket: string,
  { args, control, uploads }: Attempt,
  mode: Mode,
  agent: Agent,
  env: Record<string, string>,
): string {
  const [hint, begun] = 'hint' in mode ? [mode.hint, beginningOf(agent)] : ['', '']
  const self = process.argv[1] ?? 'nix-lan-tunnel'
  const text = (words: readonly string[]): string => words.map(quote).join(' ')
  const forward = control === undefined ? '' : text(forwardCommand(cache, socket, control))
  const own = uploads
    ? [uploads.socket, uploads.control, text(['ssh', ...uploads.args]), text(forwardCommand(cache, uploads.socket, uploads.control))]
    : ['', '', '', '']
  return becomeProgram({
    program: '/bin/sh',
    args: ['-c', KEEPER, 'nix-lan-tunnel', socket, hint, self, cache.name, control ?? '', forward, begun, ...own, 'ssh', ...args],
    shift: process.argv.length - 2,
    env: { ...env, PATH: searchPath(process.env.PATH) },
  })
}

/**
 * What to try when ssh could not log in. It can't prompt here, so an unknown host key or a locked
 * key just shows as "failed".
 */
export const hintFor = (cache: SshCache, { facts }: Attempt): string =>
  `nix-lan-tunnel: no tunnel to ${cache.name}; ssh can't ask anything here, but it can by hand: ${loginByHand(cache, facts)}`

/** `--print`: the command for people, with the facts behind it. */
export function explanation(cache: SshCache, socket: string, { answer, problem, args, control, uploads }: Attempt, agent: Agent): string {
  const there = answer.ok ? `reachable at ${answer.address} port ${answer.port}` : `away: ${answer.reason}`
  const words = [...Object.entries(agent.env).map(([name, value]) => `${name}=${value}`), 'ssh', ...args]
  const line = (all: readonly string[]): string => `${all.map(shellWord).join(' ')}\n`
  const later = control === undefined ? '' : `# and once it is connected:\n${line(forwardCommand(cache, socket, control))}`
  return `# ${cache.name} is ${there}\n# SSH_AUTH_SOCK: from ${agent.from}\n${problem ? `# ${problem}\n` : ''}${line(words)}${later}# uploads: ${uploads ? `through an ssh connection of their own, from the first one on:\n${line(['ssh', ...uploads.args])}` : 'through the same connection\n'}`
}
