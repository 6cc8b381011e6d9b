// The errors that mean something to the caller: each is a line on stderr and an exit code, without
// a stack.

/** Something a person got wrong or has to fix. `exitCode` follows the table in the README. */
export class Failure extends Error {
  readonly exitCode: number
  constructor(message: string, exitCode = 1) {
    super(message)
    this.exitCode = exitCode
  }
}

/** Wrong usage or a wrong configuration: exit 2. */
export class UsageError extends Failure {
  constructor(message: string) {
    super(message, 2)
  }
}

/** A configuration that is missing, unreadable, untrustworthy or wrong: exit 2. */
export class ConfigError extends UsageError {}

/**
 * The box is away or too busy now; nothing is lost, try again later: exit 75 (EX_TEMPFAIL,
 * sysexits.h(3head)).
 */
export class Away extends Failure {
  constructor(message: string) {
    super(message, 75)
  }
}

/** What to say when a tunnel's socket doesn't exist. */
export const noTunnel = (socket: string): string => `${socket} does not exist: no tunnel; nix-lan-tunnel makes one`
