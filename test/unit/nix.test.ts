// How often Nix is asked, with two fakes of it that note their calls: each start costs what a hot
// path has not.
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { NixError } from '../../scripts/nix/nix.ts'
import { closureOf } from '../../scripts/nix/path-info.ts'
import { until } from '../lib/until.ts'

const test = suite('nix')
const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-nix-'))
const { PATH } = process.env
const store = (name: string): string => `/nix/store/${'0'.repeat(32)}-${name}`

/**
 * Fakes of nix and nix-store: whatever is called `gone` isn't valid; while there is a file `hang`,
 * nix does not answer.
 */
function prepare(): void {
  const fake = (name: string, text: string): void => {
    writeFileSync(join(TMP, name), `#!/bin/sh\necho ${name} >>${TMP}/log\n${text}\n`)
    chmodSync(join(TMP, name), 0o755)
  }
  fake(
    'nix',
    `[ ! -e ${TMP}/hang ] || exec sleep 100
for word; do case $word in *-odd*) echo "error: bad output" >&2; exit 1;; esac; done
for word; do case $word in *-gone) echo "error: path '$word' is not valid" >&2; exit 1;; esac; done
for word; do case $word in /*) printf '%s\\t 120\\tme-1:x\\n' "$word";; esac; done`,
  )
  fake('nix-store', 'for word; do case $word in *-gone) echo "$word";; esac; done')
  process.env.PATH = `${TMP}:${PATH}`
}

test.before(prepare)
test.before.each(() => writeFileSync(join(TMP, 'log'), ''))
test.after(() => {
  process.env.PATH = PATH
  rmSync(TMP, { recursive: true })
})

const calls = (): string[] => readFileSync(join(TMP, 'log'), 'utf8').split('\n').slice(0, -1)

test('a closure of paths that are all valid is asked for once', async () => {
  const { invalid, infos } = await closureOf([store('a'), store('b')])
  assert.equal([[...invalid], [...infos.keys()], calls()], [[], [store('a'), store('b')], ['nix']])
})

test('what is gone is found, and the closure of the rest', async () => {
  const { invalid, infos } = await closureOf([store('a'), store('gone')])
  assert.equal([[...invalid], [...infos.keys()], calls()], [[store('gone')], [store('a')], ['nix', 'nix-store', 'nix']])
})

test('what Nix can’t read is found by halves, and the others’ closures are known', async () => {
  const { broken, infos } = await closureOf([...Array.from({ length: 30 }, (_, i) => store(`p${i}`)), store('odd1'), store('odd2')])
  assert.equal(
    [...broken],
    [store('odd1'), store('odd2')].map((path) => [path, 'bad output']),
  )
  assert.is(infos.size, 30)
  assert.ok(calls().length < 15, `${calls().length} calls`)
})

test('a .drv that is cut short is never shown to Nix, which 2.8.0 would read for ever', async () => {
  const drv = (name: string, text: string): string => {
    writeFileSync(join(TMP, name), text)
    return join(TMP, name)
  }
  const [whole, cut, empty] = [drv('a.drv', 'Derive([],[],[],"","",[],[])'), drv('b.drv', 'Derive([("out","/ni'), drv('c.drv', '')]
  const { broken, infos } = await closureOf([whole, cut, empty])
  assert.equal([[...broken.keys()], [...infos.keys()], calls()], [[cut, empty], [whole], ['nix']])
})

test('a Nix that does not answer is not asked something else', async () => {
  writeFileSync(join(TMP, 'hang'), '')
  // on a busy machine the time may be over before it has even begun
  await until('nix', async () => {
    const error = await closureOf([store('a')], { timeout: 500 }).catch((reason) => reason)
    assert.instance(error, NixError)
    assert.is(error.message, 'nix gave no answer in time')
    return calls().length > 0
  })
  rmSync(join(TMP, 'hang'))
  assert.equal(calls(), ['nix'])
})

test.run()
