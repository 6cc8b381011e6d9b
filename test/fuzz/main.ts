// npm run test:fuzz [-- [--seconds N] [--seed N] [TARGET…]]: what we read of others, mutated:
// sessions of real Nixes and boxes in both directions, configurations, nix.conf, .drv files, the
// hook's environment, words for sh, what a box and getent say. Bounded by time; nothing may hang, throw what it isn't meant
// to, or pass on what isn't whole. Started by test/test.sh as: node main.mjs FOLDER ARGUMENT… What
// fails is told with its seed, which alone repeats it: --seed N TARGET. Ends with "N passed, N
// failed", one for each target.
import './units.ts'
import { writeSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import { Random } from '../lib/random.ts'
import { bundles } from './bundles.ts'
import { sessions } from './sessions.ts'
import { shells } from './shells.ts'
import { texts } from './texts.ts'

/** Something that is tried again and again. */
export interface Target {
  name: string
  /** How much of the time it gets, in shares. */
  share: number
  /**
   * Tries once with what is drawn. @returns how many inputs that were @throws Error that says what
   * went wrong
   */
  once(random: Random): number | Promise<number>
  close?(): void
}

const SECONDS = 45
/**
 * So many tries of a target in CI, at the most: however quick its machine is, it draws no seed there
 * that has not been drawn before.
 */
const MOST = 5000
/** One try that takes longer hangs. */
const HANGS = 60_000
/** So many failures of one target are shown. */
const SHOWN = 3

async function main(): Promise<number> {
  const args = process.argv.slice(3)
  const option = (name: string): number | undefined => {
    const at = args.indexOf(name)
    if (at < 0) return undefined
    const [, value] = args.splice(at, 2)
    if (!Number.isSafeInteger(Number(value))) throw new Error(`${name} ${value}: give an integer`)
    return Number(value)
  }
  const seconds = option('--seconds') ?? SECONDS
  const repeated = option('--seed')
  const all = [...sessions(), ...texts(), ...shells(), ...bundles()]
  const targets = all.filter(({ name }) => args.length === 0 || args.some((word) => name.includes(word)))
  if (targets.length === 0) throw new Error(`no target is called ${args.join(' or ')}; there are ${all.map(({ name }) => name).join(', ')}`)
  // In CI always the same: what a new one finds is no fault of the change that is tested there.
  const ci = process.env.CI === 'true'
  const first = repeated ?? (ci ? 1 : Math.floor(Math.random() * 2 ** 40))
  const watch = watchdog()
  const shares = targets.reduce((sum, { share }) => sum + share, 0)
  let failed = 0
  for (const target of targets) {
    const limit = repeated === undefined ? (1000 * seconds * target.share) / shares : 0
    const found = await fuzz(target, { first, limit, most: ci ? MOST : Number.POSITIVE_INFINITY }, watch)
    if (found.failures > 0) failed++
    console.log(`${found.failures > 0 ? 'FAILED ' : 'ok     '} ${target.name}  ${found.inputs} inputs, ${found.failures} failures`)
    target.close?.()
  }
  for (const target of all) target.close?.()
  console.log(`${targets.length - failed} passed, ${failed} failed`)
  return failed > 0 ? 1 : 0
}

interface Bounds {
  /** The first seed. */
  first: number
  /** Milliseconds. */
  limit: number
  /** How many seeds. */
  most: number
}

/** Tries until the time is over, at least once. */
async function fuzz({ name, once }: Target, { first, limit, most }: Bounds, watch: Watch): Promise<{ inputs: number; failures: number }> {
  const until = performance.now() + limit
  let inputs = 0
  let failures = 0
  for (let seed = first; seed === first || (performance.now() < until && seed < first + most); seed++) {
    watch.trying(name, seed)
    try {
      inputs += await inTime(once(new Random(seed, name)))
      if (outside) throw outside
    } catch (error) {
      outside = undefined
      if (++failures <= SHOWN) console.log(`  ${name}: ${(error as Error).stack}\n  again: npm run test:fuzz -- --seed ${seed} ${name}`)
    }
  }
  return { inputs, failures }
}

/** @throws Error when there is no end to it */
async function inTime<Done>(trying: Done | Promise<Done>): Promise<Done> {
  let timer: NodeJS.Timeout | undefined
  const hung = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`it hung: no end in ${HANGS / 1000} s`)), HANGS)
  })
  try {
    return await Promise.race([trying, hung])
  } finally {
    clearTimeout(timer)
  }
}

let outside: Error | undefined
for (const event of ['uncaughtException', 'unhandledRejection'])
  process.on(event, (error) => {
    outside = new Error(`thrown outside: ${(error as Error)?.stack ?? error}`)
  })

interface Watch {
  trying(name: string, seed: number): void
}

/**
 * Ends us with a word when we are stuck in one try, which nobody else could: a thread of its own
 * looks whether we go on.
 */
function watchdog(): Watch {
  const shared = new SharedArrayBuffer(16)
  const [count, seed] = [new Int32Array(shared, 0, 1), new BigInt64Array(shared, 8, 1)]
  const code = `
    const { workerData: { shared, hangs }, parentPort } = require('node:worker_threads')
    const { writeSync } = require('node:fs')
    const [count, seed] = [new Int32Array(shared, 0, 1), new BigInt64Array(shared, 8, 1)]
    let last = -1
    setInterval(() => {
      if (count[0] === last) {
        writeSync(1, 'FAILED  stuck in a try; again: npm run test:fuzz -- --seed ' + seed[0] + '\\n0 passed, 1 failed\\n')
        process.kill(process.pid, 'SIGKILL')
      }
      last = count[0]
    }, 2 * hangs)`
  new Worker(code, { eval: true, workerData: { shared, hangs: HANGS } }).unref()
  let named = ''
  return {
    trying(name, now) {
      if (name !== named) writeSync(2, `${name} from seed ${now}\n`)
      named = name
      count[0] = (count[0] ?? 0) + 1
      seed[0] = BigInt(now)
    },
  }
}

main().then(
  (code) => process.exit(code),
  (error) => {
    console.error(error)
    console.log('0 passed, 1 failed')
    process.exit(1)
  },
)
