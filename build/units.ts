// Reads scripts/units for who bundles: build/bundle.ts, and test/lib/runner.ts for the tests.
import { readdirSync, readFileSync } from 'node:fs'

const FOLDER = 'scripts/units'

/** File name → text, by name. */
export function readUnits(): Record<string, string> {
  const names = readdirSync(FOLDER).sort()
  return Object.fromEntries(names.map((name) => [name, readFileSync(`${FOLDER}/${name}`, 'utf8')]))
}

/** What esbuild puts in for the constant of scripts/system/units.ts, in those bundles that use it. */
export const unitsDefine = (): Record<string, string> => ({ NIX_LAN_UNITS: JSON.stringify(readUnits()) })
