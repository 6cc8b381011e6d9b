// What was measured, as it is kept in docs/bench.json: enough to make the tables and the chart
// without measuring again.
import type { Goal, Row, Unit } from './bench.ts'
import { evaluate, median, spread } from './stats.ts'

export interface Figure {
  median: number
  /** Median absolute deviation over the rounds. */
  spread: number
  rounds: number
}

export interface Reached {
  say: string
  value: number
  spread: number
  most?: number
  least?: number
  met: boolean
}

export interface Result {
  bench: string
  id: string
  what: string
  unit: Unit
  figures: Record<string, Figure>
  goals: Reached[]
  link?: Row['link']
  chart?: Row['chart']
  notes: string[]
  /** Where and when, if not where and when the last run was. */
  elsewhere?: Circumstances
}

export interface Circumstances {
  machine: string
  /** Day of the last run. */
  date: string
}

export interface Results extends Circumstances {
  rows: Result[]
}

/** What a row comes to; rounded, since nothing here is known better than to three digits. */
export function resultOf(bench: string, row: Row): Result {
  const figures = Object.entries(row.samples).map(([way, values]): [string, Figure] => [
    way,
    { median: digits(median(values)), spread: digits(spread(values), 2), rounds: values.length },
  ])
  const goals = row.goals.map((goal) => reached(goal, row))
  const result: Result = {
    bench,
    id: row.id,
    what: row.what,
    unit: row.unit,
    figures: Object.fromEntries(figures),
    goals,
    notes: row.notes ?? [],
  }
  return { ...result, ...(row.link && { link: row.link }), ...(row.chart && { chart: row.chart }) }
}

function reached({ say, formula, most, least }: Goal, row: Row): Reached {
  const { value, spread } = evaluate(row.samples, formula)
  const met = (most === undefined || value <= most) && (least === undefined || value >= least)
  return {
    say,
    value: digits(value),
    spread: digits(spread, 2),
    ...(most === undefined ? {} : { most }),
    ...(least === undefined ? {} : { least }),
    met,
  }
}

/** The goals whose budget is not kept, each as a line. */
export function overBudget(row: Row): string[] {
  return row.goals.flatMap((goal) => {
    if (goal.budget === undefined) return []
    const { value } = evaluate(row.samples, goal.formula)
    const kept = goal.least === undefined ? value <= goal.budget : value >= goal.budget
    return kept ? [] : [`${row.what}: ${goal.say} is ${digits(value)}, beyond ${goal.budget}`]
  })
}

/**
 * The older results with those rows replaced that were measured again. Rows from another machine or
 * day stay, and say so: each row compares what was measured in one run.
 */
export function merge(older: Results | undefined, newer: Results, order: readonly string[]): Results {
  const measured = new Set(newer.rows.map(({ bench }) => bench))
  const kept = (older?.rows ?? []).filter(({ bench }) => order.includes(bench) && !measured.has(bench))
  const placed = kept.map(({ elsewhere, ...row }): Result => {
    const { machine = '', date = '' } = elsewhere ?? older ?? {}
    return machine === newer.machine && date === newer.date ? row : { ...row, elsewhere: { machine, date } }
  })
  const rows = [...placed, ...newer.rows].sort((a, b) => order.indexOf(a.bench) - order.indexOf(b.bench))
  return { ...newer, rows }
}

/** A number with so many significant digits. */
export const digits = (value: number, count = 3): number => Number(value.toPrecision(count))
