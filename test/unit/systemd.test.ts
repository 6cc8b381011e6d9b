// What systemctl is asked and how its answers are read, with a fake systemctl and runuser in PATH;
// and the tunnel's state file.
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { ask, hasUserManager, parseShow, showUnits, systemctl } from '../../scripts/system/systemd.ts'
import { SYSTEM_UNITS, UNITS } from '../../scripts/system/texts.ts'
import { forgetTunnelState, readTunnelState, tunnelStateFile, uptime, writeTunnelState } from '../../scripts/tunnel/state.ts'
import { until } from '../lib/until.ts'

const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-systemd-'))
const BIN = join(TMP, 'bin')
const UID = process.getuid?.() ?? 0
const REAL_PATH = process.env.PATH

/** A fake program, which shows its arguments and XDG_RUNTIME_DIR when nothing else is said. */
function fake(name: string, text = 'echo "$*"; echo "XDG_RUNTIME_DIR=$XDG_RUNTIME_DIR"'): void {
  mkdirSync(BIN, { recursive: true })
  writeFileSync(join(BIN, name), `#!/bin/sh\n${text}\n`)
  chmodSync(join(BIN, name), 0o755)
}

const test = suite('systemctl')

test.before.each(() => {
  process.env.PATH = `${BIN}:${REAL_PATH}`
  process.env.XDG_RUNTIME_DIR = TMP
  fake('systemctl')
})
test.after(() => {
  process.env.PATH = REAL_PATH
  delete process.env.XDG_RUNTIME_DIR
  rmSync(TMP, { recursive: true, force: true })
})

test('is asked for the user, whose runtime directory is known without a login', async () => {
  assert.is((await systemctl(['list-jobs'])).stdout, `--user --no-pager list-jobs\nXDG_RUNTIME_DIR=${TMP}\n`)
  delete process.env.XDG_RUNTIME_DIR
  assert.is((await systemctl(['list-jobs'])).stdout, `--user --no-pager list-jobs\nXDG_RUNTIME_DIR=/run/user/${UID}\n`)
})

test('of another user is asked as that user', async () => {
  fake('runuser', 'echo "$*"')
  const asked = await systemctl(['daemon-reload'], { owner: { name: 'alice', uid: 1000 } })
  assert.is(asked.stdout, '-u alice -- env XDG_RUNTIME_DIR=/run/user/1000 TZ=UTC systemctl --user --no-pager daemon-reload\n')
})

test('shows several units in one call, in order', async () => {
  fake('systemctl', `echo "$*" >${TMP}/asked; printf 'ActiveState=active\\nJob=\\n\\nActiveState=inactive\\nSubState=dead\\n'`)
  assert.equal(await showUnits(['a.target', 'b.service'], ['ActiveState', 'SubState', 'Job']), [
    { ActiveState: 'active', Job: '' },
    { ActiveState: 'inactive', SubState: 'dead' },
  ])
  const asked = readFileSync(join(TMP, 'asked'), 'utf8')
  assert.is(asked, '--user --no-pager show --property=ActiveState,SubState,Job -- a.target b.service\n')
  assert.equal(await showUnits([], ['ActiveState']), [])
})

test('that knows fewer units than were asked for has not answered', async () => {
  fake('systemctl', "echo 'ActiveState=active'")
  const error = await showUnits(['a.target', 'b.target'], ['ActiveState']).catch((failure: Error) => failure)
  assert.match(String(error), /does not say how a\.target, b\.target are/)
})

test('says why it refuses, in one line', async () => {
  fake('systemctl', 'echo "Failed to start x.target: Unit x.target not found." >&2; echo more >&2; exit 5')
  const error = await ask('start', ['x.target']).catch((failure: Error) => failure)
  assert.match(String(error), /does not start x\.target: Failed to start x\.target: Unit x\.target not found\.$/)
})

test('that does not answer is given up, with all that it started', async () => {
  const note = join(TMP, 'pid')
  fake('systemctl', `sleep 300 & echo $! >${note}.new; mv ${note}.new ${note}; wait`)
  // on a busy machine the time may be over before it has started anything
  await until('what it starts', async () => {
    const error = await ask('restart', ['x.service'], { limit: 300 }).catch((failure: Error) => failure)
    assert.match(String(error), /does not restart x\.service: no answer in time$/)
    return existsSync(note)
  })
  await until('its end', () => !alive(Number(readFileSync(note, 'utf8'))))
})

/** Whether a process runs; one that nobody has waited for yet (Z) does not. */
function alive(pid: number): boolean {
  try {
    return !/\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}

test('never waits for a unit', async () => {
  fake('systemctl', `echo "$*" >${TMP}/asked`)
  await ask('stop', ['a.target', 'b.target'])
  assert.is(readFileSync(join(TMP, 'asked'), 'utf8'), '--user --no-pager stop --no-block -- a.target b.target\n')
})

test('is only there with a user manager', async () => {
  assert.not.ok(hasUserManager())
  mkdirSync(join(TMP, 'systemd'))
  const server = createServer()
  await new Promise<void>((done) => server.listen(join(TMP, 'systemd/private'), done))
  assert.ok(hasUserManager())
  server.close()
})

test('a value may hold =, and a block may be the last without a line break', () => {
  assert.equal(parseShow('Id=a\nStatusText=x=y\n\n\nId=b'), [{ Id: 'a', StatusText: 'x=y' }, { Id: 'b' }])
  assert.equal(parseShow(''), [])
})

const state = suite('state of a tunnel')
const STATE = { failures: 3, reason: 'Permission denied', since: '2026-01-02T03:04:05.000Z', notBefore: 17.5 }

state.before.each(() => {
  process.env.XDG_RUNTIME_DIR = TMP
  mkdirSync(join(TMP, 'nix-lan'), { recursive: true })
})
state.after(() => {
  delete process.env.XDG_RUNTIME_DIR
  rmSync(TMP, { recursive: true, force: true })
})

state('is written whole, read again, and forgotten', () => {
  writeTunnelState(UID, 'rpi', STATE)
  assert.is(tunnelStateFile(UID, 'rpi'), join(TMP, 'nix-lan/rpi.tunnel'))
  assert.equal(readTunnelState(UID, 'rpi'), STATE)
  assert.equal(readdirSync(join(TMP, 'nix-lan')), ['rpi.tunnel'])
  forgetTunnelState(UID, 'rpi')
  assert.is(readTunnelState(UID, 'rpi'), undefined)
  forgetTunnelState(UID, 'rpi')
})

state('that is cut off or something else is none', () => {
  for (const text of ['', '{"failures": 1', '[]', 'null', '{"failures": "1", "reason": "x", "since": "y", "notBefore": 0}']) {
    writeFileSync(tunnelStateFile(UID, 'rpi'), text)
    assert.is(readTunnelState(UID, 'rpi'), undefined, text)
  }
})

state('can be lost without harm', () => {
  rmSync(join(TMP, 'nix-lan'), { recursive: true })
  writeTunnelState(UID, 'rpi', STATE)
  assert.is(readTunnelState(UID, 'rpi'), undefined)
  assert.ok(uptime() > 0)
})

// systemd takes the last of two, or both: the reader of the file sees one of them. (SystemCallFilter=
// is a list that takes what it leaves out in a second line.)
for (const [name, text] of Object.entries({ ...UNITS, ...SYSTEM_UNITS }))
  test(`no setting stands twice in a section: ${name}`, () => {
    const keys: string[] = []
    let section = ''
    for (const line of text.split('\n')) {
      section = /^\[.*\]$/.exec(line)?.[0] ?? section
      const [, key] = /^([A-Za-z]+)=/.exec(line) ?? []
      if (key && key !== 'SystemCallFilter') keys.push(`${section} ${key}`)
    }
    assert.ok(keys.length > 2)
    assert.equal(keys, [...new Set(keys)])
  })

test.run()
state.run()
