// What nix-lan gc decides: what a box could give back, what goes and what stays, and what happens
// when a step fails.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { parseSize, parseSpan } from '../../scripts/cli/amounts.ts'
import { Away } from '../../scripts/cli/errors.ts'
import { collect, type Hands, type Keeper } from '../../scripts/gc/collect.ts'
import { type Doubt, doubts, doubtsOf, type Local } from '../../scripts/gc/confirm.ts'
import { isInForce, neverFetched } from '../../scripts/gc/facts.ts'
import { parseNarInfo } from '../../scripts/gc/narinfo.ts'
import { type Facts, planOf, without } from '../../scripts/gc/plan.ts'
import { letGo, weigh } from '../../scripts/gc/roots.ts'
import { planText, rootsText } from '../../scripts/gc/screen.ts'
import { readKeys } from '../../scripts/nix/signature.ts'
import { type Daemon, Refused } from '../../scripts/protocol/daemon-ops.ts'

const test = suite('gc')

const path = (name: string): string => `/nix/store/${'0'.repeat(32)}-${name}`

/** A path of 100 bytes, with what it refers to. */
function local(name: string, references: string[] = [], more: Partial<Local> = {}): Local {
  return {
    path: path(name),
    deriver: '',
    hash: '00'.repeat(32),
    references: references.map(path),
    registered: 1000,
    size: 100,
    ultimate: false,
    signatures: [],
    contentAddress: '',
    ...more,
  }
}

const mapOf = (...all: Local[]): Map<string, Local> => new Map(all.map((one) => [one.path, one]))

function facts(all: Local[], more: Partial<Facts> = {}): Facts {
  return {
    dead: mapOf(...all),
    doubts: new Map(),
    notFetched: new Set(),
    keepOutputs: false,
    keepDerivations: true,
    derivers: new Map(),
    ...more,
  }
}

const names = (list: readonly { path: string }[]): string[] => list.map((one) => one.path.slice(44))
const goes = (plan: { units: Local[][] }): string[][] => plan.units.map(names)
const stays = (plan: { stays: Map<string, string> }): Record<string, string> =>
  Object.fromEntries([...plan.stays].map(([one, reason]) => [one.slice(44), reason]))
const against = (...pairs: [string, Doubt][]): Map<string, Doubt> => new Map(pairs.map(([name, doubt]) => [path(name), doubt]))

test('what is noted as damaged on a box can not be had back from it, nor what refers to it', async () => {
  const here = mapOf(local('lib', [], { contentAddress: '' }), local('app', ['lib']), local('other'))
  const isDamaged = (one: string): boolean => one !== path('app')
  const doubted = await doubtsOf(here, mapOf(...here.values()), readKeys([]), isDamaged)
  assert.is(doubted.get(path('lib')), 'damaged')
  assert.is((await doubtsOf(here, new Map(), readKeys([]), isDamaged)).get(path('lib')), 'missing')
  const first = new Map([[path('lib'), 'damaged' as const]])
  assert.equal(doubts(here, [first]), against(['lib', 'damaged'], ['app', 'closure']))
  assert.equal(doubts(here, [first, new Map()]), new Map(), 'another box has it')
})

// ---- what goes

test('a path goes only after what refers to it', () => {
  const plan = planOf(facts([local('lib'), local('app', ['lib'])]), {})
  assert.equal(goes(plan).flat().sort(), ['app', 'lib'])
  const first = goes(plan)[0] ?? []
  assert.ok(first.includes('app'), 'never lib without app')
})

test('what refers to it stays: so does it', () => {
  const plan = planOf(facts([local('lib'), local('app', ['lib']), local('top', ['app'])], { doubts: against(['top', 'missing']) }), {})
  assert.equal(goes(plan), [])
  assert.equal(stays(plan), { top: 'missing', app: 'needed', lib: 'needed' })
})

test('what it refers to may stay', () => {
  const plan = planOf(facts([local('lib'), local('app', ['lib'])], { doubts: against(['lib', 'unsigned']) }), {})
  assert.equal(goes(plan), [['app']])
})

const OUT = local('out', [], { deriver: path('x.drv') })
const DRV = local('x.drv')
const DERIVERS = new Map([[OUT.path, [DRV.path]]])
const RULES: [boolean, boolean, Doubt | undefined, Doubt | undefined, string[]][] = [
  // keep-outputs, keep-derivations, against the output, against the derivation, what goes
  [false, false, undefined, 'missing', ['out']],
  [false, false, 'missing', undefined, ['x.drv']],
  [false, true, undefined, 'missing', ['out']],
  [false, true, 'missing', undefined, []],
  [true, false, undefined, 'missing', []],
  [true, false, 'missing', undefined, ['x.drv']],
  [true, true, undefined, 'missing', []],
  [true, true, 'missing', undefined, []],
  [true, true, undefined, undefined, ['out', 'x.drv']],
]
for (const [keepOutputs, keepDerivations, output, derivation, expected] of RULES) {
  const what = `keep-outputs ${keepOutputs}, keep-derivations ${keepDerivations}, output ${output ?? 'fine'}, derivation ${derivation ?? 'fine'}`
  test(`${what}: ${expected.join(' ') || 'nothing'}`, () => {
    const found = new Map<string, Doubt>()
    if (output) found.set(OUT.path, output)
    if (derivation) found.set(DRV.path, derivation)
    const plan = planOf(facts([OUT, DRV], { doubts: found, keepOutputs, keepDerivations, derivers: DERIVERS }), {})
    assert.equal(goes(plan).flat().sort(), expected)
  })
}

test('keep-outputs: a derivation that is alive keeps its output', () => {
  const plan = planOf(facts([OUT], { keepOutputs: true, derivers: DERIVERS }), {})
  assert.equal(stays(plan), { out: 'needed' })
})

test('the oldest first, of the same time the largest; limits are those of what is selected', () => {
  const all = [
    local('new', [], { registered: 9 }),
    local('small', [], { registered: 1, size: 1 }),
    local('vast', [], { registered: 1, size: 50 }),
  ]
  assert.equal(goes(planOf(facts(all), {})).flat(), ['vast', 'small', 'new'])
  assert.equal(goes(planOf(facts(all), { enough: 50 })).flat(), ['vast'])
  assert.equal(goes(planOf(facts(all), { enough: 0 })), [])
  const most = planOf(facts(all), { most: 60 })
  assert.equal([goes(most).flat(), stays(most)], [['vast', 'small'], { new: 'limit' }])
  assert.equal(stays(planOf(facts(all), { before: 9 })), { new: 'recent' })
})

test('what is never fetched stays, unless it is wanted; then nobody need have it', () => {
  const cheap = facts([local('cheap')], { notFetched: new Set([path('cheap')]), doubts: against(['cheap', 'missing']) })
  assert.equal(stays(planOf(cheap, {})), { cheap: 'not-fetched' })
  assert.equal(goes(planOf(cheap, { cheap: true })), [['cheap']])
})

test('never fetched: what a derivation says of itself', () => {
  assert.ok(neverFetched('Derive([],[],[],"x","/bin/sh",[],[("allowSubstitutes",""),("name","x")])'))
  assert.ok(neverFetched('Derive([],[],[],"x","/bin/sh",[],[("__json","{\\"a\\":\\"b\\",\\"allowSubstitutes\\":false}")])'))
  assert.not(neverFetched('Derive([],[],[],"x","/bin/sh",[],[("allowSubstitutes","1")])'))
  assert.not(neverFetched('Derive([],[],[],"x","/bin/sh",[],[("text","\\"allowSubstitutes\\":false")])'))
  assert.not(neverFetched(''))
})

test('one that turns out to be alive takes along what has to go after it, and whole units', () => {
  const all = [local('lib'), local('app', ['lib']), local('other')]
  const some = facts(all)
  assert.equal(without([[all[1] as Local], [all[0] as Local], [all[2] as Local]], [path('app')], some).map(names), [['other']])
})

// ---- what a box confirms

const SIGNED = local('b', [], {
  path: '/nix/store/yygxd1z4l7zi2pvrmz9nnabrv3p5g0an-b',
  hash: '54f7d3893bf2c936d0fa218a106f1dd4685a53a7a46bdbe8be22376b9a5d5525',
  references: ['/nix/store/znvscj76jsnvyjqabi70np3mf4lm3gy4-a'],
  size: 168,
})
const TEXT = local('a', [], { path: SIGNED.references[0] as string, hash: '11'.repeat(32) })
const THERE = {
  ...SIGNED,
  signatures: ['laptop-1:1xTPDkj2jSs4W4O5ALv0G/056/6MjUCH37lQ96uJD+cfPrtibLR/f7yMPBjLN6b7mMQNXAqVDq6DZJY/d/jJDA=='],
}
const TEXT_THERE = { ...TEXT, contentAddress: 'text:sha256:1lf969yddshzhld7sr1vbagr07bnygg99lgl6gk5kxcnp4z9wbcq' }
const KEYS = readKeys(['laptop-1:g22jPVKtrGunyhIifRNhD31hFAn3aVsbHL/px1seqW8='])
const HERE = mapOf(SIGNED, TEXT)
const confirmed = async (here: Map<string, Local>, ...offers: Map<string, Local>[]): Promise<Map<string, Doubt>> =>
  doubts(here, await Promise.all(offers.map((offer) => doubtsOf(here, offer, KEYS))))

test('signed, content-addressed, and whole: confirmed', async () =>
  assert.equal(await confirmed(HERE, mapOf(THERE, TEXT_THERE)), new Map()))

const DOUBTS: [string, Local[], Doubt | undefined, Doubt | undefined][] = [
  // what the box says; against the signed one, against what it refers to
  ['nothing', [], 'missing', 'missing'],
  ['not what it refers to', [THERE], 'closure', 'missing'],
  ['only what it refers to', [TEXT_THERE], 'missing', undefined],
  ['another hash', [{ ...THERE, hash: '22'.repeat(32) }, TEXT_THERE], 'different', undefined],
  ['another size', [{ ...THERE, size: 1 }, TEXT_THERE], 'different', undefined],
  ['other references', [{ ...THERE, references: [] }, TEXT_THERE], 'different', undefined],
  ['the same reference twice', [{ ...THERE, references: [TEXT.path, TEXT.path] }, TEXT_THERE], undefined, undefined],
  ['no signature, its word alone', [{ ...THERE, signatures: [], ultimate: true }, TEXT_THERE], 'unsigned', undefined],
  ["somebody else's signature", [{ ...THERE, signatures: ['box-1:AAAA'] }, TEXT_THERE], 'unsigned', undefined],
  [
    'a signature by the key that is trusted, of something else',
    [{ ...THERE, signatures: THERE.signatures.map((one) => one.replace(':1', ':2')) }, TEXT_THERE],
    'unsigned',
    undefined,
  ],
  [
    'a good one among broken ones',
    [{ ...THERE, signatures: ['', 'laptop-1:', 'laptop-1:AAAA', ...THERE.signatures] }, TEXT_THERE],
    undefined,
    undefined,
  ],
  [
    'a content address that isn’t its own',
    [{ ...THERE, signatures: [], contentAddress: TEXT_THERE.contentAddress }, TEXT_THERE],
    'unsigned',
    undefined,
  ],
]
for (const [what, there, signed, text] of DOUBTS) {
  test(`a box that says: ${what}`, async () => {
    const found = await confirmed(HERE, mapOf(...there))
    assert.equal([found.get(SIGNED.path), found.get(TEXT.path)], [signed, text])
  })
}

test('two stores: each gives what it has', async () => {
  assert.equal(await confirmed(HERE, mapOf(THERE), mapOf(TEXT_THERE)), new Map())
  assert.is((await confirmed(HERE, mapOf(TEXT_THERE), mapOf({ ...THERE, size: 1 }))).get(SIGNED.path), 'different')
})

const NARINFO = `StorePath: ${SIGNED.path}
URL: nar/x.nar
NarHash: sha256:09aml9f3wih2fqfpmixaclsdirb87nl617fl1yr87b4azfwx7xqm
NarSize: 168
References: ${(SIGNED.references[0] ?? '').slice(11)}
Sig: ${THERE.signatures[0]}
`

test('a narinfo, and what is none or another path’s', () => {
  const info = parseNarInfo(NARINFO, SIGNED.path)
  assert.equal([info?.hash.length, info?.size, info?.references, info?.signatures], [64, 168, SIGNED.references, THERE.signatures])
  assert.is(parseNarInfo(NARINFO, TEXT.path), undefined)
  for (const bad of [
    '',
    '<html>',
    NARINFO.replace(/NarHash.*/, ''),
    NARINFO.replace('168', '0'),
    NARINFO.replace('168', '1e3x'),
    `${NARINFO}NarSize: 1\n`,
  ])
    assert.is(parseNarInfo(bad, SIGNED.path), undefined)
})

test('a reference that is not known here: not whole', async () => {
  assert.is((await confirmed(mapOf(SIGNED), mapOf(THERE, TEXT_THERE))).get(SIGNED.path), 'closure')
})

test('a store counts as in force only when the daemon takes it from the user, too', () => {
  const settings = (own: string, system: string, trusted = ''): Parameters<typeof isInForce>[0] => ({
    own: new Map([['substituters', own]]),
    system: new Map([
      ['substituters', system],
      ['trusted-substituters', trusted],
    ]),
  })
  const ours = (url: string): boolean => url === 'box'
  assert.ok(isInForce(settings('a box', 'a box'), ours))
  assert.ok(isInForce(settings('a box', 'a', 'box'), ours))
  assert.not(isInForce(settings('a', 'a box'), ours), 'a user’s own list replaces the other')
  assert.not(isInForce(settings('box', 'a'), ours), 'the daemon refuses it')
  const none = settings('box', 'box')
  assert.ok(isInForce({ ...none, own: new Map([...none.own, ['substitute', 'true']]) }, ours))
  assert.not(isInForce({ ...none, own: new Map([...none.own, ['substitute', 'false']]) }, ours), 'nothing is fetched at all')
})

// ---- carrying it out

/**
 * A store that deletes as Nix does, of which some paths are alive, and a box, both of which can
 * fail at any call.
 */
class Stage {
  readonly here: Set<string>
  readonly calls: string[] = []
  alive = new Set<string>()
  /** May not be on the box's disk yet. */
  fresh = new Set<string>()
  boxHas: Set<string>
  failAt: string | undefined
  constructor(all: Local[]) {
    this.here = new Set(all.map((one) => one.path))
    this.boxHas = new Set(this.here)
  }

  call(what: string): void {
    this.calls.push(what)
    if (this.failAt === what) throw new Away(`the box was lost at ${what}`)
  }

  hands(more: Partial<Hands> = {}): Hands {
    const openLocal = async (): Promise<Daemon> =>
      ({
        valid: async (paths: string[]) => new Set(paths.filter((one) => this.here.has(one))),
        delete: async (paths: string[]) => {
          this.call('delete')
          for (const one of paths) {
            if (this.alive.has(one)) throw new Refused(`cannot delete path '${one}' since it is still alive`)
            this.here.delete(one)
          }
        },
        close: () => {},
      }) as unknown as Daemon
    const keeper: Keeper = {
      name: 'box',
      has: () => true,
      open: async () => {
        this.call('ask')
        return {
          valid: async (paths: string[]) => new Set(paths.filter((one) => this.boxHas.has(one))),
          close: () => {},
        } as unknown as Daemon
      },
      pin: async (paths) => {
        this.call('pin')
        const lost = paths.find((one) => !this.boxHas.has(one))
        if (lost !== undefined) throw new Refused(`path '${lost}' is not valid`)
        return paths.filter((one) => this.fresh.has(one))
      },
    }
    return { openLocal, keepers: [keeper], progress: () => {}, enough: () => false, ...more }
  }
}

const THREE = [local('a'), local('b'), local('c')]
const UNITS = THREE.map((one) => [one])

test('pinned, asked once more, then deleted', async () => {
  const stage = new Stage(THREE)
  const done = await collect(UNITS, facts(THREE), stage.hands())
  assert.equal(
    [names(done.deleted), stage.calls],
    [
      ['a', 'b', 'c'],
      ['pin', 'ask', 'delete'],
    ],
  )
})

for (const step of ['pin', 'ask']) {
  test(`the box is lost at the step ${step}: nothing is deleted`, async () => {
    const stage = new Stage(THREE)
    stage.failAt = step
    const done = await collect(UNITS, facts(THREE), stage.hands())
    assert.equal([done.deleted, stage.here.size, done.stopped?.exitCode], [[], 3, 75])
    assert.not(stage.calls.includes('delete'))
  })
}

test('what the box loses before it is pinned stays; the others go', async () => {
  const stage = new Stage(THREE)
  stage.boxHas.delete(path('b'))
  const done = await collect(UNITS, facts(THREE), stage.hands())
  assert.equal([names(done.deleted), done.lost], [['a', 'c'], [path('b')]])
  assert.ok(stage.here.has(path('b')))
})

test('what the box loses although it has pinned it stays', async () => {
  const stage = new Stage(THREE)
  const hands = stage.hands()
  const [keeper] = hands.keepers
  const pin = keeper?.pin
  if (keeper && pin)
    keeper.pin = async (paths) => {
      const early = await pin.call(keeper, paths)
      stage.boxHas.delete(path('a'))
      return early
    }
  const done = await collect(UNITS, facts(THREE), hands)
  assert.equal([names(done.deleted), done.lost], [['b', 'c'], [path('a')]])
})

test('what may not be on the box’s disk yet stays, with what can’t go before it; the others go', async () => {
  const all = [local('lib'), local('app', ['lib']), local('other')]
  const stage = new Stage(all)
  stage.fresh.add(path('app'))
  const done = await collect(planOf(facts(all), {}).units, facts(all), stage.hands())
  assert.equal([names(done.deleted), done.early, done.stopped], [['other'], [path('app')], undefined])
})

test('what is alive by now stays, with what it refers to; the others go', async () => {
  const all = [local('lib'), local('app', ['lib']), local('other')]
  const stage = new Stage(all)
  stage.alive.add(path('app'))
  const done = await collect(planOf(facts(all), {}).units, facts(all), stage.hands())
  assert.equal([names(done.deleted), done.alive.sort()], [['other'], [path('app'), path('lib')]])
  assert.is(done.stopped, undefined)
})

test('what turns out to be alive keeps what it refers to in later parts, too', async () => {
  const all = [local('app', ['lib']), ...Array.from({ length: 6000 }, (_, n) => local(`p${n}`)), local('lib')]
  const stage = new Stage(all)
  stage.alive.add(path('app'))
  const done = await collect(
    all.map((one) => [one]),
    facts(all),
    stage.hands(),
  )
  assert.equal([done.deleted.length, [...stage.here].sort()], [6000, [path('app'), path('lib')]])
})

test('everything is alive: it gives up, and ends', async () => {
  const all = Array.from({ length: 20 }, (_, n) => local(`p${n}`))
  const stage = new Stage(all)
  stage.alive = new Set(stage.here)
  const done = await collect(
    all.map((one) => [one]),
    facts(all),
    stage.hands(),
  )
  assert.equal([done.deleted, done.alive.length, stage.here.size], [[], 20, 20])
  assert.ok(stage.calls.filter((call) => call === 'delete').length < 10)
})

test('enough: the next part stays', async () => {
  const all = Array.from({ length: 10_500 }, (_, n) => local(`p${n}`))
  const stage = new Stage(all)
  let parts = 0
  const enough = (): boolean => parts >= 1
  const done = await collect(
    all.map((one) => [one]),
    facts(all),
    stage.hands({ enough, progress: () => void parts++ }),
  )
  assert.is(done.deleted.length, 5000)
})

// ---- what is shown

test('roots by what each alone keeps', () => {
  const all = mapOf(local('shared'), local('one', ['shared'], { size: 5 }), local('two', ['shared'], { size: 7 }))
  const kept = weigh(
    [
      { link: '/a', path: path('one') },
      { link: '/b', path: path('two') },
      { link: '/c', path: path('two') },
    ],
    all,
    5,
  )
  assert.equal(
    kept.map(({ links, alone, closure }) => [links, alone, closure]),
    [
      [['/b', '/c'], 7, 107],
      [['/a'], 5, 105],
    ],
  )
})

const LINKS: [string, boolean, boolean, string][] = [
  ['/home/alice/my project/result', true, false, "rm '/home/alice/my project/result'"],
  ['/root/result', false, false, 'sudo rm /root/result'],
  ['/nix/var/nix/profiles/system-12-link', false, false, 'sudo nix-env --profile /nix/var/nix/profiles/system --delete-generations 12'],
  ['/nix/var/nix/profiles/system-13-link', false, true, 'the present generation of /nix/var/nix/profiles/system'],
  ['/run/current-system', false, false, 'the system that runs'],
  ['{censored}', false, false, 'in use by a process'],
  ['/proc/12/exe', false, false, 'in use by a process'],
  ['/nix/var/nix/gcroots/nix-lan/queue/rpi/x', true, false, 'waits to be uploaded: nix-lan queue upload'],
]
for (const [link, own, current, expected] of LINKS)
  test(`the way to let go of ${link}`, () => assert.is(letGo(link, { own, current }), expected))

test('the name of a root, which another user has chosen, moves nothing on the terminal', () => {
  const link = '/home/bob/\u001b[2Jx\ny'
  const text = rootsText([{ path: path('a'), links: [link], closure: 2, alone: 1 }], (one) => letGo(one, { own: false, current: false }))
  assert.match(text, "sudo rm '/home/bob/")
  // biome-ignore lint/suspicious/noControlCharactersInRegex: what must not be there
  assert.not.match(text, /\u001b|x\ny/)
})

const UNWANTED = `stays  1 path      1 B  only here, and never uploaded: derivations or exclude in config.toml\n         ${path('c.drv')}\n`

test('the screen', () => {
  const all = [local('a', [], { size: 3 * 2 ** 30 }), local('b', [], { size: 2 ** 20 }), local('c.drv', [], { size: 1 })]
  const some = facts(all, { doubts: against(['b', 'missing'], ['c.drv', 'missing']), wanted: (one) => !one.endsWith('.drv') })
  assert.is(
    planText(planOf(some, {}), some.dead, ['rpi'], 1000 + 86_400 * 3),
    `goes   1 path  3.0 GiB  rpi would give them back; the oldest from 3d ago\nstays  1 path  1.0 MiB  only here; gc --push uploads them first\n         ${path('b')}\n${UNWANTED}`,
  )
})

test('sizes and ages', () => {
  assert.equal(['5G', '1.5 GiB', '10', '3kB', '1T'].map(parseSize), [5 * 2 ** 30, 1.5 * 2 ** 30, 10, 3072, 2 ** 40])
  assert.equal(['', '-1', '5X', 'G', '1e9', '9999999999999999G'].map(parseSize), new Array(6).fill(undefined))
  assert.equal(['7d', '12h', '90m', '2w'].map(parseSpan), [604_800, 43_200, 5400, 1_209_600])
  assert.equal(['7', '', 'd', '-1d', '1y'].map(parseSpan), new Array(5).fill(undefined))
})

test.run()
