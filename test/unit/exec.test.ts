// Guarded programs: they end when the process that started them does, whenever that is. And a time
// limit, reached while we are held up.
import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { run } from '../../scripts/system/exec.ts'

/** Longer than anything here takes; only a hang reaches it. */
const LIMIT = 60_000
const PROGRAM = ['-c', 'echo begun; exec sleep 300']
/** Ends by SIGKILL only. */
const STUBBORN = ['-c', "trap '' INT TERM; echo begun; exec sleep 300"]

const asked = process.env.NIX_LAN_TEST_STARTS
if (asked) {
  const started = (): void => void (asked === 'and dies' && process.kill(process.pid, 'SIGKILL'))
  await run('sh', asked === 'stubborn' ? STUBBORN : PROGRAM, { guarded: true, inherit: ['stdout'], started })
}

/** This file in a process of its own, which starts a guarded program on the same stdout. */
function starter(asked: string): ChildProcess {
  return spawn(process.execPath, [fileURLToPath(import.meta.url)], {
    env: { ...process.env, NIX_LAN_TEST_STARTS: asked },
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
  })
}

/** What it and its program print until both have ended. */
function printed(child: ChildProcess, heard: () => void = () => {}): Promise<string> {
  let text = ''
  child.stdout?.setEncoding('utf8').on('data', (part: string) => {
    text += part
    heard()
  })
  return new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`still running, after: ${text}`)), LIMIT).unref()
    child.on('close', () => resolve(text))
  })
}

const guarded = suite('guarded programs')

guarded('one ends when we are killed', async () => {
  const child = starter('and lives')
  assert.is(await printed(child, () => child.kill('SIGKILL')), 'begun\n')
})

for (const signal of ['SIGINT', 'SIGTERM'] as const)
  guarded(`one that ignores ${signal} ends, too, when that is sent to all of us, as ^C and a unit's stop are`, async () => {
    const child = starter('stubborn')
    assert.is(await printed(child, () => process.kill(-(child.pid ?? 0), signal)), 'begun\n')
  })

guarded('one does not begin when we are killed as soon as it is started', async () => {
  assert.is(await printed(starter('and dies')), '')
})

guarded('its outcome is its own', async () => {
  const { code, stdout, stderr } = await run('sh', ['-c', 'cat; echo out; echo err >&2; exit 3'], { guarded: true })
  assert.equal([code, stdout, stderr], [3, 'out\n', 'err\n'])
})

guarded('one that is missing, or no program, failed to start', async () => {
  const why = async (program: string) => (await run(program, [], { guarded: true })).failedToStart
  assert.equal([await why('nix-lan-no-such-program'), await why('/'), await why('true')], ['ENOENT', 'EACCES', null])
})

guarded.run()

const limited = suite('a time limit')

limited('what a program has said and done by then counts, though we look too late', async () => {
  let pid = 0
  const started = (its: number): void => {
    pid = its
  }
  const running = run('sh', ['-c', 'echo done; exit 3'], { timeout: 10, started })
  // Holds everything here up, as a suspend does: until it has ended, and the limit is over.
  const [least, most] = [performance.now() + 50, performance.now() + LIMIT]
  const isOver = (): boolean => /^\d+ \(sh\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  while (performance.now() < least || !isOver()) if (performance.now() > most) break
  const { code, stdout, timedOut } = await running
  assert.equal([code, stdout, timedOut], [3, 'done\n', false])
})

limited('one that hangs is killed', async () => {
  const { code, signal, stdout, timedOut } = await run('sh', ['-c', 'echo begun; exec sleep 300'], { timeout: 500 })
  assert.equal([code, signal, timedOut], [null, null, true])
  assert.ok(['', 'begun\n'].includes(stdout), stdout)
})

limited.run()
