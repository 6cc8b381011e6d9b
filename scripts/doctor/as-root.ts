// Runs the doctor for root. The user's part runs in a process of the user's, since root reads
// nothing that a user could have put there. Its report is only that user's word: root has its own
// list of checks, looks for itself where it can, shows the rest filtered and under the user's name,
// and prints no fix but its own.
import { Failure } from '../cli/errors.ts'
import { oneLine } from '../cli/text.ts'
import type { Config } from '../config/types.ts'
import { runAs } from '../system/as-user.ts'
import { searchPath } from '../system/search-path.ts'
import type { Check, State, Verdict } from './check.ts'

/**
 * Milliseconds for the whole run. Each step ends long before, but the process is the user's, who
 * can stop it.
 */
const LIMIT = 15 * 60_000

/** Characters of a report; a complete one has a few thousand. */
const MOST = 2 ** 18

/** Characters shown of what one check found. */
const LONGEST = 600

/**
 * Runs the doctor as the user who owns the queue, with nothing of root's environment.
 * @param argv the arguments of this call
 * @throws Failure when it can't be run, or prints no report
 */
export async function askAsUser({ user, uid, home }: Config, argv: readonly string[], self: string): Promise<Told[]> {
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
  const started = Date.now()
  const asked = await runAs(person, ['env', '-i', ...env, ...doctor], { inherit: ['stderr'], timeout: LIMIT, most: MOST })
  if (process.stderr.isTTY) process.stderr.write('\r\u001b[K')
  if (asked.failedToStart) throw new Failure(`runuser can't be started (${asked.failedToStart}): run it as ${user}`)
  const told = toldIn(asked.stdout)
  if (told) return told
  const endless = Date.now() - started < LIMIT ? `it printed more than ${MOST / 1024} KiB` : `no end in ${LIMIT / 60_000} minutes`
  const how = asked.timedOut ? endless : `exit ${asked.code ?? asked.signal}`
  throw new Failure(`${user}'s part of the doctor gave no report (${how}): log in as ${user} and run nix-lan doctor`)
}

/** What the user's part says about one check. */
export interface Told {
  check: string
  cache?: string
  state: State
  found: string
  fix: string | null
}

const STATES: readonly string[] = ['ok', 'warning', 'failed', 'skipped'] satisfies State[]

/** Parses the report of the user's process; undefined if it isn't one. Pure. */
export function toldIn(text: string): Told[] | undefined {
  try {
    const told: unknown = JSON.parse(text)
    return Array.isArray(told) && told.every(isTold) ? told : undefined
  } catch {
    return undefined
  }
}

function isTold(value: unknown): value is Told {
  if (typeof value !== 'object' || value === null) return false
  const { check, cache, state, found, fix } = value as Record<string, unknown>
  const strings = [check, found, ...(cache === undefined ? [] : [cache]), ...(fix === null ? [] : [fix])]
  return strings.every((one) => typeof one === 'string') && typeof state === 'string' && STATES.includes(state)
}

/**
 * Root's checks: the same list, each with the user's word for it. Where root can look for itself, a
 * fault it finds comes first.
 * @param fixes those that root knows; any other fix the user's part names is not printed
 * @throws Failure when the user's part says nothing about one of them, or says it twice
 */
export function withWords(checks: readonly Check[], told: readonly Told[], user: string, fixes: readonly string[]): Check[] {
  return checks.map((check) => {
    const [word, second] = told.filter((one) => one.check === check.name && one.cache === check.cache)
    const name = check.cache === undefined ? check.name : `${check.cache}: ${check.name}`
    if (!word || second) throw new Failure(`${user}'s part of the doctor says ${word ? 'twice what it found' : 'nothing'} about "${name}"`)
    const { online: _, ...rest } = check
    return { ...rest, run: async () => decide(check.root ? await check.run() : undefined, inWords(word, user, fixes)) }
  })
}

/** Root's own verdict, unless only the user sees a fault, which may concern just that user. */
function decide(own: Verdict | undefined, word: Verdict): Verdict {
  if (!own) return word
  return own.state === 'ok' && (word.state === 'failed' || word.state === 'warning') ? word : own
}

function inWords({ state, found, fix }: Told, user: string, fixes: readonly string[]): Verdict {
  const line = oneLine(found)
  const text = line.length > LONGEST ? `${line.slice(0, LONGEST - 1)}…` : line
  return { state, found: `${user}'s word: ${text}`, fix: fix === null ? null : (fixes.find((one) => one === fix) ?? askAt(user)) }
}

const askAt = (user: string): string => `log in as ${user} and run nix-lan doctor: it says what fixes this`
