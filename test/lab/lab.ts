// The lab: two real hosts on a network of their own, a laptop and a box called pi, booted as
// systemd-nspawn machines from roots of Debian. Real in it: systemd with alice's lingering user
// manager, NetworkManager and its dispatcher, DHCP, DNS, mDNS, sshd, a multi-user Nix, Debian's own
// node. Nothing of this machine is changed and nothing is left of it; it ends with the test,
// however that ends. Needs root; see test/lab/holder.ts.
//
//     const lab = await createLab({ laptop: release(), installed: true })      // 5 s; the first time also the roots, a minute or two
//     await lab.laptop.must('alice', 'nix-build', [T_FILE, '--no-out-link', '--argstr', 'name', 'x'])
//     const ms = await lab.eventually('the box has it', () => lab.boxHas(path), { within: 40_000 })
//     await lab.lan.cable('laptop', false)     // pulled;  lan.range('laptop', false): frames vanish in silence;  lan.slow('laptop', 20)
//     await lab.box.power('crash')             // on, off, reboot, crash
//     await lab.lan.dns('silent')              // normal, silent, captive, none;  lan.portal(22): the router accepts there and is unresponsive
//     await lab.moveBox('10.77.0.77')          // DHCP gives it another address, now
//     const other = await lab.impostor()       // another machine that is pi.local, with another host key (take the box off the network first)
//     lab.laptop.freeze()                      // as a suspend; thaw()
//     await lab.close()
//
// lab.laptop and lab.box (lab.nas with secondBox, known to nix-lan as the cache "nas"): run, must,
// write, read, path, systemctl (alice's), journal, power, booted, freeze, thaw: test/lab/host.ts.
// The network: test/lab/lan.ts. Where nix-lan is put, and the paths of queue and socket:
// test/lab/machines.ts. alice: uid 1000, sudo without a password, her units run without a login; on
// the boxes the same user takes her key, and knows the laptop's signing key. A file *.lab.ts is run
// on each release by `npm run test:lab`, in a process of its own; release() says which. `npm run
// lab` leaves one up to look around in.

import { spawn } from 'node:child_process'
import { suite, type Test } from 'uvu'
import { greets } from '../lib/greeting.ts'
import { needs, PATH } from '../lib/needs.ts'
import { finished, pause } from '../lib/processes.ts'
import type { Suite } from '../lib/roots.ts'
import { Holder } from './holder.ts'
import { Host } from './host.ts'
import { Lan } from './lan.ts'
import {
  CACHE,
  DEADLINE,
  type InRoot,
  type Installation,
  installNixLan,
  makeBox,
  makeLaptop,
  QUEUE,
  type SigningKey,
  signingKey,
  T_FILE,
} from './machines.ts'
import { labRoot } from './roots.ts'

/** The laptop's releases. */
export type Release = Exclude<Suite, 'bullseye'>
export const RELEASES: readonly Release[] = ['bookworm', 'trixie', 'forky']

/** The release that this file is run on: NIX_LAN_LAB, set by the runner. */
export function release(): Release {
  return RELEASES.find((name) => name === process.env.NIX_LAN_LAB) ?? 'bookworm'
}

/** A uvu suite for the lab, skipped and named where the machine has not what it takes. */
export function labSuite(name: string): Test {
  return needs(suite(`${name} on ${release()}`), 'root', 'roots', 'systemd-nspawn', 'nsenter') as Test
}

export interface LabOptions {
  laptop: Release
  /**
   * nix-lan is on the laptop when it boots, by plain means (machines.ts); default: no, as for a
   * test of `nix-lan setup`.
   */
  installed?: boolean
  /**
   * With `installed`, the boxes have nix-lan's own two seconds for a handshake, for a lab that
   * measures how soon it is noticed that they are away; default: DEADLINE of machines.ts.
   */
  ownDeadline?: boolean
  /** A second box, nas.local, and with `installed` a second cache, nas. */
  secondBox?: boolean
  /** The box is not switched on. */
  boxOff?: boolean
  /** On the laptop, systemd-networkd manages the network, without NetworkManager. */
  networkd?: boolean
  /** The laptop's cable is not plugged in when it boots. */
  away?: boolean
  /** The folder with the built scripts; default: dist in the current directory. */
  dist?: string
}

/**
 * Makes and boots a lab. @throws Error that says what this machine lacks, or which machine doesn't
 * boot; nothing is left then
 */
export async function createLab(options: LabOptions): Promise<Lab> {
  const [laptopRoot, boxRoot] = await Promise.all([labRoot(options.laptop), labRoot('bookworm')])
  const lab = new Lab(options.laptop)
  try {
    await lab.start(laptopRoot, boxRoot, options)
    return lab
  } catch (error) {
    await lab.close()
    throw error
  }
}

/** See the head of this file. */
export class Lab {
  readonly holder: Holder
  readonly lan: Lan
  readonly laptop: Host
  readonly box: Host
  /** With `secondBox`. */
  readonly nas: Host
  /** The laptop's key for signing store paths; the boxes know its public half. */
  readonly key: SigningKey = signingKey('laptop-1')
  private boxRoot = ''

  constructor(laptop: Release) {
    this.holder = new Holder()
    this.lan = new Lan(this.holder)
    this.laptop = new Host(this.holder, this.lan, 'laptop', 'laptop', laptop)
    this.box = new Host(this.holder, this.lan, 'box', 'pi', 'bookworm')
    this.nas = new Host(this.holder, this.lan, 'nas', 'nas', 'bookworm')
  }

  /** Called by createLab. */
  async start(laptopRoot: string, boxRoot: string, options: LabOptions): Promise<void> {
    await this.holder.ready()
    this.boxRoot = boxRoot
    await Promise.all([this.mountRoot('lan', boxRoot), this.mountRoot('laptop', laptopRoot)])
    await this.inside('sh', ['-ec', 'mount -t proc proc "$0/proc"; mount --rbind /dev "$0/dev"', `${this.holder.dir}/lan/root`])
    await this.lan.start()
    await makeLaptop(this.laptop, this.inRoot, { networkd: options.networkd ?? false })
    const boxes = options.secondBox ? [this.box, this.nas] : [this.box]
    await Promise.all(boxes.map((box) => this.addBox(box)))
    if (options.installed) {
      const more: Installation['more'] = options.secondBox ? { nas: 'nas.local' } : {}
      const deadline = options.ownDeadline ? undefined : DEADLINE
      await installNixLan(this.laptop, this.inRoot, options.dist ?? `${process.cwd()}/dist`, { key: this.key, more, deadline })
    }
    // as after the first `ssh pi.local`
    const known = boxes.map((box) => `${box.hostname}.local,${box.hostname}.lan ${box.read('/etc/ssh/ssh_host_ed25519_key.pub')}`)
    this.laptop.write('/home/alice/.ssh/known_hosts', known.join(''), { user: 'alice' })
    await Promise.all([...(options.boxOff ? [] : boxes.map((box) => box.power('on'))), this.bootLaptop(options.away ?? false)])
  }

  /** Boots the laptop, which is off; `away`: its cable is pulled before it can have used it. */
  async bootLaptop(away: boolean): Promise<void> {
    this.laptop.switchOn()
    if (away) {
      // Not before it is a port of the bridge: systemd-nspawn plugs it in with the same message.
      const plugged = async () => (await this.lan.must('ip', ['-o', 'link', 'show', 'master', 'br0'])).includes(' vb-laptop@')
      await this.eventually('a cable to pull', plugged)
      await this.lan.cable('laptop', false)
    }
    await this.laptop.booted()
  }

  private async addBox(box: Host): Promise<void> {
    await this.mountRoot(box.name, this.boxRoot)
    await makeBox(box, this.inRoot, { trusts: this.key.public, login: this.laptop.read('/home/alice/.ssh/id_ed25519.pub') })
  }

  private async mountRoot(name: string, lower: string): Promise<void> {
    const script =
      'mkdir -p "$0/upper" "$0/work" "$0/root"; mount -t overlay overlay -o "lowerdir=$1,upperdir=$0/upper,workdir=$0/work" "$0/root"'
    await this.inside('sh', ['-ec', script, `${this.holder.dir}/${name}`, lower])
  }

  private readonly inRoot: InRoot = (host, script) =>
    this.inside('chroot', [`${this.holder.dir}/${host.name}/root`, '/bin/sh', '-ec', script])

  /** A program of this machine in the lab's namespaces. */
  private async inside(command: string, args: readonly string[]): Promise<string> {
    const [program, ...rest] = this.holder.enter(command, args)
    const env = { PATH, LANG: 'C.UTF-8' }
    const { code, stdout, stderr } = await finished(spawn(program, rest, { stdio: ['pipe', 'pipe', 'pipe'], env }), {})
    if (code === 0) return stdout
    throw new Error(`the lab could not be made: ${command} ${args.join(' ')}: exit ${code}\n${stdout}${stderr}`)
  }

  /**
   * Another machine that calls itself pi, with a host key of its own, and takes nobody's key. Boots
   * it.
   */
  async impostor(): Promise<Host> {
    const host = new Host(this.holder, this.lan, 'other', 'pi', 'bookworm')
    await this.mountRoot(host.name, this.boxRoot)
    await makeBox(host, this.inRoot, {})
    await host.power('on')
    return host
  }

  /**
   * Undoes what a test may have left: everybody plugged in, in range, on and awake, DNS as it
   * should be.
   */
  async mend(): Promise<void> {
    const hosts = [this.laptop, this.box, this.nas].filter((host) => host.wasOn())
    if (this.laptop.isOn()) this.laptop.thaw()
    for (const host of hosts) {
      if (!host.isOn()) await host.power('on')
      await this.lan.cable(host.name, true)
      await this.lan.range(host.name, true)
    }
    await this.lan.dns('normal')
  }

  /**
   * DHCP gives the box another address, which takes its old one's place at once. (A plain renew
   * goes on with the old one: networkd 252 misses the NAK.)
   */
  async moveBox(address: string): Promise<void> {
    await this.lan.lease(this.box.hostname, address)
    await this.box.must('root', 'networkctl', ['reconfigure', 'host0'])
    const has = async () => (await this.box.must('root', 'ip', ['-4', '-o', 'addr', 'show', 'dev', 'host0'])).includes(` ${address}/`)
    await this.eventually(`the box has ${address}`, has)
  }

  /**
   * Whether store paths are valid on the box with the laptop's signature, which is what "the box
   * has it" means.
   */
  async boxHas(...paths: string[]): Promise<boolean> {
    const info = await this.box.run('root', 'nix', ['--extra-experimental-features', 'nix-command', 'path-info', '--sigs', ...paths])
    return info.code === 0 && info.stdout.split('\n').filter((line) => line.includes('laptop-1:')).length === paths.length
  }

  /** The names in the queue for the box. */
  async queued(): Promise<string[]> {
    const { stdout } = await this.laptop.run('root', 'ls', ['-A', QUEUE])
    return stdout.split('\n').filter((name) => name !== '')
  }

  /**
   * alice builds derivations of T_FILE on the laptop: its arguments, such as ['--argstr', 'name',
   * 'x']. @throws Error when the build fails
   */
  async build(args: readonly string[], timeout = 300_000): Promise<{ paths: string[]; stderr: string; ms: number }> {
    const result = await this.laptop.run('alice', 'nix-build', [T_FILE, '--no-out-link', ...args], { timeout })
    if (result.code === 0) return { paths: result.stdout.trim().split('\n'), stderr: result.stderr, ms: result.ms }
    console.log(`\n${await this.report()}`)
    throw new Error(`the build failed${result.timedOut ? ' by taking too long' : ''}: ${result.stderr}`)
  }

  /** Whether the box's nix-daemon answers at the tunnel's socket, as nix-lan-available finds it. */
  async usable(cache = 'pi'): Promise<boolean> {
    return (await this.laptop.run('alice', 'nix-lan-available', ['--usable', cache])).code === 0
  }

  /**
   * Whether a nix-daemon answers at the tunnel's socket: asked by this test itself, in the worker
   * protocol, at no cost to the laptop.
   */
  answers(cache = CACHE): Promise<boolean> {
    return greets(this.laptop.path(`/run/user/1000/nix-lan/${cache}.sock`))
  }

  /**
   * Asks until the answer is true, and returns after how many milliseconds it was. `within`: the
   * limit, in milliseconds.
   * @throws Error that names `what`; the journals of both hosts are printed
   */
  async eventually(what: string, ask: () => boolean | Promise<boolean>, { within = 60_000, every = 100 } = {}): Promise<number> {
    const started = performance.now()
    for (;;) {
      if (await ask()) return performance.now() - started
      if (performance.now() - started > within) break
      await pause(every)
    }
    console.log(`\nwaited ${(within / 1000).toFixed(0)} s in vain for: ${what}\n${await this.report()}`)
    throw new Error(`waited ${(within / 1000).toFixed(0)} s in vain for: ${what}`)
  }

  /**
   * What there is to see when something has gone wrong: units and journals of the last two minutes.
   */
  async report(): Promise<string> {
    const since = Date.now() - 120_000
    const part = (title: string, text: string) => `--- ${title}\n${text.trimEnd()}\n`
    const parts: string[] = []
    if (this.laptop.isOn()) {
      const mine = ['_UID=1000', '+', '_SYSTEMD_UNIT=NetworkManager-dispatcher.service', '+', '_SYSTEMD_UNIT=nix-daemon.service']
      parts.push(part('alice’s units', await this.laptop.systemctl('list-units', '--all', '--no-pager', '--plain', 'nix-lan*')))
      parts.push(part('the laptop’s journal', (await this.laptop.journal({ since, match: mine })).slice(-60).join('\n')))
    } else parts.push(part('the laptop is off', this.laptop.console()))
    if (this.box.isOn()) {
      parts.push(
        part('the box’s journal', (await this.box.journal({ since, match: ['-u', 'ssh', '-u', 'nix-daemon'] })).slice(-20).join('\n')),
      )
    } else parts.push(part('the box is off', this.box.console()))
    return parts.join('')
  }

  /** Ends all machines at once, and waits until nothing is left. */
  async close(): Promise<void> {
    await this.holder.close()
  }
}
