// What fills a store is mostly alive: the largest roots, how much each alone keeps, and the command that lets it go. Pure; nothing here lets
// anything go.
import { shellWord } from '../cli/text.ts'
import type { Local } from './confirm.ts'

/** A path that something keeps. */
export interface Root {
  link: string
  path: string
}

/** What the links to one path keep. */
export interface Kept {
  path: string
  links: string[]
  /** Bytes of all that it refers to. */
  closure: number
  /** Bytes of what nothing else keeps. */
  alone: number
}

/** More roots than that aren't weighed one by one: each costs a walk through its closure. */
const MOST_ROOTS = 2000

/**
 * The roots by what each alone keeps, the largest first.
 * @param infos of all that is alive
 */
export function weigh(roots: readonly Root[], infos: ReadonlyMap<string, Local>): Kept[] {
  const links = new Map<string, string[]>()
  for (const { link, path } of roots) {
    const list = links.get(path)
    if (list) list.push(link)
    else links.set(path, [link])
  }
  const closures = new Map([...links.keys()].slice(0, MOST_ROOTS).map((path) => [path, closureIn(path, infos)]))
  const keepers = new Map<string, number>()
  for (const closure of closures.values()) for (const path of closure) keepers.set(path, (keepers.get(path) ?? 0) + 1)
  const size = (path: string): number => infos.get(path)?.size ?? 0
  const kept = [...closures].map(([path, closure]): Kept => {
    const all = [...closure]
    const sum = (paths: string[]): number => paths.reduce((total, one) => total + size(one), 0)
    return { path, links: links.get(path) ?? [], closure: sum(all), alone: sum(all.filter((one) => keepers.get(one) === 1)) }
  })
  return kept.sort((a, b) => b.alone - a.alone || b.closure - a.closure || (a.path < b.path ? -1 : 1))
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
  /** Whether it is a generation of a profile, and the present one. */
  current: boolean
}

/** How a root is let go of: a command, or in words what keeps it. */
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
