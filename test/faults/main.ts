// The runner of npm run test:faults: each file *.faults.ts on each Nix, each in a process of its
// own, some at a time, since what is lost is mostly waited for. Started by test/test.sh as: node
// main.mjs FOLDER [--long] [--seed N] [NIX…] [WORD…]: NIX is bookworm, trixie or forky. What
// happens when is drawn from the seed, which is told; with the same one the same is drawn. --long:
// more of each, in full size. --only TEXT: cases with TEXT in the title. --times N: each of them N
// times. Ends with "N passed, N failed"; see test/lib/runner.ts.
import { bundle, endTogether, inParallel, installMissing, runFile, sumUp, testFiles, unbundled } from '../lib/runner.ts'
import { NIXES } from './stage.ts'

/** How many at a time. */
const WIDTH = 4
/** A file that takes longer hangs; cuts takes three minutes, and six on a busy machine. */
const LIMIT = { short: 20 * 60_000, long: 60 * 60_000 }

const USAGE = 'npm run test:faults -- [--long] [--seed N] [--times N] [--only TEXT] [NIX…] [WORD…]'
/** Options that have a value. */
const WITH_VALUES = ['--seed', '--only', '--times']

async function main(): Promise<number> {
  const [, , out = '', ...args] = process.argv
  const isValue = (i: number): boolean => WITH_VALUES.includes(args[i - 1] ?? '')
  const unknown = args.find((word, i) => word.startsWith('-') && ![...WITH_VALUES, '--long'].includes(word) && !isValue(i))
  if (unknown !== undefined) {
    console.log(`there is no option ${unknown}: ${USAGE}`)
    return 2
  }
  const long = args.includes('--long')
  const at = args.indexOf('--seed')
  // In CI always the same: what a new one finds is no fault of the change that is tested there.
  const seed = at < 0 ? (process.env.CI === 'true' ? 1 : Math.floor(Math.random() * 1e9)) : Number(args[at + 1])
  if (!Number.isSafeInteger(seed)) throw new Error(`--seed ${args[at + 1]}: give an integer`)
  const named = NIXES.filter((nix) => args.includes(nix))
  const given = (option: string): string | undefined => (args.includes(option) ? args[args.indexOf(option) + 1] : undefined)
  const [only, times] = [given('--only'), given('--times')]
  const words = args.filter((word, i) => !word.startsWith('-') && !isValue(i) && !NIXES.some((nix) => nix === word))
  const files = testFiles('test/faults', '.faults.ts').filter((file) => words.length === 0 || words.some((word) => file.includes(word)))
  if (files.length === 0) {
    console.log(`no file's path in test/faults contains ${words.join(' or ')}`)
    return 1
  }
  console.log(`seed ${seed}: npm run test:faults --${long ? ' --long' : ''} --seed ${seed}`)
  const broken = await bundle([...files, 'test/lib/one.ts'], out)
  await installMissing()
  const jobs = files.flatMap((file) => (named.length > 0 ? named : NIXES).map((nix) => ({ file, nix, title: `${file} on ${nix}` })))
  const results = await inParallel(jobs, WIDTH, async ({ file, nix, title }, index) => {
    const env = {
      NIX_LAN_FAULTS_NIX: nix,
      NIX_LAN_FAULTS_SEED: String(seed),
      ...(long && { NIX_LAN_FAULTS_LONG: '1' }),
      ...(only && { NIX_LAN_FAULTS_ONLY: only }),
      ...(times && { NIX_LAN_FAULTS_TIMES: times }),
    }
    const limit = long || times ? LIMIT.long : LIMIT.short
    return { title, counts: broken.has(file) ? unbundled(title) : await runFile(file, out, { title, index, env, limit }) }
  })
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
