// The ssh command of a tunnel, and where its agent comes from.
import { execFileSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { Failure } from '../../scripts/cli/errors.ts'
import type { SshCache } from '../../scripts/config/types.ts'
import { type Outcome, run } from '../../scripts/system/exec.ts'
import { KEEPER } from '../../scripts/system/texts.ts'
import { findAgent, wantTouch } from '../../scripts/tunnel/agent.ts'
import { prepare } from '../../scripts/tunnel/attempt.ts'
import { whyLate } from '../../scripts/tunnel/late.ts'
import { makeRoom } from '../../scripts/tunnel/socket.ts'
import {
  addressOptions,
  forwardCommand,
  loginByHand,
  needsControl,
  portOptions,
  sftpCommand,
  sshArguments,
  sshCommand,
  trafficOptions,
} from '../../scripts/tunnel/ssh.ts'
import { agentSocket, askSsh, changesNothingElse, forwardingsOf, isDirect, parseFacts } from '../../scripts/tunnel/ssh-config.ts'
import { needs } from '../lib/needs.ts'
import { HANGS, until } from '../lib/until.ts'

const CACHE: SshCache = {
  kind: 'ssh',
  name: 'rpi',
  host: 'rpi.local',
  ssh: 'pi@rpi.local',
  port: 22,
  daemonSocket: '/nix/var/nix/daemon-socket/socket',
  envFile: '/home/alice/.bashrc',
  derivations: true,
  exclude: [],
  keep: 60,
  deadline: 2500,
  patience: 60_000,
}
const PLAIN =
  'user pi\nhostname rpi.local\nport 22\ncanonicalizehostname false\nidentityfile ~/.ssh/id_rsa\nidentityfile ~/.ssh/id_ed25519\n'
const facts = (more = ''): ReturnType<typeof parseFacts> => parseFacts(more + PLAIN)

const test = suite('tunnel')

const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-tunnel-'))
test.after(() => rmSync(TMP, { recursive: true }))

test('the command: options, then the forwarding, then the destination', () => {
  const args = sshArguments(CACHE, '/run/user/1000/nix-lan/rpi.sock', { target: ['-p', '22'] })
  assert.equal(args.slice(0, 3), ['-N', '-T', '-n'])
  const forwarding = '/run/user/1000/nix-lan/rpi.sock:/nix/var/nix/daemon-socket/socket'
  assert.equal(args.slice(-6), ['-p', '22', '-L', forwarding, '--', 'pi@rpi.local'])
  const options = args.filter((_, i) => args[i - 1] === '-o')
  for (const must of ['BatchMode=yes', 'ExitOnForwardFailure=yes', 'ServerAliveInterval=4', 'ServerAliveCountMax=2', 'ControlPath=none']) {
    assert.ok(options.includes(must), must)
  }
  // 2.5 s for the box and 5 s for the key exchange
  assert.ok(options.includes('ConnectTimeout=8'), options.join(' '))
})

test('what ssh -G says, keyword by keyword', () => {
  assert.equal(facts().get('identityfile'), ['~/.ssh/id_rsa', '~/.ssh/id_ed25519'])
  assert.equal(parseFacts('HostName X\nempty\n').get('hostname'), ['X'])
  assert.equal(parseFacts('empty\n').get('empty'), [''])
})

const DIRECT: [string, string, boolean][] = [
  ['the host itself', '', true],
  ['another machine', 'hostname other.lan\n', false],
  ['upper case', 'hostname RPI.local\n', true],
  ['a jump host', 'proxyjump bastion\n', false],
  ['a proxy', 'proxycommand nc %h %p\n', false],
  ['a proxy switched off', 'proxycommand none\nproxyjump none\n', true],
]
for (const [name, more, direct] of DIRECT) {
  test(`ssh connects to the host: ${name}: ${direct}`, () => {
    assert.is(isDirect(CACHE, facts(more)), direct)
    assert.equal(portOptions({ ...CACHE, port: 2222 }, facts(more)), direct ? ['-p', '2222'] : [])
  })
}

test('where ssh could not be asked, a port that was configured is kept', () => {
  assert.not(isDirect(CACHE, new Map()))
  assert.equal([portOptions(CACHE, new Map()), portOptions({ ...CACHE, port: 2222 }, new Map())], [[], ['-p', '2222']])
})

test('the command that logs in by hand', () => {
  assert.is(loginByHand(CACHE, facts()), 'ssh pi@rpi.local')
  assert.is(loginByHand({ ...CACHE, port: 2222 }, facts()), 'ssh -p 2222 pi@rpi.local')
  assert.is(loginByHand({ ...CACHE, port: 2222, ssh: 'pi' }, facts('hostname other.lan\n')), 'ssh pi')
})

/**
 * What ssh itself takes from our command line when an alias has all that is not wanted; undefined
 * where there is no ssh.
 */
async function realFacts(argv: readonly string[], config: string): Promise<ReturnType<typeof parseFacts> | undefined> {
  const file = join(TMP, 'ssh_config')
  writeFileSync(file, config, { mode: 0o600 })
  const start = (words: string[]): Promise<Outcome> => run('ssh', ['-F', file, ...words.slice(1)], { timeout: HANGS })
  const [, ...options] = argv.slice(0, argv.indexOf('--'))
  const { facts, problem } = await askSsh('box', options, start)
  if (/ENOENT/.test(problem ?? '')) return undefined
  assert.is(problem, undefined)
  return facts
}

const UNWANTED = `IgnoreUnknown UseKeychain
Host box
  UseKeychain yes
  OptionOfAnotherVersion yes
  RequestTTY force
  RemoteCommand tmux attach
  LocalForward 8080 localhost:80
  RemoteForward 9090 localhost:90
  DynamicForward 1080
  ClearAllForwardings yes
  PermitLocalCommand yes
  LocalCommand touch /tmp/x
  SessionType subsystem
  ForkAfterAuthentication yes
  StdinNull yes
  Tunnel yes
  ForwardAgent yes
  ForwardX11 yes
  VisualHostKey yes
  ControlMaster auto
  ControlPath ~/.ssh/%C
  ControlPersist yes
  ConnectionAttempts 50
  LogLevel QUIET
`
/** What must be said in the output of `ssh -G`; undefined: no line at all. */
const NEUTRAL: Record<string, string | undefined> = {
  requesttty: 'false',
  remotecommand: undefined,
  permitlocalcommand: 'no',
  forkafterauthentication: 'no',
  tunnel: 'false',
  forwardagent: 'no',
  forwardx11: 'no',
  visualhostkey: 'no',
  controlmaster: 'false',
  controlpath: undefined,
  connectionattempts: '1',
  loglevel: 'INFO',
  batchmode: 'yes',
}
for (const [what, argv, more] of [
  [
    'the tunnel',
    ['ssh', ...sshArguments(CACHE, '/s', { target: [] })],
    { sessiontype: 'none', stdinnull: 'yes', clearallforwardings: 'no' },
  ],
  [
    'the tunnel that is asked for its forwarding',
    ['ssh', ...sshArguments(CACHE, '/s', { target: [], control: '/c' })],
    {
      controlmaster: 'true',
      controlpath: '/c',
      controlpersist: 'no',
      clearallforwardings: 'yes',
      localforward: undefined,
      remoteforward: undefined,
      dynamicforward: undefined,
    },
  ],
  [
    'a program on the box',
    sshCommand('box', 'sh -s'),
    { sessiontype: 'default', stdinnull: 'no', localforward: undefined, remoteforward: undefined, dynamicforward: undefined },
  ],
  // sftp passes its -o on to ssh; -b is its own.
  [
    'sftp',
    [
      'ssh',
      ...sftpCommand('box')
        .slice(1)
        .filter((word) => word !== '-b' && word !== '-'),
    ],
    { stdinnull: 'no' },
  ],
] as const)
  test(`nothing of an alias that is meant for people: ${what}`, async () => {
    const found = await realFacts(argv, UNWANTED)
    if (!found) return
    for (const [keyword, value] of Object.entries({ ...NEUTRAL, ...more })) assert.is(found.get(keyword)?.[0], value, keyword)
  })

test('a program on the box: the destination is never an option of ssh', () => {
  assert.equal(sshCommand('-oProxyCommand=x', 'sh -s', ['-p', '7']).slice(-5), ['-p', '7', '--', '-oProxyCommand=x', 'sh -s'])
})

test('an alias with forwardings of its own: the tunnel makes none by itself, and is asked for ours without that alias', () => {
  const own = facts('localforward 8080 [localhost]:80\n')
  assert.equal([needsControl(facts()), needsControl(own)], [false, true])
  const args = sshArguments(CACHE, '/s', { target: [], control: '/c' })
  assert.not(args.includes('-L'))
  assert.ok(args.includes('ClearAllForwardings=yes'))
  const asking = forwardCommand(CACHE, '/s', '/c')
  assert.equal(asking.slice(0, 3), ['ssh', '-F', 'none'])
  assert.equal(asking.slice(-7), ['-S', '/c', '-O', 'forward', '-L', '/s:/nix/var/nix/daemon-socket/socket', 'box'])
})

test('ssh -G that fails says why', async () => {
  const outcome: Outcome = { code: 255, signal: null, stdout: '', stderr: '', timedOut: false, failedToStart: null }
  const problem = async (changes: Partial<Outcome>): Promise<string | undefined> =>
    (await askSsh('pi', [], async () => ({ ...outcome, ...changes }))).problem
  assert.is(await problem({ stderr: 'c1: line 2: Bad port\nc1: terminating\n' }), 'ssh -G pi: c1: terminating')
  assert.is(await problem({ code: null, timedOut: true }), 'ssh -G pi: no answer within 15 s')
  assert.is(await problem({ code: null, failedToStart: 'ENOENT' }), 'ssh -G pi: ENOENT')
  assert.is(await problem({}), 'ssh -G pi: exit code 255')
})

test('the address, and the name that known_hosts has', () => {
  assert.equal(addressOptions(CACHE, '10.0.0.2', facts()), ['-o', 'HostName=10.0.0.2', '-o', 'HostKeyAlias=rpi.local'])
  assert.equal(addressOptions({ ...CACHE, port: 2222 }, '10.0.0.2', facts()).at(-1), 'HostKeyAlias=[rpi.local]:2222')
  assert.equal(addressOptions(CACHE, '10.0.0.2', facts('hostkeyalias pi\n')), ['-o', 'HostName=10.0.0.2'])
  assert.is(addressOptions(CACHE, 'fe80::1%eth0', facts())[1], 'HostName=fe80::1%%eth0')
})

test('the address is used only if ssh does the same as without', () => {
  const after = 'hostkeyalias rpi.local\n'
  const replaced = (text: string): string => text.replace('hostname rpi.local', 'hostname 10.0.0.2').replace('port 22', 'port 2222')
  assert.ok(changesNothingElse(facts(), parseFacts(after + replaced(PLAIN))))
  // a `Match host rpi.local` that no longer matches
  assert.not(changesNothingElse(facts('identityagent ~/.agent\n'), parseFacts(after + replaced(PLAIN))))
  assert.not(changesNothingElse(facts('hostkeyalias my-pi\n'), parseFacts(replaced(PLAIN))))
  assert.ok(changesNothingElse(facts('hostkeyalias my-pi\n'), parseFacts(`hostkeyalias my-pi\n${replaced(PLAIN)}`)))
  const token = PLAIN.replace('id_rsa', 'id_%h')
  assert.not(changesNothingElse(parseFacts(token), parseFacts(after + replaced(token))))
  const canonical = PLAIN.replace('canonicalizehostname false', 'canonicalizehostname true')
  assert.not(changesNothingElse(parseFacts(canonical), parseFacts(after + replaced(canonical))))
  assert.not(changesNothingElse(facts(), new Map()))
})

test('forwardings of the user', () => {
  assert.equal(forwardingsOf(facts()), [])
  const more = facts('dynamicforward 1080\nlocalforward 8080 [localhost]:80\nlocalforward 8081 [localhost]:81\n')
  assert.equal(forwardingsOf(more), ['LocalForward 8080 [localhost]:80', 'LocalForward 8081 [localhost]:81', 'DynamicForward 1080'])
})

/** What an env-file with this text gives, where nothing is set. */
async function agentOf(text: string, ours: Record<string, string> = {}, limit?: number): ReturnType<typeof findAgent> {
  const file = join(TMP, 'env')
  writeFileSync(file, text)
  return await findAgent(file, ours, limit)
}

test('an agent in the environment is kept', async () => {
  const found = await agentOf('SSH_AUTH_SOCK=/other', { SSH_AUTH_SOCK: '/mine' })
  assert.equal(found, { env: {}, from: 'the environment' })
})

test('an agent in the environment that holds no key gives way to one of env-file that does', async () => {
  const bin = join(TMP, 'bin')
  mkdirSync(bin)
  // ssh-add(1): 0 keys, 1 none, 2 no agent
  writeFileSync(join(bin, 'ssh-add'), '#!/bin/sh\ncase $SSH_AUTH_SOCK in /full*) exit 0 ;; /empty*) exit 1 ;; *) exit 2 ;; esac\n', {
    mode: 0o755,
  })
  const path = process.env.PATH
  process.env.PATH = `${bin}:${path}`
  try {
    const from = async (ours: string, file: string) => (await agentOf(`SSH_AUTH_SOCK=${file}`, { SSH_AUTH_SOCK: ours })).env.SSH_AUTH_SOCK
    assert.is(await from('/empty', '/full'), '/full')
    assert.is(await from('/gone', '/full'), '/full')
    assert.is(await from('/full', '/full2'), undefined)
    assert.is(await from('/empty', '/empty2'), undefined)
    assert.is(await from('/empty', '/gone'), undefined)
  } finally {
    process.env.PATH = path
  }
})

/** Runs with fake programs before all others in PATH. */
async function withPrograms<T>(programs: Record<string, string>, work: () => Promise<T>): Promise<T> {
  const bin = mkdtempSync(join(TMP, 'bin-'))
  for (const [name, text] of Object.entries(programs)) writeFileSync(join(bin, name), `#!/bin/sh\n${text}\n`, { mode: 0o755 })
  const path = process.env.PATH
  process.env.PATH = `${bin}:${path}`
  try {
    return await work()
  } finally {
    process.env.PATH = path
  }
}

test('AddressFamily: the address is one that ssh would take', async () => {
  const server = createServer((socket) => socket.on('error', () => {}).resume())
  // Both kinds of loopback, on one port.
  await new Promise<void>((done) => server.listen(0, '::', done))
  const { port } = server.address() as AddressInfo
  const cache = { ...CACHE, host: 'pi.lan', ssh: 'pi@pi.lan', port, deadline: 60_000 }
  const addressWith = async (family: string, ahosts: string): Promise<string> => {
    const ssh = `cat <<'END'\nhostname pi.lan\ncanonicalizehostname false\naddressfamily ${family}\nEND`
    const getent = `printf '%s STREAM\\n' ${ahosts}`
    const { answer, args } = await withPrograms({ ssh, getent }, () => prepare(cache, '/run/rpi.sock'))
    return answer.ok ? (args.find((word) => word.startsWith('HostName=')) ?? 'none') : answer.reason
  }
  assert.is(await addressWith('inet', '::1 127.0.0.1'), 'HostName=127.0.0.1')
  assert.is(await addressWith('inet6', '127.0.0.1 ::1'), 'HostName=::1')
  assert.is(await addressWith('any', '::1'), 'HostName=::1')
  assert.is(await addressWith('inet', '::1'), "pi.lan has no IPv4 address (AddressFamily inet in ssh's configuration)")
  server.close()
})

const FILES: [string, string, Record<string, string>, RegExp | undefined][] = [
  ['both', 'SSH_AUTH_SOCK=/a; export SSH_AGENT_PID=7', { SSH_AUTH_SOCK: '/a', SSH_AGENT_PID: '7' }, undefined],
  ['noise', 'echo SSH_AUTH_SOCK=/wrong; echo >&2 no; SSH_AUTH_SOCK=/a', { SSH_AUTH_SOCK: '/a' }, undefined],
  ['spaces, quotes, newlines', `SSH_AUTH_SOCK=$'/a b\\n\\'c'`, { SSH_AUTH_SOCK: "/a b\n'c" }, undefined],
  ['nothing', 'true', {}, undefined],
  ['a false test at its end', 'false', {}, undefined],
  ['return at its head, as Debian has it', 'case $- in *i*) ;; *) return;; esac; SSH_AUTH_SOCK=/a', {}, undefined],
  ['exit after it', 'SSH_AUTH_SOCK=/a; exit 3', { SSH_AUTH_SOCK: '/a' }, undefined],
  ['exit in a function', 'f() { exit 4; }; f', {}, /exited \(4\)/],
  ['a program in the background', 'sleep 20 & SSH_AUTH_SOCK=/a; kill $!', { SSH_AUTH_SOCK: '/a' }, undefined],
  ['a trap of its own', "trap 'echo no' EXIT; SSH_AUTH_SOCK=/a", { SSH_AUTH_SOCK: '/a' }, undefined],
  ['a syntax error', 'if then', {}, /status 2 .* bash -n /],
  ['it reads', 'read -r x; SSH_AUTH_SOCK=/a$x', { SSH_AUTH_SOCK: '/a' }, undefined],
]
for (const [name, text, env, problem] of FILES) {
  test(`env-file: ${name}`, async () => {
    const found = await agentOf(text)
    assert.equal(found.env, env)
    if (problem) assert.match(found.problem ?? '', problem)
    else assert.is(found.problem, undefined)
  })
}

test('an env-file that waits is ended with all that it started', async () => {
  const mark = join(TMP, 'mark')
  // on a busy machine the time may be over before it has started anything
  await until('what it starts', async () => {
    const found = await agentOf(`sleep 300 & echo $! >${mark}.new; mv ${mark}.new ${mark}; wait`, {}, 300)
    assert.match(found.problem ?? '', /was ended after 0\.3 s: does it wait/)
    return existsSync(mark)
  })
  const pid = Number(readFileSync(mark, 'utf8'))
  await until('its end', () => !lives(pid))
})

test('what env-file leaves running in the background is ended with it', async () => {
  const mark = join(TMP, 'left')
  const found = await agentOf(`sleep 60 & echo $! >${mark}; SSH_AUTH_SOCK=/a`)
  assert.is(found.env.SSH_AUTH_SOCK, '/a')
  const pid = Number(readFileSync(mark, 'utf8'))
  await until('its end', () => !lives(pid))
})

/** Starts a process that, like ssh-agent, is in nobody's group; returns once it is. */
const DAEMON = `mark=$(mktemp -u); setsid sh -c ': >"$0"; exec sleep 60' "$mark" </dev/null >/dev/null 2>&1 & pid=$!
until [ -e "$mark" ]; do sleep 0.01; done; rm "$mark"`

/** Whether a process runs; one that has ended and that nobody has waited for doesn't. */
function lives(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}

test('an agent that env-file begins is known by its number and its start, and one that was there before is not', async () => {
  const ours = await agentOf(`${DAEMON}; SSH_AUTH_SOCK=/a; SSH_AGENT_PID=$pid`)
  const pid = Number(ours.env.SSH_AGENT_PID)
  assert.is(ours.begun?.pid, pid)
  assert.is(ours.begun?.uid, process.getuid?.())
  // The same one again, as keychain finds it; and one that ended long ago.
  for (const text of [`SSH_AUTH_SOCK=/a; SSH_AGENT_PID=${pid}`, 'SSH_AUTH_SOCK=/a; SSH_AGENT_PID=4194303'])
    assert.is((await agentOf(text)).begun, undefined)
  assert.ok(lives(pid))
  process.kill(pid)
})

/** Runs the keeper with these arguments for it, and this command. */
const keep = (words: string[], command: string[], env: Record<string, string> = {}): Promise<Outcome> =>
  run('sh', ['-c', KEEPER, 'keeper', ...words, '', '', '', '', ...command], { timeout: HANGS, env: { ...process.env, ...env } })

test('by hand, an agent that was begun for the tunnel ends with it, and no other', async () => {
  const { begun } = await agentOf(`${DAEMON}; SSH_AUTH_SOCK=/a; SSH_AGENT_PID=$pid`)
  assert.ok(begun)
  const { pid, begun: tick } = begun ?? { pid: 0, begun: 0 }
  await keep(['/nonexistent/s', 'hint', 'true', 'pi', '', '', `${pid}:${tick + 1}`], ['false'])
  assert.ok(lives(pid))
  await keep(['/nonexistent/s', 'hint', 'true', 'pi', '', '', `${pid}:${tick}`], ['false'])
  await until('its end', () => !lives(pid))
})

test('the socket goes though a signal ends the first rm: systemd tells each process of ours to end, that one, too', async () => {
  const [socket, mark, bin] = [join(TMP, 'left.sock'), join(TMP, 'first-rm'), mkdtempSync(join(TMP, 'bin-'))]
  writeFileSync(join(bin, 'rm'), `#!/bin/sh\nif mkdir ${mark} 2>/dev/null; then kill $$; fi\nexec /bin/rm "$@"\n`, { mode: 0o755 })
  writeFileSync(socket, '')
  await keep([socket, 'hint', 'true', 'pi', '', '', ''], ['false'], { PATH: `${bin}:${process.env.PATH}` })
  assert.equal([existsSync(mark), existsSync(socket)], [true, false])
})

test('an ssh that does not log in within a minute is ended, and somebody is asked why', async () => {
  const calls = join(TMP, 'calls')
  const [self, sleep] = [join(TMP, 'self'), join(mkdtempSync(join(TMP, 'bin-')), 'sleep')]
  writeFileSync(self, `#!/bin/sh\necho "$*" >>${calls}\n`, { mode: 0o755 })
  writeFileSync(sleep, `#!/bin/sh\necho "$1" >>${calls}\n`, { mode: 0o755 })
  const env = { PATH: `${join(sleep, '..')}:${process.env.PATH}` }
  for (const [hint, last] of [
    ['', '--ended 76 pi'],
    ['hint', '--late pi'],
  ] as const) {
    rmSync(calls, { force: true })
    const { timedOut } = await keep(['/nonexistent/s', hint, self, 'pi', '', '', ''], ['tail', '-f', '/dev/null'], env)
    assert.not(timedOut)
    const said = readFileSync(calls, 'utf8').trim().split('\n')
    assert.is(said.at(-1), last)
    const seconds = said.slice(0, -1).reduce((sum, one) => sum + Number(one), 0)
    assert.ok(seconds > 55 && seconds < 65, `${seconds} s`)
  }
})

test('why ssh has not logged in: the agent that ssh asks gives no answer, or waits for somebody', async () => {
  const why = async (state: string, more = ''): Promise<string> => {
    const ssh = `printf 'hostname rpi.local\\n${more}'`
    const add = `case $SSH_AUTH_SOCK in /${state}) ;; *) exit 2 ;; esac; ${state === 'mute' ? 'exec tail -f /dev/null' : ''}`
    return await withPrograms({ ssh, 'ssh-add': add }, () => whyLate(CACHE, { SSH_AUTH_SOCK: more ? '/other' : `/${state}`, HOME: '/h' }))
  }
  assert.match(await why('mute'), /^the ssh agent gives no answer: /)
  assert.match(await why('keys'), /does the ssh agent, or a security key, wait for a confirmation\? By hand: ssh pi@rpi\.local$/)
  assert.match(await why('keys', 'identityagent /keys\\n'), /wait for a confirmation/)
  assert.match(await why('none', 'identityagent none\\n'), /see what it does by hand: ssh pi@rpi\.local$/)
})

test('uploads share the tunnel where each login wants a touch: all keys are security keys', async () => {
  const home = mkdtempSync(join(TMP, 'home-'))
  mkdirSync(join(home, '.ssh'))
  const keyFile = (name: string, type?: string): void => {
    writeFileSync(join(home, '.ssh', name), '')
    if (type) writeFileSync(join(home, '.ssh', `${name}.pub`), `${type} AAAA alice\n`)
  }
  const files = facts('identityfile ~/.ssh/id_ed25519_sk\n')
  const touch = (held: string): Promise<boolean> =>
    withPrograms({ 'ssh-add': held ? `printf '${held}'` : 'exit 1' }, () => wantTouch(files, { HOME: home, SSH_AUTH_SOCK: '/a' }))
  assert.is(await touch(''), false) // no key that we know of
  keyFile('id_ed25519_sk')
  assert.is(await touch(''), true)
  assert.is(await touch('sk-ssh-ed25519@openssh.com AAAA a\\n'), true)
  assert.is(await touch('sk-ssh-ed25519@openssh.com AAAA a\\nssh-ed25519 AAAA b\\n'), false)
  keyFile('id_ed25519', 'ssh-ed25519')
  assert.is(await touch(''), false)
  rmSync(join(home, '.ssh/id_ed25519'))
  keyFile('id_rsa', 'sk-ecdsa-sha2-nistp256@openssh.com')
  assert.is(await touch(''), true)
})

test('what Nix waits for goes ahead of uploads; an IPQoS of the user’s stays', () => {
  const option = (qos: string, more: Partial<SshCache> = {}): string[] =>
    trafficOptions({ ...CACHE, ...more }, facts(`ipqos ${qos}\n`), 'throughput').filter((word) => word !== '-o')
  for (const usual of ['af21 cs1', 'lowdelay throughput', 'ef none']) assert.equal(option(usual), ['IPQoS=throughput'])
  assert.equal(option('none none'), [])
  assert.equal(option('none none', { compression: true }), ['Compression=yes'])
  assert.equal(option('none none', { compression: false }), ['Compression=no'])
})

test('IdentityAgent counts before SSH_AUTH_SOCK', () => {
  const env = { SSH_AUTH_SOCK: '/a', OTHER: '/b', HOME: '/h' }
  const socket = (line: string): string | undefined => agentSocket(facts(line), env)
  const all = ['', 'identityagent SSH_AUTH_SOCK\n', 'identityagent $OTHER\n', 'identityagent ~/c\n', 'identityagent none\n'].map(socket)
  assert.equal(all, ['/a', '/a', '/b', '/h/c', undefined])
})

test('no env-file is no problem', async () => {
  const found = await findAgent(join(TMP, 'none'), {})
  assert.equal([found.env, found.problem], [{}, undefined])
})

test('an ssh that ends at once does not leave the keeper waiting for the one who asks', async () => {
  // one in ten did: whoever asks had not yet let go of the keeper's trap when it was told to end
  for (let n = 0; n < 60; n++) {
    const args = ['-c', KEEPER, 'keeper', '/nonexistent/pi.sock', '', 'true', 'pi', '', '', '', '', '', '', '', 'false']
    const { timedOut } = await run('sh', args, { timeout: HANGS })
    assert.not(timedOut, `it hangs, at attempt ${n + 1}`)
  }
})

test.run()

const readOnly = needs(suite('a read-only /run'), 'root')

readOnly('a socket that was left over, and a folder that others can write to: said in words', async () => {
  const run = mkdtempSync(join(tmpdir(), 'nix-lan-tunnel-'))
  const folder = join(run, 'nix-lan')
  const socket = join(folder, 'rpi.sock')
  const mount = (...options: string[]): void => void execFileSync('mount', ['-t', 'tmpfs', '-o', options.join(','), 'nix-lan', run])
  const refusal = async (mode: number): Promise<unknown> => {
    mount('rw')
    try {
      mkdirSync(folder, { mode })
      chmodSync(folder, mode)
      writeFileSync(socket, '')
      mount('remount', 'ro')
      return await makeRoom(socket, 'rpi').catch((error: unknown) => error)
    } finally {
      execFileSync('umount', [run])
    }
  }
  const said = [await refusal(0o700), await refusal(0o755)]
  rmdirSync(run)
  assert.ok(said.every((error) => error instanceof Failure))
  assert.equal(
    said.map((error) => (error as Error).message),
    [`${socket} is left over, and can't be removed (EROFS)`, `${folder} is open to others, and can't be closed (EROFS)`],
  )
})

readOnly.run()
