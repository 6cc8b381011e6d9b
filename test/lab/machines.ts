// What makes a laptop, a box or an impostor of a Debian root: files and switched-on services,
// before it boots for the first time; and nix-lan on the laptop, put there by plain means, as a
// careful administrator would by hand.
import { generateKeyPairSync, randomBytes } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { T_NIX } from '../lib/t-nix.ts'
import type { Host } from './host.ts'

/** Where nix-lan lies on the laptop. */
export const LIB = '/usr/local/lib/nix-lan'
/** Derivations that need no nixpkgs, on the laptop: see test/lib/t-nix.ts. */
export const T_FILE = '/opt/t.nix'
/** The cache's name is the box's host name. */
export const CACHE = 'pi'
export const SOCKET = `/run/user/1000/nix-lan/${CACHE}.sock`
export const QUEUE = `/nix/var/nix/gcroots/nix-lan/queue/${CACHE}`
export const FAILED = `/nix/var/nix/gcroots/nix-lan/failed/${CACHE}`
/**
 * Seconds; more than nix-lan's own two, which a machine that is busy with several labs may take for
 * a handshake. The box then counts as away for a while, and what should be fetched is built.
 */
export const DEADLINE = 10

/** Runs sh code as root in a machine's root, which needn't be on. */
export type InRoot = (host: Host, script: string) => Promise<string>

/**
 * A key pair for signing store paths, in Nix's format (libstore/crypto.cc: name, colon, base64 of
 * seed and public key, or of the latter).
 */
export interface SigningKey {
  secret: string
  public: string
}

/** Makes one. @param name such as laptop-1 */
export function signingKey(name: string): SigningKey {
  const { d = '', x = '' } = generateKeyPairSync('ed25519').privateKey.export({ format: 'jwk' })
  const [seed, point] = [Buffer.from(d, 'base64url'), Buffer.from(x, 'base64url')]
  return { secret: `${name}:${Buffer.concat([seed, point]).toString('base64')}`, public: `${name}:${point.toString('base64')}` }
}

// A kernel has 128 inotify instances for all of root's (fs.inotify.max_user_instances), and each
// path unit takes one: with several labs at once they run out, and units of the last ones fail.
// Nobody is asked for a password here.
const FRUGAL = 'for unit in wall console plymouth; do ln -sf /dev/null /etc/systemd/system/systemd-ask-password-$unit.path; done'

/** What all machines have. */
function common(host: Host): void {
  host.write('/etc/hostname', `${host.hostname}\n`)
  host.write('/etc/hosts', `127.0.0.1 localhost\n127.0.1.1 ${host.hostname}\n`)
  host.write('/etc/machine-id', `${randomBytes(16).toString('hex')}\n`)
}

/**
 * alice's machine, which comes and goes: NetworkManager with a profile for its cable, or
 * systemd-networkd; a multi-user Nix with no cache at all.
 */
export async function makeLaptop(host: Host, inRoot: InRoot, { networkd = false } = {}): Promise<void> {
  common(host)
  const profile = [
    '[connection]',
    'id=home',
    'type=ethernet',
    'interface-name=host0',
    '[ipv4]',
    'method=auto',
    '[ipv6]',
    'method=link-local',
    '',
  ]
  if (networkd) {
    host.write('/etc/systemd/network/10-lan.network', '[Match]\nName=host0\n[Network]\nDHCP=ipv4\n')
    host.write('/etc/resolv.conf', 'nameserver 10.77.0.1\n')
  } else host.write('/etc/NetworkManager/system-connections/home.nmconnection', profile.join('\n'), { mode: 0o600 })
  host.write('/etc/nix/nix.conf', 'sandbox = false\nexperimental-features = nix-command\nsubstituters =\n')
  host.write(T_FILE, T_NIX)
  await inRoot(
    host,
    `${FRUGAL}
systemctl enable -q avahi-daemon nix-daemon.socket ${networkd ? 'systemd-networkd' : 'NetworkManager'}
${networkd ? 'rm -rf /etc/NetworkManager; systemctl mask -q NetworkManager NetworkManager-dispatcher' : ''}
install -d -m700 -o1000 -g1000 /home/alice/.ssh
ssh-keygen -q -t ed25519 -N '' -C alice@laptop -f /home/alice/.ssh/id_ed25519
chown -R 1000:1000 /home/alice/.ssh`,
  )
}

/**
 * A machine with disks: sshd, a multi-user Nix that believes `trusts`, mDNS, an address by DHCP.
 * `login` is the public ssh key of who may log in.
 */
export async function makeBox(host: Host, inRoot: InRoot, { trusts = '', login = '' }): Promise<void> {
  common(host)
  host.write('/etc/nix/nix.conf', `sandbox = false\nexperimental-features = nix-command\nsubstituters =\ntrusted-public-keys = ${trusts}\n`)
  // an impostor must not get the lease of who it calls itself
  host.write(
    '/etc/systemd/network/10-lan.network',
    `[Match]\nName=host0\n[Network]\nDHCP=ipv4\nMulticastDNS=no\nLLMNR=no\n[DHCPv4]\nSendHostname=${login ? 'yes' : 'no'}\n`,
  )
  host.write('/etc/resolv.conf', 'nameserver 10.77.0.1\n')
  host.write('/etc/ssh/sshd_config.d/lab.conf', 'LogLevel VERBOSE\nHostKey /etc/ssh/ssh_host_ed25519_key\n')
  if (login) host.write('/home/alice/.ssh/authorized_keys', login, { mode: 0o600, user: 'alice' })
  await inRoot(
    host,
    `${FRUGAL}
rm -f /var/lib/systemd/linger/alice
ssh-keygen -q -t ed25519 -N '' -C ${host.hostname} -f /etc/ssh/ssh_host_ed25519_key
for unit in NetworkManager NetworkManager-dispatcher wpa_supplicant; do ln -sf /dev/null /etc/systemd/system/$unit.service; done
[ ! -d /home/alice/.ssh ] || chmod 700 /home/alice/.ssh
systemctl enable -q ssh avahi-daemon nix-daemon.socket systemd-networkd`,
  )
}

/** What of nix-lan is put on the laptop. */
export interface Installation {
  key: SigningKey
  /** The caches of the configuration, and of nix.conf, besides the box: by name, their host. */
  more?: Record<string, string>
  /** Seconds that each has for its handshake; default: nix-lan's own. */
  deadline?: number | undefined
}

/**
 * nix-lan by plain means, on a laptop that is off: what README and docs say, without `nix-lan
 * setup`. @param dist the built scripts, on this machine
 */
export async function installNixLan(host: Host, inRoot: InRoot, dist: string, { key, more = {}, deadline }: Installation): Promise<void> {
  const caches = Object.entries({ [CACHE]: 'pi.local', ...more })
  for (const file of filesBelow(dist)) {
    const executable = readFileSync(`${dist}/${file}`, 'latin1').startsWith('#!')
    host.write(`${LIB}/${file}`, readFileSync(`${dist}/${file}`, 'utf8'), { mode: executable ? 0o755 : 0o644 })
  }
  host.write('/etc/nix-lan/config.toml', configuration(caches, deadline))
  host.write('/etc/nix/nix-lan.secret', key.secret, { mode: 0o600 })
  host.write('/etc/nix/nix-lan.public', key.public)
  host.write('/etc/nix/nix.conf', `${host.read('/etc/nix/nix.conf')}${nixLines(caches, key, deadline)}`)
  for (const [name, text] of unitFiles(dist)) host.write(`/etc/systemd/user/${name}`, text)
  await inRoot(
    host,
    `for program in nix-lan nix-lan-available nix-lan-connect nix-lan-run nix-lan-tunnel; do ln -s ${LIB}/$program /usr/local/bin/; done
mkdir -p /nix/var/nix/gcroots
${LIB}/post-build-hook --make-queue
if [ ! -e /etc/NetworkManager ]; then
  mkdir -p /etc/systemd/user/paths.target.wants; ln -s ../nix-lan-network.path /etc/systemd/user/paths.target.wants/
elif [ -e ${LIB}/nix-lan-dispatcher ]; then ln -s ${LIB}/nix-lan-dispatcher /etc/NetworkManager/dispatcher.d/90-nix-lan; fi
mkdir -p /etc/systemd/user/timers.target.wants
[ ! -e /etc/systemd/user/nix-lan-check.timer ] || ln -s ../nix-lan-check.timer /etc/systemd/user/timers.target.wants/`,
  )
}

/** The text of a config.toml with these caches: [name, host]. @param deadline seconds, if not nix-lan's own */
export function configuration(caches: readonly (readonly [string, string])[], deadline?: number): string {
  const parts = caches.map(
    ([name, host]) => `\n[cache.${name}]\nhost = "${host}"\nssh = "alice@${host}"\n${deadline ? `deadline = "${deadline}s"\n` : ''}`,
  )
  return `user = "alice"\n${parts.join('')}`
}

/**
 * DEADLINE for the box of a laptop on which `nix-lan setup` has run, in config.toml, whose last table
 * is the box's. What Nix starts goes by it after another setup.
 */
export async function allowDeadline(laptop: Host): Promise<void> {
  const file = '/etc/nix-lan/config.toml'
  laptop.write(file, `${laptop.read(file)}deadline = "${DEADLINE}s"\n`)
  await laptop.must('root', 'systemctl', ['stop', `nix-lan-broker@${CACHE}.service`]) // it has read root's file
}

function nixLines(caches: readonly (readonly [string, string])[], key: SigningKey, deadline?: number): string {
  // What nix-lan-connect is given a path of, it reads no configuration for (scripts/config/store-url.ts).
  const program = `${LIB}/nix-lan-connect${deadline ? `%20--deadline%20${deadline}` : ''}`
  const stores = caches.map(([name]) => `ssh-ng://localhost?remote-program=${program}%20/run/user/1000/nix-lan/${name}.sock`)
  return `extra-substituters = ${stores.join(' ')}
extra-trusted-public-keys = ${key.public}
secret-key-files = /etc/nix/nix-lan.secret
post-build-hook = ${LIB}/post-build-hook
fallback = true
`
}

/** The units, with the programs' own places. */
function unitFiles(dist: string): [name: string, text: string][] {
  const folder = `${dist}/systemd/user`
  return filesBelow(folder).map((name) => [
    name,
    readFileSync(`${folder}/${name}`, 'utf8').replaceAll('/usr/bin/env nix-lan', `${LIB}/nix-lan`),
  ])
}

/** The files below a folder, relative to it; none when it isn't there. */
export function filesBelow(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true }).flatMap((entry) =>
      entry.isDirectory() ? filesBelow(`${folder}/${entry.name}`).map((file) => `${entry.name}/${file}`) : [entry.name],
    )
  } catch {
    return []
  }
}

/** On Debian testing sudo doesn't search /usr/local/bin; a command that works so works everywhere. */
export function narrowSudo(laptop: Host): void {
  laptop.write('/etc/sudoers.d/path', 'Defaults secure_path="/usr/sbin:/usr/bin:/sbin:/bin"\n', { mode: 0o440 })
}
