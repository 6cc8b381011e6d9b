// Knows which paths the box has, from its own list, and so at once what it lacks. Takes 20 bytes a
// path: a box may have a million.
import type { ByteReader } from '../protocol/byte-reader.ts'
import { Recorder, readMessages } from '../protocol/wire.ts'

/**
 * Nix's base 32 (libutil/hash.cc, 2.8.0): in ASCII order, so packed hash parts sort like the paths.
 */
const ALPHABET = '0123456789abcdfghijklmnpqrsvwxyz'
const NONE = 255
const DIGITS = Uint8Array.from({ length: 256 }, (_, code) => {
  const digit = ALPHABET.indexOf(String.fromCharCode(code))
  return digit < 0 ? NONE : digit
})
/** Characters of a hash part, and the bytes it packs into. */
const HASH = 32
const PACKED = 20
/** Far more than any store has. */
const MOST_PATHS = 10_000_000
/** Longer than any store path. */
const LONGEST_PATH = 4096
/** A box with more is never asked for everything it knows, so the names aren't needed. */
const MOST_NAMES = 50_000

/** How much of the list has arrived. */
export interface Progress {
  paths: number
  total: number
  /** Bytes so far. */
  bytes: number
}

/** The hash parts of a store's paths. */
export class PathIndex {
  /** The folder the paths are in; undefined while there are none. */
  private store: string | undefined
  private hashes: Buffer = Buffer.alloc(0)
  private count = 0
  private sorted = true
  private names: string[] | undefined = []
  private readonly sought = Buffer.alloc(PACKED)

  /** How many paths there are. */
  get size(): number {
    return this.count
  }

  /** The paths themselves, only once: they aren't kept. Undefined when there are too many. */
  takeNames(): string[] | undefined {
    const { names, store } = this
    this.names = undefined
    return names?.map((name) => `${store}/${name}`)
  }

  /** Whether the store lacks a path. False for a path in another folder: nothing is known there. */
  lacks(path: string): boolean {
    const slash = path.lastIndexOf('/')
    if (this.store !== undefined && path.slice(0, slash) !== this.store) return false
    if (!pack(Buffer.from(path.slice(slash + 1, slash + 1 + HASH), 'latin1'), 0, this.sought, 0)) return false
    let [low, high] = [0, this.count]
    while (low < high) {
      const middle = (low + high) >> 1
      const order = this.sought.compare(this.hashes, middle * PACKED, (middle + 1) * PACKED)
      if (order === 0) return false
      if (order < 0) high = middle
      else low = middle + 1
    }
    return true
  }

  /**
   * Adds the path between `from` and `to` of `chunk`.
   * @throws Error for anything but a store path
   */
  add(chunk: Buffer, from: number, to: number): void {
    const slash = chunk.lastIndexOf(0x2f, to - 1)
    this.store ??= chunk.toString('latin1', from, slash)
    const at = this.count * PACKED
    if (at + PACKED > this.hashes.length) this.hashes = Buffer.concat([this.hashes], Math.max(2 * this.hashes.length, 1024 * PACKED))
    const here = slash - from === this.store.length && to - slash > HASH + 1
    if (!here || !pack(chunk, slash + 1, this.hashes, at)) throw new Error('a list of paths with something else in it')
    if (at > 0 && this.hashes.compare(this.hashes, at - PACKED, at, at, at + PACKED) < 0) this.sorted = false
    this.count++
    if (this.count > MOST_NAMES) this.names = undefined
    this.names?.push(chunk.toString('latin1', slash + 1, to))
  }

  /**
   * To be called after the last add(). Nix lists its paths in order (2.8.0, 2.34.8), but doesn't
   * promise to.
   */
  finish(): this {
    if (this.sorted) return this
    const all = Array.from({ length: this.count }, (_, n) => this.hashes.subarray(n * PACKED, (n + 1) * PACKED))
    this.hashes = Buffer.concat(all.sort(Buffer.compare))
    return this
  }
}

/** Packs the 32 characters at `from` into 20 bytes. Returns whether they are a hash part. */
function pack(chunk: Buffer, from: number, into: Buffer, at: number): boolean {
  let whole = chunk.length - from >= HASH
  for (let group = 0; group < 4; group++) {
    const [a, b] = [twenty(chunk, from + 8 * group), twenty(chunk, from + 8 * group + 4)]
    if (a < 0 || b < 0) whole = false
    const to = at + 5 * group
    into[to] = a >> 12
    into[to + 1] = a >> 4
    into[to + 2] = ((a & 15) << 4) | (b >> 16)
    into[to + 3] = b >> 8
    into[to + 4] = b
  }
  return whole
}

/** Four characters as 20 bits; negative when one of them isn't a digit. */
function twenty(chunk: Buffer, from: number): number {
  let bits = 0
  let most = 0
  for (let i = from; i < from + 4; i++) {
    const digit = DIGITS[chunk[i] ?? 0] ?? NONE
    if (digit > most) most = digit
    bits = (bits << 5) | digit
  }
  return most === NONE ? -1 : bits
}

/**
 * Reads the answer to QueryAllValidPaths as it arrives. Returns null if it was given up: then the
 * connection is of no more use.
 * @param goOn called for each chunk: whether the list is still worth it
 * @throws Error when the answer isn't a list of paths, or the box refuses
 */
export async function readPathIndex(reader: ByteReader, goOn: (so: Progress) => boolean): Promise<PathIndex | null> {
  const start = new Recorder(reader)
  const ending = await readMessages(start)
  if (ending.error) throw new Error(ending.message)
  const total = await start.u64()
  if (total > MOST_PATHS) throw new Error(`a list of ${total} paths`)
  const index = new PathIndex()
  let bytes = 0
  while (index.size < total) {
    bytes += addWhole(index, reader, total) || (await addCut(index, reader))
    if (!goOn({ paths: index.size, total, bytes })) return null
  }
  return index.finish()
}

/** Adds the paths that have arrived whole. Returns how many bytes that was. */
function addWhole(index: PathIndex, reader: ByteReader, total: number): number {
  const chunk = reader.atHand()
  let at = 0
  while (index.size < total && chunk.length - at >= 8) {
    const length = pathLength(chunk, at)
    const end = at + 8 + Math.ceil(length / 8) * 8
    if (end > chunk.length) break
    index.add(chunk, at + 8, at + 8 + length)
    at = end
  }
  reader.consume(at)
  return at
}

/** Adds a path cut in two by the end of a chunk. */
async function addCut(index: PathIndex, reader: ByteReader): Promise<number> {
  const length = pathLength(await reader.take(8), 0)
  const path = await reader.take(Math.ceil(length / 8) * 8)
  index.add(path, 0, length)
  return 8 + path.length
}

function pathLength(chunk: Buffer, at: number): number {
  const length = Number(chunk.readBigUInt64LE(at))
  if (length > LONGEST_PATH) throw new Error('a list of paths with something else in it')
  return length
}
