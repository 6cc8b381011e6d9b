// Our block in nix.conf: what stands in it, and how it gets in and out of the text. Pure.

import { Failure } from '../cli/errors.ts'
import { quote } from '../cli/text.ts'
import { type Assignment, parseNixConf, type ReadFile, substitutersOf, valuesOf } from '../nix/nix-conf.ts'

const BEGIN = '# nix-lan begin'
const END = '# nix-lan end'

/** The key of a box's or our own trust, under its two names (src/libstore/globals.hh, 2.4 to 2.34). */
const TRUSTED_KEYS = new Set(['trusted-public-keys', 'binary-cache-public-keys'])
const SECRET_KEYS = new Set(['secret-key-files'])

/** What nix.conf shall have in force. */
export interface Needs {
  /** A store URL for each cache, and the socket by which one that was put there by hand is known. */
  substituters: { url: string; socket: string }[]
  publicKeys: string[]
  /** The key to sign with, when nix.conf names none. */
  secretKey: string
  hook: string
}

/**
 * The text without our block.
 * @param file for the message
 * @throws Failure when the block has no end: what follows it may be the user's
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

/** The text with these lines as our block at its end, wherever the block was before: a later line would win over it. */
export function withBlock(text: string, lines: readonly string[], file: string): string {
  const rest = withoutBlock(text, file)
  if (lines.length === 0) return rest
  const joint = rest === '' || rest.endsWith('\n') ? '' : '\n'
  return `${rest}${joint}${[`${BEGIN}: written by \`nix-lan setup\`, taken out by \`nix-lan setup --undo\``, ...lines, END].join('\n')}\n`
}

/** The settings that the block has to make, given what all files say without it. What is right already is left out. */
export function blockLines(needs: Needs, assignments: Assignment[]): string[] {
  const urls = substitutersOf(assignments)
  const keys = trustedKeys(assignments)
  const lacking = needs.substituters.filter(({ socket }) => !urls.some((url) => isConnect(url, socket))).map(({ url }) => url)
  const untrusted = needs.publicKeys.filter((key) => !keys.includes(key))
  return [
    lacking.length > 0 ? `extra-substituters = ${lacking.join(' ')}` : '',
    untrusted.length > 0 ? `extra-trusted-public-keys = ${untrusted.join(' ')}` : '',
    secretKeys(assignments).length > 0 ? '' : `secret-key-files = ${needs.secretKey}`,
    hookOf(assignments) === needs.hook ? '' : `post-build-hook = ${needs.hook}`,
  ].filter((line) => line !== '')
}

/** Whether a substituter is nix-lan-connect with this socket. */
function isConnect(url: string, socket: string): boolean {
  return /[?&]remote-program=[^&]*nix-lan-connect(%20|\+| )/.test(url) && url.replaceAll('%2B', '+').includes(socket)
}

/** The public keys that are believed. */
export const trustedKeys = (assignments: Assignment[]): string[] => valuesOf(assignments, TRUSTED_KEYS, [])

/** The keys that Nix signs with. */
export const secretKeys = (assignments: Assignment[]): string[] => valuesOf(assignments, SECRET_KEYS, [])

/** The hook in force; '' for none. */
export const hookOf = (assignments: Assignment[]): string =>
  assignments
    .filter(({ key }) => key === 'post-build-hook')
    .at(-1)
    ?.values.join(' ') ?? ''

/**
 * What is not in force though the block says it, since something after the block takes it back: only where the block's file is
 * included by another (2.16 to 2.18 apply an included file first of all; src/libutil/config.cc, applyConfig).
 * @returns undefined when all is well, else what to mend
 */
export function shadowed(needs: Needs, assignments: Assignment[]): string | undefined {
  const [line] = blockLines(needs, assignments)
  if (line === undefined) return undefined
  const key = (line.split(' ')[0] ?? '').replace(/^extra-/, '')
  const culprit = assignments.filter((assignment) => assignment.key === key).at(-1)
  const where = culprit?.where ?? 'a file that Nix reads later'
  return `${where} sets ${key} after our block, which takes it back; move that line in front of the include, or make it extra-${key}`
}

/** All that the system's files say when one of them has another text. */
export function assignmentsWith(top: string, file: string, text: string, read: ReadFile): Assignment[] {
  const reader: ReadFile = (path) => (path === file ? text : read(path))
  return parseNixConf(reader(top) ?? '', top, reader)
}

const BOTH = '#!/bin/sh\n# Written by `nix-lan setup`'

/** The hook of before in the text of such a script (see bothHooks); undefined for any other. */
export function formerIn(text: string): string | undefined {
  const [, word] = text.startsWith(BOTH) ? (/^exec '(.*)'$/m.exec(text) ?? []) : []
  return word?.replaceAll(`'\\''`, "'")
}

/**
 * A script that calls our hook and the one that was there before. Ours goes first: it never fails, and is done in a few milliseconds. Then the
 * other one becomes the hook, with its own exit code: if that failed builds before, it still does.
 */
export function bothHooks(ours: string, former: string): string {
  return `${BOTH}: nix.conf had a post-build-hook already, so that both are called. nix-lan's never fails a build.
${quote(ours)}
exec ${quote(former)}
`
}
