// What setup prints for the user and asks.
import { createInterface } from 'node:readline'
import { UsageError } from '../cli/errors.ts'
import { sudoFinds } from '../cli/sudo.ts'
import { harmless } from '../cli/text.ts'

/** Prints a line. */
export function say(text: string): void {
  process.stdout.write(`${harmless(sudoFinds(text))}\n`)
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
