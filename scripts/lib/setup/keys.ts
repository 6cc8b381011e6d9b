// Signing keys as Nix writes them: NAME:BASE64, of 64 bytes for the secret one (seed and public half), 32 for the public one
// (src/libutil/signature/local-keys.cc, 2.26; src/libstore/crypto.cc, 2.4).
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { Failure } from '../errors.ts'
import { run } from '../run.ts'

/** The public half of a secret key. @throws Failure when it isn't one */
export function publicHalf(secret: string, file: string): string {
  const [, name, base64 = ''] = /^([^:\s]+):([A-Za-z0-9+/=]+)\s*$/.exec(secret) ?? []
  const bytes = Buffer.from(base64, 'base64')
  if (name === undefined || bytes.length !== 64)
    throw new Failure(`${file}: is not a secret key of Nix; move it away, or mend secret-key-files`)
  return `${name}:${bytes.subarray(32).toString('base64')}`
}

/** A new secret key, made by Nix in a directory that nobody else can read. @throws Failure with what Nix said */
export async function newSecretKey(name: string): Promise<string> {
  const directory = mkdtempSync(`${tmpdir()}/nix-lan-key-`)
  try {
    const made = await run('nix-store', ['--generate-binary-cache-key', name, `${directory}/secret`, `${directory}/public`])
    if (made.code !== 0) throw new Failure(`nix-store --generate-binary-cache-key failed: ${made.stderr.trim() || made.failedToStart}`)
    return readFileSync(`${directory}/secret`, 'utf8').trim()
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/** A name for this machine's key. Nix and signatures part it from the rest by a colon. */
export const keyName = (host: string): string => `${(host.split('.')[0] ?? '').replace(/[^A-Za-z0-9-]/g, '') || 'nix-lan'}-1`
