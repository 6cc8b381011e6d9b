// Words what nix-lan-run would do, for --explain. Pure.
import { harmless, toJson } from '../cli/text.ts'
import type { Found } from './program.ts'
import type { Plan } from './substituters.ts'

/** Everything --explain reports. */
export interface Explanation {
  command: string
  found: Found
  plan: Plan
  /** Further lines: a configuration that can't be used, a user who isn't trusted, … */
  notes: string[]
}

/** The output of --explain, for people. */
export function explain({ command, found, plan, notes }: Explanation): string {
  const lines = [found.ok ? `${command}: runs ${found.program}` : `${command}: can't run: ${found.reason}`]
  for (const { name, action, url, usable, reason } of plan.decisions) {
    const state = usable.ok ? `can be used (${usable.address}, ${Math.round(usable.ms)} ms)` : `can't be used: ${usable.reason}`
    const does = { add: 'added', there: 'already among the substituters', 'leave out': 'left out' }[action]
    lines.push(`cache ${name}: ${state}; ${does}${reason && `: ${reason}`}`)
    if (url !== undefined && action !== 'leave out') lines.push(`    ${url}`)
  }
  for (const { url, where, reason } of plan.dropped) lines.push(`left out: ${url} (from ${where}): ${reason}`)
  lines.push(plan.setting === undefined ? 'NIX_CONFIG: as it is' : `NIX_CONFIG: one more line\n    ${plan.setting}`)
  return harmless(`${[...lines, ...notes.map((note) => `note: ${note}`)].join('\n')}\n`)
}

/** The output of --explain --json. */
export function explainJson({ command, found, plan, notes }: Explanation): string {
  const program = found.ok ? { program: found.program } : { program: null, reason: found.reason }
  return `${toJson({ command, ...program, setting: plan.setting ?? null, caches: plan.decisions, dropped: plan.dropped, notes }, 2)}\n`
}
