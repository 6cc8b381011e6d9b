// README, docs and papers: short enough, and every link leads somewhere.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { assess, type Shown, screen } from '../../scripts/status/status.ts'

const test = suite('papers')

test("the README's screen is what nix-lan status draws", () => {
  const now = new Date(2026, 10, 22, 20, 30).getTime()
  const since = new Date(2026, 10, 22, 18, 2).toISOString().replace('T', ' ').slice(0, 19)
  const up = { ActiveState: 'active', ActiveEnterTimestamp: `Sun ${since} UTC` }
  const sum = (paths: number, mebibytes: number, minutes: number) => ({ paths, bytes: mebibytes * 2 ** 20, last: now - minutes * 60_000 })
  const answer = { ok: true, address: '', ms: 12, detail: 'Nix 2.26.3' } as const
  const units = { target: up, tunnel: up, upload: up }
  const shown: Shown = {
    status: assess({ name: 'rpi', answer, socket: true, units, tunnelState: undefined, uptime: 100 }),
    queue: { queued: 2, size: 3.1 * 2 ** 20, oldest: now - 40_000, failed: [], uploading: true, upload: null, problem: null },
    uploaded: { all: sum(1204, 3993, 2), week: sum(400, 1434, 2), today: sum(60, 212, 2) },
    fetched: { all: sum(640, 2252, 12), week: sum(300, 1024, 12), today: sum(10, 80, 12) },
  }
  const drawn = screen([shown], null, { now, width: null, colour: false })
  assert.ok(readFileSync('README.md', 'utf8').includes(`$ nix-lan status\n${drawn}\`\`\``), drawn)
})
const PAPERS = [
  'README.md',
  'CONTRIBUTING.md',
  'SECURITY.md',
  'CHANGELOG.md',
  'nix/README.md',
  ...readdirSync('docs')
    .filter((file) => file.endsWith('.md'))
    .map((file) => `docs/${file}`),
]
/** Who comes for the first time reads so many words before the reference begins. */
const MOST_WORDS = 700

test(`the README has at most ${MOST_WORDS} words before its reference`, () => {
  const text = readFileSync('README.md', 'utf8')
  const end = text.indexOf('\n## Reference')
  assert.ok(end > 0, 'README.md has a section "Reference"')
  const words = text
    .slice(0, end)
    .split(/\s+/)
    .filter((word) => /\w/.test(word))
  assert.ok(words.length <= MOST_WORDS, `${words.length} words`)
})

/** The anchor that a page gives a heading. */
const anchorOf = (heading: string): string =>
  heading
    .toLowerCase()
    .replace(/[^\w\- ]/g, '')
    .replaceAll(' ', '-')

/** The anchors of a page. */
const anchorsOf = (text: string): string[] => [...text.matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) => anchorOf(heading))

for (const paper of PAPERS) {
  test(`${paper}: its links lead to files and headings that exist`, () => {
    const text = readFileSync(paper, 'utf8').replace(/```[\s\S]*?```/g, '')
    for (const [, target = ''] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue
      const [file = '', anchor] = target.split('#')
      const path = file === '' ? paper : join(dirname(paper), file)
      assert.ok(existsSync(path), target)
      if (anchor && path.endsWith('.md')) assert.ok(anchorsOf(readFileSync(path, 'utf8')).includes(anchor), target)
    }
  })
}

test('docs/architecture.md names sources that exist, and functions that are in them', () => {
  const named = [...readFileSync('docs/architecture.md', 'utf8').matchAll(/`([a-z]+\/[a-z-]+\.(?:ts|sh))`(?: \(`(\w+)`\))?/g)]
  assert.ok(named.length > 10, `${named.length} sources`)
  for (const [, file = '', name = ''] of named)
    assert.ok(new RegExp(`\\b${name}\\b`).test(readFileSync(`scripts/${file}`, 'utf8')), `${file}: ${name}`)
})

test.run()
