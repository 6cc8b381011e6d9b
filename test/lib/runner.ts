// Runs test files: bundles them (Node 20 can't read TypeScript) and runs each in a process of its
// own, so that a crash or a hang is one failed file and the others go on. What a test prints after
// "figure: " (what it measured) is shown also when it passes. test/main.ts and test/lab/main.ts say
// which files, and how many at once.
import { spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { build } from 'esbuild'
import { textDefines } from '../../build/texts.ts'
import { installPackages } from './apt.ts'
import { has, PACKAGES } from './needs.ts'
import type { Counts } from './one.ts'

/** A file that takes longer hangs; the first ones may have to build roots. */
const LIMIT = 25 * 60_000

interface RunFile {
  title?: string
  index?: number
  env?: Record<string, string>
  limit?: number
}

/** The files below a folder whose path has that ending, in order. */
export function testFiles(folder: string, ending: string): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const path = `${folder}/${entry.name}`
      if (entry.isDirectory()) return testFiles(path, ending)
      return path.endsWith(ending) ? [path] : []
    })
}

/**
 * Those of the files that the words mean: a word that is a folder, of its own or in test/, means
 * what is in it; another word, each path that contains it. No words mean all.
 */
export function chosenFiles(files: readonly string[], words: readonly string[], isFolder: (path: string) => boolean): string[] {
  const means = (word: string): ((file: string) => boolean) => {
    const folder = [word, `test/${word}`].map((path) => path.replace(/\/+$/, '')).find(isFolder)
    return folder === undefined ? (file) => file.includes(word) : (file) => file.startsWith(`${folder}/`)
  }
  const meanings = words.map(means)
  return files.filter((file) => meanings.length === 0 || meanings.some((meant) => meant(file)))
}

/**
 * Bundles each file to OUT/FILE.mjs. Returns those that can't be, having shown why: the others
 * still run.
 */
export async function bundle(files: string[], out: string): Promise<Set<string>> {
  const options = {
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node18',
    packages: 'external',
    sourcemap: 'inline',
    define: textDefines(),
  } as const
  const all = { ...options, outdir: out, outbase: '.', outExtension: { '.js': '.mjs' }, logLevel: 'silent' } as const
  try {
    await build({ ...all, entryPoints: files })
    return new Set()
  } catch {
    const broken = new Set<string>()
    for (const file of files) await build({ ...all, logLevel: 'error', entryPoints: [file] }).catch(() => broken.add(file))
    return broken
  }
}

/**
 * As root where there is apt-get: installs the programs that tests may need and that aren't there.
 */
export async function installMissing(): Promise<void> {
  const lacks = Object.keys(PACKAGES).filter((program) => !has(program))
  const packages = [...new Set(lacks.map((program) => PACKAGES[program] ?? program))]
  if (packages.length === 0 || process.getuid?.() !== 0 || !has('apt-get')) return
  console.log(`the tests need ${lacks.join(', ')}: apt-get install ${packages.join(' ')}`)
  await installPackages(packages).catch((error) => console.log(`apt-get failed: ${error.message}`))
}

/**
 * Runs a bundled test file in a process of its own, and says how it went.
 * @param title what it is called
 * @param index a number that no other run has
 * @param env added to its environment
 * @param limit milliseconds, after which it hangs
 */
export async function runFile(file: string, out: string, { title = file, index = 0, env = {}, limit = LIMIT }: RunFile): Promise<Counts> {
  const started = Date.now()
  const result = `${out}/${index}.json`
  // with the runner's own flags: see test/test.sh
  const args = [...process.execArgv, `${out}/test/lib/one.mjs`, `${out}/${file.replace(/\.ts$/, '.mjs')}`, result]
  const { output, code, how } = await collect(args, env, limit)
  const counts = readCounts(result)
  if (counts && counts.failed === 0 && code !== 0) counts.failed = 1
  const sum = counts ?? { passed: 0, failed: 1, skipped: 0, skips: [] }
  const seconds = `${((Date.now() - started) / 1000).toFixed(1)} s`
  const figures = `${sum.passed} passed${sum.failed ? `, ${sum.failed} failed` : ''}${sum.skipped ? `, ${sum.skipped} skipped` : ''}`
  console.log(`${sum.failed ? 'FAILED ' : 'ok     '} ${title}  ${figures}  ${seconds}`)
  if (sum.failed) console.log(`${output.replace(/^/gm, '    ')}\n    ${how}`)
  else for (const [, figure] of output.matchAll(/figure: (.*)/g)) console.log(`        ${figure}`)
  return sum
}

function readCounts(file: string): Counts | undefined {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Counts
  } catch {
    return undefined // it crashed, hung, or ended itself before all tests had run
  }
}

/**
 * Runs node, in a process group of its own so that a hang can be ended with all that it started.
 */
function collect(
  args: string[],
  env: Record<string, string>,
  limit: number,
): Promise<{ output: string; code: number | null; how: string }> {
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true, env: { ...process.env, ...env } })
  const { pid = 0 } = child
  running.add(pid)
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => (output += text))
  return new Promise((resolve) => {
    let how = ''
    const timer = setTimeout(() => {
      how = `ended after ${limit / 60_000} minutes: it hung`
      endGroup(pid, 'SIGKILL')
    }, limit)
    child.on('exit', (code, signal) => {
      clearTimeout(timer)
      running.delete(pid)
      // what it left in the background may hold the pipes open
      setTimeout(() => resolve({ output, code, how: how || (signal ? `ended by ${signal}` : `exit ${code}`) }), 50)
    })
  })
}

/** The process groups that run. */
const running = new Set<number>()

function endGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    if (pid) process.kill(-pid, signal)
  } catch {
    // it ended meanwhile
  }
}

/** Ends what runs when we are told to end: it leads groups of its own. */
export function endTogether(): void {
  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const) {
    process.on(signal, () => {
      for (const pid of running) endGroup(pid, 'SIGTERM')
      process.exit(code)
    })
  }
}

/** Does all of them, so many at a time. @returns what each came to, in their order */
export async function inParallel<Job, Done>(jobs: Job[], width: number, work: (job: Job, index: number) => Promise<Done>): Promise<Done[]> {
  const done: Done[] = []
  let next = 0
  const worker = async () => {
    for (let index = next++; index < jobs.length; index = next++) done[index] = await work(jobs[index] as Job, index)
  }
  await Promise.all(Array.from({ length: width }, worker))
  return done
}

/**
 * Adds up, tells what was skipped, and ends with the line of sums.
 * @returns the exit code: 1 when any failed or none ran
 */
export function sumUp(results: readonly { title: string; counts: Counts }[]): number {
  const sum: Counts = { passed: 0, failed: 0, skipped: 0, skips: [] }
  for (const { title, counts } of results) {
    sum.passed += counts.passed
    sum.failed += counts.failed
    sum.skipped += counts.skipped
    for (const name of counts.skips) sum.skips.push(`${title}: ${name}`)
  }
  for (const name of sum.skips) console.log(`skipped  ${name}`)
  if (process.env.CI === 'true' && sum.skipped > 0) {
    console.log(`with CI=true nothing may be skipped: ${sum.skipped} skipped tests count as failed`)
    sum.failed += sum.skipped
    sum.skipped = 0
  }
  console.log(`${sum.passed} passed, ${sum.failed} failed${sum.skipped ? `, ${sum.skipped} skipped` : ''}`)
  return sum.failed > 0 || sum.passed === 0 ? 1 : 0
}

/** What a file that can't be bundled comes to, said where it would have run. */
export function unbundled(title: string): Counts {
  console.log(`FAILED  ${title}  it can't be bundled: see above`)
  return { passed: 0, failed: 1, skipped: 0, skips: [] }
}
