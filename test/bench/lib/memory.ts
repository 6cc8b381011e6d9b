// Memory of processes, from /proc.
import { readFileSync } from 'node:fs'
import { allProcesses } from '../../lib/processes.ts'

/** All that descend from a process, without itself (for us that is an nsenter, which waits). */
export function descendants(root: number): number[] {
  const children = new Map<number, number[]>()
  for (const pid of allProcesses()) {
    const parent = Number(/\) \S (\d+)/.exec(read(`/proc/${pid}/stat`))?.[1])
    children.set(parent, [...(children.get(parent) ?? []), pid])
  }
  const all: number[] = []
  for (let front = children.get(root) ?? []; front.length > 0; front = front.flatMap((pid) => children.get(pid) ?? [])) all.push(...front)
  return all
}

/** The name of a process (as in /proc/PID/comm); empty when it is gone. */
export const nameOf = (pid: number): string => read(`/proc/${pid}/comm`).trim()

/**
 * MiB that are resident now (VmRSS), or the most that ever were (VmHWM); 0 when the process is
 * gone.
 */
export const resident = (pid: number, field: 'VmRSS' | 'VmHWM' = 'VmRSS'): number =>
  Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(read(`/proc/${pid}/status`))?.[1] ?? 0) / 1024

function read(file: string): string {
  try {
    return readFileSync(file, 'latin1')
  } catch {
    return '' // gone meanwhile
  }
}
