// What a benchmark is made of, and what it hands back. A benchmark makes what it needs, measures
// its ways in interleaved rounds, sees that the work was really done, and cleans up.
import type { Formula, Samples } from './stats.ts'

export type Unit = 'ms' | 'MiB' | 'MiB/s' | 'instructions' | 'starts'

/** What is to be reached. */
export interface Goal {
  /** What is compared, for example `hook / sh -c :`. */
  say: string
  formula: Formula
  most?: number
  least?: number
  /**
   * What --quick insists on: so far from the goal that only a mistake gets there, on a machine that
   * does other things too.
   */
  budget?: number
}

/** One line of the table: the same work done in several ways. */
export interface Row {
  id: string
  /** The work. */
  what: string
  unit: Unit
  samples: Samples
  goals: Goal[]
  /** Measured over a relay with latency: such rows have a table of their own. */
  link?: { nix: string; travel: string; work: string }
  /**
   * For the chart: which ways stand for nix-lan, the baseline, and what one would use instead; and
   * whether the README's table shows it.
   */
  chart?: { label: string; ours: string; floor?: string; rival?: string; readme?: true }
  /** What the figures don't say by themselves. */
  notes?: string[]
}

/** How a benchmark is run. */
export interface Setting {
  /** Each thing once or twice, with tiny sizes: only to see that it works. */
  quick: boolean
  /** A line of progress. */
  progress(text: string): void
}

export interface Bench {
  name: string
  /** For the list. */
  title: string
  /** Programs and other things that it needs: see needs.ts. */
  needs: string[]
  /** Left out unless it is asked for by name; `or quick`: --quick has it, too. */
  onlyByName?: true | 'or quick'
  /** Each row as soon as it is measured. @throws Error when the work was not done */
  run(setting: Setting): AsyncIterable<Row>
}

/** A size: the full one, or the one of --quick. */
export const size = <T>({ quick }: Setting, full: T, small: T): T => (quick ? small : full)

/**
 * @throws Error when the condition doesn't hold: a benchmark that measures something else than it
 * says is worse than none
 */
export function ensure(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(message)
}

/**
 * Does each of several things in turn, so many rounds. What a thing returns is its sample.
 * @param fewer how many rounds a way gets that takes too long for all of them
 */
export async function rounds<Way extends string>(
  setting: Setting,
  count: number,
  ways: Record<Way, () => Promise<number>>,
  fewer: Partial<Record<Way, number>> = {},
): Promise<Record<Way, number[]>> {
  const names = Object.keys(ways) as Way[]
  const samples = Object.fromEntries(names.map((name) => [name, [] as number[]])) as Record<Way, number[]>
  for (let round = 1; round <= count; round++) {
    for (const name of names) {
      if (round > (fewer[name] ?? count)) continue
      setting.progress(`round ${round} of ${count}: ${name}`)
      samples[name].push(await ways[name]())
    }
  }
  return samples
}
