// How nix-lan-run and nix-lan-tunnel become another program: the JavaScript prints what follows,
// and the sh head of the same file (scripts/heads/plan.sh) does it after the JavaScript has ended,
// so that nothing stays in memory and file descriptors, limits and the head's own arguments are as
// they were.
//
// The protocol for such a command:
// - To become a program: print becomeProgram(…), and nothing else, to stdout, and exit 0.
// - To say something (help, version, --explain): print it to stdout, ending in one newline, and
//   exit
//   with any code; the head prints the text and exits with that code. Errors go to stderr, which
//   passes straight through.
// - The JavaScript's stdin is empty and its stdout is a pipe: ask stderr whether there is a
//   terminal.
// - The JavaScript runs without NODE_OPTIONS, NODE_EXTRA_CA_CERTS and BUN_OPTIONS; the program gets
//   them as they were.
// - Arguments from the command line stay with the head, since one that isn't UTF-8 would be damaged
//   here; `shift` drops the first ones.

import { quote } from '../cli/text.ts'

/** A program to become. */
export interface Program {
  /** Its path, or a name for PATH (then it must not be one of our own symlinks). */
  program: string
  /** Arguments put before those that the head was given. */
  args?: readonly string[]
  /** How many of the head's first arguments are dropped; default 0. */
  shift?: number
  /** What changes in the environment: a value, or null to remove the variable. */
  env?: Record<string, string | null>
  /**
   * Text to append to a variable. Its present value, which may not be UTF-8, stays with the head.
   */
  append?: Record<string, string>
}

/** The first line, which tells the head to execute the rest. */
const MARK = '# nix-lan: become'

/**
 * Makes the text by which the head becomes a program: sh code that quotes every word from outside.
 * @throws Error for mistakes of the caller: NUL, a name that sh can't assign, a program that looks
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
