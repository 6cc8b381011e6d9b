// Remembers what the box has said about its paths, for as long as that can be believed: not after
// something may have been put there or deleted from here.

/** How long, in milliseconds, a path that the box has is assumed to be there, unchanged. */
const BELIEVED = 30_000
/**
 * How long, in milliseconds, a path that the box lacked counts as missing: Nix 2.8 and 2.26 ask for
 * each path three times in a row. Misses of the empty store aren't remembered: the box may have the
 * path once it is back.
 */
const MISS = 10_000
/**
 * Maximum of misses remembered: a connection may last for days, and memory must not grow with it.
 */
const MOST_MISSES = 10_000
/** Maximum bytes of answers remembered. */
const MOST_BYTES = 32 * 2 ** 20

/** Answers to QueryPathInfo. Times are milliseconds of a monotonic clock. */
export class Infos {
  private readonly hits = new Map<string, { answer: Buffer; at: number }>()
  private readonly misses = new Map<string, number>()
  private bytes = 0
  private readonly identity: () => string
  private known: string | undefined
  private seen = 0

  /** @param identity changes when something has been put on the box from here, or may have been */
  constructor(identity: () => string = () => '') {
    this.identity = identity
  }

  /**
   * How often something may have changed on the box: an answer to what was asked under another
   * number is no longer true.
   */
  get changes(): number {
    return this.seen
  }

  /**
   * Looks whether something may have changed on the box, and if so forgets everything. To be called
   * before each question of Nix.
   */
  lookAround(): void {
    const identity = this.identity()
    if (this.known !== undefined && identity !== this.known) {
      this.seen++
      this.clear()
    }
    this.known = identity
  }

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

  /** Forgets everything: the box may have changed. */
  clear(): void {
    this.forgetHits()
    this.misses.clear()
  }
}
