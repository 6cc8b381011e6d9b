// What `nix-lan check` does in each situation, and what it says.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { accepts, listedIn, listens } from '../../scripts/reach/listening.ts'
import { type Action, actionFor, describe, type Facts, needsNoAnswer } from '../../scripts/tunnel/decide.ts'

const test = suite('plan')

const HERE: Facts['answer'] = { ok: true, address: '10.0.0.2', port: 22, ms: 12 }
const AWAY: Facts['answer'] = { ok: false, reason: 'pi.local has no address', ms: 2000 }
const PAUSED = { left: 30, age: 60, reason: 'Permission denied' }

/** Target and tunnel by their ActiveState. */
const units = (target: string, tunnel: string): Facts['units'] => ({ target: { ActiveState: target }, tunnel: { ActiveState: tunnel } })
const facts = (changes: Partial<Facts>): Facts => ({
  answer: HERE,
  listening: false,
  units: units('inactive', 'inactive'),
  pause: { left: 0, age: 0, reason: '' },
  byTimer: false,
  configured: false,
  ...changes,
})

const DOWN = units('inactive', 'inactive')
const READY = units('active', 'active')
const TRYING = units('active', 'activating')
const FAILED = units('active', 'failed')

/**
 * What happens; the facts; the action, by the timer and otherwise; the end of the line, otherwise.
 */
const TABLE: [string, Partial<Facts>, Action, Action, string][] = [
  ['the box has come', { units: DOWN }, 'start', 'start', '; starting its tunnel'],
  ['the box is there and used', { units: READY, listening: true }, 'none', 'none', '; its tunnel is up'],
  ['ssh has just ended', { units: READY }, 'none', 'none', '; its tunnel is being made'],
  ['the tunnel is being made', { units: TRYING }, 'none', 'none', '; its tunnel is being made'],
  ['ssh is there, the nix-daemon is not', { units: TRYING, listening: true }, 'none', 'none', '; its tunnel is being made'],
  ['the tunnel pauses', { units: TRYING, pause: PAUSED }, 'none', 'retry', '; its tunnel tries again at once (Permission denied)'],
  [
    'the tunnel has failed this moment, and asks',
    { units: TRYING, pause: { ...PAUSED, age: 0.2 } },
    'none',
    'none',
    '; its tunnel tries again in 30 s: Permission denied',
  ],
  ['the tunnel was stopped by hand', { units: units('active', 'inactive') }, 'none', 'none', '; its tunnel is stopped'],
  ['the configuration was wrong', { units: FAILED }, 'none', 'revive', '; starting its tunnel, which had been given up'],
  [
    'the configuration was mended',
    { units: FAILED, configured: true },
    'revive',
    'revive',
    '; starting its tunnel, which had been given up',
  ],
  ['the target is about to stop', { units: units('active', 'deactivating') }, 'start', 'start', '; starting its tunnel'],
  ['the box has gone', { answer: AWAY, units: TRYING }, 'stop', 'stop', '; stopping its tunnel'],
  ['the box has gone in a pause', { answer: AWAY, units: TRYING, pause: PAUSED }, 'stop', 'stop', '; stopping its tunnel'],
  ['the box has gone, the tunnel had failed', { answer: AWAY, units: FAILED }, 'stop', 'stop', '; stopping its tunnel'],
  [
    'the box does not answer, but ssh lives',
    { answer: AWAY, units: READY, listening: true },
    'none',
    'none',
    '; its ssh is alive, and will notice by itself',
  ],
  ['the box is still away', { answer: AWAY, units: DOWN }, 'none', 'none', ''],
  ['a tunnel by hand, the target down', { units: DOWN, listening: true }, 'start', 'start', '; starting its tunnel'],
  ['no user manager, the box there', { units: null }, 'none', 'none', ''],
  ['no user manager, the box away', { answer: AWAY, units: null }, 'none', 'none', ''],
]
for (const [what, changes, byTimer, otherwise, words] of TABLE) {
  test(what, () => {
    const given = facts(changes)
    assert.is(actionFor({ ...given, byTimer: true }), byTimer, 'by the timer')
    assert.is(actionFor(given), otherwise)
    const found = given.answer?.ok ? 'reachable at 10.0.0.2 port 22 (12 ms)' : 'away: pi.local has no address'
    assert.is(describe('pi', given, otherwise), `pi: ${found}${words}`)
  })
}

test('never stops an ssh that is alive, whatever else there is', () => {
  for (const target of ['active', 'inactive'])
    for (const tunnel of ['active', 'inactive', 'activating', 'deactivating', 'failed'])
      for (const answer of [HERE, AWAY, null])
        for (const byTimer of [true, false])
          assert.is.not(actionFor(facts({ answer, units: units(target, tunnel), listening: true, pause: PAUSED, byTimer })), 'stop')
})

test('only a tunnel that is well in every respect need not be asked about', () => {
  assert.ok(needsNoAnswer({ listening: true, units: READY }))
  for (const other of [DOWN, TRYING, FAILED, null]) assert.not.ok(needsNoAnswer({ listening: true, units: other }))
  assert.not.ok(needsNoAnswer({ listening: false, units: READY }))
  assert.is(actionFor(facts({ answer: null, units: READY, listening: true, byTimer: true })), 'none')
})

const live = suite('listening')
const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-listening-'))
live.after(() => rmSync(TMP, { recursive: true, force: true }))

live('a socket with a listener, without connecting to it', async () => {
  const path = join(TMP, 'live.sock')
  let connections = 0
  const server = createServer(() => connections++)
  await new Promise<void>((done) => server.listen(path, done))
  assert.ok(await listens(path))
  await new Promise((done) => setTimeout(done, 50))
  assert.is(connections, 0)
  assert.ok(await accepts(path))
  server.close()
})

live('nobody listens: no file, a file that is no socket, a socket left behind', async () => {
  assert.not.ok(await listens(join(TMP, 'none.sock')))
  writeFileSync(join(TMP, 'file.sock'), '')
  assert.not.ok(await listens(join(TMP, 'file.sock')))
  const { execFileSync } = await import('node:child_process')
  const leave = `require('net').createServer().listen(${JSON.stringify(join(TMP, 'stale.sock'))}, () => process.kill(process.pid, 'SIGKILL'))`
  try {
    execFileSync(process.execPath, ['-e', leave], { stdio: 'ignore' })
  } catch {
    // it was killed, as it should be
  }
  assert.not.ok(await listens(join(TMP, 'stale.sock')))
})

live('in /proc/net/unix only a listener at exactly this path', () => {
  const line = (flags: string, path: string) => `0000000000000000: 00000002 00000000 ${flags} 0001 01 5422068 ${path}\n`
  const head = 'Num       RefCount Protocol Flags    Type St Inode Path\n'
  assert.ok(listedIn(head + line('00010000', '/run/a.sock'), '/run/a.sock'))
  assert.not.ok(listedIn(head + line('00000000', '/run/a.sock'), '/run/a.sock')) // a connection's end
  assert.not.ok(listedIn(head + line('00010000', '/run/a.sock.old') + line('00010000', '/x/run/a.sock'), '/run/a.sock'))
  assert.not.ok(listedIn('', '/run/a.sock'))
})

test.run()
live.run()
