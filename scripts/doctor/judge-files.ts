// Judges the files that root runs or trusts, the runtime, the signing key, the queue's directories.
// Pure: facts in, a verdict out.
import { count, shellWord } from '../cli/text.ts'
import { clashes } from '../nix/keys.ts'
import type { Stray } from '../queue/queue.ts'
import { needsNewer } from '../system/runtime.ts'
import type { Doubt } from '../system/trust.ts'
import { failed, ok, type Verdict, warning } from './check.ts'
import {
  afterwards,
  collectOnBox,
  inConfigurationNix,
  inNixConf,
  installRuntime,
  type Machine,
  makeKey,
  retry,
  setupAgain,
  signBuilt,
} from './fixes.ts'

/** A file that nix-daemon runs, as found. */
export interface ProgramFacts {
  file: string
  /** It runs as root and so must be root's; false in a single-user installation. */
  root: boolean
  /** ENOENT, EACCES, …; undefined: it exists. */
  missing?: string
  executable: boolean
  /** Why somebody other than root may control it. */
  doubt?: Doubt
}

/**
 * What is wrong with a program that root runs; undefined if nothing.
 * @param lost what happens if it is missing
 */
function judgeProgram({ file, missing, executable, doubt }: ProgramFacts, lost: string, cure: string): Verdict | undefined {
  if (missing === 'EACCES') return warning(`${file}: only root can see whether it is all right`, 'sudo nix-lan doctor')
  if (missing !== undefined) return failed(`${file} is not there (${missing}): ${lost}`, cure)
  if (!executable) return failed(`${file} is not executable: ${lost}`, `sudo chmod a+rx ${file}`)
  return doubt && failed(`root runs ${file}, but ${doubt.why}`, doubt.fix ?? cure)
}

const LOST = 'every build fails while nix.conf names it'

/**
 * `connect`: the program that nix.conf names as a store.
 * @param right nix-lan's own
 */
export function judgeConnect(facts: ProgramFacts, right: string, machine: Machine): Verdict {
  return judgeProgram(facts, LOST, inNixConf(machine, `name ${right} in its place`)) ?? ok(wellKept(facts))
}

const wellKept = ({ file, root }: ProgramFacts): string => (root ? `${file}, and nobody but root can change it` : file)

export interface HookFacts extends ProgramFacts {
  /** Whether it is nix-lan's own, or calls it. */
  ours: boolean
}

/**
 * `hook`: the program that Nix runs after each build. `file` is empty if there is none.
 * @param right nix-lan's own
 */
export function judgeHook(facts: HookFacts, right: string, machine: Machine): Verdict {
  const cure = inNixConf(machine, `post-build-hook = ${right}`)
  if (facts.file === '') return failed(`${machine.conf} names no post-build-hook: nothing is queued`, cure)
  const wrong = judgeProgram(facts, LOST, cure)
  if (wrong) return wrong
  if (facts.ours) return ok(wellKept(facts))
  const own = inConfigurationNix(`services.nix-lan.extraHooks = [ "${facts.file}" ]; in place of nix.settings.post-build-hook`)
  const call = machine.kind === 'nixos' ? own : `let it call ${right} with the same environment`
  return failed(
    `post-build-hook is ${facts.file}, which does not call nix-lan's: nothing is queued`,
    machine.recorded && machine.kind !== 'nixos' ? setupAgain(machine) : call,
  )
}

/** A runtime as nix-daemon's children would find it. */
export interface RuntimeFacts {
  /** Full path of node, deno or bun; undefined: none found. */
  file?: string
  /** What `--version` printed. */
  version?: string
  doubt?: Doubt
  /** The directories that were searched. */
  path: string
  /** The one running the doctor. */
  own: string
}

/**
 * `runtime`: what runs the JavaScript when nix-daemon starts it must be in a daemon's bare PATH,
 * new enough, and root's.
 */
export function judgeRuntime({ file, version = '', doubt, path, own }: RuntimeFacts, machine: Machine): Verdict {
  const cure = installRuntime(machine, own)
  if (file === undefined) return failed(`nix-daemon finds no node, deno or bun in ${path}${own ? ` (yours is ${own})` : ''}`, cure)
  if (!/\d+\.\d+/.test(version)) return failed(`${file} does not run: ${version || 'it says no version'}`, cure)
  if (needsNewer(file, version)) return failed(`${file} is ${version}: too old`, cure)
  if (doubt !== undefined) return failed(`root runs ${file}, but ${doubt.why}`, doubt.fix ?? cure)
  return ok(`${file} ${version}, where nix-daemon finds it`)
}

/** `bash`: Nix up to 2.19 and Lix start a store's program through it. */
export function judgeBash(needed: boolean, found: string | undefined, path: string, { kind }: Machine): Verdict {
  if (!needed) return ok('not needed by this Nix')
  if (found !== undefined) return ok(`${found}: this Nix starts nix-lan-connect through it`)
  return failed(
    `nix-daemon finds no bash in ${path}, and this Nix starts nix-lan-connect through it`,
    kind === 'nixos'
      ? inConfigurationNix('systemd.services.nix-daemon.path = [ pkgs.bash ];')
      : 'give nix-daemon.service a PATH with bash in it: sudo systemctl edit nix-daemon, Environment=PATH=…',
  )
}

export interface KeyFacts {
  /** The words of secret-key-files. */
  files: readonly string[]
  /** Error code for the first file: ENOENT and the like. */
  missing?: string
  mode?: number
  /** NAME:BASE64, if it could be found. */
  publicKey?: string
  trusted: readonly string[]
}

const keyName = (key: string): string => key.slice(0, key.indexOf(':'))

/**
 * Whether nix-daemon trusts a key whose secret is in secret-key-files. The key need not be in
 * trusted-public-keys, but another key of the same name there takes precedence
 * (src/libstore/crypto.cc, later keys.cc, getDefaultPublicKeys, 2.4 to 2.34).
 * @param key NAME:BASE64
 */
export const trusts = (key: string, trusted: readonly string[]): boolean => trusted.includes(key) || clashes([key], trusted).length === 0

/** `signing`: there is a key, it is secret, and this machine trusts it. */
export function judgeKey({ files, missing, mode = 0, publicKey, trusted }: KeyFacts, machine: Machine): Verdict {
  const [file] = files
  if (file === undefined)
    return failed(`${machine.conf} names no secret-key-files: what is built here can't come back from a cache`, makeKey(machine))
  if (missing !== undefined && missing !== 'EACCES')
    return failed(
      `${file} is not there (${missing}): every build fails`,
      machine.kind === 'nixos' ? 'sudo systemctl restart nix-lan-key    # makes it' : `${setupAgain(machine)}    # or put the key back`,
    )
  if ((mode & 0o077) !== 0) return failed(`others than root can read ${file}, and sign in its name`, `sudo chmod 600 ${file}`)
  // Nix reads the key for every store it writes itself, including a user's own (`--store DIR`;
  // NixOS/nix, LocalStore::signPathInfo).
  const own = machine.kind === 'single' ? '' : "; in a store of your own (--store DIR), build with --option secret-key-files ''"
  if (publicKey === undefined) return ok(`signs with ${file}; \`sudo nix-lan doctor\` says whether it is trusted${own}`)
  if (!trusts(publicKey, trusted)) return notTrusted(publicKey, machine)
  return ok(`signs as ${keyName(publicKey)}, and trusts it${own}`)
}

/** The verdict when nix.conf has another key of that name. */
function notTrusted(publicKey: string, machine: Machine): Verdict {
  const name = keyName(publicKey)
  const other = `another key called ${name} is trusted here, and of two with one name Nix trusts only the first`
  const instead = `in place of the other ${name}`
  return failed(
    `this machine does not trust its own key: ${other}`,
    machine.kind === 'nixos'
      ? inConfigurationNix(`services.nix-lan.publicKey = "${publicKey}"; ${instead}`)
      : `in ${machine.conf}: extra-trusted-public-keys = ${publicKey}, ${instead}${afterwards(machine)}`,
  )
}

/** `unsigned`: what was built here without a signature can't come back from any cache. */
export function judgeUnsigned(unsigned: number, built: number, machine: Machine): Verdict {
  if (built === 0) return ok('nothing was built here yet')
  if (unsigned === 0) return ok(`all that was built here is signed (${count(built, 'path')})`)
  const are = unsigned === 1 ? 'is' : 'are'
  return warning(`${unsigned} of ${count(built, 'path')} built here ${are} unsigned, and can't come back from a cache`, signBuilt(machine))
}

/** A directory of the queue, or one on the way to it. */
export interface DirectoryFacts {
  path: string
  kind: 'directory' | 'other' | 'missing' | 'hidden'
  uid: number
  mode: number
  /** The uid it should have. */
  owner: number
}

/**
 * `queue`: the directories exist; the last ones are the user's, those above them root's and
 * writable by nobody else.
 */
export function judgeQueue(directories: readonly DirectoryFacts[], user: string, make: string): Verdict {
  for (const { path, kind, uid, mode, owner } of directories) {
    const name = owner === 0 ? 'root' : user
    if (kind === 'missing') return failed(`${path} is not there: nothing can wait in it`, make)
    if (kind === 'hidden') return failed(`${path} can't be looked at`, `sudo chmod a+rx ${path.slice(0, path.lastIndexOf('/'))}`)
    if (kind === 'other') return failed(`${path} is not a directory`, `sudo rm ${path} && ${make}`)
    if (uid !== owner) return failed(`${path} belongs to uid ${uid}, not to ${name}`, `sudo chown ${name} ${path}`)
    if ((mode & 0o022) !== 0) return failed(`others can write to ${path}`, `sudo chmod go-w ${path}`)
  }
  return ok(`belongs to ${user}, in a directory of root's`)
}

/** `queues`: each belongs to a cache. @param of the directories of one */
export function judgeStrays(strays: readonly Stray[], of: (cache: string) => readonly string[], machine: Machine): Verdict {
  const [first] = strays
  if (!first) return ok('each belongs to a cache')
  const all = first.queued + first.failed
  const where = of(first.cache).map(shellWord).join(' ')
  const cure = machine.recorded && machine.kind !== 'nixos' ? setupAgain(machine) : `sudo rm -r ${where}    # lets go of what is in it`
  return warning(
    `no cache is called ${first.cache}, but ${all === 1 ? '1 path waits' : `${all} paths wait`} for it: what waits stays in the store, and goes nowhere`,
    cure,
  )
}

/**
 * `waiting`: what could not be uploaded, and what doesn't belong there.
 * @param stopped why the last upload stopped, and whether the box had no room
 */
export function judgeEntries(
  queued: number,
  failures: number,
  junk: readonly { file: string; what: string }[],
  cache: string,
  stopped?: { why: string; full: boolean },
): Verdict {
  const [first] = junk
  const waits = queued === 1 ? '1 path waits' : `${queued} paths wait`
  if (first) return warning(`${first.file} is ${first.what}, and does not belong there`, `rm -r ${shellWord(first.file)}`)
  if (failures > 0) return warning(`${waits}, ${failures} could not be uploaded: \`nix-lan queue\` says why`, retry(cache))
  if (queued > 0 && stopped?.full) return warning(`${waits}: ${stopped.why}`, collectOnBox(cache))
  return ok(queued === 0 ? 'empty' : stopped ? `${waits}: ${stopped.why}` : waits)
}
