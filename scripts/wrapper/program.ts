// Which program nix-lan-run becomes: its command line, and the search through PATH that passes over
// nix-lan-run itself under the command's name.
import { accessSync, closeSync, constants, openSync, readSync, statSync } from 'node:fs'
import { basename } from 'node:path'
import { realPath } from '../system/files.ts'

/** What a file is to a search for a command. */
export type Candidate = 'absent' | 'directory' | 'not executable' | 'ourselves' | 'program' | 'script'

/** The program that a name means. */
export type Found = { ok: true; program: string; script: boolean } | { ok: false; code: 126 | 127; reason: string }

/**
 * The program that a shell would start for this name, except that nix-lan-run itself under that
 * name is passed over.
 * @param path PATH; its empty entries mean the working directory
 */
export function findCommand(name: string, path: string, classify: (file: string) => Candidate): Found {
  const byPath = name.includes('/')
  const files = byPath ? [name] : path.split(':').map((directory) => `${directory || '.'}/${name}`)
  let refused: string | undefined
  for (const file of files) {
    const is = classify(file)
    // By its own path, nix-lan-run under another name is what was asked for: it finds the next one.
    if (is === 'program' || is === 'script' || (is === 'ourselves' && byPath)) return { ok: true, program: file, script: is !== 'program' }
    if (is === 'not executable') refused ??= `${file}: Permission denied`
    if (is === 'directory' && byPath) refused ??= `${file}: Is a directory`
  }
  if (refused !== undefined) return { ok: false, code: 126, reason: refused }
  return { ok: false, code: 127, reason: byPath ? `${name}: No such file or directory` : `${name}: command not found` }
}

/**
 * What nix-lan-run's own arguments ask for, and how many arguments stand before the command's own.
 */
export interface Invocation {
  own: string[]
  command: string | undefined
  /** How many arguments to drop so that the command's are left. */
  shift: number
}

/**
 * Reads the command line. Under another name than nix-lan-run it is that command, and every
 * argument is the command's.
 * @param self the name by which it was called, without directories
 */
export function readInvocation(self: string, argv: string[]): Invocation {
  // Unbundled (`deno run -A scripts/bin/nix-lan-run.ts`) it is nix-lan-run too.
  if (self !== 'nix-lan-run' && !self.endsWith('.ts')) return { own: [], command: self, shift: 0 }
  let at = argv.findIndex((argument) => argument === '--' || !argument.startsWith('-'))
  if (at < 0) at = argv.length
  const own = argv.slice(0, at)
  if (argv[at] === '--') at++
  return { own, command: argv[at], shift: at + 1 }
}

/**
 * Whether a script starts nix-lan-run with its own name as the command: running it would come back
 * here for ever.
 */
export function callsUsFor(name: string, text: string): boolean {
  const word = name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  return new RegExp(`nix-lan-run["']?[ \\t]+(?:--[ \\t]+)?["']?${word}(?![\\w.-])`).test(text)
}

/** The program of that name in our PATH. */
export function findProgram(name: string): Found {
  // Without PATH, what sh takes (dash's default).
  const path = process.env.PATH ?? '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
  return findCommand(name, path, (file) => classifyFile(file, name))
}

/**
 * Whether a file can be run, and whether it is nix-lan-run: this file, a copy, or a script that
 * would come back here.
 */
function classifyFile(file: string, name: string): Candidate {
  try {
    const stat = statSync(file)
    if (stat.isDirectory()) return 'directory'
    if (!stat.isFile()) return 'absent'
  } catch {
    return 'absent'
  }
  try {
    accessSync(file, constants.X_OK)
  } catch {
    return 'not executable'
  }
  const text = beginning(file)
  if (realPath(file) === realPath(process.argv[1] ?? '')) return 'ourselves'
  if (!text.startsWith('#!')) return 'program'
  return text.startsWith(`#!/bin/sh\n':' // nix-lan-run;`) || callsUsFor(basename(name), text) ? 'ourselves' : 'script'
}

/** The first 4 KiB of a file; '' for one that may be run but not read. */
function beginning(file: string): string {
  try {
    const fd = openSync(file, 'r')
    const buffer = Buffer.alloc(4096)
    const length = readSync(fd, buffer, 0, buffer.length, 0)
    closeSync(fd)
    return buffer.toString('latin1', 0, length)
  } catch {
    return ''
  }
}
