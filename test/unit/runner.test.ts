// Which test files a command line means.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { chosenFiles } from '../lib/runner.ts'

const test = suite('test runner')
const FILES = ['test/dist/run.test.ts', 'test/nix/run.test.ts', 'test/nix/units.test.ts', 'test/unit/a.test.ts', 'test/unit/deep/b.test.ts']
const FOLDERS = ['test', 'test/dist', 'test/nix', 'test/unit', 'test/unit/deep']

const MEANS: [words: string[], files: number[]][] = [
  [[], [0, 1, 2, 3, 4]],
  [['unit'], [3, 4]],
  [['test/unit'], [3, 4]],
  [['test/unit/'], [3, 4]],
  [['unit/deep'], [4]],
  [['units'], [2]],
  [['unit/a'], [3]],
  [
    ['run', 'unit/a'],
    [0, 1, 3],
  ],
  [['nix/run'], [1]],
  [['frob'], []],
]
for (const [words, files] of MEANS) {
  test(`npm test -- ${words.join(' ')}`, () => {
    assert.equal(
      chosenFiles(FILES, words, (path) => FOLDERS.includes(path)),
      files.map((at) => FILES[at]),
    )
  })
}

test.run()
