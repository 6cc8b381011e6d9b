// The runner of npm run test:lab: each file *.lab.ts on each release, each in a process of its own
// with a lab of its own, several at a time, since a lab mostly waits. Started by test/test.sh as:
// node main.mjs FOLDER [--write] [RELEASE…] [WORD…]. --write: when all have passed, what they have
// measured goes into docs/lab.md. Ends with "N passed, N failed"; see test/lib/runner.ts.
import { statSync } from 'node:fs'

import { bundle, endTogether, inParallel, installMissing, runFile, sumUp, testFiles, unbundled } from '../lib/runner.ts'
import { readFigures, writeTable } from './docs.ts'
import { RELEASES, type Release } from './lab.ts'

/** How many labs at a time, unless NIX_LAN_LABS says otherwise. */
const LABS = 4
/** A file that takes longer hangs. The longest takes nine minutes on two processors, with other labs fourteen. */
const LIMIT = 45 * 60_000

/** What hardly depends on the release runs on one of them, unless others are named. */
const ON_ONE: Readonly<Record<string, Release>> = { 'test/lab/disk.lab.ts': 'bookworm', 'test/lab/week.lab.ts': 'trixie' }

async function main(): Promise<number> {
  const [, , out = '', ...args] = process.argv
  const named = RELEASES.filter((name) => args.includes(name))
  const words = args.filter((word) => word !== '--write' && !RELEASES.some((name) => name === word))
  const releases = named.length > 0 ? named : RELEASES
  const files = testFiles('test/lab', '.lab.ts').filter((file) => words.length === 0 || words.some((word) => file.includes(word)))
  if (files.length === 0) {
    console.log(`no lab file's path contains ${words.join(' or ')}`)
    return 1
  }
  const broken = await bundle([...files, 'test/lib/one.ts'], out)
  await installMissing()
  const releasesOf = (file: string): readonly Release[] => {
    const only = named.length === 0 ? ON_ONE[file] : undefined
    return only ? [only] : releases
  }
  const jobs = longestFirst(files).flatMap((file) =>
    releasesOf(file).map((release) => ({
      file,
      release,
      title: `${file} on ${release}`,
    })),
  )
  const results = await inParallel(jobs, Number(process.env.NIX_LAN_LABS) || LABS, async ({ file, release, title }, index) => ({
    title,
    counts: broken.has(file) ? unbundled(title) : await runJob(file, out, release, title, index),
  }))
  const code = sumUp(results)
  if (args.includes('--write') && code === 0) writeTable(readFigures(`${out}/figures`))
  return code
}

function runJob(file: string, out: string, release: Release, title: string, index: number) {
  return runFile(file, out, { title, index, env: { NIX_LAN_LAB: release, NIX_LAN_FIGURES: `${out}/figures` }, limit: LIMIT })
}

/** So that no long file is left for the end; a file's size tells well enough. */
function longestFirst(files: string[]): string[] {
  return [...files].sort((a, b) => statSync(b).size - statSync(a).size)
}

endTogether()
main().then(
  (code) => process.exit(code),
  (error) => {
    console.error(error)
    console.log('0 passed, 1 failed')
    process.exit(1)
  },
)
