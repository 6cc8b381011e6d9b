// Parses a command's --help text, the source for its man page and completions. The layout is
// strict, and anything that doesn't follow it is an error:
//
//   NAME: what it is, in a line
//
//   Usage: NAME [OPTION…] …
//
//   Prose, and indented lines that are taken literally.
//
//   Commands: / Actions: / Options: (entries: two or six spaces, the term, two spaces or more, the
//   text; all texts at one column)
//
//   With --json, … (prose, then entries)
//
//   Exit code: …
//
//   Example: / Examples: (literal lines)

/** A term, such as `-w, --wait SECONDS`, a command or a JSON key, and its description. */
export interface Entry {
  term: string
  text: string
}

/** A paragraph to fill, literal lines (without their indentation), or entries. */
export type Block = { text: string } | { literal: string[] } | { entries: Entry[] }

/**
 * A part of the help. Its title is as written there; '' for the first part, `With --json` for that
 * one.
 */
export interface Section {
  title: string
  blocks: Block[]
}

export interface Help {
  /** The command as typed: `nix-lan queue`, `nix-lan queue add`. */
  name: string
  summary: string
  /** One line for each way to call it. */
  usage: string[]
  sections: Section[]
}

const TITLE = /^(Commands|Actions|Options|Options, before the command|Examples?):$/
/** The parts in order; a help may leave out any that aren't in NEEDED. */
const ORDER = ['', 'Commands', 'Actions', 'Options', 'With --json', 'Exit code', 'Examples']
const NEEDED = ['Options', 'Exit code', 'Examples']

/**
 * Parses a help; pure.
 * @throws Error that names the command and what is wrong with its help
 */
export function parseHelp(text: string): Help {
  const [first = '', second = '', ...rest] = text.trimEnd().split('\n\n')
  const [, name, summary] = /^([a-z-]+(?: [a-z]+){0,2}): (.*)$/.exec(first) ?? []
  if (name === undefined || summary === undefined) throw new Error(`a help begins with "NAME: what it is", not with: ${first}`)
  const wrong = (what: string): Error => new Error(`${name} --help: ${what}`)
  const usage = second.split('\n').map((line) => line.replace(/^Usage: | {7}/, ''))
  if (!new RegExp(`^Usage: (sudo )?${name}\\b`).test(second)) throw wrong(`the second paragraph is "Usage: ${name} …", not: ${second}`)
  const sections: Section[] = []
  for (const paragraph of rest) addParagraph(sections, paragraph, wrong)
  const titles = sections.map(({ title }) => plainTitle(title))
  if (!NEEDED.every((title) => titles.includes(title))) throw wrong(`one of these is missing: ${NEEDED.join(', ')}`)
  const places = titles.map((title) => ORDER.indexOf(title))
  if (places.some((place, at) => place <= (places[at - 1] ?? -1))) throw wrong(`parts in this order: ${ORDER.slice(1).join(', ')}`)
  return { name, summary, usage, sections }
}

const plainTitle = (title: string): string => title.replace(/^Options,.*/, 'Options').replace(/^Example$/, 'Examples')

/** The section with a title; `Options` matches any of its forms. */
export const sectionOf = (help: Help, title: string): Section | undefined =>
  help.sections.find((section) => plainTitle(section.title) === title)

/**
 * The names of the commands or actions a help lists, each once: an action may have several forms.
 */
export const namesOf = (help: Help, title: 'Commands' | 'Actions'): string[] => [
  ...new Set(entriesOf(help, title).map(({ term }) => term.split(' ')[0] ?? '')),
]

/** All entries in a section. */
export const entriesOf = (help: Help, title: string): Entry[] =>
  (sectionOf(help, title)?.blocks ?? []).flatMap((block) => ('entries' in block ? block.entries : []))

function addParagraph(sections: Section[], paragraph: string, wrong: (what: string) => Error): void {
  const lines = paragraph.split('\n')
  const [, title] = TITLE.exec(lines[0] ?? '') ?? []
  if (title !== undefined) {
    const body = lines.slice(1)
    const blocks = /^Example/.test(title) ? [{ literal: unindented(body, wrong) }] : [{ entries: parseEntries(body, wrong) }]
    sections.push({ title, blocks })
    return
  }
  const [, exit] = /^Exit code: (.*)$/s.exec(paragraph) ?? []
  if (exit !== undefined) {
    sections.push({ title: 'Exit code', blocks: [{ text: filled(exit.split('\n')) }] })
    return
  }
  const json = /^With --json/.test(paragraph)
  const last = sections[sections.length - 1]
  if (!json && last && last.title !== '') throw wrong(`prose comes before ${last.title}, not after it: ${lines[0]}`)
  const section = !json && last ? last : { title: json ? 'With --json' : '', blocks: [] }
  if (section !== last) sections.push(section)
  const indented = lines.findIndex((line) => line.startsWith(' '))
  const prose = indented < 0 ? lines : lines.slice(0, indented)
  if (prose.length > 0) section.blocks.push({ text: filled(prose) })
  if (indented < 0) return
  const body = lines.slice(indented)
  section.blocks.push(json ? { entries: parseEntries(body, wrong) } : { literal: unindented(body, wrong) })
}

const filled = (lines: readonly string[]): string => lines.join(' ')

function unindented(lines: readonly string[], wrong: (what: string) => Error): string[] {
  return lines.map((line) => {
    if (!/^ {2}/.test(line)) throw wrong(`two blanks before: ${line}`)
    return line.slice(2)
  })
}

function parseEntries(lines: readonly string[], wrong: (what: string) => Error): Entry[] {
  const [, before = ''] = /^((?: {2}| {6})\S(?:.*?\S)? {2,})\S/.exec(lines.find((line) => /\S {2,}\S/.test(line)) ?? '') ?? []
  const entries: Entry[] = []
  for (const line of lines) {
    const term = line.slice(0, before.length)
    const text = line.slice(before.length)
    const last = entries[entries.length - 1]
    if (text.startsWith(' ') || (before !== '' && text !== '' && !/^ {2}$|^$/.test(term.slice(-2)))) {
      throw wrong(`the texts begin at column ${before.length + 1}: ${line}`)
    }
    if (term.trim() !== '') entries.push({ term: term.trim(), text })
    else if (last) last.text += `${last.text === '' ? '' : ' '}${text}`
    else throw wrong(`a text without a term: ${line}`)
  }
  return entries
}

/** An option, parsed from its entry. */
export interface Option {
  /** One letter, without the dash. */
  short: string | undefined
  /** Without dashes. */
  long: string
  /** The word in capitals that stands for its value. */
  value: string | undefined
  text: string
}

/** A command's options. @throws Error if an entry isn't an option */
export function optionsOf(help: Help): Option[] {
  return entriesOf(help, 'Options').map(({ term, text }) => {
    const [, short, long, value] = /^(?:-([a-zA-Z]), )?--([a-z][a-z-]*)(?: ([A-Z][A-Z@[\]-]*))?$/.exec(term) ?? []
    if (long === undefined) throw new Error(`${help.name} --help: not an option: ${term}`)
    const about = text || { help: 'show the help', version: 'show the version' }[long]
    if (!about) throw new Error(`${help.name} --help: nothing is said of --${long}`)
    return { short, long, value, text: about.replace(/, see below$/, '') }
  })
}
