// Chance that can be repeated: numbers drawn from a seed.

/** Draws from a seed: the same seed draws the same. */
export class Random {
  private state: number

  /** @param seed any words, for example a number and what it is for */
  constructor(...seed: (string | number)[]) {
    // FNV-1a, 32 bits
    this.state = [...seed.join(' ')].reduce((hash, char) => Math.imul(hash ^ char.charCodeAt(0), 0x01000193), 0x811c9dc5)
  }

  /** From 0 to 1, without 1. (mulberry32) */
  next(): number {
    this.state = (this.state + 0x6d2b79f5) | 0
    let mixed = Math.imul(this.state ^ (this.state >>> 15), this.state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }

  /** An integer from `least` to `most`, both possible. */
  integer(least: number, most: number): number {
    return least + Math.floor(this.next() * (most - least + 1))
  }

  /** One of them. @throws Error when there are none */
  pick<T>(things: readonly T[]): T {
    const thing = things[this.integer(0, things.length - 1)]
    if (thing === undefined) throw new Error('nothing to pick from')
    return thing
  }
}
