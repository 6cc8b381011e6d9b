// Asks the box's nix-daemon, at the tunnel's socket, what its store has: all questions of a call go
// over one connection, sent before the first answer is awaited. `nix path-info --store` would start
// Nix and nix-lan-connect, and wait out a full round trip for each path in turn.

import { batches, NixError } from '../nix/nix.ts'
import type { PathInfo } from '../nix/path-info.ts'
import { type Box, BoxUnavailable, send } from './box.ts'
import { dialBox } from './dial.ts'
import { pathInfoQuestion, readPathInfo, validPathsQuestion } from './operations.ts'
import { Recorder, readMessages } from './wire.ts'

/**
 * How long the box may keep us waiting, in milliseconds: until the handshake is done, and for each
 * answer. A link can go unresponsive.
 */
export interface Limits {
  deadline: number
  patience: number
}

/**
 * Bytes of paths in one question, far below the longest answer we listen to (wire.ts), so a store
 * of any size can be asked about.
 */
const AT_ONCE = 460_000

/**
 * Which of these paths the box has.
 * @param socket the tunnel's
 * @throws NixError when the box can't be asked, or refuses
 */
export async function validOnBox(socket: string, paths: readonly string[], limits: Limits): Promise<Set<string>> {
  const valid = new Set<string>()
  await ask(socket, batches(paths, AT_ONCE).map(validPathsQuestion), limits, async (answer) => {
    for (const path of await answer.strings()) valid.add(path)
  })
  return valid
}

/**
 * What the box knows about the paths; those it lacks are left out.
 * @param socket the tunnel's
 * @throws NixError when the box can't be asked, or refuses
 */
export async function infosOnBox(socket: string, paths: readonly string[], limits: Limits): Promise<Map<string, PathInfo>> {
  const infos = new Map<string, PathInfo>()
  await ask(socket, paths.map(pathInfoQuestion), limits, async (answer, n) => {
    const info = await readPathInfo(answer)
    const path = paths[n]
    if (info && path !== undefined) infos.set(path, info)
  })
  return infos
}

async function ask(
  socket: string,
  questions: readonly Buffer[],
  limits: Limits,
  read: (answer: Recorder, n: number) => Promise<void>,
): Promise<void> {
  if (questions.length === 0) return
  let box: Box | undefined
  let timer: NodeJS.Timeout | undefined
  try {
    box = await dialBox(socket, limits.deadline)
    const { reader } = box
    timer = setTimeout(() => reader.finish(new NixError(`the box has not answered within ${limits.patience / 1000} s`)), limits.patience)
    await send(box, Buffer.concat(questions))
    for (const n of questions.keys()) {
      const answer = new Recorder(reader)
      const ending = await readMessages(answer)
      if (ending.error) throw new NixError(`the box says: ${ending.message}`)
      await read(answer, n)
      timer.refresh()
    }
  } catch (error) {
    if (error instanceof NixError) throw error
    throw new NixError(error instanceof BoxUnavailable ? error.message : `the box was lost: ${(error as Error).message}`)
  } finally {
    clearTimeout(timer)
    box?.socket.destroy()
  }
}
