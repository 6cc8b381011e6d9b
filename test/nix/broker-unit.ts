// nix-lan-broker@box.socket and .service in a pair's client, held by a stand-in for systemd
// (systemd-stand-in.pl), and root's file that names the user.
import { copyFileSync, existsSync, readFileSync } from 'node:fs'
import { substituterUrl } from '../../scripts/config/store-url.ts'
import { DEFAULT_DEADLINE, DEFAULT_PATIENCE } from '../../scripts/config/types.ts'
import { brokerSocket } from '../../scripts/system/paths.ts'
import { until } from '../lib/until.ts'
import { DEADLINE, DIST, type Pair } from './pair.ts'
import { ALICE, type Running } from './world.ts'

const BROKER_SOCKET = brokerSocket('box')
const SCRIPT = '/opt/nix-lan/systemd-stand-in.pl'

export interface BrokerOptions {
  /** Seconds; default: the unit's. */
  watchdog?: number
  /** More lines of root's file. */
  settings?: string
  /** Default: the broker. */
  program?: string[]
}

export class BrokerUnit {
  private readonly pair: Pair
  private standIn: Running | undefined

  constructor(pair: Pair) {
    this.pair = pair
  }

  /** The store URL that nix.conf names, with starts counted. */
  get url(): string {
    return this.urlOf(`${this.pair.client.dir}/connect`)
  }

  /** What setup would write for this program and the client's Nix. */
  urlOf(program: string): string {
    const { gainsFromConnections } = this.pair
    return substituterUrl(
      { name: 'box', deadline: DEFAULT_DEADLINE, patience: DEFAULT_PATIENCE },
      program,
      BROKER_SOCKET,
      gainsFromConnections,
    )
  }

  /** Has the socket listened to; the service starts with the first connection. */
  async start({
    watchdog = 20,
    settings = '',
    program = [`${DIST}/nix-lan-connect`, '--broker', 'box'],
  }: BrokerOptions = {}): Promise<void> {
    const { client } = this.pair
    client.write('/etc/nix-lan/connect/box', `user=alice\ndeadline=${DEADLINE}\n${settings}`)
    copyFileSync('test/nix/systemd-stand-in.pl', client.path(SCRIPT))
    this.standIn = client.start('root', 'perl', [SCRIPT, 'box', String(ALICE), String(watchdog), ...program])
    await this.says(/^listening$/m)
  }

  /** Starts the service, as nix-lan-connect would, and waits until it is up. */
  async up(): Promise<void> {
    await this.pair.client.must('root', 'perl', [
      '-e',
      'socket(S, 1, 1, 0) && connect(S, pack("Sa108", 1, $ARGV[0])) || die',
      BROKER_SOCKET,
    ])
    await until('the broker to be up', () => this.isUp())
  }

  isUp(): boolean {
    return existsSync(this.pair.client.path('/run/nix-lan/box.up'))
  }

  /** Its pid, as we see it; undefined when none runs. */
  running(): number | undefined {
    return this.pair.client.processes('').find((pid) => {
      try {
        return /^[^\0]*(node|deno|bun)\0.*\0--broker\0/.test(readFileSync(`/proc/${pid}/cmdline`, 'utf8'))
      } catch {
        return false // gone meanwhile
      }
    })
  }

  /** The same. @throws Error when there is none */
  pid(): number {
    const found = this.running()
    if (found === undefined) throw new Error(`no broker runs: ${this.output()}`)
    return found
  }

  /** What stand-in and broker have written. */
  output(): string {
    return this.standIn?.output() ?? ''
  }

  /** Waits for a line. */
  async says(line: RegExp): Promise<void> {
    await until(`${line} from the stand-in`, () => line.test(this.output()))
  }

  async stop(): Promise<void> {
    await this.standIn?.stop()
    this.standIn = undefined
  }
}
