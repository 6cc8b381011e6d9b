// How bytes and texts are spoilt: single ones, words of the protocol, lengths, pieces cut out,
// doubled, taken from elsewhere.
import { errorAnswer, string, u64 } from '../../scripts/protocol/wire.ts'
import type { Random } from '../lib/random.ts'

/** Numbers at which code goes wrong, as they stand on the wire. */
const NUMBERS = [0n, 1n, 2n, 7n, 8n, 9n, 64n, 255n, 4096n, 2n ** 24n, 2n ** 31n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]
/** Message types, magic numbers and operations (2.34.8, worker-protocol.hh). */
const WORDS = [
  0x616c7473n,
  0x63787470n,
  0x6f6c6d67n,
  0x53545254n,
  0x53544f50n,
  0x52534c54n,
  0x64617461n,
  0x64617416n,
  0x6e697863n,
  0x6478696fn,
  ...[1n, 11n, 19n, 26n, 29n, 31n, 32n, 38n, 39n, 43n, 44n],
]
const STRINGS = [
  '',
  '/nix/store',
  '/nix/store/00000000000000000000000000000000-x',
  'sha256:0',
  'nix-archive-1',
  '(',
  ')',
  'contents',
  '\0',
  'é',
  'x'.repeat(5000),
]

/** Some bytes changed, one to six times. @param others where pieces come from */
export function mutated(bytes: Buffer, random: Random, others: readonly Buffer[]): Buffer {
  let result: Buffer = Buffer.from(bytes)
  for (let times = random.pick([1, 1, 1, 2, 3, 6]); times > 0; times--) result = once(result, random, others)
  return result
}

function once(bytes: Buffer, random: Random, others: readonly Buffer[]): Buffer {
  const aligned = (): number => 8 * random.integer(0, bytes.length >> 3)
  const at = random.integer(0, 3) > 0 ? Math.min(aligned(), bytes.length) : random.integer(0, bytes.length)
  const end = Math.min(bytes.length, at + 8 * random.integer(0, 12))
  const put = (piece: Buffer, from = at, to = at): Buffer => Buffer.concat([bytes.subarray(0, from), piece, bytes.subarray(to)])
  const word = (value: bigint): Buffer => Buffer.from(new BigUint64Array([value]).buffer)
  switch (random.integer(0, 10)) {
    case 0:
      return put(Buffer.of(random.integer(0, 255)), at, Math.min(bytes.length, at + 1))
    case 1:
      return put(word(random.pick(NUMBERS)), at, Math.min(bytes.length, at + 8))
    case 2:
      return put(word(random.pick(WORDS)), at, Math.min(bytes.length, at + 8))
    case 3:
      return put(word(random.pick(random.integer(0, 1) ? WORDS : NUMBERS)))
    case 4:
      return put(Buffer.alloc(0), at, end)
    case 5:
      return put(bytes.subarray(at, end))
    case 6:
      return Buffer.from(bytes.subarray(0, at))
    case 7: {
      const other = random.pick(others)
      const from = 8 * random.integer(0, other.length >> 3)
      return put(other.subarray(from, from + 8 * random.integer(1, 20)))
    }
    case 9:
      return put(errorAnswer(random.pick(STRINGS)), at, random.pick([at, end]))
    case 8:
      return put(string(random.pick(STRINGS)))
    default:
      return put(Buffer.concat([u64(0x6f6c6d67), string(random.pick(STRINGS))]))
  }
}

/** Some characters changed, one to eight times. @param pieces what may be put in */
export function spoilt(text: string, random: Random, pieces: readonly string[]): string {
  let result = text
  for (let times = random.integer(1, 8); times > 0; times--) {
    const at = random.integer(0, result.length)
    const end = Math.min(result.length, at + random.integer(0, random.pick([1, 3, 20])))
    const piece = random.integer(0, 2)
      ? random.pick(pieces)
      : String.fromCodePoint(random.pick([random.integer(1, 127), random.integer(128, 0xd7ff)]))
    const from = random.integer(0, result.length)
    const put = random.pick(['', piece, piece, result.slice(from, from + random.integer(1, 30))])
    result = result.slice(0, at) + put + result.slice(random.pick([at, end]))
  }
  return result
}
