// Judges Nix on this machine: its version, its daemon, its settings. Pure: facts in, a verdict out.
import { bytes, shellWord } from '../cli/text.ts'
import { type ConnectUrl, connectIn, leadsTo } from '../config/kinship.ts'
import { CONNECTIONS } from '../config/store-url.ts'
import { type Assignment, noSubstitution, valuesOf } from '../nix/nix-conf.ts'
import { type Settings, wordsOf } from '../nix/settings.ts'
import { type NixVersion, upTo } from '../nix/version.ts'
import { failed, ok, type Verdict, warning } from './check.ts'
import {
  afterwards,
  ENABLE_SOCKET,
  inConfigurationNix,
  inNixConf,
  inSettings,
  joinGroup,
  type Machine,
  RESTART_DAEMON,
  RESTART_SOCKET,
  setupAgain,
} from './fixes.ts'

/** `nix`: it exists and is new enough; says what nix-lan does about a version's bugs. */
export function judgeVersion(version: NixVersion | undefined, why: string): Verdict {
  if (!version) return failed(`nix doesn't tell its version: ${why}`, 'install Nix, or put it in PATH: https://nixos.org/download')
  const name = `${version.lix ? 'Lix' : 'Nix'} ${version.text}`
  if (upTo(version, 3)) {
    return failed(
      `${name} can't run a program as a store; 2.4 was the first that could`,
      'install Nix 2.4 or later, from your system or https://nixos.org/download',
    )
  }
  if (version.lix) return warning(`${name}: nix-lan follows its source, and was never tried with it`, null)
  if (version.text === '2.8.0')
    return ok(`${name}; it doesn't tell hooks what was built (NixOS/nix#6446), so the hook reads the derivation`)
  return ok(name)
}

/** What is known about the local daemon. Times are milliseconds since 1970. */
export interface DaemonFacts {
  /** Nix writes the store itself, without a daemon. */
  single: boolean
  socket: string
  /** Why we may not connect, as an error code of access(2). */
  denied?: string
  /** The group that may connect, if we may not. */
  group?: string
  user: string
  /** Why it didn't answer; undefined: it did. */
  problem?: string
  protocol?: number
  started?: number
  /** Its configuration file that changed last. */
  changed?: { file: string; time: number }
}

/**
 * Milliseconds. A file's time is that of the kernel's last tick; a process's start is known to
 * within 10 ms.
 */
const SLACK = 60

export const protocolText = (version: number): string => `${version >> 8}.${version & 255}`

/** `daemon`: the user may use it, it answers, and it has read the current nix.conf. */
export function judgeDaemon(facts: DaemonFacts, machine: Machine): Verdict {
  if (facts.single) return ok('none: this Nix is your own, and writes its store by itself')
  if (facts.denied === 'EACCES') {
    const group = facts.group ?? 'nix-users'
    return failed(`${facts.user} may not use ${facts.socket}, which is for group ${group}`, joinGroup(machine, group))
  }
  if (facts.denied === 'ENOENT') return failed(`there is no ${facts.socket}`, ENABLE_SOCKET)
  if (facts.problem !== undefined) return failed(`nix-daemon does not answer: ${facts.problem}`, RESTART_SOCKET)
  const { started, changed } = facts
  if (started !== undefined && changed && changed.time > started + SLACK) {
    return failed(`nix-daemon started before ${changed.file} changed and has not reloaded it`, RESTART_DAEMON)
  }
  return ok(
    `nix-daemon answers (protocol ${protocolText(facts.protocol ?? 0)})${started === undefined ? '' : ', and has read nix.conf as it is now'}`,
  )
}

export interface ConfFacts {
  settings: Settings | string
  version: NixVersion | undefined
  /**
   * A file the user may not read. Nix skips it, so the user sees other settings than the daemon.
   */
  hidden?: string
  /** The `include` lines. */
  includes: readonly string[]
}

/** `nix.conf`: Nix can read it, and it has no include that some versions get wrong. */
export function judgeConf({ settings, version, hidden, includes }: ConfFacts, machine: Machine): Verdict {
  const { conf } = machine
  if (hidden !== undefined) return failed(`you may not read ${hidden}, which nix-daemon reads`, `sudo chmod a+r ${hidden}`)
  if (typeof settings === 'string')
    return failed(
      `nix can't read its settings: ${settings}`,
      machine.kind === 'nixos' ? inConfigurationNix('nix.settings or nix.extraOptions') : `fix ${conf}; \`nix show-config\` says the same`,
    )
  const [include] = includes
  if (include !== undefined && version && upTo(version, 21) && !upTo(version, 15)) {
    return warning(
      `${conf} has "${include}", and Nix 2.16 to 2.21 read included files wrongly`,
      `put what the included file says into ${conf} itself`,
    )
  }
  return ok(`${conf} can be read`)
}

/** `fallback`: if the box is lost while Nix fetches from it, Nix builds instead of failing. */
export function judgeFallback(settings: Settings, machine: Machine): Verdict {
  if (settings.get('fallback') !== 'false') return ok('Nix builds what a cache promised and does not deliver')
  return warning('fallback is off: a build fails when the box is lost while Nix fetches from it', inSettings(machine, 'fallback', 'true'))
}

/** `min-free`: in mid-build, Nix's own garbage collection also deletes what no cache has. */
export function judgeMinFree(settings: Settings, machine: Machine): Verdict {
  const bytesFree = Number(settings.get('min-free') ?? 0)
  if (!(bytesFree > 0)) return ok('Nix collects no garbage by itself')
  return warning(
    `min-free is ${bytes(bytesFree)}: below that, Nix deletes what the box does not have, too; gc.keep-free in config.toml deletes only what it has`,
    inSettings(machine, 'min-free', '0'),
  )
}

/** A setting's place in a file. */
export interface Line {
  file: string
  number: number
  text: string
}

export interface SubstituterFacts {
  cache: string
  socket: string
  /** The URL that nix.conf should have, or why it can't be determined. */
  url: string
  /** The settings Nix gets from the system's nix.conf. */
  settings: Settings
  /** The system's assignments, in order. */
  system: readonly Assignment[]
  /** The last line that replaces the list of substituters. */
  replacing?: Line
  /** Whether the line that names the cache is one that setup wrote. */
  ours: boolean
}

const SUBSTITUTERS = new Set(['substituters', 'binary-caches'])

/**
 * The nix-lan-connect for this cache among these URLs.
 * @param socket the tunnel's
 */
export function connectFor(urls: readonly string[], cache: string, socket: string): ConnectUrl | undefined {
  return urls.map(connectIn).find((found) => found && leadsTo(found, cache, socket))
}

/** `substituter`: the system's nix.conf asks the cache; if not, whether another line undoes it. */
export function judgeSubstituter(facts: SubstituterFacts, machine: Machine): Verdict {
  const { cache, socket, settings, system, replacing } = facts
  const file = machine.conf
  const found = connectFor(wordsOf(settings, 'substituters'), cache, socket)
  if (found) return judgeUrl(found, facts, machine)
  const named = system.filter(({ key }) => SUBSTITUTERS.has(key.replace(/^extra-/, ''))).flatMap(({ values }) => values)
  if (replacing && connectFor(named, cache, socket)) {
    const { number, text } = replacing
    return failed(
      `${replacing.file}:${number} "${text}" comes after the line that names ${cache}, and takes it back`,
      machine.kind === 'nixos'
        ? inConfigurationNix('the substituters in nix.settings, none in nix.extraOptions')
        : `in ${replacing.file}: move line ${number} above the line with nix-lan-connect${afterwards(machine)}`,
    )
  }
  const fix = inNixConf(machine, `extra-substituters = ${facts.url}`)
  if (connectFor(valuesOf([...system], new Set(['trusted-substituters', 'trusted-binary-caches']), []), cache, socket)) {
    return failed(`${cache} is only in trusted-substituters: Nix may ask it, and doesn't`, fix)
  }
  const other = named.map(connectIn).find((url) => url?.target.endsWith(`/${cache}.sock`))
  if (other) return failed(`${file} names the socket ${other.target}; that of ${cache} is ${socket}`, fix)
  return failed(`${file} has no substituter for ${cache}`, fix)
}

/** The nix-lan-connect that Nix starts, compared with the one that it should. */
function judgeUrl(found: ConnectUrl, { cache, url, ours }: SubstituterFacts, machine: Machine): Verdict {
  const file = machine.conf
  const right = connectIn(url)
  const words = ({ options, target }: ConnectUrl): string => [...options, target].join(' ')
  const byHand = `in ${file}: put ${url} in place of ${found.url}${afterwards(machine)}`
  const fix = (ours && machine.recorded) || machine.kind === 'nixos' ? setupAgain(machine) : byHand
  const fine = `${file} asks ${cache}, by ${found.program}`
  // By the cache's name it reads the configuration, and finds all that it needs.
  if (!right || found.target === cache) return ok(fine)
  // On NixOS the URL follows the package's version, or the package doesn't tell it (Determinate's).
  if (words(found) === words(right)) return ok(machine.kind === 'nixos' ? fine : fine + connectionsNote(found, right, fix))
  return warning(`${file} asks ${cache} by nix-lan-connect ${words(found)}, not by ${words(right)}`, fix)
}

/**
 * What to know when Nix was upgraded or downgraded since the URL was written: both work. Another
 * number is somebody's own choice.
 */
function connectionsNote({ connections }: ConnectUrl, right: ConnectUrl, fix: string): string {
  const ours = connections === undefined || connections === String(CONNECTIONS)
  if (!ours || connections === right.connections) return ''
  const why =
    right.connections === undefined
      ? 'this version of Nix starts faster with one connection'
      : 'this version of Nix fetches many small paths faster with several connections'
  return `; ${why}: ${fix}`
}

export interface OwnFacts {
  cache: string
  socket: string
  /** The settings Nix gets from all files, for this user. */
  settings: Settings | string
  /** The system's assignments. */
  system: readonly Assignment[]
  /** The user's own assignments: from the files, then from NIX_CONFIG. */
  own: readonly Assignment[]
  /** The file behind a link. */
  behind(file: string): string
  /** The current directory's flake.nix, if its nixConfig replaces the substituters. */
  flake?: string
}

/**
 * `own settings`: neither the user's files nor a flake take the cache out of the system's list, and
 * substitution is on. (The daemon takes `substitute` from its client: remote-store.cc, setOptions.)
 */
export function judgeOwn({ cache, socket, settings, system, own, behind, flake }: OwnFacts): Verdict {
  if (typeof settings === 'string') return failed(`nix can't read your own settings: ${settings}`, 'fix ~/.config/nix/nix.conf')
  if (settings.get('substitute') === 'false') {
    const off = noSubstitution([...system, ...own]) ?? 'some setting'
    const file = off === 'NIX_CONFIG' || off === 'some setting' ? off : behind(off)
    return failed(
      `${off} sets substitute = false: Nix fetches from no cache at all`,
      `take that line out of ${fromStore(file) ? `what made ${file} (nix.settings of NixOS or of Home Manager)` : file}`,
    )
  }
  if (!connectFor(wordsOf(settings, 'substituters'), cache, socket)) {
    const last = own.filter(({ key }) => SUBSTITUTERS.has(key)).pop()
    const where = last?.where ?? 'your own settings'
    const found = `"${last?.key ?? 'substituters'} =" in ${where} replaces the system's list, so that ${cache} is not asked`
    return failed(found, !last || last.where === 'NIX_CONFIG' ? EXTRA : extraIn(behind(last.where), last.key))
  }
  if (flake !== undefined) {
    return warning(`nixConfig in ${flake} sets substituters, so that ${cache} is not asked for this flake`, `in ${flake}: ${EXTRA}`)
  }
  return ok(`nothing of your own takes ${cache} out of the list`)
}

/** Whether a file was built, so that what it is made from has to change. */
const fromStore = (file: string): boolean => file.startsWith('/nix/store/')

const EXTRA = 'write extra-substituters in place of substituters'

/** @param file without links: `sed -i` would replace a link by a file */
function extraIn(file: string, key: string): string {
  if (fromStore(file)) return `${EXTRA} in what made ${file} (Home Manager: nix.settings.extra-substituters)`
  return `sed -i 's/^[[:blank:]]*${key}[[:blank:]]*=/extra-substituters =/' ${shellWord(file)}`
}

/**
 * Whether nixConfig in a flake.nix sets `substituters`, not `extra-substituters`. Ignores comments.
 */
export function flakeReplaces(text: string): boolean {
  const code = text.replace(/#.*$|\/\*[\s\S]*?\*\//gm, '')
  const [, block = ''] = /\bnixConfig\b([\s\S]*)/.exec(code) ?? []
  return /(^|[\s{;.])"?substituters"?\s*=/.test(block)
}

/** `builders`: this machine's key doesn't sign what another machine builds. */
export function judgeBuilders(setting: string, machines: (file: string) => string): Verdict {
  const text = setting.startsWith('@') ? machines(setting.slice(1)) : setting
  const names = text
    .split(/[;\n]/)
    .map((line) => line.replace(/#.*/, '').trim().split(/\s+/)[0] ?? '')
    .filter((name) => name !== '')
  if (names.length === 0) return ok('no other machine builds for this one')
  return warning(
    `${names.join(' and ')} builds for this machine, and secret-key-files does not sign what comes from there`,
    'set secret-key-files there too, and trust that key here and on the box',
  )
}
