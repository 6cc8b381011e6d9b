// What the hook costs where it counts: many builds that take no time themselves, one after the
// other.
import { createWorld, type World } from '../../nix/world.ts'
import { type Bench, ensure, rounds, size } from '../lib/bench.ts'
import { addRivals, RIVALS } from '../lib/rivals.ts'

const QUEUE = '/nix/var/nix/gcroots/nix-lan/queue/box'
const OURS = 'post-build-hook'
const EMPTY = 'a hook that is exit 0'
const NONE = 'no hook'
const BLOG = "the blog's hook"

export const builds: Bench = {
  name: 'builds',
  title: '500 trivial derivations, built with the hook',
  needs: ['root', 'nix', 'tsp', 'sudo', 'bash'],
  async *run(setting) {
    const count = size(setting, 500, 10)
    const world = await createWorld({ nix: 'host' })
    try {
      addRivals(world)
      await world.must('root', 'install', ['-d', '-o', '1000', QUEUE])
      await world.startDaemon()
      let batch = 0
      const build = (hook: string, look: () => Promise<number>) => async (): Promise<number> => {
        await world.must('root', 'sh', ['-c', `find ${QUEUE} -type l -delete; rm -f /tmp/socket-ts.*`])
        await world.must('alice', 'sh', ['-c', 'tsp -K; tsp sleep 100000 >/dev/null'])
        const args = ['--arg', 'count', String(count), '--argstr', 'name', `n${batch++}`, '--option', 'post-build-hook', hook]
        const { code, stderr, ms } = await world.run('root', 'nix-build', ['/opt/nix-lan/t.nix', '--no-out-link', ...args], {
          env: { NIX_REMOTE: 'daemon' },
          timeout: 300_000,
        })
        ensure(code === 0, `the builds failed: ${stderr.slice(-500)}`)
        const done = await look()
        ensure(done === (hook.endsWith('post-build-hook') ? 2 * count : count), `${hook} has queued ${done} of ${count}`)
        return ms
      }
      const queued = () => number(world, 'root', `ls -A ${QUEUE} | wc -l`)
      const jobs = () => number(world, 'alice', 'tsp | grep -c "nix copy"')
      const ways = {
        [NONE]: build('', async () => count),
        [EMPTY]: build(`${RIVALS}/empty-hook`, async () => count),
        [OURS]: build('/opt/nix-lan/dist/post-build-hook', queued),
        [BLOG]: build(`${RIVALS}/blog-hook`, jobs),
      }
      yield {
        id: 'builds',
        what: `${count} trivial derivations`,
        unit: 'ms',
        samples: await rounds(setting, size(setting, 4, 1), ways, { [BLOG]: 1 }),
        goals: [
          { say: `${OURS} / ${EMPTY}`, formula: (of) => of(OURS) / of(EMPTY), most: 1.3, budget: 4 },
          { say: `${OURS} / ${NONE}`, formula: (of) => of(OURS) / of(NONE), most: 2 },
        ],
        chart: { label: `${count} trivial builds`, ours: OURS, floor: EMPTY, rival: BLOG },
      }
    } finally {
      await world.close()
    }
  },
}

const number = async (world: World, user: 'root' | 'alice', command: string): Promise<number> =>
  Number(await world.must(user, 'sh', ['-c', command]))
