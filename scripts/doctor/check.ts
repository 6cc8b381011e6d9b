// What a check is, and how a list of them runs: in order, each only when what it needs is well, so
// that one fault is one line. Knows nothing about what is checked.
import { Failure } from '../cli/errors.ts'

export type State = 'ok' | 'warning' | 'failed' | 'skipped'

/**
 * What a check found. `fix`: a command to run as it stands, or what to change where; null when
 * there is nothing to fix.
 */
export interface Verdict {
  state: State
  /** What was seen: a line for people, without a full stop. */
  found: string
  fix: string | null
}

export interface Check {
  name: string
  /** The cache it is about; none: the machine as a whole. */
  cache?: string
  /**
   * Checks that must not have failed or been skipped, or this one doesn't run. Names of the same
   * cache's, or of the machine's.
   */
  needs: readonly string[]
  /**
   * Checks whose failure explains a failure of this one: it runs all the same, but isn't blamed.
   */
  excuses?: readonly string[]
  /** Uses the network, or may take long: not with --offline. */
  online?: boolean
  /**
   * Under sudo, root looks for itself as well, and its own eyes count before the user's word
   * (as-root.ts).
   */
  root?: boolean
  run(): Verdict | Promise<Verdict>
}

/** A line of the report; as it stands in --json. */
export interface Finding extends Verdict {
  check: string
  cache?: string
}

export const ok = (found: string): Verdict => ({ state: 'ok', found, fix: null })
export const warning = (found: string, fix: string | null): Verdict => ({ state: 'warning', found, fix })
export const failed = (found: string, fix: string | null): Verdict => ({ state: 'failed', found, fix })
export const skipped = (found: string): Verdict => ({ state: 'skipped', found, fix: null })

/**
 * Runs the checks in their order.
 * @param starts is called before each one that runs
 * @param ended is called with each finding as soon as it is there
 */
export async function runChecks(
  checks: readonly Check[],
  { offline, starts, ended }: { offline: boolean; starts: (check: Check) => void; ended: (finding: Finding) => void },
): Promise<Finding[]> {
  const done: Done[] = []
  for (const check of checks) {
    const { causes, ...verdict } = await examine(check)
    const finding = { check: check.name, ...(check.cache === undefined ? {} : { cache: check.cache }), ...verdict }
    done.push({ finding, causes })
    ended(finding)
  }
  return done.map(({ finding }) => finding)

  async function examine(check: Check): Promise<Verdict & { causes: string[] }> {
    if (check.online && offline) return { ...skipped('not with --offline'), causes: [] }
    const missing = notWell(done, check.needs, check.cache)
    if (missing.length > 0) return leaveOut(missing)
    starts(check)
    const verdict = await attempt(check.run)
    const reasons = verdict.state === 'failed' ? notWell(done, check.excuses ?? [], check.cache) : []
    return reasons.length > 0 ? leaveOut(reasons) : { ...verdict, causes: [check.name] }
  }
}

/**
 * A finding, and the checks to blame when it isn't well: itself or, when it was left out, those
 * that failed further up.
 */
interface Done {
  finding: Finding
  causes: string[]
}

/**
 * Those of the named checks, of the same cache or of the machine, that have failed or were left
 * out.
 */
function notWell(done: readonly Done[], names: readonly string[], cache: string | undefined): Done[] {
  const found = names.flatMap((name) => {
    const all = done.filter(({ finding }) => finding.check === name)
    return all.find(({ finding }) => finding.cache === cache) ?? all.find(({ finding }) => finding.cache === undefined) ?? []
  })
  return found.filter(({ finding }) => finding.state === 'failed' || finding.state === 'skipped')
}

/** A check that is left out because of those. What --offline leaves out has no cause. */
function leaveOut(because: readonly Done[]): Verdict & { causes: string[] } {
  const causes = [...new Set(because.flatMap((one) => one.causes))]
  const found = causes.length > 0 ? `needs ${causes.join(', ')}` : (because[0]?.finding.found ?? '')
  return { ...skipped(found), causes }
}

/**
 * What can't be asked is a failure of the check that asks; anything else that is thrown is a bug.
 */
async function attempt(run: Check['run']): Promise<Verdict> {
  try {
    return await run()
  } catch (error) {
    if (error instanceof Failure) return failed(error.message, null)
    throw error
  }
}

/** 0 when nothing has failed: a warning is something to know, not something to fix at once. */
export const exitCodeOf = (findings: readonly Finding[]): number => (findings.some(({ state }) => state === 'failed') ? 1 : 0)
