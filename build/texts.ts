// Files that are no TypeScript and yet part of a bundle: esbuild puts their text in for constants.
// (Not by its text loader: Deno, which checks the sources too, imports nothing but TypeScript and
// JavaScript.) For build/bundle.ts, and for test/lib/runner.ts, which bundles the tests.
import { readdirSync, readFileSync } from 'node:fs'

const UNITS = 'scripts/units'
const HEADS = 'scripts/heads'

/**
 * The sh scripts that are given to a shell: the constant's property → the file in scripts/heads.
 */
const SCRIPTS = { keeper: 'keeper.sh' }

/** The systemd units: file name → text, by name. */
export function readUnits(): Record<string, string> {
  const names = readdirSync(UNITS).sort()
  return Object.fromEntries(names.map((name) => [name, readFileSync(`${UNITS}/${name}`, 'utf8')]))
}

/** The script without its comments, which the file is for. */
const readScript = (name: string): string =>
  readFileSync(`${HEADS}/${name}`, 'utf8')
    .replace(/^ *#.*\n/gm, '')
    .replace(/^\n+/, '')

/**
 * What esbuild puts in for the constants of scripts/system/texts.ts, in those bundles that use
 * them.
 */
export const textDefines = (): Record<string, string> => ({
  NIX_LAN_UNITS: JSON.stringify(readUnits()),
  ...Object.fromEntries(Object.entries(SCRIPTS).map(([name, file]) => [`NIX_LAN_SCRIPTS.${name}`, JSON.stringify(readScript(file))])),
})
