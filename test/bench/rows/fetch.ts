// What coming back from the box costs: a large path, and many small ones, through nix-lan-connect
// and through what else there is.
import { HttpCache } from '../../nix/http-cache.ts'
import { createPair, DIST, type Pair, SOCKET } from '../../nix/pair.ts'
import { type Bench, ensure, type Row, rounds, type Setting, size } from '../lib/bench.ts'
import { addRivals, RIVALS } from '../lib/rivals.ts'
import type { Samples } from '../lib/stats.ts'

const OURS = 'nix-lan-connect'
const SOCAT = 'socat as the program'
const SSH = 'plain ssh-ng://'
const HTTP = 'a local HTTP cache'

export const fetch: Bench = {
  name: 'fetch',
  title: 'fetching from the box: 1 GiB in one path, 2,000 small paths',
  needs: ['root', 'nix', 'ssh', 'sshd', 'socat'],
  async *run(setting) {
    const pair = await createPair()
    const cache = new HttpCache(`${pair.client.dir}/http`)
    try {
      addRivals(pair.client)
      // for the plain ssh-ng, which the daemon starts as root
      const options = ['-p', String(pair.box.port), '-o', 'UserKnownHostsFile=/home/alice/.ssh/known_hosts']
      await pair.client.stopDaemon()
      await pair.client.startDaemon({ NIX_SSHOPTS: options.join(' ') })
      await pair.openPlainTunnel()
      await cache.open()
      const large = await largePath(pair, size(setting, 1024, 16))
      yield largeRow(await measure(pair, cache, setting, [large]), size(setting, 1024, 16))
      await pair.box.must('root', 'nix-store', ['--delete', large], { env: { NIX_REMOTE: 'local' } })
      const small = await smallPaths(pair, size(setting, 2000, 30))
      yield smallRow(await measure(pair, cache, setting, small), small.length)
    } finally {
      cache.close()
      await pair.close()
    }
  },
}

/**
 * Something that only the box has, signed as if the client had built it; and that the HTTP cache
 * has too.
 */
async function published(pair: Pair, paths: string[]): Promise<void> {
  const local = { env: { NIX_REMOTE: 'local' } }
  const nix = (args: string[]) => pair.box.must('root', 'xargs', ['nix', ...args], { ...local, input: paths.join('\n'), timeout: 300_000 })
  pair.box.write('/etc/nix/secret', pair.client.read('/etc/nix/secret'), { mode: 0o600 })
  await nix(['store', 'sign', '--key-file', '/etc/nix/secret'])
  await nix(['copy', '--to', `file:///tmp/http?compression=none`])
  // the box's world is not the client's, where the cache is served from
  await pair.box.must('root', 'sh', ['-c', `rm -rf ${pair.box.dir}/http; mv /tmp/http ${pair.box.dir}/http`])
}

/** A path of so many MiB that can't be compressed. */
async function largePath(pair: Pair, mib: number): Promise<string> {
  const args = ['/opt/nix-lan/t.nix', '--no-out-link', '--argstr', 'name', 'large', '--arg', 'kb', String(mib * 1024)]
  const path = await pair.box.must('root', 'nix-build', args, { env: { NIX_REMOTE: 'local' } })
  await published(pair, [path])
  return path
}

/** So many paths of a few hundred bytes each. */
async function smallPaths(pair: Pair, count: number): Promise<string[]> {
  const text = `builtins.genList (n: builtins.toFile "small-\${toString n}" "this is the small file number \${toString n} of a benchmark") ${count}`
  const json = await pair.box.must('root', 'nix-instantiate', ['--eval', '--read-write-mode', '--strict', '--json', '-E', text], {
    env: { NIX_REMOTE: 'local' },
  })
  const paths = JSON.parse(json) as string[]
  await published(pair, paths)
  return paths
}

/** Milliseconds for fetching the paths in each way. */
async function measure(pair: Pair, cache: HttpCache, setting: Setting, paths: string[]): Promise<Samples> {
  cache.folder = `${pair.box.dir}/http`
  const program = (words: string) => `ssh-ng://localhost?remote-program=${words}`
  const fetch = (url: string) => async (): Promise<number> => {
    const options = ['--option', 'substituters', url, '--option', 'extra-substituters', '', '--option', 'narinfo-cache-positive-ttl', '0']
    const { code, stderr, ms } = await pair.client.run('root', 'xargs', ['-n', '100000', 'nix-store', ...options, '--realise'], {
      env: { NIX_REMOTE: 'daemon' },
      input: paths.join('\n'),
      timeout: 300_000,
    })
    ensure(code === 0, `fetching from ${url} failed: ${stderr}`)
    ensure(await pair.clientHas(...paths.slice(0, 100)), `${url} did not give the paths`)
    await pair.client.collect(...paths)
    return ms
  }
  const ways = {
    [OURS]: fetch(program(`${DIST}/nix-lan-connect%20${SOCKET}`)),
    [SOCAT]: fetch(program(`${RIVALS}/socat-store%20${SOCKET}`)),
    [SSH]: fetch('ssh-ng://alice@127.0.0.1?ssh-key=/home/alice/.ssh/id_ed25519'),
    [HTTP]: fetch(cache.url),
  }
  // many small ones take half a minute each time
  const many = paths.length > 1
  return await rounds(setting, size(setting, many ? 2 : 3, 1), ways, many ? { [SSH]: 1, [HTTP]: 1 } : {})
}

function largeRow(samples: Samples, mib: number): Row {
  return {
    id: 'fetch-large',
    what: `fetching ${mib} MiB in one path`,
    unit: 'ms',
    samples,
    goals: [{ say: `rate of ${OURS} / ${SOCAT}`, formula: (of) => of(SOCAT) / of(OURS), least: 0.9, budget: 0.3 }],
    chart: { label: 'fetching 1 GiB', ours: OURS, floor: SOCAT, rival: SSH },
  }
}

function smallRow(samples: Samples, count: number): Row {
  return {
    id: 'fetch-small',
    what: `fetching ${count} small paths`,
    unit: 'ms',
    samples,
    goals: [{ say: `${OURS} / ${SOCAT}`, formula: (of) => of(OURS) / of(SOCAT), most: 1.1, budget: 3 }],
    chart: { label: 'fetching 2,000 small paths', ours: OURS, floor: SOCAT, rival: SSH },
  }
}
