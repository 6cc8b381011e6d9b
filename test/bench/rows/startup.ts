// How long the executables take to start and do the least they can, on each JavaScript runtime that
// nix-lan is for: in units of that runtime doing next to nothing.
import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { hello } from '../../lib/wire.ts'
import { createWorld, SYSTEM_PATH, type World } from '../../nix/world.ts'
import { type Bench, ensure, type Row, type Setting } from '../lib/bench.ts'
import { hyperfine } from '../lib/hyperfine.ts'

const RUNTIMES = ['node-20', 'node-22', 'node-24', 'deno-2', 'bun-1']
const DIST = '/opt/nix-lan/dist'
const EMPTY = 'a script that only loads node:fs'
const CONNECT = 'nix-lan-connect, box away'
const RUN = 'nix-lan-run true'
const AVAILABLE = 'nix-lan-available --version'

/**
 * Without that, Deno and Bun would leave out all that makes them a Node. It gets at require as the
 * bundles do: see wrapped() in build/bundle.ts.
 */
const LEAST = `;(function (start) {
  if (typeof require === 'function') start(require)
  else import('node:module').then((m) => start(m.createRequire('file:///')))
})((function (require) {
require('node:fs')
}))
`

export const startup: Bench = {
  name: 'startup',
  title: `starting: connect with the box away, nix-lan-run, nix-lan-available, on ${RUNTIMES.join(', ')}`,
  needs: ['root', 'nix', 'hyperfine'],
  async *run(setting) {
    const world = await createWorld({ nix: 'host', noRuntime: true })
    try {
      world.write('/opt/least.js', LEAST)
      writeFileSync(`${world.dir}/hello`, hello())
      world.write('/etc/nix-lan/config.toml', 'user = "alice"\n\n[cache.box]\nhost = "127.0.0.1"\n')
      for (const runtime of setting.quick ? ['node-20'] : RUNTIMES) yield await measure(world, setting, runtime)
    } finally {
      await world.close()
    }
  },
}

/**
 * Copies a runtime into the world, and returns the folder that it is in. It comes from npm, once,
 * into a cache folder.
 */
function install(world: World, runtime: string): string {
  const line = '. build/runtimes.sh && runtime_directory "$1"'
  const from = execFileSync('sh', ['-c', line, 'sh', runtime], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] }).trim()
  const name = runtime.replace(/-.*/, '')
  mkdirSync(world.path(`/opt/${runtime}`), { recursive: true })
  copyFileSync(`${from}/${name}`, world.path(`/opt/${runtime}/${name}`))
  return `/opt/${runtime}`
}

async function measure(world: World, setting: Setting, runtime: string): Promise<Row> {
  const folder = install(world, runtime)
  const name = runtime.replace(/-.*/, '')
  const env = { ...world.env('alice'), PATH: `${folder}:${SYSTEM_PATH}` }
  const version = await world.must('alice', 'sh', ['-c', `${name} --version | head -n 1`], { env })
  ensure(/available/.test(await world.must('alice', `${DIST}/nix-lan-available`, ['--version'], { env })), `nothing runs on ${runtime}`)
  const empty = name === 'deno' ? 'deno run --quiet --allow-all --no-config --no-lock /opt/least.js' : `${name} /opt/least.js`
  const greeted = (line: string): string => `sh -c 'exec ${line} <${world.dir}/hello'`
  const commands = [
    { name: EMPTY, line: greeted(empty) }, // with the same sh before it: 1 ms
    { name: CONNECT, line: greeted(`${DIST}/nix-lan-connect /run/user/1000/nix-lan/box.sock --stdio`) },
    { name: RUN, line: `${DIST}/nix-lan-run true` },
    { name: AVAILABLE, line: `${DIST}/nix-lan-available --version` },
  ]
  const samples = await hyperfine(world, setting, commands, { user: 'alice', env, rounds: 5, runs: 8 })
  return {
    id: `startup-${runtime}`,
    what: `starting on ${name} ${/[\d.]+/.exec(version)?.[0]}`,
    unit: 'ms',
    samples,
    goals: [
      { say: `${CONNECT} / ${EMPTY}`, formula: (of) => of(CONNECT) / of(EMPTY), most: 1.5, budget: 4 },
      { say: `${RUN} / ${EMPTY}`, formula: (of) => of(RUN) / of(EMPTY), most: 1.5, budget: 4 },
      { say: `${AVAILABLE} / ${EMPTY}`, formula: (of) => of(AVAILABLE) / of(EMPTY), most: 1.5, budget: 4 },
    ],
  }
}
