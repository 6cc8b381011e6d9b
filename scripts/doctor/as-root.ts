// The doctor for root: everything is looked at by the user, in a process of the user's, since root reads nothing that a user could have put
// there; then root adds what only root can see, the secret key and nix-daemon's own environment.
import { readFileSync } from 'node:fs'
import { Failure } from '../cli/errors.ts'
import type { Config } from '../config/types.ts'
import { publicHalf } from '../nix/keys.ts'
import { runAs } from '../system/as-user.ts'
import { searchPath } from '../system/search-path.ts'
import { attempt, type Finding, type Verdict } from './check.ts'
import type { Facts } from './facts.ts'
import { believes, notBelieved } from './judge-files.ts'
import { WORDS } from './report.ts'

/** Milliseconds for all of it: each of its steps ends by itself long before, but the process is the user's, who can stop it. */
const LIMIT = 15 * 60_000

/**
 * Runs the doctor as the user whose queue it is, with nothing of root's environment.
 * @param argv what it is called with
 * @throws Failure when it can't be, or when what comes back is no report
 */
export async function askAsUser({ user, uid, home }: Config, argv: readonly string[], self: string): Promise<Finding[]> {
  const kept = ['TERM', 'LANG', 'NO_COLOR'].flatMap((name) => (process.env[name] ? [`${name}=${process.env[name]}`] : []))
  const env = [
    `HOME=${home}`,
    `USER=${user}`,
    `LOGNAME=${user}`,
    `PATH=${home}/.nix-profile/bin:${searchPath(undefined)}`,
    `XDG_RUNTIME_DIR=/run/user/${uid}`,
    ...kept,
  ]
  const doctor = [self, 'doctor', ...argv.filter((word) => word !== '--json'), '--json']
  if (process.stderr.isTTY) process.stderr.write(`… as ${user}`)
  const person = { name: user, uid, home, env: {} }
  const asked = await runAs(person, ['env', '-i', ...env, ...doctor], { inherit: ['stderr'], timeout: LIMIT })
  if (asked.failedToStart) throw new Failure(`runuser can't be started (${asked.failedToStart}): run it as ${user}`)
  const findings = findingsIn(asked.stdout)
  if (findings) return findings
  const how = asked.timedOut ? `no end in ${LIMIT / 60_000} minutes` : `exit ${asked.code ?? asked.signal}`
  throw new Failure(`the doctor does not run as ${user} (${how}): try sudo -u ${user} nix-lan doctor`)
}

/** What a process of the user's says that the doctor found; undefined when it is no report. Pure. */
export function findingsIn(text: string): Finding[] | undefined {
  try {
    const found = JSON.parse(text) as Finding[]
    return found.every(isFinding) ? found : undefined
  } catch {
    return undefined
  }
}

/** Names are shown as they are; what is said is made harmless where it is shown (report.ts). */
function isFinding({ check, cache, state, found, fix }: Finding): boolean {
  const named = [check, ...(cache === undefined ? [] : [cache])].every((name) => typeof name === 'string' && /^\P{Cc}{1,60}$/u.test(name))
  return named && Object.hasOwn(WORDS, state) && typeof found === 'string' && (fix === null || typeof fix === 'string')
}

/** What only root can say about the signing key; undefined when it has nothing to add. */
export async function keyAsRoot(facts: Facts): Promise<Verdict | undefined> {
  const settings = await facts.system()
  if (typeof settings === 'string') return undefined
  const [file] = (settings.get('secret-key-files') ?? '').split(' ').filter(Boolean)
  if (file === undefined) return undefined
  const key = publicHalf(readFileSync(file, 'utf8'), file)
  const trusted = (settings.get('trusted-public-keys') ?? '').split(' ')
  return believes(key, trusted) ? undefined : notBelieved(key, facts.confFile)
}

/** The user's findings, with those of the checks that root has something to add to in their place. */
export async function withRoots(
  findings: readonly Finding[],
  more: Readonly<Record<string, () => Promise<Verdict | undefined>>>,
): Promise<Finding[]> {
  const result: Finding[] = []
  for (const finding of findings) {
    const ask = finding.state === 'ok' && finding.cache === undefined ? more[finding.check] : undefined
    const verdict = ask && (await attempt(ask))
    result.push(verdict ? { ...finding, ...verdict } : finding)
  }
  return result
}
