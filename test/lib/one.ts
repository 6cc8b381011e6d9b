// Runs one bundled test file in this process and leaves its counts in a file: node one.mjs TEST.mjs
// RESULT.json uvu counts for itself, but forgets the tests of a suite whose before-hook throws, and
// exits 0 then; so we count what ran.
import { writeFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'

/** What a test file came to; `skips` are names with reasons. */
export interface Counts {
  passed: number
  failed: number
  skipped: number
  skips: string[]
}

type Suite = () => Promise<[errors: string | true, passed: number, skipped: number, total: number]>
const uvu = globalThis as unknown as {
  UVU_DEFER: number
  UVU_INDEX: number
  UVU_QUEUE: [name: null, ...suites: Suite[]][]
  NIX_LAN_SKIPS: string[]
}

async function one(test: string, result: string): Promise<void> {
  // uvu/run does the same: suites wait for exec, in the queue at this index
  uvu.UVU_DEFER = 1
  uvu.UVU_INDEX = 0
  uvu.NIX_LAN_SKIPS = []
  const { exec } = await import('uvu')
  uvu.UVU_QUEUE.push([null])
  await import(pathToFileURL(test).href)
  const counts: Counts = { passed: 0, failed: 0, skipped: 0, skips: uvu.NIX_LAN_SKIPS }
  uvu.UVU_QUEUE = uvu.UVU_QUEUE.map(([name, ...suites]) => [name, ...suites.map((suite) => counted(suite, counts))])
  await exec()
  writeFileSync(result, JSON.stringify(counts))
  // a test that leaves a server open must not keep the others waiting
  process.exit(counts.failed > 0 ? 1 : 0)
}

function counted(suite: Suite, counts: Counts): Suite {
  return async () => {
    const outcome = await suite()
    const [errors, passed, skipped, total] = outcome
    counts.passed += passed
    counts.skipped += skipped
    counts.failed += total - passed
    if (total > passed && errors === true)
      console.log(`\n  ${total - passed} tests did not run: a before-hook threw, or an error wasn't an Error`)
    return outcome
  }
}

const [, , test = '', result = ''] = process.argv
one(test, result).catch((error) => {
  console.error(error)
  process.exit(1)
})
