// Comparing how long things take on a machine that may be busy.

/**
 * Does several things in turn, again and again, and keeps the least milliseconds of each: what else
 * the machine does only adds. Stops when `enough` says so, but not before `fewest` rounds and not
 * after `most`; so a ratio that is really too high costs time, and still fails.
 */
export async function compare<Way extends string>(
  ways: Record<Way, () => Promise<number>>,
  enough: (least: Record<Way, number>) => boolean,
  { fewest = 5, most = 25 } = {},
): Promise<Record<Way, number>> {
  const names = Object.keys(ways) as Way[]
  const least = Object.fromEntries(names.map((name) => [name, Number.POSITIVE_INFINITY])) as Record<Way, number>
  for (let round = 0; round < most; round++) {
    for (const name of names) least[name] = Math.min(least[name], await ways[name]())
    if (round + 1 >= fewest && enough(least)) break
  }
  return least
}
