// What sh makes of what we give it: words that we quote, and the hook's environment, which is
// Nix's.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { quote, shellWord } from '../../scripts/cli/text.ts'
import { isStoreName } from '../../scripts/nix/store-path.ts'
import { outputsOf } from '../../scripts/queue/outputs.ts'
import type { Random } from '../lib/random.ts'
import type { Target } from './main.ts'
import { spoilt } from './mutate.ts'
import { DRV, DRV_PIECES } from './texts.ts'

const WORD_PIECES = [
  "'",
  '"',
  '$',
  '`',
  '\\',
  '\n',
  '!',
  '~',
  '*',
  '?',
  '[',
  '{a,b}',
  '$(id)',
  '&',
  ';',
  '|',
  '<',
  '-',
  '=',
  ' ',
  '\t',
  'é',
  '\u{1f600}',
  '\x01',
  '%',
]
const HOOK_PIECES = [' ', '  ', '\n', '/', '..', '*', '?', '$(touch x)', '`', "'", '"', '\\', '-n', '--', '.drv', 'é', '\t']

/** Words of any characters but NUL, through sh: each comes out as it was. */
function quoting(random: Random): number {
  const words = Array.from({ length: 60 }, () => spoilt('some words', random, WORD_PIECES).replace(/[\0\ud800-\udfff]/g, ''))
  const line = words.map((word, i) => (i % 2 ? quote(word) : shellWord(word) || "''")).join(' ')
  const { stdout } = spawnSync('/bin/sh', ['-c', `printf '%s\\0' ${line}`], { encoding: 'utf8' })
  const back = stdout.split('\0').slice(0, -1)
  words.forEach((word, i) => {
    if (back[i] !== word) throw new Error(`${JSON.stringify(word)} came out as ${JSON.stringify(back[i])}`)
  })
  return words.length
}

/** A store, a queue, and the hook as Nix starts it. */
function hook(): Target {
  const folder = mkdtempSync(join(tmpdir(), 'nix-lan-fuzz-'))
  const store = join(folder, 'store')
  const queue = join(folder, 'state/gcroots/nix-lan/queue/box')
  for (const path of [store, queue]) mkdirSync(path, { recursive: true })
  const names = ['a', 'b', 'c'].map((name) => `${name.repeat(32)}-${name}`)
  for (const name of names) writeFileSync(join(store, name), '')
  const drv = join(store, `${'d'.repeat(32)}-d.drv`)
  const outside = readdirSync(folder)
  return {
    name: 'hook',
    share: 3,
    once(random) {
      const text = spoilt(
        DRV.replaceAll('/nix/store', store),
        random,
        DRV_PIECES.map((piece) => piece.replaceAll('/nix/store', store)),
      )
      writeFileSync(drv, text)
      const given = random.integer(0, 4) > 0
      const out = spoilt(names.map((name) => join(store, name)).join(' '), random, HOOK_PIECES).replaceAll('\0', '')
      const drvPath = random.integer(0, 3) ? drv : spoilt(drv, random, HOOK_PIECES).replaceAll('\0', '')
      const env = {
        // without a runtime it does what sh can, which is quicker to try
        PATH: random.integer(0, 9) ? '/nowhere' : '/usr/bin:/bin',
        NIX_STORE_DIR: store,
        NIX_STATE_DIR: join(folder, 'state'),
        OUT_PATHS: given ? out : '',
        DRV_PATH: drvPath,
      }
      const { status, signal, stderr } = spawnSync('dist/post-build-hook', { env, encoding: 'utf8', timeout: 60_000, input: '' })
      const told = JSON.stringify({ out: env.OUT_PATHS, drvPath, text, stderr })
      if (status !== 0) throw new Error(`the hook ended with ${status ?? signal}: ${told}`)
      const links = readdirSync(queue)
      for (const name of links) {
        if (!isStoreName(name) || readlinkSync(join(queue, name)) !== join(store, name)) throw new Error(`${name} is in the queue: ${told}`)
        rmSync(join(queue, name))
      }
      for (const path of given ? [] : (outputsOf(text, store) ?? [])) {
        // sh reads the head of the file only, and asks our JavaScript, which asks Nix, for the rest
        const name = path.slice(store.length + 1)
        if (
          drvPath === drv &&
          existsSync(path) &&
          text.startsWith('Derive([("') &&
          !/[\0\n\\]/.test(text) &&
          !links.includes(name) &&
          stderr === ''
        )
          throw new Error(`${name} is an output, and isn't in the queue: ${told}`)
      }
      const now = readdirSync(folder)
      if (now.join() !== outside.join()) throw new Error(`it left ${now.join(' ')}: ${told}`)
      return 1
    },
    close: () => rmSync(folder, { recursive: true, force: true }),
  }
}

export function shells(): Target[] {
  return [{ name: 'quoting', share: 1, once: quoting }, hook()]
}
