// The results as tables: for a terminal, for docs/bench.md, for the README. Pure.
import type { Unit } from './bench.ts'
import type { Figure, Reached, Result, Results } from './results.ts'

/** Where and when the figures are from: those of the last run, then the others by bench. */
export function whereText({ machine, date, rows }: Results): string {
  const others = new Map<string, Set<string>>()
  for (const { bench, elsewhere } of rows) {
    if (!elsewhere) continue
    const where = `on ${elsewhere.date}: ${elsewhere.machine}.`
    others.set(where, (others.get(where) ?? new Set()).add(`\`${bench}\``))
  }
  const first = rows.some(({ elsewhere }) => !elsewhere) ? [`Measured on ${date}: ${machine}.`] : []
  return [...first, ...[...others].map(([where, benches]) => `${[...benches].join(', ')} ${where}`)].join('\n')
}

/** One line for each goal: what was compared, what came out, what was to be reached. */
export function goalTable({ rows }: Results, again = true): string {
  const lines = rows.flatMap((row) =>
    row.goals.map((goal) => {
      const cells = [row.what, goal.say, ratio(goal), wanted(goal), verdict(goal), ...(again ? [`\`npm run bench -- ${row.bench}\``] : [])]
      return `| ${cells.join(' | ')} |`
    }),
  )
  const more = again ? [' again |', '---|'] : ['', '']
  return [`| what | compared | measured | to reach | |${more[0]}`, `|---|---|---|---|---|${more[1]}`, ...lines].join('\n')
}

/**
 * The figures of links: one line for each way of each work on each Nix, one column for each link.
 */
export function linkTable({ rows }: Results): string {
  const links = [...new Set(rows.map(({ link }) => link?.travel ?? ''))]
  const groups = new Map<string, Result[]>()
  for (const row of rows) {
    const group = `${row.link?.work} | ${row.link?.nix}`
    groups.set(group, [...(groups.get(group) ?? []), row])
  }
  const lines = [...groups].flatMap(([group, own]) => {
    const ways = [...new Set(own.flatMap(({ figures }) => Object.keys(figures)))]
    return ways.map((way, index) => {
      const cells = links.map((travel) => {
        const figure = own.find(({ link }) => link?.travel === travel)?.figures[way]
        return figure ? number(figure.median, 'ms') : ''
      })
      return `| ${index === 0 ? group : ' | '} | ${way} | ${cells.join(' | ')} |`
    })
  })
  return [`| what | Nix | way | ${links.join(' | ')} |`, `|---|---|---|${'---|'.repeat(links.length)}`, ...lines].join('\n')
}

/** One line for each way of each row: the figures themselves. */
export function figureTable({ rows }: Results): string {
  const lines = rows.flatMap((row) =>
    Object.entries(row.figures).map(
      ([way, figure], index) => `| ${index === 0 ? row.what : ''} | ${way} | ${measured(figure, row.unit)} | ${figure.rounds} |`,
    ),
  )
  return ['| what | way | median ± spread | rounds |', '|---|---|---|---|', ...lines].join('\n')
}

/** The notes of all rows, as a list; empty when there are none. */
export function noteList({ rows }: Results): string {
  return rows.flatMap((row) => row.notes.map((note) => `- ${row.what}: ${note}`)).join('\n')
}

/** For the terminal. `quick`: sizes are so small that the goals mean nothing. */
export function plainTable(rows: readonly Result[], quick: boolean): string {
  return rows
    .flatMap((row) => [
      `${row.bench}: ${row.what}`,
      ...Object.entries(row.figures).map(([way, figure]) => `    ${way.padEnd(44)} ${measured(figure, row.unit)}`),
      ...row.goals.map(
        (goal) => `    ${quick ? ' ' : goal.met ? '✔' : '✘'} ${goal.say}: ${ratio(goal)}${quick ? '' : ` (${wanted(goal)})`}`,
      ),
      ...row.notes.map((note) => `    note: ${note}`),
    ])
    .join('\n')
}

/** The rows that the README shows; the chart has more. */
export function mainTable(rows: readonly Result[]): string {
  const lines = rows.flatMap((row) => {
    if (!row.chart?.readme) return []
    const { ours, floor, rival, label } = row.chart
    const cell = (way: string | undefined): string => {
      const figure = way === undefined ? undefined : row.figures[way]
      return figure ? `${number(figure.median, row.unit)} (${way})` : ''
    }
    const figure = row.figures[ours]
    return figure ? [`| ${label} | **${number(figure.median, row.unit)}** | ${cell(floor)} | ${cell(rival)} |`] : []
  })
  return ['| | nix-lan | baseline | what one would use instead |', '|---|---|---|---|', ...lines].join('\n')
}

const verdict = ({ met }: Reached): string => (met ? 'met' : 'not met')
const wanted = ({ most, least }: Reached): string => (most !== undefined ? `≤ ${Number(most.toPrecision(2))}` : `≥ ${least}`)
const ratio = ({ value, spread }: Reached): string => (spread === 0 ? String(value) : `${value} ± ${spread}`)
const measured = ({ median, spread }: Figure, unit: Unit): string => `${number(median, unit)} ± ${number(spread, unit)}`

/** A figure as one reads it: seconds when they are many, integers with separators. */
export function number(value: number, unit: Unit): string {
  if (unit === 'ms' && value >= 1000) return `${Number((value / 1000).toPrecision(3))} s`
  if (unit === 'starts' || unit === 'instructions') return `${Math.round(value).toLocaleString('en')} ${unit}`
  return `${Number(value.toPrecision(3))} ${unit}`
}
