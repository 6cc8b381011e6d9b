// Coming home: from the moment the cable is plugged in until the box's nix-daemon answers at the
// socket, and until what was built meanwhile is on the box. In the lab, with real NetworkManager,
// systemd, mDNS and sshd; against the blog's dispatcher script, target and service, in turn on the
// same laptop.
import { readFileSync } from 'node:fs'
import { createLab, type Lab } from '../../lab/lab.ts'
import { greets } from '../../lib/greeting.ts'
import { pause } from '../../lib/processes.ts'
import { type Bench, ensure, type Row, rounds, size } from '../lib/bench.ts'
import type { Samples } from '../lib/stats.ts'

const OURS = 'nix-lan'
const BLOG = "the blog's units"
const DISPATCHER = '/etc/NetworkManager/dispatcher.d'
/** Milliseconds after which nothing more is expected. */
const LONGEST = 60_000

const BLOG_UNITS = {
  'blog.target': '[Unit]\nDescription=The box is there\nWants=blog-tunnel.service\n',
  'blog-tunnel.service': `[Unit]
After=blog.target
PartOf=blog.target
BindsTo=blog.target
[Service]
ExecStart=/usr/local/bin/blog-tunnel
ExecStop=/bin/rm -f /tmp/blog.sock
Restart=on-failure
`,
}

export const lab: Bench = {
  name: 'lab',
  title: 'link up → the socket answers → a queue of 100 is on the box (two nspawn machines; some minutes)',
  needs: ['root', 'roots', 'systemd-nspawn', 'nsenter'],
  onlyByName: true,
  async *run(setting) {
    setting.progress('booting two machines')
    const made = await createLab({ laptop: 'bookworm', installed: true, ownDeadline: true })
    try {
      installBlog(made)
      const drained: number[] = []
      const count = size(setting, 100, 3)
      const samples = await rounds(setting, size(setting, 5, 1), {
        [OURS]: () => comesHome(made, OURS, count, drained),
        [BLOG]: () => comesHome(made, BLOG, 0, []),
      })
      yield socketRow(samples)
      yield queueRow(count, drained)
    } finally {
      await made.close()
    }
  },
}

function installBlog({ laptop }: Lab): void {
  for (const name of ['blog-available', 'blog-tunnel']) laptop.write(`/usr/local/bin/${name}`, rival(name), { mode: 0o755 })
  for (const [name, text] of Object.entries(BLOG_UNITS)) laptop.write(`/etc/systemd/user/${name}`, text)
  laptop.write('/home/alice/.bashrc', '', { user: 'alice' })
}

const rival = (name: string): string => readFileSync(`test/bench/rivals/${name}`, 'utf8')

/** Only one of them reacts to the network from now on. */
async function use({ laptop }: Lab, who: string): Promise<void> {
  const script = `rm -f ${DISPATCHER}/50-blog ${DISPATCHER}/90-nix-lan`
  await laptop.must('root', 'sh', ['-c', script])
  await laptop.systemctl('daemon-reload')
  await laptop.systemctl('stop', 'blog.target', 'nix-lan-check.timer', 'nix-lan@pi.target')
  await laptop.systemctl('reset-failed')
  if (who === BLOG) {
    laptop.write(`${DISPATCHER}/50-blog`, rival('blog-dispatcher'), { mode: 0o755 })
    await laptop.must('root', `${DISPATCHER}/50-blog`)
  } else {
    await laptop.must('root', 'ln', ['-s', '/usr/local/lib/nix-lan/nix-lan-dispatcher', `${DISPATCHER}/90-nix-lan`])
    await laptop.systemctl('start', 'nix-lan-check.timer', 'nix-lan-check.service')
  }
}

/**
 * Pulls the cable, builds, plugs it in again. Milliseconds until the socket answers; until the
 * queue is empty goes to `drained`.
 */
async function comesHome(made: Lab, who: string, count: number, drained: number[]): Promise<number> {
  await use(made, who)
  const socket = made.laptop.path(who === OURS ? '/run/user/1000/nix-lan/pi.sock' : '/tmp/blog.sock')
  await made.eventually(`${who}: the socket answers at home`, () => greets(socket), { within: LONGEST })
  await made.lan.cable('laptop', false)
  await made.eventually(`${who}: nobody answers any more`, async () => !(await greets(socket)), { within: LONGEST, every: 300 })
  await pause(8000) // until NetworkManager has missed the cable, too
  const names = ['--arg', 'count', String(count), '--argstr', 'name', `away-${Date.now()}`]
  const paths = count > 0 ? (await made.build(names)).paths : []
  if (count > 0) ensure((await made.queued()).length >= count, 'what was built is not queued')
  await made.lan.cable('laptop', true)
  const plugged = performance.now()
  const queue =
    count > 0 ? made.eventually('the queue is empty', async () => (await made.queued()).length === 0, { within: LONGEST }) : null
  const ms = await answered(socket)
  ensure(ms < LONGEST || who === BLOG, 'the tunnel did not come back')
  if (queue) {
    await queue
    drained.push(performance.now() - plugged)
    ensure(await made.boxHas(...paths), 'the queue is empty, and the box lacks some')
  }
  return ms
}

/** Milliseconds until the socket answers, or LONGEST. */
async function answered(socket: string): Promise<number> {
  const started = performance.now()
  while (performance.now() - started < LONGEST) {
    if (await greets(socket)) return performance.now() - started
    await pause(50)
  }
  return LONGEST
}

function socketRow(samples: Samples): Row {
  return {
    id: 'lab-socket',
    what: 'from the cable plugged in until the socket answers',
    unit: 'ms',
    samples,
    goals: [{ say: `${OURS} / ${BLOG}`, formula: (of) => of(OURS) / of(BLOG), most: 1, budget: 4 }],
    chart: { label: 'home again: the socket answers', ours: OURS, rival: BLOG },
    notes: samples[BLOG]?.some((ms) => ms >= LONGEST) ? [`${BLOG} did not come back within ${LONGEST / 1000} s in some rounds`] : [],
  }
}

function queueRow(count: number, drained: number[]): Row {
  return {
    id: 'lab-queue',
    what: `from the cable plugged in until ${count} queued paths are on the box`,
    unit: 'ms',
    samples: { [OURS]: drained },
    goals: [
      {
        say: 'drained by itself: how often of how often',
        formula: () => drained.filter((ms) => ms < LONGEST).length / drained.length,
        least: 1,
      },
    ],
    notes: ["the blog's hook leaves out what is built while the box is away: nothing of it ever gets there"],
  }
}
