// Races for a TCP port: dials all addresses of a name at once, and the first that accepts wins.
// getent resolves names, in a child that can be killed: Node's own look-up can't be cancelled, and
// a process doesn't exit before it is done (6 s measured). For names in .local, avahi is asked as
// well: libnss-mdns first asks the DNS server for the SOA of `local`, and waits 10 s if that is
// silent.
import { createConnection, isIPv4, isIPv6, type Socket } from 'node:net'
import { inSeconds } from '../cli/text.ts'
import { run } from '../system/exec.ts'
import { searchEnv } from '../system/search-path.ts'

/** The address that accepted, or why none did. */
export type Winner = { address: string } | { reason: string }

/**
 * Milliseconds that last time's address, once it accepts, waits for the name service to confirm it:
 * another machine may have it by now, and a silent name service (10 s with mDNS behind a dead DNS
 * server) must not hold us up.
 */
const CONFIRMATION = 250

/** Where avahi-daemon answers questions, one line each (its avahi-daemon/simple-protocol.c). */
const AVAHI = '/run/avahi-daemon/socket'

/** More reasons than this help nobody. */
const MOST_REASONS = 3

const WORDS: Record<string, string> = {
  ECONNREFUSED: 'connection refused',
  EHOSTUNREACH: 'no route to it',
  ENETUNREACH: 'no network that leads there',
  ECONNRESET: 'connection reset',
  ETIMEDOUT: 'no answer',
}

/**
 * The addresses in the output of `getent ahosts`, each once, in order; pure. Skips lines that start
 * with anything else.
 */
export function addressesIn(output: string): string[] {
  const words = output.split('\n').map((line) => line.trim().split(/\s+/, 1)[0] ?? '')
  return [...new Set(words.filter(isAddress))]
}

/**
 * Whether a text is an IP address. Node's isIP compiles a huge pattern for IPv6 (4 ms), so isIPv6
 * is only called for text with a colon.
 */
export const isAddress = (text: string): boolean => (text.includes(':') ? isIPv6(text) : isIPv4(text))

/** Whether an address means nothing without an interface. */
export const needsScope = (address: string): boolean => /^fe[89ab][0-9a-f]:/i.test(address) && !address.includes('%')

/** Whether the name service lists an address, whose scope may have come from us; pure. */
export const lists = (addresses: readonly string[], address: string): boolean =>
  addresses.includes(address) || addresses.includes(address.replace(/%.*/, ''))

/** The address in avahi's answer, `+ INTERFACE PROTOCOL NAME ADDRESS`; else undefined; pure. */
export function addressFromAvahi(answer: string): string | undefined {
  const [sign, , , , address = ''] = answer.trim().split(/\s+/)
  return sign === '+' && isAddress(address) ? address : undefined
}

export interface RaceOptions {
  /** The interfaces on which to try an IPv6 link-local address that comes without one. */
  scopes: () => string[]
  /** Only addresses of this family count (ssh's AddressFamily). */
  family?: 4 | 6
  /** Where avahi-daemon listens, if it runs. */
  avahi?: string
}

/** One race. It ends once, by the deadline at the latest, and leaves no sockets or child behind. */
export class Race {
  private readonly host: string
  private readonly port: number
  private readonly deadline: number
  private readonly scopes: () => string[]
  private readonly family: 4 | 6 | undefined
  private readonly avahi: string
  private readonly abort = new AbortController()
  private readonly sockets = new Map<string, Socket>()
  private readonly failures = new Map<string, string>()
  /**
   * Addresses that have neither accepted nor failed; false: the interface is a guess. (Not
   * socket.destroyed, which is set before the error arrives.)
   */
  private readonly pending = new Map<string, boolean>()
  private readonly timers: ReturnType<typeof setTimeout>[] = []
  private remembered: string | undefined
  /** How many have yet to say what they know about the name. */
  private asked = 0
  /** What the name service, or avahi before it, said; undefined until then. */
  private listed: string[] | undefined
  private nameProblem: string | undefined
  /** The remembered address has accepted, and waits for the name service. */
  private early = false
  private end: (winner: Winner) => void = () => {}

  /**
   * @param host a name, or an address, which is then the only one
   * @param deadline milliseconds for everything
   */
  constructor(host: string, port: number, deadline: number, { scopes, family, avahi = AVAHI }: RaceOptions) {
    this.host = host
    this.port = port
    this.deadline = deadline
    this.scopes = scopes
    this.family = family
    this.avahi = avahi
  }

  /**
   * Runs the race.
   * @param remembered last time's address, tried without waiting for the name service
   */
  run(remembered?: string): Promise<Winner> {
    return new Promise((resolve) => {
      this.end = (winner) => {
        this.end = () => {}
        for (const timer of this.timers) clearTimeout(timer)
        for (const socket of this.sockets.values()) socket.destroy()
        this.abort.abort()
        resolve(winner)
      }
      // Who has accepted by then still wins: a runtime runs timers first, and we may be late ourselves.
      this.timers.push(setTimeout(() => setImmediate(() => this.giveUp()), this.deadline))
      this.remembered = remembered !== undefined && this.counts(remembered) ? remembered : undefined
      if (this.remembered !== undefined) this.dial(this.remembered)
      if (isAddress(this.host)) this.names([this.host])
      else {
        if (/\.local\.?$/i.test(this.host) && this.family !== 6) this.askAvahi()
        void this.lookUp()
      }
    })
  }

  /**
   * Asks avahi for the IPv4 address. If there is no avahi, or no such name, the name service says
   * the same.
   */
  private askAvahi(): void {
    this.asked += 1
    let answer = ''
    const socket = createConnection(this.avahi, () => socket.write(`RESOLVE-HOSTNAME-IPV4 ${this.host}\n`))
    this.sockets.set(this.avahi, socket) // closes it with the race
    socket.setEncoding('latin1').on('data', (text: string) => {
      answer += text
      if (answer.includes('\n') || answer.length > 1000) socket.destroy()
    })
    socket.on('error', () => {}) // no avahi
    socket.on('close', () => {
      this.asked -= 1
      const address = addressFromAvahi(answer)
      if (address === undefined) this.settle()
      else if (this.listed === undefined) this.names([address])
    })
  }

  private async lookUp(): Promise<void> {
    this.asked += 1
    const env = { ...searchEnv(), LC_ALL: 'C' } // any other makes it read a dozen locale files for nothing
    const asked = await run('getent', ['ahosts', this.host], { env, timeout: this.deadline + 1000, abort: this.abort.signal })
    this.asked -= 1
    if (asked.timedOut) return // the race is over
    if (asked.failedToStart) this.nameProblem = `getent, which resolves ${this.host}, can't be started (${asked.failedToStart})`
    else this.nameProblem = `${this.host} has no address`
    this.names([...new Set([...(this.listed ?? []), ...addressesIn(asked.stdout)])])
  }

  private counts(address: string): boolean {
    return this.family === undefined || (this.family === 6) === address.includes(':')
  }

  /**
   * The name service has answered. If it no longer lists last time's address, that is somebody
   * else's by now.
   */
  private names(all: string[]): void {
    const addresses = all.filter((address) => this.counts(address))
    if (all.length > 0 && addresses.length === 0) this.nameProblem = `${this.host} has no IPv${this.family} address`
    this.listed = addresses
    const { remembered } = this
    if (addresses.length > 0) this.nameProblem = undefined
    if (remembered !== undefined && addresses.length > 0 && !lists(addresses, remembered)) this.forget(remembered)
    if (this.endEarly()) return
    for (const address of addresses) {
      if (!needsScope(address)) this.dial(address)
      else for (const scope of this.scopes()) this.dial(`${address}%${scope}`, true)
    }
    this.settle()
  }

  private forget(address: string): void {
    this.sockets.get(address)?.destroy()
    this.sockets.delete(address)
    this.failures.delete(address)
    this.pending.delete(address)
    this.remembered = undefined
    this.early = false
  }

  /**
   * Tries one address.
   * @param guess the interface was guessed, so a failure says nothing about the box
   */
  private dial(address: string, guess = false): void {
    if (this.sockets.has(address)) return
    const socket = createConnection({ host: address, port: this.port })
    this.sockets.set(address, socket)
    this.pending.set(address, !guess)
    const gone = (): boolean => this.sockets.get(address) !== socket
    socket.on('connect', () => gone() || this.accepted(address))
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (gone()) return
      this.pending.delete(address)
      const why = WORDS[error.code ?? ''] ?? error.code ?? error.message
      if (!guess) this.failures.set(address, why)
      // Deno 2.9 drops the scope on the way to connect(2).
      else if (error.code === 'EINVAL')
        this.failures.set(address, `${process.versions.deno ? 'Deno' : 'the runtime'} can't use link-local addresses`)
      this.settle()
    })
  }

  private accepted(address: string): void {
    this.early = this.listed === undefined
    if (this.early) this.timers.push(setTimeout(() => this.endEarly(), CONFIRMATION))
    else this.end({ address })
  }

  /** Last time's address wins if it has accepted. */
  private endEarly(): boolean {
    if (!this.early || this.remembered === undefined) return false
    this.end({ address: this.remembered })
    return true
  }

  /** Ends the race once nothing is left to wait for. */
  private settle(): void {
    if (this.asked === 0 && this.listed !== undefined && this.pending.size === 0) this.end({ reason: this.reasons() })
  }

  private giveUp(): void {
    if (this.endEarly()) return
    if (this.listed === undefined) this.nameProblem = `${this.host} was not resolved within ${inSeconds(this.deadline)}`
    for (const [address, counts] of this.pending) if (counts) this.failures.set(address, `no answer within ${inSeconds(this.deadline)}`)
    this.end({ reason: this.reasons() })
  }

  private reasons(): string {
    const all = this.nameProblem === undefined ? [] : [this.nameProblem]
    for (const [address, why] of this.failures) {
      const which = address === this.remembered && !this.listed?.length ? ' (its address of last time)' : ''
      all.push(`${address} port ${this.port}${which}: ${why}`)
    }
    if (all.length === 0) {
      const scopes = this.scopes().join(', ') || 'no interface'
      all.push(`${this.host} has only the link-local address ${this.listed?.join(', ')}, and nobody answers there by ${scopes}`)
    }
    const more = all.length - MOST_REASONS
    return `${all.slice(0, MOST_REASONS).join('; ')}${more > 0 ? `; and ${more} more` : ''}`
  }
}
