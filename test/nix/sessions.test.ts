// What real Nixes say to a substituter, and what real boxes answer: each session goes right, and is
// made of operations that we know. NIX_LAN_RECORD=1 npm test -- nix/sessions writes them to
// test/fixtures/sessions, for test/unit/recorded.test.ts.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { OPERATIONS } from '../../scripts/protocol/operations.ts'
import { needs } from '../lib/needs.ts'
import { operationsOf, type Recorded, SIDES } from '../lib/recorded.ts'
import { createPair, DIST, type Pair, SOCKET, T_FILE } from './pair.ts'

const test = needs(suite('sessions'), 'root', 'nix', 'ssh', 'sshd', 'roots')

for (const [client, box] of [
  ['bookworm', 'bookworm'],
  ['trixie', 'trixie'],
  ['forky', 'forky'],
  ['forky', 'bookworm'],
  ['bookworm', 'forky'],
] as const) {
  test(`${client} with a box of ${box}: fetch, miss, ask, upload`, async () => {
    const pair = await createPair({ client, box })
    try {
      await pair.openPlainTunnel()
      const recorded = await sessions(pair)
      const nix = (await pair.client.must('root', 'nix', ['--version'])).split(' ').pop() ?? ''
      const boxNix = (await pair.box.must('root', 'nix', ['--version'])).split(' ').pop() ?? ''
      if (process.env.NIX_LAN_RECORD) {
        mkdirSync('test/fixtures/sessions', { recursive: true })
        writeFileSync(`test/fixtures/sessions/${nix}-${boxNix}.json`, `${JSON.stringify(recorded, null, 2)}\n`)
      }
      // an upload goes on to other operations, and gets a plain pipe
      for (const session of recorded.slice(0, -1)) {
        const numbers = operationsOf(session)
        assert.ok(numbers.length > 0)
        for (const number of numbers) assert.ok(OPERATIONS.has(number), `${session.command}: operation ${number}`)
      }
    } finally {
      await pair.close()
    }
  })
}

/** A command for each session. */
async function sessions(pair: Pair): Promise<Recorded[]> {
  const local = { env: { NIX_REMOTE: 'local' } }
  const build = ['--no-out-link', '--argstr', 'text', 'hello', '--option', 'substituters', '']
  const there = await pair.box.must('root', 'nix-build', [T_FILE, ...build, '--argstr', 'name', 'there'], local)
  const here = await pair.client.must('root', 'nix-build', [T_FILE, ...build, '--argstr', 'name', 'here'], local)
  const recorded: Recorded[] = []
  async function session(command: string, run: (url: string) => string[]): Promise<void> {
    const directory = `${pair.client.dir}/${recorded.length}`
    await pair.client.must('root', 'mkdir', ['-p', directory])
    const program = ['/usr/local/bin/node', `${pair.client.dir}/recorder.cjs`, `${DIST}/nix-lan-connect`, directory, SOCKET].join('%20')
    const [first = '', ...rest] = run(`ssh-ng://localhost?remote-program=${program}`)
    const result = await pair.client.run('root', first, rest, local)
    assert.is(result.code, 0, `${command}: ${result.stderr}`)
    const bytes = Object.fromEntries(SIDES.map((side) => [side, readFileSync(`${directory}/${side}`).toString('base64')]))
    recorded.push({ command, ...(bytes as Omit<Recorded, 'command'>) })
  }
  pair.client.write(`${pair.client.dir}/recorder.cjs`, readFileSync('test/nix/recorder.cjs', 'utf8'))
  await session('nix-store --realise, a path that the box has', (url) => [
    'nix-store',
    ...['--realise', there, '--option', 'substituters', url, '--option', 'require-sigs', 'false'],
  ])
  assert.is(pair.client.read(there), 'hello\n')
  await session('nix-build, which the box lacks', (url) => [
    'nix-build',
    ...[T_FILE, '--no-out-link', '--argstr', 'name', 'new', '--option', 'substituters', url],
  ])
  await session('nix-store --check-validity', (url) => ['nix-store', '--store', url, '--check-validity', '--print-invalid', there, here])
  await session('nix copy --to', (url) => ['nix', 'copy', '--no-check-sigs', '--to', url, here])
  return recorded
}

test.run()
