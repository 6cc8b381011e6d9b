// Whole commands, measured by hyperfine inside a world: it starts them without a shell, so that
// even 1 ms is seen.
import type { User, World } from '../../nix/world.ts'
import { type Setting, size } from './bench.ts'
import { median } from './stats.ts'

/** A command, split into words as hyperfine does it (single quotes hold). */
export interface Command {
  /** The name of the way. */
  name: string
  line: string
  /** Run before each start, and not measured. */
  prepare?: string
  /** Only for this one. */
  env?: Record<string, string | undefined>
}

interface Options {
  user?: User
  env?: Record<string, string | undefined>
  /** How often everything is done in turn. */
  rounds?: number
  /** How often each command is run in a round; the round's sample is the median. */
  runs?: number
  /** Exit codes other than 0 are right, too. */
  mayFail?: boolean
}

interface Report {
  results: { times: number[]; exit_codes: number[] }[]
}

/**
 * Milliseconds of each command, by round. @throws Error when a command exits with anything but 0
 */
export async function hyperfine(
  world: World,
  setting: Setting,
  commands: readonly Command[],
  options: Options = {},
): Promise<Record<string, number[]>> {
  const rounds = size(setting, options.rounds ?? 9, 3)
  const samples: Record<string, number[]> = Object.fromEntries(commands.map(({ name }) => [name, []]))
  for (let round = 1; round <= rounds; round++) {
    setting.progress(`round ${round} of ${rounds}: ${commands.map(({ name }) => name).join(', ')}`)
    for (const { name, line, prepare, env } of commands) {
      const args = ['-N', '--style', 'none', '--warmup', round === 1 ? '2' : '1', '--runs', String(size(setting, options.runs ?? 15, 3))]
      if (prepare) args.push('--prepare', prepare)
      if (options.mayFail) args.push('--ignore-failure')
      await world.must(options.user ?? 'root', 'hyperfine', [...args, '--export-json', '/tmp/hyperfine.json', line], {
        env: { ...options.env, ...env },
      })
      const { results } = JSON.parse(world.read('/tmp/hyperfine.json')) as Report
      await world.must('root', 'rm', ['-f', '/tmp/hyperfine.json'])
      samples[name]?.push(1000 * median(results[0]?.times ?? []))
    }
  }
  return samples
}
