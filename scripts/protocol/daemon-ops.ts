// Asks a nix-daemon for what goes beyond a substituter (operations.ts): full path infos, roots,
// garbage collection, text paths. One connection carries several requests, since the effect of some
// ends with it (AddTempRoot). Works the same with this machine's daemon and with a box's, and needs
// neither to trust us.
//
// Sources: Nix 2.8.0 and 2.34.8, src/libstore/daemon.cc, performOp; worker-protocol.hh for the
// numbers.
import { batches, NixError } from '../nix/nix.ts'
import { type Box, BoxUnavailable, send } from './box.ts'
import { dialBox } from './dial.ts'
import { NarEnd } from './nar-end.ts'
import { narQuestion, pathInfoQuestion, QUERY_ALL_VALID_PATHS, validPathsQuestion } from './operations.ts'
import { Recorder, readMessages, string, strings, u64 } from './wire.ts'

const ADD_TO_STORE = 7
const ADD_TEMP_ROOT = 11
const ADD_INDIRECT_ROOT = 12
const FIND_ROOTS = 14
const COLLECT_GARBAGE = 20
const QUERY_VALID_DERIVERS = 33
const ADD_TO_STORE_NAR = 39

/** GCOptions::GCAction (src/libstore/gc-store.hh). */
const RETURN_DEAD = 1
const DELETE_DEAD = 2
const DELETE_SPECIFIC = 3

/**
 * 2^64−1, "no limit". With 0, action 1 lists nothing; with action 3, any other value ends the
 * connection (2.8.0, 2.26.3, 2.34.8).
 */
const NO_LIMIT = Buffer.alloc(8, 0xff)

/** Bytes of paths in one question, as in ask.ts. */
const AT_ONCE = 460_000

/** Far more roots than any honest machine has. */
const MOST_ROOTS = 1_000_000

/** Everything a store knows about a valid path. */
export interface FullInfo {
  path: string
  deriver: string
  /** SHA-256 of the NAR, base 16. */
  hash: string
  references: string[]
  /** When it was registered, in seconds since 1970 by that store's clock. */
  registered: number
  /** Bytes of its NAR. */
  size: number
  ultimate: boolean
  signatures: string[]
  /** `text:…`, `fixed:…`, or ''. */
  contentAddress: string
}

/** What the daemon refuses, in its own words. */
export class Refused extends NixError {}

/** One connection to a nix-daemon. Every method throws NixError if it is lost or refuses. */
export class Daemon {
  private readonly box: Box
  private readonly who: string
  private readonly patience: number

  constructor(box: Box, who: string, patience: number) {
    this.box = box
    this.who = who
    this.patience = patience
  }

  /** Which of these paths are valid there. */
  async valid(paths: readonly string[]): Promise<Set<string>> {
    const valid = new Set<string>()
    await this.ask(batches(paths, AT_ONCE).map(validPathsQuestion), async (answer) => {
      for (const path of await answer.strings()) valid.add(path)
    })
    return valid
  }

  /**
   * What the store knows about these paths; those that aren't valid are left out. All questions are
   * sent before the first answer is awaited.
   */
  async infos(paths: readonly string[], each?: (done: number) => void): Promise<Map<string, FullInfo>> {
    const infos = new Map<string, FullInfo>()
    await this.ask(
      paths.map(pathInfoQuestion),
      async (answer, n) => {
        const path = paths[n] ?? ''
        if ((await answer.u64()) !== 0) infos.set(path, await readInfo(answer, path))
        each?.(n + 1)
      },
      { miss: 'is not valid' },
    )
    return infos
  }

  /** Every valid path. */
  async allValid(): Promise<string[]> {
    let all: string[] = []
    await this.ask([u64(QUERY_ALL_VALID_PATHS)], async (answer) => {
      all = await answer.strings()
    })
    return all
  }

  /** For each path, the valid derivations that have it as an output. */
  async derivers(paths: readonly string[]): Promise<Map<string, string[]>> {
    const derivers = new Map<string, string[]>()
    await this.ask(
      paths.map((path) => Buffer.concat([u64(QUERY_VALID_DERIVERS), string(path)])),
      async (answer, n) => {
        derivers.set(paths[n] ?? '', await answer.strings())
      },
    )
    return derivers
  }

  /** Everything that no root keeps. May include things in the store that aren't valid paths. */
  async dead(): Promise<string[]> {
    return (await this.collect(RETURN_DEAD, [])).paths
  }

  /** Deletes everything that no root keeps. */
  async collectDead(): Promise<void> {
    await this.collect(DELETE_DEAD, [])
  }

  /**
   * Deletes these paths. Stops at the first that is alive, or has a referrer that is neither listed
   * nor gone.
   * @throws Refused; what has been deleted by then stays deleted
   */
  async delete(paths: readonly string[]): Promise<void> {
    await this.collect(DELETE_SPECIFIC, paths)
  }

  private async collect(action: number, paths: readonly string[]): Promise<{ paths: string[]; freed: number }> {
    const result = { paths: [] as string[], freed: 0 }
    // action, paths, ignore-liveness, maxFreed, three obsolete numbers
    const question = Buffer.concat([u64(COLLECT_GARBAGE), u64(action), strings(paths), u64(0), NO_LIMIT, u64(0), u64(0), u64(0)])
    await this.ask([question], async (answer) => {
      result.paths = await answer.strings()
      result.freed = await answer.u64()
      await answer.u64()
    })
    return result
  }

  /** Roots: the link (or `{censored}` and the like) and the path it keeps. */
  async roots(): Promise<{ link: string; path: string }[]> {
    const roots: { link: string; path: string }[] = []
    await this.ask([u64(FIND_ROOTS)], async (answer) => {
      const count = await answer.u64()
      if (count > MOST_ROOTS) throw new Error(`it says that it has ${count} roots`)
      for (let left = count; left > 0; left--) roots.push({ link: await answer.string(), path: await answer.string() })
    })
    return roots
  }

  /** Keeps these paths, even those that don't exist yet, until the connection is closed. */
  async addTempRoots(paths: readonly string[]): Promise<void> {
    await this.ask(
      paths.map((path) => Buffer.concat([u64(ADD_TEMP_ROOT), string(path)])),
      async (answer) => {
        await answer.u64()
      },
    )
  }

  /** Makes a symlink on the daemon's machine a root, for as long as it exists. */
  async addIndirectRoot(link: string): Promise<void> {
    await this.ask([Buffer.concat([u64(ADD_INDIRECT_ROOT), string(link)])], async (answer) => {
      await answer.u64()
    })
  }

  /**
   * Adds a text file that refers to these paths. Needs no trust, since its name is derived from its
   * content. The daemon keeps it until the connection is closed.
   * @param references must be valid there
   * @returns its path
   * @throws Refused, for instance when a reference isn't valid
   */
  async addText(name: string, text: string, references: readonly string[]): Promise<string> {
    const content = Buffer.from(text)
    // name, method, references, repair; then the content as a framed stream: chunks, each after its
    // length, and a 0 (daemon.cc, 1.25 and later)
    const head = Buffer.concat([u64(ADD_TO_STORE), string(name), string('text:sha256'), strings([...references].sort()), u64(0)])
    let path = ''
    await this.ask([Buffer.concat([head, u64(content.length), content, u64(0)])], async (answer) => {
      path = await answer.string()
      await readInfo(answer, path)
    })
    return path
  }

  /**
   * Reads a path's NAR.
   * @param take is lent each chunk
   */
  async nar(path: string, take: (chunk: Buffer) => Promise<void> | void): Promise<void> {
    await this.ask([narQuestion(path)], async (_, __, alive) => {
      const { reader } = this.box
      const end = new NarEnd()
      while (!end.done) {
        const chunk = await reader.peek()
        const length = end.scan(chunk)
        await take(chunk.subarray(0, length))
        reader.consume(length)
        alive()
      }
    })
  }

  /**
   * Replaces a path's copy, which is damaged, or adds the path. Needs no trust if the store believes
   * one of the signatures, or the path is content-addressed; what refers to it there may stay. The
   * daemon deletes its copy first, and checks the hash last. Without a signature that it believes it
   * touches nothing (2.8.0, 2.26.3, 2.34.8, src/libstore/daemon.cc, local-store.cc, addToStore).
   * @param nar writes the NAR, in chunks
   * @throws Refused, in the daemon's words
   */
  async repair(info: FullInfo, nar: (write: (chunk: Buffer) => Promise<void>) => Promise<void>): Promise<void> {
    const { path, deriver, hash, references, registered, size, signatures, contentAddress } = info
    const fields = [string(path), string(deriver), string(hash), strings(references), u64(registered), u64(size), u64(0)]
    // repair; and that signatures aren't to be checked: no
    const head = [u64(ADD_TO_STORE_NAR), ...fields, strings(signatures), string(contentAddress), u64(1), u64(0)]
    await this.ask([Buffer.concat(head)], async () => {}, {
      more: async (alive) => {
        // a framed stream: chunks, each after its length, and a 0 (1.23 and later)
        await nar(async (chunk) => {
          await this.write(Buffer.concat([u64(chunk.length), chunk]))
          alive()
        })
        await this.write(u64(0))
      },
    })
  }

  /** Writes, and waits until there is room for more. Fails when the daemon is lost meanwhile. */
  private write(bytes: Buffer): Promise<void> {
    const { socket } = this.box
    return new Promise((resolve, reject) => {
      const closed = (): void => reject(new Error('it closed the connection'))
      socket.once('close', closed)
      socket.write(bytes, (error) => {
        socket.off('close', closed)
        if (error) reject(error)
        else resolve()
      })
    })
  }

  close(): void {
    this.box.socket.destroy()
  }

  /**
   * Sends all questions at once and reads the answers in turn.
   * @param miss an error with these words only means that there is no answer
   * @param more sends what follows the questions; both are told how to say that something happened
   */
  private async ask(
    questions: readonly Buffer[],
    read: (answer: Recorder, n: number, alive: () => void) => Promise<void>,
    { miss, more }: { miss?: string; more?: (alive: () => void) => Promise<void> } = {},
  ): Promise<void> {
    if (questions.length === 0) return
    const { reader } = this.box
    const silence = `${this.who} has not answered within ${this.patience / 1000} s`
    const timer = setTimeout(() => {
      reader.finish(new NixError(silence))
      this.close() // for what waits to be written
    }, this.patience)
    const alive = (): void => void timer.refresh()
    try {
      await send(this.box, Buffer.concat(questions))
      await more?.(alive)
      for (const n of questions.keys()) {
        const answer = new Recorder(reader)
        const ending = await readMessages(answer)
        if (!ending.error) await read(answer, n, alive)
        else if (miss === undefined || !ending.message.includes(miss)) throw new Refused(`${this.who} says: ${ending.message}`)
        timer.refresh()
      }
    } catch (error) {
      this.close()
      if (error instanceof NixError) throw error
      throw new NixError(error instanceof BoxUnavailable ? error.message : `${this.who} was lost: ${(error as Error).message}`)
    } finally {
      clearTimeout(timer)
    }
  }
}

/** The fields of a path, after the word that says it is valid (2.8.0, path-info.cc). */
async function readInfo(answer: Recorder, path: string): Promise<FullInfo> {
  const deriver = await answer.string()
  const hash = await answer.string()
  const references = await answer.strings()
  const registered = await answer.u64()
  const size = await answer.u64()
  const ultimate = (await answer.u64()) !== 0
  const signatures = await answer.strings()
  return { path, deriver, hash, references, registered, size, ultimate, signatures, contentAddress: await answer.string() }
}

/**
 * Connects to a nix-daemon.
 * @param socket its own, or the tunnel's
 * @param who what messages call it: "the box"
 * @param limits milliseconds: `deadline` for the handshake, `patience` for each answer
 * @throws NixError when it can't be reached
 */
export async function openDaemon(socket: string, who: string, limits: { deadline: number; patience: number }): Promise<Daemon> {
  try {
    return new Daemon(await dialBox(socket, limits.deadline), who, limits.patience)
  } catch (error) {
    throw new NixError((error as Error).message)
  }
}
