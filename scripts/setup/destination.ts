// Parses what the user types to log in on a box, and asks ssh which machine must be reachable.
import { isIPv6 } from 'node:net'
import { Failure, UsageError } from '../cli/errors.ts'
import { type Person, runAs } from '../system/as-user.ts'
import { portOption } from '../tunnel/ssh.ts'
import { askSsh, type SshFacts } from '../tunnel/ssh-config.ts'

/** A destination as ssh takes it, and the port if it names one. */
export interface Destination {
  ssh: string
  port: number | undefined
}

const EXAMPLES = 'pi.local, pi@pi.local or an alias of ~/.ssh/config'

/**
 * Parses a typed destination, including `ssh://[USER@]HOST[:PORT]` (ssh(1)) and link-local
 * addresses, `fe80::1%eth0`. Pure.
 * @throws UsageError that says what to do instead
 */
export function parseDestination(text: string): Destination {
  const [, inUri, portText] = /^ssh:\/\/((?:[^@/]*@)?(?:\[[^\]/]*\]|[^:/@]*))(?::(\d+))?\/?$/.exec(text) ?? []
  const ssh = inUri === undefined ? text : inUri.replace(/\[(.*)\]$/, '$1')
  if (/^([^@/]*@)?[A-Za-z0-9._-]+:\d+$/.test(ssh))
    throw new UsageError(`${text}: ssh takes a port as ssh://${ssh}, or from an alias of ~/.ssh/config`)
  if (/^([A-Za-z0-9._][A-Za-z0-9._-]*@)?[A-Za-z0-9:][A-Za-z0-9.:_%-]*$/.test(ssh))
    return { ssh, port: portText === undefined ? undefined : Number(portText) }
  const [, user, host = ''] = /^(.*)@([A-Za-z0-9.:_%-]+)$/.exec(ssh) ?? []
  if (user !== undefined && !user.startsWith('-'))
    throw new UsageError(
      `${text}: the user name has characters that nix-lan doesn't pass on; write an alias into ~/.ssh/config and use that, for example:\n\n` +
        `Host box\n  HostName ${host}\n  User ${configWord(user)}\n`,
    )
  throw new UsageError(`${text}: must be what you give to ssh to log in on the box: ${EXAMPLES}`)
}

/** A word of ssh_config(5): it needs quotes for a blank, and for quotes of its own. */
const configWord = (text: string): string => (/[\s"'#]/.test(text) ? `"${text.replaceAll('"', '\\"')}"` : text)

/** How ssh gets somewhere. */
export type Route =
  | { kind: 'direct'; host: string; port: number }
  /** Through another machine, which is the one that must be reachable. */
  | { kind: 'through'; ssh: string; port: number | undefined }
  /** Through a program that doesn't tell. */
  | { kind: 'program'; command: string }

/**
 * The route that ssh takes; pure.
 * @param facts from `ssh -G`
 */
export function routeOf(facts: SshFacts): Route {
  const value = (keyword: string): string | undefined => {
    const found = facts.get(keyword)?.[0]
    return found === 'none' ? undefined : found
  }
  const jump = value('proxyjump')?.split(',')[0]
  const command = value('proxycommand')
  if (jump !== undefined) {
    const [, ssh = jump, port] = /^(?:ssh:\/\/)?((?:[^@]*@)?(?:\[[^\]]*\]|[^:]*))(?::(\d+))?$/.exec(jump) ?? []
    return { kind: 'through', ssh: ssh.replace(/\[(.*)\]$/, '$1'), port: port === undefined ? undefined : Number(port) }
  }
  if (command !== undefined) {
    const hop = hopOf(command)
    return hop === undefined ? { kind: 'program', command } : { kind: 'through', ssh: hop, port: undefined }
  }
  return { kind: 'direct', host: value('hostname') ?? '', port: Number(value('port') ?? 22) }
}

/** The destination in `ssh -W %h:%p JUMP` and the like: the first word not an option (ssh(1)). */
function hopOf(command: string): string | undefined {
  const [program = '', ...words] = command.replace(/^exec /, '').split(/\s+/)
  if (!/(^|\/)ssh$/.test(program)) return undefined
  while (words.length > 0) {
    const word = words.shift() ?? ''
    if (/^-[BbcDEeFIiJLlmOoPpQRSWw]$/.test(word)) words.shift()
    else if (!word.startsWith('-')) return /^[A-Za-z0-9._@:-]+$/.test(word) ? word : undefined
  }
  return undefined
}

/** More jump hosts in a row must be a loop. */
const MAX_HOPS = 8

/**
 * The machine that must be reachable for a login: the box, or the first jump host.
 * @throws Failure if ssh rejects the destination, UsageError if a program of the user's leads there
 */
export async function reachable(person: Person, { ssh, port }: Destination): Promise<{ host: string; port: number; through: boolean }> {
  let [at, portAt] = [ssh, port]
  for (let hops = 0; hops < MAX_HOPS; hops++) {
    const { facts, problem } = await askSsh(at, portAt === undefined ? [] : portOption(portAt), (argv, options) =>
      runAs(person, argv, options),
    )
    if (problem) throw new Failure(`ssh rejects ${at}: ${problem}`)
    const route = routeOf(facts)
    if (route.kind === 'direct') return { host: route.host, port: route.port, through: hops > 0 }
    if (route.kind === 'program')
      throw new UsageError(
        `ssh gets to ${ssh} through a program (ProxyCommand ${route.command}), so setup can't know which machine must be reachable; say it: --host HOST[:PORT]`,
      )
    ;[at, portAt] = [route.ssh, route.port]
  }
  throw new Failure(`ssh gets to ${ssh} through too many jump hosts`)
}

/**
 * Parses --host: the machine that must be reachable.
 * @throws UsageError
 */
export function parseHost(text: string): { host: string; port: number } {
  const address = isIPv6(text.replace(/%.*/, ''))
  const [, bracketed, plain, port] = address ? ['', text] : (/^(?:\[([^\]]+)\]|([^:]+))(?::(\d+))?$/.exec(text) ?? [])
  const host = bracketed ?? plain
  if (host === undefined || !/^[A-Za-z0-9:][A-Za-z0-9.:_%-]*$/.test(host)) throw new UsageError(`--host ${text}: must be HOST or HOST:PORT`)
  return { host, port: Number(port ?? 22) }
}
