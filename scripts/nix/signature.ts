// Judges whether Nix here would believe a path that some store offers: because a trusted key signed
// it, or because it is content-addressed, so that its name proves its content. Pure. When in doubt
// it says no, even where Nix might say yes: callers delete what this says yes to.
//
// Sources: Nix 2.8.0 and 2.34.8, src/libstore/path-info.cc (fingerprint, isContentAddressed),
// crypto.cc, keys.cc, store-api.cc (makeType, makeStorePath, makeFixedOutputPath, makeTextPath),
// src/libutil/hash.cc (base 32).
import { createHash, createPublicKey, type KeyObject, verify } from 'node:crypto'
import { storeDir } from './store-path.ts'

const ALPHABET = '0123456789abcdfghijklmnpqrsvwxyz'

/** Encodes in Nix's base 32: the last five bits come first. */
export function base32(bytes: Buffer): string {
  let text = ''
  for (let n = Math.ceil((bytes.length * 8) / 5) - 1; n >= 0; n--) {
    const at = Math.floor((n * 5) / 8)
    const shift = (n * 5) % 8
    text += ALPHABET[(((bytes[at] ?? 0) >> shift) | ((bytes[at + 1] ?? 0) << (8 - shift))) & 31]
  }
  return text
}

/**
 * Decodes a hash in base 16 or Nix's base 32; undefined if the text isn't one of that many bytes.
 */
function hashBytes(text: string, length: number): Buffer | undefined {
  if (text.length === length * 2 && /^[0-9a-f]+$/.test(text)) return Buffer.from(text, 'hex')
  if (text.length !== Math.ceil((length * 8) / 5)) return undefined
  const bytes = Buffer.alloc(length)
  for (let n = 0; n < text.length; n++) {
    const digit = ALPHABET.indexOf(text[text.length - n - 1] ?? '')
    if (digit < 0) return undefined
    const at = Math.floor((n * 5) / 8)
    const shift = (n * 5) % 8
    const low = (digit << shift) & 255
    const high = digit >> (8 - shift)
    bytes[at] = (bytes[at] ?? 0) | low
    if (at + 1 < length) bytes[at + 1] = (bytes[at + 1] ?? 0) | high
    else if (high !== 0) return undefined
  }
  return bytes
}

/** Converts `sha256:BASE32` or `sha256:BASE16` to base 16; undefined for anything else. */
export function hexOf(text: string): string | undefined {
  return text.startsWith('sha256:') ? hashBytes(text.slice(7), 32)?.toString('hex') : undefined
}

/** What a signature vouches for. */
export interface Vouched {
  path: string
  /** SHA-256 of the NAR in base 16. */
  hash: string
  size: number
  references: readonly string[]
}

/**
 * The text that gets signed: `1;PATH;sha256:BASE32;SIZE;REFERENCE,REFERENCE`, with full paths,
 * sorted.
 */
export function fingerprint({ path, hash, size, references }: Vouched): string {
  return `1;${path};sha256:${base32(Buffer.from(hash, 'hex'))};${size};${[...references].sort().join(',')}`
}

/** Public keys by name. */
export type Keys = ReadonlyMap<string, KeyObject>

/** What precedes the 32 bytes of an ed25519 key in DER form (RFC 8410, section 4). */
const DER_HEAD = Buffer.from('302a300506032b6570032100', 'hex')

/**
 * The keys Nix believes, out of `trusted-public-keys` and the like: of two with the same name, the
 * first (keys.cc: emplace). An invalid key still claims its name: a later key with that name must
 * not be believed in its place.
 * @param texts each `NAME:BASE64`, in Nix's order
 */
export function readKeys(texts: readonly string[]): Keys {
  const keys = new Map<string, KeyObject>()
  const seen = new Set<string>()
  for (const text of texts) {
    const at = text.indexOf(':')
    const name = text.slice(0, at)
    if (at <= 0 || seen.has(name)) continue
    seen.add(name)
    const bytes = Buffer.from(text.slice(at + 1), 'base64')
    if (bytes.length === 32) keys.set(name, createPublicKey({ key: Buffer.concat([DER_HEAD, bytes]), format: 'der', type: 'spki' }))
  }
  return keys
}

/**
 * Whether one of the signatures was made by one of the keys over exactly this. Off the main thread,
 * since each takes a tenth of a millisecond: ask about many paths at once.
 */
export async function signedBy(keys: Keys, vouched: Vouched, signatures: readonly string[]): Promise<boolean> {
  if (!/^[0-9a-f]{64}$/.test(vouched.hash) || !Number.isSafeInteger(vouched.size)) return false
  const text = Buffer.from(fingerprint(vouched))
  for (const signature of signatures) {
    const at = signature.indexOf(':')
    const key = keys.get(signature.slice(0, at))
    const bytes = Buffer.from(signature.slice(at + 1), 'base64')
    if (key !== undefined && bytes.length === 64 && (await isSignature(text, key, bytes))) return true
  }
  return false
}

const isSignature = (text: Buffer, key: KeyObject, signature: Buffer): Promise<boolean> =>
  new Promise((resolve, reject) => verify(null, text, key, signature, (error, is) => (error ? reject(error) : resolve(is))))

/**
 * The store path for a type, hash and name: the hash of all of them, folded to 20 bytes, and the
 * name.
 */
function storePath(type: string, hash: string, name: string): string {
  const digest = createHash('sha256').update(`${type}:sha256:${hash}:${storeDir}:${name}`).digest()
  const folded = Buffer.alloc(20)
  for (const [at, byte] of digest.entries()) folded[at % 20] = (folded[at % 20] ?? 0) ^ byte
  return `${storeDir}/${base32(folded)}-${name}`
}

/** Bytes of each kind of hash that `fixed:` may have. */
const HASHES: Readonly<Record<string, number>> = { md5: 16, sha1: 20, sha256: 32, sha512: 64 }

/**
 * Whether a path's name follows from its content address, so it needs no signature.
 * @param contentAddress `text:sha256:HASH`, `fixed:sha256:HASH` or `fixed:r:sha256:HASH`; for
 *   anything else (a git tree, '') the answer is no
 */
export function provenByName(path: string, references: readonly string[], contentAddress: string): boolean {
  const [, method = '', algorithm = '', text = ''] =
    /^(text:|fixed:|fixed:r:)(md5|sha1|sha256|sha512):([0-9a-z]+)$/.exec(contentAddress) ?? []
  const hash = hashBytes(text, HASHES[algorithm] ?? 0)?.toString('hex')
  const name = path.slice(storeDir.length + 34)
  if (!hash || !path.startsWith(`${storeDir}/`) || name === '') return false
  const others = [...new Set(references)].filter((reference) => reference !== path).sort()
  const itself = references.includes(path)
  const list = others.map((reference) => `:${reference}`).join('')
  if (method === 'text:') return algorithm === 'sha256' && !itself && path === storePath(`text${list}`, hash, name)
  if (method === 'fixed:r:' && algorithm === 'sha256') return path === storePath(`source${list}${itself ? ':self' : ''}`, hash, name)
  if (references.length > 0) return false
  const inner = createHash('sha256')
    .update(`fixed:out:${method.slice(6)}${algorithm}:${hash}:`)
    .digest('hex')
  return path === storePath('output:out', inner, name)
}
