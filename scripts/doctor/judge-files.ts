// Judges the files that root runs or believes, the runtime, the signing key, the queue's directories. Pure: facts in, a verdict out.
import { needsNewer } from '../system/runtime.ts'
import type { Doubt } from '../system/trust.ts'
import { failed, ok, type Verdict, warning } from './check.ts'

/** A file that nix-daemon runs, as it was found. */
export interface ProgramFacts {
  file: string
  /** It runs as root, and so must be root's; not in a single-user installation. */
  root: boolean
  /** ENOENT, EACCES, …; undefined: it is there. */
  missing?: string
  executable: boolean
  /** Why it may not be root's own work. */
  doubt?: Doubt
}

/** What is wrong with a program that root runs, or undefined. `lost`: what happens when it isn't there. */
export function judgeProgram({ file, missing, executable, doubt }: ProgramFacts, lost: string, cure: string): Verdict | undefined {
  if (missing === 'EACCES') return warning(`${file}: only root can see whether it is all right`, 'sudo nix-lan doctor')
  if (missing !== undefined) return failed(`${file} is not there (${missing}): ${lost}`, cure)
  if (!executable) return failed(`${file} is not executable: ${lost}`, `sudo chmod a+rx ${file}`)
  if (doubt === undefined) return undefined
  return failed(`root runs ${file}, but ${doubt.why}`, doubt.fix)
}

/** `connect`: the program that nix.conf names as a store. */
export function judgeConnect(facts: ProgramFacts, right: string, then: string): Verdict {
  const cure = `in nix.conf: name ${right} in place of it${then}`
  return judgeProgram(facts, 'every build fails while nix.conf names it', cure) ?? ok(wellKept(facts))
}

const wellKept = ({ file, root }: ProgramFacts): string => (root ? `${file}, and nobody but root can change it` : file)

export interface HookFacts extends ProgramFacts {
  /** Whether it is nix-lan's own, or calls it. */
  ours: boolean
}

/** `hook`: the program that Nix runs after each build. `file` is empty when there is none. `right`: nix-lan's own. */
export function judgeHook(facts: HookFacts, right: string, conf: string, then: string): Verdict {
  if (facts.file === '')
    return failed(`${conf} names no post-build-hook, so that nothing is queued`, `in ${conf}: post-build-hook = ${right}${then}`)
  const cure = `in ${conf}: post-build-hook = ${right}${then}`
  const wrong = judgeProgram(facts, 'every build fails while nix.conf names it', cure)
  if (wrong) return wrong
  if (!facts.ours) {
    return failed(
      `post-build-hook is ${facts.file}, which does not call nix-lan's, so that nothing is queued`,
      `let it call ${right} with the same environment`,
    )
  }
  return ok(wellKept(facts))
}

/** A runtime as nix-daemon's children would find it. */
export interface RuntimeFacts {
  /** node, deno or bun with its whole path; undefined: none. */
  file?: string
  /** What `--version` printed. */
  version?: string
  doubt?: Doubt
  /** The directories that were searched. */
  path: string
  /** The one that runs the doctor. */
  own: string
}

/** `runtime`: what runs the JavaScript when nix-daemon starts it: found with a daemon's bare PATH, new enough, root's. */
export function judgeRuntime({ file, version = '', doubt, path, own }: RuntimeFacts): Verdict {
  const cure = 'install Node 18.19 or later for the whole system (Debian: sudo apt install nodejs)'
  if (file === undefined) {
    return failed(
      `nix-daemon finds no node, deno or bun in ${path}${own ? ` (yours is ${own})` : ''}`,
      `${cure}, or link yours: sudo ln -s ${own || 'NODE'} /usr/local/bin/`,
    )
  }
  if (!/\d+\.\d+/.test(version)) return failed(`${file} does not run: ${version || 'it says no version'}`, cure)
  if (needsNewer(file, version)) return failed(`${file} is ${version}: too old`, cure)
  if (doubt !== undefined) return failed(`root runs ${file}, but ${doubt.why}`, doubt.fix ?? cure)
  return ok(`${file} ${version}, where nix-daemon finds it`)
}

/** `bash`: Nix up to 2.19 and Lix start a store's program through it. */
export function judgeBash(needed: boolean, found: string | undefined, path: string): Verdict {
  if (!needed) return ok('not needed by this Nix')
  if (found !== undefined) return ok(`${found}: this Nix starts nix-lan-connect through it`)
  return failed(
    `nix-daemon finds no bash in ${path}, and this Nix starts nix-lan-connect through it`,
    'give nix-daemon.service a PATH with bash in it: sudo systemctl edit nix-daemon, Environment=PATH=…',
  )
}

export interface KeyFacts {
  /** The words of secret-key-files. */
  files: readonly string[]
  /** Of the first: ENOENT and the like. */
  missing?: string
  mode?: number
  /** NAME:BASE64, if it could be found. */
  publicKey?: string
  trusted: readonly string[]
  conf: string
}

/**
 * Whether nix-daemon believes a key whose secret is in secret-key-files: it need not be in trusted-public-keys, but another key of the same name
 * there goes before it (src/libstore/crypto.cc, later keys.cc, getDefaultPublicKeys, 2.4 to 2.34).
 * @param key NAME:BASE64
 */
export function believes(key: string, trusted: readonly string[]): boolean {
  const name = key.slice(0, key.indexOf(':') + 1)
  return trusted.includes(key) || !trusted.some((other) => other.startsWith(name))
}

/** `signing`: that there is a key, that it is secret, and that this machine believes it. */
export function judgeKey({ files, missing, mode = 0, publicKey, trusted, conf }: KeyFacts): Verdict {
  const [file] = files
  if (file === undefined) {
    return failed(
      `${conf} names no secret-key-files, so that nothing that is built here can come back from a cache`,
      `sudo nix-store --generate-binary-cache-key ${'$(hostname)-1'} /etc/nix/nix-lan.secret /etc/nix/nix-lan.public\nin ${conf}: secret-key-files = /etc/nix/nix-lan.secret\nin ${conf}: extra-trusted-public-keys = what is in nix-lan.public`,
    )
  }
  if (missing !== undefined && missing !== 'EACCES')
    return failed(
      `${file} is not there (${missing}): every build fails`,
      `in ${conf}: take it out of secret-key-files, or put the key back`,
    )
  if ((mode & 0o077) !== 0) return failed(`others than root can read ${file}, and sign in its name`, `sudo chmod 600 ${file}`)
  if (publicKey === undefined) return ok(`signs with ${file} (its other half is not beside it; with sudo, the doctor looks into it)`)
  if (!believes(publicKey, trusted)) return notBelieved(publicKey, conf)
  return ok(`signs as ${publicKey.split(':')[0]}, and believes it`)
}

/** `conf` has another key of that name. */
export function notBelieved(publicKey: string, conf: string): Verdict {
  const [name] = publicKey.split(':')
  return failed(
    `this machine does not believe its own key ${name}, but another one of that name`,
    `in ${conf}: extra-trusted-public-keys = ${publicKey}, in place of the other ${name}`,
  )
}

/** `unsigned`: what was built here and carries no signature can't be taken back from anywhere. */
export function judgeUnsigned(count: number, built: number): Verdict {
  if (count === 0)
    return ok(built === 0 ? 'nothing was built here yet' : `all that was built here is signed (${built} ${built === 1 ? 'path' : 'paths'})`)
  return warning(
    `${count} of the ${built} paths that were built here ${count === 1 ? 'is' : 'are'} not signed, and can't come back from a cache`,
    'sudo nix-lan queue sign --built',
  )
}

/** A directory of the queue, or one on the way to it. */
export interface DirectoryFacts {
  path: string
  kind: 'directory' | 'other' | 'missing' | 'hidden'
  uid: number
  mode: number
  /** The uid that it should have. */
  owner: number
}

/** `queue`: the directories are there, the last ones the user's, those above them root's and nobody else's to write. */
export function judgeQueue(directories: readonly DirectoryFacts[], user: string, make: string): Verdict {
  for (const { path, kind, uid, mode, owner } of directories) {
    if (kind === 'missing') return failed(`${path} is not there, so that nothing can wait in it`, make)
    if (kind === 'hidden') return failed(`${path} can't be looked at`, `sudo chmod a+rx ${path.slice(0, path.lastIndexOf('/'))}`)
    if (kind === 'other') return failed(`${path} is not a directory`, `sudo rm ${path} && ${make}`)
    if (uid !== owner)
      return failed(
        `${path} belongs to uid ${uid}, not to ${owner === 0 ? 'root' : user}`,
        `sudo chown ${owner === 0 ? 'root' : user} ${path}`,
      )
    if ((mode & 0o022) !== 0) return failed(`others can write to ${path}`, `sudo chmod go-w ${path}`)
  }
  return ok(`belongs to ${user}, in a directory of root's`)
}

/** `waiting`: what could not be uploaded, and what doesn't belong there. */
export function judgeEntries(queued: number, failures: number, junk: readonly { file: string; what: string }[], cache: string): Verdict {
  const [first] = junk
  const waits = queued === 1 ? '1 path waits' : `${queued} paths wait`
  if (first) return warning(`${first.file} is ${first.what}, and does not belong there`, `rm -r ${quoted(first.file)}`)
  if (failures > 0)
    return warning(`${waits}, ${failures} could not be uploaded: \`nix-lan queue\` says why`, `nix-lan queue retry --cache ${cache}`)
  return ok(queued === 0 ? 'empty' : waits)
}

const quoted = (text: string): string => (/^[A-Za-z0-9_./+=-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`)
