// What every command has in common: options, --help, --version, and how an error becomes a line and an exit code.
// Imports nothing but mri, so that the hot paths can afford it.
import mri from 'mri'
import { Failure, UsageError } from './errors.ts'
import { VERSION } from './version.ts'

/** The options of a command by name, without dashes. `alias` maps a short letter to its long name. */
export interface Options {
  boolean?: string[]
  string?: string[]
  alias?: Record<string, string>
}

/** What stands on a command line: the words in order, whether a flag was given, the text of an option. */
export interface Parsed {
  words: string[]
  flag(name: string): boolean
  value(name: string): string | undefined
}

/**
 * Reads a command line.
 * @throws UsageError for an unknown option (with the nearest known one), a value given to a flag, or an option without its value
 */
export function parse(argv: string[], options: Options): Parsed {
  const flags = [...(options.boolean ?? []), 'help', 'version']
  const texts = options.string ?? []
  const known = [...flags, ...texts]
  const found = mri(argv, {
    boolean: flags,
    string: texts,
    alias: { h: 'help', ...options.alias },
    unknown: (flag: string) => {
      const near = nearest(flag.replace(/^-+/, ''), known)
      throw new UsageError(`unknown option ${flag}${near ? `; did you mean --${near}?` : '; see --help'}`)
    },
  }) as unknown as Record<string, unknown> & { _: (string | number)[] }
  for (const name of texts) {
    const value = found[name]
    if (value === '' || Array.isArray(value)) throw new UsageError(`--${name} needs exactly one value; see --help`)
  }
  return {
    words: found._.map(String),
    flag: (name) => found[name] === true,
    value: (name) => (found[name] === undefined ? undefined : String(found[name])),
  }
}

/** The candidate that is at most two edits (insert, delete, replace) away from `word`, if there is one. */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  let best: string | undefined
  let least = 3
  for (const candidate of candidates) {
    const distance = edits(word, candidate)
    if (distance < least) {
      best = candidate
      least = distance
    }
  }
  return best
}

/** Levenshtein distance. */
function edits(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const replace = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next[j] = Math.min(replace, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1)
    }
    row = next
  }
  return row[b.length] ?? 0
}

/**
 * Runs a command and ends the process: --help and --version, then `run`, whose number is the exit code. A Failure is one line
 * on stderr and its own exit code; anything else is a bug, printed with its stack, exit 1.
 */
export async function main(name: string, help: string, run: (argv: string[]) => Promise<number>): Promise<void> {
  let code = 1
  try {
    code = await answer(process.argv.slice(2), name, help, run)
  } catch (error) {
    if (error instanceof Failure) {
      process.stderr.write(`${name}: ${error.message}\n`)
      code = error.exitCode
    } else {
      process.stderr.write(`${name}: this is a bug in nix-lan ${VERSION}: ${error instanceof Error ? error.stack : error}\n`)
    }
  }
  exit(code)
}

async function answer(argv: string[], name: string, help: string, run: (argv: string[]) => Promise<number>): Promise<number> {
  const end = argv.indexOf('--')
  const own = end < 0 ? argv : argv.slice(0, end)
  if (own.includes('--help') || own.includes('-h')) process.stdout.write(help)
  else if (own.includes('--version')) process.stdout.write(`${name} ${VERSION}\n`)
  else return await run(argv)
  return 0
}

/** Ends the process when stdout has been written. `write('', exit)` loses the tail of a pipe under Bun; `end` does not. */
export function exit(code: number): void {
  process.stdout.end(() => process.exit(code))
}
