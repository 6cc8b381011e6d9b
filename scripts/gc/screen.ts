// Formats what `nix-lan gc` shows: what goes, what stays and why, the largest roots. Pure.
import { age, bytes, count, oneLine } from '../cli/text.ts'
import type { Local } from './confirm.ts'
import { type Plan, type Reason, sizeOf } from './plan.ts'
import type { Kept } from './roots.ts'

/** Why paths stay, and what can be done about it. */
const REASONS: readonly [Reason, string][] = [
  ['missing', 'only here; gc --push uploads them first'],
  ['unwanted', 'only here, and never uploaded: derivations or exclude in config.toml'],
  ['damaged', 'damaged on the box; nix-lan queue upload replaces its copies'],
  ['unsigned', 'on the box without a signature that Nix here believes; sudo nix-lan queue sign'],
  ['different', 'the box has something else by that name'],
  ['closure', 'refer to something that the box could not give back'],
  ['not-fetched', 'built anew, never fetched (allowSubstitutes = false); gc --include-cheap'],
  ['recent', 'registered here more recently than --older-than says'],
  ['needed', 'go only with something that stays'],
  ['limit', 'more than was asked for'],
]

/** Groups of at most this many paths name them. */
const NAMED = 3

/** What stays, in groups, in display order. */
export function groupsOf(plan: Plan, dead: ReadonlyMap<string, Local>): { reason: Reason; text: string; paths: Local[] }[] {
  return REASONS.map(([reason, text]) => ({
    reason,
    text,
    paths: [...plan.stays].filter(([, why]) => why === reason).flatMap(([path]) => dead.get(path) ?? []),
  })).filter(({ paths }) => paths.length > 0)
}

/** The plan as a table. @param now seconds since 1970 @param names of the boxes that confirm */
export function planText(plan: Plan, dead: ReadonlyMap<string, Local>, names: readonly string[], now: number): string {
  const goes = plan.units.flat()
  const groups = groupsOf(plan, dead)
  const rows: [string, readonly Local[], string][] = []
  const oldest = goes[0]
  const since = oldest === undefined ? '' : `; the oldest from ${age((now - oldest.registered) * 1000)} ago`
  rows.push(['goes', goes, goes.length === 0 ? 'nothing' : `${names.join(' and ')} would give them back${since}`])
  for (const { paths, text } of groups) rows.push(['stays', paths, text])
  const amounts = rows.map(([, paths]) => [count(paths.length, 'path'), bytes(sizeOf(paths))] as const)
  const width = (column: 0 | 1): number => amounts.reduce((most, row) => Math.max(most, row[column].length), 0)
  return rows
    .map(([word, paths, text], at) => {
      const [number = '', size = ''] = amounts[at] ?? []
      const line = `${word.padEnd(5)}  ${number.padStart(width(0))}  ${size.padStart(width(1))}  ${text}\n`
      const named = word === 'stays' && paths.length <= NAMED ? paths.map(({ path }) => `         ${path}\n`) : []
      return line + named.join('')
    })
    .join('')
}

/**
 * The largest roots, each with the way to let it go. Other users of this machine choose the names
 * of theirs.
 * @param way what letGo() says of a link
 */
export function rootsText(kept: readonly Kept[], way: (link: string) => string): string {
  const shown = kept.filter(({ alone }) => alone > 0)
  if (shown.length === 0) return ''
  const lines = shown.flatMap(({ alone, closure, links }) => [
    `${bytes(alone).padStart(10)}  ${bytes(closure).padStart(10)}  ${oneLine(links[0] ?? '')}`,
    ...links.slice(0, NAMED).map((link) => `                          ${oneLine(way(link))}`),
  ])
  return `\nWhat is alive, by what each root alone keeps:\n${'ALONE'.padStart(10)}  ${'IN ALL'.padStart(10)}  ROOT\n${lines.join('\n')}\n`
}

/** A line about dead paths that aren't valid. */
export const leftoversText = (number: number): string =>
  number === 0
    ? ''
    : `${count(number, 'leftover')} in the store ${number === 1 ? 'is' : 'are'} no valid path: nix-collect-garbage removes them\n`
