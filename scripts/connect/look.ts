// Asks the user's systemd to look for the boxes now, as the tunnel does when it ends. Loaded only
// while a fetch waits for a lost box.
import { spawn } from 'node:child_process'
import { lstatSync } from 'node:fs'
import { dirname } from 'node:path'
import { systemPath } from '../system/search-path.ts'

/**
 * Starts a check, and waits for nothing. A check that runs already is enough: we ask again. Without
 * units or systemd there is nobody to ask. system/systemd.ts would do the same, but takes a tenth
 * of connect's size.
 * @param socket the tunnel's; whoever owns its folder has the tunnel
 */
export function askForCheck(socket: string): void {
  const folder = dirname(socket)
  const { uid, gid } = lstatSync(folder)
  const command = ['systemctl', '--user', '--no-block', 'start', 'nix-lan-check.service']
  if (uid !== process.geteuid?.()) command.unshift('setpriv', `--reuid=${uid}`, `--regid=${gid}`, '--clear-groups', '--')
  const [program = '', ...args] = command
  // The manager's socket is in the folder that holds ours (system/paths.ts, runtimeDir).
  const env = { PATH: systemPath(), XDG_RUNTIME_DIR: dirname(folder) }
  spawn(program, args, { env, stdio: 'ignore', detached: true, cwd: '/' })
    .on('error', () => {})
    .unref()
}
