// The pure part of post-build-hook: what is a store path, what a .drv file says, what is done about
// a directory.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { isStorePath } from '../../scripts/nix/store-path.ts'
import { planDirectory } from '../../scripts/queue/directories.ts'
import { outputsOf, outputsPrinted } from '../../scripts/queue/outputs.ts'

const STORE = '/nix/store'
const HASH = '0123456789abcdfghijklmnpqrsvwxyz'
const at = (name: string) => `${STORE}/${HASH}-${name}`

const paths = suite('store paths')

for (const good of [at('a'), at('gtk+-3.0_x?y=z'), at('.hidden'), at('x'.repeat(211)), at('a-b')]) {
  paths(`${good.slice(0, 70)} is one`, () => assert.is(isStorePath(good, STORE), true))
}
const BAD = [
  '',
  STORE,
  `${STORE}/`,
  `${STORE}/${HASH}`,
  `${STORE}/${HASH}-`,
  at('x'.repeat(212)),
  at('a/b'),
  at('a b'),
  at('a\n'),
  at('ä'),
  at('a*'),
  `/nix/stores/${HASH}-a`,
  `${STORE}//${HASH}-a`,
  `${STORE}/../${HASH}-a`,
  `${STORE}/${HASH.replace('a', 'e')}-a`,
  `${STORE}/${HASH.toUpperCase()}-a`,
  `${STORE}/${HASH.slice(1)}-a`,
  ` ${at('a')}`,
]
for (const bad of BAD) paths(`${JSON.stringify(bad).slice(0, 70)} is none`, () => assert.is(isStorePath(bad, STORE), false))
paths.run()

const drvs = suite('outputs of a .drv file')
const REST = ',[],[],"x86_64-linux","/bin/sh",[],[("out","x")])'
const DRVS: [name: string, text: string, outputs: string[] | undefined][] = [
  ['one', `Derive([("out","${at('a')}","","")]${REST}`, [at('a')]],
  ['several', `Derive([("dev","${at('a-dev')}","",""),("out","${at('a')}","","")]${REST}`, [at('a-dev'), at('a')]],
  ['a fixed output', `Derive([("out","${at('a')}","r:sha256","0f")]${REST}`, [at('a')]],
  ['a dynamic derivation', `DrvWithVersion("xp-dyn-drv",[("out","${at('a')}","","")]${REST}`, [at('a')]],
  ['an output that depends on its content', 'Derive([("out","","r:sha256","")],[],[])', undefined],
  ['one of each', `Derive([("a","${at('a')}","",""),("b","","r:sha256","")],[],[])`, undefined],
  ['no outputs', 'Derive([],[],[])', undefined],
  ['a path with an escape', 'Derive([("out","/nix/store/\\"","","")],[],[])', undefined],
  ['cut off', `Derive([("out","${at('a')}","",""),("de`, undefined],
  ['another file', '#!/bin/sh\n', undefined],
  ['an empty file', '', undefined],
]
for (const [name, text, outputs] of DRVS) drvs(name, () => assert.equal(outputsOf(text, STORE), outputs))

drvs('what nix-store printed', () => {
  assert.equal(outputsPrinted(`${at('a')}\nwarning: x\n${at('b')}\n\n`, STORE), [at('a'), at('b')])
})
drvs.run()

const plans = suite('directories of the queue')
plans('are made, left alone, given to their owner when root made them, or complained about', () => {
  assert.is(planDirectory('/q', { kind: 'missing', uid: 0 }, 1000, 0), 'make')
  assert.is(planDirectory('/q', { kind: 'directory', uid: 1000 }, 1000, 0), 'nothing')
  assert.is(planDirectory('/q', { kind: 'directory', uid: 0 }, 1000, 0), 'give')
  assert.match(JSON.stringify(planDirectory('/q', { kind: 'directory', uid: 7 }, 1000, 0)), 'belongs to user 7, not 1000')
  assert.match(JSON.stringify(planDirectory('/q', { kind: 'directory', uid: 0 }, 1000, 1000)), 'belongs to user 0')
  assert.match(JSON.stringify(planDirectory('/q', { kind: 'other', uid: 1000 }, 1000, 0)), 'is not a directory')
})
plans.run()
