// The chart of the README: for each main row a line of dots, nix-lan, the least it could cost, and what one would use instead, on a scale on
// which nix-lan is 1. Drawn by vega-lite, once for a light page and once for a dark one.
import { parse, View } from 'vega'
import { compile, type TopLevelSpec } from 'vega-lite'
import type { Result, Results } from './results.ts'

interface Dot {
  row: string
  who: string
  ratio: number
  text: string
}

const OURS = 'nix-lan'
const FLOOR = 'the least it could be'
const RIVAL = 'what one would use instead'
const POWERS: number[] = [0.01, 0.1, 1, 10, 100, 1000]
const THEMES = {
  light: { text: '#1f2328', grid: '#d0d7de', dots: ['#0969da', '#6e7781', '#bc4c00'] },
  dark: { text: '#e6edf3', grid: '#3d444d', dots: ['#4493f8', '#9198a1', '#f0883e'] },
} as const

type LabelLayer = Extract<TopLevelSpec, { layer: unknown }>['layer'][number]

/** An SVG with a transparent background. */
export async function chart(results: Results, theme: keyof typeof THEMES): Promise<string> {
  const { text, grid, dots } = THEMES[theme]
  const values = results.rows.flatMap(dotsOf)
  const rows = [...new Set(values.map(({ row }) => row))]
  const y = {
    field: 'row',
    type: 'nominal',
    sort: rows,
    title: null,
    axis: { labelLimit: 330, domain: false, ticks: false, grid: true },
  } as const
  const x = {
    field: 'ratio',
    type: 'quantitative',
    scale: { type: 'log' },
    title: 'time or memory, nix-lan = 1 (logarithmic; left is less)',
    axis: { values: POWERS, format: '~g' },
  } as const
  const color = {
    field: 'who',
    type: 'nominal',
    scale: { domain: [OURS, FLOOR, RIVAL], range: [...dots] },
    title: null,
    legend: { orient: 'top', labelLimit: 300 },
  } as const
  const label = (who: string, dy: number): LabelLayer => ({
    transform: [{ filter: { field: 'who', equal: who } }],
    mark: { type: 'text', dy, fontSize: 9.5 },
    encoding: { x, y, text: { field: 'text', type: 'nominal' }, color },
  })
  const spec: TopLevelSpec = {
    width: 460,
    height: { step: 34 },
    background: 'transparent',
    padding: 8,
    data: { values },
    layer: [
      { mark: { type: 'point', filled: true, size: 90, opacity: 1 }, encoding: { x, y, color } },
      label(RIVAL, -11),
      label(FLOOR, 12), // below its dot, since the two may lie close together
    ],
    config: {
      font: 'system-ui, sans-serif',
      view: { stroke: null },
      axis: { labelColor: text, titleColor: text, gridColor: grid, domainColor: grid, tickColor: grid, titleFontWeight: 'normal' },
      legend: { labelColor: text },
    },
  }
  const view = new View(parse(compile(spec).spec), { renderer: 'none' })
  return `${await view.toSVG()}\n`
}

function dotsOf(row: Result): Dot[] {
  const ours = row.chart && row.figures[row.chart.ours]
  if (!row.chart || !ours) return []
  const dot = (who: string, way: string | undefined): Dot[] => {
    const figure = way === undefined ? undefined : row.figures[way]
    if (!row.chart || !figure) return []
    const ratio = figure.median / ours.median
    return [{ row: row.chart.label, who, ratio, text: who === OURS ? '' : `${Number(ratio.toPrecision(2))} ×` }]
  }
  return [...dot(FLOOR, row.chart.floor), ...dot(RIVAL, row.chart.rival), ...dot(OURS, row.chart.ours)]
}
