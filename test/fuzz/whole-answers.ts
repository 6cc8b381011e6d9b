// Whether what Nix was given is whole answers: a second reader of the worker protocol (Nix 2.34.8,
// worker-protocol-connection.cc), independent of scripts/protocol, that takes bytes from a buffer
// and knows nothing but shapes.

/** How far it could be read. */
export interface Read {
  /** Questions with a whole answer. */
  answered: number
  /** Bytes behind the last whole answer. */
  rest: number
  /** Whether those belong to the answer of NarFromPath. */
  inNar: boolean
  why: string
}

class Short extends Error {}

class Bytes {
  private readonly bytes: Buffer
  at = 0
  constructor(bytes: Buffer) {
    this.bytes = bytes
  }

  get left(): number {
    return this.bytes.length - this.at
  }

  number(): bigint {
    if (this.left < 8) throw new Short('a number is cut off')
    this.at += 8
    return this.bytes.readBigUInt64LE(this.at - 8)
  }

  string(): string {
    const length = Number(this.number())
    const padded = Math.ceil(length / 8) * 8
    if (this.left < padded) throw new Short('a string is cut off')
    this.at += padded
    return this.bytes.toString('latin1', this.at - padded, this.at - padded + length)
  }

  times(act: () => unknown): void {
    for (let left = this.number(); left > 0n; left--) act()
  }
}

/**
 * Reads the answers to a session's questions.
 * @param got all that Nix was given, with the greeting
 * @param fromNix what Nix said: its version decides what the greeting has
 * @param strict the box's answers are passed on as they are
 * @throws TypeError for a whole answer that makes a Nix fail
 */
export function wholeAnswers(got: Buffer, operations: readonly number[], fromNix: Buffer, strict: boolean): Read {
  const bytes = new Bytes(got)
  let answered = 0
  let begun = 0
  let inNar = false
  try {
    if (bytes.number() !== 0x6478696fn) throw new Short('no greeting')
    const version = Math.min(fromNix.readUInt32LE(8), Number(bytes.number()))
    if (version >= 0x0121) bytes.string()
    if (version >= 0x0123) bytes.number()
    if (bytes.number() !== 0x616c7473n) throw new Short('no end of the greeting')
    for (const operation of operations) {
      begun = bytes.at
      if (bytes.left === 0) break
      inNar = operation === 38
      answer(bytes, operation, strict)
      answered++
      begun = bytes.at
    }
    if (bytes.left > 0) return { answered, rest: bytes.left, inNar: false, why: 'more than was asked for' }
    return { answered, rest: 0, inNar: false, why: '' }
  } catch (error) {
    if (!(error instanceof Short)) throw error
    return { answered, rest: got.length - begun, inNar, why: error.message }
  }
}

/** What a Nix takes for a path of the store; the strictest of the three (2.34.8, path.cc). */
const STORE_PATH = /^\/nix\/store\/[0-9a-z]{32}-[A-Za-z0-9+._?=-]+$/

function answer(bytes: Bytes, operation: number, strict: boolean): void {
  const error = messages(bytes)
  if (operation === 38 && error) throw new TypeError('NarFromPath was answered with an error, for which Nix 2.4 to 2.22 waits for ever')
  if (error) return
  switch (operation) {
    case 1:
    case 11:
      bytes.number()
      return
    case 19:
      return
    case 26:
      if (bytes.number() === 0n) throw new TypeError('a miss that makes Nix 2.4 to 2.30 start anew')
      info(bytes, strict)
      return
    case 29:
      bytes.string()
      return
    case 38:
      if (bytes.string() !== 'nix-archive-1') throw new Short('no NAR')
      node(bytes)
      return
    default:
      bytes.times(() => bytes.string())
  }
}

/** Deriver, hash, references, registration time, size, ultimate, signatures, content address. */
function info(bytes: Bytes, strict: boolean): void {
  const deriver = bytes.string()
  const hash = bytes.string()
  const references: string[] = []
  bytes.times(() => references.push(bytes.string()))
  for (let i = 0; i < 3; i++) bytes.number()
  bytes.times(() => bytes.string())
  bytes.string()
  if (strict) return
  for (const path of deriver === '' ? references : [deriver, ...references])
    if (!STORE_PATH.test(path)) throw new TypeError(`Nix was given ${JSON.stringify(path)} as a store path`)
  if (!/^[0-9a-f]{64}$/.test(hash)) throw new TypeError(`Nix was given ${JSON.stringify(hash)} as a hash`)
}

/** The messages before an answer. Returns whether an error takes its place. */
function messages(bytes: Bytes): boolean {
  const fields = (): void => bytes.times(() => (bytes.number() === 0n ? bytes.number() : bytes.string()))
  for (;;) {
    const type = bytes.number()
    if (type === 0x616c7473n) return false
    if (type === 0x6f6c6d67n) bytes.string()
    else if (type === 0x53544f50n) bytes.number()
    else if (type === 0x53545254n) {
      for (let i = 0; i < 3; i++) bytes.number()
      bytes.string()
      fields()
      bytes.number()
    } else if (type === 0x52534c54n) {
      bytes.number()
      bytes.number()
      fields()
    } else if (type === 0x63787470n) {
      bytes.string()
      bytes.number()
      bytes.string()
      bytes.string()
      bytes.number()
      bytes.times(() => {
        bytes.number()
        bytes.string()
      })
      return true
    } else throw new TypeError(`a message of the unknown type 0x${type.toString(16)}`)
  }
}

/** A NAR's node, as connect has to find its end: parentheses, with data behind some words. */
function node(bytes: Bytes): void {
  let depth = 0
  do {
    const word = bytes.string()
    if (word === '(') depth++
    else if (word === ')') depth--
    else if (['contents', 'target', 'name', 'type'].includes(word)) bytes.string()
  } while (depth > 0)
}
