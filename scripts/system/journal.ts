// Finds out whether our output goes to the journal: then a systemd unit started us, and nobody is
// waiting for an answer.
import { fstatSync } from 'node:fs'

/**
 * Whether a file descriptor leads to the journal. That JOURNAL_STREAM is set proves little: every
 * shell on a desktop has it (systemd.exec(5)).
 */
export function isJournal(fd: number): boolean {
  try {
    const { dev, ino } = fstatSync(fd, { bigint: true })
    return process.env.JOURNAL_STREAM === `${dev}:${ino}`
  } catch {
    return false // closed
  }
}
