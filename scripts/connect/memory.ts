// What is known of a box without asking it: what it has said, and what was read ahead. A session
// that is a process of its own has one to itself; a broker's sessions share one.
import { IS_VALID_PATH, NAR_FROM_PATH, notValid } from '../protocol/operations.ts'
import { QUERY_PATH_INFO, STDERR_LAST, u64 } from '../protocol/wire.ts'
import { Infos } from './infos.ts'
import { Promises } from './promises.ts'
import type { ReadAhead } from './read-ahead.ts'
import type { Upstream } from './upstream.ts'

/** Milliseconds. A slower answer came from afar, or from a box busy for a moment. */
const SLOW = 2
/**
 * After this many slow answers in a row the box is far away, and Nix's next questions are read
 * ahead. Until then a session stays as cheap as possible.
 */
const FEW = 3
/** The same if it has answered quickly before: then it is near, and busy at times. */
const MANY = 30
/** Milliseconds within which only a box on the same network answers. */
const NEAR = 1
/** Milliseconds after which a reading ahead that has failed too often is tried anew. */
const REST = 60_000

export class Memory {
  readonly promises = new Promises()
  private readonly upstream: Pick<Upstream, 'further' | 'report'>
  private readonly silence: number
  private readonly silent: (reason: Error) => void
  private readonly infos: Infos
  private ahead: ReadAhead | undefined
  private since = 0
  private opening: Promise<void> | undefined
  private slow = 0
  /** So many changes on the box (see Infos) had there been when it last answered quickly. */
  private near = -1
  private usable = true

  /**
   * @param silence seconds of silence before a connection is given up
   * @param silent called when the box is silent on a connection that reads ahead
   */
  constructor(upstream: Pick<Upstream, 'further' | 'report'>, silence: number, silent: (reason: Error) => void) {
    this.upstream = upstream
    this.silence = silence
    this.silent = silent
    this.infos = new Infos(upstream.further?.identity)
  }

  /** The answer to a question if it is known already; undefined: ask the box. Never rejects. */
  async answer(number: number, path: string): Promise<Buffer | undefined> {
    if (!this.usable) return undefined
    try {
      return await this.recall(number, path)
    } catch (mistake) {
      return this.mistaken(mistake as Error)
    }
  }

  private async recall(number: number, path: string): Promise<Buffer | undefined> {
    const { ahead } = this
    switch (number) {
      case QUERY_PATH_INFO: {
        if (!ahead) this.infos.lookAround()
        const known = ahead ? await ahead.info(path) : this.infos.get(path)
        if (known === null) return notValid(path)
        return known && Buffer.concat([u64(STDERR_LAST), known])
      }
      case NAR_FROM_PATH:
        return await ahead?.nar(path)
      case IS_VALID_PATH:
        return ahead?.lacks(path) ? Buffer.concat([u64(STDERR_LAST), u64(0)]) : undefined
      default:
        return undefined
    }
  }

  /**
   * The box has answered QueryPathInfo, after `ms` milliseconds. Never rejects.
   * @param found from "I have it" on; null: it lacks the path
   * @param listen called before the first reading ahead
   */
  async learn(path: string, found: Buffer | null, ms: number, listen: () => void): Promise<void> {
    if (!found) this.infos.miss(path)
    this.slow = ms > SLOW ? this.slow + 1 : 0
    if (ms <= NEAR) this.near = this.infos.changes
    try {
      if (this.ahead?.spent && performance.now() - this.since > REST) this.close()
      this.ahead?.answered(path, found, ms)
      if (this.ahead || !this.usable || this.slow < (this.near === this.infos.changes ? MANY : FEW)) return
      this.opening ??= this.readAhead(listen)
      await this.opening
    } catch (mistake) {
      this.mistaken(mistake as Error)
    }
  }

  private async readAhead(listen: () => void): Promise<void> {
    const { further } = this.upstream
    if (!further) return
    listen() // while Nix thinks, we listen to the box
    const { ReadAhead } = await import('./read-ahead.ts')
    this.ahead = new ReadAhead(further, this.infos, this.silence, this.silent)
    this.since = performance.now()
  }

  /** How many connections to the box it holds. */
  get connections(): number {
    return this.ahead?.connections ?? 0
  }

  /** The box was lost. */
  boxLost(): void {
    this.ahead?.boxLost()
  }

  close(): void {
    this.ahead?.close()
    this.ahead = undefined
    this.opening = undefined
    this.slow = 0
  }

  /** Whatever goes wrong in reading ahead, a build must not fail: from then on the box is asked. */
  private mistaken(mistake: Error): undefined {
    this.upstream.report(`this is a bug: ${mistake.message}`)
    this.close()
    this.usable = false
  }
}
