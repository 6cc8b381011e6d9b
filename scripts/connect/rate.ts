// Measures how fast a link is, with a few kilobytes: what is asked for blindly, megabytes of a list
// of paths, is on its way before its first byte arrives, and would clog a link of 1 Mbit/s for
// seconds, even if it is given up at once.
import { storeDir } from '../nix/store-path.ts'
import type { ByteReader } from '../protocol/byte-reader.ts'
import { Recorder, readMessages, string, u64 } from '../protocol/wire.ts'
import type { Link } from './links.ts'

/**
 * QueryDerivationOutputMap, of a derivation that nobody has: the box refuses, and repeats its name.
 * No other question makes a box of any size say so much, at no more cost than a look for a file
 * (2.8.0, 2.26.3, 2.34.8, daemon.cc: an error after startWork() leaves the connection as it is).
 */
const QUESTION = Buffer.concat([u64(41), string(`${storeDir}/${'0'.repeat(32)}-nix-lan-${'x'.repeat(180)}.drv`)])
/** How many at once. */
const MANY = 24
/** Milliseconds: what takes no longer can't be told from a box that thinks. */
const UNCLEAR = 8
/** The best of so many attempts counts: a box, or we, may be busy for a moment. */
const ATTEMPTS = 3

/**
 * Bytes per millisecond that the link carries, of both directions the slower one; 0: so many that
 * they can't be told from so few questions.
 * @throws whatever ends the connection
 */
export async function measureRate(link: Link): Promise<number> {
  const one = await timed(link, 1)
  let least = Number.POSITIVE_INFINITY
  for (let attempt = 0; attempt < ATTEMPTS && least > UNCLEAR; attempt++) least = Math.min(least, (await timed(link, MANY)) - one)
  return least <= UNCLEAR ? 0 : (2 * (MANY - 1) * QUESTION.length) / least
}

async function timed(link: Link, questions: number): Promise<number> {
  const asked = performance.now()
  await Promise.all(Array.from({ length: questions }, () => link.ask(QUESTION, refusal)))
  return performance.now() - asked
}

async function refusal(reader: ByteReader): Promise<void> {
  const ending = await readMessages(new Recorder(reader))
  if (!ending.error) throw new Error('a box that knows a derivation of zeros')
}
