// Signs what was built on this machine before it had a key. Nothing else: a path that came from
// elsewhere without a signature is for a person to judge.
import { accessSync, constants } from 'node:fs'
import { UsageError } from '../cli/errors.ts'
import { batches, errorText, NixError, nix } from './nix.ts'
import { closureOf, type PathInfo, unsigned } from './path-info.ts'
import { setting } from './settings.ts'

/** What was signed, and what was left because it wasn't built here. */
export interface Signed {
  signed: string[]
  foreign: string[]
  keyFiles: string[]
}

/** Those without a signature, by whether they were built here; pure. */
export function toSign(infos: ReadonlyMap<string, PathInfo>): { own: string[]; foreign: string[] } {
  const bare = [...infos].filter(([, info]) => unsigned(info))
  return {
    own: bare.filter(([, info]) => info.ultimate).map(([path]) => path),
    foreign: bare.filter(([, info]) => !info.ultimate).map(([path]) => path),
  }
}

/**
 * Signs the paths and all they refer to, where they were built here and carry no signature.
 * @param keyFile instead of the secret-key-files of nix.conf
 * @throws UsageError without a key or with one that can't be read, NixError when Nix refuses
 */
export async function signClosures(paths: readonly string[], keyFile: string | undefined): Promise<Signed> {
  const keyFiles = keyFile === undefined ? await setting('secret-key-files') : [keyFile]
  if (keyFiles.length === 0) throw new UsageError(NO_KEY)
  for (const file of keyFiles) mustBeReadable(file)
  const { own, foreign } = toSign((await closureOf(paths)).infos)
  await sign(own, keyFiles)
  return { signed: own, foreign, keyFiles }
}

/**
 * Signs these paths, and nothing that they refer to, with each of the keys.
 * @throws NixError when Nix refuses
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

const NO_KEY = `there is no key to sign with. Make one:
  cd /etc/nix
  sudo nix-store --generate-binary-cache-key laptop-1 nix-lan.secret nix-lan.public
and name it in nix.conf, so that Nix signs each build from now on:
  secret-key-files = /etc/nix/nix-lan.secret
and, here and in the box's nix.conf, what is in nix-lan.public:
  extra-trusted-public-keys = laptop-1:…`
