// What README.md and nix/README.md show of Nix is what is in nix/: the snippets are the example
// files, and the table of options is made from the modules. UPDATE=1 writes both anew.
import { readFileSync, writeFileSync } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../lib/needs.ts'
import { createProject, evaluate } from './project.ts'

/** An option as test/modules/stub/lib.nix describes it; `default` and `example` are Nix. */
interface Option {
  name: string
  type: string
  default: string | null
  example: string | null
  description: string
}

const SNIPPET = /(<!-- (nix\/examples\/[a-z-]+\.nix), which test\/modules\/docs\.test\.ts compares -->\n```nix\n)([\s\S]*?)(```\n)/g
const TABLE = /(<!-- options: .* -->\n)([\s\S]*?)(<!-- end of options -->\n)/

const test = needs(suite('docs'), 'root', 'nix')

for (const [file, count] of [
  ['README.md', 2],
  ['nix/README.md', 3],
] as const) {
  test(`${file} shows the examples that are evaluated`, () => {
    const text = readFileSync(file, 'utf8')
    assert.is([...text.matchAll(SNIPPET)].length, count)
    fresh(
      file,
      text.replace(SNIPPET, (_, before: string, example: string, __, after: string) => before + readFileSync(example, 'utf8') + after),
    )
  })
}

test('nix/README.md has the table of all options', async () => {
  const project = await createProject('host')
  try {
    const { nixos, home } = (await evaluate(project, `(import ${project.stub}/eval.nix { }).options`)) as Record<'nixos' | 'home', Option[]>
    assert.ok(nixos.length > 20 && home.length > 10, `${nixos.length} and ${home.length} options`)
    const text = readFileSync('nix/README.md', 'utf8')
    assert.match(text, TABLE)
    fresh(
      'nix/README.md',
      text.replace(TABLE, (_, before: string, __, after: string) => before + table(nixos, home) + after),
    )
  } finally {
    await project.world.close()
  }
})

/**
 * The table in Markdown: the options of NixOS, which has all, and whether Home Manager has them,
 * too.
 */
function table(nixos: Option[], home: Option[]): string {
  const names = new Set(home.map((option) => option.name))
  assert.equal(
    [...names].filter((name) => !nixos.some((option) => option.name === name)),
    [],
  )
  const rows = nixos.map((option) => {
    const shown = option.example === null ? '' : ` Example: ${code(option.example)}.`
    const standard = option.default === null || option.default === 'null' ? '' : code(option.default)
    const where = names.has(option.name) ? 'HM' : ''
    const cells = [
      code(option.name.replace('services.nix-lan.', '')),
      where,
      option.type.replace(/^null or /, ''),
      standard,
      option.description + shown,
    ]
    return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |\n`
  })
  return `| option | | type | default | |\n|---|---|---|---|---|\n${rows.join('')}`
}

const code = (text: string): string => `\`${text}\``

/** Compares a file with what it should be, or with UPDATE=1 writes it. */
function fresh(file: string, text: string): void {
  if (process.env.UPDATE === '1') writeFileSync(file, text)
  assert.is(readFileSync(file, 'utf8'), text, `${file} is not fresh: UPDATE=1 npm test -- modules`)
}

test.run()
