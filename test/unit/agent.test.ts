// The agent that env-file begins for us: it ends when we do, however that happens.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { SshCache } from '../../scripts/config/types.ts'
import { remoteOf } from '../../scripts/keep/remote.ts'
import { askDisk } from '../../scripts/queue/stores.ts'
import { endWithUs, findAgent } from '../../scripts/tunnel/agent.ts'
import { allProcesses, kill } from '../lib/processes.ts'
import { HANGS, until } from '../lib/until.ts'

const UID = process.getuid?.() ?? 0

/**
 * An env-file that begins an agent's like: a process in a session of its own, whose number goes to
 * `begun` once it is in there.
 */
const BEGINS = `here=\${BASH_SOURCE%/*}
mark=$(mktemp -u "$here/mark-XXXXXX")
setsid sh -c ': >"$0"; exec sleep 300' "$mark" </dev/null >/dev/null 2>&1 &
SSH_AUTH_SOCK=/a SSH_AGENT_PID=$!
until [ -e "$mark" ]; do sleep 0.01; done
echo "$SSH_AGENT_PID" >>"$here/begun"
`

/** What a process of this test's does with an env-file before it waits for its end. */
const ROLES: Record<string, (envFile: string) => Promise<unknown>> = {
  command: async (envFile) => endWithUs(await findAgent(envFile, {}, HANGS), UID),
  sourcing: (envFile) => findAgent(envFile, {}, HANGS),
  logins: async (envFile) => {
    const cache = { name: 'rpi', host: '127.0.0.1', ssh: 'pi@127.0.0.1', port: 1, envFile } as SshCache
    delete process.env.SSH_AUTH_SOCK
    await remoteOf(cache).user()
    await askDisk(cache)
  },
  "somebody else's": async (envFile) => endWithUs(await findAgent(envFile, {}, HANGS), UID + 1),
  'another one by that number': async (envFile) => {
    const { begun } = await findAgent(envFile, {}, HANGS)
    if (begun) endWithUs({ env: {}, from: '', begun: { ...begun, begun: begun.begun + 1 } }, UID)
  },
  'another user by then': async (envFile) => {
    const { begun } = await findAgent(envFile, {}, HANGS)
    if (begun) endWithUs({ env: {}, from: '', begun: { ...begun, uid: UID + 1 } }, UID + 1)
  },
}

const [role, file] = [process.env.NIX_LAN_TEST_ROLE, process.env.NIX_LAN_TEST_ENV_FILE]
if (role && file) {
  await ROLES[role]?.(file)
  process.stdout.write('ready\n')
  await new Promise((resolve) => setTimeout(resolve, 2 * HANGS))
}

const test = suite('an agent of our own')
const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-agent-'))
test.after(() => {
  for (const pid of [...begun(), ...waiting()]) kill(pid, 'SIGKILL')
  rmSync(TMP, { recursive: true })
})

/** The agents that have been begun. */
const begun = (): number[] => numbers('begun')
/** What waits while env-file is read. */
const waiting = (): number[] => numbers('waits')

const numbers = (name: string): number[] => readAll(name).split(/\s+/).filter(Boolean).map(Number)

function readAll(name: string): string {
  const file = join(TMP, name)
  return existsSync(file) ? readFileSync(file, 'utf8') : ''
}

function lives(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'latin1'))
  } catch {
    return false
  }
}

/** Whether sh still looks after one of these. */
const watched = (pids: readonly number[]): boolean =>
  allProcesses().some((pid) => {
    try {
      const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
      return words[0] === 'sh' && words.some((word) => pids.includes(Number(word)))
    } catch {
      return false
    }
  })

/**
 * Plays a role in a process of its own, and sends its whole group a signal, as a terminal does.
 * @returns the agents that were begun
 */
async function play(role: string, signal: NodeJS.Signals, envFile = BEGINS): Promise<number[]> {
  rmSync(join(TMP, 'begun'), { force: true })
  writeFileSync(join(TMP, 'env'), envFile)
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url)], {
    env: { ...process.env, NIX_LAN_TEST_ROLE: role, NIX_LAN_TEST_ENV_FILE: join(TMP, 'env') },
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
  })
  if (envFile === BEGINS) assert.is(String(await once(child.stdout, 'data')), 'ready\n')
  else await until('the env-file waits', () => waiting().length > 0)
  const pids = begun()
  assert.equal(
    pids.map(lives),
    pids.map(() => true),
  )
  process.kill(-(child.pid ?? 0), signal)
  await once(child, 'exit')
  return pids
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGKILL'] as const)
  test(`it ends with a command that ${signal} ends`, async () => {
    const pids = await play('command', signal)
    assert.is(pids.length, 1)
    await until('its end', () => !pids.some(lives))
  })

test('also where somebody logs in on the box for something else than the tunnel', async () => {
  const pids = await play('logins', 'SIGINT')
  assert.is(pids.length, 2)
  await until('their end', () => !pids.some(lives))
})

test('also while env-file is still read, with all that it has started', async () => {
  const pids = await play('sourcing', 'SIGINT', `${BEGINS}sleep 300 & echo $$ $! >"$here/waits"; wait`)
  const all = [...pids, ...waiting()]
  assert.is(all.length, 3)
  await until('their end', () => !all.some(lives))
})

for (const role of ["somebody else's", 'another one by that number', 'another user by then'])
  test(`${role}: left alone`, async () => {
    const pids = await play(role, 'SIGTERM')
    assert.is(pids.length, 1)
    await until('nobody looks after it', () => !watched(pids))
    assert.equal(pids.map(lives), [true])
    for (const pid of pids) kill(pid, 'SIGKILL')
  })

test.run()
