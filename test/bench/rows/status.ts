// What it takes to ask how things are: nix-lan status and nix-lan doctor --offline, in units of an
// empty node.
import { createPair, DIST } from '../../nix/pair.ts'
import { type Bench, ensure } from '../lib/bench.ts'
import { hyperfine } from '../lib/hyperfine.ts'

const NODE = 'empty node'
const STATUS = 'nix-lan status'
const DOCTOR = 'nix-lan doctor --offline'

export const status: Bench = {
  name: 'status',
  title: 'nix-lan status, nix-lan doctor --offline',
  needs: ['root', 'nix', 'ssh', 'sshd', 'hyperfine'],
  async *run(setting) {
    const pair = await createPair({ hook: true })
    try {
      await pair.openTunnel()
      await pair.build(['--arg', 'count', '10', '--argstr', 'name', 'queued'])
      const said = await pair.client.run('alice', `${DIST}/nix-lan`, ['status'])
      ensure(/\bbox\b/.test(said.stdout) && said.code !== 2, `nix-lan status does not know the box: ${said.stdout}${said.stderr}`)
      const found = await pair.client.run('alice', `${DIST}/nix-lan`, ['doctor', '--offline'])
      ensure(found.stdout.length > 100 && found.code !== 2, `nix-lan doctor --offline finds nothing out: ${found.stdout}${found.stderr}`)
      const commands = [
        { name: NODE, line: 'node -e 0' },
        { name: STATUS, line: `${DIST}/nix-lan status` },
        { name: DOCTOR, line: `${DIST}/nix-lan doctor --offline` },
      ]
      const options = { user: 'alice', env: pair.client.env('alice'), mayFail: true, rounds: 7, runs: 7 } as const
      yield {
        id: 'status',
        what: 'how things are, with the box there and 20 paths queued',
        unit: 'ms',
        samples: await hyperfine(pair.client, setting, commands, options),
        goals: [
          { say: `${STATUS} / ${NODE}`, formula: (of) => of(STATUS) / of(NODE), most: 3, budget: 9 },
          { say: `${DOCTOR} / ${NODE}`, formula: (of) => of(DOCTOR) / of(NODE), most: 10, budget: 40 },
        ],
        notes: ['doctor exits with 1 here: it finds that there is no systemd'],
      }
    } finally {
      await pair.close()
    }
  },
}
