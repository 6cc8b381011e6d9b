// What the actions of `nix-lan queue` share. An action is a table: its --help, its options, its
// part of the man page and its completions all come from there.
import { nearest, type Options, type Parsed, parse } from '../../cli/command.ts'
import { UsageError } from '../../cli/errors.ts'
import { sudoFinds } from '../../cli/sudo.ts'
import { count, oneLine, toJson, wrapped } from '../../cli/text.ts'
import type { Config, SshCache } from '../../config/types.ts'

/** An option without dashes; `value` is the word in capitals that stands for its value. */
export interface Option {
  long: string
  value?: string
  text: string
}

/** A term and its text: one line of the help, or several. */
type Line = readonly [term: string, text: string]

export interface Action {
  name: string
  summary: string
  /**
   * Each way to call it, without the action's name, and what that does; the most common one first.
   */
  forms: readonly Line[]
  /** Further paragraphs. */
  about?: readonly string[]
  options: readonly Option[]
  /** What --json prints: a sentence, and the keys. */
  json: { what: string; keys: readonly Line[] }
  exit: string
  examples: readonly string[]
  /** Whether it needs sudo; if so, the usage begins with it. */
  sudo?: boolean
  run(call: Call): Promise<number>
}

/** What an action is called with. */
export interface Call {
  config: Config
  /** Never empty. */
  caches: SshCache[]
  words: string[]
  options: Parsed
  json: boolean
}

export const CACHE: Option = { long: 'cache', value: 'CACHE', text: 'only this cache; default: each one that is reached by ssh' }
export const JSON_OPTION: Option = { long: 'json', text: 'the answer for scripts, see below' }
/** The exit codes of an action that asks no box. */
export const EXIT = '0 done; 1 failed; 2 wrong usage or configuration.'

const WIDTH = 80

/** An action's --help, in the layout all helps share (build/help.ts). */
export function helpOf(action: Action): string {
  const name = `nix-lan queue ${action.name}`
  const usage = action.forms.map(([form]) => `${action.sudo ? 'sudo ' : ''}${name} [OPTION…]${form && ` ${form}`}`)
  const parts = [
    `${name}: ${action.summary}`,
    usage.map((line, at) => `${at === 0 ? 'Usage: ' : '       '}${line}`).join('\n'),
    ...(action.about ?? []).map((paragraph) => wrapped(paragraph, WIDTH).join('\n')),
    `Options:\n${entries(optionLines(action.options))}`,
    `${wrapped(`With --json, ${action.json.what}:`, WIDTH).join('\n')}\n${entries(action.json.keys)}`,
    wrapped(`Exit code: ${action.exit}`, WIDTH).join('\n'),
    `Example${action.examples.length > 1 ? 's' : ''}:\n${action.examples.map((line) => `  ${line}`).join('\n')}`,
  ]
  return `${parts.join('\n\n')}\n`
}

/**
 * The --help of `nix-lan queue`; its own options are those of the action it runs when none is
 * named.
 */
export function overview(actions: readonly Action[], unnamed: Action): string {
  const forms = actions.flatMap(({ name, forms }) => forms.map(([form, text]) => [form ? `${name} ${form}` : name, text] as const))
  const help = 'show this; `nix-lan queue ACTION --help` for an action'
  return `nix-lan queue: what waits to be uploaded to the box, and what failed

Usage: nix-lan queue [ACTION] [OPTION…]

Without an action it lists.

Actions:
${entries(forms)}

Options:
${entries(optionLines(unnamed.options, help))}

${wrapped(`With --json, ${unnamed.json.what}:`, WIDTH).join('\n')}
${entries(unnamed.json.keys)}

Exit code: 0 done; 1 something failed; 2 wrong usage or configuration; 75 not
now: the box is away, or something waits for its turn (nothing is lost).

Examples:
  nix-lan queue
  nix-lan queue add ./result && nix-lan queue upload
  nix-lan queue retry
  sudo nix-lan queue sign
`
}

const optionLines = (options: readonly Option[], help = 'show this'): Line[] => [
  ...options.map(({ long, value, text }): Line => [`    --${long}${value ? ` ${value}` : ''}`, text]),
  ['-h, --help', help],
  ['    --version', 'show the version'],
]

/** Terms on the left, their texts aligned in one column, in lines of at most 80 characters. */
function entries(lines: readonly Line[]): string {
  const column = Math.max(...lines.map(([term]) => term.length)) + 4
  return lines
    .flatMap(([term, text]) => wrapped(text, WIDTH - column).map((part, at) => `${(at === 0 ? `  ${term}` : '').padEnd(column)}${part}`))
    .join('\n')
}

/** All actions' options, as parse() takes them: until it has run, the action isn't known. */
function everyOption(actions: readonly Action[]): Options {
  const all = actions.flatMap(({ options }) => options)
  const named = (isText: boolean): string[] => [
    ...new Set(all.filter(({ value }) => (value !== undefined) === isText).map(({ long }) => long)),
  ]
  return { boolean: named(false), string: named(true) }
}

/**
 * Reads the command line of one of these actions.
 * @param unnamed the action to use when no word is given
 * @throws UsageError for an unknown action, or an option the action doesn't take, with the way out
 */
export function readAction(
  argv: string[],
  actions: readonly Action[],
  unnamed: Action,
): { action: Action; words: string[]; options: Parsed } {
  const options = parse(argv, everyOption(actions))
  const [name = unnamed.name, ...words] = options.words
  const action = actions.find((one) => one.name === name)
  if (!action) throw new UsageError(unknownAction(name, actions))
  const takes = (one: Action, long: string): boolean => one.options.some((option) => option.long === long)
  for (const { long } of actions.flatMap(({ options }) => options)) {
    const given = options.flag(long) || options.value(long) !== undefined
    if (!given || takes(action, long)) continue
    const owners = actions.filter((one) => takes(one, long)).map((one) => one.name)
    throw new UsageError(`--${long} goes with ${owners.join(' or ')}, not with ${name}; see nix-lan queue ${name} --help`)
  }
  return { action, words, options }
}

function unknownAction(name: string, actions: readonly Action[]): string {
  const near = nearest(
    name,
    actions.map((action) => action.name),
  )
  return `there is no action ${name}; ${near ? `did you mean ${near}?` : 'see nix-lan queue --help'}`
}

export const print = (text: string): void => void process.stdout.write(`${oneLine(text)}\n`)
export const say = (text: string): void => void process.stderr.write(`${oneLine(sudoFinds(text))}\n`)
export const printJson = (value: unknown): void => void process.stdout.write(`${toJson(value, 2)}\n`)
export const paths = (number: number): string => count(number, 'path')
