// Generates man pages from each command's --help and from docs/config.md. Writes man(7) markup that
// groff and mandoc both understand, without a date: the same sources give the same bytes. Pure.
import { type Block, type Entry, type Help, type Section, sectionOf } from './help.ts'

/**
 * The name of a command's page: `nix-lan queue` → nix-lan-queue. Names that don't start with
 * nix-lan get it as a prefix.
 */
export function pageName(command: string): string {
  const name = command.replace(' ', '-')
  return name.startsWith('nix-lan') ? name : `nix-lan-${name}`
}

/** A .PP directly before an entry would make an empty paragraph. */
const EMPTY = /\n\.PP\n(?=\.TP)/g

const TITLES: Record<string, string> = {
  '': 'DESCRIPTION',
  Commands: 'COMMANDS',
  Actions: 'ACTIONS',
  Options: 'OPTIONS',
  'With --json': 'JSON',
  'Exit code': 'EXIT STATUS',
}

/**
 * A command's page in section 1.
 * @param actions the helps of its actions, each of which gets its own part
 * @param others the names of all pages in section 1, for "see also"
 */
export function commandPage(help: Help, actions: readonly Help[], others: readonly string[], version: string): string {
  const name = pageName(help.name)
  const parts = [
    heading(name, 1, version),
    `.SH NAME\n${roff(name)} \\- ${roff(help.summary)}`,
    `.SH SYNOPSIS\n.nf\n${help.usage.map(synopsis).join('\n')}\n.fi`,
    ...Object.entries(TITLES).flatMap(([title, shown]) => {
      const section = sectionOf(help, title)
      return section ? [`.SH ${shown}\n${sectionText(section)}`] : []
    }),
    ...(actions.length > 0 ? ['.SH EACH ACTION', ...actions.map(actionPart)] : []),
    `.SH FILES\n.TP\n.I /etc/nix\\-lan/config.toml\nThe configuration; see\n.BR nix\\-lan\\-config (5).`,
    ...(sectionOf(help, 'Examples')?.blocks ?? []).map((block) => `.SH EXAMPLES\n${blockText(block)}`),
    seeAlso([...others.filter((other) => other !== name).map((other) => [other, 1] as const), ['nix-lan-config', 5]]),
  ]
  return `${parts.join('\n')}\n`
}

const sectionText = ({ blocks }: Section): string => blocks.map(blockText).join('\n.PP\n').replace(EMPTY, '\n')

/** An action's own part: usage, options, JSON, exit codes, examples. */
function actionPart(help: Help): string {
  const own = (title: string, shown?: string): string[] => {
    const section = sectionOf(help, title)
    if (!section) return []
    const blocks = section.blocks.map((block) =>
      'entries' in block ? { entries: block.entries.filter(({ term }) => !/--(help|version)$/.test(term)) } : block,
    )
    const text = `${shown === undefined ? '' : `${shown}\n`}${sectionText({ title, blocks })}`
    return [text.startsWith('.TP') ? text : `.PP\n${text}`]
  }
  const [, subject = ''] = /^\S+ \S+ (.*)$/.exec(help.name) ?? []
  return [
    `.SS ${roff(subject)}: ${roff(help.summary)}`,
    `.nf\n${help.usage.map(synopsis).join('\n')}\n.fi`,
    ...own(''),
    ...own('Options'),
    ...own('With --json'),
    ...own('Exit code', 'Exit status:'),
    ...own('Examples', 'Examples:'),
  ].join('\n')
}

const heading = (name: string, section: number, version: string): string =>
  `.\\" Made by "npm run build" from the text that this program shows: change that instead.\n` +
  `.TH ${roff(name.toUpperCase())} ${section} "" "nix\\-lan ${version}" "nix\\-lan"\n.nh\n.ad l`

function seeAlso(pages: readonly (readonly [name: string, section: number])[]): string {
  const lines = pages.map(([name, section], at) => `.BR \\%${roff(name)} (${section})${at < pages.length - 1 ? ',' : ''}`)
  return `.SH SEE ALSO\n${lines.join('\n')}`
}

/** A usage line: command and options in bold, placeholders in italics. */
function synopsis(usage: string): string {
  const [, command = '', rest = ''] = /^((?:[a-z-]+ ?)+)(.*)$/.exec(usage) ?? []
  return `\\fB${roff(command.trim())}\\fR ${term(rest)}`.trimEnd()
}

/** Options in bold, words in capitals in italics. */
const term = (text: string): string =>
  roff(text)
    .replace(/(?<![\w\\])(\\-(?:\\-)?[a-z](?:[a-z]|\\-)*)/g, '\\fB$1\\fR')
    .replace(/\b[A-Z]{2,}(?:\\-[A-Z]+)*\b/g, '\\fI$&\\fR')

/** Prose: `text in backquotes` and options in bold. */
const prose = (text: string): string =>
  text
    .split(/(`[^`]+`)/)
    .map((part) =>
      /^`.+`$/.test(part)
        ? `\\fB${roff(part.slice(1, -1)).replace(/\S+/g, '\\%$&')}\\fR` // \%: no hyphenation in names
        : roff(part).replace(/(?<![\w\\])(\\-\\-[a-z](?:[a-z]|\\-)*)/g, '\\fB$1\\fR'),
    )
    .join('')

function blockText(block: Block): string {
  if ('text' in block) return line(prose(block.text))
  if ('literal' in block) return `.RS 4\n.EX\n${block.literal.map((text) => line(roff(text))).join('\n')}\n.EE\n.RE`
  return block.entries.map(entryText).join('\n')
}

const entryText = ({ term: name, text }: Entry): string => `.TP\n${line(term(name))}\n${line(prose(text))}`

/** Escapes a leading dot or quote, which would start a request. */
const line = (text: string): string => text.replace(/^(?=[.'])/, '\\&')

const SPECIAL: Record<string, string> = {
  '\\': '\\e',
  '-': '\\-',
  "'": '\\(aq',
  '"': '\\(dq',
  '`': '\\(ga',
  '^': '\\(ha',
  '~': '\\(ti',
}

/**
 * Escapes text for roff: characters that are special there or not ASCII become named ones
 * (groff_char(7), mandoc_char(7)).
 */
export function roff(text: string): string {
  return [...text]
    .map((char) => {
      const code = char.codePointAt(0) ?? 0
      return SPECIAL[char] ?? (code > 126 ? `\\[u${code.toString(16).toUpperCase().padStart(4, '0')}]` : char)
    })
    .join('')
}

/**
 * A page from Markdown. Only supports what docs/config.md uses: `# NAME: what it is`, `## Heading`,
 * paragraphs, fenced blocks, and lists whose items are a term in backquotes, a colon and a text.
 * @throws Error for anything else
 */
export function markdownPage(text: string, section: number, version: string, others: readonly string[]): string {
  const [first = '', ...paragraphs] = paragraphsOf(text)
  const [, name, summary] = /^# ([a-z-]+): (.*)$/.exec(first) ?? []
  if (name === undefined || summary === undefined) throw new Error(`a page begins with "# NAME: what it is", not with: ${first}`)
  const body: string[] = []
  if (!paragraphs[0]?.startsWith('## ')) body.push('.SH DESCRIPTION')
  for (const paragraph of paragraphs) {
    const [, title] = /^## (.*)$/.exec(paragraph) ?? []
    if (title !== undefined) body.push(`.SH ${roff(title.toUpperCase())}`)
    else {
      if (!body[body.length - 1]?.startsWith('.SH')) body.push('.PP')
      body.push(markdownBlock(paragraph))
    }
  }
  const pages = others.map((other) => [other, 1] as const)
  const parts = [heading(name, section, version), `.SH NAME\n${roff(name)} \\- ${prose(summary)}`, ...body, seeAlso(pages)]
  return `${parts.join('\n').replace(EMPTY, '\n')}\n`
}

/** Splits at empty lines, except within a fenced block. */
const paragraphsOf = (text: string): string[] =>
  text
    .trim()
    .match(/^```[\s\S]*?^```$|(?:^(?!```).+$\n?)+/gm)
    ?.map((part) => part.trimEnd()) ?? []

function markdownBlock(paragraph: string): string {
  if (/^#|^>|^\d+\. |^\|/.test(paragraph)) throw new Error(`not known in a page: ${paragraph.split('\n')[0]}`)
  if (paragraph.startsWith('```')) return blockText({ literal: paragraph.split('\n').slice(1, -1) })
  if (!paragraph.startsWith('- ')) return blockText({ text: paragraph.replace(/\n/g, ' ') })
  const items = `\n${paragraph}`.split('\n- ').slice(1)
  return items.map((item) => markdownItem(item.replace(/\n */g, ' '))).join('\n')
}

function markdownItem(item: string): string {
  const [, name, text] = /^`([^`]+)`: (.*)$/.exec(item) ?? []
  if (name === undefined || text === undefined) throw new Error(`an item of a list is "\`term\`: text", not: ${item}`)
  return `.TP\n\\fB${roff(name)}\\fR\n${line(prose(text))}`
}
