// Prints what setup has to say, and asks the user.
import { createInterface } from 'node:readline'
import { Failure, UsageError } from '../cli/errors.ts'
import { sudoFinds } from '../cli/sudo.ts'
import { harmless, wrapped } from '../cli/text.ts'

/** Prints a line. */
export function say(text: string): void {
  process.stdout.write(`${forScreen(text)}\n`)
}

/** Deeper lines are commands to paste and diffs, which are never wrapped. */
const MAX_INDENT = 4

/** The text without control characters; on a terminal, with sentences wrapped to its width. */
export function forScreen(text: string, columns = process.stdout.isTTY ? process.stdout.columns : undefined): string {
  return harmless(sudoFinds(text))
    .split('\n')
    .flatMap((line) => {
      const indent = /^ */.exec(line)?.[0] ?? ''
      if (columns === undefined || columns < 20 || line.length <= columns || indent.length > MAX_INDENT) return [line]
      return wrapped(line.slice(indent.length), columns - indent.length).map((part) => `${indent}${part}`)
    })
    .join('\n')
}

/** Reports that a step is done. */
export const done = (what: string): void => say(`  done: ${what}`)

/**
 * Asks one question on the terminal; anything but y or yes means no.
 * @param yes whether --yes was given: then it doesn't ask
 * @throws UsageError if there is no terminal
 */
export function agreed(question: string, yes: boolean): Promise<boolean> {
  if (yes) return Promise.resolve(true)
  if (process.stdin.isTTY !== true)
    throw new UsageError('there is no terminal to ask on; use --yes to go ahead without asking, or --dry-run to see the plan')
  const lines = createInterface({ input: process.stdin, output: process.stdout })
  return new Promise((resolve) => {
    let answer = ''
    lines.question(`${question} [y/N] `, (text) => {
      answer = text.trim().toLowerCase()
      lines.close()
    })
    lines.once('close', () => resolve(answer === 'y' || answer === 'yes'))
  })
}

/**
 * Runs one step; a hung user manager or a deleted user must not stop the rest.
 * @param what the step, reported once it is done; '' for nothing
 * @returns 0, or 1 if it failed, after reporting why
 */
export async function attempt(what: string, act: () => Promise<void>): Promise<number> {
  try {
    await act()
    if (what !== '') done(what)
    return 0
  } catch (error) {
    if (!(error instanceof Failure)) throw error
    say(`  not done: ${error.message}`)
    return 1
  }
}
