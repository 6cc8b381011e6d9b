// .github/workflows, which can't run here: they parse, shellcheck takes their commands, and what
// they name exists.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { parse } from 'yaml'
import { needs, PATH } from '../lib/needs.ts'

const test = needs(suite('workflows'), 'shellcheck')
const FOLDER = '.github/workflows'

interface Workflow {
  on: unknown
  jobs: Record<string, { 'runs-on': string; container?: unknown; steps: { uses?: string; run?: string }[] }>
}

const { scripts } = JSON.parse(readFileSync('package.json', 'utf8')) as { scripts: Record<string, string> }
const workflows = readdirSync(FOLDER).map((file) => [file, parse(readFileSync(`${FOLDER}/${file}`, 'utf8')) as Workflow] as const)
const commands = workflows.flatMap(([file, { jobs }]) =>
  Object.values(jobs).flatMap(({ steps }) => steps.flatMap(({ run }) => (run === undefined ? [] : [{ file, run }]))),
)

test('there are two, with what starts them and at least one command in each job', () => {
  assert.equal(workflows.map(([file]) => file).sort(), ['ci.yml', 'release.yml'])
  for (const [file, { on, jobs }] of workflows) {
    assert.ok(on, file)
    for (const [name, job] of Object.entries(jobs)) {
      assert.ok(job['runs-on'], `${file}: ${name}`)
      assert.ok(
        job.steps.some(({ run }) => run !== undefined),
        `${file}: ${name}`,
      )
      for (const { uses, run } of job.steps) assert.ok((uses === undefined) !== (run === undefined), `${file}: ${name}`)
    }
  }
})

test('shellcheck takes every command, as bash -e runs it', () => {
  for (const { file, run } of commands) {
    // What GitHub puts in before bash sees it.
    const text = run.replaceAll(/\$\{\{[^}]*\}\}/g, 'expression')
    const { status, stdout, stderr } = spawnSync('shellcheck', ['--shell=bash', '-'], {
      input: `set -e\n${text}\n`,
      env: { PATH },
      encoding: 'utf8',
    })
    assert.is(status, 0, `${file}: ${run}\n${stdout}${stderr}`)
  }
})

test('every npm script that a command or CONTRIBUTING.md names exists', () => {
  const texts = [...commands.map(({ run }) => run), readFileSync('CONTRIBUTING.md', 'utf8'), readFileSync('README.md', 'utf8')]
  const named = texts.flatMap((text) => [...text.matchAll(/\bnpm run(?: --?[a-z]+)* ([a-z][a-z:]*)/g)].map(([, name = '']) => name))
  assert.ok(named.length > 8)
  assert.equal(
    named.filter((name) => scripts[name] === undefined),
    [],
  )
  assert.ok(scripts.test)
})

test('every file that a command names exists', () => {
  const files = commands.flatMap(({ run }) =>
    [...run.matchAll(/(?<=^|\s)((?:\.\/|[a-z]+\/)[\w./-]+|[A-Z]+\.md)(?=\s|$)/g)].map(([, file = '']) => file),
  )
  assert.ok(files.includes('CHANGELOG.md'))
  assert.equal(
    files.filter((file) => !existsSync(file)),
    [],
  )
})

test.run()
