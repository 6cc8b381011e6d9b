// How the programs around ssh are started: by ourselves, or, for root, as the user whose keys and
// agent are meant.
import { type Outcome, type RunOptions, run } from '../system/exec.ts'
import { searchEnv } from '../system/search-path.ts'

/** Starts a program and waits for it; never throws, see run(). */
export type Start = (argv: string[], options: RunOptions) => Promise<Outcome>

/** As ourselves. bash reads BASH_ENV and ENV by itself before it does anything else. */
export const startPlain: Start = ([program = '', ...args], options) =>
  run(program, args, { env: { ...searchEnv(), BASH_ENV: undefined, ENV: undefined }, ...options })
