// npm run bench [-- [--quick] [--list] NAME…]: measures what a user of nix-lan waits or pays for
// against what they would use instead, on the same work in the same run: interleaved rounds,
// medians, and how far the rounds lie apart. Writes docs/bench.json, docs/bench.md, the charts and
// the README's table; with some names only their rows change. Needs root and Debian's packages (it
// asks apt-get for those that are missing). --quick: each benchmark once with tiny sizes, to see
// that it works and that no ratio is beyond its wide budget; writes nothing, and ends with "N
// passed, N failed".
import { installPackages } from '../lib/apt.ts'
import { has, PACKAGES } from '../lib/needs.ts'
import type { Bench, Row, Setting } from './lib/bench.ts'
import { LINK_FILE, readResults, writeLinks, writeResults } from './lib/docs.ts'
import { describeMachine } from './lib/machine.ts'
import { merge, overBudget, type Result, resultOf } from './lib/results.ts'
import { plainTable } from './lib/tables.ts'
import { available } from './rows/available.ts'
import { away } from './rows/away.ts'
import { broker } from './rows/broker.ts'
import { builds } from './rows/builds.ts'
import { fetch } from './rows/fetch.ts'
import { gc } from './rows/gc.ts'
import { growth } from './rows/growth.ts'
import { hook } from './rows/hook.ts'
import { lab } from './rows/lab.ts'
import { lacking } from './rows/lacking.ts'
import { links } from './rows/link.ts'
import { memory } from './rows/memory.ts'
import { startup } from './rows/startup.ts'
import { status } from './rows/status.ts'
import { upload } from './rows/upload.ts'
import { wrapper } from './rows/wrapper.ts'

const BENCHES: readonly Bench[] = [
  hook,
  builds,
  lacking,
  upload,
  fetch,
  ...links,
  broker,
  away,
  wrapper,
  available,
  memory,
  status,
  gc,
  growth,
  startup,
  lab,
]

/** How often --quick measures, at the most, before a ratio beyond its budget is a failure. */
const TRIES = 3

/** The packages that only benchmarks need, by program. */
const OWN_PACKAGES: Record<string, string> = {
  hyperfine: 'hyperfine',
  socat: 'socat',
  tsp: 'task-spooler',
  sudo: 'sudo',
  valgrind: 'valgrind',
  'systemd-nspawn': 'systemd-container',
}

async function main(argv: string[]): Promise<number> {
  const quick = argv.includes('--quick')
  const names = argv.filter((word) => !word.startsWith('--'))
  const wrong = [
    ...argv.filter((word) => word.startsWith('--') && word !== '--quick' && word !== '--list'),
    ...names.filter((name) => !find(name)),
  ]
  if (wrong.length > 0 || argv.includes('--list')) {
    if (wrong.length > 0) console.error(`there is no ${wrong.join(', ')}; there are:`)
    for (const { name, title } of BENCHES) console.log(`${name.padEnd(12)} ${title}`)
    return wrong.length > 0 ? 2 : 0
  }
  const chosen = BENCHES.filter((bench) =>
    names.length > 0 ? names.some((name) => called(bench, name)) : !bench.onlyByName || (quick && bench.onlyByName === 'or quick'),
  )
  await installMissing(chosen)
  const results: Result[] = []
  const failures: string[] = []
  for (const bench of chosen) {
    let own: Result[] = []
    let beyond: string[] = []
    // the few samples of --quick may all fall into a busy moment; a mistake is there each time
    for (let tries = 1; tries <= (quick ? TRIES : 1); tries++) {
      if (tries > 1) console.log(`again, since ${beyond.join('; ')}`)
      ;[own, beyond] = [[], []]
      const errors = failures.length
      await measure(bench, quick, failures, (row) => {
        const result = resultOf(bench.name, row)
        own.push(result)
        console.log(plainTable([result], quick))
        beyond.push(...overBudget(row).map((line) => `${bench.name}: ${line}`))
      })
      if (beyond.length === 0 || failures.length > errors) break
    }
    if (quick) failures.push(...beyond)
    results.push(...own)
    // after each: a long run that is stopped has not been for nothing
    if (!quick && own.length > 0) await keep(own)
  }
  for (const failure of failures) console.log(`FAILED  ${failure}`)
  console.log(`${results.length} passed, ${failures.length} failed`)
  return failures.length > 0 ? 1 : 0
}

/**
 * A name means one, or those that begin with it: `link` all of link-2.8.0, link-2.26.3 and
 * link-2.34.8.
 */
const called = (bench: Bench, name: string): boolean => bench.name === name || bench.name.startsWith(`${name}-`)
const find = (name: string): Bench | undefined => BENCHES.find((bench) => called(bench, name))

async function installMissing(benches: readonly Bench[]): Promise<void> {
  const lacks = [...new Set(benches.flatMap(({ needs }) => needs))].filter((need) => !has(need))
  const packages = [...new Set(lacks.flatMap((need) => OWN_PACKAGES[need] ?? PACKAGES[need] ?? []))]
  if (packages.length === 0 || process.getuid?.() !== 0 || !has('apt-get')) return
  console.log(`the benchmarks need ${lacks.join(', ')}: apt-get install ${packages.join(' ')}`)
  await installPackages(packages)
}

/**
 * Runs one benchmark, and tells each of its rows; what goes wrong is a failure, and the others
 * still run.
 */
async function measure(bench: Bench, quick: boolean, failures: string[], tell: (row: Row) => void): Promise<void> {
  const lacks = bench.needs.filter((need) => !has(need))
  if (lacks.length > 0) {
    failures.push(`${bench.name}: this machine has no ${lacks.join(', ')}`)
    return
  }
  const started = Date.now()
  const seconds = (): string => `${((Date.now() - started) / 1000).toFixed(0).padStart(4)} s`
  const setting: Setting = { quick, progress: (text) => console.error(`${seconds()}  ${bench.name}: ${text}`) }
  try {
    for await (const row of bench.run(setting)) tell(row)
  } catch (error) {
    failures.push(`${bench.name}: ${error instanceof Error ? error.message : error}`)
  }
}

async function keep(rows: Result[]): Promise<void> {
  const newer = { machine: describeMachine(), date: new Date().toISOString().slice(0, 10), rows }
  const order = BENCHES.map(({ name }) => name)
  // the links' figures take longest, and needn't come from the same machine as the others
  if (rows.every((row) => row.link)) writeLinks(merge(readResults(LINK_FILE), newer, order))
  else writeResults(merge(readResults(), newer, order))
}

main(process.argv.slice(2)).then(
  (code) => process.exit(code),
  (error) => {
    console.error(error)
    console.log('0 passed, 1 failed')
    process.exit(1)
  },
)
