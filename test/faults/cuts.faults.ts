// The link or the box is lost while Nix fetches: nothing hangs, nothing holds a lock afterwards,
// and with `fallback = true` every build ends well.
import * as assert from 'uvu/assert'
import { greets } from '../lib/greeting.ts'
import { pause } from '../lib/processes.ts'
import type { Random } from '../lib/random.ts'
import { until } from '../lib/until.ts'
import { DIST, SOCKET } from '../nix/pair.ts'
import { faults, LONG, many, RATE, Stage } from './stage.ts'

const test = faults('cuts')
const COUNT = many(12, 30)
const KIB = 4096
let made: Stage | undefined
const stage = async (): Promise<Stage> => {
  made ??= await Stage.make()
  return made
}

interface Hit {
  fallback: boolean
  /** What happens 100 to 700 ms after the first path. */
  happen(stage: Stage): unknown
  /** Default: 1. */
  connections?: number
  /**
   * The box doesn't come back, and is waited for so many seconds: so with a fallback something has to
   * be built, else it was no hit.
   */
  forGood?: number
  /** What is done before anything is looked at. */
  end?(): Promise<void>
}

/**
 * Builds what the box has, and something happens meanwhile. Returns the exit code, with fallback 0.
 */
async function hit(random: Random, { fallback, happen, connections = 1, forGood, end }: Hit): Promise<number | null> {
  const on = await stage()
  const args = await on.published(COUNT, KIB)
  await on.answers()
  const { pair } = on
  if (connections > 1) await on.configure({ 'extra-substituters': pair.url.replace('?', `?max-connections=${connections}&`) })
  if (forGood) await on.configure({ 'extra-substituters': patient(pair.url, forGood) })
  try {
    await on.relay.set({ rate: SLOW })
    const building = on.build(args, fallback)
    await building.says('copying path')
    await pause(random.integer(100, 700))
    await happen(on)
    await on.relay.set({ rate: RATE })
    const cut = Date.now()
    const code = await building.ends()
    const waited = (Date.now() - cut) / 1000
    await end?.()
    assert.is(code, 0, building.output())
    if (forGood) {
      assert.match(building.output(), fallback ? /^building /m : /^error: /m)
      assert.ok(waited < forGood + 15 + BUILDS, `it waited ${waited} s\n${building.output()}`)
    }
    await on.wellAfter(args)
    return code
  } finally {
    if (connections > 1 || forGood) await on.configure({})
  }
}

/** Bytes a second until it happens: else all may have been fetched by then, where we are slow to see the first. */
const SLOW = RATE / 8

/** A connect that waits for a lost box for so many seconds. */
const patient = (url: string, seconds: number): string => `${url}%20--patience%20${seconds}`
/** So that the tests needn't wait for a minute, the default. */
const SHORT = 5
const DEFAULT = 60
/** Seconds for what has to be built instead, on a busy machine. */
const BUILDS = 30

const killSsh = ({ pair }: Stage): void => pair.client.signal('ssh', 'SIGKILL')

for (let round = 1; round <= many(2, 5); round++) {
  test.case(`ssh is killed, fallback, ${round}`, async (random) => {
    await hit(random, { fallback: true, happen: killSsh })
  })
}

test.case('ssh is killed, no fallback: the tunnel comes back, and nothing is lost', async (random) => {
  assert.is(await hit(random, { fallback: false, happen: killSsh }), 0)
})

test.case('cut, and while Nix waits, status says so', async (random) => {
  let said = ''
  const happen = async ({ relay, pair }: Stage): Promise<void> => {
    await relay.cut('hard')
    const status = async (): Promise<string> => (await pair.client.run('alice', `${DIST}/nix-lan`, ['status'])).stdout
    await until('status to say that a fetch waits', async () => {
      said = await status()
      return /^ {2}a fetch {3}waits for it since/m.test(said)
    })
    await relay.cut('none')
  }
  assert.is(await hit(random, { fallback: false, happen }), 0, said)
})

const CUTS = ['silent', 'hard', 'clean'] as const
for (const cut of CUTS) {
  // a silent one is known after ssh's 15 s, so that the short form has it once
  const times = many(1, 5)
  for (let round = 1; round <= times; round++) {
    test.case(`cut, ${cut}, for good, fallback, ${round}`, async (random) => {
      await hit(random, { fallback: true, forGood: SHORT, happen: ({ relay }) => relay.cut(cut) })
    })
    if (LONG && round <= 3)
      test.case(`cut, ${cut}, for good, the default patience, fallback, ${round}`, async (random) => {
        await hit(random, { fallback: true, forGood: DEFAULT, happen: ({ relay }) => relay.cut(cut) })
      })
    for (const fallback of [true, false]) {
      const title = `cut, ${cut}, back within seconds, ${fallback ? '' : 'no '}fallback, ${round}`
      test.case(title, async (random) => assert.is(await backAgain(random, cut, fallback), 0))
    }
    if (cut !== 'silent' || LONG)
      test.case(`cut, ${cut}, for good, with an HTTP cache behind, no fallback, ${round}`, (random) => withHttpCache(random, cut))
  }
}

async function backAgain(random: Random, cut: (typeof CUTS)[number], fallback: boolean): Promise<number | null> {
  const back = random.integer(500, LONG ? 25_000 : 4000)
  let timer: NodeJS.Timeout | undefined
  const happen = async ({ relay }: Stage): Promise<void> => {
    await relay.cut(cut)
    timer = setTimeout(() => void relay.cut('none'), back)
  }
  return await hit(random, { fallback, happen }).finally(() => clearTimeout(timer))
}

/** What the box was asked first, another cache has too: there is no need of a fallback then. */
async function withHttpCache(random: Random, cut: (typeof CUTS)[number]): Promise<void> {
  const on = await stage()
  const args = await on.published(COUNT, KIB)
  const cache = await on.httpCache(args)
  try {
    await on.configure({ substituters: `${cache.url}?priority=40`, 'extra-substituters': patient(on.pair.url, SHORT) })
    await on.relay.set({ rate: SLOW })
    const building = on.build(args, false)
    await building.says('copying path')
    await pause(random.integer(100, 700))
    await on.relay.cut(cut)
    await on.relay.set({ rate: RATE })
    assert.is(await building.ends(), 0, building.output())
    assert.ok(
      cache.asked.some((path) => path.endsWith('.nar')),
      'the other cache has delivered what the box had promised',
    )
    await on.wellAfter(args)
  } finally {
    cache.close()
    await on.configure({})
  }
}

for (const connections of LONG ? [1, 8] : [8]) {
  for (const fallback of [true, false]) {
    const how = `max-connections ${connections}, ${fallback ? '' : 'no '}fallback`
    test.case(`flapping every 2 s, ${how}`, async (random) => assert.is(await flap(random, connections, fallback), 0))
    test.case(`sshd frozen for 1.5 s, ${how}`, async (random) => assert.is(await freeze(random, connections, fallback), 0))
  }
}

async function flap(random: Random, connections: number, fallback: boolean): Promise<number | null> {
  let over = false
  let flapping = Promise.resolve()
  const again = async (on: Stage): Promise<void> => {
    // longer each time: sooner or later a path gets through on a slow machine too
    for (let up = 1000; !over; up *= 1.3) {
      await on.relay.cut(random.pick(['hard', 'clean']))
      await pause(500)
      await on.relay.cut('none')
      // a busy machine needs longer than the 1.5 s for the tunnel alone
      const socket = on.pair.client.path(SOCKET)
      await Promise.all([pause(1500), until('the tunnel', async () => over || (await greets(socket))).then(() => pause(up))])
    }
  }
  const end = async (): Promise<void> => {
    over = true
    await flapping
  }
  const happen = (on: Stage): void => {
    flapping = again(on)
  }
  return await hit(random, { fallback, connections, happen, end }).finally(end)
}

async function freeze(random: Random, connections: number, fallback: boolean): Promise<number | null> {
  let timer: NodeJS.Timeout | undefined
  const happen = ({ pair }: Stage): void => {
    pair.box.freezeSshd()
    timer = setTimeout(() => pair.box.thawSshd(), 1500)
  }
  return await hit(random, { fallback, connections, happen }).finally(() => clearTimeout(timer))
}

test.after(async () => await made?.close())
test.run()
