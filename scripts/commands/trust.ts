// nix-lan trust: adds another machine's public key to those Nix here trusts, or removes it again.
// Writes to nix.conf as root, after saying what that means. Takes the key from the command line
// only, never from a box, which could name its own.
import { parse } from '../cli/command.ts'
import { Failure, UsageError } from '../cli/errors.ts'
import { oneLine } from '../cli/text.ts'
import { clashes } from '../nix/keys.ts'
import { readNixConf, readText } from '../nix/nix-conf.ts'
import { type ConfFile, trustedKeys } from '../setup/conf.ts'
import { agreed } from '../setup/dialogue.ts'
import { findInstallation, findNixConf } from '../setup/facts.ts'
import { inspect, put } from '../setup/files.ts'
import { mustBeUtf8, restartDaemon } from '../setup/setup.ts'
import { whyNotWritten } from '../setup/writable.ts'
import { realPath } from '../system/files.ts'
import { effectiveUid } from '../system/users.ts'

export const help = `nix-lan trust: trust another machine's signing key

Usage: sudo nix-lan trust [OPTION…] NAME:KEY

Adds the key to trusted-public-keys in nix.conf and restarts nix-daemon. From
then on Nix here takes what is signed with it from any of its substituters: who
holds the key decides what runs here, as root too. \`nix-lan key\` on the other
machine prints it; never take it from the box.

Options:
      --remove   stop trusting it, if \`nix-lan trust\` added it
  -y, --yes      don't ask
  -h, --help     show this
      --version  show the version

Exit code: 0 done, or nothing to do; 1 you said no, or it can't be done; 2
wrong usage.

Examples:
  sudo nix-lan trust laptop-1:g22jPVKtrGunyhIifRNhD31hFAn3aVsbHL/px1seqW8=
  sudo nix-lan trust --remove "$(ssh other-laptop nix-lan key)"
`

const MARK = '# by nix-lan trust'

/** The line that trust adds. */
const lineFor = (key: string): string => `extra-trusted-public-keys = ${key} ${MARK}`

/** nix.conf with the key added as its last line. Pure. */
export const withKey = (text: string, key: string): string => `${text}${text === '' || text.endsWith('\n') ? '' : '\n'}${lineFor(key)}\n`

/** nix.conf without the line trust added for this key; unchanged if there is none. Pure. */
export const withoutKey = (text: string, key: string): string =>
  text
    .split('\n')
    .filter((line) => line !== lineFor(key))
    .join('\n')

/** Checks that a word is a public key, and returns it. @throws UsageError when it isn't */
export function publicKey(word: string | undefined): string {
  if (word === undefined) throw new UsageError('which key? `nix-lan key` on the other machine prints it')
  const [, name, base64 = ''] = /^([A-Za-z0-9._+-]{1,200}):([A-Za-z0-9+/]{43}=)$/.exec(word) ?? []
  if (name !== undefined && Buffer.from(base64, 'base64').length === 32) return word
  const secret = /^[^:]+:[A-Za-z0-9+/]{86}==$/.test(word)
  throw new UsageError(
    secret
      ? 'that is a secret key, which is to stay where it is: `nix-lan key` on the other machine prints the public one'
      : `${word.slice(0, 80)}: not a public key like laptop-1:g22jPVKtrGunyhIifRNhD31hFAn3aVsbHL/px1seqW8=`,
  )
}

/** The subcommand. @param argv what follows `trust` @returns the exit code */
export async function trust(argv: string[]): Promise<number> {
  const { words, flag } = parse(argv, { boolean: ['remove', 'yes'], alias: { y: 'yes' } })
  if (words.length > 1) throw new UsageError('one key at a time; see --help')
  const key = publicKey(words[0])
  const conf = fileToChange(key, flag('remove'))
  const { file } = conf
  const seen = inspect(file)
  if (seen.kind !== 'file' && seen.kind !== 'missing') throw new Failure(`${file} is no file`)
  if (seen.kind === 'file') mustBeUtf8(file, seen.content)
  const text = seen.kind === 'file' ? seen.content.toString() : ''
  const known = trustedKeys(readNixConf({ NIX_USER_CONF_FILES: '' }).all)
  if (flag('remove')) {
    if (withoutKey(text, key) === text) {
      if (!known.includes(key)) return said(`${nameOf(key)} is not trusted here`)
      throw new Failure(`${key} was not added by nix-lan trust: take it out of ${file}, or of a file that it includes, by hand`)
    }
    mustBeWritable(conf, `take this line out of what it is made from, then restart nix-daemon: ${lineFor(key)}`)
    await change(file, seen, withoutKey(text, key))
    return said(`${nameOf(key)} is no longer trusted here; what came from it stays`)
  }
  if (known.includes(key)) return said(`${nameOf(key)} is trusted here already`)
  if (clashes([key], known).length > 0)
    throw new Failure(
      `another key is called ${nameOf(key)} here, and of two keys of one name Nix believes the first only; make one with another name`,
    )
  mustBeWritable(conf, `add this line to what it is made from, then restart nix-daemon: extra-trusted-public-keys = ${key}`)
  process.stdout.write(
    `${oneLine(lineFor(key))}\n  at the end of ${file}. Who holds the secret half decides what runs on this machine, as root too.\n`,
  )
  if (!(await agreed(`Trust ${nameOf(key)}?`, flag('yes')))) return 1
  await change(file, seen, withKey(text, key))
  return said(`what is signed by ${nameOf(key)} is believed here from now on`)
}

/** @throws Failure when the file isn't ours to write, such as a link into the store */
function mustBeWritable(conf: Pick<ConfFile, 'named' | 'file'>, instead: string): void {
  const why = whyNotWritten(conf, effectiveUid() === 0)
  if (why !== undefined) throw new Failure(`${conf.named} ${why}, so nix-lan doesn't change it; ${instead}`)
}

function fileToChange(key: string, remove: boolean): Pick<ConfFile, 'named' | 'file'> {
  const kind = findInstallation()
  if (kind === 'nixos') {
    const what = remove ? 'take it out of' : 'add it to'
    throw new UsageError(
      `this is NixOS, whose nix.conf is made from its configuration: ${what} nix.settings.extra-trusted-public-keys = [ "${key}" ];`,
    )
  }
  if (kind === 'none') throw new UsageError('there is no Nix on this machine')
  const uid = typeof kind === 'object' ? kind.owner : 0
  if (effectiveUid() !== uid)
    throw new UsageError(uid === 0 ? `this needs root: sudo nix-lan trust ${key}` : 'this Nix belongs to another user: run it as that one')
  if (uid === 0) return findNixConf('/etc/nix/nix.conf', readText)
  const own = `${process.env.XDG_CONFIG_HOME || `${process.env.HOME}/.config`}/nix/nix.conf`
  return { named: own, file: realPath(own) }
}

async function change(file: string, seen: ReturnType<typeof inspect>, text: string): Promise<void> {
  const kept =
    seen.kind === 'file'
      ? { mode: seen.mode, uid: seen.uid, gid: seen.gid }
      : { mode: 0o644, uid: effectiveUid(), gid: process.getgid?.() ?? 0 }
  put({ path: file, kind: 'file', content: Buffer.from(text), ...kept })
  if (effectiveUid() === 0) await restartDaemon()
}

const nameOf = (key: string): string => key.slice(0, key.indexOf(':'))

function said(text: string): number {
  process.stdout.write(`${text}\n`)
  return 0
}
