// What the box has said of its paths, for as long as it is believed.

/** A path that the box has is believed to be there, and the same, for so many milliseconds. */
const BELIEVED = 30_000
/**
 * A path that the box lacked counts as lacking for so many milliseconds: Nix 2.8 and 2.26 ask for
 * each path three times in a row. Misses of the empty store aren't remembered, since a box that
 * comes back may have it.
 */
const MISS = 10_000
/** So many misses are remembered, lest a connection that lasts for days takes ever more memory. */
const MOST_MISSES = 10_000
/** Bytes of answers that are remembered. */
const MOST_BYTES = 32 * 2 ** 20

/** Answers to QueryPathInfo. Times are in milliseconds of a clock that nobody sets. */
export class Infos {
  private readonly hits = new Map<string, { answer: Buffer; at: number }>()
  private readonly misses = new Map<string, number>()
  private bytes = 0

  /** The answer about a path, from "I have it" on; null: the box lacks it; undefined: ask. */
  get(path: string): Buffer | null | undefined {
    const missed = this.misses.get(path)
    if (missed !== undefined && performance.now() - missed < MISS) return null
    const hit = this.hits.get(path)
    return hit && performance.now() - hit.at < BELIEVED ? hit.answer : undefined
  }

  /** @param answer from "I have it" on */
  hit(path: string, answer: Buffer): void {
    if (this.bytes > MOST_BYTES) this.forgetHits()
    this.misses.delete(path)
    this.bytes += answer.length
    this.hits.set(path, { answer, at: performance.now() })
  }

  miss(path: string): void {
    if (this.misses.size >= MOST_MISSES) this.misses.clear()
    this.misses.set(path, performance.now())
  }

  forgetHits(): void {
    this.hits.clear()
    this.bytes = 0
  }

  /** The box may have changed: nothing is believed any longer. */
  clear(): void {
    this.forgetHits()
    this.misses.clear()
  }
}
