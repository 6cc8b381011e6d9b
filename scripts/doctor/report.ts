// Formats the doctor's findings for a terminal: one line each, with the fix below. Pure.

import { oneLine, wrapped } from '../cli/text.ts'
import type { Finding, State } from './check.ts'

/** Columns in a file or a pipe, and the most of a terminal: longer lines are hard to read. */
export const WIDTH = 100
export const WORDS: Record<State, string> = { ok: 'ok', warning: 'warning', failed: 'FAILED', skipped: 'skipped' }
const STATE = 9
const NAME = 15
const INDENT = ' '.repeat(STATE + NAME)

/**
 * The lines of a finding, each with its newline. Never wraps the fix, so it can be copied.
 * @param width columns
 */
export function lines({ state, check, found, fix }: Finding, width = WIDTH): string {
  const [first = '', ...rest] = wrapped(oneLine(found), width - STATE - NAME)
  const head = `${WORDS[state].padEnd(STATE)}${check.padEnd(NAME - 1)} ${first}`
  const tail = fix === null ? [] : fix.split('\n').map((line, at) => `${at === 0 ? 'fix: ' : '     '}${oneLine(line)}`)
  return [head, ...[...rest, ...tail].map((line) => INDENT + line)].map((line) => `${line.trimEnd()}\n`).join('')
}

/**
 * Joins consecutive skipped checks into one sentence per reason; they only say who else is to
 * blame.
 * @param width columns
 */
export function skippedLine(findings: readonly Finding[], width = WIDTH): string {
  const reasons = new Map<string, string[]>()
  for (const { found, check } of findings) reasons.set(found, [...(reasons.get(found) ?? []), check])
  return [...reasons]
    .flatMap(([found, checks]) =>
      wrapped(`${checks.join(', ')} (${oneLine(found)})`, width - STATE).map(
        (line, at) => `${(at === 0 ? WORDS.skipped : '').padEnd(STATE)}${line}\n`,
      ),
    )
    .join('')
}

/** The last line of the report. */
export function summary(findings: readonly Finding[]): string {
  const count = (state: State): number => findings.filter((finding) => finding.state === state).length
  const [bad, doubtful, left] = [count('failed'), count('warning'), count('skipped')]
  if (bad + doubtful + left === 0) return 'all is well\n'
  const parts = [
    bad > 0 ? `${bad} failed` : '',
    doubtful > 0 ? (doubtful === 1 ? '1 warning' : `${doubtful} warnings`) : '',
    left > 0 ? `${left} not checked` : '',
  ]
  return `${bad === 0 ? 'nothing failed; ' : ''}${parts.filter(Boolean).join(', ')}\n`
}
