// The environment nix-lan-run reads, and what it changes in it for the command.
import { Failure } from '../cli/errors.ts'
import { readText } from '../nix/nix-conf.ts'
import { type Found, findProgram } from './program.ts'
import { appendix } from './substituters.ts'

/** How deeply scripts may start nix-lan-run again before it assumes a loop. */
const MAX_DEPTH = 10
const DEPTH = 'NIX_LAN_RUN_DEPTH'

/**
 * Set for the nix we ask for its substituters: if that is a script that starts nix-lan-run, it must
 * not ask again.
 */
export const ASKED = 'NIX_LAN_RUN_ASKED'

/**
 * The program, started through env(1) if the head's sh has dropped variables whose names it can't
 * handle: dash does that to bash's exported functions (`BASH_FUNC_name%%`). /proc still has the
 * environment the head was started with.
 */
export function wholeEnvironment(program: string): { program: string; args?: string[] } {
  const lost = (readText(`/proc/${process.ppid}/environ`) ?? '').split('\0').filter((entry) => {
    const [, name] = /^([^=]+)=/.exec(entry) ?? []
    return name !== undefined && !/^[A-Za-z_][A-Za-z0-9_]*$/.test(name) && process.env[name] === undefined && !entry.includes('\ufffd')
  })
  const env = lost.length > 0 && !program.includes('=') ? findProgram('env') : undefined
  return env?.ok ? { program: env.program, args: ['--', ...lost, program] } : { program }
}

/**
 * What changes in the environment. Scripts are counted: one may be a wrapper that starts
 * nix-lan-run again.
 * @param line the line to append to NIX_CONFIG
 * @throws Failure (exit 126) for a script that does so endlessly
 */
export function changes(
  found: Found & { ok: true },
  line: string | undefined,
): { env: Record<string, string>; append: Record<string, string> } {
  const append: Record<string, string> = line === undefined ? {} : { NIX_CONFIG: appendix(line, nixConfig()) }
  if (!found.script) return { env: {}, append }
  const depth = Number(process.env[DEPTH] ?? 0) + 1
  if (depth > MAX_DEPTH)
    throw new Failure(`${found.program} has started nix-lan-run ${MAX_DEPTH} times over: it seems to call itself (${DEPTH})`, 126)
  return { env: { [DEPTH]: String(depth) }, append }
}

/**
 * NIX_CONFIG. Deno throws if it isn't UTF-8; it then counts as a comment without an end of line.
 */
function nixConfig(): string | undefined {
  try {
    return process.env.NIX_CONFIG
  } catch {
    return '#'
  }
}

/** The variables that decide which nix.conf files Nix reads, and NIX_CONFIG. */
export function confEnvironment(): Record<string, string | undefined> {
  const { NIX_CONF_DIR, NIX_USER_CONF_FILES, NIX_CONFIG_HOME, XDG_CONFIG_HOME, XDG_CONFIG_DIRS } = process.env
  return { NIX_CONF_DIR, NIX_USER_CONF_FILES, NIX_CONFIG_HOME, XDG_CONFIG_HOME, XDG_CONFIG_DIRS, NIX_CONFIG: nixConfig() }
}
