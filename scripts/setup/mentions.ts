// Finds lines of nix.conf outside our block that name what undo removes: the block without its
// markers, or lines added by hand. Builds fail as soon as their programs are gone. Pure.
import { dirname, resolve } from 'node:path'
import { parseNixConf, type ReadFile } from '../nix/nix-conf.ts'
import { FALLBACK_LINE, hookOf, linesOf, withoutBlock } from './conf.ts'

/** What undo removes. */
export interface Removed {
  /** The substituters' program; undefined if it stays. */
  connect: string | undefined
  /** Our hooks: the program, and the script that also calls the earlier hook. */
  hooks: string[]
  /** The earlier hook, which that script calls. */
  formerHook: string | undefined
  secretKey: string
  publicKeys: string[]
  /** Directories removed with everything in them. */
  directories: string[]
}

/** A line of a file, for messages. */
export interface Line {
  file: string
  number: number
  text: string
}

/** What must change in the files that make up nix.conf. */
export interface Cleaning {
  /** The new texts, by path; only of files that change. */
  texts: Map<string, string>
  /** The lines to remove, entirely or in part. */
  lines: Line[]
  /** Lines that name what is removed in a way undo can't take apart. */
  unclear: Line[]
}

const SUBSTITUTERS = ['substituters', 'trusted-substituters', 'binary-caches', 'trusted-binary-caches']
const PUBLIC_KEYS = ['trusted-public-keys', 'binary-cache-public-keys']

/** Deeper includes must be a loop. */
const MAX_INCLUDES = 20

/**
 * Finds the lines, in nix.conf and everything it includes.
 * @param top where Nix starts reading
 */
export function cleaningOf(top: string, read: ReadFile, removed: Removed): Cleaning {
  const cleaning: Cleaning = { texts: new Map(), lines: [], unclear: [] }
  const seen = new Set<string>()
  const visit = (file: string, depth: number): void => {
    const text = seen.has(file) || depth > MAX_INCLUDES ? undefined : read(file)
    if (text === undefined) return
    seen.add(file)
    const rest = cleaned(text, file, removed, cleaning)
    if (rest !== text) cleaning.texts.set(file, rest)
    for (const line of text.split('\n')) {
      const [, path] = /^\s*!?include\s+(\S+)/.exec(line) ?? []
      if (path) visit(resolve(dirname(file), path), depth + 1)
    }
  }
  visit(top, 0)
  return cleaning
}

/** The text without our block and without the lines that name what is removed. */
function cleaned(text: string, file: string, removed: Removed, { lines, unclear }: Cleaning): string {
  let above = false // whether the line above is removed
  const kept = linesOf(text, file).flatMap(({ number, text: line, ours }) => {
    if (ours) return []
    // The last line of our block, which by itself names nothing of ours.
    const rest = above && line === FALLBACK_LINE ? undefined : restOf(line, removed)
    above = rest === undefined
    if (rest !== line) (rest === null ? unclear : lines).push({ file, number, text: line })
    return rest === undefined ? [] : [rest ?? line]
  })
  return withFormerHook(kept.join('\n'), withoutBlock(text, file), file, removed)
}

/** @returns what is left of the line; undefined if nothing, null if it can't be taken apart */
function restOf(line: string, removed: Removed): string | undefined | null {
  const [body = ''] = line.split('#')
  const [key = '', equals = '', ...values] = body.split(/[ \t\r]+/).filter(Boolean)
  const setting = key.replace(/^extra-/, '')
  const goes = equals === '=' ? wordsThatGo(setting, values, removed) : []
  const kept = values.filter((value) => !goes.includes(value))
  if ([key, equals, ...kept].some((word) => names(word, removed))) return null
  if (goes.length === 0) return line
  const replaces = key === setting && (SUBSTITUTERS.includes(setting) || PUBLIC_KEYS.includes(setting))
  if (kept.length === 0 && !replaces) return undefined
  const comment = line.slice(body.length)
  return `${/^\s*/.exec(line)?.[0] ?? ''}${[key, '=', ...kept].join(' ')}${comment && ` ${comment}`}`
}

function wordsThatGo(setting: string, values: string[], { connect, hooks, secretKey, publicKeys }: Removed): string[] {
  if (SUBSTITUTERS.includes(setting)) return values.filter((url) => connect !== undefined && programOf(url) === connect)
  if (PUBLIC_KEYS.includes(setting)) return values.filter((key) => publicKeys.includes(key))
  if (setting === 'secret-key-files') return values.filter((file) => file === secretKey)
  return setting === 'post-build-hook' && values.length === 1 && hooks.includes(values[0] ?? '') ? values : []
}

/** The program that a store URL starts; Nix reads `+` literally and %20 as a space. */
function programOf(url: string): string | undefined {
  const [, value] = /[?&]remote-program=([^&]*)/.exec(url) ?? []
  try {
    return value === undefined ? undefined : decodeURIComponent(value).split(' ')[0]
  } catch {
    return undefined
  }
}

/** Whether a word names something that is removed. */
function names(word: string, { connect, hooks, directories, secretKey }: Removed): boolean {
  const paths = [...(connect === undefined ? [] : [connect]), ...hooks, secretKey]
  const found = (path: string, end: string): boolean => new RegExp(`(^|[^A-Za-z0-9._-])${escaped(path)}${end}`).test(word)
  return paths.some((path) => found(path, '($|[^A-Za-z0-9._/-])')) || directories.some((path) => found(path, '/'))
}

const escaped = (text: string): string => text.replace(/[^A-Za-z0-9/]/g, '\\$&')

/** Keeps the hook that ours called as the hook. */
function withFormerHook(text: string, before: string, file: string, { formerHook }: Removed): string {
  const hook = (of: string): string => hookOf(parseNixConf(of, file, () => undefined))
  if (formerHook === undefined || hook(before) === hook(text) || hook(text) === formerHook) return text
  return `${text}${text === '' || text.endsWith('\n') ? '' : '\n'}post-build-hook = ${formerHook}\n`
}
