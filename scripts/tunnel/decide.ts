// What `nix-lan check` does about a cache: from facts to one action, and the words for both. Pure;
// scripts/commands/check.ts asks and acts.
import type { Answer } from '../reach/reach.ts'
import type { UnitFacts } from '../system/systemd.ts'

/** What is known of a box when its action is decided. */
export interface Facts {
  /** null: not asked, since ssh is alive and nobody is there to read the answer. */
  answer: Answer | null
  /** Somebody listens on the tunnel's socket: its ssh is alive. */
  listening: boolean
  /**
   * Its target and its tunnel; null where there is no user manager, or the units are not installed.
   */
  units: { target: UnitFacts; tunnel: UnitFacts } | null
  /** The tunnel's pause after failures. */
  pause: {
    /** Seconds until its next attempt; 0: none. */
    left: number
    /** Seconds since the attempt that failed. */
    age: number
    reason: string
  }
  /** Nothing but the timer started this check: nobody says that anything has changed. */
  byTimer: boolean
  /** The configuration was changed a moment ago. */
  configured: boolean
}

/**
 * start: the box is there, so its target starts, and with it the tunnel. stop: it is away. retry:
 * the tunnel's pause ends now. revive: the tunnel was given up for good, because of a wrong
 * configuration, and is started again.
 */
export type Action = 'none' | 'start' | 'stop' | 'retry' | 'revive'

/**
 * A tunnel that failed less than so many seconds ago asked for this check itself: its pause stays,
 * or the two would chase each other as fast as they can.
 */
const FRESH = 5

/**
 * What to do. An ssh that is alive is never stopped: its ServerAlive decides, and a build may be
 * fetching through it.
 */
export function actionFor({ answer, listening, units, pause, byTimer, configured }: Facts): Action {
  if (!units) return 'none'
  const up = isUp(units.target)
  if (answer && !answer.ok) return up && !listening ? 'stop' : 'none'
  // Since the tunnel is stopped before the target, a target that is about to stop looks active
  // until then.
  if (!up || units.tunnel.ActiveState === 'deactivating') return 'start'
  if (units.tunnel.ActiveState === 'failed') return byTimer && !configured ? 'none' : 'revive'
  const waits = units.tunnel.ActiveState === 'activating' && pause.left > 0
  return waits && !byTimer && pause.age > FRESH ? 'retry' : 'none'
}

/**
 * Whether the box's answer can't change anything: then a timer need not ask, which wakes the
 * network of both.
 */
export function needsNoAnswer({ listening, units }: Pick<Facts, 'listening' | 'units'>): boolean {
  return listening && units !== null && isUp(units.target) && units.tunnel.ActiveState === 'active'
}

const isUp = (target: UnitFacts): boolean => target.ActiveState === 'active'

/**
 * The line about a cache: what was found and what is done. `away` and `reachable` mean what they
 * mean for nix-lan-available.
 */
export function describe(name: string, facts: Facts, action: Action): string {
  const { answer } = facts
  const tunnel = tunnelWords(facts, action)
  if (!answer) return `${name}: ${tunnel}`
  const port = answer.ok && answer.port !== undefined ? ` port ${answer.port}` : ''
  const found = answer.ok ? `reachable at ${answer.address}${port} (${answer.ms} ms)` : `away: ${answer.reason}`
  return `${name}: ${found}${tunnel ? `; ${tunnel}` : ''}`
}

function tunnelWords({ answer, listening, units, pause }: Facts, action: Action): string {
  if (action === 'start') return 'starting its tunnel'
  if (action === 'stop') return 'stopping its tunnel'
  if (action === 'retry') return `its tunnel tries again at once${pause.reason && ` (${pause.reason})`}`
  if (action === 'revive') return 'starting its tunnel, which had been given up'
  if (listening && answer && !answer.ok) return 'its ssh is alive, and will notice by itself'
  if (listening && units?.tunnel.ActiveState !== 'activating') return 'its tunnel is up'
  if (!units) return ''
  if (units.tunnel.ActiveState === 'failed') return 'its tunnel has been given up: nix-lan doctor says why'
  if (answer && !answer.ok) return ''
  if (pause.left > 0) return `its tunnel tries again in ${Math.ceil(pause.left)} s${pause.reason && `: ${pause.reason}`}`
  return units.tunnel.ActiveState === 'inactive' ? 'its tunnel is stopped' : 'its tunnel is being made'
}
