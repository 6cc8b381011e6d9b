// Files that aren't TypeScript but belong in a bundle: esbuild replaces constants with their text.
// (Not with its text loader: Deno, which also checks the sources, imports only TypeScript and
// JavaScript.) Used by build/bundle.ts, and by test/lib/runner.ts, which bundles the tests.
import { readdirSync, readFileSync } from 'node:fs'

const UNITS = 'scripts/units'
const HEADS = 'scripts/heads'

/** The scripts for `sh -c`: the constant's property → the file in scripts/heads. */
const SCRIPTS = { keeper: 'keeper.sh', boxProbe: 'box-probe.sh', boxSocket: 'box-socket.sh', boxKeys: 'box-keys.sh' }

/** The units of one of systemd's managers: file name → text, sorted by name. */
export function readUnits(manager: 'user' | 'system'): Record<string, string> {
  const folder = `${UNITS}/${manager}`
  const names = readdirSync(folder).sort()
  return Object.fromEntries(names.map((name) => [name, readFileSync(`${folder}/${name}`, 'utf8')]))
}

/** The script without its comments; those are only for readers of the file. */
const readScript = (name: string): string =>
  readFileSync(`${HEADS}/${name}`, 'utf8')
    .replace(/^ *#.*\n/gm, '')
    .replace(/^\n+/, '')

/**
 * A constant that is a string: for an object, esbuild puts a line into every module of the bundle.
 */
const asText = (value: unknown): string => JSON.stringify(JSON.stringify(value))

const withoutComments = (units: Record<string, string>): Record<string, string> =>
  Object.fromEntries(Object.entries(units).map(([name, text]) => [name, text.replace(/^#.*\n/gm, '')]))

/** What esbuild inserts for the constants in scripts/system/texts.ts, in bundles that use them. */
export const textDefines = (): Record<string, string> => ({
  NIX_LAN_UNITS: asText(withoutComments(readUnits('user'))),
  NIX_LAN_SYSTEM_UNITS: asText(withoutComments(readUnits('system'))),
  ...Object.fromEntries(Object.entries(SCRIPTS).map(([name, file]) => [`NIX_LAN_SCRIPTS.${name}`, JSON.stringify(readScript(file))])),
})
