// Command lines: what is read from them, and what is refused with which words.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { nearest, parse } from '../../scripts/cli/command.ts'
import { UsageError } from '../../scripts/cli/errors.ts'

const OPTIONS = { boolean: ['quiet', 'json', 'no-sign'], string: ['wait'], alias: { q: 'quiet', w: 'wait', j: 'json' } }

// [arguments, words, flags given, --wait]
const GOOD: [string[], string[], string[], string?][] = [
  [[], [], []],
  [['a', 'b'], ['a', 'b'], []],
  [['--quiet', 'a'], ['a'], ['quiet']],
  [['a', '--quiet', 'b'], ['a', 'b'], ['quiet']],
  [['a', 'b', '--quiet'], ['a', 'b'], ['quiet']],
  [['--quiet', '--quiet'], [], ['quiet']],
  [['--quiet', '007'], ['007'], ['quiet']],
  [['--json', '0x10', '1e3'], ['0x10', '1e3'], ['json']],
  [['--quiet', 'false', 'true'], ['false', 'true'], ['quiet']],
  [['--quiet', ''], [''], ['quiet']],
  [['--wait', '5', 'a'], ['a'], [], '5'],
  [['--wait=5', 'a'], ['a'], [], '5'],
  [['--wait', '007'], [], [], '007'],
  [['--wait', '0'], [], [], '0'],
  [['--wait', 'false'], [], [], 'false'],
  [['--wait', '-5'], [], [], '-5'],
  [['--wait=-5'], [], [], '-5'],
  [['--wait=--quiet'], [], [], '--quiet'],
  [['--wait=a=b'], [], [], 'a=b'],
  [['--wait', 'a\nb'], [], [], 'a\nb'],
  [['--wait', '-'], [], [], '-'],
  [['-q', 'a'], ['a'], ['quiet']],
  [['-qj', 'a'], ['a'], ['quiet', 'json']],
  [['-w', '5'], [], [], '5'],
  [['-w5'], [], [], '5'],
  [['-w=5'], [], [], '5'],
  [['-qw5'], [], ['quiet'], '5'],
  [['-'], ['-'], []],
  [['a', '--', '--quiet', '-x', '--'], ['a', '--quiet', '-x', '--'], []],
  [['--', '5'], ['5'], []],
  [['-h'], [], ['help']],
  [['--version'], [], ['version']],
  [['--no-sign', 'a'], ['a'], ['no-sign']],
]

const BAD: [string[], string][] = [
  [['--quite'], 'unknown option --quite; did you mean --quiet?'],
  [['--nonsense'], 'unknown option --nonsense; see --help'],
  [['--nonsense=1'], 'unknown option --nonsense; see --help'],
  [['a', '-x'], 'unknown option -x; see --help'],
  [['-qx'], 'unknown option -x; see --help'],
  [['-5'], 'unknown option -5; see --help'],
  [['--q'], 'unknown option --q; see --help'],
  [['---quiet'], 'unknown option ---quiet; did you mean --quiet?'],
  [['--=x'], 'unknown option --; see --help'],
  [['--no-quiet'], 'unknown option --no-quiet; see --help'],
  [['--no-wait'], 'unknown option --no-wait; see --help'],
  [['--constructor'], 'unknown option --constructor; see --help'],
  [['--__proto__=x'], 'unknown option --__proto__; see --help'],
  [['--quiet=1'], '--quiet takes no value; see --help'],
  [['--quiet=false'], '--quiet takes no value; see --help'],
  [['-q=1'], '--quiet takes no value; see --help'],
  [['--wait'], '--wait needs a value; see --help'],
  [['--wait='], '--wait needs a value; see --help'],
  [['--wait', ''], '--wait needs a value; see --help'],
  [['--wait', '--quiet'], '--wait needs a value; see --help'],
  [['--wait', '-q'], '--wait needs a value; see --help'],
  [['-w'], '--wait needs a value; see --help'],
  [['--wait', '--', 'a'], '--wait needs a value; see --help'],
  [['--wait', '1', '--wait', '2'], '--wait is given more than once; see --help'],
]

const test = suite('cli')

for (const [argv, words, flags, wait] of GOOD) {
  test(`reads ${JSON.stringify(argv)}`, () => {
    const parsed = parse(argv, OPTIONS)
    assert.equal(parsed.words, words)
    assert.equal(
      ['quiet', 'json', 'help', 'version', 'wait', 'no-sign', 'sign', 'other'].filter((name) => parsed.flag(name)),
      flags,
    )
    assert.is(parsed.value('wait'), wait)
  })
}

for (const [argv, message] of BAD) {
  test(`refuses ${JSON.stringify(argv)}`, () => {
    assert.throws(
      () => parse(argv, OPTIONS),
      (error: Error) => assert.is(error.message, message) === undefined && error instanceof UsageError && error.exitCode === 2,
    )
  })
}

test('leaves its arguments as they were', () => {
  const argv = ['-qj', '--wait', '5', 'a']
  parse(argv, OPTIONS)
  assert.equal(argv, ['-qj', '--wait', '5', 'a'])
  assert.equal(OPTIONS.boolean, ['quiet', 'json', 'no-sign'])
})

const NEAREST: [string, string[], string?][] = [
  ['hots', ['host', 'port'], 'host'],
  ['prt', ['host', 'port'], 'port'],
  ['port', ['ports', 'port'], 'port'],
  ['url', ['host', 'port']],
  ['x', ['ab', 'xy']],
  ['ab', ['abc', 'xyz'], 'abc'],
  ['', ['a']],
  ['a', []],
]
for (const [word, candidates, found] of NEAREST) {
  test(`nearest to ${JSON.stringify(word)} of ${candidates.join(', ')}: ${found}`, () => assert.is(nearest(word, candidates), found))
}

test.run()
