// The table of figures in docs/lab.md: npm run test:lab -- --write puts there what the scenarios
// have measured.
import { readFileSync, writeFileSync } from 'node:fs'
import { RELEASES } from './lab.ts'
import type { Figure, Kind } from './scenario.ts'

const FILE = 'docs/lab.md'
const TITLES: [Kind, string][] = [
  ['notice', 'Time to notice'],
  ['recover', 'Time to recover'],
  ['build', 'Longest delay of a build'],
]

/** The figures that a run has left in a file, a JSON object in each line. */
export function readFigures(file: string): Figure[] {
  try {
    const lines = readFileSync(file, 'utf8').split('\n').filter(Boolean)
    return lines.map((line) => JSON.parse(line) as Figure)
  } catch {
    return [] // nothing was measured
  }
}

/**
 * The table, in Markdown: a row for each figure, in the order of its kind and then of its name; a
 * column for each release.
 */
function tableOf(figures: readonly Figure[]): string {
  const rows = TITLES.flatMap(([kind, title]) => {
    const own = figures.filter((figure) => figure.kind === kind)
    const names = [...new Set(own.map(({ what }) => what))].sort()
    const body = names.map((what) => {
      const cells = RELEASES.map((release) => own.filter((figure) => figure.what === what && figure.release === release).at(-1)?.took)
      const aim = own.find((figure) => figure.what === what)?.aim
      return `| ${what} | ${aim} | ${cells.map((took) => took?.toFixed(1) ?? '').join(' | ')} |`
    })
    return names.length > 0 ? [`| **${title}** | | | | |`, ...body] : []
  })
  return ['| seconds | aim | Debian 12 | Debian 13 | testing |', '|---|--:|--:|--:|--:|', ...rows, ''].join('\n')
}

/** Puts the table in its place. @throws Error when the place isn't there */
export function writeTable(figures: readonly Figure[]): void {
  const text = readFileSync(FILE, 'utf8')
  const place = /<!-- figures -->\n[\s\S]*<!-- end of figures -->/
  if (!place.test(text)) throw new Error(`${FILE} has no place for the figures`)
  writeFileSync(FILE, text.replace(place, `<!-- figures -->\n${tableOf(figures)}<!-- end of figures -->`))
}
