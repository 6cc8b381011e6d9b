// nix/make-key.sh with a real Nix: the key's name, links and mount points on the way to the file,
// and what it never does.
import { spawnSync } from 'node:child_process'
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { hostname } from 'node:os'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { needs } from '../lib/needs.ts'

const test = needs(suite('make-key'), 'nix')
/** Without the group nixbld, which a machine need not have, Nix warns. */
const env = { ...process.env, NIX_CONFIG: 'build-users-group =' }
const KEY = /^([^:]+):[A-Za-z0-9+/]{43}=\n?$/
let dir = ''
test.before.each(() => {
  dir = mkdtempSync('/tmp/nix-lan-key-')
})
test.after.each(() => rmSync(dir, { recursive: true, force: true }))

const read = (file: string): string => readFileSync(`${dir}/${file}`, 'utf8')
const nameOf = (file: string): string => KEY.exec(read(file))?.[1] ?? ''

/** Runs it for DIR/etc/lan.secret; what it prints. */
function make(name = 'laptop'): string {
  const args = ['nix/make-key.sh', `${dir}/etc/lan.secret`, `${dir}/etc/lan.public`, name]
  const { status, stdout, stderr } = spawnSync('bash', args, { env, encoding: 'utf8' })
  assert.equal([status, stderr], [0, ''])
  return stdout
}

test('makes a key with a random part in its name, and says what the box needs', () => {
  const said = make()
  assert.match(nameOf('etc/lan.public'), /^laptop-[0-9a-f]{8}-1$/)
  assert.is(read('etc/lan.secret').split(':')[0], nameOf('etc/lan.public'))
  assert.is(said, `what is built here is signed from now on; for trusted-public-keys of the box: ${read('etc/lan.public').trim()}\n`)
  const mode = (file: string): number => statSync(`${dir}/${file}`).mode & 0o777
  assert.equal([mode('etc'), mode('etc/lan.secret'), mode('etc/lan.public')], [0o755, 0o600, 0o644])
  assert.equal(readdirSync(`${dir}/etc`).sort(), ['lan.public', 'lan.secret'], 'nothing else is left')
})

test('it is such a key that the test on virtual machines waits for', () => {
  make()
  const pattern = /re\.fullmatch\(r"(.*)", public\)/.exec(readFileSync('nix/test.nix', 'utf8'))?.[1] ?? ''
  assert.match(read('etc/lan.public').trim(), new RegExp(`^(${pattern})$`))
})

test('leaves a key alone', () => {
  make()
  const before = [read('etc/lan.secret'), read('etc/lan.public')]
  assert.is(make(), '')
  assert.equal([read('etc/lan.secret'), read('etc/lan.public')], before)
})

test('/etc gone, as on tmpfs: the key that is made anew has another name', () => {
  make()
  const first = nameOf('etc/lan.public')
  rmSync(`${dir}/etc`, { recursive: true })
  make()
  assert.is.not(nameOf('etc/lan.public'), first)
})

test('only the secret half gone: the former public half is kept and named', () => {
  make()
  const former = read('etc/lan.public').trim()
  rmSync(`${dir}/etc/lan.secret`)
  assert.match(make(), `nix.settings.trusted-public-keys = [ "${former}" ];\n`)
  assert.is(read('etc/lan.public.former').trim(), former)
  assert.is.not(nameOf('etc/lan.public'), former.split(':')[0])
})

test('only the public half gone: it is made from the secret', () => {
  make()
  const lost = read('etc/lan.public').trim()
  rmSync(`${dir}/etc/lan.public`)
  assert.is(make(), '')
  assert.is(read('etc/lan.public').trim(), lost)
})

test('through links, as impermanence makes them: the persistent folder has the key, and the links stay', () => {
  for (const folder of ['etc', 'persist']) mkdirSync(`${dir}/${folder}`)
  for (const half of ['secret', 'public']) symlinkSync(`${dir}/persist/nix/lan.${half}`, `${dir}/etc/lan.${half}`)
  make()
  assert.is(nameOf('persist/nix/lan.public'), read('persist/nix/lan.secret').split(':')[0])
  for (const half of ['secret', 'public']) assert.ok(lstatSync(`${dir}/etc/lan.${half}`).isSymbolicLink(), half)
})

test('an empty file is no key', () => {
  mkdirSync(`${dir}/etc`)
  writeFileSync(`${dir}/etc/lan.secret`, '')
  make()
  assert.match(read('etc/lan.secret'), /^laptop-/)
})

test("a name with dots stays; without one, it is the host's", () => {
  make('cache.example.org')
  assert.match(nameOf('etc/lan.public'), /^cache\.example\.org-[0-9a-f]{8}-1$/)
  rmSync(`${dir}/etc`, { recursive: true })
  make('')
  const host = (hostname().split('.')[0] ?? '').replace(/[^A-Za-z0-9-]/g, '') || 'nix-lan'
  assert.match(nameOf('etc/lan.public'), new RegExp(`^${host}-[0-9a-f]{8}-1$`))
})

test('Nix fails: no file is left, and it fails', () => {
  const args = ['nix/make-key.sh', `${dir}/etc/lan.secret`, `${dir}/etc/lan.public`, 'x']
  mkdirSync(`${dir}/bin`)
  writeFileSync(`${dir}/bin/nix-store`, '#!/bin/sh\nexit 7\n', { mode: 0o755 })
  const { status } = spawnSync('bash', args, { env: { PATH: `${dir}/bin:/usr/bin:/bin` } })
  assert.is(status, 7)
  assert.equal(readdirSync(`${dir}/etc`), [])
})

test.run()

const mounts = needs(suite('make-key: mount points'), 'nix', 'root')
mounts('files that are mount points themselves are written to', () => {
  const at = mkdtempSync('/tmp/nix-lan-key-')
  try {
    const script = `set -e
      mkdir etc persist; for half in secret public; do touch etc/lan.$half persist/lan.$half; mount --bind persist/lan.$half etc/lan.$half; done
      bash "$1" "$PWD/etc/lan.secret" "$PWD/etc/lan.public" laptop`
    const args = ['--mount', '--propagation', 'private', 'bash', '-c', script, 'bash', `${process.cwd()}/nix/make-key.sh`]
    const { status, stderr } = spawnSync('unshare', args, { cwd: at, env, encoding: 'utf8' })
    assert.equal([status, stderr], [0, ''])
    assert.match(readFileSync(`${at}/persist/lan.secret`, 'utf8'), /^laptop-[0-9a-f]{8}-1:/)
    assert.match(readFileSync(`${at}/persist/lan.public`, 'utf8'), KEY)
    assert.not(existsSync(`${at}/etc/lan.public.former`))
  } finally {
    rmSync(at, { recursive: true, force: true })
  }
})
mounts.run()
