// nix-lan doctor: checks every link between a build here and the box, in order, and says how to fix
// what is wrong. Changes nothing except for its round trip's path, which it removes again.
import { parse } from '../cli/command.ts'
import { UsageError } from '../cli/errors.ts'
import { calledAs } from '../cli/sudo.ts'
import { namedCache } from '../config/config.ts'
import type { Config } from '../config/types.ts'
import { mustBeUser } from '../config/user.ts'
import type { Facts } from '../doctor/facts.ts'
import { effectiveUid, findUser } from '../system/users.ts'

export const help = `nix-lan doctor: find what is wrong and what fixes it

Usage: nix-lan doctor [--offline] [--json] [CACHE]

Checks every link in order: the configuration, Nix, its settings, the programs
that root runs, the units, the queue; then for each box its name, port, login
and nix-daemon, and the tunnel; last a round trip: it builds a tiny path,
uploads it, deletes it, fetches it back with its signature required, and
removes it everywhere. Checks that need something that failed are skipped.

Run it as yourself. With sudo it also sees the secret key and the environment of
nix-daemon; what only your own session can see is then shown as your word.

Options:
      --offline  use no network, and skip what takes long
      --json     print the answer for scripts, see below
  -h, --help     show this
      --version  show the version

With --json, a list with an object for each check:
  check  what was checked
  cache  of which cache; missing: it is about the machine as a whole
  state  ok, warning, failed or skipped
  found  what was found
  fix    what fixes it: a command, words, or null

Exit code: 0 nothing failed (there may be warnings); 1 something did; 2 wrong
usage.

Examples:
  nix-lan doctor
  nix-lan doctor --offline rpi
  nix-lan doctor --json | jq '.[] | select(.state == "failed")'
`

/** The subcommand. @param argv what follows `doctor` @returns the exit code */
export async function doctor(argv: string[]): Promise<number> {
  const options = parse(argv, { boolean: ['json', 'offline'] })
  const [name, another] = options.words
  if (another !== undefined) throw new UsageError('one cache at a time, or all of them; see --help')
  const uid = effectiveUid()
  const { gatherFacts } = await import('../doctor/facts.ts')
  const facts = gatherFacts(uid, findUser(uid)?.name ?? String(uid))
  if (facts.config && name !== undefined) namedCache(facts.config, name)
  const call: Call = { facts, name, json: options.flag('json'), offline: options.flag('offline') }
  if (!facts.config || facts.config.uid === uid) return await here(call)
  if (uid !== 0) mustBeUser(facts.config, 'the queue, the tunnel and the ssh key are', 'nix-lan doctor')
  return await asRoot(call, facts.config, argv)
}

/** What the doctor was called with. */
interface Call {
  facts: Facts
  name: string | undefined
  json: boolean
  offline: boolean
}

async function here({ facts, name, json, offline }: Call): Promise<number> {
  const { exitCodeOf, runChecks } = await import('../doctor/check.ts')
  const { allChecks } = await import('../doctor/checks.ts')
  const { Screen } = await import('../doctor/screen.ts')
  const { askAhead } = await import('../doctor/facts.ts')
  askAhead(facts)
  const screen = new Screen(json)
  const clean: (() => Promise<void>)[] = []
  const sweep = sweeper(clean, () => screen.silence())
  try {
    const checks = allChecks(facts, chosen(facts.config, name), calledAs(), clean)
    const findings = await runChecks(checks, {
      offline,
      starts: (check) => screen.starts(check),
      ended: (finding) => screen.ended(finding),
    })
    screen.conclude(findings)
    return exitCodeOf(findings)
  } finally {
    await sweep()
  }
}

/** Cleans up once, even when a signal ends us in the middle of a round trip. */
function sweeper(clean: readonly (() => Promise<void>)[], interrupted: () => void): () => Promise<void> {
  let swept: Promise<void> | undefined
  const all = async (): Promise<void> => {
    for (const sweep of clean) await sweep()
  }
  const sweep = (): Promise<void> => {
    swept ??= all()
    return swept
  }
  for (const [signal, code] of [['SIGINT', 130] as const, ['SIGTERM', 143] as const, ['SIGHUP', 129] as const]) {
    process.once(signal, () => {
      interrupted()
      void sweep().finally(() => process.exit(code))
    })
  }
  return sweep
}

/** Runs every check as the user, and shows the results beside what root sees itself. */
async function asRoot({ facts, name, json, offline }: Call, config: Config, argv: readonly string[]): Promise<number> {
  const { exitCodeOf, runChecks } = await import('../doctor/check.ts')
  const { askAsUser, withWords } = await import('../doctor/as-root.ts')
  const { allChecks, rootsFixes } = await import('../doctor/checks.ts')
  const { Screen } = await import('../doctor/screen.ts')
  const told = await askAsUser(config, argv, calledAs())
  const checks = withWords(allChecks(facts, chosen(config, name), calledAs(), []), told, config.user, rootsFixes(facts, calledAs()))
  const screen = new Screen(json)
  const findings = await runChecks(checks, { offline, starts: (check) => screen.starts(check), ended: (finding) => screen.ended(finding) })
  screen.conclude(findings)
  return exitCodeOf(findings)
}

/** The caches to check; none without a configuration. */
function chosen(config: Config | undefined, name: string | undefined): Config['caches'] {
  if (!config) return []
  return name === undefined ? config.caches : [namedCache(config, name)]
}
