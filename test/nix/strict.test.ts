// A strict session between a client and a box whose Nixes differ: what Nix finds out about the box
// and what it may do there is what plain ssh-ng:// gives it. (Older boxes than 2.8.0, which no
// Debian has, are in test/unit/session.test.ts.)
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../lib/needs.ts'
import { createPair, DEADLINE, DIST, type Pair, SOCKET, T_FILE } from './pair.ts'

const test = needs(suite('strict'), 'root', 'nix', 'ssh', 'sshd', 'roots')

const PLAIN = 'ssh-ng://alice@127.0.0.1'
const STRICT = `ssh-ng://localhost?remote-program=${DIST}/nix-lan-connect%20--strict%20--deadline%20${DEADLINE}%20${SOCKET}`
const VERSION = { bookworm: '2.8.0', trixie: '2.26.3', forky: '2.34.8' }

/** What a command of Nix says about a store, without the store's address. */
async function said(pair: Pair, store: string, command: string[]): Promise<string> {
  const env = { NIX_SSHOPTS: `-p ${pair.box.port}` }
  const { stdout, stderr, code } = await pair.client.run('alice', 'nix', [...command, '--store', store], { env })
  return `${stdout}${stderr}exit ${code}\n`.replace(/ssh-ng:\S+/g, 'STORE')
}

for (const [client, box, trusts] of [
  ['bookworm', 'forky', undefined],
  ['forky', 'bookworm', undefined],
  ['forky', 'forky', 'not trusted'],
  ['trixie', 'forky', 'not trusted'],
  ['bookworm', 'bookworm', undefined],
] as const) {
  test(`${VERSION[client]} at a box with ${VERSION[box]}: doctor, the version, the trust, a build there`, async () => {
    const pair = await createPair({ client, box })
    try {
      await pair.openPlainTunnel()
      const info = await said(pair, STRICT, client === 'forky' ? ['store', 'info'] : ['store', 'ping'])
      assert.match(info, new RegExp(`Version: ${VERSION[box]}\n`))
      assert.is(info, await said(pair, PLAIN, client === 'forky' ? ['store', 'info'] : ['store', 'ping']))
      const doctor = await said(pair, STRICT, client === 'bookworm' ? ['doctor'] : ['config', 'check'])
      assert.is(doctor, await said(pair, PLAIN, client === 'bookworm' ? ['doctor'] : ['config', 'check']))
      if (trusts) assert.match(doctor, new RegExp(`You are ${trusts}`))
      if (client === box) assert.match(doctor, /\[PASS\].*Client protocol matches/)
      if (trusts) await builds(pair)
    } finally {
      await pair.close()
    }
  })
}

/**
 * A remote builder that doesn't trust the client takes no derivation by itself, only one in its
 * store (2.15 and later, build-remote.cc): Nix has to know.
 */
async function builds(pair: Pair): Promise<void> {
  const name = `there-${Date.now()}`
  const args = [T_FILE, '--no-out-link', '--argstr', 'name', name, '--max-jobs', '0', '--builders', STRICT]
  const built = await pair.client.run('root', 'nix-build', args, { env: { NIX_REMOTE: 'local' } })
  assert.is(built.code, 0, built.stderr)
  const path = built.stdout.trim()
  await pair.box.must('root', 'nix-store', ['--check-validity', path], { env: { NIX_REMOTE: 'local' } })
}

test.run()
