// Signs what was built on this machine before it had a key. Never signs a path that came from
// elsewhere: that is for a person to decide.
import { accessSync, constants } from 'node:fs'
import { UsageError } from '../cli/errors.ts'
import { onNixos, whatSetsUp } from '../system/nixos.ts'
import { batches, errorText, NixError, nix } from './nix.ts'
import { closureOf, type PathInfo, unsigned } from './path-info.ts'
import { setting } from './settings.ts'

/** What was signed, and what wasn't because it was built elsewhere. */
export interface Signed {
  signed: string[]
  foreign: string[]
  keyFiles: string[]
}

/** Splits the unsigned paths by whether they were built here; pure. */
export function toSign(infos: ReadonlyMap<string, PathInfo>): { own: string[]; foreign: string[] } {
  const unsignedPaths = [...infos].filter(([, info]) => unsigned(info))
  return {
    own: unsignedPaths.filter(([, info]) => info.ultimate).map(([path]) => path),
    foreign: unsignedPaths.filter(([, info]) => !info.ultimate).map(([path]) => path),
  }
}

/**
 * Signs whatever was built here and is unsigned, among the paths and everything they refer to.
 * @param keyFile use this instead of nix.conf's secret-key-files
 * @throws UsageError without a key or with an unreadable one, NixError if Nix refuses
 */
export async function signClosures(paths: readonly string[], keyFile: string | undefined): Promise<Signed> {
  const keyFiles = keyFile === undefined ? await setting('secret-key-files') : [keyFile]
  if (keyFiles.length === 0) throw new UsageError(noKey())
  for (const file of keyFiles) mustBeReadable(file)
  const { own, foreign } = toSign((await closureOf(paths)).infos)
  await sign(own, keyFiles)
  return { signed: own, foreign, keyFiles }
}

/**
 * Signs these paths, but nothing they refer to, with each of the keys.
 * @throws NixError if Nix refuses
 */
export async function sign(paths: readonly string[], keyFiles: readonly string[]): Promise<void> {
  for (const file of keyFiles)
    for (const batch of batches(paths)) {
      const outcome = await nix(['store', 'sign', '--key-file', file, ...batch])
      if (outcome.code !== 0) throw new NixError(`signing with ${file} failed: ${errorText(outcome.stderr)}`)
    }
}

function mustBeReadable(file: string): void {
  try {
    accessSync(file, constants.R_OK)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    const way = code === 'EACCES' ? '; run it with sudo' : ''
    throw new UsageError(`the key ${file} can't be read (${code})${way}`)
  }
}

/**
 * Where nix.conf names no key. Never suggests a command that makes one: one may exist, and a new one
 * with the same name would void what the old one signed. The module and setup use what is there.
 */
export function noKey(nixos = onNixos()): string {
  const byHand = nixos ? '' : ' (by hand: docs/by-hand.md)'
  return `there is no key to sign with: nix.conf sets no secret-key-files; ${whatSetsUp(nixos)} makes a key or uses the one that is there${byHand}`
}
