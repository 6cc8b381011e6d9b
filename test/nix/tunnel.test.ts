// nix-lan-tunnel and nix-lan-available with the real ssh, sshd and nix-daemon: one world that is
// client and box at once, under a name that only known_hosts and /etc/hosts know.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../lib/needs.ts'
import { pause, type Result } from '../lib/processes.ts'
import { until } from '../lib/until.ts'
import { createWorld, type Running, type World } from './world.ts'

const TUNNEL = '/opt/nix-lan/dist/nix-lan-tunnel'
const AVAILABLE = '/opt/nix-lan/dist/nix-lan-available'
const SOCKET = '/run/user/1000/nix-lan/rpi.sock'
const KNOWN = '/home/alice/.ssh/known_hosts'
/** Names it whole: a name that begins so may be sshd's, whose sessions end a moment after ssh. */
const SSH = 'ssh\n'

let world: World
let hostKey = ''
let userKey = ''

const test = needs(suite('nix-lan-tunnel, with the real ssh'), 'root', 'nix', 'ssh', 'sshd', 'bash')

test.before(async () => {
  world = await createWorld({ nix: 'host' })
  await world.startDaemon()
  ;({ hostKey, userKey } = await world.startSshd())
  world.write('/etc/hosts', '127.0.0.1 localhost pi.lan\n')
  world.write('/etc/nsswitch.conf', 'hosts: files\n')
})
test.before.each(async () => {
  world.write(
    '/etc/nix-lan/config.toml',
    `user = "alice"\n[cache.rpi]\nhost = "pi.lan"\nssh = "alice@pi.lan"\nport = ${world.port}\ndeadline = "10s"\n`,
  )
  world.write(KNOWN, `[pi.lan]:${world.port} ${hostKey}\n`, { user: 'alice' })
  world.write('/home/alice/.ssh/id_ed25519', userKey, { mode: 0o600, user: 'alice' })
  world.write('/home/alice/.ssh/config', '', { mode: 0o600, user: 'alice' })
  await world.must('root', 'rm', ['-rf', '/run/user/1000/nix-lan', '/home/alice/.bashrc'])
})
test.after(async () => {
  await world.close()
})

const usable = (): Promise<Result> => world.run('alice', AVAILABLE, ['--usable'])
const socketIsThere = async (): Promise<boolean> => (await world.run('alice', 'test', ['-S', SOCKET])).code === 0

/** A tunnel that a nix-daemon answers through. */
async function open(): Promise<Running> {
  const tunnel = world.start('alice', TUNNEL)
  await until('the tunnel', async () => (await usable()).code === 0).catch((error: Error) => {
    throw new Error(`${error.message}: ${tunnel.output()}`)
  })
  return tunnel
}

test('a nix-daemon answers through it, and the box is known by its name though ssh got its address', async () => {
  const tunnel = await open()
  const { stdout } = await usable()
  assert.match(stdout, /^rpi: usable at \/run\/user\/1000\/nix-lan\/rpi\.sock, \d+ ms \(Nix \d.*\)\n$/)
  assert.match((await world.run('alice', TUNNEL, ['--print'])).stdout, /-o HostName=127\.0\.0\.1 -o 'HostKeyAlias=\[pi\.lan\]:\d+'/)
  assert.is(await world.must('alice', 'stat', ['-c', '%a %U', SOCKET]), '600 alice')
  await tunnel.stop()
})

for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
  test(`${signal}: ssh ends, and the socket goes with it`, async () => {
    const tunnel = await open()
    await tunnel.stop(signal)
    // Told to all of them, as a terminal that hangs up tells it: ssh ends with 255 if it hears of
    // it before its parent has.
    const code = await tunnel.ended
    assert.ok(code === 0 || (signal === 'SIGHUP' && code === 255), `exit ${code}`)
    assert.not(await socketIsThere())
    assert.equal(world.processes(SSH), [])
  })
}

test('the box goes: exit 255, no socket; away: exit 75; and back again', async () => {
  const tunnel = await open()
  await world.stopSshd()
  assert.is(await tunnel.ended, 255)
  assert.not(await socketIsThere())
  const away = await world.run('alice', TUNNEL)
  assert.equal([away.code, /rpi is away: 127\.0\.0\.1 port \d+: connection refused/.test(away.stderr)], [75, true], away.stderr)
  await world.startSshd()
  await (await open()).stop()
})

test('a link that goes unresponsive is given up by ssh, which says so', async () => {
  const tunnel = await open()
  world.freezeSshd()
  try {
    const ended = await Promise.race([tunnel.ended, pause(120_000).then(() => 'still there')])
    assert.is(ended, 255)
    assert.match(tunnel.output(), /Timeout, server .* not responding/)
    assert.not(await socketIsThere())
  } finally {
    world.thawSshd()
  }
})

test('a second one says so and leaves the first alone', async () => {
  const tunnel = await open()
  const second = await world.run('alice', TUNNEL)
  assert.equal([second.code, second.stderr], [1, `nix-lan-tunnel: a tunnel for rpi runs already: somebody listens on ${SOCKET}\n`])
  assert.is((await usable()).code, 0)
  await tunnel.stop()
})

test('of two that start at once one is left, with a socket that works', async () => {
  const both = [world.start('alice', TUNNEL), world.start('alice', TUNNEL)]
  const codes = both.map((one) => one.ended)
  const first = await Promise.race([...codes, pause(120_000).then(() => 'both are still there')])
  assert.ok(first === 255 || first === 1, `${first}: ${both.map((one) => one.output())}`)
  await until('the other one', async () => (await usable()).code === 0)
  for (const one of both) await one.stop()
  assert.equal((await Promise.all(codes)).sort(), [0, first])
  assert.not(await socketIsThere())
})

test('killed without a chance: the next start removes the stale socket', async () => {
  await (await open()).stop('SIGKILL')
  assert.ok(await socketIsThere())
  const { code, stdout } = await usable()
  assert.equal([code, stdout], [1, `rpi: away: nobody listens on ${SOCKET}: the tunnel has ended\n`])
  await (await open()).stop()
})

test('an unknown host key: ssh says it, and no socket is left', async () => {
  world.write(KNOWN, '', { user: 'alice' })
  const { code, stderr } = await world.run('alice', TUNNEL)
  assert.is(code, 255)
  assert.match(stderr, /Host key verification failed/)
  assert.not(await socketIsThere())
})

test('a passphrase: without an agent ssh fails at once, with that of env-file it works', async () => {
  const key = '/home/alice/.ssh/id_ed25519'
  const plain = '/home/alice/plain'
  world.write(plain, userKey, { mode: 0o600, user: 'alice' })
  await world.must('alice', 'ssh-keygen', ['-q', '-p', '-N', 'secret', '-f', key])
  const { code, stderr } = await world.run('alice', TUNNEL)
  assert.is(code, 255)
  assert.match(stderr, /Permission denied/)
  world.write('/home/alice/.bashrc', `eval "$(ssh-agent -a /run/user/1000/agent)"; ssh-add ${plain}\n`, { user: 'alice' })
  await (await open()).stop()
})

test("the user's ssh configuration counts: another HostKeyAlias, a block that matches the host", async () => {
  world.write(KNOWN, `my-pi ${hostKey}\n`, { user: 'alice' })
  world.write('/home/alice/.ssh/config', 'Host pi.lan\n  HostKeyAlias my-pi\n', { mode: 0o600, user: 'alice' })
  assert.match((await world.run('alice', TUNNEL, ['--print'])).stdout, /-o HostName=127\.0\.0\.1 -L/)
  await (await open()).stop()
  world.write('/home/alice/.ssh/config', 'Match host pi.lan\n  HostKeyAlias my-pi\n', { mode: 0o600, user: 'alice' })
  assert.not.match((await world.run('alice', TUNNEL, ['--print'])).stdout, /HostName/)
  await (await open()).stop()
  // It would clear our forwarding, too.
  world.write('/home/alice/.ssh/config', 'Host pi.lan\n  HostKeyAlias my-pi\n  ClearAllForwardings yes\n', { mode: 0o600, user: 'alice' })
  await (await open()).stop()
})

test('an alias that is meant for people: nothing of it disturbs the tunnel, nor makes it take its ports', async () => {
  const busy = world.start('alice', 'node', ['-e', "require('net').createServer().listen(8765, '127.0.0.1', () => console.log('listens'))"])
  await until('the port', () => busy.output().includes('listens'))
  const unwanted = [
    'IgnoreUnknown UseKeychain',
    'Host pi.lan',
    ...[
      'UseKeychain yes',
      'RequestTTY force',
      'RemoteCommand tmux attach',
      'PermitLocalCommand yes',
      'LocalCommand touch /tmp/local-command',
    ],
    // The one is taken, the other free: neither is ours to take.
    ...['LocalForward 8765 127.0.0.1:80', 'LocalForward 8766 127.0.0.1:80', 'RemoteForward 8767 127.0.0.1:80', 'DynamicForward 8768'],
    ...['SessionType subsystem', 'ForkAfterAuthentication yes', 'StdinNull yes', 'Tunnel yes', 'ForwardAgent yes', 'ForwardX11 yes'],
    ...['ControlMaster auto', 'ControlPath ~/.ssh/%C', 'ControlPersist yes', 'VisualHostKey yes', 'LogLevel QUIET'],
  ]
  world.write('/home/alice/.ssh/config', `${unwanted.join('\n')}\n`, { mode: 0o600, user: 'alice' })
  const tunnel = await open()
  const ports = await world.must('alice', 'cat', ['/proc/net/tcp'])
  for (const port of [8766, 8767, 8768])
    assert.not.match(ports, new RegExp(`:${port.toString(16).toUpperCase()} 0+:0000 0A`), `port ${port}`)
  assert.is((await world.run('alice', 'test', ['-e', '/tmp/local-command'])).code, 1)
  const second = await world.run('alice', TUNNEL)
  assert.match(second.stderr, /a tunnel for rpi runs already/)
  await tunnel.stop()
  assert.is(await tunnel.ended, 0)
  assert.is(await world.must('alice', 'ls', ['/run/user/1000/nix-lan']), 'rpi.address')
  // A killed one leaves two sockets behind, and is made again.
  await (await open()).stop('SIGKILL')
  await (await open()).stop()
  await busy.stop()
})

test('uploads: a connection of their own when somebody asks for it, through which commands go too; it ends with the tunnel', async () => {
  const [folder, own, control] = ['/run/user/1000/nix-lan', 'rpi.upload.sock', 'rpi.upload.ctl']
  const there = async (name: string): Promise<boolean> => (await world.run('alice', 'test', ['-S', `${folder}/${name}`])).code === 0
  const tunnel = await open()
  assert.not(await there(own), 'nobody has uploaded anything')
  const wantUploads = (): Promise<string> => world.must('alice', 'sh', ['-c', `kill -USR1 $(cut -d: -f1 ${folder}/rpi.keeper)`])
  await wantUploads()
  await until('the socket for uploads', () => there(own))
  const user = await world.must('alice', 'ssh', ['-F', 'none', '-o', 'BatchMode=yes', '-S', `${folder}/${control}`, 'box', 'id -un'])
  assert.is(user, 'alice')
  // Killed, it leaves its sockets behind; asked again, the keeper makes it anew.
  await world.must('alice', 'sh', [
    '-c',
    `for p in $(pgrep -x ssh); do if grep -q ControlPath=${folder}/${control} /proc/$p/cmdline; then kill -9 $p; fi; done`,
  ])
  await wantUploads()
  await until('another one', async () => {
    const check = await world.run('alice', 'ssh', ['-F', 'none', '-S', `${folder}/${control}`, '-O', 'check', 'box'])
    return check.code === 0 && (await there(own))
  })
  assert.is((await usable()).code, 0, 'the tunnel is not concerned')
  await tunnel.stop()
  assert.is(await tunnel.ended, 0)
  assert.is(await world.must('alice', 'ls', [folder]), 'rpi.address')
  assert.equal(world.processes(SSH), [])
  world.write(
    '/etc/nix-lan/config.toml',
    `user = "alice"\n[cache.rpi]\nhost = "pi.lan"\nssh = "alice@pi.lan"\nport = ${world.port}\ndeadline = "10s"\nupload-connection = "shared"\n`,
  )
  const shared = await open()
  assert.is(await world.must('alice', 'ls', [folder]), 'rpi.address\nrpi.sock')
  await shared.stop()
})

/** What the doctor finds of nix-daemon on the box. */
async function boxsDaemon(): Promise<{ state: string; found: string; fix: string | null } | undefined> {
  const { stdout } = await world.run('alice', '/opt/nix-lan/dist/nix-lan', ['doctor', '--json'])
  return (JSON.parse(stdout) as { check: string; state: string; found: string; fix: string | null }[]).find(
    ({ check }) => check === "box's daemon",
  )
}

// ssh is told the same of each, and of a nix-daemon that doesn't listen.
const FORBIDDEN = ['AllowStreamLocalForwarding no', 'AllowTcpForwarding no', 'DisableForwarding yes']
test(`sshd forbids the forwarding (${FORBIDDEN.join(', ')}; restrict): the doctor says so, and what it prints cures`, async () => {
  const [CONFIG, KEY] = ['/etc/ssh/nix-lan/sshd_config', '/etc/ssh/nix-lan/user.pub']
  const [config, key] = [world.read(CONFIG), world.read(KEY)]
  const sshd = async (more: string, restriction: string): Promise<void> => {
    world.write(CONFIG, `${config}${more}\n`)
    world.write(KEY, `${restriction} ${key}`.trimStart())
    await world.stopSshd()
    await world.startSshd()
  }
  const told = async (): Promise<string[]> => {
    const { state, found, fix } = (await boxsDaemon()) ?? {}
    assert.equal([state, found], ['failed', "the box's sshd forbids forwarding to a socket"])
    return /sshd_config: (.*), then .*: (.*) after restrict$/.exec(fix ?? '')?.slice(1) ?? []
  }
  try {
    await sshd(FORBIDDEN.join('\n'), '')
    const [settings = ''] = await told()
    await sshd(settings.replaceAll(', ', '\n'), '')
    await (await open()).stop()
    await sshd('', 'restrict')
    const [, option = ''] = await told()
    await sshd('', `restrict,${option}`)
    await (await open()).stop()
  } finally {
    await sshd('', '')
  }
})

test('root is told whose it is', async () => {
  const { code, stderr } = await world.run('root', TUNNEL)
  assert.is(code, 2)
  assert.match(
    stderr,
    `the ssh keys of the tunnel are alice's (user in /etc/nix-lan/config.toml); run it as alice: sudo -u alice ${TUNNEL}`,
  )
})

test.run()
