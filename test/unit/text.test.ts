// Text for people: numbers and spans of time, words of a shell, and somebody else's text on its way
// to a terminal.
import { execFileSync } from 'node:child_process'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { age, bytes, count, harmless, inSeconds, oneLine, quote, shellWord, toJson, wrapped } from '../../scripts/cli/text.ts'
import { explain, explainJson } from '../../scripts/wrapper/explain.ts'

const test = suite('text')

test('spans of time', () => {
  const ages: [number, string][] = [
    [-5, '0s'],
    [99_000, '99s'],
    [100_000, '2m'],
    [5_999_000, '100m'],
    [6_000_000, '2h'],
    [172_800_000, '2d'],
  ]
  for (const [ms, text] of ages) assert.is(age(ms), text)
  assert.equal([2000, 500, 1234, 60000].map(inSeconds), ['2 s', '0.5 s', '1.23 s', '60 s'])
})

test('sizes', () => {
  const sizes: [number, string][] = [
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1.0 KiB'],
    [1.5 * 1024 ** 3, '1.5 GiB'],
    [5 * 1024 ** 4, '5.0 TiB'],
  ]
  for (const [number, text] of sizes) assert.is(bytes(number), text)
})

test('words and lines', () => {
  assert.equal([count(1, 'path'), count(2, 'path'), count(2, 'file and link')], ['1 path', '2 paths', '2 files and links'])
  assert.equal(wrapped('a bb ccc dddddd e', 4), ['a bb', 'ccc', 'dddddd', 'e'])
})

test('a word of a shell means exactly the text', () => {
  const words = ['', 'plain', "it's", 'a b', '$(id)', '`id`', '\\', 'a\nb', '*', '-n', 'ä', '"']
  for (const form of [quote, shellWord]) {
    const script = `printf '%s\\0' ${words.map(form).join(' ')}`
    assert.equal(execFileSync('sh', ['-c', script], { encoding: 'utf8' }).split('\0').slice(0, -1), words)
  }
  assert.is(shellWord('/nix/store/x-1.0'), '/nix/store/x-1.0')
  assert.throws(() => quote('\0'), 'NUL in')
})

/**
 * Everything that a terminal obeys, but for line ends and tabs: C0, DEL, C1 (ECMA-48), and
 * Unicode's bidi controls and line breaks.
 */
const OBEYED = [
  ...Array.from({ length: 32 }, (_, code) => code).filter((code) => code !== 9 && code !== 10),
  ...Array.from({ length: 33 }, (_, at) => 0x7f + at),
  ...[0x61c, 0x200e, 0x200f, 0x2028, 0x2029, 0x202a, 0x202b, 0x202c, 0x202d, 0x202e, 0x2066, 0x2067, 0x2068, 0x2069],
].map((code) => String.fromCharCode(code))

test('a terminal obeys nothing of what somebody else wrote', () => {
  for (const char of OBEYED) {
    const what = char.charCodeAt(0).toString(16)
    assert.is(harmless(`a${char}b`), 'a?b', what)
    assert.match(oneLine(`a${char}b`), /^a[? ]b$/, what)
    const json = toJson({ [`k${char}`]: [`a${char}b\nc`] }, 2)
    assert.not.ok(json.includes(char), what)
    assert.equal(JSON.parse(json), { [`k${char}`]: [`a${char}b\nc`] }, what)
  }
  const fine = 'ä 日本 🙂 a\tb\nc'
  assert.equal([harmless(fine), oneLine('a\r\n\tb')], [fine, 'a b'])
  assert.is(toJson({ a: [fine] }, 2), JSON.stringify({ a: [fine] }, null, 2))
})

test("nix-lan-run --explain shows a cache's words, and a terminal obeys none of them", () => {
  const hostile = `HTTP 500 \u001b[2J\u009b31m\u202e${OBEYED.join('')}`
  const usable = { ok: false, reason: hostile, ms: 1 } as const
  const decision = { name: 'pi', action: 'leave out', url: 'http://pi', usable, reason: hostile } as const
  const plan = { decisions: [decision], dropped: [{ url: 'http://a', where: 'nix.conf', reason: hostile }], setting: undefined }
  const story = { command: 'nix', found: { ok: true, program: '/bin/nix' }, plan, notes: [hostile] } as unknown as Parameters<
    typeof explain
  >[0]
  for (const text of [explain(story), explainJson(story)]) {
    for (const char of OBEYED) assert.not.ok(text.includes(char), char.charCodeAt(0).toString(16))
    assert.match(text, /HTTP 500/)
  }
})

test.run()
