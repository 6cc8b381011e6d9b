// Small helpers for files. Never changes one.
import { realpathSync } from 'node:fs'

/** The path with all symlinks resolved; unchanged if there is no such file. */
export function realPath(path: string): string {
  try {
    return realpathSync(path)
  } catch {
    return path
  }
}
