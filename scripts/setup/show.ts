// Formats a plan: every path that changes, with its diff; copies are summed up.
import { dirname } from 'node:path'
import { count, harmless, wrapped } from '../cli/text.ts'
import { run } from '../system/exec.ts'
import { forScreen } from './dialogue.ts'
import { inspect, isRight, type Want } from './files.ts'
import type { Layout } from './layout.ts'

/** Characters per line of names. */
const WIDTH = 69

/** One step of the plan, and its details. */
export interface Item {
  title: string
  lines: string[]
  /** 0 is the most important; mere copies are 3. */
  rank: number
}

/**
 * The wants not there yet, as items.
 * @param hidden paths whose content is secret
 */
export async function itemsFor(wants: readonly Want[], layout: Layout, hidden: ReadonlySet<string>): Promise<Item[]> {
  const open = wants.filter((want) => !isRight(want, inspect(want.path)))
  const isCopy = ({ path, kind }: Want): boolean =>
    kind === 'file' && (path.startsWith(`${layout.lib}/`) || isIn(path, layout.units) || isIn(path, layout.systemUnits))
  const copies = open.filter((want) => isCopy(want) && want.path.startsWith(`${layout.lib}/`))
  const units = open.filter((want) => isCopy(want) && !want.path.startsWith(`${layout.lib}/`))
  const isShared = (path: string): boolean => path.startsWith(`${layout.prefix}/share/`)
  const shared = open.filter(({ kind, path }) => kind === 'link' && isShared(path))
  const links = open.filter(({ kind, path }) => kind === 'link' && !isShared(path))
  const directories = open.filter((want) => want.kind === 'directory' && !want.shared)
  const gone = open.filter(({ kind }) => kind === 'missing')
  const items: Item[] = []
  if (copies.length > 0)
    items.push({ title: `copy ${count(copies.length, 'file')} (${size(copies)}) to ${layout.lib}`, lines: [], rank: 3 })
  for (const [directory, names] of byDirectory(links))
    items.push({ title: `link in ${directory}`, lines: wrapped(names.join(' '), WIDTH), rank: 3 })
  if (shared.length > 0)
    items.push({ title: `link ${count(shared.length, 'man page and completion')} in ${layout.prefix}/share`, lines: [], rank: 3 })
  for (const directory of [layout.units, layout.systemUnits]) {
    const names = units.filter(({ path }) => isIn(path, directory)).map(nameOf)
    const whose = directory === layout.units ? 'user' : 'system'
    if (names.length > 0) items.push({ title: `write ${whose} units in ${directory}`, lines: wrapped(names.join(' '), WIDTH), rank: 3 })
  }
  for (const want of open) {
    if (want === directories[0]) items.push({ title: 'make the queue', lines: directories.map(({ path }) => path), rank: 2 })
    if (want.kind === 'file' && !isCopy(want))
      items.push({ ...(await fileItem(want, hidden.has(want.path))), rank: /\/(nix|nix\.custom)\.conf$/.test(want.path) ? 0 : 2 })
  }
  if (gone.length > 0) items.push({ title: 'remove', lines: gone.map(({ path }) => path), rank: 3 })
  return items
}

const isIn = (path: string, directory: string | undefined): boolean => directory !== undefined && dirname(path) === directory

const nameOf = ({ path }: Want): string => path.split('/').at(-1) ?? ''

function size(wants: readonly Want[]): string {
  const bytes = wants.reduce((sum, want) => sum + (want.kind === 'file' ? want.content.length : 0), 0)
  return `${Math.ceil(bytes / 1024)} KiB`
}

function byDirectory(wants: readonly Want[]): Map<string, string[]> {
  const found = new Map<string, string[]>()
  for (const want of wants) {
    const directory = want.path.slice(0, want.path.lastIndexOf('/'))
    found.set(directory, [...(found.get(directory) ?? []), nameOf(want)])
  }
  return found
}

async function fileItem(want: Want & { kind: 'file' }, secret: boolean): Promise<Omit<Item, 'rank'>> {
  const seen = inspect(want.path)
  const verb = seen.kind === 'missing' ? 'write' : 'change'
  if (secret) return { title: `${verb} ${want.path} (secret, mode 600)`, lines: [] }
  const text = want.content.toString()
  if (seen.kind !== 'file')
    return {
      title: `${verb} ${want.path}`,
      lines: text
        .trimEnd()
        .split('\n')
        .map((line) => `+${line}`),
    }
  if (seen.content.equals(want.content)) return { title: `restore owner and mode of ${want.path}`, lines: [] }
  return { title: `${verb} ${want.path}`, lines: await difference(want.path, text) }
}

/** The hunks of a unified diff between a file and a text; the whole text if there is no diff(1). */
async function difference(path: string, text: string): Promise<string[]> {
  const asked = await run('diff', ['-u', '--', path, '-'], { input: text, timeout: 10_000 })
  const lines = (asked.code === 1 ? asked.stdout : text).trimEnd().split('\n')
  return lines.filter((line) => !/^(---|\+\+\+) /.test(line))
}

/**
 * The items as text, the most important first, without control characters.
 * @param colours for a terminal
 */
export function textOf(items: readonly Item[], colours: boolean): string {
  const paint = (line: string): string => {
    const code = line.startsWith('+') ? 32 : line.startsWith('-') ? 31 : line.startsWith('@@') ? 36 : 0
    return colours && code ? `\u001b[${code}m${line}\u001b[0m` : line
  }
  return [...items]
    .sort((a, b) => a.rank - b.rank)
    .map(({ title, lines }) => [forScreen(`  ${title}`), ...lines.map((line) => `      ${paint(harmless(line))}`), ''].join('\n'))
    .join('')
}
