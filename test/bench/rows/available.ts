// What it takes to say whether the box is there: when it is, when it isn't, and when the name
// server says nothing.
import { createSocket } from 'node:dgram'
import { createPair, DIST, type Pair } from '../../nix/pair.ts'
import { freePort } from '../../nix/world.ts'
import { type Bench, ensure, type Row, rounds, type Setting, size } from '../lib/bench.ts'
import { hyperfine } from '../lib/hyperfine.ts'
import { addRivals, RIVALS } from '../lib/rivals.ts'

const OURS = 'nix-lan-available'
const NODE = 'empty node'
const GETENT = 'getent ahosts'
const BASH = 'bash with timeout getent'
/** Nobody else's; a server that takes questions and says nothing. */
const SILENT = '127.0.0.99'
const DEADLINE = 2000

export const available: Bench = {
  name: 'available',
  title: 'nix-lan-available: the box there, gone, the name server silent',
  needs: ['root', 'nix', 'ssh', 'sshd', 'hyperfine'],
  async *run(setting) {
    const pair = await createPair()
    try {
      addRivals(pair.client)
      yield await state(pair, setting, 'there', pair.box.port)
      yield await state(pair, setting, 'gone', await freePort())
      yield await silent(pair, setting)
    } finally {
      await pair.close()
    }
  },
}

function configure(pair: Pair, host: string, port: number): void {
  pair.client.write('/etc/nix-lan/config.toml', `user = "alice"\n\n[cache.box]\nhost = "${host}"\nport = ${port}\n`)
}

async function state(pair: Pair, setting: Setting, kind: 'there' | 'gone', port: number): Promise<Row> {
  configure(pair, 'box.lan', port)
  const said = await pair.client.run('alice', `${DIST}/nix-lan-available`)
  ensure(said.code === (kind === 'there' ? 0 : 1), `nix-lan-available does not find the box ${kind}: ${said.stdout}${said.stderr}`)
  const commands = [
    { name: NODE, line: 'node -e 0' },
    { name: GETENT, line: 'getent ahosts box.lan' },
    { name: OURS, line: `${DIST}/nix-lan-available` },
    { name: BASH, line: `${RIVALS}/blog-available` },
  ]
  return {
    id: `available-${kind}`,
    what: `nix-lan-available, the box ${kind}`,
    unit: 'ms',
    samples: await hyperfine(pair.client, setting, commands, { user: 'alice', env: pair.client.env('alice'), mayFail: kind === 'gone' }),
    goals: [{ say: `${OURS} / (${NODE} + ${GETENT})`, formula: (of) => of(OURS) / (of(NODE) + of(GETENT)), most: 1.2, budget: 3.5 }],
    ...(kind === 'gone' ? { notes: ['bash with getent asks the name only: it says that a box is there which is off'] } : {}),
  }
}

async function silent(pair: Pair, setting: Setting): Promise<Row> {
  const server = createSocket('udp4')
  await new Promise<void>((resolve, reject) => server.once('error', reject).bind(53, SILENT, resolve))
  try {
    configure(pair, 'box.example', pair.box.port)
    pair.client.write('/etc/resolv.conf', `nameserver ${SILENT}\n`)
    const asked = (command: string) => async (): Promise<number> => {
      const { code, ms, timedOut } = await pair.client.run('alice', command, [], { env: { BLOG_HOST: 'box.example' }, timeout: 30_000 })
      ensure(!timedOut && code !== 0, `${command} found a box that has no address`)
      return ms
    }
    return {
      id: 'available-silent',
      what: 'nix-lan-available, the name server silent',
      unit: 'ms',
      samples: await rounds(setting, size(setting, 3, 1), {
        [OURS]: asked(`${DIST}/nix-lan-available`),
        [BASH]: asked(`${RIVALS}/blog-available`),
      }),
      goals: [{ say: `${OURS} / its deadline`, formula: (of) => of(OURS) / DEADLINE, most: 1.1, budget: 3 }],
    }
  } finally {
    server.close()
  }
}
