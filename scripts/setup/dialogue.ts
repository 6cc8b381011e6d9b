// What setup says to a person, and asks.
import { createInterface } from 'node:readline'
import { UsageError } from '../cli/errors.ts'
import { harmless } from '../cli/text.ts'

/** Says a line. */
export function say(text: string): void {
  process.stdout.write(`${harmless(text)}\n`)
}

/** Says that something is done. */
export const done = (what: string): void => say(`  done: ${what}`)

/**
 * One question on the terminal; anything but y or yes is no.
 * @param yes whether --yes was given: then nobody is asked
 * @throws UsageError when there is nobody to ask
 */
export function agreed(question: string, yes: boolean): Promise<boolean> {
  if (yes) return Promise.resolve(true)
  if (process.stdin.isTTY !== true)
    throw new UsageError('there is no terminal to ask on: --yes does it without asking, --dry-run only shows it')
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
