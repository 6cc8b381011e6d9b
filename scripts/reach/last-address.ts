// Remembers the address at which a cache was last reached, in the user's runtime directory. Uses
// only a directory of our own: root reads nothing in a user's, and nothing is trusted that others
// could have written.
import { lstatSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { runtimeDir } from '../system/paths.ts'
import { isAddress } from './connect-race.ts'

export interface Memory {
  /** The address of last time, if known. */
  address: string | undefined
  /** Remembers another address. A full or read-only disk is no failure, only a slower next time. */
  keep(address: string): void
}

/**
 * What is remembered about a cache; undefined when there is no directory of ours to remember it in.
 * @param host what was remembered for another host doesn't count
 */
export function memoryOf(cache: string, host: string): Memory | undefined {
  const uid = process.getuid?.()
  if (uid === undefined || process.geteuid?.() !== uid) return undefined
  const directory = runtimeDir(uid)
  if (!isOurs(directory, uid)) return undefined
  const file = `${directory}/${cache}.address`
  return {
    address: recall(file, host),
    keep: (address) => write(file, `${directory}/.${cache}.address.${process.pid}`, `${host} ${address}\n`),
  }
}

function isOurs(directory: string, uid: number): boolean {
  const stat = lstatSync(directory, { throwIfNoEntry: false })
  return stat?.isDirectory() === true && stat.uid === uid && (stat.mode & 0o022) === 0
}

function recall(file: string, host: string): string | undefined {
  try {
    const [of, address = ''] = readFileSync(file, 'utf8').trim().split(' ')
    return of === host && isAddress(address) ? address : undefined
  } catch {
    return undefined // nothing remembered yet
  }
}

function write(file: string, temporary: string, text: string): void {
  try {
    writeFileSync(temporary, text, { mode: 0o600 })
    renameSync(temporary, file)
  } catch {
    // see keep
  }
}
