// Whatever is wrong with nix-lan-connect itself, a build succeeds: no configuration, a broken one,
// an exception inside. (No JavaScript runtime: no-runtime.test.ts.)
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../lib/needs.ts'
import { createPair, DIST, type Pair } from './pair.ts'

const VERSIONS = ['host', 'trixie', 'forky'] as const
const byName = `ssh-ng://localhost?remote-program=${DIST}/nix-lan-connect%20box`

const test = needs(suite('broken'), 'root', 'nix', 'ssh', 'sshd', 'roots')

// Functions of the bundle that are made to throw, and whether the box is there then, so that they
// are called.
const PLACES = [
  ['findTarget', 'there'],
  ['becomeOwner', 'there'],
  ['dialBox', 'there'],
  ['openSocket', 'there'],
  ['readAnswer', 'there'],
  ['identity', 'away'],
  ['openNote', 'there'],
] as const

async function buildsWith(pair: Pair, message: RegExp): Promise<void> {
  const { stderr } = await pair.build(['--arg', 'count', '3', '--argstr', 'name', `n${Date.now()}`])
  const log = pair.client.daemonLog()
  assert.match(log, message)
  assert.not.match(stderr, /error:/)
  assert.not.match(log, /error:/)
}

for (const client of VERSIONS) {
  test(`${client}: a configuration that is missing, then broken, then somebody else's`, async () => {
    const pair = await createPair({ client, settings: { 'extra-substituters': byName } })
    try {
      const file = '/etc/nix-lan/config.toml'
      const good = pair.client.read(file)
      await pair.client.must('root', 'rm', [file])
      await buildsWith(pair, /nix-lan-connect: .*config/)
      pair.client.write(file, 'user = "alice"\n[cache.box\n')
      await buildsWith(pair, /nix-lan-connect: .*config\.toml:2/)
      pair.client.write(file, good, { user: 'alice' })
      await buildsWith(pair, /nix-lan-connect: .*(owner|own|trust)/)
    } finally {
      await pair.close()
    }
  })

  for (const [place, state] of PLACES) {
    test(`${client}: an exception in ${place}, the box ${state}`, async () => {
      const dist = mkdtempSync('/tmp/nl-dist-')
      try {
        cpSync('dist', dist, { recursive: true })
        plant(`${dist}/nix-lan-connect`, place)
        const pair = await createPair({ client, dist })
        try {
          await pair.openPlainTunnel()
          if (state === 'away') await pair.closeTunnel('SIGKILL') // leaves its socket behind
          await buildsWith(pair, /nix-lan-connect: .*planted/)
        } finally {
          await pair.close()
        }
      } finally {
        rmSync(dist, { recursive: true })
      }
    })
  }
}

/** Makes a function of the bundle throw at its head. */
function plant(file: string, name: string): void {
  const parts = readFileSync(file, 'utf8').split(new RegExp(`^((?:async )?function ${name}\\(.*\\) \\{)$`, 'm'))
  assert.is(parts.length, 3, `${name} stands once in ${file}`)
  writeFileSync(file, `${parts[0]}${parts[1]} throw new Error("planted");${parts[2]}`)
}

test.run()
