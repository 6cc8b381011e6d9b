// nix-lan doctor on a real laptop with a real box: each fault of the table is made for real,
// exactly that check fails, nothing else is blamed, and the printed fix does fix it: where that is
// a command, alice runs it as it stands.
import * as assert from 'uvu/assert'
import { compare } from '../lib/compare.ts'
import { RESTART_NIX } from './host.ts'
import { createLab, type Lab, labSuite, release } from './lab.ts'
import { FAILED, LIB, QUEUE, T_FILE } from './machines.ts'

const test = labSuite('nix-lan doctor')
let lab: Lab

interface Finding {
  check: string
  cache?: string
  state: 'ok' | 'warning' | 'failed' | 'skipped'
  found: string
  fix: string | null
}

/** A fault, the line that names it, and how it is mended. */
interface Fault {
  fault: string
  make(): Promise<unknown>
  /** The one check that isn't ok, and how it isn't. */
  check: string
  state?: 'warning'
  found: RegExp
  fix: RegExp
  /** What a person does who reads that. Without: the command is run as it stands. */
  heed?(fix: string): Promise<unknown>
  /** What the doctor is run with. */
  env?: Record<string, string>
  /** Afterwards, what heed or the command did not put back. */
  restore?(): Promise<unknown>
}

const onLaptop = (script: string) => lab.laptop.must('root', 'sh', ['-ec', script])
const onBox = (script: string) => lab.box.must('root', 'sh', ['-ec', script])
const asAlice = (script: string, env: Record<string, string> = {}) => lab.laptop.must('alice', 'sh', ['-ec', script], { env })
const CONF = '/etc/nix/nix.conf'
/** The directories of a queue without a cache. */
const STRAYS = [QUEUE, FAILED].map((directory) => directory.replace(/[^/]*$/, 'second'))
/** Where the lab's drop-in for the check lies. */
const CHECK_DROP_IN = '/etc/systemd/user/nix-lan-check.service.d'

async function doctor(args: string[] = [], env: Record<string, string> = {}): Promise<{ code: number | null; found: Finding[] }> {
  const { code, stdout, stderr } = await lab.laptop.run('alice', 'nix-lan', ['doctor', '--json', ...args], { env, timeout: 240_000 })
  assert.is(stderr, '', 'the doctor says nothing but its report')
  return { code, found: JSON.parse(stdout) as Finding[] }
}

/** The findings that are not ok, but for those that wait for another one. */
const bad = (found: Finding[]): Finding[] => found.filter(({ state }) => state === 'failed' || state === 'warning')
const text = (found: Finding[]): string =>
  bad(found)
    .map((finding) => JSON.stringify(finding))
    .join('\n')

const STOP_NIX = 'systemctl stop nix-daemon.socket nix-daemon.service'
/** The box's /nix on a disk of its own, most of it garbage; its nix-daemon is stopped. */
const SMALL_DISK = `${STOP_NIX}; size=$(du -sm /nix | cut -f1)
mkdir -p /small; mount -t tmpfs -o size=$((size + 160))m,mode=755 tmpfs /small
cp -a --sparse=never /nix/. /small/; mount --bind /small /nix; umount -l /small
head -c 130M /dev/zero >/var/garbage; NIX_REMOTE=local nix-store --add /var/garbage; rm /var/garbage`
const FULL = 'head -c 200M /dev/zero >/nix/filler || :'
const NO_SMALL_DISK = `${STOP_NIX}; umount -l /nix; systemctl start nix-daemon.socket`

const FAULTS: Fault[] = [
  {
    fault: 'the box’s user is not in nix-users',
    make: () => onBox('gpasswd -d alice nix-users'),
    check: "box's daemon",
    found: /^alice may not use \/nix\/var\/nix\/daemon-socket\/socket on the box, which is for group nix-users$/,
    fix: /^ssh -t alice@pi\.local sudo usermod -aG nix-users alice$/,
  },
  {
    fault: 'the box does not believe the laptop’s key',
    make: () => onBox(`sed -i 's/^trusted-public-keys.*/trusted-public-keys =/' ${CONF}; ${RESTART_NIX}`),
    check: 'upload',
    found: /^the box does not trust this machine's key laptop-1$/,
    fix: /^in the box's nix\.conf: extra-trusted-public-keys = laptop-1:\S+, then restart its nix-daemon$/,
    heed: (fix) => onBox(`echo '${/extra.*=/.exec(fix)?.[0]}' >>${CONF}; ${RESTART_NIX}`),
  },
  {
    fault: 'the box trusts another key of that name',
    make: () =>
      onBox(
        `sed -i '/^extra-trusted/d; s/^trusted-public-keys.*/trusted-public-keys = laptop-1:${'A'.repeat(43)}=/' ${CONF}; ${RESTART_NIX}`,
      ),
    check: 'upload',
    found: /^the box trusts another key called laptop-1, and of two with one name Nix trusts only the first$/,
    fix: /^in the box's nix\.conf: put laptop-1:\S+ in place of the other laptop-1, then restart its nix-daemon$/,
    heed: (fix) =>
      onBox(`sed -i 's|^trusted-public-keys.*|trusted-public-keys = ${/laptop-1:\S+/.exec(fix)?.[0]}|' ${CONF}; ${RESTART_NIX}`),
  },
  {
    fault: 'the box’s nix-daemon is stopped',
    make: () => onBox('systemctl stop nix-daemon.socket nix-daemon.service'),
    check: "box's daemon",
    found: /^nobody listens there|^there is no .* on the box/,
    fix: /^ssh -t alice@pi\.local sudo systemctl restart nix-daemon\.socket$/,
  },
  {
    fault: 'the same, where the account on the box runs no command',
    make: () => onBox('usermod -s /usr/sbin/nologin alice; systemctl stop nix-daemon.socket nix-daemon.service'),
    check: "box's daemon",
    found: /./,
    fix: /^on the box, as root: systemctl restart nix-daemon\.socket$/,
    heed: (fix) => onBox(fix.replace(/^.*: /, '')),
    restore: () => onBox('usermod -s /bin/bash alice; systemctl start nix-daemon.socket'),
  },
  {
    fault: 'ssh may take no address of the box’s family',
    make: () => asAlice('printf "Host pi.local\\n  AddressFamily inet6\\n" >.ssh/config'),
    check: 'name|port',
    found: /^pi\.local has no IPv6 address \(AddressFamily inet6 in ssh's configuration\)$/,
    fix: /^set AddressFamily any for that host in ~\/\.ssh\/config$/,
    heed: () => asAlice('sed -i s/inet6/any/ .ssh/config'),
    restore: () => asAlice('rm .ssh/config'),
  },
  {
    fault: 'the box’s /nix is read-only',
    make: () => onBox(`${SMALL_DISK}; systemctl start nix-daemon.socket; mount -o remount,ro /nix`),
    check: "box's daemon",
    found: /^the disk of the box's \/nix, mounted on \/nix, is read-only: its nix-daemon can't answer$/,
    fix: /^ssh -t alice@pi\.local 'sudo mount -o remount,rw \/nix; sudo systemctl stop .*; sudo systemctl restart nix-daemon\.socket'$/,
    restore: () => onBox(NO_SMALL_DISK),
  },
  {
    fault: 'the disk of the box’s /nix is full',
    make: () => onBox(`${SMALL_DISK}; ${FULL}; systemctl start nix-daemon.socket`),
    check: "box's daemon",
    found: /^the disk of the box's \/nix, mounted on \/nix, is full: its nix-daemon can't answer$/,
    fix: /^ssh -t alice@pi\.local 'sudo rm -f \/nix\/var\/nix\/db\/reserved; sudo "\$\(command -v nix-collect-garbage\)" --option .*'$/,
    restore: () => onBox(NO_SMALL_DISK),
  },
  {
    fault: 'another host key',
    make: () => asAlice('rm -f k k.pub; ssh-keygen -q -t ed25519 -N "" -f k; echo "pi.local $(cut -d" " -f1,2 k.pub)" >.ssh/known_hosts'),
    check: 'login',
    found: /^another host key than the one in \/home\/alice\/\.ssh\/known_hosts:1: the box was set up anew, or it is not the box$/,
    fix: /^ssh-keygen -f \/home\/alice\/\.ssh\/known_hosts -R pi\.local {4}# .*: ssh alice@pi\.local$/,
    heed: (fix) => asAlice(`${fix}\nssh -o StrictHostKeyChecking=accept-new alice@pi.local true`), // who says yes
  },
  {
    fault: 'the host key is not known',
    make: () => asAlice('rm .ssh/known_hosts'),
    check: 'login',
    found: /^the host key is not known yet$/,
    fix: /^ssh alice@pi\.local {4}# /,
    heed: () => asAlice('ssh -o StrictHostKeyChecking=accept-new alice@pi.local true'),
  },
  {
    fault: 'a key with a passphrase, and no agent',
    // Debian 13 and later have an agent in every session.
    make: () =>
      asAlice(`ssh-keygen -q -p -P "" -N secret -f .ssh/id_ed25519
systemctl --user --quiet stop ssh-agent.socket ssh-agent.service 2>/dev/null || :
systemctl --user unset-environment SSH_AUTH_SOCK`),
    check: 'login',
    found: /^the key has a passphrase, and there is no agent: SSH_AUTH_SOCK comes from nowhere: .*$/,
    fix: /^start an ssh-agent when you log in, set SSH_AUTH_SOCK in env-file, then: ssh-add$/,
    heed: async () => {
      await asAlice('systemd-run --user --quiet --unit=agent ssh-agent -D -a /run/user/1000/agent')
      await asAlice('mv .bashrc .bashrc.old; echo export SSH_AUTH_SOCK=/run/user/1000/agent >.bashrc')
      const { found } = await doctor()
      assert.match(
        text(found),
        /"login".*the agent \(from \/home\/alice\/\.bashrc\) does not hold it","fix":"SSH_AUTH_SOCK=\/run\/user\/1000\/agent ssh-add"/,
      )
      lab.laptop.write('/home/alice/ask', '#!/bin/sh\necho secret\n', { mode: 0o755, user: 'alice' })
      await asAlice('ssh-add', {
        SSH_AUTH_SOCK: '/run/user/1000/agent',
        SSH_ASKPASS: '/home/alice/ask',
        SSH_ASKPASS_REQUIRE: 'force',
        DISPLAY: ':0',
      })
    },
    restore: () => asAlice('ssh-keygen -q -p -P secret -N "" -f .ssh/id_ed25519; mv .bashrc.old .bashrc; systemctl --user stop agent'),
  },
  {
    fault: 'nix-daemon was not restarted since nix.conf was changed',
    make: () => onLaptop(`${RESTART_NIX}; sleep 0.2; echo '# changed' >>${CONF}`),
    check: 'daemon',
    found: /^nix-daemon started before \/etc\/nix\/nix\.conf changed and has not reloaded it$/,
    fix: /^sudo systemctl restart nix-daemon$/,
  },
  {
    fault: 'the user may not use nix-daemon here',
    make: () => onLaptop('gpasswd -d alice nix-users'),
    check: 'daemon',
    found: /^alice may not use \/nix\/var\/nix\/daemon-socket\/socket, which is for group nix-users$/,
    fix: /^sudo usermod -aG nix-users alice {4}# and log in again$/,
  },
  {
    fault: 'a `substituters =` after the block',
    make: () => onLaptop(`echo 'substituters = https://cache.example.org' >>${CONF}; ${RESTART_NIX}`),
    check: 'substituter',
    found:
      /^\/etc\/nix\/nix\.conf:\d+ "substituters = https:\/\/cache\.example\.org" comes after the line that names pi, and takes it back$/,
    fix: /^in \/etc\/nix\/nix\.conf: move line (\d+) above the line with nix-lan-connect, then: sudo systemctl restart nix-daemon$/,
    heed: (fix) => onLaptop(`sed -i '${/line (\d+)/.exec(fix)?.[1]}d' ${CONF}; ${RESTART_NIX}`),
  },
  {
    fault: 'the user’s own nix.conf replaces the substituters',
    make: () => asAlice('mkdir -p .config/nix; echo "substituters = https://cache.example.org" >.config/nix/nix.conf'),
    check: 'own settings',
    found: /^"substituters =" in \/home\/alice\/\.config\/nix\/nix\.conf replaces the system's list, so that pi is not asked$/,
    fix: /^sed -i .* \/home\/alice\/\.config\/nix\/nix\.conf$/,
    restore: () => asAlice('rm .config/nix/nix.conf'),
  },
  {
    fault: 'the same, where that file is a link into a folder of dotfiles',
    make: () =>
      asAlice('mkdir -p dot; echo "substituters = https://cache.example.org" >dot/nix.conf; ln -s ../../dot/nix.conf .config/nix/'),
    check: 'own settings',
    found: /^"substituters =" in \/home\/alice\/\.config\/nix\/nix\.conf replaces the system's list, so that pi is not asked$/,
    fix: /^sed -i .* \/home\/alice\/dot\/nix\.conf$/,
    restore: () => asAlice('test -L .config/nix/nix.conf; rm .config/nix/nix.conf'),
  },
  {
    fault: 'the user’s own nix.conf switches substitution off',
    make: () => asAlice('mkdir -p .config/nix; echo "substitute = false" >.config/nix/nix.conf'),
    check: 'own settings',
    found: /^\/home\/alice\/\.config\/nix\/nix\.conf sets substitute = false: Nix fetches from no cache at all$/,
    fix: /^take that line out of \/home\/alice\/\.config\/nix\/nix\.conf$/,
    heed: (fix) => asAlice(`sed -i '/^substitute = /d' ${/\S+$/.exec(fix)?.[0]}`),
    restore: () => asAlice('rm .config/nix/nix.conf'),
  },
  {
    fault: 'fallback is off',
    make: () => onLaptop(`sed -i '/^fallback/d' ${CONF}; ${RESTART_NIX}`),
    check: 'fallback',
    state: 'warning',
    found: /^fallback is off: a build fails when the box is lost/,
    fix: /^in \/etc\/nix\/nix\.conf: fallback = true, then: sudo systemctl restart nix-daemon$/,
    heed: (fix) => onLaptop(`echo '${fix.replace(/^in \S+: |, then: .*/g, '')}' >>${CONF}; ${RESTART_NIX}`),
  },
  {
    fault: 'Nix collects garbage by itself',
    make: () => onLaptop(`echo 'min-free = 1073741824' >>${CONF}; ${RESTART_NIX}`),
    check: 'min-free',
    state: 'warning',
    found: /^min-free is 1\.0 GiB: below that, Nix deletes what the box does not have, too; gc\.keep-free /,
    fix: /^in \/etc\/nix\/nix\.conf: min-free = 0, then: sudo systemctl restart nix-daemon$/,
    heed: (fix) => onLaptop(`echo '${fix.replace(/^in \S+: |, then: .*/g, '')}' >>${CONF}; ${RESTART_NIX}`),
  },
  {
    fault: 'nix.conf names a nix-lan-connect that is not there',
    make: () => onLaptop(`sed -i 's,/[^ =]*/nix-lan-connect,/gone/nix-lan-connect,' ${CONF}; ${RESTART_NIX}`),
    check: 'connect',
    found: /^\/gone\/nix-lan-connect is not there \(ENOENT\): every build fails while nix\.conf names it$/,
    fix: /^in \/etc\/nix\/nix\.conf: name \/usr\/local\/bin\/nix-lan-connect in its place, then: sudo systemctl restart nix-daemon$/,
    heed: () => onLaptop(`sed -i 's,/gone/nix-lan-connect,/usr/local/bin/nix-lan-connect,' ${CONF}; ${RESTART_NIX}`),
  },
  {
    fault: 'the hook is not executable',
    make: () => onLaptop(`chmod 644 ${LIB}/post-build-hook`),
    check: 'hook',
    found: /post-build-hook is not executable: every build fails while nix\.conf names it$/,
    fix: /^sudo chmod a\+rx \S+\/post-build-hook$/,
  },
  {
    fault: 'nix.conf has no hook',
    make: () => onLaptop(`sed -i 's/^post-build-hook/# &/' ${CONF}; ${RESTART_NIX}`),
    check: 'hook',
    found: /^\/etc\/nix\/nix\.conf names no post-build-hook: nothing is queued$/,
    fix: /^in \/etc\/nix\/nix\.conf: post-build-hook = \/usr\/local\/lib\/nix-lan\/post-build-hook, then: sudo systemctl restart nix-daemon$/,
    heed: (fix) => onLaptop(`echo '${fix.replace(/^in \S+: |, then: .*/g, '')}' >>${CONF}; ${RESTART_NIX}`),
  },
  {
    fault: 'others can read the signing key',
    make: () => onLaptop('chmod 644 /etc/nix/nix-lan.secret'),
    check: 'signing',
    found: /^others than root can read \/etc\/nix\/nix-lan\.secret, and sign in its name$/,
    fix: /^sudo chmod 600 \/etc\/nix\/nix-lan\.secret$/,
  },
  {
    fault: 'something was built here without a signature',
    make: async () => {
      await onLaptop(`sed -i 's/^secret-key-files/# &/' ${CONF}; ${RESTART_NIX}`)
      await asAlice(`nix-build ${T_FILE} --no-out-link --argstr name unsigned`)
      await onLaptop(`sed -i 's/^# secret-key-files/secret-key-files/' ${CONF}; ${RESTART_NIX}`)
    },
    check: 'unsigned',
    state: 'warning',
    found: /^1 of \d+ paths? built here is unsigned, and can't come back from a cache$/,
    fix: /^sudo \/usr\/local\/bin\/nix-lan queue sign --built$/,
  },
  {
    fault: 'others can write to the dispatcher script',
    make: () => onLaptop(`chmod 777 ${LIB}/nix-lan-dispatcher`),
    check: 'dispatcher',
    found: new RegExp(
      `^NetworkManager does not run /etc/NetworkManager/dispatcher\\.d/90-nix-lan: everybody can write to ${LIB}/nix-lan-dispatcher$`,
    ),
    fix: new RegExp(`^sudo chmod go-w ${LIB}/nix-lan-dispatcher$`),
  },
  {
    fault: 'the queue belongs to somebody else',
    make: () => onLaptop(`chown nobody ${QUEUE}`),
    check: 'queue',
    found: new RegExp(`^${QUEUE} belongs to uid 65534, not to alice$`),
    fix: new RegExp(`^sudo chown alice ${QUEUE}$`),
  },
  {
    fault: 'there is no queue',
    make: () => onLaptop(`rm -r ${QUEUE} ${FAILED}`),
    check: 'queue',
    found: new RegExp(`^${QUEUE} is not there: nothing can wait in it$`),
    fix: /^sudo install -d -o alice /,
  },
  {
    fault: 'something in the queue does not belong there',
    make: () => asAlice(`mkdir ${QUEUE}/x`),
    check: 'waiting',
    state: 'warning',
    found: new RegExp(`^${QUEUE}/x is a directory, and does not belong there$`),
    fix: new RegExp(`^rm -r ${QUEUE}/x$`),
  },
  {
    fault: 'a queue that no cache has: the hook and status say so, too',
    make: async () => {
      await onLaptop(`install -d -o alice ${STRAYS.join(' ')}; touch /etc/nix-lan/config.toml`)
      // The hook looks for it when the configuration has changed, and has 0.9 s for that.
      const { stderr } = await lab.build(['--argstr', 'name', 'stray'])
      const said =
        /nix-lan: no cache is called second any more, but what is built still waits for it, and stays in the store; see nix-lan doctor$/m
      assert.ok(said.test(stderr) || stderr.includes('took more than 0.9 s'), stderr)
      assert.match((await lab.laptop.run('root', `${LIB}/post-build-hook`, ['--make-queue'])).stderr, said)
      const status = (...args: string[]) => lab.laptop.must('alice', 'nix-lan', ['status', ...args])
      assert.match(
        await status(),
        /^second: no cache of that name is configured, but 2 paths wait for it and stay in the store: nix-lan doctor$/m,
      )
      assert.equal(JSON.parse(await status('--json')).strays, [{ cache: 'second', queued: 2, failed: 0 }])
      await lab.eventually('pi has what was built', async () => (await lab.queued()).length === 0)
    },
    check: 'queues',
    state: 'warning',
    found: /^no cache is called second, but 2 paths wait for it: what waits stays in the store, and goes nowhere$/,
    fix: new RegExp(`^sudo rm -r ${STRAYS.join(' ')} {4}# lets go of what is in it$`),
    restore: async () => {
      const { stderr } = await lab.build(['--argstr', 'name', 'no-stray'])
      assert.not.match(stderr, 'second')
      assert.not.match(await lab.laptop.must('alice', 'nix-lan', ['status']), 'second')
    },
  },
  {
    fault: 'the configuration can’t be read',
    make: () => onLaptop('chmod 600 /etc/nix-lan/config.toml'),
    check: 'configuration',
    found: /^\/etc\/nix-lan\/config\.toml: can't be read: you may not read it$/,
    fix: /^sudo chmod a\+r \/etc\/nix-lan\/config\.toml$/,
  },
  {
    fault: 'others can write to the configuration',
    make: () => onLaptop('chmod 666 /etc/nix-lan/config.toml'),
    check: 'configuration',
    found: /^root does not trust \/etc\/nix-lan\/config\.toml: everybody can write to \/etc\/nix-lan\/config\.toml$/,
    fix: /^sudo chmod go-w \/etc\/nix-lan\/config\.toml$/,
  },
  {
    fault: 'nix.conf can’t be read by the user',
    make: () => onLaptop(`chmod 600 ${CONF}`),
    check: 'nix.conf',
    found: /^you may not read \/etc\/nix\/nix\.conf, which nix-daemon reads$/,
    fix: /^sudo chmod a\+r \/etc\/nix\/nix\.conf$/,
  },
  {
    fault: 'an unknown key in the configuration',
    make: () => onLaptop('echo \'hots = "pi.local"\' >>/etc/nix-lan/config.toml'),
    check: 'configuration',
    found: /^\/etc\/nix-lan\/config\.toml:\d+: cache\.pi\.hots: unknown key; did you mean host\?/,
    fix: /^fix that line/,
    heed: () => onLaptop("sed -i '$d' /etc/nix-lan/config.toml"),
  },
  {
    fault: 'a unit is not installed',
    make: () => onLaptop('mv /etc/systemd/user/nix-lan-upload@.service /root/').then(() => lab.laptop.systemctl('daemon-reload')),
    check: 'units',
    found: /^systemd has no nix-lan-upload@pi\.service$/,
    fix: /^sudo \/usr\/local\/bin\/nix-lan setup$/,
    heed: () => onLaptop('mv /root/nix-lan-upload@.service /etc/systemd/user/').then(() => lab.laptop.systemctl('daemon-reload')),
  },
  {
    fault: 'a unit of an older version',
    make: () => onLaptop("sed -i 's/^RestartSec=30/RestartSec=3/' /etc/systemd/user/nix-lan-upload@.service"),
    check: 'units',
    found: /^\/etc\/systemd\/user\/nix-lan-upload@\.service is not that of this version of nix-lan$/,
    fix: /^sudo \/usr\/local\/bin\/nix-lan setup$/,
    heed: () =>
      onLaptop("sed -i 's/^RestartSec=3$/RestartSec=30/' /etc/systemd/user/nix-lan-upload@.service").then(() =>
        lab.laptop.systemctl('daemon-reload'),
      ),
  },
  {
    fault: 'the timer is disabled',
    make: async () => {
      await onLaptop('rm /etc/systemd/user/timers.target.wants/nix-lan-check.timer')
      await lab.laptop.systemctl('daemon-reload')
      await lab.laptop.systemctl('stop', 'nix-lan-check.timer')
    },
    check: 'timer',
    found: /^nix-lan-check\.timer is disabled$/,
    fix: /^systemctl --user enable --now nix-lan-check\.timer$/,
  },
  {
    fault: 'no linger',
    make: () => onLaptop('rm /var/lib/systemd/linger/alice'),
    check: 'linger',
    state: 'warning',
    found: /^alice's units run only while alice is logged in$/,
    fix: /^sudo loginctl enable-linger alice$/,
  },
  {
    fault: 'the runtime lies where only the user’s PATH leads',
    make: () => onLaptop('mkdir -p /opt/node/bin; mv /usr/bin/node /opt/node/bin/node'),
    env: { PATH: '/opt/node/bin:/usr/local/bin:/usr/bin:/bin' },
    check: 'runtime',
    found: /^nix-daemon finds no node, deno or bun in .*\/usr\/bin.* \(yours is \/opt\/node\/bin\/node\)$/,
    fix: /\nsudo install -m 755 \/opt\/node\/bin\/node \/usr\/local\/bin\/ {4}# a copy of yours$/,
    heed: (fix) => asAlice(/sudo install .*$/.exec(fix)?.[0] ?? 'false'),
    restore: () => onLaptop('rm /usr/local/bin/node; mv /opt/node/bin/node /usr/bin/node'),
  },
  {
    fault: 'the runtime is a link into the user’s home directory',
    make: () =>
      onLaptop(`install -d -o alice /home/alice/.nvm /home/alice/.nvm/bin; mv /usr/bin/node /home/alice/.nvm/bin/node
chown alice /home/alice/.nvm/bin/node; ln -s /home/alice/.nvm/bin/node /usr/local/bin/`),
    check: 'runtime',
    found: /^root runs \/usr\/local\/bin\/node, but \/home\/alice belongs to alice$/,
    fix: /\nsudo install -m 755 \/home\/alice\/\.nvm\/bin\/node \/usr\/local\/bin\/ {4}# a copy of yours$/,
    heed: (fix) => asAlice(/sudo install .*$/.exec(fix)?.[0] ?? 'false'),
    restore: () => onLaptop('rm /usr/local/bin/node; chown root /home/alice/.nvm/bin/node; mv /home/alice/.nvm/bin/node /usr/bin/node'),
  },
  {
    fault: 'the tunnel was stopped',
    make: async () => {
      // The timer's next check, which would start it, may be due.
      lab.laptop.write(`${CHECK_DROP_IN}/lab.conf`, '[Unit]\nConditionPathExists=/nowhere\n')
      await lab.laptop.systemctl('daemon-reload')
      await lab.laptop.systemctl('stop', 'nix-lan-check.service')
      await lab.laptop.systemctl('stop', 'nix-lan@pi.target')
    },
    check: 'tunnel',
    found: /sock does not exist.*nix-lan-tunnel@pi is (inactive|deactivating)/,
    fix: /^systemctl --user restart nix-lan-check\.service$/,
    heed: async (fix) => {
      await onLaptop(`rm -rf ${CHECK_DROP_IN}`)
      await lab.laptop.systemctl('daemon-reload')
      await asAlice(fix)
    },
  },
  {
    fault: 'the cable is out',
    make: () => lab.lan.cable('laptop', false),
    check: 'name|port',
    found: /^away: /,
    fix: /^switch the box on, and be in its network/,
    heed: () => lab.lan.cable('laptop', true),
  },
]

const ONLINE = ['unsigned', 'login', "box's daemon", 'tunnel', 'upload', 'name|port']

test.before(async () => {
  lab = await createLab({ laptop: release(), installed: true })
  await lab.eventually('the tunnel', () => lab.usable(), { within: 60_000 })
})
test.after(() => lab?.close())

test('all is well; and nothing of the round trip is left, here or there', async () => {
  const started = performance.now()
  const { code, found } = await doctor()
  console.log(`figure: nix-lan doctor, all of it: ${((performance.now() - started) / 1000).toFixed(1)} s`)
  assert.is(text(found), '')
  assert.equal([code, found.every(({ state }) => state === 'ok')], [0, true])
  assert.equal(
    found.slice(-3).map(({ check }) => check),
    ['build', 'upload', 'fetch'],
  )
  await nothingLeft()
})

test('keep-outputs, which every user of nix-direnv sets: the probe is deleted all the same', async () => {
  await onLaptop(`echo 'keep-outputs = true' >>${CONF}; ${RESTART_NIX}`)
  assert.is(text((await doctor()).found), '')
  await nothingLeft()
  await onLaptop(`sed -i '/^keep-outputs/d' ${CONF}; ${RESTART_NIX}`)
  const status = JSON.parse((await lab.laptop.run('alice', 'nix-lan', ['status', '--json'])).stdout)
  assert.equal(status.caches[0].fetched.all, { paths: 0, bytes: 0 }, 'the probe is no transfer of the user’s')
})

async function nothingLeft(): Promise<void> {
  assert.equal(await lab.queued(), [])
  for (const host of [lab.laptop, lab.box])
    assert.is(await host.must('root', 'sh', ['-c', 'ls /nix/store | grep nix-lan-doctor || :']), '', host.name)
}

test('^C in the middle of the round trip: nothing of it is left either', async () => {
  // in a process group of its own, all of which a terminal would send the signal to
  // nor looked for again and again: the next check may have begun by then
  const script = `rm -f lines; mkfifo lines; setsid nix-lan doctor >lines & doctor=$!
while read -r line; do echo "$line"; case $line in 'ok '*' build '*) kill -INT -- -$doctor ;; esac; done <lines; wait $doctor; echo "exit $?"; rm lines`
  const said = await lab.laptop.must('alice', 'bash', ['-c', script])
  assert.match(said, /^exit 130$/m)
  assert.not.match(said, /fetch|failed/i, 'what was interrupted is not blamed')
  await nothingLeft()
})

test('an ssh that is slow from its socket’s file to listening at it: nothing is blamed', async () => {
  const slow = 'exec strace -D -qq -o /dev/null -e trace=listen -e inject=listen:delay_enter=2000000 /usr/bin/ssh "$@"'
  lab.laptop.write('/usr/local/bin/ssh', `#!/bin/sh\n${slow}\n`, { mode: 0o755 })
  try {
    assert.is(text((await doctor()).found), '')
  } finally {
    await onLaptop('rm /usr/local/bin/ssh')
  }
})

test('--offline takes no longer than ten empty starts of node; only what needs the network is left out', async () => {
  const took = (command: string, args: string[]) => async (): Promise<number> => (await lab.laptop.run('alice', command, args)).ms
  const ways = { node: took('node', ['-e', '0']), ours: took('nix-lan', ['doctor', '--offline']) }
  const { node, ours } = await compare(ways, (least) => least.ours <= 10 * least.node)
  console.log(`figure: nix-lan doctor --offline: ${ours.toFixed(0)} ms, ${(ours / node).toFixed(1)} × an empty start of node`)
  assert.ok(ours <= 10 * node, `${ours} ms is more than ten times ${node} ms`)
  const { code, found } = await doctor(['--offline'])
  assert.is(code, 0)
  const left = found.filter(({ state }) => state === 'skipped').map(({ check }) => check)
  assert.equal(left, ['unsigned', 'name', 'port', 'login', "box's daemon", 'tunnel', 'kept', 'build', 'upload', 'fetch'])
})

for (const fault of FAULTS) {
  test(fault.fault, async () => {
    let mended = false
    try {
      await fault.make()
      const { code, found } = await doctor([], fault.env)
      const [first, ...others] = bad(found)
      assert.equal(others, [], 'nothing else is blamed')
      assert.match(first?.check ?? 'nothing', new RegExp(`^(${fault.check})$`), text(found))
      assert.is(first?.state, fault.state ?? 'failed')
      assert.is(code, fault.state === 'warning' ? 0 : 1)
      assert.match(first?.found ?? '', fault.found, text(found))
      assert.match(first?.fix ?? '', fault.fix, text(found))
      console.log(`figure: ${fault.fault} | ${first?.state} ${first?.check}: ${first?.found} | ${first?.fix}`)
      await repair(fault, first?.fix ?? '')
      mended = true
      await allWell(fault)
    } finally {
      // a fault that was named wrongly is no fault of the tests that follow
      if (!mended)
        await repair(fault, (await doctor([], fault.env)).found.find(({ check }) => check === fault.check)?.fix ?? '').catch(() => {})
      await fault.restore?.()
    }
  })
}

const repair = (fault: Fault, fix: string): Promise<unknown> => (fault.heed ? fault.heed(fix) : asAlice(fix, fault.env))

/**
 * What has nothing to do with the box is looked at without it, to save time; the last test is a
 * whole one again.
 */
async function allWell(fault: Fault): Promise<void> {
  const here = !ONLINE.includes(fault.check)
  let after = ''
  const well = async (): Promise<boolean> => {
    after = text((await doctor(here ? ['--offline'] : [], fault.env)).found)
    return after === ''
  }
  await lab.eventually('all is well', well, { within: 120_000, every: 1000 }).catch((error: Error) => {
    throw new Error(`${after}\n${error.message}`)
  })
}

test('a second user of the laptop is told whose the tunnel is; nix-lan-run adds nothing for them, in silence', async () => {
  await onLaptop('useradd -m bob')
  const asBob = async (...words: string[]): Promise<string> => {
    const { code, stdout, stderr } = await lab.laptop.run('root', 'runuser', ['-u', 'bob', '--', ...words])
    assert.equal([code, stderr], [0, ''], words.join(' '))
    return stdout
  }
  const [, whole = ''] = /the tunnel is alice's, and nobody else can see it: (sudo .*)$/m.exec(await asBob('nix-lan', 'status')) ?? []
  assert.match(await onLaptop(whole), /^pi: usable/m)
  const explained = await asBob('nix-lan-run', '--explain', 'env')
  assert.match(
    explained,
    "cache pi: can't be used: the tunnel is alice's, and only alice can see and use it; already among the substituters: nix-daemon asks it for everybody\n",
  )
  assert.match(explained, 'NIX_CONFIG: as it is\n')
  assert.not.match(await asBob('nix-lan-run', 'env'), /^NIX_CONFIG=/m)
  const available = await lab.laptop.run('root', 'runuser', ['-u', 'bob', '--', 'nix-lan-available', '--usable'])
  assert.equal(
    [available.code, available.stdout],
    [1, `pi: away: /run/user/1000/nix-lan/pi.sock is another user's, and only they can see and use it\n`],
  )
})

test('root: all of it as the user, and what only root can see', async () => {
  const asRoot = async () => {
    const { code, stdout, stderr } = await lab.laptop.run('root', 'nix-lan', ['doctor', '--json'])
    assert.is(stderr, '')
    return { code, found: JSON.parse(stdout) as Finding[] }
  }
  const well = await asRoot()
  assert.equal([text(well.found), well.code], ['', 0])
  // a key whose other half, beside it, is another one's
  await onLaptop('cd /etc/nix; mv nix-lan.secret kept; nix-store --generate-binary-cache-key laptop-1 nix-lan.secret /root/other')
  const { found } = await asRoot()
  assert.match(
    text(found),
    /"check":"signing".*does not trust its own key: another key called laptop-1 is trusted here.*","fix":"in \/etc\/nix\/nix\.conf: extra-trusted-public-keys = laptop-1:/,
  )
  // its fix, as a person does it who has put the other half beside it, too; the box knows that key as little
  const fix = bad(found).find(({ check }) => check === 'signing')?.fix ?? ''
  const [former, half] = [lab.laptop.read(CONF), lab.laptop.read('/etc/nix/nix-lan.public')]
  await onLaptop('cp /root/other /etc/nix/nix-lan.public')
  await onLaptop(
    `sed -i 's|^extra-trusted-public-keys.*|extra-trusted-public-keys = ${/laptop-1:[^\s,]+/.exec(fix)?.[0]}|' ${CONF}; ${RESTART_NIX}`,
  )
  const offline = await lab.laptop.run('root', 'nix-lan', ['doctor', '--offline', '--json'])
  assert.is((JSON.parse(offline.stdout) as Finding[]).find(({ check }) => check === 'signing')?.state, 'ok', offline.stdout)
  lab.laptop.write(CONF, former)
  lab.laptop.write('/etc/nix/nix-lan.public', half)
  await onLaptop(`mv /etc/nix/kept /etc/nix/nix-lan.secret; ${RESTART_NIX}`)
})

test.run()
