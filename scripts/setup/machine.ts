// Determines for whom and where setup works: the kind of Nix, the user, the layout. Where setup
// can't work, says what to do instead.
import { basename } from 'node:path'
import { UsageError } from '../cli/errors.ts'
import { errorText, nix } from '../nix/nix.ts'
import { type NixVersion, parseVersion } from '../nix/version.ts'
import { runAs } from '../system/as-user.ts'
import { systemdRuns } from '../system/systemd.ts'
import { doubtAbout, doubtText } from '../system/trust.ts'
import { effectiveUid, findUser, type User } from '../system/users.ts'
import { findInstallation, groupOf, type Installation, mustHaveRuntime, nixTooOld } from './facts.ts'
import { type Layout, systemLayout, userLayout } from './layout.ts'
import { nameFor } from './plan.ts'
import { readRecord } from './record.ts'

/** The options on the command line. */
export interface Options {
  destination: string | undefined
  user: string | undefined
  name: string | undefined
  prefix: string | undefined
  dryRun: boolean
  yes: boolean
  linger: boolean
  sign: boolean
  doctor: boolean
  forgetKey: boolean
  /** The machine that must be reachable, if ssh doesn't say. */
  host: string | undefined
  /** The cache to remove, or to rename. */
  remove: string | undefined
  rename: { from: string; to: string } | undefined
  /** The value of --fallback; undefined without it. */
  fallback: 'keep' | 'set' | undefined
}

/** Where setup works, and for whom. */
export interface Machine {
  layout: Layout
  user: User
  gid: number
}

const DEFAULT_PREFIX = '/usr/local'

/**
 * Determines where and for whom.
 * @param action the command line, for a message
 * @throws UsageError where setup can't be used
 */
export async function findMachine(options: Options, action: string): Promise<Machine> {
  const kind = findInstallation()
  if (kind === 'none')
    throw new UsageError('this machine has no Nix: neither /nix/store nor nix-daemon. Install it first: https://nixos.org/download')
  if (kind === 'nixos') throw new UsageError(nixosText(options))
  const self = effectiveUid()
  if (typeof kind === 'object') return await ownNix(kind, self, options)
  if (self !== 0) throw new UsageError(`this needs root, since nix-daemon runs as root: sudo ${action}`)
  const layout = systemLayout(prefixOf(options.prefix) ?? readRecord('/etc/nix-lan/setup.json')?.prefix ?? DEFAULT_PREFIX)
  const user = chosenUser(options.user ?? sudoer() ?? readRecord(layout.record)?.user)
  return { layout, user, gid: await groupOf(user) }
}

/** What to write on NixOS, where the configuration owns the files. */
export function nixosText({ destination = 'pi@pi.local', name, user }: Pick<Options, 'destination' | 'name' | 'user'>): string {
  const host = destination.replace(/^.*@/, '')
  const who = user ?? sudoer() ?? 'alice'
  return `this is NixOS, where this belongs in configuration.nix. With nix-lan's flake as an input, or a checkout of it:

  imports = [ nix-lan.nixosModules.default ];        # or [ /path/to/nix-lan/nix/nixos.nix ]
  services.nix-lan = {
    enable = true;
    user = "${who}";
    caches.${name ?? nameFor(host)} = { host = "${host}";${host === destination ? '' : ` ssh = "${destination}";`} };
  };

then run nixos-rebuild switch. Nothing was changed.`
}

async function ownNix({ owner }: Exclude<Installation, string>, self: number, options: Options): Promise<Machine> {
  const user = findUser(owner)
  const name = user?.name ?? `uid ${owner}`
  if (self !== owner || !user)
    throw new UsageError(`this machine's Nix has no daemon and belongs to ${name}: run this as ${name}, without sudo`)
  if (options.user !== undefined && options.user !== name)
    throw new UsageError(`this machine's Nix has no daemon and belongs to ${name}: ${options.user} can't use it`)
  return { layout: userLayout(user, prefixOf(options.prefix)), user, gid: await groupOf(user) }
}

function prefixOf(prefix: string | undefined): string | undefined {
  if (prefix === undefined) return undefined
  if (!/^(\/[A-Za-z0-9_.+-]+)+$/.test(prefix))
    throw new UsageError(`--prefix ${prefix}: must be an absolute path of letters, digits and . _ + -, like /opt/nix-lan`)
  return prefix
}

const sudoer = (): string | undefined => (process.env.SUDO_USER === 'root' ? undefined : process.env.SUDO_USER)

function chosenUser(name: string | undefined): User {
  if (name === undefined) throw new UsageError('which user is this for? Run it with sudo as that user, or pass --user NAME')
  const user = /^\d+$/.test(name) || name.startsWith('-') ? undefined : findUser(name)
  if (!user) throw new UsageError(`there is no user ${name}`)
  if (user.uid === 0) throw new UsageError("root can't be the user: nix-lan uses an ordinary user's ssh key and session; pass --user NAME")
  return user
}

/**
 * Checks the preconditions before anything is written.
 * @returns the version of Nix; undefined if it doesn't say it in the usual words
 * @throws UsageError or Failure that says what to do
 */
export async function mustSuit({ layout, user }: Machine): Promise<NixVersion | undefined> {
  const asked = await nix(['--version'], { timeout: 20_000 })
  if (asked.failedToStart) throw new UsageError('nix is neither in PATH nor where installers put it')
  if (asked.code !== 0) throw new UsageError(`Nix itself fails, so fix that first: ${saidByNix(asked.stderr)}`)
  const version = parseVersion(asked.stdout)
  const old = nixTooOld(version)
  if (old) throw new UsageError(old)
  await mustRead(user)
  if (layout.single) return version
  if (!systemdRuns()) throw new UsageError("this machine doesn't run systemd, which setup needs; set it up by hand: docs/by-hand.md")
  await mustHaveRuntime()
  const own = doubtAbout(layout.etc)
  if (own) throw new UsageError(`root trusts what is in ${layout.etc}, but ${doubtText(own)}`)
  for (const directory of [layout.lib, layout.bin]) {
    const doubt = doubtAbout(directory)
    if (doubt)
      throw new UsageError(
        `nix-daemon would run programs in ${directory} as root, but ${doubtText(doubt)}; or choose another place, such as --prefix /opt/nix-lan`,
      )
  }
  return version
}

/** Nix's message without the advice that every nix command appends. */
const saidByNix = (stderr: string): string => errorText(stderr).replace(/ Try 'nix[^']*' for more information\.$/, '')

/**
 * Checks the user's own nix.conf, which every nix command of the user reads and may fail on.
 * @throws UsageError with Nix's message, which names file and line
 */
async function mustRead(user: User): Promise<void> {
  const asked = await runAs({ ...user, env: {} }, ['nix-store', '--version'], { timeout: 20_000 })
  if (asked.code !== 0 && !asked.failedToStart && /configuration|nix\.conf/.test(asked.stderr))
    throw new UsageError(`Nix fails for ${user.name}, so fix that first: ${saidByNix(asked.stderr)}`)
}

/** How this program was called, for messages that say what to type. */
export function howCalled(argv: readonly string[]): string {
  const self = process.argv[1] ?? 'nix-lan'
  const inPath = (process.env.PATH ?? '').split(':').some((directory) => `${directory}/${basename(self)}` === self)
  return [inPath ? basename(self) : self, 'setup', ...argv].join(' ')
}
