// What it takes to get a long queue to the box: nix-lan's one copy, the blog's one copy each, and
// the least that Nix itself needs.
import { createPair, DIST } from '../../nix/pair.ts'
import { type Bench, ensure, rounds, size } from '../lib/bench.ts'

const OURS = 'nix-lan queue upload'
/**
 * It takes minutes: one path in five is enough to know what all of them take, one after the other.
 */
const PART = 5
const BLOG = 'one nix copy each through tsp (ssh://): a fifth of them, × 5'
const IDEAL = 'one nix copy of all (ssh-ng://)'

export const upload: Bench = {
  name: 'upload',
  title: '500 queued paths to the box, over ssh',
  needs: ['root', 'nix', 'ssh', 'sshd', 'tsp'],
  async *run(setting) {
    const count = size(setting, 500, 6)
    const pair = await createPair()
    try {
      const { client, box } = pair
      await pair.openTunnel()
      const { paths } = await pair.build(['--arg', 'count', String(count), '--argstr', 'name', 'queued', '--arg', 'kb', '4'])
      ensure(paths.length === count, 'not all were built')
      const env = { NIX_SSHOPTS: `-p ${box.port}` }
      const copied = (line: string, before: string, part: number) => async (): Promise<number> => {
        const some = paths.filter((_, n) => n % part === 0)
        client.write('/tmp/paths', `${some.join('\n')}\n`, { user: 'alice' })
        await client.must('alice', 'sh', ['-c', before])
        const { code, ms, stderr } = await client.run('alice', 'sh', ['-c', line], { env, timeout: 600_000 })
        ensure(code === 0, `${line} failed: ${stderr.slice(-500)}`)
        ensure(await pair.boxHas(...some), `after ${line} the box lacks some`)
        await box.must('alice', 'rm', ['-rf', '/home/alice/.local/state/nix-lan']) // what keeps them there
        await box.collect(...some)
        return ms * part
      }
      const ways = {
        [OURS]: copied(`${DIST}/nix-lan queue upload`, `xargs -n 100000 ${DIST}/nix-lan queue add </tmp/paths`, 1),
        [IDEAL]: copied('xargs -n 100000 nix copy --to ssh-ng://alice@127.0.0.1 </tmp/paths', ':', 1),
        [BLOG]: copied(
          'while read -r p; do tsp nix copy --to ssh://alice@127.0.0.1 "$p"; done </tmp/paths >/dev/null; tsp -w',
          // A job that meets a server on its way out is lost.
          'tsp -K; n=0; while [ -S /tmp/socket-ts.1000 ] && [ $n -lt 600 ]; do sleep 0.1; n=$((n+1)); done',
          PART,
        ),
      }
      yield {
        id: 'upload',
        what: `uploading ${count} queued paths of 4 KiB`,
        unit: 'ms',
        samples: await rounds(setting, size(setting, 5, 1), ways, { [BLOG]: 1 }),
        goals: [
          { say: `${BLOG} / ${OURS}`, formula: (of) => of(BLOG) / of(OURS), least: 50 },
          { say: `${OURS} / ${IDEAL}`, formula: (of) => of(OURS) / of(IDEAL), most: 1.2, budget: 15 },
        ],
        chart: { label: `uploading ${count} paths`, ours: OURS, floor: IDEAL, rival: BLOG, readme: true },
      }
    } finally {
      await pair.close()
    }
  },
}
