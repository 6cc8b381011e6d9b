// Ends of a worker-protocol connection that live in memory, and NARs made by the book: for tests of
// what relays them.

import type { Client } from '../../scripts/connect/client.ts'
import type { Box } from '../../scripts/protocol/box.ts'
import { ByteReader, EndOfStream } from '../../scripts/protocol/byte-reader.ts'
import type { Acquaintance } from '../../scripts/protocol/dial-for-client.ts'
import { MAGIC_CLIENT, STDERR_LAST, string, u64 } from '../../scripts/protocol/wire.ts'

/** A reader that gives `bytes` in chunks of `size`, then the end. */
export function readerOf(bytes: Buffer, size = 65536): ByteReader {
  let at = 0
  const feed = (): void => {
    if (at >= bytes.length) {
      reader.finish(new EndOfStream('the end'))
      return
    }
    const chunk = bytes.subarray(at, at + size)
    at += chunk.length
    reader.lend(chunk)
  }
  const reader: ByteReader = new ByteReader({ resume: () => queueMicrotask(feed) })
  return reader
}

/** Nix, sending `bytes`. What it is answered is in `got()`. */
export function clientOf(bytes: Buffer, size?: number): Client & { got(): Buffer } {
  const written: Buffer[] = []
  return {
    reader: readerOf(bytes, size),
    write: async (chunk) => {
      written.push(Buffer.from(chunk))
    },
    bothWays: () => {},
    end: () => {},
    got: () => Buffer.concat(written),
  }
}

/**
 * A box after its handshake, sending `bytes` whatever it is asked. What it was asked is in
 * `asked()`.
 */
export function boxOf(bytes: Buffer, size?: number): Box & { asked(): Buffer; ended(): boolean } {
  const written: Buffer[] = []
  let ended = false
  const socket = {
    write: (chunk: Buffer, done?: () => void) => {
      written.push(Buffer.from(chunk))
      done?.()
      return true
    },
    end: () => {
      ended = true
    },
    destroy: () => {},
  }
  return {
    version: 0x0122,
    nix: '2.8.0',
    socket: socket as unknown as Box['socket'],
    reader: readerOf(bytes, size),
    handshake: null,
    asked: () => Buffer.concat(written),
    ended: () => ended,
  }
}

/** The same for a strict session: a box of 2.8.0 before Nix has said hello. */
export function acquaintanceOf(box: Box): Acquaintance {
  const welcome = Buffer.concat([string(box.nix), u64(STDERR_LAST)])
  return { version: box.version, introduce: async () => ({ box, features: [], welcome }) }
}

/** A signature as Nix reads it: a key's name, 64 bytes in base 64. */
export const SIGNATURE = `k:${'A'.repeat(86)}==`

/** What Nix sends first: its protocol, no CPU, no reserved space. */
export const hello = (version = 0x0122): Buffer => Buffer.concat([u64(MAGIC_CLIENT), u64(version), u64(0), u64(0)])

export type Tree = { file: string | Buffer; executable?: boolean } | { link: string } | { entries: Record<string, Tree> }

/** The NAR of a tree. */
export const nar = (tree: Tree): Buffer => Buffer.concat([string('nix-archive-1'), ...node(tree)])

function node(tree: Tree): Buffer[] {
  if ('link' in tree) return words('(', 'type', 'symlink', 'target', tree.link, ')')
  if ('file' in tree) {
    const flag = tree.executable ? words('executable', '') : []
    return [...words('(', 'type', 'regular'), ...flag, ...words('contents'), bytes(tree.file), ...words(')')]
  }
  const entries = Object.entries(tree.entries).flatMap(([name, child]) => [
    ...words('entry', '(', 'name', name, 'node'),
    ...node(child),
    ...words(')'),
  ])
  return [...words('(', 'type', 'directory'), ...entries, ...words(')')]
}

const words = (...all: string[]): Buffer[] => all.map(string)
const bytes = (content: string | Buffer): Buffer => {
  const data = Buffer.from(content)
  return Buffer.concat([u64(data.length), data, Buffer.alloc((8 - (data.length % 8)) % 8)])
}

/**
 * Asserts that two runs of bytes are the same, and says where they part. (uvu's own comparison
 * prints a line for each byte.)
 */
export function same(actual: Buffer, expected: Buffer, what = 'bytes'): void {
  if (actual.equals(expected)) return
  const at = expected.findIndex((byte, i) => byte !== actual[i])
  throw new Error(`${what}: ${actual.length} bytes for ${expected.length}, other from byte ${at < 0 ? expected.length : at} on`)
}
