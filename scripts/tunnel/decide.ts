// Decides what `nix-lan check` does about a cache: turns facts into one action, and both into
// words. Pure: scripts/commands/check.ts asks and acts.
import type { Answer } from '../reach/reach.ts'
import type { UnitFacts } from '../system/systemd.ts'

/** What is known about a box when its action is decided. */
export interface Facts {
  /** null: not asked, because ssh is alive and nobody is there to read the answer. */
  answer: Answer | null
  /** Somebody listens on the tunnel's socket: its ssh is alive. */
  listening: boolean
  /** Its target and its tunnel; null without a user manager or if the units are not installed. */
  units: { target: UnitFacts; tunnel: UnitFacts } | null
  /** The tunnel's pause after failures. */
  pause: {
    /** Seconds until its next attempt; 0: no pause. */
    left: number
    /** Seconds since the failed attempt. */
    age: number
    reason: string
  }
  /** Only the timer started this check: nothing suggests that anything has changed. */
  byTimer: boolean
  /** The configuration was changed a moment ago. */
  configured: boolean
}

/**
 * start: the box is there, so its target starts and pulls in the tunnel. stop: the box is away.
 * retry: the tunnel's pause ends now. revive: the tunnel had been given up for good over a wrong
 * configuration and is started again.
 */
export type Action = 'none' | 'start' | 'stop' | 'retry' | 'revive'

/**
 * A tunnel that failed fewer seconds ago than this asked for this check itself. Its pause stays, or
 * tunnel and check would trigger each other in a tight loop.
 */
const FRESH = 5

/**
 * What to do. Never stops a live ssh: its ServerAlive decides, and a build may be fetching through
 * it.
 */
export function actionFor({ answer, listening, units, pause, byTimer, configured }: Facts): Action {
  if (!units) return 'none'
  const up = isUp(units.target)
  if (answer && !answer.ok) return up && !listening ? 'stop' : 'none'
  // The tunnel stops before its target, so a target that is about to stop still looks active.
  if (!up || units.tunnel.ActiveState === 'deactivating') return 'start'
  if (units.tunnel.ActiveState === 'failed') return byTimer && !configured ? 'none' : 'revive'
  const waits = units.tunnel.ActiveState === 'activating' && pause.left > 0
  return waits && !byTimer && pause.age > FRESH ? 'retry' : 'none'
}

/**
 * Whether the box's answer would change nothing. Then the timer's check needn't ask, which would
 * wake the network on both machines.
 */
export function needsNoAnswer({ listening, units }: Pick<Facts, 'listening' | 'units'>): boolean {
  return listening && units !== null && isUp(units.target) && units.tunnel.ActiveState === 'active'
}

const isUp = (target: UnitFacts): boolean => target.ActiveState === 'active'

/**
 * The line about a cache: what was found and what is being done. `away` and `reachable` mean the
 * same as in nix-lan-available.
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
