// The network between the machines of a lab: a bridge, whose ports are cables, and a router with
// DHCP and DNS, whose DNS can be made to misbehave. It lives in the lab's own network namespace and
// runs from a root of its own.
import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { finished, pause, type Result, type RunOptions } from '../lib/processes.ts'
import type { Holder } from './holder.ts'

const ROUTER = '10.77.0.1'
/** The addresses that DHCP gives to those that have one of their own, by host name. */
const ADDRESSES: Record<string, string> = { pi: '10.77.0.2', nas: '10.77.0.3' }

/**
 * normal: knows the names in `.lan` of the machines in ADDRESSES, and no others. silent: takes
 * questions and never answers. captive: any name is the portal, whose address is the router's.
 * none: nobody listens.
 */
export type DnsMode = 'normal' | 'silent' | 'captive' | 'none'

/** The network of one lab. */
export class Lan {
  private readonly holder: Holder
  private readonly leases = new Map(Object.entries(ADDRESSES))

  constructor(holder: Holder) {
    this.holder = holder
  }

  /** Runs a program in the network of the bridge, with the router's own files. Never throws. */
  run(command: string, args: readonly string[] = [], options: Pick<RunOptions, 'timeout' | 'input'> = {}): Promise<Result> {
    const [program, ...rest] = this.holder.enter('chroot', [`${this.holder.dir}/lan/root`, command, ...args])
    const env = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LANG: 'C.UTF-8' }
    return finished(spawn(program, rest, { stdio: ['pipe', 'pipe', 'pipe'], env }), options)
  }

  /** As run, and throws when the exit code isn't 0. Its stdout. */
  async must(command: string, args: readonly string[] = []): Promise<string> {
    const { code, stdout, stderr } = await this.run(command, args)
    if (code === 0) return stdout
    throw new Error(`lan: ${[command, ...args].join(' ')}: exit ${code}\n${stdout}${stderr}`)
  }

  /** Makes the bridge and starts the router. */
  async start(): Promise<void> {
    // Without a querier, snooping would keep mDNS from those who haven't asked for it yet. Without
    // an address of its own, the bridge would take another one when a machine comes or goes, and
    // nobody would find the router for a minute.
    const bridge = `ip link set lo up
ip link add br0 address 02:00:0a:4d:00:01 type bridge mcast_snooping 0 forward_delay 0
ip addr add ${ROUTER}/24 dev br0
ip link set br0 up`
    await this.must('sh', ['-ec', bridge])
    this.writeLeases()
    const dhcp = [
      ...['--conf-file=/dev/null', '--port=0', '--interface=br0', '--bind-interfaces', '--user=root', '--pid-file=/run/dhcp.pid'],
      ...['--dhcp-leasefile=/run/leases', '--dhcp-hostsfile=/run/dhcp-hosts', `--dhcp-range=10.77.0.100,10.77.0.150,1h`],
      ...[`--dhcp-option=option:dns-server,${ROUTER}`, '--dhcp-authoritative', '--log-facility=/run/dhcp.log'],
    ]
    await this.must('dnsmasq', dhcp)
    await this.dns('normal')
  }

  private writeLeases(): void {
    const run = this.holder.path(`${this.holder.dir}/lan/root/run`)
    const all = [...this.leases]
    writeFileSync(`${run}/dhcp-hosts`, all.map(([name, address]) => `${name},${address}\n`).join(''))
    writeFileSync(`${run}/names`, all.map(([name, address]) => `${address} ${name}.lan\n`).join(''))
  }

  /** How the DNS server behaves from now on. */
  async dns(mode: DnsMode): Promise<void> {
    await this.run('sh', ['-c', 'kill -9 $(cat /run/dns.pid); rm -f /run/dns.pid'])
    // the signal is sent, and it may live on for a moment
    await this.must('sh', ['-c', 'for i in $(seq 1200); do [ -n "$(ss -Hltun sport = :53)" ] || exit 0; sleep 0.05; done; exit 1'])
    if (mode === 'none') return
    const names = mode === 'captive' ? [`--address=/#/${ROUTER}`] : ['--local=/#/', '--addn-hosts=/run/names']
    const common = ['--conf-file=/dev/null', '--no-resolv', '--no-hosts', '--bind-interfaces', `--listen-address=${ROUTER}`]
    await this.must('dnsmasq', [...common, ...names, '--user=root', '--pid-file=/run/dns.pid'])
    if (mode === 'silent') await this.must('sh', ['-c', 'kill -STOP $(cat /run/dns.pid)'])
  }

  /**
   * The address that DHCP gives to a machine, by its host name, from its next request on (and DNS,
   * for its name in .lan, at once).
   */
  async lease(hostname: string, address: string): Promise<void> {
    this.leases.set(hostname, address)
    this.writeLeases()
    await this.must('sh', ['-c', 'kill -HUP $(cat /run/dhcp.pid); [ ! -e /run/dns.pid ] || kill -HUP $(cat /run/dns.pid)'])
  }

  /** Plugs a machine's cable in, or pulls it out: it sees its carrier come and go. */
  async cable(name: string, plugged: boolean): Promise<void> {
    await this.must('ip', ['link', 'set', `vb-${name}`, plugged ? 'up' : 'down'])
  }

  /**
   * In range: as ever. Out of it: the machine sees its carrier, and every frame vanishes in
   * silence, both ways.
   */
  async range(name: string, inRange: boolean): Promise<void> {
    await this.must('bridge', ['link', 'set', 'dev', `vb-${name}`, 'state', inRange ? '3' : '0'])
  }

  /** A slow link towards a machine, of so many Mbit/s; 0 mends it. */
  async slow(name: string, mbit: number): Promise<void> {
    const link = ['dev', `vb-${name}`, 'root']
    if (mbit === 0) await this.must('tc', ['qdisc', 'del', ...link])
    else await this.must('tc', ['qdisc', 'replace', ...link, 'tbf', 'rate', `${mbit}mbit`, 'burst', '64k', 'latency', '400ms'])
  }

  /**
   * A portal: on the router, something accepts at that port and never says a word. Lasts as long as
   * the lab.
   */
  async portal(port: number): Promise<void> {
    const script = `require('node:net').createServer((socket) => socket.on('error', () => {})).listen(${port})`
    const listen = `node -e "${script}" </dev/null >/dev/null 2>&1 &`
    await this.must('sh', ['-c', listen])
    const busy = async () => (await this.must('ss', ['-Hltn', `sport = :${port}`])) !== ''
    for (const end = Date.now() + 60_000; !(await busy()); await pause(50))
      if (Date.now() > end) throw new Error(`lan: nobody listens on port ${port} after a minute`)
  }
}
