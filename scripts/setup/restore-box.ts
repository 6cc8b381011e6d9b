// Undoes what setup did on a box.
import type { SshCache } from '../config/types.ts'
import type { Person } from '../system/as-user.ts'
import { askBox, restoreScript, runOnBox } from './box.ts'
import { done, say } from './dialogue.ts'
import type { Box } from './plan.ts'
import type { BoxDeed } from './record.ts'

/**
 * Undoes what setup did on the boxes. If a box moved, the configuration says where it is.
 * @returns the number of boxes that could not be restored
 */
export async function restoreBoxes(box: readonly BoxDeed[], person: Person, caches: readonly SshCache[]): Promise<number> {
  let problems = 0
  for (const deed of box) {
    const target = placeOf(deed, caches)
    const { ssh } = target
    const answer = await askBox(person, target, '/nix/var/nix/daemon-socket/socket')
    try {
      if (answer.kind !== 'there' || answer.facts.root === 'no') throw new Error(answer.kind === 'there' ? 'no sudo there' : answer.why)
      const conf = deed.conf ?? answer.facts.conf
      await runOnBox(person, target, answer.facts.root, restoreScript({ ...deed, conf }))
      done(`${ssh} restored`)
    } catch (error) {
      problems++
      say(`  not done on ${ssh} (${(error as Error).message}); do it there by hand:`)
      for (const line of byHand(deed)) say(`      ${line}`)
    }
  }
  return problems
}

function byHand(deed: BoxDeed): string[] {
  const lines: string[] = []
  if (deed.key)
    lines.push(
      `remove from ${deed.conf ?? '/etc/nix/nix.conf'}: extra-trusted-public-keys = ${deed.key}`,
      'sudo systemctl restart nix-daemon',
    )
  const [user, group] = deed.member?.split(' ') ?? []
  if (user && group) lines.push(`sudo gpasswd -d ${user} ${group}`)
  return lines
}

/** Where a box is now: where the configuration says, else where it was; pure. */
export function placeOf(deed: BoxDeed, caches: readonly SshCache[]): Box {
  const { ssh, port, host } = caches.find(({ name }) => name === deed.cache) ?? deed
  return { name: deed.cache, host: host ?? ssh.replace(/^.*@/, ''), ssh, port }
}
