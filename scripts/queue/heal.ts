// Replaces what is damaged on the box by the good copy that is here. Whatever connect has noted as
// damaged, and is valid here, is sent by an upload before anything else. The note goes once the box
// has the copy. What isn't here can at least be looked at again: somebody may have repaired it there.
import { createHash } from 'node:crypto'
import { type Daemon, type FullInfo, Refused } from '../protocol/daemon-ops.ts'

/** The two stores, and the notes. Opening a store throws NixError when it can't be asked. */
export interface Ward {
  /** The paths noted as damaged on the box, at least one. */
  damaged: readonly string[]
  /** Whether to read again, from the box, what isn't valid here. */
  looksAgain: boolean
  openHere(): Promise<Daemon>
  openBox(): Promise<Daemon>
  /**
   * Takes a note back.
   * @param replaced whether the box has ours now; else it has a good one already, or none any more
   * @throws Error when that can't be written down
   */
  takeBack(path: string, replaced: boolean): void
}

/**
 * Sends good copies of what is damaged on the box. What isn't valid here stays as it is, unless it
 * has been repaired there.
 * @returns what was not replaced though it is valid here, and why
 * @throws NixError when a store can't be asked, or is lost
 */
export async function heal({ damaged, looksAgain, openHere, openBox, takeBack }: Ward): Promise<Map<string, string>> {
  const refused = new Map<string, string>()
  const here = await openHere()
  let box = await openBox()
  try {
    await here.addTempRoots(damaged)
    const [good, bad] = [await here.infos(damaged), await box.infos(damaged)]
    for (const path of damaged) {
      const [info, there] = [good.get(path), bad.get(path)]
      if (!there) takeBack(path, false)
      else if (info) {
        const refusal = await replace(info, there, here, box)
        if (refusal === undefined) {
          takeBack(path, true)
          continue
        }
        refused.set(path, refusal)
        box.close()
        box = await openBox() // that connection may be out of step
      } else if (looksAgain) {
        const hash = await hashOf(path, box).catch(() => undefined)
        if (hash === there.hash) takeBack(path, false)
        if (hash !== undefined) continue
        box.close()
        box = await openBox()
      }
    }
  } finally {
    here.close()
    box.close()
  }
  return refused
}

/** @returns why the box has no good copy */
async function replace(info: FullInfo, there: FullInfo, here: Daemon, box: Daemon): Promise<string | undefined> {
  const { path, hash, signatures, contentAddress } = info
  if (signatures.length === 0 && contentAddress === '')
    return `damaged on the box; the copy here is unsigned: sudo nix-lan queue sign, then retry`
  // The box deletes its copy before it sees ours.
  if ((await hashOf(path, here)) !== hash)
    return `damaged on the box, and the copy here isn't what this store has registered either: nix-store --verify-path ${path}`
  // The box forgets the signatures of the copy it had.
  const all = there.hash === hash ? [...new Set([...signatures, ...there.signatures])] : signatures
  try {
    await box.repair({ ...info, signatures: all }, (write) => here.nar(path, write))
    return undefined
  } catch (error) {
    if (!(error instanceof Refused)) throw error
    return `damaged on the box, which takes no good copy: ${error.message}`
  }
}

/** SHA-256 of a path's NAR, in base 16. */
async function hashOf(path: string, store: Daemon): Promise<string> {
  const hash = createHash('sha256')
  await store.nar(path, (chunk) => void hash.update(chunk))
  return hash.digest('hex')
}
