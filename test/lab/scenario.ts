// What the scenarios share: how things are measured and told, and what must hold after each of
// them.
import { appendFileSync } from 'node:fs'
import * as assert from 'uvu/assert'
import type { TunnelState } from '../../scripts/tunnel/state.ts'
import { ofUserUnit } from './host.ts'
import { type Lab, release } from './lab.ts'
import { CACHE } from './machines.ts'

export const TARGET = `nix-lan@${CACHE}.target`
export const TUNNEL = `nix-lan-tunnel@${CACHE}.service`

/**
 * What a figure is about: how long until nix-lan knows, until it works again, or how much longer a
 * build took than at home.
 */
export type Kind = 'notice' | 'recover' | 'build'

/** A line of the table in docs/lab.md; see test/lab/docs.ts. */
export interface Figure {
  release: string
  kind: Kind
  what: string
  /** Seconds that it should take at most. */
  aim: number
  /** Seconds that it took. */
  took: number
}

/**
 * Tells a figure, keeps it for the table, and fails when it is more than four times what it should
 * be: a lab shares its processors with others.
 * @param aim seconds @param ms what was measured, in milliseconds
 */
export function measured(kind: Kind, what: string, aim: number, ms: number): void {
  const figure: Figure = { release: release(), kind, what, aim, took: Math.max(0, Number((ms / 1000).toFixed(1))) }
  console.log(`figure: ${what}: ${figure.took.toFixed(1)} s (${kind}; aim ${aim} s)`)
  if (process.env.NIX_LAN_FIGURES) appendFileSync(process.env.NIX_LAN_FIGURES, `${JSON.stringify(figure)}\n`)
  assert.ok(figure.took <= 4 * aim, `${what}: ${figure.took} s is more than four times ${aim} s`)
}

/**
 * Milliseconds in which it becomes so. It is given up after four times `aim` seconds and a little:
 * then it isn't slow, but doesn't happen.
 */
export function becomes(lab: Lab, what: string, aim: number, ask: () => boolean | Promise<boolean>): Promise<number> {
  return lab.eventually(what, ask, { within: 4000 * aim + 2000, every: 200 })
}

/**
 * Waits until all is as it should be at home: a nix-daemon answers, the unit says so, and nothing
 * is queued. Milliseconds.
 */
export async function atHome(lab: Lab, within = 240_000): Promise<number> {
  return await lab.eventually(
    'the tunnel is up and the queue empty',
    async () =>
      (await lab.answers()) && (await lab.queued()).length === 0 && (await lab.laptop.systemctl('is-active', TUNNEL)) === 'active',
    { within, every: 300 },
  )
}

/**
 * Does it once, and again while it isn't well, so many times at most. For what takes time: what else
 * the machine does only adds to it, so the least of a few counts.
 */
export async function untilWell(times: number, well: () => boolean, act: (nth: number) => Promise<unknown>): Promise<void> {
  for (let nth = 1; nth === 1 || (nth <= times && !well()); nth++) await act(nth)
}

/** Seconds from the cable's coming in until the socket answers, and until the queue is empty, at most. */
export const PLUGGED = { answers: 5, drained: 10 }

/**
 * Plugs in the laptop's cable, which has been out, and of which the laptop knows that; something
 * waits in the queue. Milliseconds until the socket answers, and until the queue is empty. In a
 * stall of this machine the check that the last event of the network asks for may miss the box, and
 * nobody looks again before the timer: then the cable is pulled and plugged in anew, and the least
 * counts.
 */
export async function pluggedIn(lab: Lab, builds: Builds, { answers, drained } = PLUGGED): Promise<{ answers: number; drained: number }> {
  const least = { answers: Number.POSITIVE_INFINITY, drained: Number.POSITIVE_INFINITY }
  const well = (): boolean => least.answers <= 4000 * answers && least.drained <= 4000 * drained
  await untilWell(3, well, async (nth) => {
    if (nth > 1) {
      await unplugged(lab)
      await builds.build()
    }
    await lab.lan.cable('laptop', true)
    const empty = becomes(lab, 'the queue is drained', drained, async () => (await lab.queued()).length === 0)
    const [first, last] = await Promise.allSettled([becomes(lab, 'an answer', answers, () => lab.answers()), empty])
    if (first.status === 'fulfilled') least.answers = Math.min(least.answers, first.value)
    if (last.status === 'fulfilled') least.drained = Math.min(least.drained, last.value)
  })
  assert.ok(well(), `the least of three: ${JSON.stringify(least)} ms`)
  return least
}

/** Pulls the laptop's cable, and waits until both the target and the address have gone. */
async function unplugged(lab: Lab): Promise<void> {
  await lab.lan.cable('laptop', false)
  const address = async () => (await lab.laptop.must('root', 'ip', ['-4', '-o', 'addr', 'show', 'dev', 'host0'])) !== ''
  await lab.eventually('it is out', async () => !(await targetUp(lab)) && !(await address()), { within: 120_000, every: 300 })
}

/** Whether the box's target is up. */
export async function targetUp(lab: Lab): Promise<boolean> {
  return (await lab.laptop.systemctl('is-active', TARGET)) === 'active'
}

/**
 * Stops the target, and keeps it down while `act` runs. (A check that comes just then, or is
 * running, would start all of it again: twice a minute there is one.)
 */
export async function withTargetDown(lab: Lab, act: () => Promise<void>): Promise<void> {
  const [check, timer] = ['nix-lan-check.service', 'nix-lan-check.timer']
  await lab.laptop.systemctl('stop', timer)
  await lab.laptop.must('alice', 'systemctl', ['--user', 'mask', '--now', check])
  try {
    await lab.laptop.must('alice', 'systemctl', ['--user', 'stop', TARGET])
    await act()
  } finally {
    await lab.laptop.systemctl('unmask', check)
    await lab.laptop.systemctl('start', timer)
  }
}

/**
 * The laptop falls asleep, but not in the middle of a check: a sleep stops the clock of its
 * deadlines, and this one doesn't, so that systemd would seem not to answer. (The next check is
 * half a minute away.)
 */
export async function fallsAsleep(lab: Lab): Promise<void> {
  await lab.laptop.must('alice', 'systemctl', ['--user', 'start', 'nix-lan-check.service'])
  lab.laptop.freeze()
}

/**
 * Builds that tell how much longer one takes than at home, where the box answers for each path that
 * it hasn't got it.
 */
export class Builds {
  private readonly lab: Lab
  private readonly name: string
  private count = 0
  private usual = 0
  /** The store paths that were built. */
  readonly paths: string[] = []
  /** The longest delay so far, in milliseconds. */
  longest = 0

  constructor(lab: Lab, name: string) {
    this.lab = lab
    this.name = name
  }

  /** What a build takes when nothing is wrong: the middle one of three. */
  async atHome(): Promise<void> {
    const times: number[] = []
    for (let i = 0; i < 3; i++) times.push((await this.build()).ms)
    this.usual = times.sort((a, b) => a - b)[1] ?? 0
    this.longest = 0
  }

  /**
   * Builds one more, which nobody has built yet, and takes down its delay. @throws Error when it
   * fails
   */
  async build(seconds = 0): Promise<{ path: string; stderr: string; ms: number; delay: number }> {
    this.count += 1
    const args = ['--argstr', 'name', `${this.name}-${this.count}`, '--arg', 'seconds', String(seconds)]
    const { paths, stderr, ms } = await this.lab.build(args)
    const [path = ''] = paths
    this.paths.push(path)
    const delay = ms - this.usual - 1000 * seconds
    this.longest = Math.max(this.longest, delay)
    return { path, stderr, ms, delay }
  }
}

/**
 * What the laptop remembers about a tunnel that isn't ready: why, and how many attempts have come
 * to nothing.
 */
export function tunnelState(lab: Lab): Pick<TunnelState, 'reason' | 'failures'> {
  try {
    return JSON.parse(lab.laptop.read(`/run/user/1000/nix-lan/${CACHE}.tunnel`)) as TunnelState
  } catch {
    return { reason: '', failures: 0 } // all is well
  }
}

/** How often systemd has started the tunnel unit since then; with `boot` only since the laptop's boot. */
export async function attempts(lab: Lab, since: number, boot: 'any boot' | 'this boot' = 'any boot'): Promise<number> {
  const match = [...(boot === 'this boot' ? ['--boot'] : []), ...ofUserUnit(TUNNEL)]
  const lines = await lab.laptop.journal({ since, match })
  return lines.filter((line) => /systemd\[\d+\]: Starting /.test(line)).length
}

/**
 * A reason why there is no tunnel is in the journal, and not again with each attempt: only once
 * more after another reason, such as a box that has no time to answer, or with a new start.
 */
export async function saidOnce(lab: Lab, since: number, reason: RegExp): Promise<void> {
  const read = () => lab.laptop.journal({ since, match: ofUserUnit(TUNNEL) })
  await lab.eventually('a line in the journal', async () => (await read()).some((line) => reason.test(line)))
  const reasons = (await read()).filter((line) => line.includes(`: ${CACHE}: `))
  const said = reasons.filter((line) => reason.test(line)).length
  const starts = await attempts(lab, since)
  assert.ok(said >= 1 && said <= Math.max(1, starts) + reasons.length - said, `${starts} starts\n${reasons.join('\n')}`)
}

/**
 * What must hold whatever happens: no unit of alice's or of the system's is red, no start limit was
 * hit, no program of ours has crashed, and the tunnel was started at most as often as its growing
 * pauses and the checks allow.
 * @param stops how often the test itself has stopped it
 */
export async function calm(lab: Lab, since: number, stops = 0): Promise<void> {
  assert.equal(await lab.laptop.systemctl('--failed', '--no-legend', '--plain'), '', 'no unit of alice’s is red')
  assert.equal(await lab.laptop.must('root', 'systemctl', ['--failed', '--no-legend', '--plain']), '', 'no unit is red')
  const journal = await lab.laptop.journal({ since, match: ['_UID=1000'] })
  assert.equal(
    journal.filter((line) => /start-limit-hit|Start request repeated too quickly/.test(line)),
    [],
  )
  const connect = await lab.laptop.journal({ since, match: ['-u', 'nix-daemon'] })
  assert.equal(
    [...journal, ...connect].filter((line) => /node:internal|(Type|Reference|Range)Error/.test(line)),
    [],
  )
  const minutes = (Date.now() - since) / 60_000
  const tried = await attempts(lab, since)
  assert.ok(tried <= 10 + stops + 6 * minutes, `${tried} starts of the tunnel in ${minutes.toFixed(1)} minutes\n${journal.join('\n')}`)
}
