// Puts the programs that nix-lan is measured against into a world: those of test/bench/rivals,
// which we wrote, and task-spooler's and sudo's set-up.
import { readdirSync, readFileSync } from 'node:fs'
import type { World } from '../../nix/world.ts'

/** Where the rivals lie in the world; it is in PATH too. */
export const RIVALS = '/usr/local/bin'

/** Writes all of them. */
export function addRivals(world: World): void {
  const folder = 'test/bench/rivals'
  for (const name of readdirSync(folder)) world.write(`${RIVALS}/${name}`, readFileSync(`${folder}/${name}`, 'utf8'), { mode: 0o755 })
  world.write('/home/alice/.bashrc', 'export SSH_AUTH_SOCK=/run/user/1000/agent\n', { user: 'alice' })
  world.write('/etc/hosts', '127.0.0.1 localhost box.lan\n::1 localhost\n')
}
