// How programs around ssh are started: as ourselves or, when root asks, as the user whose keys and
// agent are meant.
import { type Outcome, type RunOptions, run } from '../system/exec.ts'
import { searchEnv } from '../system/search-path.ts'

/** Starts a program and waits for it; never throws, see run(). */
export type Start = (argv: string[], options: RunOptions) => Promise<Outcome>

/** Starts it as ourselves. Drops BASH_ENV and ENV, which bash would read before anything else. */
export const startPlain: Start = ([program = '', ...args], options) =>
  run(program, args, { env: { ...searchEnv(), BASH_ENV: undefined, ENV: undefined }, ...options })
