// The Debian roots that the lab's machines boot from: a whole system with systemd, NetworkManager,
// mDNS, sshd, Nix and Debian's own node. Built once for each release into the cache folder, under a
// name that follows from what is in it; machines put an overlay over them.
import { createHash } from 'node:crypto'
import { builtRoot, cacheFolder, type Suite } from '../lib/roots.ts'

const PACKAGES = [
  'systemd-sysv,dbus,dbus-user-session,libpam-systemd,sudo,procps,iproute2,iputils-ping,ca-certificates',
  'network-manager,avahi-daemon,avahi-utils,libnss-mdns,dnsmasq-base,openssh-server,openssh-client',
  'nix-bin,nix-setup-systemd,nodejs,busybox-static,strace,man-db,bash-completion',
].join(',')

/** What would only cost time, or wait for a network that a test has taken away. */
const MASKED = [
  ...['apt-daily.timer', 'apt-daily-upgrade.timer', 'e2scrub_all.timer', 'dpkg-db-backup.timer', 'fstrim.timer', 'man-db.timer'],
  ...['systemd-networkd-wait-online.service', 'NetworkManager-wait-online.service', 'ModemManager.service', 'console-getty.service'],
  ...['dnsmasq.service', 'e2scrub_reap.service', 'systemd-binfmt.service'],
]

/** Switched on again, by the machine's part, when it boots. */
const DISABLED =
  'ssh.service ssh.socket avahi-daemon.service avahi-daemon.socket NetworkManager.service systemd-networkd.service nix-daemon.socket'

const HOOKS = [
  // keys and names are a machine's own; the file of names that mmdebstrap leaves is this machine's
  'rm -f "$1"/etc/ssh/ssh_host_* "$1/etc/resolv.conf"; : >"$1/etc/resolv.conf"; : >"$1/etc/machine-id"',
  'chroot "$1" useradd -m -s /bin/bash -u 1000 alice && chroot "$1" usermod -aG nix-users alice',
  'printf "alice ALL=(ALL) NOPASSWD: ALL\\n" >"$1/etc/sudoers.d/alice" && chmod 440 "$1/etc/sudoers.d/alice"',
  // loginctl enable-linger: alice's units run with nobody logged in
  'mkdir -p "$1/var/lib/systemd/linger" && touch "$1/var/lib/systemd/linger/alice"',
  'mkdir -p "$1/etc/systemd/journald.conf.d" && printf "[Journal]\\nStorage=persistent\\nRateLimitBurst=0\\n" >"$1/etc/systemd/journald.conf.d/lab.conf"',
  `for unit in ${MASKED.join(' ')}; do ln -sf /dev/null "$1/etc/systemd/system/$unit"; done`,
  `for unit in ${DISABLED}; do chroot "$1" systemctl disable -q "$unit" 2>/dev/null || :; done`,
]

/**
 * The folder of a release's root for the lab; builds it when it isn't there (150 MB to fetch, a
 * minute or two). @throws Error with mmdebstrap's last lines
 */
export function labRoot(suite: Suite): Promise<string> {
  const key = createHash('sha256')
    .update(JSON.stringify([PACKAGES, HOOKS]))
    .digest('hex')
    .slice(0, 12)
  return builtRoot({ suite, root: `${cacheFolder()}/lab/${suite}-${key}`, include: PACKAGES, hooks: HOOKS })
}
