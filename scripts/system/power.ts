// Tells whether now is a bad time for work that can wait: on a metered connection or a low battery.
// Asks through busctl, which comes with systemd: 27 ms, a third of nmcli's time. Without
// NetworkManager and a battery, any time is good.
import { readdirSync, readFileSync } from 'node:fs'
import { run } from './exec.ts'
import { searchEnv } from './search-path.ts'

/** Milliseconds to wait for the bus. */
const PATIENCE = 2000

const SUPPLIES = '/sys/class/power_supply'

/** The current state; undefined where it isn't known. */
export interface Power {
  metered: boolean | undefined
  external: boolean | undefined
  /** Charge of the machine's fullest battery in percent; undefined if it has none. */
  battery: number | undefined
}

/**
 * When work should wait. `metered`: on a metered connection. `battery`: below this many percent; 0:
 * never.
 */
export interface Wishes {
  metered: boolean
  battery: number
}

/**
 * Asks for everything at once.
 * @param supplies where the kernel lists batteries (Linux,
 *   Documentation/ABI/testing/sysfs-class-power)
 */
export async function readPower(supplies = SUPPLIES): Promise<Power> {
  const battery = batteryIn(supplies)
  const [metered, external] = await Promise.all([
    property('org.freedesktop.NetworkManager', '/org/freedesktop/NetworkManager', 'org.freedesktop.NetworkManager', 'Metered'),
    battery === undefined
      ? undefined
      : property('org.freedesktop.login1', '/org/freedesktop/login1', 'org.freedesktop.login1.Manager', 'OnExternalPower'),
  ])
  return { metered: meteredOf(metered), external: external === undefined ? undefined : /^b true$/.test(external), battery }
}

/** Why work should wait; undefined if it needn't. Pure. */
export function whyWait({ metered, external, battery }: Power, wishes: Wishes): string | undefined {
  if (wishes.metered && metered === true) return 'the connection is metered'
  if (battery !== undefined && external === false && battery < wishes.battery) return `the battery is at ${battery} %`
  return undefined
}

/**
 * NMMetered (NetworkManager, src/libnm-core-public/nm-dbus-interface.h): 1 yes, 3 guessed yes, 2
 * no, 4 guessed no, 0 unknown.
 */
function meteredOf(answer: string | undefined): boolean | undefined {
  const [, value] = /^u ([0-4])$/.exec(answer ?? '') ?? []
  return value === undefined || value === '0' ? undefined : value === '1' || value === '3'
}

/** What `busctl get-property` prints: a type and a value, such as `u 4` or `b true`. */
async function property(...names: [service: string, object: string, interfaceName: string, name: string]): Promise<string | undefined> {
  const asked = await run('busctl', ['--system', 'get-property', ...names], { env: searchEnv(), timeout: PATIENCE })
  return asked.code === 0 ? asked.stdout.trim() : undefined
}

/** Skips batteries of mice and the like (scope Device). */
function batteryIn(supplies: string): number | undefined {
  const read = (supply: string, file: string): string => {
    try {
      return readFileSync(`${supplies}/${supply}/${file}`, 'latin1').trim()
    } catch {
      return ''
    }
  }
  try {
    const own = readdirSync(supplies).filter((supply) => read(supply, 'type') === 'Battery' && read(supply, 'scope') !== 'Device')
    const levels = own.map((supply) => read(supply, 'capacity')).filter((level) => /^\d+$/.test(level))
    return levels.length > 0 ? Math.max(...levels.map(Number)) : undefined
  } catch {
    return undefined
  }
}
