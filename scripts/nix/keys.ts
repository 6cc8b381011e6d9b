// Handles signing keys in Nix's format: NAME:BASE64, where a secret key has 64 bytes (seed and
// public half) and a public key has 32 (src/libutil/signature/local-keys.cc, 2.26;
// src/libstore/crypto.cc, 2.4).
import { randomInt } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { Failure } from '../cli/errors.ts'
import { effectiveUid } from '../system/users.ts'
import { nixProgram } from './nix.ts'
import { readText } from './nix-conf.ts'

/** The public half of a secret key. @throws Failure if the text isn't a secret key */
export function publicHalf(secret: string, file: string): string {
  const [, name, base64 = ''] = /^([^:\s]+):([A-Za-z0-9+/=]+)\s*$/.exec(secret) ?? []
  const bytes = Buffer.from(base64, 'base64')
  if (name === undefined || bytes.length !== 64)
    throw new Failure(`${file}: is not a Nix secret key; move it away, or fix secret-key-files`)
  return `${name}:${bytes.subarray(32).toString('base64')}`
}

/**
 * The public key that belongs to a file with a secret one: its other half if we may read it, as root
 * may, else what lies beside it. setup and docs/by-hand.md write FILE with .public for .secret; by
 * hand some call it FILE.pub.
 * @throws Failure if the file isn't a secret key
 */
export function publicKeyOf(file: string): string | undefined {
  const secret = readText(file)
  if (secret !== undefined) return publicHalf(secret, file)
  const stem = file.replace(/\.[^./]*$/, '')
  const names = [`${stem}.public`, `${stem}.pub`, `${file}.pub`, `${file}.public`, file.replace(/secret$/, 'public')]
  return names.flatMap((name) => readText(name)?.trim() ?? []).find((text) => /^[^\s:]+:[A-Za-z0-9+/=]+$/.test(text))
}

/**
 * Makes a secret key with Nix, in a directory nobody else can read.
 * @throws Failure with Nix's message
 */
export async function newSecretKey(name: string): Promise<string> {
  // Root ignores TMPDIR: after `su` it may name a directory of the user's, where they could swap
  // the key.
  const directory = mkdtempSync(`${effectiveUid() === 0 ? '/run' : tmpdir()}/nix-lan-key-`)
  try {
    const made = await nixProgram('nix-store', ['--generate-binary-cache-key', name, `${directory}/secret`, `${directory}/public`])
    if (made.code !== 0) throw new Failure(`nix-store --generate-binary-cache-key failed: ${made.stderr.trim() || made.failedToStart}`)
    return readFileSync(`${directory}/secret`, 'utf8').trim()
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

const nameOf = (key: string): string => key.slice(0, key.indexOf(':'))

/** Whether the text is a public key as Nix prints it. */
export const isPublicKey = (text: string): boolean => /^[A-Za-z0-9._-]{1,200}:[A-Za-z0-9+/]{43}=$/.test(text)

/**
 * A new name for this machine's key: HOST-RANDOM-1. Random because Nix believes only the first of
 * two keys with the same name (src/libstore/keys.cc, getDefaultPublicKeys; crypto.cc in 2.8), and
 * the box may still trust a key this machine has lost.
 */
export function newKeyName(host: string): string {
  const base = (host.split('.')[0] ?? '').replace(/[^A-Za-z0-9-]/g, '') || 'nix-lan'
  const random = Array.from({ length: 8 }, () => String.fromCharCode(97 + randomInt(26))).join('')
  return `${base}-${random}-1`
}

/** A key of ours that isn't believed, and the trusted key with the same name. */
export interface Clash {
  ours: string
  other: string
}

/** Our keys that Nix doesn't believe because another key has the same name. */
export function clashes(ours: readonly string[], trusted: readonly string[]): Clash[] {
  return ours.flatMap((key) => {
    const first = trusted.find((one) => nameOf(one) === nameOf(key))
    return first === undefined || first === key ? [] : [{ ours: key, other: first }]
  })
}
