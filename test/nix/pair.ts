// A client and a box: two worlds, a real sshd, keys made for the occasion, nix-lan set up on the
// client as the README says, signatures required.
//
//     const pair = await createPair({ client: 'host', box: 'bookworm', hook: true })
//     await pair.openTunnel()
//     await pair.client.run('alice', 'nix-build', [T_FILE, '--no-out-link', '--argstr', 'name', 'x'])
//     pair.starts()                  // how often Nix has started nix-lan-connect
//     await pair.box.stopSshd()      // the box is away (its ssh client in the client's world ends, too); freezeSshd(): unresponsive
//     await pair.close()
//
// The cache's name is "box". Both have a nix-daemon, and neither trusts alice; the client signs
// what it builds, the box knows the public key.
import { readFileSync, writeFileSync } from 'node:fs'
import { gainsFromConnections, parseVersion } from '../../scripts/nix/version.ts'
import { accepts, createWorld, GREETING, nixConf, type Running, type World, type WorldOptions } from './world.ts'

export const DIST = '/opt/nix-lan/dist'
export const T_FILE = '/opt/nix-lan/t.nix'
export const SOCKET = '/run/user/1000/nix-lan/box.sock'
export const QUEUE = '/nix/var/nix/gcroots/nix-lan/queue/box'
export const FAILED = '/nix/var/nix/gcroots/nix-lan/failed/box'
/** In seconds; more than the default: a busy machine may need long for the handshake. */
export const DEADLINE = 10
/** The store URL that setup would write: gc asks only a box that Nix would fetch from. */
export const BOX_URL = `ssh-ng://localhost?remote-program=${DIST}/nix-lan-connect%20--deadline%20${DEADLINE}%20${SOCKET}`

export interface PairOptions {
  /** Whose Nix the client has; default: host. */
  client?: WorldOptions['nix']
  /** Whose Nix the box has; default: host. */
  box?: WorldOptions['nix']
  /** nix.conf has `post-build-hook`; default: no. */
  hook?: boolean
  /** More for the client's nix.conf. */
  settings?: Record<string, string>
  /** As for createWorld. */
  dist?: string
}

/**
 * Makes both; the daemons and sshd run, the tunnel doesn't. @throws Error of the part that could
 * not be made, with nothing left behind
 */
export async function createPair(options: PairOptions = {}): Promise<Pair> {
  const dist = options.dist === undefined ? {} : { dist: options.dist }
  const worlds = await Promise.allSettled([
    createWorld({ nix: options.client ?? 'host', name: 'client', ...dist }),
    createWorld({ nix: options.box ?? 'host', name: 'box', ...dist }),
  ])
  const [client, box] = worlds.map((made) => (made.status === 'fulfilled' ? made.value : undefined))
  try {
    for (const made of worlds) if (made.status === 'rejected') throw made.reason
    if (!client || !box) throw new Error('no worlds')
    const pair = new Pair(client, box)
    await pair.setUp(options)
    return pair
  } catch (error) {
    await client?.close()
    await box?.close()
    throw error
  }
}

/** See the head of this file. */
export class Pair {
  readonly client: World
  readonly box: World
  /** The client's public signing key. */
  publicKey = ''
  /** The store URL that nix.conf names: nix-lan-connect, counted. */
  readonly url: string
  /** Whether several connections make the client's Nix faster. */
  gainsFromConnections = false
  private readonly counter: string
  private tunnel: Running | undefined

  constructor(client: World, box: World) {
    this.client = client
    this.box = box
    this.counter = `${client.dir}/starts`
    this.url = `ssh-ng://localhost?remote-program=${client.dir}/connect%20${SOCKET}%20--deadline%20${DEADLINE}`
  }

  /** Called by createPair. */
  async setUp(options: PairOptions): Promise<void> {
    const { client, box } = this
    this.gainsFromConnections = gainsFromConnections(parseVersion(await client.must('root', 'nix', ['--version'])))
    await client.must('root', 'nix-store', ['--generate-binary-cache-key', 'client-1', '/etc/nix/secret', '/etc/nix/public'])
    this.publicKey = client.read('/etc/nix/public').trim()
    writeFileSync(this.counter, '', { mode: 0o666 })
    await client.must('root', 'chmod', ['666', this.counter])
    client.write(`${client.dir}/connect`, `#!/bin/sh\necho "$*" >>${this.counter}\nexec ${DIST}/nix-lan-connect "$@"\n`, { mode: 0o755 })
    this.configure(options.settings ?? {}, options.hook ?? false)
    box.write('/etc/nix/nix.conf', nixConf({ 'trusted-public-keys': this.publicKey }))
    await this.setUpSsh()
    for (const dir of [QUEUE, FAILED]) await client.must('root', 'sh', ['-c', 'mkdir -p "$0" && chown alice "$0"', dir])
    await client.startDaemon()
    await box.startDaemon()
  }

  /**
   * Writes the client's nix.conf. A daemon that runs keeps what it has read: stopDaemon(),
   * startDaemon().
   */
  configure(settings: Record<string, string>, hook = false): void {
    const own: Record<string, string> = {
      'secret-key-files': '/etc/nix/secret',
      'trusted-public-keys': this.publicKey,
      'extra-substituters': this.url,
    }
    if (hook) own['post-build-hook'] = `${DIST}/post-build-hook`
    this.client.write('/etc/nix/nix.conf', nixConf({ ...own, ...settings }))
  }

  private async setUpSsh(): Promise<void> {
    const { port, userKey, hostKey } = await this.box.startSshd()
    this.client.write('/home/alice/.ssh/id_ed25519', userKey, { mode: 0o600, user: 'alice' })
    // with and without the port: HostKeyAlias is looked up without
    const known = `[127.0.0.1]:${port} ${hostKey}\n127.0.0.1 ${hostKey}\n`
    this.client.write('/home/alice/.ssh/known_hosts', known, { user: 'alice' })
    const config = `user = "alice"\n\n[cache.box]\nhost = "127.0.0.1"\nssh = "alice@127.0.0.1"\nport = ${port}\ndeadline = "${DEADLINE}s"\n`
    this.client.write('/etc/nix-lan/config.toml', config)
  }

  /** nix-lan-tunnel, as alice; returns when a nix-daemon answers through it. */
  async openTunnel(): Promise<void> {
    this.tunnel = this.client.start('alice', `${DIST}/nix-lan-tunnel`, ['box'])
    await accepts(this.client.path(SOCKET), this.tunnel, GREETING)
  }

  /**
   * A plain `ssh -L`, as alice, for what must not depend on nix-lan-tunnel. @param port where the
   * box's sshd is reached, by default its own
   */
  async openPlainTunnel(port = this.box.port): Promise<void> {
    await this.client.must('alice', 'mkdir', ['-p', '-m', '700', '/run/user/1000/nix-lan'])
    const forward = ['-o', 'StreamLocalBindUnlink=yes', '-o', 'BatchMode=yes', '-L', `${SOCKET}:/nix/var/nix/daemon-socket/socket`]
    const known = ['-o', 'HostKeyAlias=127.0.0.1'] // a relay's port is in no known_hosts
    this.tunnel = this.client.start('alice', 'ssh', ['-N', ...forward, ...known, '-p', String(port), 'alice@127.0.0.1'])
    await accepts(this.client.path(SOCKET), this.tunnel, GREETING)
  }

  /** What the tunnel has written so far. */
  tunnelLog(): string {
    return this.tunnel?.output() ?? ''
  }

  /** Ends the tunnel; SIGKILL leaves a stale socket behind. */
  async closeTunnel(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    await this.tunnel?.stop(signal)
    this.tunnel = undefined
  }

  /** Waits for the tunnel to end by itself. */
  async tunnelEnded(): Promise<number | null> {
    return (await this.tunnel?.ended) ?? null
  }

  /** How often Nix has started nix-lan-connect since the last resetStarts(). */
  starts(): number {
    return readFileSync(this.counter, 'utf8').split('\n').length - 1
  }

  resetStarts(): void {
    writeFileSync(this.counter, '')
  }

  /**
   * Whether a store path is valid on the box with the client's signature, which is what "the box
   * has it" means.
   */
  async boxHas(...paths: string[]): Promise<boolean> {
    const info = await this.box.run('root', 'nix', ['path-info', '--sigs', ...paths], { env: { NIX_REMOTE: 'local' } })
    const signed = info.stdout.split('\n').filter((line) => line.includes('client-1:')).length
    return info.code === 0 && signed === paths.length
  }

  /** The names in the queue. */
  async queued(): Promise<string[]> {
    const names = await this.client.must('root', 'ls', ['-A', QUEUE])
    return names === '' ? [] : names.split('\n')
  }

  /**
   * Builds as alice, without an out-link: names of t.nix's arguments. @throws Error when the build
   * fails
   */
  async build(args: string[], env: Record<string, string> = {}): Promise<{ paths: string[]; stderr: string; ms: number }> {
    const built = await this.client.run('alice', 'nix-build', [T_FILE, '--no-out-link', ...args], { env })
    if (built.code !== 0)
      throw new Error(`the build failed: ${built.timedOut ? 'time limit ' : ''}${built.stderr}\n${this.client.daemonLog()}`)
    return { paths: built.stdout.trim().split('\n'), stderr: built.stderr, ms: built.ms }
  }

  /** Deletes from the client's store what nothing roots. */
  async collectGarbage(): Promise<void> {
    await this.client.idle()
    await this.client.must('root', 'nix-store', ['--gc'])
  }

  /** Whether a store path is valid on the client. */
  async clientHas(...paths: string[]): Promise<boolean> {
    return (await this.client.run('alice', 'nix-store', ['--check-validity', ...paths])).code === 0
  }

  async close(): Promise<void> {
    await Promise.all([this.client.close(), this.box.close()])
  }
}
