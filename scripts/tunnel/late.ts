// Explains why ssh has not logged in after a minute. ssh says nothing: it is waiting for the ssh
// agent, or the box is waiting for something.
import type { SshCache } from '../config/types.ts'
import { askAgent } from './agent.ts'
import type { AgentState } from './failure.ts'
import { loginByHand, sshOptions } from './ssh.ts'
import { agentSocket, askSsh } from './ssh-config.ts'
import { type Start, startPlain } from './start.ts'

/** Asks the ssh agent, and returns one line for people with the way out. */
export async function whyLate(
  cache: SshCache,
  env: Record<string, string | undefined> = process.env,
  start: Start = startPlain,
): Promise<string> {
  const { facts } = await askSsh(cache.ssh, sshOptions(cache), start)
  const state = await askAgent(agentSocket(facts, env), start)
  return reasonFor(state, loginByHand(cache, facts))
}

/** The line for an agent's state; pure. */
export function reasonFor(state: AgentState, byHand: string): string {
  if (state === 'unresponsive') return 'the ssh agent gives no answer: does its window wait for a click, or a password?'
  if (state === 'keys')
    return `ssh did not log in within a minute: does the ssh agent, or a security key, wait for a confirmation? By hand: ${byHand}`
  return `ssh did not log in within a minute; see what it does by hand: ${byHand}`
}
