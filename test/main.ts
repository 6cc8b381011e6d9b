// The test runner: bundles the test files (Node 20 can't read TypeScript) and runs each in a process of its own, so that a crash or a hang
// is one failed file and the others go on. Started by test/test.sh as: node main.mjs FOLDER WORD…
// What a test prints after "figure: " (what it measured) is shown also when it passes.
// Ends with "N passed, N failed", and ", N skipped" if any. Exit 1 when any failed or none ran; with CI=true a skip is a failure.
import { spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { build } from 'esbuild'
import { unitsDefine } from '../build/units.ts'
import { installPackages } from './lib/apt.ts'
import { has, PACKAGES } from './lib/needs.ts'
import type { Counts } from './lib/one.ts'

/** A file that takes longer hangs. */
const LIMIT = 10 * 60_000
const CI = process.env.CI === 'true'

async function main(): Promise<number> {
  const [, , out = '', ...words] = process.argv
  const files = testFiles('test').filter((file) => words.length === 0 || words.some((word) => file.includes(word)))
  if (files.length === 0) {
    console.log(words.length ? `no test file's path contains ${words.join(' or ')}` : 'no test files')
    return 1
  }
  const broken = await bundle([...files, 'test/lib/one.ts'], out)
  if (files.some((file) => readFileSync(file, 'utf8').includes('/needs.ts'))) await installMissing()
  const sum: Counts = { passed: 0, failed: 0, skipped: 0, skips: [] }
  for (const [index, file] of files.entries()) {
    if (broken.has(file)) console.log(`FAILED  ${file}  it can't be bundled: see above`)
    const counts = broken.has(file) ? { passed: 0, failed: 1, skipped: 0, skips: [] } : await runFile(file, out, index)
    sum.passed += counts.passed
    sum.failed += counts.failed
    sum.skipped += counts.skipped
    for (const name of counts.skips) sum.skips.push(`${file}: ${name}`)
  }
  for (const name of sum.skips) console.log(`skipped  ${name}`)
  if (CI && sum.skipped > 0) {
    console.log(`with CI=true nothing may be skipped: ${sum.skipped} skipped tests count as failed`)
    sum.failed += sum.skipped
    sum.skipped = 0
  }
  console.log(`${sum.passed} passed, ${sum.failed} failed${sum.skipped ? `, ${sum.skipped} skipped` : ''}`)
  return sum.failed > 0 || sum.passed === 0 ? 1 : 0
}

function testFiles(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const path = `${folder}/${entry.name}`
      if (entry.isDirectory()) return testFiles(path)
      return path.endsWith('.test.ts') ? [path] : []
    })
}

/** Bundles each file to OUT/FILE.mjs. Returns those that can't be, having shown why: the others still run. */
async function bundle(files: string[], out: string): Promise<Set<string>> {
  const options = {
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node18',
    packages: 'external',
    sourcemap: 'inline',
    define: unitsDefine(),
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

/** As root where there is apt-get: installs the programs that tests may need and that aren't there. */
async function installMissing(): Promise<void> {
  const lacks = Object.keys(PACKAGES).filter((program) => !has(program))
  const packages = [...new Set(lacks.map((program) => PACKAGES[program] ?? program))]
  if (packages.length === 0 || process.getuid?.() !== 0 || !has('apt-get')) return
  console.log(`the tests need ${lacks.join(', ')}: apt-get install ${packages.join(' ')}`)
  await installPackages(packages).catch((error) => console.log(`apt-get failed: ${error.message}`))
}

async function runFile(file: string, out: string, index: number): Promise<Counts> {
  const started = Date.now()
  const result = `${out}/${index}.json`
  const { output, code, how } = await collect([
    '--enable-source-maps',
    `${out}/test/lib/one.mjs`,
    `${out}/${file.replace(/\.ts$/, '.mjs')}`,
    result,
  ])
  const counts = readCounts(result)
  if (counts && counts.failed === 0 && code !== 0) counts.failed = 1
  const sum = counts ?? { passed: 0, failed: 1, skipped: 0, skips: [] }
  const seconds = `${((Date.now() - started) / 1000).toFixed(1)} s`
  const figures = `${sum.passed} passed${sum.failed ? `, ${sum.failed} failed` : ''}${sum.skipped ? `, ${sum.skipped} skipped` : ''}`
  console.log(`${sum.failed ? 'FAILED ' : 'ok     '} ${file}  ${figures}  ${seconds}`)
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

/** Runs node, in a process group of its own so that a hang can be ended with all that it started. */
function collect(args: string[]): Promise<{ output: string; code: number | null; how: string }> {
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true })
  running = child.pid
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => (output += text))
  return new Promise((resolve) => {
    let how = ''
    const timer = setTimeout(() => {
      how = `ended after ${LIMIT / 60_000} minutes: it hung`
      endGroup('SIGKILL')
    }, LIMIT)
    child.on('exit', (code, signal) => {
      clearTimeout(timer)
      running = undefined
      // what it left in the background may hold the pipes open
      setTimeout(() => resolve({ output, code, how: how || (signal ? `ended by ${signal}` : `exit ${code}`) }), 50)
    })
  })
}

let running: number | undefined
function endGroup(signal: NodeJS.Signals): void {
  try {
    if (running) process.kill(-running, signal)
  } catch {
    // it ended meanwhile
  }
}
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const) {
  process.on(signal, () => {
    endGroup('SIGTERM')
    process.exit(code)
  })
}

main().then(
  (code) => process.exit(code),
  (error) => {
    console.error(error)
    console.log('0 passed, 1 failed')
    process.exit(1)
  },
)
