// Builds every fix the doctor prints, from what root itself knows: the configuration and this
// machine. Pure. Under sudo, a fix from the user's part of the report is printed only if
// knownFixes() has the same one (as-root.ts).
import type { SshCache } from '../config/types.ts'
import { OUTSIDE } from '../keep/links.ts'
import { moduleLine, whatSetsUp } from '../system/nixos.ts'
import { waysToInstall } from '../system/runtime.ts'

/** What a fix depends on. */
export interface Machine {
  /**
   * nixos: configuration.nix writes nix.conf; single: a Nix without a daemon, owned by the user.
   */
  kind: 'daemon' | 'nixos' | 'single'
  user: string
  /** The file to write Nix settings to. */
  conf: string
  /** Whether `nix-lan setup` set this machine up, and so can do it again. */
  recorded: boolean
}

/** What must follow a change of nix.conf: a daemon reads it only when it starts. */
export const afterwards = ({ kind }: Pick<Machine, 'kind'>): string =>
  kind === 'single' ? '' : ', then: sudo systemctl restart nix-daemon'

const REBUILD = ', then: sudo nixos-rebuild switch'

/** One or more assignments for configuration.nix. */
export const inConfigurationNix = (text: string): string => `in configuration.nix: ${text}${REBUILD}`

/** Running setup again; on NixOS, the module. */
export function setupAgain({ kind }: Machine): string {
  if (kind === 'nixos') return inConfigurationNix(moduleLine())
  return kind === 'single' ? 'nix-lan setup' : whatSetsUp(false)
}

/** The fix for a missing configuration. */
export const setupFirst = (machine: Machine): string =>
  machine.kind === 'daemon' ? 'sudo nix-lan setup USER@HOST    # USER@HOST: what ssh takes for the box' : setupAgain(machine)

/** Setup again, if it wrote the setting; by hand where it never ran. `line`: a line of nix.conf. */
export function inNixConf(machine: Machine, line: string): string {
  if (machine.recorded || machine.kind === 'nixos') return setupAgain(machine)
  return `in ${machine.conf}: ${line}${afterwards(machine)}`
}

/**
 * A setting that is the user's choice.
 * @param nix its value as configuration.nix has it
 */
export const inSettings = (machine: Machine, name: string, value: string, nix = value): string =>
  machine.kind === 'nixos'
    ? inConfigurationNix(`nix.settings.${name} = ${nix};`)
    : `in ${machine.conf}: ${name} = ${value}${afterwards(machine)}`

/**
 * Makes a signing key where nothing names one. Never replaces an existing key: whatever it has
 * signed would be worthless.
 */
export function makeKey(machine: Machine): string {
  if (machine.recorded || machine.kind !== 'daemon') return setupAgain(machine)
  return `sudo nix-lan setup    # makes a key, and uses one that is there`
}

export const linger = ({ kind, user }: Machine): string =>
  kind === 'nixos' ? inConfigurationNix('services.nix-lan.linger = true;') : `sudo loginctl enable-linger ${user}`

export const joinGroup = ({ kind, user }: Machine, group: string): string =>
  kind === 'nixos'
    ? `${inConfigurationNix(`users.users.${user}.extraGroups = [ "${group}" ];`)}    # and log in again`
    : `sudo usermod -aG ${group} ${user}    # and log in again`

export const RESTART_DAEMON = 'sudo systemctl restart nix-daemon'
export const RESTART_SOCKET = 'sudo systemctl restart nix-daemon.socket nix-daemon'
export const ENABLE_SOCKET = 'sudo systemctl enable --now nix-daemon.socket'
export const DAEMON_JOURNAL = 'journalctl -u nix-daemon -n 20    # has what nix-lan-connect said'

export const SYSTEM_RELOAD = 'sudo systemctl daemon-reload'
export const restartBroker = (cache: string): string => `sudo systemctl restart nix-lan-broker@${cache}.socket`
export const UNITS_RELOAD = 'systemctl --user daemon-reload'
export const TIMER_ENABLE = 'systemctl --user enable --now nix-lan-check.timer'
export const CHECK_AGAIN = 'systemctl --user restart nix-lan-check.service'
export const startTunnel = (cache: string): string => `nix-lan-tunnel ${cache} &`

export const retry = (cache: string): string => `nix-lan queue retry --cache ${cache}`
/** Queues what was built here and a box has lost. */
export const queueBuilt = (cache: string): string => `nix-lan queue add --built --cache ${cache}`
/** Makes room on a box. */
export const collectOnBox = (cache: string): string => `nix-lan box gc --cache ${cache}`
/** The daily look, now. */
export const lookAt = (cache: string): string => `nix-lan box look --cache ${cache}`
export const signBuilt = ({ kind }: Machine): string => `${kind === 'single' ? '' : 'sudo '}nix-lan queue sign --built`
export const makeQueue = (directories: readonly string[], { kind, user }: Machine): string =>
  kind === 'single' ? `mkdir -p ${directories.join(' ')}` : `sudo install -d -o ${user} ${directories.join(' ')}`

/**
 * A JavaScript runtime where nix-daemon finds it.
 * @param own the one that runs us
 */
export const installRuntime = ({ kind }: Pick<Machine, 'kind'>, own: string): string =>
  kind === 'nixos'
    ? inConfigurationNix('environment.systemPackages = [ pkgs.nodejs ];')
    : ['install Node 18.19 or later for the whole system; one of:', ...waysToInstall(own)].join('\n')

export const BOX_AWAY = 'switch the box on, and be in its network'
export const startSshd = (host: string): string => `start sshd on ${host}, or set port in the configuration`

/** A command for the box, run over ssh; without a shell there, root on the box must run it. */
export const onBox = (destination: string, command: string, shell: boolean): string =>
  shell ? `ssh -t ${destination} ${command}` : `on the box, as root: ${command.replace(/^sudo /, '')}`

/** A directory on the box for the links of a user whose home isn't always there. */
export const keepOutside = (cache: string, destination: string, user: string, shell: boolean): string =>
  `${onBox(destination, `sudo install -d -o ${user} -m 700 ${OUTSIDE}/${user}`, shell)}, then: ${lookAt(cache)}`

export const RESTART_BOX = 'sudo systemctl restart nix-daemon.socket'
export const BOX_JOURNAL = 'journalctl -u nix-daemon -n 20'
/**
 * What frees a box's full disk. Nix keeps 8 MB in reserve for a garbage collection, but opens its
 * database first, which a full disk doesn't let it do, and makes a missing reserve again before that,
 * unless told otherwise (local-store.cc; 2.8.0, 2.26.3 and 2.34.8 tried).
 */
export function emptyBox(destination: string, shell: boolean): string {
  const [free, collect] = ['rm -f /nix/var/nix/db/reserved', '--option gc-reserved-space 0']
  if (!shell) return `on the box, as root: ${free}; nix-collect-garbage ${collect}`
  return `ssh -t ${destination} 'sudo ${free}; sudo "$(command -v nix-collect-garbage)" ${collect}'`
}
/**
 * What makes a box's /nix writable, and its daemon answer again: while it can't be written, the
 * unit's ConditionPathIsReadWrite fails, and with it, soon, the socket. That counts how often it has
 * triggered in two seconds (TriggerLimitIntervalSec in systemd.socket(5)), also before a restart: so
 * it rests for longer first.
 * @param at a mount point
 */
export function mountBox(destination: string, at: string, shell: boolean): string {
  const mount = `mount -o remount,rw ${at}`
  const [stop, start] = ['systemctl stop nix-daemon.socket nix-daemon.service', 'systemctl restart nix-daemon.socket']
  if (!shell) return `on the box, as root: ${mount}; ${stop}; sleep 3; ${start}`
  return `ssh -t ${destination} 'sudo ${mount}; sudo ${stop}; sleep 3; sudo ${start}'`
}

/** All fixes that depend on nothing another user can have written. */
export function knownFixes(machine: Machine, caches: readonly SshCache[], own: string): string[] {
  return [
    setupAgain(machine),
    setupFirst(machine),
    makeKey(machine),
    linger(machine),
    joinGroup(machine, 'nix-users'),
    ...[RESTART_DAEMON, RESTART_SOCKET, ENABLE_SOCKET, DAEMON_JOURNAL, SYSTEM_RELOAD, UNITS_RELOAD, TIMER_ENABLE, CHECK_AGAIN, BOX_AWAY],
    signBuilt(machine),
    installRuntime(machine, own),
    `sudo chmod a+r ${machine.conf}`,
    ...caches.flatMap(({ name, host, ssh }) => [
      lookAt(name),
      ...ssh
        .split('@')
        .slice(0, -1)
        .flatMap((user) => [keepOutside(name, ssh, user, true), keepOutside(name, ssh, user, false)]),
      startTunnel(name),
      restartBroker(name),
      retry(name),
      queueBuilt(name),
      collectOnBox(name),
      startSshd(host),
      ...[true, false].flatMap((shell) => [
        onBox(ssh, RESTART_BOX, shell),
        onBox(ssh, BOX_JOURNAL, shell),
        emptyBox(ssh, shell),
        mountBox(ssh, '/nix', shell),
        mountBox(ssh, '/', shell),
      ]),
    ]),
  ]
}
