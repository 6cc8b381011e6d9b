// Makes the files in dist/ that come from the executables' own --help: man pages and completions.
import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { completions } from './completions.ts'
import { type Help, namesOf, parseHelp } from './help.ts'
import { commandPage, markdownPage, pageName } from './man.ts'

const run = promisify(execFile)

/** Not for users, so it gets no page. */
const WITHOUT = ['demo']

/**
 * Man pages and completions: path in dist/ → text.
 * @param executables the text of each, as it will be in dist/
 * @throws Error if a help doesn't follow the layout (help.ts)
 */
export async function docs(executables: ReadonlyMap<string, string>, version: string): Promise<Record<string, string>> {
  const helps = await helpsOf(executables)
  const actionsOf = (help: Help): Help[] =>
    namesOf(help, 'Actions').flatMap((action) => helps.filter(({ name }) => name === `${help.name} ${action}`))
  const actions = helps.flatMap(actionsOf)
  const commands = helps.filter((help) => !actions.includes(help)) // an action is described on its command's page
  const names = commands.map(({ name }) => pageName(name)).sort()
  const pages = commands.map((help) => [`man/man1/${pageName(help.name)}.1`, commandPage(help, actionsOf(help), names, version)] as const)
  const config = markdownPage(readFileSync('docs/config.md', 'utf8'), 5, version, names)
  return { ...Object.fromEntries(pages), 'man/man5/nix-lan-config.5': config, ...completions(helps) }
}

/**
 * Runs each executable, each subcommand of nix-lan and each of their actions for its help; sorted
 * by name.
 */
async function helpsOf(executables: ReadonlyMap<string, string>): Promise<Help[]> {
  const folder = mkdtempSync(join(tmpdir(), 'nix-lan-build-'))
  try {
    mkdirSync(join(folder, 'home'))
    writeFileSync(join(folder, 'package.json'), '{"type":"commonjs"}')
    const names = [...executables.keys()].filter((name) => !WITHOUT.includes(name))
    for (const name of names) writeFileSync(join(folder, name), executables.get(name) ?? '')
    const own = await Promise.all(names.map((name) => helpOf(folder, name)))
    const commands = await below(folder, own, 'Commands')
    const actions = await below(folder, commands, 'Actions')
    return [...own, ...commands, ...actions].sort((a, b) => (a.name < b.name ? -1 : 1))
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** The helps of whatever these helps list under a title. */
async function below(folder: string, helps: readonly Help[], title: 'Commands' | 'Actions'): Promise<Help[]> {
  const names = helps.flatMap((help) => namesOf(help, title).map((name) => [...help.name.split(' '), name]))
  return await Promise.all(names.map(([program = '', ...words]) => helpOf(folder, program, ...words)))
}

/** Runs it with an environment that can't change a word of the help. */
async function helpOf(folder: string, name: string, ...words: string[]): Promise<Help> {
  const args = [join(folder, name), ...words, '--help']
  const { stdout } = await run(process.execPath, args, { env: { HOME: join(folder, 'home'), NIX_LAN_CALLED_AS: name } })
  const help = parseHelp(stdout)
  if (help.name !== [name, ...words].join(' ')) throw new Error(`${[name, ...words].join(' ')} --help is that of ${help.name}`)
  return help
}
