// The little arithmetic of the benchmarks: medians, and how far the rounds lie apart. Pure.

/**
 * What one way of doing something took: the sample of each round. The rounds are interleaved, so
 * the n-th samples of all ways belong together.
 */
export type Samples = Record<string, number[]>

/** The value in the middle; of an even number the mean of the two. @throws Error for no values */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const [low, high] = [sorted[sorted.length % 2 ? middle : middle - 1], sorted[middle]]
  if (low === undefined || high === undefined) throw new Error('the median of nothing')
  return (low + high) / 2
}

/** The median absolute deviation from the median: half of the values lie nearer. */
export function spread(values: readonly number[]): number {
  const middle = median(values)
  return median(values.map((value) => Math.abs(value - middle)))
}

/** What a goal compares: computes a figure from one figure for each way. */
export type Formula = (way: (name: string) => number) => number

/**
 * A figure of the medians, and its spread over the rounds. @throws Error for a way that wasn't
 * measured
 */
export function evaluate(samples: Samples, formula: Formula): { value: number; spread: number } {
  const of = (name: string): number[] => {
    const values = samples[name]
    if (!values || values.length === 0) throw new Error(`${name} was not measured`)
    return values
  }
  const value = formula((name) => median(of(name)))
  // A way that is too slow for many rounds is measured in fewer.
  const rounds = Math.max(...Object.values(samples).map((values) => values.length))
  const byRound = Array.from({ length: rounds }, (_, round) => formula((name) => of(name)[round] ?? median(of(name))))
  return { value, spread: spread(byRound) }
}
