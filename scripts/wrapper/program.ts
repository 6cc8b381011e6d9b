// Decides which program nix-lan-run becomes: reads its command line and searches PATH, skipping
// nix-lan-run itself under the command's name.
import { accessSync, closeSync, constants, openSync, readSync, statSync } from 'node:fs'
import { basename } from 'node:path'
import { realPath } from '../system/files.ts'

/** What a file means to the search for a command. */
export type Candidate = 'absent' | 'directory' | 'not executable' | 'ourselves' | 'program' | 'script'

/** The program a name stands for. */
export type Found = { ok: true; program: string; script: boolean } | { ok: false; code: 126 | 127; reason: string }

/**
 * The program a shell would start for this name, skipping nix-lan-run itself under that name.
 * @param path PATH; its empty entries mean the working directory
 */
export function findCommand(name: string, path: string, classify: (file: string) => Candidate): Found {
  const byPath = name.includes('/')
  const files = byPath ? [name] : path.split(':').map((directory) => `${directory || '.'}/${name}`)
  let refused: string | undefined
  for (const file of files) {
    const is = classify(file)
    // Named by path, nix-lan-run under another name is what was asked for; it will find the next
    // one.
    if (is === 'program' || is === 'script' || (is === 'ourselves' && byPath)) return { ok: true, program: file, script: is !== 'program' }
    if (is === 'not executable') refused ??= `${file}: Permission denied`
    if (is === 'directory' && byPath) refused ??= `${file}: Is a directory`
  }
  if (refused !== undefined) return { ok: false, code: 126, reason: refused }
  return { ok: false, code: 127, reason: byPath ? `${name}: No such file or directory` : `${name}: command not found` }
}

/** nix-lan-run's command line, split into its own arguments and the command. */
export interface Invocation {
  own: string[]
  command: string | undefined
  /** How many arguments to drop so that only the command's are left. */
  shift: number
}

/**
 * Parses the command line. Called under another name, nix-lan-run stands for that command, and
 * every argument is the command's.
 * @param self the name it was called by, without directories
 */
export function readInvocation(self: string, argv: string[]): Invocation {
  // Unbundled (`deno run -A scripts/bin/nix-lan-run.ts`) it still is nix-lan-run.
  if (self !== 'nix-lan-run' && !self.endsWith('.ts')) return { own: [], command: self, shift: 0 }
  let at = argv.findIndex((argument) => argument === '--' || !argument.startsWith('-'))
  if (at < 0) at = argv.length
  const own = argv.slice(0, at)
  if (argv[at] === '--') at++
  return { own, command: argv[at], shift: at + 1 }
}

/**
 * Whether a script calls nix-lan-run with its own name as the command: running it would loop
 * forever.
 */
export function callsUsFor(name: string, text: string): boolean {
  const word = name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  return new RegExp(`nix-lan-run["']?[ \\t]+(?:--[ \\t]+)?["']?${word}(?![\\w.-])`).test(text)
}

/** The program of that name in our PATH. */
export function findProgram(name: string): Found {
  // Without PATH, dash's default.
  const path = process.env.PATH ?? '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
  return findCommand(name, path, (file) => classifyFile(file, name))
}

/**
 * Whether a file can be run, and whether it is nix-lan-run: this very file, a copy, or a script
 * that would call it again.
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

/** The first 4 KiB of a file; '' for one that can be run but not read. */
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
