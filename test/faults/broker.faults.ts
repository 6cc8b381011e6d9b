// The broker is killed at random instants, stopped, mute, or dies at once: no build fails, with
// `fallback = false` neither, and none waits longer than half a minute.
import { writeFileSync } from 'node:fs'
import * as assert from 'uvu/assert'
import { kill, pause } from '../lib/processes.ts'
import { until } from '../lib/until.ts'
import { BrokerUnit } from '../nix/broker-unit.ts'
import { faults, many, RATE, Stage } from './stage.ts'

const test = faults('broker')
/** Seconds; the unit's own is 20. */
const WATCHDOG = 4
/**
 * So many in a row are killed at the most while nothing comes: on a busy machine a broker may need
 * seconds for an answer, and after ten Nix is told that there is none.
 */
const FRUITLESS = 6
/** So many at the most in all: of several sessions, those kills may each time have hit the same one. */
const MOST = 10
/** Seconds that all would take to come, until the first is killed: no machine is done by then. */
const SLOW = 5
/**
 * Milliseconds that the build itself takes on a busy machine, and what a lost broker may add: less
 * than the minute for which connect waits for a lost box.
 */
const LONGEST = 50_000

let made: { on: Stage; unit: BrokerUnit } | undefined
async function stage(): Promise<{ on: Stage; unit: BrokerUnit }> {
  if (made) return made
  const on = await Stage.make()
  made = { on, unit: new BrokerUnit(on.pair) }
  await on.configure({ 'extra-substituters': made.unit.url })
  return made
}

/** A service that says it is ready, and does to each connection what `act` says, in perl. */
const service = (act: string): string => `#!/usr/bin/perl
system "systemd-notify", "READY=1";
open(L, "+<&=3");
while (accept(my $c, L)) { ${act} }
`
const HELLO = 'syswrite($c, pack("VVVV", 0x6478696f, 0, 0x123, 0))'

for (let round = 1; round <= many(1, 20); round++) {
  for (const [what, count, kib, most] of [
    ['small paths', 40, 16, 600],
    ['large paths', 3, 24 * 1024, 3000], // one takes most of a second: with less, none would ever arrive
  ] as const)
    test.case(`the broker is killed again and again while Nix asks and fetches ${what}, ${round}`, async (random) => {
      const { on, unit } = await stage()
      await unit.start()
      await unit.up()
      const args = await on.published(count, kib)
      await on.answers()
      let over = false
      let killed = 0
      await on.relay.set({ rate: (count * kib * 1024) / SLOW })
      const building = on.build(args, false)
      const copied = (): number => building.output().match(/^copying path /gm)?.length ?? 0
      const killer = (async () => {
        let fruitless = 0
        let [then, now] = [0, 0]
        while (!over) {
          await pause(random.integer(most / 6, killed === 0 ? most / 3 : most))
          ;[then, now] = [now, copied()]
          fruitless = now > then ? 0 : fruitless
          const pid = unit.running()
          if (pid === undefined || fruitless === FRUITLESS || killed === MOST) continue
          kill(pid, 'SIGKILL')
          await on.relay.set({ rate: RATE })
          killed++
          fruitless++
        }
      })()
      const code = await building.ends().finally(() => {
        over = true
      })
      await killer
      await on.relay.set({ rate: RATE })
      console.log(`figure: ${killed} kills of the broker, exit ${code} after ${(building.ms / 1000).toFixed(1)} s`)
      assert.is(code, 0, `${building.output()}\n${unit.output()}`)
      assert.ok(killed > 0, 'none was killed')
      assert.not.match(building.output(), /^building /m, 'it was built, not fetched')
      await unit.stop()
      await on.wellAfter(args)
    })
}

test.case('the broker is stopped while Nix fetches: the watchdog ends it, and the next one goes on', async (random) => {
  const { on, unit } = await stage()
  await unit.start({ watchdog: WATCHDOG })
  await unit.up()
  const args = await on.published(12, 2048)
  await on.answers()
  const building = on.build(args, false)
  await building.says('copying path')
  await pause(random.integer(0, 300))
  await until('a broker', () => unit.running() !== undefined)
  kill(unit.pid(), 'SIGSTOP')
  assert.is(await building.ends(), 0, `${building.output()}\n${unit.output()}`)
  assert.ok(building.ms < LONGEST, `it took ${building.ms} ms`)
  await unit.says(/^watchdog/m)
  await unit.stop()
  await on.wellAfter(args)
})

for (const [what, act] of [
  ['accepts and is silent', 'push @held, $c'],
  ['dies before its hello', 'exit'],
  ['dies after its hello', `${HELLO}; exit`],
] as const)
  test.case(`a broker that ${what}`, async () => {
    const { on, unit } = await stage()
    writeFileSync(on.pair.client.path('/opt/wrong-broker'), service(act), { mode: 0o755 })
    await unit.start({ watchdog: WATCHDOG, program: ['/opt/wrong-broker'] })
    const args = await on.published(3, 16)
    await on.answers()
    on.pair.client.write('/run/nix-lan/box.up', '') // as if the one before had been well
    const building = on.build(args, true)
    assert.is(await building.ends(), 0, `${building.output()}\n${unit.output()}`)
    assert.ok(building.ms < LONGEST, `it took ${building.ms} ms`)
    await unit.stop()
    await on.wellAfter(args)
  })

test.after(async () => {
  await made?.unit.stop()
  await made?.on.close()
})
test.run()
