// Parses sizes and times as people write them: `5G`, `60d`. Pure.

const UNITS: Readonly<Record<string, number>> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 }

/**
 * Bytes: a number, optionally with K, M, G or T for powers of 1024 (KiB and the like work too).
 * undefined for anything else.
 */
export function parseSize(text: string): number | undefined {
  const [, number, unit = ''] = /^(\d{1,12}(?:\.\d{1,3})?) ?([KMGT]?)(?:i?B)?$/i.exec(text) ?? []
  if (number === undefined) return undefined
  const bytes = Math.round(Number(number) * (UNITS[unit.toUpperCase()] ?? 1))
  return Number.isSafeInteger(bytes) ? bytes : undefined
}

const SECONDS: Readonly<Record<string, number>> = { m: 60, h: 3600, d: 86_400, w: 604_800 }

/** Seconds: a whole number with m, h, d or w. undefined for anything else. */
export function parseSpan(text: string): number | undefined {
  const [, number, unit = ''] = /^(\d{1,6})([mhdw])$/.exec(text) ?? []
  return number === undefined ? undefined : Number(number) * (SECONDS[unit] ?? 0)
}
