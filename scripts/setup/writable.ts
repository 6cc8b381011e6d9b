// Decides whether setup may replace nix.conf, which may be a link to anywhere.
import { accessSync, constants, existsSync, lstatSync } from 'node:fs'
import { dirname } from 'node:path'
import { readText } from '../nix/nix-conf.ts'
import { storeDir } from '../nix/store-path.ts'
import { realPath } from '../system/files.ts'
import { doubtAbout } from '../system/trust.ts'
import type { ConfFile } from './conf.ts'

/**
 * Why setup must not or can't replace a file, worded to follow its name in a sentence; undefined if
 * it may. Asks without writing: access(2) detects read-only file systems and immutable files, and
 * rename(2) onto a mount point would fail with EBUSY.
 * @param named the name that may be a link to it
 * @param root whether root writes: then only to what nobody else can change
 */
export function whyNotWritten({ named, file }: Pick<ConfFile, 'named' | 'file'>, root: boolean): string | undefined {
  const link = named === file ? '' : `is a link to ${file}`
  if (inStore(file)) return `${link || 'lies in the Nix store'}${link && ', in the Nix store'}`
  const target = lstatSync(file, { throwIfNoEntry: false })
  if (link && root) {
    const doubt = doubtAbout(file)
    if (doubt) return `${link}, which somebody else can change (${doubt.why})`
  }
  if (isMountPoint(file)) return `${link && `${link}, which `}is a mount of its own`
  const problem = (target && accessProblem(file)) ?? accessProblem(nearest(dirname(file)))
  return problem && `${link && `${link}, which `}can't be written (${problem})`
}

/**
 * Where setup can't put or remove what it wants to, found without writing: the directory, or the
 * path itself if that is in the way, each once and with the reason.
 */
export function unwritable(paths: readonly string[]): string[] {
  const found = paths.flatMap((path) => {
    if (isMountPoint(path)) return [`${path} (a mount of its own)`]
    const directory = nearest(dirname(path))
    const problem = accessProblem(directory)
    return problem === undefined ? [] : [`${directory} (${problem})`]
  })
  return [...new Set(found)]
}

/** Whether a path is in the store, under any of its names. */
function inStore(path: string): boolean {
  return [storeDir, '/nix/store', realPath(storeDir)].some((store) => path.startsWith(`${store}/`))
}

/** proc_pid_mountinfo(5), field 5, which writes spaces and the like in octal. */
function isMountPoint(path: string): boolean {
  const escaped = path.replace(/[\s\\]/g, (char) => `\\${char.charCodeAt(0).toString(8).padStart(3, '0')}`)
  return (readText('/proc/self/mountinfo') ?? '').split('\n').some((line) => line.split(' ')[4] === escaped)
}

function nearest(path: string): string {
  return existsSync(path) || path === '/' ? path : nearest(dirname(path))
}

function accessProblem(path: string): string | undefined {
  try {
    accessSync(path, constants.W_OK)
    return undefined
  } catch (error) {
    return (error as NodeJS.ErrnoException).code
  }
}
