// Recorded sessions of real Nixes: test/nix/sessions.test.ts makes them, test/unit/recorded.test.ts
// replays them.

export const SIDES = ['fromNix', 'toNix', 'fromBox', 'toBox'] as const

/** All that was said in one session, in base64. */
export interface Recorded extends Record<(typeof SIDES)[number], string> {
  command: string
}

/**
 * The numbers of the operations in a session, found by their place after the hello: only for
 * sessions without an upload, whose requests are an operation, and strings or sets of them.
 * Independent of protocol/wire.ts: strings begin with their length, and paths with a slash.
 */
export function operationsOf(session: Recorded): number[] {
  const bytes = Buffer.from(session.fromNix, 'base64').subarray(32)
  const numbers: number[] = []
  for (let at = 0; at < bytes.length; ) {
    const number = Number(bytes.readBigUInt64LE(at))
    numbers.push(number)
    at += 8
    if (number === 31 || number === 32) at = afterStrings(bytes, at) + (number === 31 ? 8 : 0)
    else at = afterString(bytes, at)
  }
  return numbers
}

function afterString(bytes: Buffer, at: number): number {
  return at + 8 + Math.ceil(Number(bytes.readBigUInt64LE(at)) / 8) * 8
}

function afterStrings(bytes: Buffer, at: number): number {
  let end = at + 8
  for (let left = Number(bytes.readBigUInt64LE(at)); left > 0; left--) end = afterString(bytes, end)
  return end
}
