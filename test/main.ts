// The test runner of npm test: every test file, one after another. Started by test/test.sh as: node main.mjs FOLDER WORD…
// Ends with "N passed, N failed", and ", N skipped" if any. Exit 1 when any failed or none ran; with CI=true a skip is a failure.
import { readFileSync } from 'node:fs'
import type { Counts } from './lib/one.ts'
import { bundle, endTogether, installMissing, runFile, sumUp, testFiles, unbundled } from './lib/runner.ts'

async function main(): Promise<number> {
  const [, , out = '', ...words] = process.argv
  const files = testFiles('test', '.test.ts').filter((file) => words.length === 0 || words.some((word) => file.includes(word)))
  if (files.length === 0) {
    console.log(words.length ? `no test file's path contains ${words.join(' or ')}` : 'no test files')
    return 1
  }
  const broken = await bundle([...files, 'test/lib/one.ts'], out)
  if (files.some((file) => readFileSync(file, 'utf8').includes('/needs.ts'))) await installMissing()
  const results: { title: string; counts: Counts }[] = []
  for (const [index, file] of files.entries()) {
    results.push({ title: file, counts: broken.has(file) ? unbundled(file) : await runFile(file, out, { index }) })
  }
  return sumUp(results)
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
