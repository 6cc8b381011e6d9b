// Decides where `nix-lan setup` puts things: one layout for a Nix with a daemon, where everything
// is root's, and one for a Nix that belongs to one user.
import type { User } from '../system/users.ts'

/** Absolute paths; undefined where that kind of installation has no such place. */
export interface Layout {
  /**
   * Whether one user owns this Nix, which has no daemon: nothing outside the user's reach changes.
   */
  single: boolean
  /** From --prefix, or the default. */
  prefix: string
  /** The copy of dist/. nix.conf names programs in here, so only its owner may write to it. */
  lib: string
  bin: string
  man: string
  completions: { bash: string; zsh: string; fish: string }
  /** systemd's directory for user units, and the one for the system's. */
  units: string
  systemUnits: string | undefined
  /**
   * Our own directory: config.toml, the record of what setup did, and backups of the earlier files.
   */
  etc: string
  config: string
  record: string
  backups: string
  secretKey: string
  publicKey: string
  /** NetworkManager's directory for dispatcher scripts. */
  dispatchers: string | undefined
  tmpfiles: string | undefined
}

/** The layout for a Nix with a daemon. */
export function systemLayout(prefix: string): Layout {
  return {
    ...below(prefix),
    single: false,
    units: '/etc/systemd/user',
    systemUnits: '/etc/systemd/system',
    ...own('/etc/nix-lan'),
    secretKey: '/etc/nix/nix-lan.secret',
    publicKey: '/etc/nix/nix-lan.public',
    dispatchers: '/etc/NetworkManager/dispatcher.d',
    tmpfiles: '/etc/tmpfiles.d/nix-lan.conf',
  }
}

/** The layout for a Nix that belongs to one user. */
export function userLayout({ home }: User, prefix = `${home}/.local`): Layout {
  const etc = `${home}/.config/nix-lan`
  return {
    ...below(prefix),
    single: true,
    units: `${home}/.config/systemd/user`,
    systemUnits: undefined,
    ...own(etc),
    secretKey: `${etc}/nix-lan.secret`,
    publicKey: `${etc}/nix-lan.public`,
    dispatchers: undefined,
    tmpfiles: undefined,
  }
}

/** The owner of what setup writes: root, or the user (and group) who owns this Nix. */
export const ownerIn = ({ single }: Layout, uid: number, gid: number): { uid: number; gid: number } =>
  single ? { uid, gid } : { uid: 0, gid: 0 }

function below(prefix: string): Pick<Layout, 'prefix' | 'lib' | 'bin' | 'man' | 'completions'> {
  return {
    prefix,
    lib: `${prefix}/lib/nix-lan`,
    bin: `${prefix}/bin`,
    man: `${prefix}/share/man/man1`,
    completions: {
      bash: `${prefix}/share/bash-completion/completions`,
      zsh: `${prefix}/share/zsh/site-functions`,
      fish: `${prefix}/share/fish/vendor_completions.d`,
    },
  }
}

function own(etc: string): Pick<Layout, 'etc' | 'config' | 'record' | 'backups'> {
  return { etc, config: `${etc}/config.toml`, record: `${etc}/setup.json`, backups: `${etc}/setup.before` }
}
