// What Nix was told of paths whose NARs it hasn't asked for yet: a NAR is held against it.
import { fieldsOf } from '../protocol/operations.ts'

/** Bytes of the NAR, and its SHA-256 in base 16. */
export interface Promised {
  size: number
  hash: string
}

/**
 * Maximum remembered: a dry run asks about thousands of paths and fetches none. What is forgotten
 * is asked again.
 */
const MOST = 10_000

export class Promises {
  private readonly answers = new Map<string, Buffer>()

  /** Nix is given this answer about a path, from "I have it" on. */
  made(path: string, answer: Buffer): void {
    this.answers.delete(path)
    this.answers.set(path, answer)
    if (this.answers.size <= MOST) return
    for (const oldest of this.answers.keys()) {
      this.answers.delete(oldest)
      break
    }
  }

  /** Nix asks for the NAR. @returns undefined: not known what it was told, or by another process */
  due(path: string): Promised | undefined {
    const answer = this.answers.get(path)
    if (!answer) return undefined
    this.answers.delete(path)
    return promisedBy(answer)
  }
}

/** @param answer to QueryPathInfo, from "I have it" on */
export function promisedBy(answer: Buffer): Promised {
  const { size, hash } = fieldsOf(answer)
  return { size, hash }
}
