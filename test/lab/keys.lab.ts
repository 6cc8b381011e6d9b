// ssh keys with a passphrase, and agents that are hidden, missing or locked; and units of the
// user's own beside ours.
import * as assert from 'uvu/assert'
import { ofUserUnit } from './host.ts'
import { createLab, type Lab, labSuite, release } from './lab.ts'
import { atHome, becomes, calm, measured, saidOnce, TARGET, TUNNEL, targetUp, tunnelState } from './scenario.ts'

const test = labSuite('keys')
const AGENT = '/home/alice/agent.sock'
const USER_UNITS = '/home/alice/.config/systemd/user'
let lab: Lab
let since = 0
/** alice's key as it was before it had a passphrase. */
let plain = ''
let bashrc = ''

test.before(async () => {
  lab = await createLab({ laptop: release(), installed: true })
  plain = lab.laptop.read('/home/alice/.ssh/id_ed25519')
  bashrc = lab.laptop.read('/home/alice/.bashrc')
  await atHome(lab)
})
test.after(() => lab.close())
test.before.each(() => {
  since = Date.now()
})

const withAgent = { env: { SSH_AUTH_SOCK: AGENT } }
/** ssh-add asks for a passphrase through this program. */
const ASK = '/usr/local/bin/ask'
const asking = { env: { ...withAgent.env, SSH_ASKPASS: ASK, SSH_ASKPASS_REQUIRE: 'force', DISPLAY: ':0' } }

/** The tunnel's first attempt from here on: as when the box has just come. */
async function fromTheStart(): Promise<void> {
  await lab.laptop.systemctl('stop', TARGET)
  await lab.laptop.systemctl('restart', 'nix-lan-check.service')
}

/**
 * So many attempts come to nothing for this reason, which is said once, and nobody is asked for
 * anything.
 */
async function failsQuietly(failures: number, reason: RegExp): Promise<void> {
  const failed = (): boolean => tunnelState(lab).failures >= failures && reason.test(tunnelState(lab).reason)
  await lab.eventually(`${failures} attempts`, failed, { within: 180_000 })
  await saidOnce(lab, since, reason)
  const journal = await lab.laptop.journal({ since, match: ofUserUnit(TUNNEL) })
  assert.equal(
    journal.filter((line) => /passphrase for|Enter /.test(line)),
    [],
  )
}

test('a unit of the user’s own, bound to the target, comes and goes with it', async () => {
  lab.laptop.write(
    `${USER_UNITS}/films.service`,
    `[Unit]
BindsTo=nix-lan@pi.target
After=nix-lan@pi.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
[Install]
WantedBy=nix-lan@pi.target
`,
    { user: 'alice' },
  )
  await lab.laptop.must('alice', 'systemctl', ['--user', 'enable', '--now', 'films.service'])
  const films = () => lab.laptop.systemctl('is-active', 'films.service')
  assert.is(await films(), 'active')
  await lab.lan.cable('laptop', false)
  await becomes(lab, 'it has gone', 15, async () => (await films()) === 'inactive')
  await lab.eventually('the target has gone', async () => !(await targetUp(lab))) // last of all, after the tunnel
  await lab.lan.cable('laptop', true)
  await becomes(lab, 'it has come', 10, async () => (await films()) === 'active')
  await calm(lab, since)
})

test('a drop-in that binds the tunnel to a target of the user’s own: there is a tunnel only while both are up', async () => {
  await atHome(lab)
  const wants = '[Unit]\nDescription=The keyring is unlocked\nWants=nix-lan-tunnel@pi.service\n'
  lab.laptop.write(`${USER_UNITS}/keyring-unlocked.target`, wants, { user: 'alice' })
  const binds = '[Unit]\nRequisite=keyring-unlocked.target\nPartOf=keyring-unlocked.target\nAfter=keyring-unlocked.target\n'
  lab.laptop.write(`${USER_UNITS}/nix-lan-tunnel@pi.service.d/keyring.conf`, binds, { user: 'alice' })
  await lab.laptop.must('alice', 'systemctl', ['--user', 'daemon-reload'])
  await fromTheStart()
  await lab.eventually('the target', () => targetUp(lab))
  assert.is(await lab.laptop.systemctl('is-active', TUNNEL), 'inactive', 'the keyring is locked')
  assert.not.ok(await lab.answers())
  await lab.laptop.systemctl('start', 'keyring-unlocked.target')
  await becomes(lab, 'an answer', 5, () => lab.answers())
  await lab.laptop.systemctl('stop', 'keyring-unlocked.target')
  await becomes(lab, 'the tunnel has gone', 5, async () => (await lab.laptop.systemctl('is-active', TUNNEL)) === 'inactive')
  await lab.laptop.systemctl('start', 'keyring-unlocked.target')
  await becomes(lab, 'an answer', 5, () => lab.answers())
  await calm(lab, since)
  await lab.laptop.must('root', 'rm', ['-r', `${USER_UNITS}/nix-lan-tunnel@pi.service.d`, `${USER_UNITS}/keyring-unlocked.target`])
  await lab.laptop.must('alice', 'systemctl', ['--user', 'daemon-reload'])
})

test('the key has a passphrase, and the agent is only known to ~/.bashrc: the tunnel comes up', async () => {
  await lab.laptop.must('alice', 'ssh-keygen', ['-q', '-p', '-P', '', '-N', 'open sesame', '-f', '/home/alice/.ssh/id_ed25519'])
  await lab.laptop.must('alice', 'sh', ['-c', `ssh-agent -a ${AGENT} >/dev/null 2>&1`])
  await lab.laptop.must('alice', 'ssh-add', ['-q', '-'], { ...withAgent, input: plain })
  lab.laptop.write('/home/alice/.bashrc', `export SSH_AUTH_SOCK=${AGENT}\n${bashrc}`, { user: 'alice' })
  await fromTheStart()
  await becomes(lab, 'an answer', 10, () => lab.answers())
  await calm(lab, since)
})

test('an agent that is still locked: the tunnel waits, and comes up by itself when it is unlocked', async () => {
  lab.laptop.write(ASK, '#!/bin/sh\necho secret\n', { mode: 0o755 })
  await lab.laptop.must('alice', 'ssh-add', ['-x'], asking)
  await fromTheStart()
  await failsQuietly(4, /the ssh agent holds no key/)
  await lab.laptop.must('alice', 'ssh-add', ['-X'], asking)
  measured('recover', 'agent unlocked: the socket answers', 60, await becomes(lab, 'an answer', 60, () => lab.answers()))
  await calm(lab, since)
})

test('no agent at all: one clear line in the journal and in the state, no prompt, no restart storm; a key without a passphrase mends it', async () => {
  lab.laptop.write('/home/alice/.bashrc', bashrc, { user: 'alice' })
  await lab.laptop.must('root', 'pkill', ['-u', 'alice', '-f', `ssh-agent -a ${AGENT}`])
  // Debian 13 and later start one with every user manager, and put it into the environment of the
  // units
  await lab.laptop.run('alice', 'systemctl', ['--user', 'mask', '--now', 'ssh-agent.socket', 'ssh-agent.service'])
  await lab.laptop.run('alice', 'systemctl', ['--user', 'reset-failed', 'ssh-agent.service'])
  await lab.laptop.run('alice', 'systemctl', ['--user', 'unset-environment', 'SSH_AUTH_SOCK'])
  await fromTheStart()
  await failsQuietly(5, /there is no ssh agent/)
  assert.ok(Date.now() - since > 14_000, 'five attempts are four pauses, which grow: 1, 2, 4 and 8 s')
  await calm(lab, since)
  lab.laptop.write('/home/alice/.ssh/id_ed25519', plain, { user: 'alice', mode: 0o600 })
  await becomes(lab, 'an answer', 60, () => lab.answers())
})

test.run()
