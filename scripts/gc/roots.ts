// Finds what fills a store, which is mostly alive: the largest roots, how much each alone keeps,
// and the command that lets it go. Pure; lets nothing go itself.
import { shellWord } from '../cli/text.ts'
import type { Local } from './confirm.ts'

/** A path that a link keeps. */
export interface Root {
  link: string
  path: string
}

/** What the links to one path keep. */
export interface Kept {
  path: string
  links: string[]
  /** Bytes of all it refers to. */
  closure: number
  /** Bytes of what nothing else keeps. */
  alone: number
}

/** Marks what more than one root keeps. */
const SEVERAL = Symbol('several')

/**
 * The roots by what each alone keeps, the largest first.
 * @param infos of all that is alive
 * @param most return at most this many
 */
export function weigh(roots: readonly Root[], infos: ReadonlyMap<string, Local>, most: number): Kept[] {
  const links = new Map<string, string[]>()
  for (const { link, path } of roots) {
    const list = links.get(path)
    if (list) list.push(link)
    else links.set(path, [link])
  }
  const size = (path: string): number => infos.get(path)?.size ?? 0
  const alone = new Map<string, number>([...links.keys()].map((path) => [path, 0]))
  for (const [path, keeper] of keepersOf([...links.keys()], infos))
    if (typeof keeper === 'string') alone.set(keeper, (alone.get(keeper) ?? 0) + size(path))
  const largest = [...alone].sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1)).slice(0, most)
  return largest.map(([path, alone]): Kept => {
    const closure = [...closureIn(path, infos)].reduce((total, one) => total + size(one), 0)
    return { path, links: links.get(path) ?? [], closure, alone }
  })
}

/**
 * For each path the one root that keeps it, or SEVERAL. One walk serves all roots, since a path's
 * keeper changes at most twice.
 */
function keepersOf(roots: readonly string[], infos: ReadonlyMap<string, Local>): Map<string, string | typeof SEVERAL> {
  const keepers = new Map<string, string | typeof SEVERAL>()
  const todo: [string, string | typeof SEVERAL][] = roots.map((path) => [path, path])
  for (let next = todo.pop(); next !== undefined; next = todo.pop()) {
    const [path, keeper] = next
    const known = keepers.get(path)
    if (known === SEVERAL || known === keeper) continue
    const now = known === undefined ? keeper : SEVERAL
    keepers.set(path, now)
    for (const reference of infos.get(path)?.references ?? []) if (reference !== path) todo.push([reference, now])
  }
  return keepers
}

function closureIn(path: string, infos: ReadonlyMap<string, Local>): Set<string> {
  const closure = new Set([path])
  for (const one of closure) for (const reference of infos.get(one)?.references ?? []) closure.add(reference)
  return closure
}

/** What is known of a link besides its name. */
export interface LinkFacts {
  /** Whether the user may remove it. */
  own: boolean
  /** Whether it is a profile's current generation. */
  current: boolean
}

/** How to let go of a root: a command, or in words what keeps it. */
export function letGo(link: string, { own, current }: LinkFacts): string {
  const sudo = own ? '' : 'sudo '
  if (link.startsWith('{') || link.startsWith('/proc/')) return 'in use by a process'
  if (/^\/(nix\/var\/nix\/gcroots|run)\/(current|booted)-system$/.test(link)) return 'the system that runs'
  if (/\/gcroots\/nix-lan\/queue\//.test(link)) return 'waits to be uploaded: nix-lan queue upload'
  if (/\/gcroots\/nix-lan\/failed\//.test(link)) return 'could not be uploaded: nix-lan queue'
  const [, profile, generation] = /^(.*)-(\d+)-link$/.exec(link) ?? []
  if (profile !== undefined && generation !== undefined) {
    if (current) return `the present generation of ${profile}`
    return `${sudo}nix-env --profile ${shellWord(profile)} --delete-generations ${generation}`
  }
  return `${sudo}rm ${shellWord(link)}`
}
