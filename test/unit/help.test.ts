// The layout of the helps, and what is made from them: what follows it, what doesn't and is
// refused; and that docs/config.md says what is so.
import { readFileSync } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { completions } from '../../build/completions.ts'
import { entriesOf, optionsOf, parseHelp, sectionOf } from '../../build/help.ts'
import { commandPage, markdownPage, pageName, roff } from '../../build/man.ts'
import { parseConfig } from '../../scripts/config/parse.ts'
import type { SshCache } from '../../scripts/config/types.ts'

const test = suite('helps')

const GOOD = `nix-lan frob: frobs

Usage: nix-lan frob [OPTION…] [CACHE…]
       nix-lan frob --all

It frobs, and
frobs:

  .frob 'x' \\ -y

Actions:
  on           on
  off FILE…    off, which takes
               two lines

Options:
  -w, --wait SECONDS  wait
      --json          the answer for scripts, see below
  -h, --help
      --version       show the version

With --json, a list:
  cache  its name

Exit code: 0 done; 2 wrong
usage.

Examples:
  nix-lan frob    frobs
`

test('a help is read', () => {
  const help = parseHelp(GOOD)
  assert.equal([help.name, help.summary], ['nix-lan frob', 'frobs'])
  assert.equal(help.usage, ['nix-lan frob [OPTION…] [CACHE…]', 'nix-lan frob --all'])
  assert.equal(sectionOf(help, '')?.blocks, [{ text: 'It frobs, and frobs:' }, { literal: [".frob 'x' \\ -y"] }])
  assert.equal(entriesOf(help, 'Actions')[1], { term: 'off FILE…', text: 'off, which takes two lines' })
  assert.equal(optionsOf(help), [
    { short: 'w', long: 'wait', value: 'SECONDS', text: 'wait' },
    { short: undefined, long: 'json', value: undefined, text: 'the answer for scripts' },
    { short: 'h', long: 'help', value: undefined, text: 'show the help' },
    { short: undefined, long: 'version', value: undefined, text: 'show the version' },
  ])
  assert.equal(sectionOf(help, 'Exit code')?.blocks, [{ text: '0 done; 2 wrong usage.' }])
  assert.equal(sectionOf(help, 'Examples')?.blocks, [{ literal: ['nix-lan frob    frobs'] }])
})

const BAD: [string, (text: string) => string, RegExp][] = [
  ['no name', (text) => text.replace('nix-lan frob: ', ''), /begins with "NAME: what it is"/],
  ['another usage', (text) => text.replace('Usage: nix-lan frob', 'Usage: nix-lan forb'), /nix-lan frob --help: the second paragraph/],
  ['no options', (text) => text.replace('Options:', 'Optoins:'), /missing|not after/],
  ['no exit codes', (text) => text.replace('Exit code: ', 'Exits: '), /not after|missing/],
  ['no example', (text) => text.replace(/Examples:[\s\S]*/, ''), /missing/],
  ['parts in another order', (text) => text.replace(/(Actions:[\s\S]*?)\n\n(Options:[\s\S]*?)\n\n/, '$2\n\n$1\n\n'), /parts in this order/],
  ['prose at the end', (text) => `${text}\nGoodbye.\n`, /prose comes before Examples/],
  [
    'a text at another column',
    (text) => text.replace('      --json          the', '      --json         the'),
    /the texts begin at column 23/,
  ],
  ['an example without its indentation', (text) => text.replace('  nix-lan frob    frobs', ' nix-lan'), /two blanks/],
]
for (const [what, change, message] of BAD) {
  test(`refused: ${what}`, () => {
    assert.is.not(change(GOOD), GOOD)
    assert.throws(
      () => optionsOf(parseHelp(change(GOOD))),
      (error: Error) => message.test(error.message) || assert.unreachable(error.message),
    )
  })
}

test('an option that nothing is said of is refused', () => {
  assert.throws(
    () => optionsOf(parseHelp(GOOD.replace('      --version       show the version', '      --frob'))),
    /nothing is said of --frob/,
  )
})

test('what roff would take for its own is by its name', () => {
  assert.is(roff('a-b \\ \'x\' "y" `z` ~ ^ …'), 'a\\-b \\e \\(aqx\\(aq \\(dqy\\(dq \\(gaz\\(ga \\(ti \\(ha \\[u2026]')
})

test('a page', () => {
  const page = commandPage(parseHelp(GOOD), [], ['nix-lan', 'nix-lan-frob'], '1.2.3')
  assert.match(page, /^\.TH NIX\\-LAN\\-FROB 1 "" "nix\\-lan 1\.2\.3"/m)
  assert.match(page, /^\.SH NAME\nnix\\-lan\\-frob \\- frobs$/m)
  assert.match(page, /^\\&\.frob \\\(aqx\\\(aq \\e \\-y$/m)
  assert.match(page, /^\.TP\n\\fB\\-w\\fR, \\fB\\-\\-wait\\fR \\fISECONDS\\fR\nwait$/m)
  assert.not(page.includes('nix\\-lan\\-frob (1)'), 'no reference to itself')
  assert.equal(['nix-lan', 'nix-lan queue', 'nix-lan-run', 'post-build-hook'].map(pageName), [
    'nix-lan',
    'nix-lan-queue',
    'nix-lan-run',
    'nix-lan-post-build-hook',
  ])
})

test('a page from Markdown, and what it can’t hold', () => {
  const page = markdownPage('# a: b `c`\n\nText.\n\n## More\n\n- `k`: it is\n  so.\n- `l`: `--x`\n\n```toml\n\na = 1\n```\n', 5, '1', [
    'nix-lan',
  ])
  assert.match(page, /\.SH DESCRIPTION\nText\.\n\.SH MORE\n\.TP\n\\fBk\\fR\nit is so\.\n\.TP\n\\fBl\\fR\n/)
  assert.match(page, /\.EX\n\na = 1\n\.EE/)
  for (const text of ['b', '# a: b\n\n| a |', '# a: b\n\n- x', '# a: b\n\n### c']) assert.throws(() => markdownPage(text, 5, '1', []))
})

test('completions of a command without values, actions or words are whole', () => {
  const help = parseHelp('nix-lan-run: r\n\nUsage: nix-lan-run\n\nOptions:\n      --x  x\n\nExit code: 0\n\nExample:\n  x\n')
  const files = completions([help])
  assert.equal(Object.keys(files), ['completions/bash/nix-lan-run', 'completions/zsh/_nix-lan', 'completions/fish/nix-lan-run.fish'])
  assert.not(Object.values(files).some((text) => /undefined|\$\{(?!COMP|NIX|\(f\))/.test(text)))
})

// ---- docs/config.md

/** Key → its text, of a part of docs/config.md. */
function keysOf(title: string): Map<string, string> {
  const part = readFileSync('docs/config.md', 'utf8').split(`\n## ${title}\n`)[1]?.split('\n## ')[0] ?? ''
  const items = part.split('\n- ').slice(1)
  return new Map(items.map((item) => /^`([^`]+)`: ([\s\S]*)/.exec(item)?.slice(1, 3) as [string, string]))
}

const alice = { name: 'alice', uid: 1000, home: '/home/alice' }
const read = (text: string) => parseConfig(text, 'config.toml', () => alice)

/** The keys that config.ts itself says are allowed. */
function allowed(text: string): string[] {
  try {
    read(text)
  } catch (error) {
    return /allowed here: (.*)$/.exec((error as Error).message)?.[1]?.split(', ') ?? []
  }
  return []
}

test('docs/config.md has the keys that there are, and no other', () => {
  assert.equal([...keysOf('At the top').keys(), 'and tables [cache.NAME]'], allowed('frob = 1'))
  assert.equal([...keysOf('A box').keys()], allowed('[cache.a]\nhost = "a"\nfrob = 1'))
  assert.equal([...keysOf('A cache with a url').keys()], allowed('[cache.a]\nurl = "http://a"\nfrob = 1'))
})

/** Defaults that are no value. */
const NO_VALUE: Record<string, RegExp> = {
  host: /no default/,
  ssh: /Default: the same as `host`/,
  'upload-connection': /Default: `"own"`, or `"shared"` when/,
  compression: /Default: what ssh's configuration says/,
}

test('docs/config.md has the defaults that there are: written out, they change nothing', () => {
  const [bare] = read('[cache.a]\nhost = "a"').caches
  for (const [key, text] of keysOf('A box')) {
    const [, value] = /Default: `([^`]+)`\.\s*$/.exec(text) ?? []
    if (value === undefined) assert.match(text, NO_VALUE[key] ?? /a default/, key)
    else assert.equal(read(`[cache.a]\nhost = "a"\n${key} = ${value}`).caches[0] as SshCache, bare)
  }
  assert.match(keysOf('A cache with a url').get('deadline') ?? '', /Default: `"2s"`/)
})

test('the example of docs/config.md is read', () => {
  const [, example = ''] = /```toml\n([\s\S]*?)```/.exec(readFileSync('docs/config.md', 'utf8')) ?? []
  assert.is(read(example).caches.length, 2)
})

test.run()
