// What the commands say of themselves, for the tests of it: a folder to stand in, with a
// configuration, and every command by its help. NIX_LAN_TEST_RUNTIME: see launcher.test.ts.
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { namesOf, parseHelp } from '../../build/help.ts'
import { PATH } from './needs.ts'

export const DIST = resolve('dist')
export const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-docs-'))
process.on('exit', () => rmSync(TMP, { recursive: true, force: true }))
const RUNTIME = process.env.NIX_LAN_TEST_RUNTIME ?? join(TMP, 'runtime')
for (const name of ['runtime', 'home', 'work', 'work/store-paths']) mkdirSync(join(TMP, name))
if (!process.env.NIX_LAN_TEST_RUNTIME) symlinkSync(process.execPath, join(TMP, 'runtime/node'))
writeFileSync(
  join(TMP, 'config.toml'),
  'user = "x"\n[cache.rpi]\nhost = "a"\n  [ cache . "nas" ] # mine\nurl = "http://a"\n[cache.rpi-2]\nhost = "b"\n',
)

const env = {
  PATH: `${RUNTIME}:${DIST}:${PATH}`,
  HOME: join(TMP, 'home'),
  NIX_LAN_CONFIG: join(TMP, 'config.toml'),
  LC_ALL: 'C.UTF-8',
  TERM: 'xterm',
}

/** Runs a program in that folder, to its end. */
export function start(program: string, args: string[], input?: string): { code: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(program, args, { env, cwd: join(TMP, 'work'), input, encoding: 'utf8', timeout: 300_000 })
  return { code: status, stdout, stderr }
}

const EXECUTABLES = readdirSync(DIST).filter((name) => /^(nix-lan|post-build-hook)/.test(name))
/** The help of a command, as a page is made from it. */
export const helpOf = ([program = '', ...words]: readonly string[]) => parseHelp(start(join(DIST, program), [...words, '--help']).stdout)
export const SUBCOMMANDS = namesOf(helpOf(['nix-lan']), 'Commands').map((name) => ['nix-lan', name])
/** Each program, and each subcommand of nix-lan. */
export const COMMANDS = [...EXECUTABLES.map((name) => [name]), ...SUBCOMMANDS]
/** What comes below a subcommand: nix-lan queue add. */
export const ACTIONS = SUBCOMMANDS.flatMap((command) => namesOf(helpOf(command), 'Actions').map((name) => [...command, name]))

/** The man pages. */
export const pages = ['man1', 'man5'].flatMap((folder) =>
  readdirSync(join(DIST, 'man', folder)).map((file) => join(DIST, 'man', folder, file)),
)
