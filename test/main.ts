// The test runner of npm test: every test file, one after another. Started by test/test.sh as: node
// main.mjs FOLDER WORD… Ends with "N passed, N failed", and ", N skipped" if any. Exit 1 when any
// failed or none ran; with CI=true a skip is a failure.
import { statSync } from 'node:fs'
import type { Counts } from './lib/one.ts'
import { bundle, chosenFiles, endTogether, inParallel, runFile, sumUp, testFiles, unbundled } from './lib/runner.ts'

/** So many files of unit tests run at a time. */
const UNITS = 4
/**
 * Milliseconds after which a file of test/unit or test/dist hangs: on a busy machine one takes two
 * minutes. Those of test/dist run in every runtime, and one that hangs must leave time for the rest.
 */
const QUICK = 8 * 60_000
const isQuick = (file: string): boolean => /^test\/(unit|dist)\//.test(file)

async function main(): Promise<number> {
  const [, , out = '', ...words] = process.argv
  const isFolder = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.isDirectory() === true
  const files = chosenFiles(testFiles('test', '.test.ts'), words, isFolder)
  if (files.length === 0) {
    console.log(words.length ? `no test file is in, or has in its path, ${words.join(' or ')}` : 'no test files')
    return 1
  }
  const broken = await bundle([...files, 'test/lib/one.ts'], out)
  const run = async (file: string, index: number): Promise<{ title: string; counts: Counts }> => ({
    title: file,
    counts: broken.has(file) ? unbundled(file) : await runFile(file, out, { index, ...(isQuick(file) && { limit: QUICK }) }),
  })
  // Unit tests mostly wait, and share nothing; the others have the machine to themselves.
  return sumUp(await inParallel(files, files.every((file) => file.startsWith('test/unit/')) ? UNITS : 1, run))
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
