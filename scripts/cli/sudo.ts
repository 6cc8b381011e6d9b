// Spells the sudo commands we tell people to type, so that their sudo finds nix-lan.
import { dirname, resolve } from 'node:path'
import { shellWord } from './text.ts'

/**
 * Directories every sudo searches. secure_path may lack /usr/local/bin, as Debian testing's did in
 * November 2026.
 */
const EVERYWHERE = ['/usr/bin', '/run/current-system/sw/bin']

/** The name this program was called by, not the file behind the links. */
export const calledAs = (): string => resolve(process.env.NIX_LAN_CALLED_AS ?? process.argv[1] ?? '')

/**
 * Gives our programs their full path in each `sudo nix-lan` and `sudo -u USER nix-lan` of a text,
 * unless every sudo finds them. Where this machine's sudo looks is in sudoers(5), which only root
 * may read.
 * @param program how one of our programs was called
 */
export function sudoFinds(text: string, program = calledAs()): string {
  const directory = dirname(program)
  if (EVERYWHERE.includes(directory)) return text
  return text.replace(
    /\b(sudo (?:-u \S+ )?)(nix-lan(?:-[a-z]+)?)(?=\s|$)/g,
    (_, sudo: string, name: string) => sudo + shellWord(`${directory}/${name}`),
  )
}
