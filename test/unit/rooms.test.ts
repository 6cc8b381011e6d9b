// The rooms of scripts/: imports go one way, downward. docs/architecture.md says what each room is
// for.
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'

const test = suite('rooms')

/** From the top down: a room imports only from rooms below it. Type imports count. */
const ORDER = [
  'bin',
  'commands',
  'status',
  'doctor',
  'setup',
  'gc',
  'keep',
  'queue',
  'tunnel',
  'wrapper',
  'connect',
  'reach',
  'protocol',
  'config',
  'nix',
  'system',
  'cli',
]
/** More is a house that nobody can picture. */
const MOST_ROOMS = 20
const MOST_ARROWS = 85

/** An import of one file by another; paths below scripts/. */
interface Import {
  from: string
  to: string
}

/** The imports of a source text, static, of types and lazy, as paths below scripts/. */
function importsOf(file: string, text: string): Import[] {
  const found = text.matchAll(/^\s*(?:import|export)\b[^'"]*?\bfrom '(\.[^']+)'|\bimport\('(\.[^']+)'\)|^import '(\.[^']+)'/gm)
  return [...found].map(([, from, lazy, bare]) => ({ from: file, to: join(dirname(file), from ?? lazy ?? bare ?? '') }))
}

const roomOf = (file: string): string => (file.includes('/') ? file.slice(0, file.indexOf('/')) : '')

/** What an import does that it may not; undefined when it is fine. */
function fault({ from, to }: Import): string | undefined {
  const [above, below] = [roomOf(from), roomOf(to)]
  if (above === below) return undefined
  const [i, j] = [ORDER.indexOf(above), ORDER.indexOf(below)]
  if (i < 0 || j < 0) return `${i < 0 ? from : to} is in no room of the list`
  return i < j ? undefined : `${from} imports ${to}, which lies above it`
}

/** Files that import each other in a circle, one line each. */
function circles(imports: readonly Import[]): string[] {
  const next = new Map<string, string[]>()
  for (const { from, to } of imports) next.set(from, [...(next.get(from) ?? []), to])
  const done = new Set<string>()
  const found: string[] = []
  const visit = (file: string, path: string[]): void => {
    if (path.includes(file)) found.push([...path.slice(path.indexOf(file)), file].join(' → '))
    if (path.includes(file) || done.has(file)) return
    for (const other of next.get(file) ?? []) visit(other, [...path, file])
    done.add(file)
  }
  for (const file of next.keys()) visit(file, [])
  return found
}

const sources = readdirSync('scripts', { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'))
const imports = sources.flatMap((file) => importsOf(file, readFileSync(`scripts/${file}`, 'utf8')))

test('the sources are read: every import leads to a source', () => {
  assert.ok(imports.length > 200, `${imports.length} imports`)
  assert.equal(
    imports.filter(({ to }) => !sources.includes(to)),
    [],
  )
})

test('imports go downward', () => {
  assert.equal(imports.map(fault).filter(Boolean), [])
})

test('no files import each other in a circle', () => {
  assert.equal(circles(imports), [])
})

test('there are few rooms, and few arrows between them', () => {
  const rooms = new Set(sources.map(roomOf))
  assert.ok(rooms.size <= MOST_ROOMS, `${rooms.size} rooms`)
  const arrows = new Set(imports.flatMap(({ from, to }) => (roomOf(from) === roomOf(to) ? [] : [`${roomOf(from)} → ${roomOf(to)}`])))
  assert.ok(arrows.size <= MOST_ARROWS, `${arrows.size} arrows`)
})

test('the test itself: an upward import, a circle and a stranger are found, in each form of import', () => {
  const upward = importsOf('cli/x.ts', "import type { Q } from '../queue/queue.ts'\nconst y = await import('../bin/nix-lan.ts')\n")
  assert.equal(upward.map(fault), [
    'cli/x.ts imports queue/queue.ts, which lies above it',
    'cli/x.ts imports bin/nix-lan.ts, which lies above it',
  ])
  assert.is(importsOf('cli/x.ts', "import {\n  type A,\n  b,\n} from './y.ts'\n")[0]?.to, 'cli/y.ts')
  assert.match(fault({ from: 'attic/x.ts', to: 'cli/y.ts' }) ?? '', 'no room')
  assert.equal(
    circles([
      { from: 'a', to: 'b' },
      { from: 'b', to: 'c' },
      { from: 'c', to: 'b' },
    ]),
    ['b → c → b'],
  )
})

test.run()
