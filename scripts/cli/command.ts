// What every command shares: options, --help, --version, and turning an error into a line and an
// exit code. Imports little but mri, so the hot paths can afford it.
import { writeSync } from 'node:fs'
import mri from 'mri'
import { Failure, UsageError } from './errors.ts'
import { sudoFinds } from './sudo.ts'
import { harmless } from './text.ts'
import { VERSION } from './version.ts'

/** A command's options by name, without dashes. `alias` maps a short letter to its long name. */
export interface Options {
  boolean?: string[]
  string?: string[]
  alias?: Record<string, string>
}

/** What a command line holds: the words in order, whether a flag was given, an option's text. */
export interface Parsed {
  words: string[]
  flag(name: string): boolean
  value(name: string): string | undefined
}

/**
 * Parses a command line. Options may come before, between and after the words; everything after
 * `--` is a word.
 * @throws UsageError for an unknown option (with the nearest known one), a value given to a flag,
 * or an option without its value
 */
export function parse(argv: string[], options: Options): Parsed {
  const texts = options.string ?? []
  const found = mri(unambiguous(argv, options), { string: texts }) as unknown as Record<string, unknown> & { _: string[] }
  for (const name of texts) {
    if (Array.isArray(found[name])) throw new UsageError(`--${name} is given more than once; see --help`)
  }
  return {
    words: found._,
    flag: (name) => ((found[name] ?? false) !== false || isNegated(name, found)) && !texts.includes(name),
    value: (name) => (found[name] === undefined ? undefined : String(found[name])),
  }
}

/** mri reads --no-doctor as a false `doctor`. */
const isNegated = (name: string, found: Record<string, unknown>): boolean => name.startsWith('no-') && found[name.slice(3)] === false

/**
 * Rewrites the command line as `--flag`s and `--option=value`s, `--`, then the words. Left to
 * itself mri 1.2 takes the word after a flag as its value (and turns 007 into 7), knows only
 * options that have an alias once `unknown` is set, and accepts --no-ANYTHING.
 */
function unambiguous(argv: string[], options: Options): string[] {
  const flags = [...(options.boolean ?? []), 'help', 'version']
  const texts = options.string ?? []
  const aliases: Record<string, string> = { h: 'help', ...options.alias }
  const result: string[] = []
  const words: string[] = []
  const rest = [...argv]
  for (let arg = rest.shift(); arg !== undefined; arg = rest.shift()) {
    if (arg === '--') return [...result, '--', ...words, ...rest]
    if (arg === '-' || !arg.startsWith('-')) {
      words.push(arg)
      continue
    }
    const [, dashes = '', given = '', value] = /^(--|-.)([^=]*)(?:=(.*))?$/s.exec(arg) ?? []
    const short = dashes === '--' ? undefined : dashes.slice(1)
    const name = short === undefined ? given : Object.hasOwn(aliases, short) ? aliases[short] : undefined
    if (name !== undefined && texts.includes(name)) {
      result.push(`--${name}=${textOf(name, short === undefined ? value : arg.slice(2).replace(/^=/, '') || undefined, rest)}`)
    } else if (name !== undefined && flags.includes(name)) {
      if (value !== undefined) throw new UsageError(`--${name} takes no value; see --help`)
      result.push(`--${name}`)
      if (short !== undefined && given) rest.unshift(`-${given}`) // -qj is -q -j
    } else throw unknownOption(short === undefined ? `--${given}` : dashes, [...flags, ...texts])
  }
  return [...result, '--', ...words]
}

/**
 * An option's value: after `=`, or the next argument. A value starting with `-` must be a number or
 * follow `=`.
 */
function textOf(name: string, value: string | undefined, rest: string[]): string {
  const next = value ?? (/^-(?!$|\d)/.test(rest[0] ?? '') ? undefined : rest.shift())
  if (!next) throw new UsageError(`--${name} needs a value; see --help`)
  return next
}

function unknownOption(option: string, known: string[]): UsageError {
  const near = nearest(option.replace(/^-+/, ''), known)
  return new UsageError(`unknown option ${option}${near ? `; did you mean --${near}?` : '; see --help'}`)
}

/**
 * The candidate at most two edits (insert, delete, replace) from `word`, and fewer than its length,
 * if there is one.
 */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  let best: string | undefined
  let least = Math.min(3, word.length)
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
 * Runs a command and ends the process: handles --help and --version, else calls `run`, whose number
 * is the exit code. A Failure is one line on stderr and its own exit code; anything else is a bug,
 * printed with its stack, exit 1.
 * @param streams false: `run` writes to stdout only with print(), so Node's streams need not be
 * loaded, which saves a tenth of its startup
 */
export async function main(name: string, help: string, run: (argv: string[]) => Promise<number>, streams = true): Promise<void> {
  let code = 1
  self = name
  if (streams) openStream()
  try {
    code = await answer(process.argv.slice(2), name, help, run)
  } catch (error) {
    if (error instanceof Failure) {
      process.stderr.write(`${name}: ${harmless(sudoFinds(error.message))}\n`)
      code = error.exitCode
    } else {
      process.stderr.write(
        `${name}: this is a bug in nix-lan ${VERSION}: ${harmless(String(error instanceof Error ? error.stack : error))}\n`,
      )
    }
  }
  if (stream) exit(code)
  else process.exit(code)
}

/** The command's name, for code that main() doesn't pass it to. */
let self = ''
/** Whether process.stdout is in use. */
let stream = false

/** A reader that stops early (`| head`) is no failure; a full disk is. */
function openStream(): void {
  stream = true
  process.stdout.on('error', unwritten)
}

function unwritten(error: NodeJS.ErrnoException): void {
  if (error.code === 'EPIPE') return
  process.stderr.write(`${self}: can't write to stdout: ${error.code}\n`)
  process.exit(1)
}

/**
 * Writes to stdout synchronously, or through the stream where writing must not block (O_NONBLOCK).
 */
export function print(text: string): void {
  const bytes = Buffer.from(text)
  let done = 0
  try {
    while (!stream && done < bytes.length) done += writeSync(1, bytes, done)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') openStream()
    else {
      unwritten(error as NodeJS.ErrnoException)
      return
    }
  }
  if (done < bytes.length) process.stdout.write(bytes.subarray(done))
}

async function answer(argv: string[], name: string, help: string, run: (argv: string[]) => Promise<number>): Promise<number> {
  const end = argv.indexOf('--')
  const own = end < 0 ? argv : argv.slice(0, end)
  if (own.includes('--help') || own.includes('-h')) print(help)
  else if (own.includes('--version')) print(`${name} ${VERSION}\n`)
  else return await run(argv)
  return 0
}

/**
 * Ends the process once stdout has been written. Not with `end`: where stdout is a socket (a
 * command over ssh, a systemd unit) that would shut it down for everyone who shares it, and the
 * script's next `echo` would be killed by SIGPIPE. But under Bun, `write('', exit)` loses the tail
 * of a pipe.
 */
function exit(code: number): void {
  if (process.versions.bun) process.stdout.end(() => process.exit(code))
  else process.stdout.write('', () => process.exit(code))
}
