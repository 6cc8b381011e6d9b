// What the box keeps: manifests and links, what is let go and when, keys that are trusted.
import { spawnSync } from 'node:child_process'
import { lstatSync, mkdtempSync, readlinkSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { Failure } from '../../scripts/cli/errors.ts'
import { publicKey, withKey, withoutKey } from '../../scripts/commands/trust.ts'
import { fetchedAgain, type Holdings, keptIn, leavingIn, readBoxLook, wordsOf, writeBoxLook } from '../../scripts/keep/daily.ts'
import { noteForgotten, noteGiven, pruneGiven, readForgotten, sampleOf, unforget } from '../../scripts/keep/given.ts'
import { type HomeFacts, whyAway } from '../../scripts/keep/home.ts'
import { clientName, contentsOf, linksIn, manifestText, pin, rewrite } from '../../scripts/keep/keep.ts'
import { Changed, letGo, prepare, putLink, timeOf } from '../../scripts/keep/links.ts'
import { noteKept, notKept, unkeptPaths } from '../../scripts/keep/outcome.ts'
import { NoShell, type Remote, reportsIn } from '../../scripts/keep/remote.ts'
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
    { link: '/nix/var/nix/gcroots/nix-lan-kept/pi/kept/laptop-2/2026-11-26', path: path('nix-lan-kept-laptop-2') },
    { link: '/home/pi/kept/laptop-1/2026-11-26', path: path('a') },
    { link: '/home/pi/kept/laptop-1/2026-11-26', path: path('nix-lan-kept-laptop-2') },
    { link: '/home/pi/.local/state/nix-lan/kept/laptop-1/2026-11-26/x', path: path('a') },
    { link: '/home/pi/.local/state/nix-lan/kept/../2026-11-26', path: '/etc/passwd' },
    { link: '/home/pi/.local/state/nix-lan/kept/lap\u001btop/2026-11-26', path: path('a') },
    { link: '{censored}', path: path('a') },
  ]
  assert.equal(
    linksIn(roots).map(({ kind, client, day }) => `${kind} ${client} ${day}`),
    ['kept laptop-1 2026-11-26', 'kept laptop-2 2026-11-26', 'only laptop-1 2026-11-26'],
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
      if (script.includes('report date')) {
        step('prepare')
        return new Map([
          ['date', ['2026-11-26']],
          ['folder', ['/home/pi/.local/state/nix-lan']],
        ])
      }
      if (script.includes('ln -s')) {
        step('link')
        return new Map([['linked', ['/home/pi/l']]])
      }
      step('sync')
      return new Map()
    },
    sftp: () => Promise.reject(new Error('not asked')),
    user: async () => 'pi',
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

/** A box whose link for the day is changed by others so often, before ours is put. */
function contested(times: number): ReturnType<typeof boxAt> & { befores: (string | undefined)[] } {
  const box = boxAt(undefined)
  const befores: (string | undefined)[] = []
  const { run } = box.remote
  let left = times
  box.remote.run = async (script, values) => {
    const reported = await run(script, values)
    if (script.includes('report date')) return new Map([...reported, ['link', [`2026-11-26 ${path(`m${left}`)}`]]])
    if (!script.includes('ln -s') && !script.includes('rm -f')) return reported
    befores.push(values.before)
    return left-- > 0 ? new Map([['changed', ['yes']]]) : reported
  }
  return { ...box, befores }
}

test('another nix-lan keeps something at the same time: it starts again from what is kept by now, a few times', async () => {
  const box = contested(2)
  await pin(box, WISH)
  assert.equal(box.befores, [path('m2'), path('m1'), path('m0')])
  const often = contested(99)
  assert.match(String(await pin(often, WISH).catch((error: Error) => error.message)), 'has changed meanwhile')
  assert.is(often.befores.length, 3)
})

test('what a link keeps is replaced, or let go of, only while it is what was seen', async () => {
  const link = { kind: 'only', client: 'c', day: '2026-11-26', link: '/home/pi/l', manifest: path('seen') } as const
  for (const paths of [[path('a')], []]) {
    const box = contested(1)
    assert.match(String(await rewrite(box, link, paths).catch((error: Error) => error.message)), 'has changed meanwhile')
    assert.equal(box.befores, [path('seen')])
  }
  const any = contested(0)
  await letGo(any, 'kept', 'c', ['2026-01-01', '2026-01-02'])
  assert.equal(any.befores, [''])
})

/** A box that is this machine's sh, in a home of its own. */
function shellAt(home: string): { daemon: Daemon; remote: Remote } {
  const remote: Remote = {
    run: async (script, values) => {
      const assignments = Object.entries(values).map(([name, value]) => `${name}='${value}'\n`)
      const input = `report() { printf 'nix-lan-keep %s %s\\n' "$1" "$2"; }\n${assignments.join('')}${script}\n`
      const { stdout, status, stderr } = spawnSync('sh', ['-s'], { input, encoding: 'utf8', env: { ...process.env, HOME: home } })
      assert.is(status, 0, stderr)
      return reportsIn(stdout)
    },
    sftp: () => Promise.reject(new Error('not asked')),
    user: async () => 'pi',
  }
  return { daemon: {} as Daemon, remote }
}

test('by sh: a link leads elsewhere, or is removed, only while it leads where it was seen to', async () => {
  const home = mkdtempSync(`${tmpdir()}/nix-lan-home-`)
  try {
    const box = shellAt(home)
    const put = (to: string, before: string): Promise<string> =>
      putLink(box, 'kept', 'c', '2026-11-26', { manifest: path(to), before: before && path(before) })
    const isChanged = async (what: Promise<unknown>): Promise<boolean> => (await what.catch((error) => error)) instanceof Changed
    const link = await put('one', '')
    assert.ok(await isChanged(put('two', '')), 'it was made meanwhile')
    assert.ok(await isChanged(put('two', 'other')))
    assert.is(readlinkSync(link), path('one'))
    assert.is(await put('two', 'one'), link)
    assert.ok(await isChanged(letGo(box, 'kept', 'c', ['2026-11-26'], path('one'))))
    assert.is(readlinkSync(link), path('two'))
    await letGo(box, 'kept', 'c', ['2026-11-25', '2026-11-26'], path('two'))
    assert.is(lstatSync(link, { throwIfNoEntry: false }), undefined)
    assert.ok(await isChanged(put('three', 'two')), 'it was let go of meanwhile')
  } finally {
    rmSync(home, { recursive: true })
  }
})

/**
 * A box that runs no commands. It says so once: remoteOf() remembers it.
 * @param folder what holds the links
 */
function sftpBox(registered: number, folder = '/home/pi/.local/state/nix-lan'): ReturnType<typeof boxAt> & { said: string[] } {
  const box = boxAt(undefined)
  const said: string[] = []
  Object.assign(box.daemon, {
    infos: async (paths: string[]) => new Map(paths.map((one) => [one, { registered: one === path('old') ? 0 : registered }])),
    roots: async () => [{ link: `${folder}/only/c/2026-11-26`, path: path('nix-lan-only-c') }, ...OLD],
  })
  Object.assign(box.remote, {
    run: async () => {
      throw new NoShell('no commands')
    },
    sftp: async (commands: string[]) => {
      said.push(...commands)
      let where = '/home/pi'
      const answers = commands.flatMap((one) => {
        if (one.startsWith('-cd ')) where = folder
        if (one === 'pwd') return [`sftp> pwd`, `Remote working directory: ${where}`]
        if (one.startsWith('ls ')) return [`sftp> ${one}`, 'lrwxrwxrwx    ? 1000     1000            5 Nov 26 10:00 only/c/.clock']
        return [`sftp> ${one}`]
      })
      return `${answers.join('\n')}\n`
    },
  })
  return { ...box, said }
}

/** Links in the home, from before there was a directory outside of it. */
const OLD = ['2026-11-24', '2026-11-25'].map((day) => ({
  link: `/home/pi/.local/state/nix-lan/only/c/${day}`,
  path: path('nix-lan-only-c'),
}))

/** A test that is run at noon of the day that sftpBox() tells: sftp's listings name no year. */
function thatDay(name: string, act: () => Promise<void>): void {
  test(name, async () => {
    const { now } = Date
    Date.now = () => Date.parse('2026-11-26T12:00:00Z')
    try {
      await act()
    } finally {
      Date.now = now
    }
  })
}

thatDay('by sftp: what came within the last hour is not pinned, the rest is; then it waits for the disk', async () => {
  const now = Date.parse('2026-11-26T10:00:00Z') / 1000
  const waited: number[] = []
  const wait = async (milliseconds: number): Promise<void> => void waited.push(milliseconds)
  const box = sftpBox(now - 1800)
  const done = await pin(box, { ...WISH, paths: [path('new'), path('old')] }, wait)
  assert.equal([done.early, waited], [[path('new')], [60_000]])
  const place = ['-cd .local/state/nix-lan', '-cd /nix/var/nix/gcroots/nix-lan-kept/pi', 'pwd']
  const fresh = `only/c/.new.${process.pid}`
  const put = [`-rm ${fresh}`, `symlink ${path('nix-lan-only-c')} ${fresh}`, `rename ${fresh} only/c/${done.date}`]
  assert.equal(box.said.slice(-6), [...place, ...put])
  assert.equal((await pin(sftpBox(now - 7200), { ...WISH, paths: [path('new')] }, wait)).early, [])
  const young = sftpBox(now - 60)
  assert.equal((await pin(young, { ...WISH, paths: [path('new')] }, wait)).early, [path('new')])
  assert.not(
    young.said.some((one) => one.startsWith('symlink /nix')),
    'there is nothing to pin',
  )
})

thatDay('by sftp, with a directory outside of the home: what is in the home moves there, and is removed last', async () => {
  const folder = '/nix/var/nix/gcroots/nix-lan-kept/pi'
  const box = sftpBox(0, folder)
  const { links } = await prepare(box, 'only', 'c')
  assert.equal([...links.keys()].sort(), ['2026-11-24', '2026-11-25', '2026-11-26'])
  assert.equal(
    box.said.slice(-4),
    ['2026-11-24', '2026-11-25'].flatMap((day) => [
      `symlink ${path('nix-lan-only-c')} ${folder}/only/c/${day}`,
      `-rm .local/state/nix-lan/only/c/${day}`,
    ]),
  )
  const nowhere = sftpBox(0, '/home/pi')
  const outcome = await prepare(nowhere, 'only', 'c').catch((error: Error) => error.message)
  assert.match(String(outcome), "sftp can't create .local/state/nix-lan in /home/pi")
})

/** The mounts that matter of a Debian 12: the root, and the home where a row says so. */
const HOME: HomeFacts = {
  user: 'pi',
  shell: true,
  home: '/home/pi',
  outside: false,
  left: 0,
  mounts: ['/dev/sda1 / ext4 rw,relatime,errors=remount-ro 0 0'],
  fstab: ['# <file system> <mount point> <type>', '/dev/sda1 / ext4 errors=remount-ro 0 1'],
  homed: false,
  fscrypt: false,
}
const at = (line: string, fstab = ''): Partial<HomeFacts> => ({ mounts: [...HOME.mounts, line], fstab: [...HOME.fstab, fstab] })
const LUKS = '/dev/mapper/_dev_sda2 /home/pi ext4 rw,relatime 0 0'
const AWAY: [string, Partial<HomeFacts>, RegExp | undefined][] = [
  ['on the root', {}, undefined],
  ['a box that says nothing', { mounts: [], fstab: [] }, undefined],
  ['ecryptfs', at('/home/.ecryptfs/pi/.Private /home/pi ecryptfs rw,nosuid,nodev,relatime 0 0'), /ecryptfs/],
  ['a mount beside it', at('/home/.ecryptfs/p/.Private /home/p ecryptfs rw 0 0'), undefined],
  ['gocryptfs', at('/home/pi.cipher /home/pi fuse.gocryptfs rw,nosuid,nodev 0 0'), /by fuse\.gocryptfs, and not by/],
  ['pam_mount', at(LUKS), /on \/dev\/mapper\/_dev_sda2/],
  ['pam_mount, in fstab, but not at boot', at(LUKS, '/dev/mapper/_dev_sda2 /home/pi ext4 noauto,user 0 0'), /\/dev\/mapper/],
  ['LVM, mounted at boot', at('/dev/mapper/vg-pi /home/pi ext4 rw 0 0', '/dev/mapper/vg-pi /home/pi ext4 defaults 0 2'), undefined],
  ['all homes on LUKS', at('/dev/mapper/home /home ext4 rw 0 0'), undefined],
  ['ZFS', at('rpool/home/pi /home/pi zfs rw 0 0'), undefined],
  ['systemd-homed', { homed: true }, /systemd-homed/],
  ['fscrypt', { fscrypt: true }, /fscrypt/],
]
for (const [what, facts, expected] of AWAY)
  test(`a home that isn’t always there: ${what}`, () => {
    const why = whyAway({ ...HOME, ...facts })
    if (expected) assert.match(why ?? '', expected)
    else assert.is(why, undefined)
  })

test('the time of a link as sftp shows it', () => {
  const now = Date.parse('2026-01-02T00:00:00Z')
  const line = (time: string): string =>
    `sftp> symlink clock d/.clock\nlrwxrwxrwx    ? 0        0            5 ${time} d/.clock\nsftp> rm d/.clock\n`
  const times: [string, string | undefined][] = [
    ['Jan  1 23:06', '2026-01-01T23:06:00.000Z'],
    ['Dec 31 23:06', '2025-12-31T23:06:00.000Z'],
    ['Nov 26  2031', '2031-11-26T00:00:00.000Z'],
    ['Xxx 26 10:00', undefined],
    ['26.11. 10:00', undefined],
  ]
  for (const [text, expected] of times) {
    const found = timeOf(line(text), 'd/.clock', now)
    assert.is(found === undefined ? undefined : new Date(found).toISOString(), expected, text)
  }
})

// ---- what the daily look finds

const DAY = 86_400_000
const NOW = Date.parse('2026-11-26T10:00:00Z')
const daysAgo = (days: number): string => new Date(NOW - days * DAY).toISOString().slice(0, 10)

/** Links of so many days ago with these paths; `here`: path → [days ago, built here]. */
function holdings(links: [kind: 'kept' | 'only', days: number, names: string[]][], here: Record<string, [number, boolean]>): Holdings {
  return {
    links: links.map(([kind, days], at) => ({ kind, client: 'c', day: daysAgo(days), link: `/${at}`, manifest: path('nix-lan-kept-c') })),
    contents: new Map(links.map(([, , names], at) => [`/${at}`, new Set(names.map(path))])),
    sizes: new Map(links.flatMap(([, , names]) => names.map((name): [string, { size: number }] => [path(name), { size: 100 }]))),
    here: new Map(
      Object.entries(here).map(([name, [days, ultimate]]) => [path(name), { registered: Math.floor((NOW - days * DAY) / 1000), ultimate }]),
    ),
  }
}

test('what leaves within a week, and how much of it is no longer here', () => {
  const some = holdings(
    [
      ['kept', 58, ['a', 'b', 'kept-again', 'for-good']],
      ['kept', 3, ['kept-again', 'c']],
      ['only', 70, ['for-good']],
    ],
    { a: [58, true] },
  )
  assert.equal(leavingIn(some, 60, NOW), { day: '2026-11-29', paths: 2, bytes: 200, gone: { paths: 1, bytes: 100 } })
  assert.equal([leavingIn(some, 90, NOW), leavingIn(some, null, NOW)], [null, null])
  assert.equal(keptIn(some), { kept: { paths: 5, bytes: 500 }, only: { paths: 1, bytes: 100 } })
})

test('fetched again: registered after the last day it is kept for, and not built here', () => {
  const some = holdings(
    [
      ['kept', 30, ['fetched', 'built', 'since', 'gone', 'newer']],
      ['kept', 1, ['newer']],
    ],
    { fetched: [10, false], built: [10, true], since: [31, false], newer: [10, false] },
  )
  assert.equal(fetchedAgain(some), [path('fetched')])
})

const inFolder = (use: (directory: string) => void): void => {
  const directory = mkdtempSync(`${tmpdir()}/nix-lan-notes-`)
  try {
    use(directory)
  } finally {
    rmSync(directory, { recursive: true })
  }
}

test('what was uploaded is owed for as long as it is kept; what was forgotten is not, until it is wanted again', () =>
  inFolder((directory) => {
    const name = (letter: string): string => `/nix/store/${letter.repeat(32)}-x`
    noteGiven(directory, 'rpi', [name('a'), name('b')], NOW - 61 * DAY)
    noteGiven(directory, 'rpi', [name('b'), name('c'), name('d')], NOW - 5 * DAY)
    noteForgotten(directory, 'rpi', [name('d')])
    const owed = (keep: number | null): string[] =>
      pruneGiven(directory, 'rpi', keep, NOW)
        .map((one) => one.path)
        .sort()
    assert.equal(owed(null), [name('a'), name('b'), name('c')])
    assert.equal(owed(60), [name('b'), name('c')])
    assert.equal(owed(null), [name('b'), name('c')], 'pruned')
    assert.equal(readForgotten(directory, 'rpi'), [name('d')])
    unforget(directory, 'rpi', [name('d')])
    assert.equal([readForgotten(directory, 'rpi'), readForgotten(undefined, 'rpi')], [[], []])
  }))

test('a sample: so many, each once, none favoured', () => {
  const all = Array.from({ length: 100 }, (_, n) => n)
  const some = sampleOf(all, 10)
  assert.equal([some.length, new Set(some).size, sampleOf(all, 1000).length], [10, 10, 100])
  assert.equal(
    sampleOf([1, 2, 3], 2, () => 0.99),
    [3, 1],
  )
})

test('a look survives on disk; nonsense there is none', () =>
  inFolder((directory) => {
    const look = {
      at: NOW,
      sample: { asked: 10, there: 9 },
      kept: { paths: 5, bytes: 500 },
      only: { paths: 1, bytes: 100 },
      leaving: { day: '2026-11-29', paths: 2, bytes: 200, gone: { paths: 1, bytes: 100 } },
      disk: { total: 1000, free: 10 },
    }
    writeBoxLook(directory, 'rpi', look)
    assert.equal(readBoxLook(directory, 'rpi'), look)
    assert.equal(
      wordsOf(look).map(({ text }) => text),
      [
        '5 paths, 500 B; for good 1 path, 100 B, which nix-lan gc deleted here',
        'a sample of 10 uploaded paths: 1 gone',
        'its disk is 99 % full, 10 B are free',
        'from 2026-11-29 on it lets go of 2 paths, 200 B; 1 path, 100 B of that is no longer here',
      ],
    )
    for (const bad of [
      { ...look, at: -1 },
      { ...look, sample: { asked: 1, there: 2 } },
      { ...look, leaving: { ...look.leaving, day: '\u001b[2J' } },
      null,
      5,
    ]) {
      writeBoxLook(directory, 'rpi', bad as unknown as typeof look)
      assert.is(readBoxLook(directory, 'rpi'), undefined)
    }
  }))

test('a manifest says to people what it is', () => {
  assert.is(manifestText('kept', 'c', '2026-11-26', ['/b', '/a']), 'Kept here by nix-lan: uploaded by c, 2026-11-26\n/a\n/b\n')
})

test('that nothing is kept is noted until something is, with what isn’t', () => {
  const directory = `${mkdtempSync(`${tmpdir()}/nix-lan-kept-`)}/state`
  try {
    assert.is(notKept(directory, 'rpi'), undefined)
    const paths = [`/nix/store/${'a'.repeat(32)}-one`, `/nix/store/${'b'.repeat(32)}-two`]
    noteKept(directory, 'rpi', { why: 'it runs\nno commands', paths: [...paths, ...paths] })
    assert.equal([notKept(directory, 'rpi'), notKept(directory, 'nas')], ['it runs no commands', undefined])
    assert.equal([unkeptPaths(directory, 'rpi'), unkeptPaths(directory, 'nas')], [paths, []])
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
