// The files of dist/ that are made from what the executables say of themselves: man pages and completions.
import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { completions } from './completions.ts'
import { entriesOf, type Help, parseHelp } from './help.ts'
import { commandPage, markdownPage, pageName } from './man.ts'

const run = promisify(execFile)

/** Not for users, so that it has no page. */
const WITHOUT = ['demo']

/**
 * Man pages and completions: path in dist/ → text.
 * @param executables the text of each, as it is about to lie in dist/
 * @throws Error for a help that doesn't follow the layout (help.ts)
 */
export async function docs(executables: ReadonlyMap<string, string>, version: string): Promise<Record<string, string>> {
  const helps = await helpsOf(executables)
  const names = helps.map(({ name }) => pageName(name)).sort()
  const pages = helps.map((help) => [`man/man1/${pageName(help.name)}.1`, commandPage(help, names, version)] as const)
  const config = markdownPage(readFileSync('docs/config.md', 'utf8'), 5, version, names)
  return { ...Object.fromEntries(pages), 'man/man5/nix-lan-config.5': config, ...completions(helps) }
}

/** The help of each executable and of each subcommand of nix-lan, by starting them; in the order of their names. */
async function helpsOf(executables: ReadonlyMap<string, string>): Promise<Help[]> {
  const folder = mkdtempSync(join(tmpdir(), 'nix-lan-build-'))
  try {
    mkdirSync(join(folder, 'home'))
    writeFileSync(join(folder, 'package.json'), '{"type":"commonjs"}')
    const names = [...executables.keys()].filter((name) => !WITHOUT.includes(name))
    for (const name of names) writeFileSync(join(folder, name), executables.get(name) ?? '')
    const own = await Promise.all(names.map((name) => helpOf(folder, name)))
    const commands = own.flatMap((help) => entriesOf(help, 'Commands').map(({ term }) => [help.name, term] as const))
    const subcommands = await Promise.all(commands.map(([name, command]) => helpOf(folder, name, command)))
    return [...own, ...subcommands].sort((a, b) => (a.name < b.name ? -1 : 1))
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** With nothing in the environment that could change a word of it. */
async function helpOf(folder: string, name: string, ...words: string[]): Promise<Help> {
  const args = [join(folder, name), ...words, '--help']
  const { stdout } = await run(process.execPath, args, { env: { HOME: join(folder, 'home'), NIX_LAN_CALLED_AS: name } })
  const help = parseHelp(stdout)
  if (help.name !== [name, ...words].join(' ')) throw new Error(`${[name, ...words].join(' ')} --help is that of ${help.name}`)
  return help
}
