// Judges what was seen of Nix on this machine: its version, its daemon, its settings. Pure: facts in, a verdict out.
import { type Assignment, valuesOf } from '../nix/nix-conf.ts'
import { type Settings, wordsOf } from '../nix/settings.ts'
import { failed, ok, type Verdict, warning } from './check.ts'
import { type ConnectUrl, connectIn } from './store-program.ts'

/** Which Nix: `nix (Nix) 2.26.3`, `nix (Lix, like Nix) 2.93.0`. */
export interface NixVersion {
  lix: boolean
  text: string
  major: number
  minor: number
}

/** Reads the first line of `nix --version`; undefined when it isn't one. */
export function parseVersion(output: string): NixVersion | undefined {
  const [, name = '', text = '', major, minor] = /^nix \(([^)]*)\) ((\d+)\.(\d+)\S*)/m.exec(output) ?? []
  if (major === undefined || minor === undefined) return undefined
  return { lix: /Lix/.test(name), text, major: Number(major), minor: Number(minor) }
}

/** Whether it is that version of Nix (not Lix), or an older one. */
export const upTo = (version: NixVersion, minor: number): boolean =>
  !version.lix && (version.major < 2 || (version.major === 2 && version.minor <= minor))

/** Nix up to 2.19 and Lix start a store's program through `bash -c` (src/libstore/ssh.cc). */
export const needsBash = (version: NixVersion): boolean => version.lix || upTo(version, 19)

/** `nix`: that it is there and new enough; what nix-lan does about the faults of a version. */
export function judgeVersion(version: NixVersion | undefined, why: string): Verdict {
  if (!version) return failed(`nix can't be asked for its version: ${why}`, 'install Nix, or put it in PATH: https://nixos.org/download')
  const name = `${version.lix ? 'Lix' : 'Nix'} ${version.text}`
  if (upTo(version, 3)) {
    return failed(
      `${name} can't run a program as a store, which 2.4 was the first to do`,
      'install Nix 2.4 or later, from your system or https://nixos.org/download',
    )
  }
  if (version.lix) return warning(`${name}: nix-lan is made for it by reading its source, and not tried with it`, null)
  if (version.text === '2.8.0')
    return ok(`${name}; it tells hooks nothing of what was built (NixOS/nix#6446), so the derivation's file is read`)
  return ok(name)
}

/** What is known of the local daemon. Times are milliseconds since 1970. */
export interface DaemonFacts {
  /** Nix writes the store by itself: no daemon. */
  single: boolean
  socket: string
  /** Whether we may connect: a code of access(2) if not. */
  denied?: string
  /** The group that may, where one may and we may not. */
  group?: string
  user: string
  /** Why it didn't answer; undefined: it did. */
  problem?: string
  protocol?: number
  started?: number
  /** The file of its configuration that changed last. */
  changed?: { file: string; time: number }
}

/** A file's time is that of the kernel's last tick, and a process's start is known in hundredths of a second. */
const SLACK = 60

export const protocolText = (version: number): string => `${version >> 8}.${version & 255}`

/** `daemon`: that the user may use it, that it answers, that it has read the nix.conf of now. */
export function judgeDaemon(facts: DaemonFacts): Verdict {
  if (facts.single) return ok('none: this Nix is your own, and writes its store by itself')
  if (facts.denied === 'EACCES') {
    const group = facts.group ?? 'nix-users'
    return failed(
      `${facts.user} may not use ${facts.socket}, which is for group ${group}`,
      `sudo usermod -aG ${group} ${facts.user}    # and log in again`,
    )
  }
  if (facts.denied === 'ENOENT') return failed(`there is no ${facts.socket}`, 'sudo systemctl enable --now nix-daemon.socket')
  if (facts.problem !== undefined)
    return failed(`nix-daemon does not answer: ${facts.problem}`, 'sudo systemctl restart nix-daemon.socket nix-daemon')
  const { started, changed } = facts
  if (started !== undefined && changed && changed.time > started + SLACK) {
    return failed(`nix-daemon runs since before ${changed.file} was changed, and has not read that`, 'sudo systemctl restart nix-daemon')
  }
  return ok(
    `nix-daemon answers (protocol ${protocolText(facts.protocol ?? 0)})${started === undefined ? '' : ', and has read the nix.conf of now'}`,
  )
}

export interface ConfFacts {
  settings: Settings | string
  version: NixVersion | undefined
  file: string
  /** A file of the settings that the user may not read: Nix passes over it, and what follows would be about other settings than the daemon's. */
  hidden?: string
  /** Lines with `include`. */
  includes: readonly string[]
}

/** `nix.conf`: that Nix can read it, and no include that some versions get wrong. */
export function judgeConf({ settings, version, file, hidden, includes }: ConfFacts): Verdict {
  if (hidden !== undefined) return failed(`you may not read ${hidden}, which nix-daemon reads`, `sudo chmod a+r ${hidden}`)
  if (typeof settings === 'string')
    return failed(`nix can't read its settings: ${settings}`, `fix ${file}; \`nix show-config\` says the same`)
  const [include] = includes
  if (include !== undefined && version && upTo(version, 21) && !upTo(version, 15)) {
    return warning(
      `${file} has "${include}", and Nix 2.16 to 2.21 read included files wrongly`,
      `put what the included file says into ${file} itself`,
    )
  }
  return ok(`${file} can be read`)
}

/** Where a setting stands in a file. */
export interface Line {
  file: string
  number: number
  text: string
}

export interface SubstituterFacts {
  cache: string
  socket: string
  /** The URL that nix.conf should have, or why it can't be told. */
  url: string
  /** What Nix makes of the system's nix.conf. */
  settings: Settings
  /** The system's assignments in their order. */
  system: readonly Assignment[]
  /** The last line that replaces the list of substituters. */
  replacing?: Line
  file: string
  /** What makes a change of it known. */
  after: string
}

/** What has to be done after a change of nix.conf: a daemon reads it when it starts. */
export const afterwards = (single: boolean): string => (single ? '' : ', then: sudo systemctl restart nix-daemon')

const SUBSTITUTERS = new Set(['substituters', 'binary-caches'])

/** The nix-lan-connect for this cache among some URLs. */
export function connectFor(urls: readonly string[], cache: string, socket: string): ConnectUrl | undefined {
  return urls.map(connectIn).find((found) => found?.target === socket || found?.target === cache)
}

/** `substituter`: that the system's nix.conf asks the cache; if not, whether it did so before another line took it back. */
export function judgeSubstituter(facts: SubstituterFacts): Verdict {
  const { cache, socket, settings, system, replacing, file } = facts
  const found = connectFor(wordsOf(settings, 'substituters'), cache, socket)
  if (found) return ok(`${file} asks ${cache}, by ${found.program}`)
  const named = system.filter(({ key }) => SUBSTITUTERS.has(key.replace(/^extra-/, ''))).flatMap(({ values }) => values)
  if (replacing && connectFor(named, cache, socket)) {
    return failed(
      `${replacing.file}:${replacing.number} "${replacing.text}" comes after the line that names ${cache}, and takes it back`,
      `in ${replacing.file}: move line ${replacing.number} above the line with nix-lan-connect${facts.after}`,
    )
  }
  const line = `in ${file}: extra-substituters = ${facts.url}${facts.after}`
  if (connectFor(valuesOf([...system], new Set(['trusted-substituters', 'trusted-binary-caches']), []), cache, socket)) {
    return failed(`${cache} is only in trusted-substituters: Nix would be allowed to ask it, and doesn't`, line)
  }
  const other = named.map(connectIn).find((url) => url?.target.endsWith(`/${cache}.sock`))
  if (other) return failed(`${file} names the socket ${other.target}; that of ${cache} is ${socket}`, line)
  return failed(`${file} has no substituter for ${cache}`, line)
}

export interface OwnFacts {
  cache: string
  socket: string
  /** What Nix makes of all files, for this user. */
  settings: Settings | string
  /** The user's own assignments: her files, then NIX_CONFIG. */
  own: readonly Assignment[]
  /** The flake.nix of the current directory, if its nixConfig replaces the substituters. */
  flake?: string
}

/** `own settings`: that neither the user's files nor a flake take the cache out of the list that the system's has. */
export function judgeOwn({ cache, socket, settings, own, flake }: OwnFacts): Verdict {
  if (typeof settings === 'string') return failed(`nix can't read your own settings: ${settings}`, 'fix ~/.config/nix/nix.conf')
  if (!connectFor(wordsOf(settings, 'substituters'), cache, socket)) {
    const last = own.filter(({ key }) => SUBSTITUTERS.has(key)).pop()
    const where = last?.where ?? 'your own settings'
    const found = `"${last?.key ?? 'substituters'} =" in ${where} replaces the system's list, so that ${cache} is not asked`
    if (!last || last.where === 'NIX_CONFIG') return failed(found, 'write extra-substituters there, in place of substituters')
    return failed(found, `sed -i 's/^[[:blank:]]*${last.key}[[:blank:]]*=/extra-substituters =/' ${last.where}`)
  }
  if (flake !== undefined) {
    return warning(
      `nixConfig in ${flake} sets substituters, so that ${cache} is not asked for this flake`,
      `in ${flake}: write extra-substituters in place of substituters`,
    )
  }
  return ok(`nothing of your own takes ${cache} out of the list`)
}

/** Whether a flake.nix sets `substituters` (not `extra-substituters`) in its nixConfig; comments aside. */
export function flakeReplaces(text: string): boolean {
  const code = text.replace(/#.*$|\/\*[\s\S]*?\*\//gm, '')
  const [, block = ''] = /\bnixConfig\b([\s\S]*)/.exec(code) ?? []
  return /(^|[\s{;.])"?substituters"?\s*=/.test(block)
}

/** `builders`: what another machine builds is not signed by this one's key. */
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
