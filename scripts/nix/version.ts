// Which Nix this is, and what follows from it. Pure.

/** Which Nix: `nix (Nix) 2.26.3`, `nix (Lix, like Nix) 2.93.0`. */
export interface NixVersion {
  lix: boolean
  text: string
  major: number
  minor: number
}

/**
 * Parses the first line of `nix --version`; undefined if it isn't one. Of `nix (Determinate Nix
 * 3.8.2) 2.30.1` it is the Nix behind the parenthesis.
 */
export function parseVersion(output: string): NixVersion | undefined {
  const [, name = '', text = '', major, minor] = /^nix \(([^)]*)\) ((\d+)\.(\d+)\S*)/m.exec(output) ?? []
  if (major === undefined || minor === undefined) return undefined
  return { lix: /Lix/.test(name), text, major: Number(major), minor: Number(minor) }
}

/** Whether it is Nix (not Lix) of that version or older. */
export const upTo = (version: NixVersion, minor: number): boolean =>
  !version.lix && (version.major < 2 || (version.major === 2 && version.minor <= minor))

/** Nix up to 2.19 and Lix start a store's program through `bash -c` (src/libstore/ssh.cc). */
export const needsBash = (version: NixVersion): boolean => version.lix || upTo(version, 19)

/**
 * Whether several connections to a store make it faster: Nix from 2.24 on. Up to 2.33 it starts a
 * store's program anew for each NAR (NixOS/nix#6950, fixed by its pull request 14998 in 2.34), and
 * 2.34.8 unpacks side by side what comes over several connections: 1,000 paths of 400 MB in 5.4 s
 * instead of 7.2. 2.8.0 gains nothing. Lix 2.90 to 2.95 starts nothing anew
 * (RemoteStore::narFromPath). nix/nixos.nix judges the same of a package.
 */
export const gainsFromConnections = (version: NixVersion | undefined): boolean =>
  version !== undefined && !version.lix && !upTo(version, 23)
