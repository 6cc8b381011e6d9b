// Commands with sudo that we tell people to type.
import { dirname, resolve } from 'node:path'
import { shellWord } from './text.ts'

/**
 * Where every sudo looks. Its secure_path need not have /usr/local/bin: Debian testing's in
 * November 2026.
 */
const EVERYWHERE = ['/usr/bin', '/run/current-system/sw/bin']

/** How this program was called: the name, not the file behind links. */
export const calledAs = (): string => resolve(process.env.NIX_LAN_CALLED_AS ?? process.argv[1] ?? '')

/**
 * A text in which each `sudo nix-lan` has the place of nix-lan, unless every sudo finds it. Only
 * root may read in sudoers(5) where this one looks.
 * @param program how one of our programs was called
 */
export function sudoFinds(text: string, program = calledAs()): string {
  const directory = dirname(program)
  return EVERYWHERE.includes(directory) ? text : text.replace(/\bsudo nix-lan(?= )/g, `sudo ${shellWord(`${directory}/nix-lan`)}`)
}
