// README, docs and papers: short enough, and every link leads somewhere.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'

const test = suite('papers')
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

test.run()
