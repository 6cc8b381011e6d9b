// Reads the narinfo files of somebody else's HTTP caches (format: src/libstore/nar-info.cc, 2.8.0
// and 2.34.8). Believes nothing they say: confirm.ts checks the signatures.
import { hexOf } from '../nix/signature.ts'
import { storeDir } from '../nix/store-path.ts'
import type { FullInfo } from '../protocol/daemon-ops.ts'

/** Questions in flight at a time. */
const AT_ONCE = 32
/** Milliseconds for one answer. */
const LIMIT = 10_000
/** Characters in an answer: even a path with thousands of references has fewer. */
const MOST = 2 ** 20

/**
 * What the caches have of these paths; leaves out paths a cache lacks, and what can't be asked.
 * @param urls http or https
 * @param each called after each answer with the number of answers so far
 */
export async function infosOnCaches(
  urls: readonly string[],
  paths: readonly string[],
  each: (done: number) => void,
): Promise<Map<string, FullInfo>[]> {
  const found = urls.map(() => new Map<string, FullInfo>())
  const questions = urls.flatMap((url, n) => paths.map((path) => ({ url, path, into: found[n] })))
  let next = 0
  let done = 0
  const worker = async (): Promise<void> => {
    for (let at = next++; at < questions.length; at = next++) {
      const { url, path, into } = questions[at] as (typeof questions)[number]
      const info = await ask(url, path)
      if (info) into?.set(path, info)
      each(++done)
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, worker))
  return found
}

async function ask(url: string, path: string): Promise<FullInfo | undefined> {
  const hash = path.slice(storeDir.length + 1, storeDir.length + 33)
  try {
    const base = url.replace(/\?.*/, '').replace(/\/+$/, '')
    const answer = await fetch(`${base}/${hash}.narinfo`, { signal: AbortSignal.timeout(LIMIT) })
    if (!answer.ok || Number(answer.headers.get('content-length') ?? 0) > MOST) return undefined
    const text = await answer.text()
    return text.length > MOST ? undefined : parseNarInfo(text, path)
  } catch {
    return undefined // not there, or not now: it doesn't count
  }
}

/** What a narinfo says of a path; undefined if it isn't a narinfo, or is another path's. */
export function parseNarInfo(text: string, path: string): FullInfo | undefined {
  const fields = new Map<string, string>()
  const signatures: string[] = []
  for (const line of text.split('\n')) {
    const [, key, value = ''] = /^([A-Za-z]+): ?(.*)$/.exec(line) ?? []
    if (key === 'Sig') signatures.push(value)
    else if (key !== undefined && fields.has(key)) return undefined
    else if (key !== undefined) fields.set(key, value)
  }
  const hash = hexOf(fields.get('NarHash') ?? '')
  const size = Number(fields.get('NarSize') ?? '')
  if (fields.get('StorePath') !== path || hash === undefined || !Number.isSafeInteger(size) || size <= 0) return undefined
  const names = (fields.get('References') ?? '').split(' ').filter(Boolean)
  return {
    path,
    deriver: '',
    hash,
    references: names.map((name) => `${storeDir}/${name}`),
    registered: 0,
    size,
    ultimate: false,
    signatures,
    contentAddress: fields.get('CA') ?? '',
  }
}
