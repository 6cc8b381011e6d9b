// What the box keeps: manifests and links, what is let go and when, keys that are trusted.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { Failure } from '../../scripts/cli/errors.ts'
import { publicKey, withKey, withoutKey } from '../../scripts/commands/trust.ts'
import { clientName, contentsOf, linksIn, manifestText, pin } from '../../scripts/keep/keep.ts'
import { noteKept, notKept } from '../../scripts/keep/outcome.ts'
import { type Remote, reportsIn } from '../../scripts/keep/remote.ts'
import { expired } from '../../scripts/keep/uploads.ts'
import type { Daemon } from '../../scripts/protocol/daemon-ops.ts'

const test = suite('keep')

const path = (name: string): string => `/nix/store/${'0'.repeat(32)}-${name}`

// ---- which days are let go

const TODAY = new Date('2026-11-26T10:00:00Z')
const DAYS: [string, string[], string, number | null, string[]][] = [
  ['older than keep', ['2026-09-26', '2026-09-27', '2026-11-26'], '2026-11-26', 60, ['2026-09-26']],
  ['for ever', ['2001-01-01'], '2026-11-26', null, []],
  ['the box a day ahead (a time zone, midnight)', ['2026-09-27', '2026-11-26'], '2026-11-27', 60, ['2026-09-27']],
  ['the box years ahead: nothing', ['2026-09-01', '2026-11-26'], '2036-11-26', 60, []],
  ['the box behind its newest link: nothing', ['2026-01-01', '2026-11-26'], '2026-11-25', 60, []],
  ['the box in 1970: nothing', ['2026-01-01'], '1970-01-01', 60, []],
  ['nothing there', [], '2026-11-26', 60, []],
]
for (const [what, days, today, keep, gone] of DAYS) test(`let go: ${what}`, () => assert.equal(expired(days, today, keep, TODAY), gone))

// ---- what is kept

test('a client’s name is one that a file and a store path can have', () => {
  assert.equal(['laptop-1', 'cache.nixos.org-1', '../../x', 'a b/c', '', '.-'].map(clientName), [
    'laptop-1',
    'cache.nixos.org-1',
    'x',
    'a-b-c',
    'client',
    'client',
  ])
})

test('links of ours among the roots, whatever else is there', () => {
  const roots = [
    { link: '/home/pi/.local/state/nix-lan/only/laptop-1/2026-11-26', path: path('nix-lan-only-laptop-1') },
    { link: '/home/pi/.local/state/nix-lan/kept/laptop-1/2026-11-26', path: path('nix-lan-kept-laptop-1') },
    { link: '/home/pi/.local/state/nix-lan/kept/laptop-1/2026-11-26/x', path: path('a') },
    { link: '/home/pi/.local/state/nix-lan/kept/../2026-11-26', path: '/etc/passwd' },
    { link: '/home/pi/.local/state/nix-lan/kept/lap\u001btop/2026-11-26', path: path('a') },
    { link: '{censored}', path: path('a') },
  ]
  assert.equal(
    linksIn(roots).map(({ kind, client, day }) => `${kind} ${client} ${day}`),
    ['kept laptop-1 2026-11-26', 'only laptop-1 2026-11-26'],
  )
})

test('what a link keeps: also that of the manifests before, in whatever circle a box puts them', async () => {
  const references = new Map([
    [path('nix-lan-kept-a'), [path('one'), path('nix-lan-kept-b')]],
    [path('nix-lan-kept-b'), [path('two'), path('nix-lan-kept-a')]],
  ])
  const daemon = {
    infos: async (paths: string[]) => new Map(paths.map((one) => [one, { references: references.get(one) ?? [] }])),
  } as unknown as Daemon
  const link = { kind: 'kept', client: 'c', day: 'd', link: '/l', manifest: path('nix-lan-kept-a') } as const
  assert.equal([...((await contentsOf(daemon, [link])).get('/l') ?? [])].sort(), [path('one'), path('two')])
})

test('answers of a script, among what a login shell prints', () => {
  const output = 'Welcome!\nnix-lan-keep date 2026-11-26\n  nix-lan-keep date x\nnix-lan-keep link a b\nnix-lan-keep link c d\n'
  assert.equal(
    reportsIn(output),
    new Map([
      ['date', ['2026-11-26']],
      ['link', ['a b', 'c d']],
    ]),
  )
})

// ---- pinning, step by step

/** A box at which one step fails, or whose daemon doesn't see the link. */
function boxAt(failing: string | undefined, seesLink = true): { daemon: Daemon; remote: Remote; steps: string[] } {
  const steps: string[] = []
  const step = (name: string): void => {
    steps.push(name)
    if (failing === name) throw new Failure(`lost at ${name}`)
  }
  const daemon = {
    valid: async (paths: string[]) => new Set(paths),
    addText: async () => {
      step('manifest')
      return path('nix-lan-only-c')
    },
    addIndirectRoot: async () => step('root'),
    roots: async () => {
      step('roots')
      return seesLink ? [{ link: '/home/pi/l', path: path('nix-lan-only-c') }] : []
    },
  } as unknown as Daemon
  const remote: Remote = {
    run: async (script) => {
      if (script.includes('readlink')) {
        step('prepare')
        return new Map([
          ['date', ['2026-11-26']],
          ['home', ['/home/pi']],
        ])
      }
      if (script.includes('ln -s')) {
        step('link')
        return new Map([['linked', ['/home/pi/l']]])
      }
      step('sync')
      return new Map()
    },
  }
  return { daemon, remote, steps }
}

const ORDER = ['prepare', 'manifest', 'link', 'root', 'roots', 'sync']
const WISH = { kind: 'only', client: 'c', paths: [path('a')], sync: true } as const

test('pinned: the link before the root, seen by the daemon, then on disk', async () => {
  const box = boxAt(undefined)
  await pin(box, WISH)
  assert.equal(box.steps, ORDER)
})

for (const failing of ORDER) {
  test(`the box is lost at the step ${failing}: it doesn't count as pinned`, async () => {
    const box = boxAt(failing)
    try {
      await pin(box, WISH)
    } catch (error) {
      assert.match((error as Error).message, `lost at ${failing}`)
      return
    }
    assert.unreachable()
  })
}

test('a link that the daemon doesn’t see: it doesn’t count as pinned, and sync isn’t waited for', async () => {
  const box = boxAt(undefined, false)
  try {
    await pin(box, WISH)
  } catch (error) {
    assert.match((error as Error).message, /doesn't take \/home\/pi\/l for a root/)
    assert.not(box.steps.includes('sync'))
    return
  }
  assert.unreachable()
})

test('a manifest says to people what it is', () => {
  assert.is(manifestText('kept', 'c', '2026-11-26', ['/b', '/a']), 'Kept here by nix-lan: uploaded by c, 2026-11-26\n/a\n/b\n')
})

test('that nothing is kept is noted until something is', () => {
  const directory = `${mkdtempSync(`${tmpdir()}/nix-lan-kept-`)}/state`
  try {
    assert.is(notKept(directory, 'rpi'), undefined)
    noteKept(directory, 'rpi', 'it runs no commands')
    assert.equal([notKept(directory, 'rpi'), notKept(directory, 'nas')], ['it runs no commands', undefined])
    noteKept(directory, 'rpi', undefined)
    assert.is(notKept(directory, 'rpi'), undefined)
  } finally {
    rmSync(dirname(directory), { recursive: true })
  }
})

// ---- keys

const KEY = 'laptop-1:g22jPVKtrGunyhIifRNhD31hFAn3aVsbHL/px1seqW8='

test('a key in nix.conf, and out of it again', () => {
  for (const text of ['', 'a = b\n', 'a = b', 'a = b\n\n']) {
    const trusted = withKey(text, KEY)
    assert.match(trusted, /^extra-trusted-public-keys = laptop-1:\S+ # by nix-lan trust$/m)
    assert.is(withoutKey(trusted, KEY), text === 'a = b' ? 'a = b\n' : text)
  }
  assert.is(withoutKey(`extra-trusted-public-keys = ${KEY}\n`, KEY), `extra-trusted-public-keys = ${KEY}\n`, 'not ours')
})

test('what is no public key is refused, a secret one with a warning', () => {
  assert.is(publicKey(KEY), KEY)
  for (const bad of [undefined, '', 'laptop-1', 'laptop-1:AAAA', `${KEY}\nx = y`, `a b:${KEY.slice(9)}`, KEY.replace('=', ''), `-x ${KEY}`])
    assert.throws(
      () => publicKey(bad),
      (error: Failure) => error.exitCode === 2,
    )
  assert.throws(() => publicKey(`laptop-1:${'A'.repeat(86)}==`), /secret key/)
})

test.run()
