// What the commands say of themselves, in each runtime: every --help and --version.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { optionsOf, parseHelp } from '../../build/help.ts'
import { pageName } from '../../build/man.ts'
import { VERSION } from '../../scripts/cli/version.ts'
import { ACTIONS, COMMANDS, DIST, helpOf, pages, start } from '../lib/commands.ts'

const runs = suite('what commands say of themselves')

for (const [program = '', ...words] of [...COMMANDS, ...ACTIONS]) {
  const name = [program, ...words].join(' ')

  runs(`${name} --help: in the layout of all helps, in 80 columns, with every option, exit codes and an example`, () => {
    const { code, stdout, stderr } = start(join(DIST, program), [...words, '--help'])
    assert.equal([code, stderr], [0, ''])
    const help = parseHelp(stdout)
    assert.is(help.name, name)
    assert.ok(['help', 'version'].every((long) => optionsOf(help).some((option) => option.long === long)))
    for (const line of stdout.split('\n')) assert.ok(line.length <= 80 || line.includes('://'), line)
    assert.is(start(join(DIST, program), [...words, '-h']).stdout, stdout)
  })

  if (words.length < 2) {
    runs(`${name} --version`, () => {
      assert.equal(start(join(DIST, program), [...words, '--version']), { code: 0, stdout: `${name} ${VERSION}\n`, stderr: '' })
    })
  }
}

runs('there is a man page for each command, and one for the configuration', () => {
  const names = COMMANDS.map((words) => `${pageName(words.join(' '))}.1`)
  assert.equal(pages.map((file) => file.slice(file.lastIndexOf('/') + 1)).sort(), [...names, 'nix-lan-config.5'].sort())
})

runs('a man page has every option of its command', () => {
  for (const words of [...COMMANDS, ...ACTIONS]) {
    const help = helpOf(words)
    const page = readFileSync(join(DIST, 'man/man1', `${pageName(words.slice(0, 2).join(' '))}.1`), 'utf8')
    for (const { long } of optionsOf(help)) assert.ok(page.includes(`\\-\\-${long.replaceAll('-', '\\-')}`), `${help.name} --${long}`)
  }
})

runs.run()
