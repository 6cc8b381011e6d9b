// Whether what we print ends in the journal: then a unit of systemd has started us, and nobody
// waits for an answer.
import { fstatSync } from 'node:fs'

/**
 * Whether a file descriptor leads to the journal. JOURNAL_STREAM alone says little: every shell of
 * a desktop has it (systemd.exec(5)).
 */
export function isJournal(fd: number): boolean {
  try {
    const { dev, ino } = fstatSync(fd, { bigint: true })
    return process.env.JOURNAL_STREAM === `${dev}:${ino}`
  } catch {
    return false // closed
  }
}
