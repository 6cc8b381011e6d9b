// The tunnel as a unit: why it ended, from what ssh says; its pauses.
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { SshCache } from '../../scripts/config/types.ts'
import { searchPath } from '../../scripts/system/search-path.ts'
import { agentState, type Circumstances, endOf, type Kind, READY_MARK, reasonOf, whyNotReady } from '../../scripts/tunnel/failure.ts'
import { Service } from '../../scripts/tunnel/service.ts'
import {
  afterFailure,
  forSleep,
  LONGEST_PAUSE,
  pauseAfter,
  pauseLeft,
  readTunnelState,
  type TunnelState,
  tunnelStateFile,
  uptime,
} from '../../scripts/tunnel/state.ts'
import { fakeDaemon } from '../lib/fake-daemon.ts'

const CHANGED = `@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Someone could be eavesdropping on you right now (man-in-the-middle attack)!
It is also possible that a host key has just been changed.
The fingerprint for the ED25519 key sent by the remote host is
SHA256:u+Vmt+kkgZY3gn2GvuJPcZfk1KC7fYsAbzNlvmVwmWk.
Please contact your system administrator.
Add correct host key in /home/alice/.ssh/known_hosts to get rid of this message.
Offending ED25519 key in /home/alice/.ssh/known_hosts:1
  remove with:
  ssh-keygen -f "/home/alice/.ssh/known_hosts" -R "pi.local"
Host key for pi.local has changed and you have requested strict checking.
Host key verification failed.
`
const DENIED = 'alice@pi.local: Permission denied (publickey,password).\n'
// What ssh 9.2 says when nobody listens there, and just the same with AllowStreamLocalForwarding
// no, AllowTcpForwarding no, DisableForwarding yes in sshd_config, and `restrict` in
// authorized_keys (sshd 9.2).
const OPEN_FAILED = 'channel 1: open failed: connect failed: open failed\n'

const ABOUT: Circumstances = { host: 'pi.local', byHand: 'ssh alice@pi.local', agent: 'keys', envFile: '/home/alice/.bashrc' }

const test = suite('tunnel as a unit')

// As `ssh -E` of OpenSSH 9.2 wrote them. What 10.0 and 10.6 write, the scenarios in test/lab meet.
const LOGS: [string, string, number, Kind, string][] = [
  ['a host key that changed', CHANGED, 255, 'host-key-changed', 'Host key verification failed.'],
  ['one that is not known', 'Host key verification failed.\n', 255, 'host-key-unknown', 'Host key verification failed.'],
  ['no login', DENIED, 255, 'denied', DENIED.trim()],
  [
    'refused',
    'ssh: connect to host 10.77.0.2 port 22: Connection refused\n',
    255,
    'unconnected',
    'ssh: connect to host 10.77.0.2 port 22: Connection refused',
  ],
  [
    'timed out',
    'ssh: connect to host 10.77.0.99 port 22: Connection timed out\n',
    255,
    'unconnected',
    'ssh: connect to host 10.77.0.99 port 22: Connection timed out',
  ],
  [
    'no such name',
    'ssh: Could not resolve hostname nopi.local: Name or service not known\n',
    255,
    'unconnected',
    'ssh: Could not resolve hostname nopi.local: Name or service not known',
  ],
  [
    'the socket is taken',
    'unix_listener: cannot bind to path /tmp/x.sock: Address already in use\nCould not request local forwarding.\n',
    255,
    'socket',
    'unix_listener: cannot bind to path /tmp/x.sock: Address already in use',
  ],
  [
    "the user's own forwarding",
    'Error: remote port forwarding failed for listen port 22\n',
    255,
    'forwarding',
    'Error: remote port forwarding failed for listen port 22',
  ],
  [
    'lost',
    `${OPEN_FAILED}${READY_MARK}\nTimeout, server pi.local not responding.\n`,
    255,
    'lost',
    'Timeout, server pi.local not responding.',
  ],
  [
    'lost: closed',
    `${READY_MARK}\n${OPEN_FAILED}Connection to pi.local closed by remote host.\n`,
    255,
    'lost',
    'Connection to pi.local closed by remote host.',
  ],
  ['killed', `${READY_MARK}\n`, 137, 'lost', 'ssh was ended by signal 9'],
  ['killed before', '', 137, 'other', 'ssh was ended by signal 9'],
  [
    'a configuration that ssh refuses',
    '/home/alice/.ssh/config: line 2: Bad configuration option: usekeychain\n/home/alice/.ssh/config: terminating, 1 bad configuration options\n',
    255,
    'configuration',
    '/home/alice/.ssh/config: line 2: Bad configuration option: usekeychain',
  ],
  [
    'a configuration that others can write',
    'Bad owner or permissions on /home/alice/.ssh/config\n',
    255,
    'configuration',
    'Bad owner or permissions on /home/alice/.ssh/config',
  ],
  ['silent', '', 255, 'other', 'ssh ended with exit code 255'],
  ['something new', 'fatal: out of cheese\n', 255, 'other', 'fatal: out of cheese'],
]
for (const [name, log, code, kind, said] of LOGS) test(`why ssh ended: ${name}`, () => assert.equal(endOf(log, code), { kind, said }))

test('a host key that changed: nothing was sent, and the way out is the command that ssh names', () => {
  const reason = reasonOf(endOf(CHANGED, 255), ABOUT, CHANGED)
  assert.match(reason, /^another machine calls itself pi\.local, or the box was set up anew: .* nothing was sent to it/)
  assert.match(reason, /ssh-keygen -f "\/home\/alice\/\.ssh\/known_hosts" -R "pi\.local" and then, once by hand: ssh alice@pi\.local$/)
  const quoted = CHANGED.replaceAll('"', "'") // OpenSSH 10
  assert.match(reasonOf(endOf(quoted, 255), ABOUT, quoted), /ssh-keygen -f '\/home\/alice\/\.ssh\/known_hosts' -R 'pi\.local' and then/)
})

const AGENTS: [number | null, RegExp][] = [
  [0, /takes none of the keys that the ssh agent holds \(alice@pi\.local: Permission denied \(publickey,password\)\.\)/],
  [1, /the ssh agent holds no key: it is locked, or wants `ssh-add`; the tunnel waits for it$/],
  [2, /there is no ssh agent \(SSH_AUTH_SOCK is not set in \/home\/alice\/\.bashrc, or nobody listens there\)/],
  [null, /the ssh agent gives no answer/],
]
for (const [code, says] of AGENTS)
  test(`no login, and ssh-add -l exits ${code}`, () =>
    assert.match(reasonOf(endOf(DENIED, 255), { ...ABOUT, agent: agentState(code) }), says))

test('an agent that asks somebody, or refuses', () => {
  const said = 'sign_and_send_pubkey: signing failed for ED25519 "/home/alice/.ssh/id_ed25519" from agent: agent refused operation\n'
  assert.match(reasonOf(endOf(said + DENIED, 255), ABOUT), /^the ssh agent refuses to use the key/)
})

test('every reason is one line', () => {
  for (const [, log, code] of LOGS) assert.not.match(reasonOf(endOf(log, code), ABOUT, log), /\n/)
})

test('connected, and no nix-daemon: from the last thing that ssh says of a connection, else what the question came to', () => {
  const why = (log: string): string => whyNotReady(log, 'no answer within 2 s', '/run/d', 'alice@pi.local')
  assert.match(
    why(OPEN_FAILED),
    /^alice@pi\.local can't open \/run\/d on the box: its nix-daemon isn't running, .* nix-users\), or its sshd forbids forwarding; nix-lan doctor/,
  )
  assert.match(why(`${OPEN_FAILED}channel 2: open failed: administratively prohibited: open failed\n`), /forbids forwarding to a socket/)
  assert.is(why(''), 'no answer within 2 s')
})

test('pauses grow to a minute at most, and go by a clock that nobody sets', () => {
  assert.equal(
    [1, 2, 3, 6, 7, 8, 2000].map((failures) => pauseAfter(failures)),
    [1, 2, 4, 32, 55, 55, 55],
  )
  assert.equal(
    [1, 2, 3, 4, 5, 8].map((failures) => pauseAfter(failures, true)),
    [8, 8, 8, 8, 16, 55],
    'so that sshd penalizes nobody',
  )
  const now = new Date('2026-01-02T03:04:05Z')
  const first = afterFailure(undefined, 'a', now, 1000)
  assert.equal(first, { failures: 1, reason: 'a', since: '2026-01-02T03:04:05.000Z', notBefore: 1001 })
  assert.is(afterFailure(undefined, 'a', now, 1000, true).notBefore, 1008)
  const second = afterFailure(first, 'b', new Date(0), 1010)
  assert.equal(second, { failures: 2, reason: 'b', since: first.since, notBefore: 1012 })
  assert.equal(
    [1010, 1011.5, 1012, 5000, 1012 - LONGEST_PAUSE - 1].map((up) => pauseLeft(second, up)),
    [2, 0.5, 0, 0, 0],
  )
  assert.is(pauseLeft(undefined, 5), 0)
  assert.equal([0.04, 0.94, 1, 54.95].map(forSleep), ['0.1', '1.0', '1.0', '55.0'])
  assert.is(pauseLeft({ ...second, notBefore: 0 }, 5), 0)
  assert.ok(uptime() > 0)
})

test('a state that is damaged is none', () => {
  const before = process.env.XDG_RUNTIME_DIR
  const folder = mkdtempSync(join(tmpdir(), 'nix-lan-state-'))
  process.env.XDG_RUNTIME_DIR = folder
  try {
    mkdirSync(join(folder, 'nix-lan'))
    const uid = process.getuid?.() ?? 0
    const read = (text: string): TunnelState | undefined => {
      writeFileSync(tunnelStateFile(uid, 'pi'), text)
      return readTunnelState(uid, 'pi')
    }
    const state = afterFailure(undefined, 'a', new Date(), 7)
    assert.equal(read(JSON.stringify(state)), state)
    for (const text of ['', '{', '[]', '{"failures":1}', JSON.stringify({ ...state, notBefore: '8' })])
      assert.is(read(text), undefined, text)
  } finally {
    if (before === undefined) delete process.env.XDG_RUNTIME_DIR
    else process.env.XDG_RUNTIME_DIR = before
    rmSync(folder, { recursive: true })
  }
})

test('a full /run: the tunnel is ready all the same', async () => {
  const before = process.env.XDG_RUNTIME_DIR
  const folder = mkdtempSync(join(tmpdir(), 'nix-lan-full-'))
  process.env.XDG_RUNTIME_DIR = folder
  const daemon = fakeDaemon(() => undefined)
  try {
    mkdirSync(join(folder, 'nix-lan'))
    symlinkSync('/dev/full', join(folder, 'nix-lan/pi.ssh.log'))
    await new Promise<void>((done) => daemon.listen(join(folder, 'nix-lan/pi.sock'), done))
    const uid = process.getuid?.() ?? 0
    const lines: string[] = []
    const cache = { kind: 'ssh', name: 'pi', ssh: 'pi', daemonSocket: '/run/d', deadline: 60_000 } as SshCache
    assert.not.equal(await new Service(uid, cache, 'nix-lan-tunnel', (line) => lines.push(line)).ready(), 75)
    // what systemd is told, no systemd here takes
    assert.equal(
      lines.filter((line) => !/systemd-notify/.test(line)),
      [],
    )
  } finally {
    daemon.close()
    if (before === undefined) delete process.env.XDG_RUNTIME_DIR
    else process.env.XDG_RUNTIME_DIR = before
    rmSync(folder, { recursive: true })
  }
})

test('a PATH that was made here does not grow with each attempt', () => {
  const once = searchPath('/a')
  assert.is(searchPath(once), once)
  assert.is(searchPath(searchPath(undefined)), searchPath(undefined))
})

test.run()
