// post-build-hook with real Nix: what a daemon tells its hook, and what keeps a path alive, differ
// by version.
import { cpSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { changed, PATIENT_HOOK } from '../lib/changed.ts'
import { needs } from '../lib/needs.ts'
import { ALICE, createWorld, nixConf, type World } from './world.ts'

const HOOK = '/opt/nix-lan/dist/post-build-hook'
/** What is built, but only what hangs is too late for the hook. */
const DIST = join(mkdtempSync(join(tmpdir(), 'nix-lan-hook-')), 'dist')
cpSync('dist', DIST, { recursive: true })
changed('dist/post-build-hook', DIST, PATIENT_HOOK.runtime, PATIENT_HOOK.store)
process.on('exit', () => rmSync(join(DIST, '..'), { recursive: true }))
const ROOTS = '/nix/var/nix/gcroots/nix-lan'

/**
 * Derivations with one and two outputs; `tag` makes them new. The content-addressed one needs a
 * feature that is off elsewhere.
 */
const NIX = `{ tag, kind }:
let
  base = { system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin"; inherit tag; };
in {
  two = derivation (base // { name = "two+x_1.0?y=z"; outputs = [ "out" "dev" ]; args = [ "-c" "echo $tag > $out; echo $tag > $dev" ]; });
  fixed = derivation (base // { name = "fixed-\${tag}"; outputHashAlgo = "sha256"; outputHashMode = "flat";
    outputHash = builtins.hashString "sha256" tag; args = [ "-c" "printf %s $tag > $out" ]; });
  many = derivation (base // { name = "many"; outputs = builtins.genList (n: "o\${toString n}") 60;
    args = [ "-c" (toString (builtins.genList (n: "echo $tag > $o\${toString n};") 60)) ]; });
  content = derivation (base // { name = "content"; __contentAddressed = true; outputHashAlgo = "sha256"; outputHashMode = "recursive";
    outputs = [ "out" "dev" ]; args = [ "-c" "echo $tag > $out; echo dev $tag > $dev" ]; });
}.\${kind}
`

/** A world with a daemon that has the hook, and a queue that is alice's. */
async function started(nix: 'host' | 'bookworm' | 'trixie' | 'forky', noRuntime: boolean): Promise<World> {
  const world = await createWorld({ nix, noRuntime, dist: DIST })
  const features = noRuntime ? 'nix-command' : 'nix-command ca-derivations'
  world.write('/etc/nix/nix.conf', nixConf({ 'post-build-hook': HOOK, 'experimental-features': features }))
  world.write('/opt/nix-lan/hook.nix', NIX)
  await world.must('root', 'install', ['-d', '-o', String(ALICE), `${ROOTS}/queue/rpi`])
  await world.startDaemon()
  return world
}

/** Builds as alice; returns the outputs. */
async function build(world: World, kind: string, tag: string, ...more: string[]): Promise<{ outputs: string[]; said: string }> {
  const args = ['/opt/nix-lan/hook.nix', '--no-out-link', '--argstr', 'kind', kind, '--argstr', 'tag', tag, ...more]
  const done = await world.run('alice', 'nix-build', args)
  assert.is(done.code, 0, done.stderr)
  return { outputs: done.stdout.trim().split('\n'), said: done.stderr }
}

/** The store paths that the queue holds, without derivations; `drvs` counts those. */
function queue(world: World): { paths: string[]; drvs: number } {
  const names = readdirSync(world.path(`${ROOTS}/queue/rpi`)).map((name) => `/nix/store/${name}`)
  return { paths: names.filter((name) => !name.endsWith('.drv')).sort(), drvs: names.filter((name) => name.endsWith('.drv')).length }
}

async function emptied(world: World): Promise<void> {
  await world.must('alice', 'sh', ['-c', `rm -f ${ROOTS}/queue/rpi/*`])
}

const hook = needs(suite('post-build-hook with Nix'), 'root', 'nix')
const releases = needs(suite('post-build-hook with the Nix of other releases'), 'root', 'nix', 'roots')

for (const [test, nix] of [
  [hook, 'host'],
  [releases, 'bookworm'],
  [releases, 'trixie'],
  [releases, 'forky'],
] as const) {
  test(`${nix}: all outputs and the derivation are queued by sh alone, also with --check, and survive a garbage collection`, async () => {
    const world = await started(nix, true)
    try {
      const two = await build(world, 'two', 'a')
      assert.is(two.said.includes('nix-lan:'), false, two.said)
      const { paths, drvs } = queue(world)
      assert.is(paths.length, 2)
      assert.is(drvs, 1)
      assert.ok(paths.some((path) => path.endsWith('-two+x_1.0?y=z')) && paths.some((path) => path.endsWith('-two+x_1.0?y=z-dev')))

      const fixed = await build(world, 'fixed', 'b')
      assert.ok(queue(world).paths.includes(fixed.outputs[0] ?? ''))

      await world.idle()
      await world.must('root', 'nix-store', ['--gc'])
      for (const path of queue(world).paths) assert.ok(existsSync(world.path(path)), `${path} was collected`)

      const before = queue(world)
      await emptied(world)
      await build(world, 'two', 'a', '--check')
      assert.equal(
        queue(world).paths,
        before.paths.filter((path) => path.includes('two')),
      )

      await emptied(world)
      await world.idle()
      await world.must('root', 'nix-store', ['--gc'])
      for (const path of before.paths) assert.is(existsSync(world.path(path)), false, `${path} should have been collected`)
    } finally {
      await world.close()
    }
  })

  test(`${nix}: outputs that only a parser or the database knows`, async () => {
    const world = await started(nix, false)
    try {
      const many = await build(world, 'many', 'c')
      assert.is(queue(world).paths.length, 60, many.said)
      await emptied(world)
      const content = await build(world, 'content', 'd')
      assert.is(queue(world).paths.length, 2, content.said)
      assert.ok(queue(world).paths.includes(content.outputs[0] ?? ''))
    } finally {
      await world.close()
    }
  })
}

hook('a build never fails: no queue, a full one, a symlink for it; with no runtime', async () => {
  const world = await started('host', true)
  try {
    await world.must('root', 'mv', [`${ROOTS}/queue`, '/nix/elsewhere'])
    await build(world, 'two', '1')
    await world.must('root', 'ln', ['-s', '/nix/elsewhere', `${ROOTS}/queue`])
    assert.match((await build(world, 'two', '2')).said, /nix-lan: \S+ is a symlink/)
    assert.equal(readdirSync(world.path('/nix/elsewhere/rpi')), [])
  } finally {
    await world.close()
  }
})

hook('single-user Nix: store and queue belong to the user', async () => {
  const world = await createWorld({ nix: 'host', noRuntime: true })
  try {
    world.write('/etc/nix/nix.conf', nixConf({ 'post-build-hook': HOOK }))
    world.write('/opt/nix-lan/hook.nix', NIX)
    await world.must('root', 'chown', ['-R', String(ALICE), '/nix'])
    await world.must('alice', 'mkdir', ['-p', `${ROOTS}/queue/rpi`])
    const args = ['/opt/nix-lan/hook.nix', '--no-out-link', '--argstr', 'kind', 'two', '--argstr', 'tag', 's']
    await world.must('alice', 'nix-build', args, { env: { NIX_REMOTE: 'local' } })
    assert.is(queue(world).paths.length, 2)
  } finally {
    await world.close()
  }
})

hook.run()
releases.run()
