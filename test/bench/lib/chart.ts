// The chart of the README: a line of dots for each main row, on a logarithmic scale where nix-lan
// is 1: nix-lan, the baseline, and what one would use instead. Pure; one SVG for a light page, one
// for a dark page.
import type { Result } from './results.ts'

const WHO = ['nix-lan', 'baseline', 'what one would use instead'] as const
const THEMES = {
  light: { text: '#1f2328', grid: '#d0d7de', dots: ['#0969da', '#6e7781', '#bc4c00'] },
  dark: { text: '#e6edf3', grid: '#3d444d', dots: ['#4493f8', '#9198a1', '#f0883e'] },
} as const

// Pixels.
const LEFT = 306
const TOP = 44
const WIDTH = 460
const ROW = 34
const MARGIN = 48
/** An average letter at 11 px: fonts differ, so the legend leaves room. */
const LETTER = 6.5

/** An SVG with a transparent background. */
export function chart(results: readonly Result[], theme: keyof typeof THEMES): string {
  const rows = results.flatMap(ratiosOf)
  const { text, grid, dots } = THEMES[theme]
  const powers = powersAround(rows.flatMap(({ ratios }) => ratios.filter((ratio) => ratio !== undefined)))
  const [first = 0, last = 0] = [powers[0], powers.at(-1)]
  const x = (ratio: number): number => round(LEFT + (WIDTH * (Math.log10(ratio) - first)) / (last - first))
  const bottom = TOP + rows.length * ROW
  const words = (at: number, y: number, fill: string, anchor: string, what: string, size = 11): string =>
    `<text x="${round(at)}" y="${y}" fill="${fill}" text-anchor="${anchor}" font-size="${size}">${escaped(what)}</text>`

  const parts: string[] = []
  for (const power of powers) {
    const at = x(10 ** power)
    parts.push(`<path d="M${at},${TOP}V${bottom}" stroke="${grid}"/>`, words(at, bottom + 16, text, 'middle', String(10 ** power)))
  }
  parts.push(words(LEFT + WIDTH / 2, bottom + 36, text, 'middle', 'time or memory, nix-lan = 1 (logarithmic; left is less)'))
  let legend = LEFT
  for (const [n, who] of WHO.entries()) {
    parts.push(circle(legend, 16, dots[n]), words(legend + 10, 20, text, 'start', who))
    legend += 34 + who.length * LETTER
  }
  for (const [n, { label, ratios }] of rows.entries()) {
    const y = TOP + n * ROW + ROW / 2
    parts.push(`<path d="M${LEFT},${y}H${LEFT + WIDTH}" stroke="${grid}"/>`, words(LEFT - 8, y + 4, text, 'end', label))
    for (const [who, ratio] of ratios.entries()) {
      if (ratio === undefined) continue
      parts.push(circle(x(ratio), y, dots[who]))
      // The baseline's figure stands below its dot, since the two may lie close together.
      if (who > 0)
        parts.push(words(x(ratio), y + (who === 1 ? 16 : -8), dots[who] ?? text, 'middle', `${Number(ratio.toPrecision(2))} ×`, 9.5))
    }
  }
  const [width, height] = [LEFT + WIDTH + MARGIN, bottom + MARGIN]
  const head = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}"`
  return [`${head} font-family="system-ui, sans-serif">`, ...parts, '</svg>', ''].join('\n')
}

/** A main row's ratios to nix-lan's own figure, in the order of WHO. */
function ratiosOf({ chart, figures }: Result): { label: string; ratios: (number | undefined)[] }[] {
  const ours = chart && figures[chart.ours]?.median
  if (!chart || !ours) return []
  const ratio = (way: string | undefined): number | undefined => {
    const figure = way === undefined ? undefined : figures[way]
    return figure && figure.median / ours
  }
  return [{ label: chart.label, ratios: [1, ratio(chart.floor), ratio(chart.rival)] }]
}

/** The whole powers of ten from the least ratio to the greatest. */
function powersAround(ratios: readonly number[]): number[] {
  const logs = ratios.map(Math.log10)
  const [least, most] = [Math.floor(Math.min(-1, ...logs)), Math.ceil(Math.max(1, ...logs))]
  return Array.from({ length: most - least + 1 }, (_, n) => least + n)
}

const circle = (x: number, y: number, fill = ''): string => `<circle cx="${round(x)}" cy="${y}" r="5" fill="${fill}"/>`
const round = (value: number): number => Math.round(value * 10) / 10
const escaped = (text: string): string => text.replace(/[&<>]/g, (sign) => `&#${sign.charCodeAt(0)};`)
