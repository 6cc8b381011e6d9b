// Finds where a NAR ends. NarFromPath sends no length, so a relay has to follow its structure.
//
// NAR (Nix 2.8.0, src/libutil/archive.cc; Dolstra's thesis, figure 5.2): every item is a string:
// its length as u64, little-endian, its bytes, zeros up to a multiple of 8. First "nix-archive-1",
// then a node in parentheses; a directory's entries are parentheses again. Only the strings after
// "contents", "target", "name" and "type" are data and may themselves look like a parenthesis.

const LONGEST_WORD = 16
const DATA_FOLLOWS = new Set(['contents', 'target', 'name', 'type'])

export class NarEnd {
  private depth = 0
  private begun = false
  private magic = false // "nix-archive-1" has been read
  private skip = 0 // bytes of data and padding to skip
  private partial: Buffer = Buffer.alloc(0) // the start of an item that the end of a chunk cut off
  private dataNext = false

  /**
   * How many bytes of the chunk that scan() threw at came before what is no NAR; −1 if that began
   * in an earlier chunk.
   */
  stray = -1

  /** Whether the closing parenthesis of the outermost node has been seen. */
  get done(): boolean {
    return this.begun && this.depth === 0
  }

  /**
   * Follows the next bytes of the stream.
   * @returns how many of them belong to the NAR: all, unless it ends earlier
   * @throws Error when this isn't a NAR
   */
  scan(chunk: Buffer): number {
    let at = 0
    while (at < chunk.length && !this.done) {
      if (this.skip > 0) {
        const step = Math.min(this.skip, chunk.length - at)
        this.skip -= step
        at += step
        continue
      }
      this.stray = this.partial.length === 0 ? at : -1
      const needed = this.itemHead(chunk, at)
      if (needed === 0) {
        this.partial = Buffer.concat([this.partial, chunk.subarray(at)])
        return chunk.length
      }
      at += needed
    }
    return at
  }

  /**
   * Reads a length, and the word after it unless that is data. Returns how many bytes of `chunk` it
   * used; 0 when the chunk ends too early.
   */
  private itemHead(chunk: Buffer, at: number): number {
    const before = this.partial.length
    const bytes = before === 0 ? chunk.subarray(at) : Buffer.concat([this.partial, chunk.subarray(at, at + 8 + LONGEST_WORD)])
    if (bytes.length < 8) return 0
    const length = Number(bytes.readBigUInt64LE(0))
    const padded = Math.ceil(length / 8) * 8
    if (this.dataNext) {
      this.dataNext = false
      this.skip = padded
      this.partial = Buffer.alloc(0)
      return 8 - before
    }
    if (length > LONGEST_WORD) throw new Error('the box sent something that is no NAR')
    if (bytes.length < 8 + padded) return 0
    this.word(bytes.toString('latin1', 8, 8 + length))
    this.partial = Buffer.alloc(0)
    return 8 + padded - before
  }

  private word(word: string): void {
    if (!this.begun && word !== (this.magic ? '(' : 'nix-archive-1')) throw new Error('the box sent something that is no NAR')
    this.magic = true
    if (word === '(') {
      this.depth++
      this.begun = true
    } else if (word === ')') this.depth--
    else this.dataNext = DATA_FOLLOWS.has(word)
  }
}
