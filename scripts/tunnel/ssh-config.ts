// Asks ssh how it reads its configuration for a destination: the one place that parses `ssh -G`.
import { inSeconds } from '../cli/text.ts'
import type { SshCache } from '../config/types.ts'
import { type Start, startPlain } from './start.ts'

/**
 * What `ssh -G` prints: the values of each lower-case keyword, in ssh's order. Empty if it could
 * not be asked.
 */
export type SshFacts = ReadonlyMap<string, readonly string[]>

/**
 * Milliseconds for `ssh -G`. It runs each `Match exec` in the configuration; ssh itself will wait
 * for those, too.
 */
const LIMIT = 15_000

/**
 * Asks ssh about a destination.
 * @param options the arguments ssh will be started with, up to the destination
 * @param start how to start ssh, for example as another user
 * @returns the facts; empty if ssh gives none, and then `problem` says why
 */
export async function askSsh(
  ssh: string,
  options: readonly string[] = [],
  start: Start = startPlain,
): Promise<{ facts: SshFacts; problem?: string }> {
  const asked = await start(['ssh', '-G', ...options, '--', ssh], { timeout: LIMIT })
  if (asked.code === 0) return { facts: parseFacts(asked.stdout) }
  const said = asked.stderr.trim().split('\n').at(-1)
  const why = asked.failedToStart ?? (asked.timedOut ? `no answer within ${inSeconds(LIMIT)}` : said)
  return { facts: new Map(), problem: `ssh -G ${ssh}: ${why || `exit code ${asked.code}`}` }
}

/** Parses the output of `ssh -G`. */
export function parseFacts(output: string): SshFacts {
  const facts = new Map<string, string[]>()
  for (const line of output.split('\n')) {
    const [, keyword, value = ''] = /^(\S+) ?(.*)$/.exec(line) ?? []
    if (keyword === undefined) continue
    const values = facts.get(keyword.toLowerCase())
    if (values) values.push(value)
    else facts.set(keyword.toLowerCase(), [value])
  }
  return facts
}

/**
 * Whether ssh connects directly to the cache's `host`, so that what we found out about that host
 * holds for ssh. Not so with a jump host, a proxy, or an alias for another machine.
 */
export function isDirect(cache: Pick<SshCache, 'host'>, facts: SshFacts): boolean {
  const none = (keyword: string): boolean => ['none', undefined].includes(facts.get(keyword)?.[0])
  if (facts.get('hostname')?.[0]?.toLowerCase() !== cache.host.toLowerCase()) return false
  return none('proxyjump') && none('proxycommand')
}

/**
 * Whether our options change nothing but the address. A `Match host` block in ~/.ssh/config no
 * longer matches when HostName is an address, and %h in a value would become the address: then ssh
 * has to resolve the name itself.
 */
export function changesNothingElse(before: SshFacts, after: SshFacts): boolean {
  if ((before.get('canonicalizehostname')?.[0] ?? 'false') !== 'false') return false
  const meant = ['hostname', 'port', ...(before.has('hostkeyalias') ? [] : ['hostkeyalias'])]
  const text = (facts: SshFacts): string => JSON.stringify([...facts].filter(([keyword]) => !meant.includes(keyword)))
  return text(before) === text(after) && !text(before).includes('%h')
}

/**
 * The agent's socket for this destination: IdentityAgent takes precedence over SSH_AUTH_SOCK
 * (ssh_config(5)).
 * @param env where to look up a variable that IdentityAgent names
 * @returns undefined if there is no agent
 */
export function agentSocket(facts: SshFacts, env: Record<string, string | undefined>): string | undefined {
  const named = facts.get('identityagent')?.[0] ?? 'SSH_AUTH_SOCK'
  if (named === 'none') return undefined
  if (named === 'SSH_AUTH_SOCK') return env.SSH_AUTH_SOCK
  const [, variable] = /^\$\{?(\w+)\}?$/.exec(named) ?? []
  if (variable !== undefined) return env[variable]
  return named.replace(/^~(?=\/)/, env.HOME ?? '~')
}

/** The one address family ssh is limited to, if any (ssh_config(5), AddressFamily). */
export function familyOf(facts: SshFacts): 4 | 6 | undefined {
  const value = facts.get('addressfamily')?.[0]
  return value === 'inet' ? 4 : value === 'inet6' ? 6 : undefined
}

/** The forwardings the user's configuration sets for this destination. */
export function forwardingsOf(facts: SshFacts): string[] {
  const keywords = ['LocalForward', 'RemoteForward', 'DynamicForward']
  return keywords.flatMap((keyword) => (facts.get(keyword.toLowerCase()) ?? []).map((value) => `${keyword} ${value}`))
}
