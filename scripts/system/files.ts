// Small questions about files.
import { realpathSync } from 'node:fs'

/** The file behind all links; the path as it is when there is none. */
export function realPath(path: string): string {
  try {
    return realpathSync(path)
  } catch {
    return path
  }
}
