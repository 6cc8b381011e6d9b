// Handles our block in nix.conf: its lines, and adding it to and removing it from the text. Pure.

import { Failure } from '../cli/errors.ts'
import { quote } from '../cli/text.ts'
import { connectIn } from '../config/kinship.ts'
import { type Assignment, parseNixConf, type ReadFile, substitutersOf, valuesOf } from '../nix/nix-conf.ts'

const BEGIN = '# nix-lan begin'
const END = '# nix-lan end'

/** The setting for trusted keys, under both its names (src/libstore/globals.hh, 2.4 to 2.34). */
const TRUSTED_KEYS = new Set(['trusted-public-keys', 'binary-cache-public-keys'])
const SECRET_KEYS = new Set(['secret-key-files'])

/** Where Nix's settings are, and how to read them. */
export interface ConfFile {
  /** The file that Nix reads first. */
  top: string
  /** The file for our block, by the name Nix uses. */
  named: string
  /** The same file with links resolved: the one to write. */
  file: string
  read: ReadFile
}

/** Survives losing a box in mid-download: Nix builds the path. */
export const FALLBACK_LINE = 'fallback = true'

/** What nix.conf must set. */
export interface Needs {
  /** A store URL for each cache, and the sockets that identify one added by hand. */
  substituters: { url: string; sockets: string[] }[]
  publicKeys: string[]
  /** The key to sign with if nix.conf names none. */
  secretKey: string
  hook: string
  /** Whether to set `fallback = true` if no file sets it. */
  fallback: boolean
}

/** Builds what can't be fetched; under both its names (src/libstore/globals.hh, 2.4 to 2.34). */
const FALLBACK = new Set(['fallback', 'build-fallback'])

/**
 * The text without our block.
 * @param file for the message
 * @throws Failure if the block has no end: the lines after it may be the user's
 */
export function withoutBlock(text: string, file: string): string {
  const lines = text.split('\n')
  const begin = lines.findIndex((line) => line.startsWith(BEGIN))
  if (begin < 0) return text
  const end = lines.findIndex((line, i) => i > begin && line.startsWith(END))
  if (end < 0) throw new Failure(`${file}:${begin + 1}: "${BEGIN}" without a line "${END}" after it; remove what setup wrote there by hand`)
  lines.splice(begin, end - begin + 1)
  return withoutBlock(lines.join('\n'), file)
}

/**
 * A line of nix.conf: its number, from 1, and whether it belongs to our block, markers included.
 */
export interface ConfLine {
  number: number
  text: string
  ours: boolean
}

/**
 * All lines of a text.
 * @throws Failure for a block without an end
 */
export function linesOf(text: string, file: string): ConfLine[] {
  withoutBlock(text, file) // throws
  let inside = false
  return text.split('\n').map((line, index) => {
    const ours = inside || line.startsWith(BEGIN)
    inside = ours && !line.startsWith(END)
    return { number: index + 1, text: line, ours }
  })
}

/** The keys our block trusts, including those whose secret key is lost. */
export function keysInBlock(text: string, file: string): string[] {
  const inside = linesOf(text, file).filter(({ ours }) => ours)
  return trustedKeysIn(inside.map((line) => line.text).join('\n'), file)
}

const trustedKeysIn = (text: string, file: string): string[] =>
  valuesOf(
    parseNixConf(text, file, () => undefined),
    TRUSTED_KEYS,
    [],
  )

/** The text with these lines as our block, always at the end, where no later line overrides it. */
export function withBlock(text: string, lines: readonly string[], file: string): string {
  const rest = withoutBlock(text, file)
  if (lines.length === 0) return rest
  const joint = rest === '' || rest.endsWith('\n') ? '' : '\n'
  return `${rest}${joint}${[`${BEGIN}: written by \`nix-lan setup\`, taken out by \`nix-lan setup --undo\``, ...lines, END].join('\n')}\n`
}

/** The lines the block needs, given what all files set without it. Omits what is already right. */
export function blockLines(needs: Needs, assignments: Assignment[]): string[] {
  const urls = substitutersOf(assignments)
  const keys = trustedKeys(assignments)
  const named = urls.map((url) => connectIn(url)?.target)
  const missing = needs.substituters.filter(({ sockets }) => !sockets.some((socket) => named.includes(socket))).map(({ url }) => url)
  const untrusted = needs.publicKeys.filter((key) => !keys.includes(key))
  return [
    missing.length > 0 ? `extra-substituters = ${missing.join(' ')}` : '',
    untrusted.length > 0 ? `extra-trusted-public-keys = ${untrusted.join(' ')}` : '',
    secretKeys(assignments).length > 0 ? '' : `secret-key-files = ${needs.secretKey}`,
    hookOf(assignments) === needs.hook ? '' : `post-build-hook = ${needs.hook}`,
    needs.fallback && !assignments.some(({ key }) => FALLBACK.has(key)) ? FALLBACK_LINE : '',
  ].filter((line) => line !== '')
}

/** The trusted public keys. */
export const trustedKeys = (assignments: Assignment[]): string[] => valuesOf(assignments, TRUSTED_KEYS, [])

/** The key files that Nix signs with. */
export const secretKeys = (assignments: Assignment[]): string[] => valuesOf(assignments, SECRET_KEYS, [])

/** The hook in effect; '' for none. */
export const hookOf = (assignments: Assignment[]): string =>
  assignments
    .filter(({ key }) => key === 'post-build-hook')
    .at(-1)
    ?.values.join(' ') ?? ''

/**
 * A setting of the block that a later line overrides. Only possible if another file includes the
 * block's file (2.16 to 2.18 apply an included file before anything else; src/libutil/config.cc,
 * applyConfig).
 * @returns what to fix; undefined if nothing
 */
export function shadowed(needs: Needs, assignments: Assignment[]): string | undefined {
  const [line] = blockLines(needs, assignments)
  if (line === undefined) return undefined
  const key = (line.split(' ')[0] ?? '').replace(/^extra-/, '')
  const culprit = assignments.filter((assignment) => assignment.key === key).at(-1)
  const where = culprit?.where ?? 'a file that Nix reads later'
  return `${where} sets ${key} after our block and overrides it; move that line above the include, or make it extra-${key}`
}

/** The settings from the system's files, with this text in place of one of them. */
export function assignmentsWith({ top, named, file, read }: ConfFile, text: string): Assignment[] {
  const reader: ReadFile = (path) => (path === named || path === file ? text : read(path))
  return parseNixConf(reader(top) ?? '', top, reader)
}

const BOTH = '#!/bin/sh\n# Written by `nix-lan setup`'

/** The earlier hook in the text of a script that bothHooks wrote; undefined for any other text. */
export function formerIn(text: string): string | undefined {
  const [, word] = text.startsWith(BOTH) ? (/^exec '(.*)'$/m.exec(text) ?? []) : []
  return word?.replaceAll(`'\\''`, "'")
}

/**
 * A script that calls our hook and the one nix.conf had before. Ours runs first: it never fails and
 * takes a few milliseconds. Then the script becomes the other hook, whose exit code still counts.
 */
export function bothHooks(ours: string, former: string): string {
  return `${BOTH}: nix.conf already had a post-build-hook, so this calls both. nix-lan's never fails a build.
${quote(ours)}
exec ${quote(former)}
`
}
