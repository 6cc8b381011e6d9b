// Lets nix-lan-run and nix-lan-tunnel become another program. The JavaScript prints sh code, and
// the sh head of the same file (scripts/heads/plan.sh) executes it after the JavaScript has ended:
// so nothing stays in memory, and file descriptors, limits and the head's arguments are unchanged.
//
// The protocol for a command that does so:
// - To become a program: print becomeProgram(…), and nothing else, to stdout, and exit 0.
// - To print something (help, version, --explain): print it to stdout, ending in one newline, and
//   exit with any code; the head prints the text and exits with that code. Errors go to stderr,
//   which passes straight through.
// - The JavaScript's stdin is empty and its stdout is a pipe: to find out whether there is a
//   terminal, check stderr.
// - The JavaScript runs without NODE_OPTIONS, NODE_EXTRA_CA_CERTS and BUN_OPTIONS; the program gets
//   them unchanged.
// - The command line's arguments stay with the head, since any that aren't UTF-8 would be damaged
//   here; `shift` drops the first ones.

import { quote } from '../cli/text.ts'

/** A program to become. */
export interface Program {
  /** Its path, or a name to find in PATH (which must not be one of our own symlinks). */
  program: string
  /** Arguments to put before the head's own. */
  args?: readonly string[]
  /** How many of the head's first arguments to drop; default 0. */
  shift?: number
  /** What changes in the environment: a value, or null to remove the variable. */
  env?: Record<string, string | null>
  /** Text to append to a variable. The head supplies its current value, which may not be UTF-8. */
  append?: Record<string, string>
}

/** First line of the output: tells the head to execute the rest. */
const MARK = '# nix-lan: become'

/**
 * The sh code that makes the head become a program. Quotes every word from outside.
 * @throws Error for the caller's mistakes: NUL, a name sh can't assign to, a program that looks
 *   like an option
 */
export function becomeProgram({ program, args = [], shift = 0, env = {}, append = {} }: Program): string {
  if (program === '' || program.startsWith('-')) throw new Error(`not a program: ${JSON.stringify(program)}`)
  if (!Number.isInteger(shift) || shift < 0) throw new Error(`can't shift by ${shift}`)
  const lines = [MARK]
  for (const name of [...Object.keys(env), ...Object.keys(append)]) {
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) throw new Error(`sh can't assign to ${JSON.stringify(name)}`)
  }
  for (const [name, value] of Object.entries(env)) lines.push(value === null ? `unset ${name}` : `export ${name}=${quote(value)}`)
  for (const [name, value] of Object.entries(append)) lines.push(`export ${name}="\${${name}-}"${quote(value)}`)
  if (shift > 0) lines.push(`shift ${shift}`)
  lines.push(['exec', ...[program, ...args].map(quote), '"$@"'].join(' '))
  return `${lines.join('\n')}\n`
}
