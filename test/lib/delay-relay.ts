// A link with latency, a limited rate, and cuts, for tests and benchmarks on one machine:
// test/lib/delay-relay.mjs, started and steered from here.
import { type ChildProcess, spawn } from 'node:child_process'

/** What a link is like. */
export interface Link {
  /** Milliseconds in each direction: half of the round trip. */
  delay: number
  /** Bytes a second in each direction, for all connections together; 0: no limit. */
  rate: number
}

/**
 * How a link is lost: nothing comes any more; connections are reset; they are closed. `none`: it is
 * back.
 */
export type Cut = 'silent' | 'hard' | 'clean' | 'none'

/** A port of 127.0.0.1, or the path of a unix socket. */
export type Place = number | string

/**
 * Starts a relay, without delay at first. @param ways where it listens, and where each leads
 * @throws Error when it can't listen
 */
export async function startRelay(...ways: readonly (readonly [listen: Place, target: Place])[]): Promise<Relay> {
  const words = JSON.stringify(ways.map((way) => way.map(String)))
  const child = spawn(process.execPath, ['test/lib/delay-relay.mjs', words], { stdio: ['pipe', 'pipe', 'inherit'] })
  const relay = new Relay(child)
  await relay.heard('ready')
  return relay
}

/** See startRelay. It ends with us. */
export class Relay {
  private readonly child: ChildProcess
  private said = ''
  private readonly waiting = new Set<() => void>()
  private over = false

  constructor(child: ChildProcess) {
    this.child = child
    child.stdin?.on('error', () => {})
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.said += text
      this.wake()
    })
    child.on('exit', () => {
      this.over = true
      this.wake()
    })
  }

  private wake(): void {
    for (const wake of this.waiting) wake()
    this.waiting.clear()
  }

  /**
   * Waits for a line, and takes it. Called by startRelay. @throws Error when the relay ends before
   */
  async heard(line: string): Promise<void> {
    while (!this.said.includes(`${line}\n`)) {
      if (this.over) throw new Error(`the relay has ended before it said ${line}`)
      await new Promise<void>((resolve) => this.waiting.add(resolve))
    }
    this.said = this.said.replace(`${line}\n`, '')
  }

  /** Makes the link like that from now on. */
  async set(link: Partial<Link>): Promise<void> {
    await this.tell(link)
  }

  /** Cuts it, or mends it. */
  async cut(how: Cut): Promise<void> {
    await this.tell({ cut: how })
  }

  private async tell(command: object): Promise<void> {
    this.child.stdin?.write(`${JSON.stringify(command)}\n`)
    await this.heard('done')
  }

  /** Ends it, with its connections. */
  close(): void {
    this.child.stdin?.end()
  }
}
