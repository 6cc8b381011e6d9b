// Builds dist/: one self-contained file per executable, which is both a sh script and JavaScript.
// With --check it writes nothing and compares dist/ byte for byte with what the sources give.
// Started by start.sh.
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { type BuildOptions, build, type Metafile } from 'esbuild'
import { VERSION } from '../scripts/cli/version.ts'
import { docs } from './docs.ts'
import { readUnits, textDefines } from './texts.ts'

/**
 * The executables: name in dist/ → its TypeScript, and the sh part in scripts/heads that starts it.
 */
const EXECUTABLES: Record<string, { source: string; head: string }> = {
  demo: { source: 'test/demo/demo.ts', head: 'command.sh' },
  'nix-lan': { source: 'scripts/bin/nix-lan.ts', head: 'command.sh' },
  'nix-lan-available': { source: 'scripts/bin/nix-lan-available.ts', head: 'command.sh' },
  'nix-lan-connect': { source: 'scripts/bin/nix-lan-connect.ts', head: 'nix-lan-connect.sh' },
  'nix-lan-dispatcher': { source: 'scripts/bin/nix-lan-dispatcher.ts', head: 'nix-lan-dispatcher.sh' },
  'nix-lan-run': { source: 'scripts/bin/nix-lan-run.ts', head: 'nix-lan-run.sh' },
  'nix-lan-tunnel': { source: 'scripts/bin/nix-lan-tunnel.ts', head: 'nix-lan-tunnel.sh' },
  'post-build-hook': { source: 'scripts/bin/post-build-hook.ts', head: 'post-build-hook.sh' },
}

/** The other, non-executable files in dist/: path in dist/ → text. */
const OTHERS: (() => Record<string, string>)[] = [
  // Without this file, Node tries everything as an ES module first if the nearest package.json says
  // "module": 3-5 ms.
  () => ({ 'package.json': `${JSON.stringify({ type: 'commonjs' })}\n` }),
  () => within('systemd/user', readUnits('user')),
  () => within('systemd/system', readUnits('system')),
]

const within = (folder: string, files: Record<string, string>): Record<string, string> =>
  Object.fromEntries(Object.entries(files).map(([name, text]) => [`${folder}/${name}`, text]))

const ROOT = process.cwd()
const DIST = join(ROOT, 'dist')

const OPTIONS: BuildOptions = {
  absWorkingDir: ROOT, // otherwise the output depends on where the repository is
  bundle: true,
  format: 'cjs',
  platform: 'node',
  target: 'node18',
  mainFields: ['module', 'main'],
  define: {
    'globalThis.Deno': 'undefined', // a bundled zx dies under Deno otherwise (google/zx#894)
    ...textDefines(),
  },
  supported: { 'dynamic-import': false }, // turns a lazy import() into a lazy require, 2 ms faster for a builtin
  legalComments: 'none', // esbuild misses those of zx and mri: see licences()
  minify: false, // these files run as root, so people must be able to read them
  sourcemap: false,
  metafile: true,
  write: false,
  logLevel: 'silent',
}

/**
 * What the sources give: the content of each file in dist/ by its path there, and what went wrong.
 */
interface Products {
  files: Map<string, string>
  problems: string[]
}

async function products(): Promise<Products> {
  const files = new Map(OTHERS.flatMap((others) => Object.entries(others())))
  const problems: string[] = []
  for (const [name, { source, head }] of Object.entries(EXECUTABLES)) {
    try {
      files.set(name, await executable(name, source, head))
    } catch (error) {
      problems.push(`dist/${name} can't be built: ${error instanceof Error ? error.message : error}`)
    }
  }
  if (problems.length > 0) return { files, problems }
  try {
    const executables = new Map([...files].filter(([name]) => name in EXECUTABLES))
    for (const [name, text] of Object.entries(await docs(executables, VERSION))) files.set(name, text)
  } catch (error) {
    problems.push(`man pages and completions can't be made: ${error instanceof Error ? error.message : error}`)
  }
  return { files, problems }
}

/**
 * One executable: the head, which is sh code in a JavaScript comment; the JavaScript; the licences
 * of what it contains.
 */
async function executable(name: string, source: string, head: string): Promise<string> {
  const result = await build({ ...OPTIONS, entryPoints: [source], outfile: join(DIST, name) })
  const warning = result.warnings[0]
  if (warning) throw new Error(`${warning.location?.file ?? source}: ${warning.text}`)
  const output = result.outputFiles?.[0]
  if (!output) throw new Error(`${source}: esbuild gives no output`)
  const [, made] = Object.entries(result.metafile?.outputs ?? {})[0] ?? []
  if (!made) throw new Error(`${source}: esbuild does not say what it bundled`)
  if (made.exports.length > 0 || /\bmodule\.exports\b.*__toCommonJS/.test(output.text))
    throw new Error(`${source}: an entry must export nothing`)
  return [launcher(name, source, headText(head)), wrapped(output.text), licences(made)].join('')
}

/**
 * The first lines. To sh: `:` with an argument, twice, then the head. To JavaScript: a string and a
 * line comment, then a string and a block comment that closes after the head. `set -f` keeps sh
 * from expanding the second argument's glob. nix-lan-run recognises copies of itself by the second
 * line.
 */
function launcher(name: string, source: string, head: string): string {
  if (head.includes('*/'))
    throw new Error(`${source}: its head contains "*/", which ends a JavaScript comment; write *[/] in a pattern and *\\/ in a glob`)
  return `#!/bin/sh
':' // ${name}; set -f
':' /*
set +f
# Generated from ${source} by "npm run build": change that instead. Not minified, so that you can read what runs.
${head}
exit
*/
`
}

/**
 * The text of a head, with `. ./OTHER.sh` lines replaced by OTHER.sh's text (without its comments:
 * it is in many files), and without interpreter and shellcheck lines.
 */
function headText(file: string): string {
  const text = readFileSync(join(ROOT, 'scripts/heads', file), 'utf8')
  return text
    .replace(/^#!.*\n/, '')
    .replace(/^ *# shellcheck .*\n/gm, '')
    .replace(/^\. \.\/([a-z-]+\.sh)$/gm, (_, included: string) => headText(included).replace(/^ *#.*\n/gm, ''))
    .trim()
}

/**
 * Wraps the bundle in a function of `require`, so it runs as CommonJS (which has one) and as an ES
 * module (which doesn't: under Deno, and wherever the nearest package.json says "module"). The
 * parentheses tell V8 that the function is called at once; otherwise it parses everything twice,
 * which costs 1 to 2 ms.
 */
function wrapped(body: string): string {
  return `;(function (start) {
  if (typeof require === 'function') start(require)
  else import('node:module').then((m) => start(m.createRequire('file:///')))
})((function (require) {
${body.trimEnd()}
}))
`
}

/** The licences of the packages in a bundle, as comments; '' if there are none. */
function licences(output: Metafile['outputs'][string]): string {
  const packages = new Set<string>()
  for (const [input, { bytesInOutput }] of Object.entries(output.inputs)) {
    const [, name] = /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input) ?? []
    if (name && bytesInOutput > 0) packages.add(name)
  }
  return [...packages].sort().map(licence).join('')
}

/** The licence text of a package, including that of what it bundles. */
function licence(name: string): string {
  const directory = join(ROOT, 'node_modules', name)
  const { version, license } = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8'))
  const file = readdirSync(directory).find((entry) => /^licen[cs]e(\.md|\.txt)?$/i.test(entry))
  if (!file) throw new Error(`node_modules/${name}: no licence file to include`)
  const texts = [file, 'build/3rd-party-licenses'].map((path) => join(directory, path)).filter((path) => existsSync(path))
  const text = texts.map((path) => readFileSync(path, 'utf8').trim()).join('\n\n')
  return `\n/*\nContains ${name} ${version} (${license}):\n\n${text.replaceAll('*/', '* /')}\n*/\n`
}

/** The differences between dist/ and the products, one line each. */
function differences(files: Map<string, string>): string[] {
  const found = superfluous(files).map((name) => `dist/${name} is superfluous`)
  for (const [name, text] of files) {
    const file = join(DIST, name)
    if (!existsSync(file)) found.push(`dist/${name} is missing`)
    else if (readFileSync(file, 'utf8') !== text) found.push(`dist/${name} is not what the sources give`)
    else if ((statSync(file).mode & 0o777) !== modeOf(name)) found.push(`dist/${name} should have mode ${modeOf(name).toString(8)}`)
  }
  return found
}

/** Paths in dist/ that aren't among the files, including folders that hold none of them. */
function superfluous(files: Map<string, string>, folder = ''): string[] {
  if (!existsSync(join(DIST, folder))) return []
  return readdirSync(join(DIST, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = `${folder}${entry.name}`
    const isFolder = entry.isDirectory() && [...files.keys()].some((file) => file.startsWith(`${path}/`))
    if (isFolder) return superfluous(files, `${path}/`)
    return files.has(path) && !entry.isDirectory() ? [] : [path]
  })
}

function modeOf(name: string): number {
  return name in EXECUTABLES ? 0o755 : 0o644
}

/**
 * Writes dist/. Each file is replaced in one step, since hooks and connects may start meanwhile.
 */
function write(files: Map<string, string>): void {
  for (const name of superfluous(files)) rmSync(join(DIST, name), { recursive: true })
  for (const [name, text] of files) {
    const file = join(DIST, name)
    mkdirSync(dirname(file), { recursive: true })
    const temporary = `${file}.${process.pid}.new`
    writeFileSync(temporary, text)
    chmodSync(temporary, modeOf(name))
    renameSync(temporary, file)
    console.log(`${String(Math.ceil(Buffer.byteLength(text) / 1024)).padStart(5)} KiB  dist/${name}`)
  }
}

async function main(args: string[]): Promise<number> {
  const check = args[0] === '--check'
  if (args.length > (check ? 1 : 0)) {
    console.error('usage: npm run build [-- --check]')
    return 2
  }
  const { files, problems } = await products()
  if (check) problems.push(...differences(files))
  else write(files)
  for (const line of problems) console.error(line)
  if (check && problems.length > 0) console.error('dist/ is not what the sources give: run "npm run build" and commit dist/')
  return problems.length > 0 ? 1 : 0
}

main(process.argv.slice(2)).then(
  (code) => {
    process.exitCode = code
  },
  (error) => {
    console.error(error)
    process.exitCode = 1
  },
)
