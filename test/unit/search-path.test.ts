// One list of the directories that programs lie in: the sh heads have it in their own text, and so
// it is compared.
import { readdirSync, readFileSync } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { waysToInstall } from '../../scripts/system/runtime.ts'
import { DIRECTORIES, SYSTEM_DIRECTORIES } from '../../scripts/system/search-path.ts'

const test = suite('search path')
const HEADS = readdirSync('scripts/heads').map((name) => `scripts/heads/${name}`)
const listsIn = (file: string): string[] => readFileSync(file, 'utf8').match(/[/a-z:-]*\/run\/current-system[/a-z:-]*/g) ?? []

test('root’s JavaScript is given every variable of ours that it reads', () => {
  const sources = readdirSync('scripts', { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'))
  const read = sources.flatMap((name) => readFileSync(`scripts/${name}`, 'utf8').match(/(?<=process\.env\.)NIX_LAN_[A-Z_]+/g) ?? [])
  assert.ok(read.includes('NIX_LAN_HEAD'))
  const [, list = ''] = /^ {2}for nix_lan_name in ([^;]*); do$/m.exec(readFileSync('scripts/heads/runtime.sh', 'utf8')) ?? []
  for (const name of read) assert.ok(list.split(/\s+/).includes(name), `${name} is left out by become_as_root`)
})

test('the heads search where everything else does, in the same order', () => {
  const lists = HEADS.flatMap((file) => listsIn(file).map((list) => [file, list.split(':').filter(Boolean)] as const))
  assert.ok(lists.length >= 4, `${lists.length} lists`)
  for (const [file, list] of lists) {
    // The hook runs the system's own tools.
    const all = file.endsWith('post-build-hook.sh')
      ? DIRECTORIES.slice(1)
      : file.endsWith('dispatcher.sh')
        ? SYSTEM_DIRECTORIES
        : DIRECTORIES
    assert.equal(list, all, file)
  }
})
test('the head without a runtime names the same ways to get one', () => {
  const head = readFileSync('scripts/heads/no-runtime.sh', 'utf8')
  const inHead = [...head.matchAll(/^ {2}echo (['"]) {2}(sudo .*)\1$/gm)].map(([, , text = '']) => text.replaceAll(/\\(["$])/g, '$1'))
  assert.equal(inHead.slice(0, -1), waysToInstall('/usr/bin/node'))
  const own = waysToInstall('/home/alice/.nvm/node').at(-1) ?? ''
  assert.is(inHead.at(-1)?.replace('"$(command -v node)"', '/home/alice/.nvm/node').replace(', where nvm is in PATH', ''), own)
})
test.run()
