// Defines a check and runs a list of them: in order, each only if what it needs is well, so one
// fault is one line. Knows nothing about what is checked.
import { Failure } from '../cli/errors.ts'

export type State = 'ok' | 'warning' | 'failed' | 'skipped'

/**
 * What a check found. `fix`: a command ready to run, or what to change where; null when there is
 * nothing to fix.
 */
export interface Verdict {
  state: State
  /** What was seen: a line for people, without a full stop. */
  found: string
  fix: string | null
}

export interface Check {
  name: string
  /** The cache it is about; none: the whole machine. */
  cache?: string
  /**
   * Checks, of the same cache or of the machine, that must not have failed or been skipped for this
   * one to run.
   */
  needs: readonly string[]
  /** Checks whose failure explains a failure of this one: it runs anyway, but isn't blamed. */
  excuses?: readonly string[]
  /** Uses the network or may take long: skipped with --offline. */
  online?: boolean
  /** Under sudo, root looks for itself too, which counts before the user's word (as-root.ts). */
  root?: boolean
  run(): Verdict | Promise<Verdict>
}

/** A line of the report, as printed by --json. */
export interface Finding extends Verdict {
  check: string
  cache?: string
}

export const ok = (found: string): Verdict => ({ state: 'ok', found, fix: null })
export const warning = (found: string, fix: string | null): Verdict => ({ state: 'warning', found, fix })
export const failed = (found: string, fix: string | null): Verdict => ({ state: 'failed', found, fix })
export const skipped = (found: string): Verdict => ({ state: 'skipped', found, fix: null })

/**
 * Runs the checks in order.
 * @param starts called before each one that runs
 * @param ended called with each finding as soon as it is known
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
 * A finding, and which checks to blame if it isn't well: itself or, if it was skipped, the ones
 * further up that failed.
 */
interface Done {
  finding: Finding
  causes: string[]
}

/** Those of the named checks, of the same cache or of the machine, that failed or were skipped. */
function notWell(done: readonly Done[], names: readonly string[], cache: string | undefined): Done[] {
  const found = names.flatMap((name) => {
    const all = done.filter(({ finding }) => finding.check === name)
    return all.find(({ finding }) => finding.cache === cache) ?? all.find(({ finding }) => finding.cache === undefined) ?? []
  })
  return found.filter(({ finding }) => finding.state === 'failed' || finding.state === 'skipped')
}

/** Skips a check because of these. What --offline skips has no cause. */
function leaveOut(because: readonly Done[]): Verdict & { causes: string[] } {
  const causes = [...new Set(because.flatMap((one) => one.causes))]
  const found = causes.length > 0 ? `needs ${causes.join(', ')}` : (because[0]?.finding.found ?? '')
  return { ...skipped(found), causes }
}

/** A question that can't be asked is a failure of its check; anything else thrown is a bug. */
async function attempt(run: Check['run']): Promise<Verdict> {
  try {
    return await run()
  } catch (error) {
    if (error instanceof Failure) return failed(error.message, null)
    throw error
  }
}

/** 0 if nothing failed: a warning is something to know, not something to fix at once. */
export const exitCodeOf = (findings: readonly Finding[]): number => (findings.some(({ state }) => state === 'failed') ? 1 : 0)
