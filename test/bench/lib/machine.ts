// Which machine the figures are from; nothing in it says whose.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'

/** One line: processor, cores, memory, kernel, distribution, Node and Nix. */
export function describeMachine(): string {
  const [cpu] = cpus()
  const parts = [
    `${cpus().length} × ${cpu?.model.replace(/\s+/g, ' ').trim() || 'unknown processor'}`,
    `${Math.round(totalmem() / 2 ** 30)} GiB of memory`,
    `Linux ${release().replace(/[-+].*/, '')}`,
    /^PRETTY_NAME="?([^"\n]*)/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'unknown distribution',
    `Node ${process.versions.node}`,
    `Nix ${/[\d.]+/.exec(execFileSync('nix', ['--version'], { encoding: 'utf8' }))?.[0] ?? '?'}`,
  ]
  return parts.join(', ')
}
