// The contract of nix-lan-dispatcher: exit 0 at once whatever happens, which events matter, what is
// asked of the user's systemd and as whom, and a line for the journal. It runs as root, in a mount
// namespace with its own /etc and /run; systemctl, logger and the runtime are sh scripts that take
// notes. NIX_LAN_TEST_RUNTIME: see launcher.test.ts.
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../lib/needs.ts'

const PROGRAM = resolve('dist/nix-lan-dispatcher')
const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-dispatcher-'))
chmodSync(TMP, 0o755)
process.on('exit', () => rmSync(TMP, { recursive: true, force: true }))

function folder(name: string): string {
  const path = join(TMP, name)
  mkdirSync(path, { recursive: true })
  chmodSync(path, 0o755)
  return path
}

function script(path: string, text: string): void {
  writeFileSync(path, `#!/bin/sh\n${text}\n`)
  chmodSync(path, 0o755)
}

/** The runtime under test, behind a script that counts its starts. */
const RUNTIME = process.env.NIX_LAN_TEST_RUNTIME ?? folder('real')
if (!process.env.NIX_LAN_TEST_RUNTIME) symlinkSync(process.execPath, join(RUNTIME, 'node'))
const [NAME = ''] = readdirSync(RUNTIME)
const BIN = folder('bin')
// Without W in its environment, of which root's JavaScript gets only what is on a list.
script(
  join(folder('runtime'), NAME),
  `W=$(cat ${BIN}/world); echo start >>$W/starts; [ ! -e $W/slow ] || sleep 60; exec ${join(RUNTIME, NAME)} "$@"`,
)
// Without W in its environment, which has been emptied: beside itself.
script(
  join(BIN, 'systemctl'),
  'W=$(cat "${0%/*}/world"); { id -u; id -g; id -G; echo "$*"; env | cut -d= -f1 | sort | tr "\\n" " "; echo; echo "$XDG_RUNTIME_DIR"; } >>$W/asked; ' +
    '[ ! -e $W/hang ] || sleep 60; exit $(cat $W/code)',
)
script(join(BIN, 'logger'), 'printf "%s\\n" "$*" >>$W/journal')
// Where there is nothing to fall back to but what is in PATH.
const TOOLS = ['cat', 'timeout', 'setpriv', 'id', 'env', 'sh', 'cut', 'sort', 'tr', 'sleep']

let worlds = 0

/**
 * Runs a sh script in a mount namespace, as root: /etc with only what names users and a
 * configuration for `nobody`, who is logged in; an empty /run else. In it: `event INTERFACE ACTION`
 * runs the dispatcher as NetworkManager does, `until_ TEXT` waits for a line of the journal,
 * `settled` for the end of all that events have started (it holds a lock as long), and `busy` tells
 * whether it has ended; `end_the_rest` ends what hangs; `config USER`; and $W, where the notes are.
 * Returns what it prints once all that it started has ended.
 */
function inside(text: string): string {
  const world = folder(`world${++worlds}`)
  chmodSync(world, 0o777)
  writeFileSync(join(BIN, 'world'), world)
  writeFileSync(join(world, 'code'), '0')
  const before = `exec 2>&1; set -e; cd /; export W=${world}
mkdir $W/etc; cp -L /etc/passwd /etc/group $W/etc; mount --bind $W/etc /etc; mount -t tmpfs -o mode=755 tmpfs /run
login() { mkdir -p /run/user/$1/systemd; cp -a ${SOCKET} /run/user/$1/systemd/private; chown -R $1 /run/user/$1; chmod 700 /run/user/$1; }
config() { mkdir -p /etc/nix-lan; printf 'user = "%s"\\n\\n[cache.rpi]\\nhost = "rpi.local"\\n' "$1" >/etc/nix-lan/config.toml; }
login 65534; config nobody; D=${PROGRAM}
event() { flock -s -F $W/busy env -i W=$W PATH=${BIN}:${folder('runtime')}:/usr/sbin:/usr/bin:/sbin:/bin NM_DISPATCHER_ACTION="$2" DHCP4_DOMAIN_NAME='() { :; }' $D "$@" </dev/null 2>>$W/stderr; echo "exit $?"; }
until_() { i=0; until grep -q -- "$1" $W/journal 2>/dev/null; do i=$((i+1)); [ $i -lt 1200 ] || { echo "no $1"; break; }; sleep .05; done; }
settled() { flock -w 60 $W/busy true || echo 'something goes on'; }
busy() { if flock -n $W/busy true; then echo 'all is over'; else echo 'something goes on'; fi; }
notes() { for n in "$@"; do [ ! -e $W/$n ] || cat $W/$n; done; }
end_the_rest() { for p in /proc/[0-9]*; do [ "$p" = /proc/$$ ] || [ "$(readlink $p/ns/mnt)" != "$(readlink /proc/$$/ns/mnt)" ] || kill -KILL "\${p#/proc/}" 2>/dev/null; done; }
starts() { cat $W/starts 2>/dev/null | wc -l; }
set +e
`
  const done = spawnSync('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', before + text], {
    encoding: 'utf8',
    timeout: 300_000,
  })
  return done.stdout
}

const SOCKET = join(TMP, 'private')
const ASKED = '--user restart --no-block nix-lan-check.service'
const said = (event: string): string => `-t nix-lan-dispatcher -- ${event}: nobody's systemd checks the boxes\n`

const test = needs(suite('nix-lan-dispatcher'), 'root', 'unshare', 'setpriv', 'flock')

test.before(async () => {
  const server = createServer()
  await new Promise<void>((done) => server.listen(SOCKET, done))
  server.unref()
})

test('asks the systemd of the user, as the user, without what a network says', () => {
  const told = inside(`event eth0 up; until_ 'up of'; notes journal asked`)
  const [exit, line, uid, gid, groups, args, variables = '', directory] = told.split('\n')
  assert.equal([exit, `${line}\n`, uid, args, directory], ['exit 0', said('up of eth0'), '65534', ASKED, '/run/user/65534'])
  assert.is(groups, gid) // none but the user's own
  assert.is.not(gid, '0')
  assert.equal(
    variables
      .trim()
      .split(' ')
      .filter((name) => !['PWD', 'OLDPWD', 'SHLVL', '_', 'W'].includes(name)), // those of a shell
    ['PATH', 'XDG_RUNTIME_DIR'],
  )
})

const MATTER = ['up', 'down', 'vpn-up', 'vpn-down', 'dhcp4-change', 'dhcp6-change', 'reapply', 'connectivity-change', 'dns-change']
const IGNORED = [
  'hostname',
  'pre-up',
  'pre-down',
  'vpn-pre-up',
  'vpn-pre-down',
  'device-add',
  'device-delete',
  'up-',
  '',
  'of-tomorrow',
  '*',
]

test('acts on what changes reachability, and on nothing else', () => {
  const events = (names: string[], of: string) => names.map((name) => `event '${of}' '${name}'`).join('\n')
  const ignored = [events(IGNORED, 'eth0'), events(MATTER, 'lo')].join('\n')
  const told = inside(`${ignored}\nstarts\n${MATTER.map((name) => `event '' ${name}; until_ '${name}:'`).join('\n')}\nnotes journal`)
  const exits = 'exit 0\n'.repeat(IGNORED.length + MATTER.length)
  assert.is(told, `${exits}0\n${'exit 0\n'.repeat(MATTER.length)}${MATTER.map(said).join('')}`)
})

test('runs under any name, by a symlink', () => {
  const told = inside(
    'mkdir /etc/d; ln -s $D /etc/d/90-nix-lan; D=/etc/d/90-nix-lan; event wlan0 dhcp4-change; until_ wlan0; notes journal',
  )
  assert.is(told, `exit 0\n${said('dhcp4-change of wlan0')}`)
})

test('JavaScript reads the configuration once for each text of it', () => {
  const told = inside(`for i in 1 2 3; do event eth0 up; until_ 'up of'; rm $W/journal; done; starts
config daemon; login 1; event eth0 down; until_ 'down of'; notes journal; rm $W/journal; tail -n 4 $W/asked | head -n 1; starts
printf '# more' >>/etc/nix-lan/config.toml; event eth0 down; until_ 'down of'; rm $W/journal; event eth0 up; until_ 'up of'; starts
stat -c '%a %u' /run/nix-lan /run/nix-lan/dispatcher; ls -I deno -I bun /run/nix-lan`)
  assert.match(
    told,
    /^(exit 0\n){3}1\nexit 0\n-t nix-lan-dispatcher -- down of eth0: daemon's systemd checks the boxes\n.*\n2\nexit 0\nexit 0\n3\n755 0\n600 0\ndispatcher\n$/,
  )
})

test('a user who is not logged in: nothing, and no word', () => {
  const told = inside(`rm /run/user/65534/systemd/private; event eth0 up; event eth0 down
rm -r /run/user/65534; event eth0 up; settled; [ "$(starts)" != 0 ] || echo 'nothing was done'
notes asked journal; login 65534; event eth0 reapply; until_ reapply; notes journal`)
  assert.is(told, `${'exit 0\n'.repeat(4)}${said('reapply of eth0')}`)
})

test('returns at once while all that it asks hangs, and gives that up', () => {
  const told = inside(`touch $W/hang; t=$(date +%s%N); event eth0 up; t=$((($(date +%s%N) - t) / 1000000)); busy
settled; notes journal; pgrep -u 65534 -f "$W" || echo none is left; echo $t
rm /run/nix-lan/dispatcher; touch $W/slow; event eth0 down; busy; end_the_rest`)
  const [exit, then, line, left, ms, exit2, then2] = told.split('\n')
  assert.equal(
    [exit, then, line, left],
    ['exit 0', 'something goes on', "-t nix-lan-dispatcher -- up of eth0: nobody's systemd did not answer within 5 s", 'none is left'],
  )
  assert.equal([exit2, then2], ['exit 0', 'something goes on'])
  console.log(`figure: the dispatcher returns after ${ms} ms`)
})

const TROUBLE: [string, string, RegExp][] = [
  [
    'no configuration',
    'rm -r /etc/nix-lan',
    /no configuration \(looked for \/etc\/nix-lan\/config\.toml\)\. First step: sudo nix-lan setup USER@HOST; by hand: docs\/by-hand\.md\n$/,
  ],
  ['a configuration that is wrong', 'echo oops >>/etc/nix-lan/config.toml', /\/etc\/nix-lan\/config\.toml:5:\d+: is not valid TOML: .*\n$/],
  ['a configuration that others can write', 'chmod o+w /etc/nix-lan/config.toml', /not read as root, because everybody can write to.*\n$/],
  ['a user who does not exist', 'config alicia', /config\.toml:1: user: there is no user "alicia" .*\n$/],
  ['a systemd without our unit', 'echo 5 >$W/code', /up of eth0: nobody's systemd has no nix-lan-check\.service\n$/],
  ['a systemd that refuses', 'echo 1 >$W/code', /up of eth0: could not ask nobody's systemd \(exit 1\)\n$/],
]
for (const [what, doing, line] of TROUBLE) {
  test(`${what}: exit 0, and one line that says so`, () => {
    const told = inside(`${doing}; event eth0 up; settled; notes journal`)
    assert.match(told, /^exit 0\n-t nix-lan-dispatcher -- [^\n]+\n$/)
    assert.match(told, line)
  })
}

test('a configuration that was good, and is no longer: not believed', () => {
  const told = inside(`event eth0 up; until_ 'up of'; rm $W/journal $W/asked
printf 'user = "daemon"\\n[cache.x]\\nhost = "x"\\n' >/etc/nix-lan/config.toml; chmod o+w /etc/nix-lan/config.toml; login 1
event eth0 up; settled; notes journal asked`)
  assert.match(told, /^exit 0\nexit 0\n[^\n]+not read as root[^\n]+\n$/)
})

test('no runtime, no tools, no logger: exit 0', () => {
  const bare = (names: string[]) =>
    `mkdir -p $W/tools; rm -f $W/tools/*; for t in ${names.join(' ')}; do ln -s $(command -v $t) $W/tools/$t; done
sed -e 's,^\\( *PATH=.*\\):}/usr/local/bin:.*,\\1},' -e 's,^nix_lan_directories=.*,nix_lan_directories=/nonexistent,' ${PROGRAM} >$W/alone; chmod +x $W/alone
grep -q '^ *PATH=\${PATH:+$PATH}$' $W/alone || echo 'the head sets another PATH'
alone() { flock -s -F $W/busy env -i W=$W PATH=$W/tools $W/alone "$@" </dev/null 2>>$W/journal; echo "exit $?"; }; `
  const told = inside(`${bare(TOOLS)} alone eth0 up; settled; notes journal`)
  assert.match(told, /^exit 0\nnix-lan-dispatcher: no JavaScript runtime found: [^\n]*\n$/)
  const without = inside(
    `event eth0 up; until_ 'up of'; rm $W/journal; ${bare(TOOLS.filter((tool) => tool !== 'setpriv'))} alone eth0 up; settled
${bare(['sh', 'env'])} alone eth0 up; settled; notes journal`,
  )
  assert.match(without, /^exit 0\nexit 0\nexit 0\nnix-lan-dispatcher: up of eth0: could not ask nobody's systemd \(exit 127\)\n/)
})

test('by hand: help, and whose boxes they are', () => {
  const env = `export W=$W PATH=${folder('runtime')}:/usr/bin:/bin;`
  const told = inside(
    `${env} $D | head -n 1; $D --help | head -n 1; $D --owner; echo $?; $D eth0; echo $?; rm -r /etc/nix-lan; $D --owner; echo $?`,
  )
  assert.is(
    told,
    `nix-lan-dispatcher: look for the boxes when the network changes
nix-lan-dispatcher: look for the boxes when the network changes
nobody 65534
0
nix-lan-dispatcher: an event is an interface and an action; see --help
2
no configuration (looked for /etc/nix-lan/config.toml). First step: sudo nix-lan setup USER@HOST; by hand: docs/by-hand.md
2
`,
  )
})

test.run()
