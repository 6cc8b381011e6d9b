// The JavaScript runtime as the heads find it (scripts/heads/runtime.sh), for who has to tell beforehand what they will find.
import { accessSync, constants, statSync } from 'node:fs'

/** The oldest ones that dist/ runs on; in the order in which they are looked for. */
const OLDEST: Record<string, readonly [major: number, minor: number]> = { node: [18, 19], deno: [2, 0], bun: [1, 0] }

export const RUNTIMES = Object.keys(OLDEST)

/** The oldest version that will do, such as `node 18.19`, for a runtime that is older; undefined when it will do. Pure. @param output of `PROGRAM --version` */
export function needsNewer(program: string, output: string): string | undefined {
  const name = program.slice(program.lastIndexOf('/') + 1)
  const [, major = '0', minor = '0'] = /(\d+)\.(\d+)/.exec(output) ?? []
  const [leastMajor, leastMinor] = OLDEST[name] ?? [0, 0]
  const enough = Number(major) > leastMajor || (Number(major) === leastMajor && Number(minor) >= leastMinor)
  return enough ? undefined : `${name} ${leastMajor}.${leastMinor}`
}

/** The first program with one of these names, by directory, then by name; relative directories are left out. */
export function findIn(directories: readonly string[], names: readonly string[]): string | undefined {
  const places = directories.filter((directory) => directory.startsWith('/'))
  return places.flatMap((directory) => names.map((name) => `${directory}/${name}`)).find(isProgram)
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return statSync(path).isFile()
  } catch {
    return false
  }
}
