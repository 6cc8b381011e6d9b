// Guarded programs: they end when the process that started them does, whenever that is.
import { type ChildProcess, spawn } from 'node:child_process'
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
