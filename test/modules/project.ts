// What the tests of flake.nix, default.nix and nix/ share: a world (test/nix/world.ts) of each Nix,
// with a copy of the project in it, and the stand-in for nixpkgs that lies in stub/. Nothing of
// nixpkgs itself can be had here; nix/README.md says what that leaves untried.
import { cpSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { createWorld, nixConf, type World, type WorldOptions } from '../nix/world.ts'

/** The Nix versions that read nix/, by where they come from. The host's is Debian 12's 2.8.0. */
export const NIXES: { nix: WorldOptions['nix']; version: string }[] = [
  { nix: 'bullseye', version: '2.3' },
  { nix: 'host', version: '2.8' },
  { nix: 'trixie', version: '2.26' },
  { nix: 'forky', version: '2.34' },
]

/** What a flake's source has of the project, as far as Nix looks at it. */
const PARTS = [
  'flake.nix',
  'default.nix',
  'package.json',
  'package-lock.json',
  'LICENSE',
  'README.md',
  'nix',
  'dist',
  'test/modules/stub',
  'test/modules/cases.nix',
]

/** A world and where the project lies in it. */
export interface Project {
  world: World
  /** A folder that has the same path inside and outside of the world. */
  folder: string
  /** The stand-in for nixpkgs, in that folder. */
  stub: string
}

/** Makes a world with a copy of the project, which a test may change. */
export async function createProject(nix: WorldOptions['nix']): Promise<Project> {
  const world = await createWorld({ nix })
  const folder = `${world.dir}/project`
  mkdirSync(folder)
  for (const part of PARTS) cpSync(part, `${folder}/${part}`, { recursive: true })
  world.write('/etc/nix/nix.conf', nixConf({ 'experimental-features': 'nix-command flakes' }))
  return { world, folder, stub: `${folder}/test/modules/stub` }
}

/** All .nix files of the project, relative to its root. */
export function nixFiles(): string[] {
  const inFolder = (folder: string): string[] => below(folder).map((file) => `${folder}/${file}`)
  return ['flake.nix', 'default.nix', ...inFolder('nix'), ...inFolder('test/modules')].filter((file) => file.endsWith('.nix'))
}

/** The files below a folder, by their paths in it, in order. */
export function below(folder: string, path = ''): string[] {
  const entries = readdirSync(`${folder}/${path}`, { withFileTypes: true })
  const files = entries.flatMap((entry) => (entry.isDirectory() ? below(folder, `${path}${entry.name}/`) : [`${path}${entry.name}`]))
  return files.sort()
}

/** The environment for a Nix that works on the store itself, without a daemon. */
export const LOCAL = { NIX_REMOTE: 'local' }

/** The value of a Nix expression. @throws Error with what Nix said */
export async function evaluate(project: Project, expression: string): Promise<unknown> {
  // read-write: so that what a path in the answer has can be read
  const args = ['--eval', '--read-write-mode', '--strict', '--json', '--expr', expression]
  return JSON.parse(await project.world.must('root', 'nix-instantiate', args, { env: LOCAL, cwd: project.folder }))
}

/** The same with every store path's hash replaced, so that it stays the same when dist/ changes. */
export const withoutHashes = (text: string): string => text.replace(/(\/nix\/store\/)[0-9a-df-np-sv-z]{32}/g, '$1HASH')

/**
 * An evaluated configuration as text for people: a line for each value, by its path, in the order
 * of the alphabet; below it the lines of a longer text and the elements of a list.
 */
export function flatten(tree: unknown, path = ''): string {
  if (Array.isArray(tree))
    return block(
      path,
      tree.map((one) => `- ${typeof one === 'string' ? one : JSON.stringify(one)}`),
    )
  if (typeof tree === 'string' && tree.includes('\n')) return block(path, tree.replace(/\n$/, '').split('\n'))
  if (typeof tree !== 'object' || tree === null || Array.isArray(tree)) return `${path} = ${JSON.stringify(tree)}\n`
  const entries = Object.entries(tree).sort(([a], [b]) => (a < b ? -1 : 1))
  return entries.map(([name, value]) => flatten(value, path ? `${path} ${name}` : name)).join('')
}

const block = (path: string, lines: string[]): string => `${path}:\n${lines.map((line) => `    ${line}`.trimEnd()).join('\n')}\n`

/** A file of the project. */
export const textOf = (file: string): string => readFileSync(file, 'utf8')
