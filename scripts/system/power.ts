// Whether now is a bad time for work that can wait: a connection that is paid for by the byte, or a
// battery that runs low. Asked by busctl, which systemd brings: 27 ms, a third of nmcli. Where
// there is neither NetworkManager nor a battery, every time is good.
import { readdirSync, readFileSync } from 'node:fs'
import { run } from './exec.ts'
import { searchEnv } from './search-path.ts'

/** Milliseconds for the bus to answer. */
const PATIENCE = 2000

const SUPPLIES = '/sys/class/power_supply'

/** What is known of the moment; undefined: nobody can tell. */
export interface Power {
  metered: boolean | undefined
  external: boolean | undefined
  /** Percent of the fullest of the machine's batteries; undefined: it has none. */
  battery: number | undefined
}

/**
 * When work waits: `metered` false: whatever the connection costs. `battery`: below so many
 * percent, 0: never.
 */
export interface Wishes {
  metered: boolean
  battery: number
}

/**
 * Asks all at once.
 * @param supplies where the kernel tells of batteries (Linux,
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

/** Why work should wait; undefined: it needn't. Pure. */
export function whyWait({ metered, external, battery }: Power, wishes: Wishes): string | undefined {
  if (wishes.metered && metered === true) return 'the connection is metered'
  if (battery !== undefined && external === false && battery < wishes.battery) return `the battery is at ${battery} %`
  return undefined
}

/**
 * NMMetered (NetworkManager, src/libnm-core-public/nm-dbus-interface.h): 1 yes, 3 yes as far as
 * can be guessed, 2 and 4 no, 0 unknown.
 */
function meteredOf(answer: string | undefined): boolean | undefined {
  const [, value] = /^u ([0-4])$/.exec(answer ?? '') ?? []
  return value === undefined || value === '0' ? undefined : value === '1' || value === '3'
}

/** What `busctl get-property` prints: a type and a value, as in `u 4` or `b true`. */
async function property(...names: [service: string, object: string, interfaceName: string, name: string]): Promise<string | undefined> {
  const asked = await run('busctl', ['--system', 'get-property', ...names], { env: searchEnv(), timeout: PATIENCE })
  return asked.code === 0 ? asked.stdout.trim() : undefined
}

/** Not that of a mouse (scope Device). */
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
