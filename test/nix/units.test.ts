// The units on the oldest systemd that they are for, 247 of Debian 11, which has no Nix that is new
// enough for a lab (test/lab/units.lab.ts has the newer ones): systemd-analyze verify, in a root of
// that release.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { run } from '../../scripts/system/exec.ts'
import { SYSTEM_UNITS, UNITS } from '../../scripts/system/texts.ts'
import { needs } from '../lib/needs.ts'
import { builtRoot, cacheFolder } from '../lib/roots.ts'

const test = needs(suite('units on systemd 247'), 'root', 'roots')

// systemd wants to know its control group. $0: the root, $1: a folder with the units, $2: whose
// systemd (--user, --system); then their names.
const IN_ROOT = `mount --bind "$0" "$0"
mount -t proc proc "$0/proc"
mount -t sysfs sysfs "$0/sys"
mount -t cgroup2 cgroup2 "$0/sys/fs/cgroup"
mount -t tmpfs tmpfs "$0/tmp"
mount -t tmpfs tmpfs "$0/run"
cp "$1"/* "$0/tmp"
mkdir "$0/run/user"
whose=$2
shift 2
exec chroot "$0" env -i -C /tmp PATH=/usr/bin:/bin HOME=/tmp XDG_RUNTIME_DIR=/run/user SYSTEMD_UNIT_PATH=/tmp: \\
  systemd-analyze "$whose" --man=no verify "$@"`

/** What systemd-analyze says of these units, and its exit code. */
async function verify(units: Record<string, string>, whose = '--user'): Promise<{ code: number | null; said: string }> {
  const root = await builtRoot({ suite: 'bullseye', root: `${cacheFolder()}/roots/bullseye-systemd`, include: 'systemd' })
  const folder = mkdtempSync(join(tmpdir(), 'nix-lan-units-'))
  try {
    for (const [name, text] of Object.entries(units)) writeFileSync(join(folder, name), text)
    const names = Object.keys(units).map((name) => name.replace('@', '@pi'))
    const namespaces = ['--mount', '--pid', '--fork', '--kill-child', '--propagation', 'private']
    const args = [...namespaces, 'sh', '-ec', IN_ROOT, root, folder, whose, ...names]
    const { code, stderr } = await run('unshare', args, { timeout: 240_000 })
    return { code, said: stderr }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

test('systemd-analyze verify has nothing to say about them', async () => {
  const { code, said } = await verify(UNITS)
  assert.is(code, 0, said)
  assert.not.match(said, /nix-lan|cycle/)
})

test('nor about those of the system', async () => {
  const { code, said } = await verify(SYSTEM_UNITS, '--system')
  assert.is(code, 0, said)
  assert.not.match(said, /nix-lan|cycle/)
})

test('it would: a setting of the broker that this systemd does not know', async () => {
  const name = 'nix-lan-broker@.service'
  const { said } = await verify({ ...SYSTEM_UNITS, [name]: `${SYSTEM_UNITS[name]}PrivateIPC=true\n` }, '--system') // since 248
  assert.match(said, /Unknown key name 'PrivateIPC'/)
})

test('it would: a path unit that begins before the tunnel that it waits for', async () => {
  const name = 'nix-lan-upload@.path'
  const { said } = await verify({ ...UNITS, [name]: (UNITS[name] ?? '').replace('DefaultDependencies=no\n', '') })
  assert.match(said, /ordering cycle/)
})

test.run()
