// The one process that a lab lives in: mount, network, pid, uts, ipc and cgroup namespaces with a
// bridge, a tmpfs for everything that is written, and a systemd-nspawn for each machine that is
// switched on. It ends when its stdin does, and all of the lab with it, so a lab ends with the test
// however that ends. Outside, a lab is an empty folder in /tmp and a cgroup, which the shell around
// it removes.
import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, existsSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { PATH } from '../lib/needs.ts'

// $1: the lab's folder. Reads the names of machines to switch on; says "ready PID" (as seen
// outside), and "ended NAME CODE" when one has gone off.
const INSIDE = `set -eu
dir=$1
read -r pid _ </proc/self/stat
mount -t proc proc /proc
mount -t tmpfs -o mode=755 nix-lan-lab /run # systemd-nspawn wants a tmpfs of its own
mount -t tmpfs -o mode=755 nix-lan-lab "$dir"
umount -R -l /sys/fs/cgroup 2>/dev/null || :
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/lab
echo 0 >/sys/fs/cgroup/lab/cgroup.procs
switch_on() {
  mkdir -p "/sys/fs/cgroup/$1"
  code=0
  # 133: it wants to be started again. --keep-unit, --register=no: this machine's own systemd, if any, has no part in it
  sh -c 'echo 0 >"/sys/fs/cgroup/$1/cgroup.procs" && exec systemd-nspawn --quiet --boot --directory="$0/$1/root" --machine="$1" \\
    --hostname="$2" --register=no --keep-unit --network-bridge=br0 --console=read-only --link-journal=no --resolv-conf=off --timezone=off \\
    --settings=no --kill-signal=SIGRTMIN+3 systemd.unified_cgroup_hierarchy=1' \\
    "$dir" "$1" "$2" >>"$dir/$1/console" 2>&1 || code=$?
  printf 'ended %s %s\\n' "$1" "$code"
}
printf 'ready %s\\n' "$pid"
while read -r name hostname; do switch_on "$name" "$hostname" </dev/null & done
`

// $0: the cgroup, $1: the folder, then the command. Nothing can be left in the cgroup once the pid
// namespace has ended, but it ends in its own time.
const OUTSIDE = `cgroup=$0 dir=$1
shift
mkdir "$cgroup" || exit
sh -c 'echo 0 >"$0/cgroup.procs" && exec "$@"' "$cgroup" "$@"
for _ in $(seq 600); do
  find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null
  [ -d "$cgroup" ] || break
  sleep 0.1
done
rm -rf --one-file-system "$dir"`

/** The namespaces of one lab. */
export class Holder {
  /** A folder, empty outside: a tmpfs inside. */
  readonly dir: string
  /** Where this machine sees the lab's cgroups. */
  readonly cgroup: string
  /** The process whose namespaces they are. */
  pid = 0
  /** Settled when nothing is left of it. */
  readonly gone: Promise<void>
  private readonly process: ChildProcess
  private readonly listeners: ((name: string, code: number) => void)[] = []
  private errors = ''

  /** Starts it. @throws Error when this machine has no cgroup v2 */
  constructor() {
    this.dir = mkdtempSync('/tmp/nl-lab-')
    chmodSync(this.dir, 0o755)
    this.cgroup = `${cgroupMount()}/${this.dir.replace('/tmp/', '')}`
    const script = `${this.dir}/inside.sh`
    writeFileSync(script, INSIDE)
    const namespaces = ['--mount', '--net', '--ipc', '--uts', '--pid', '--cgroup', '--fork', '--kill-child', '--propagation', 'private']
    const command = ['unshare', ...namespaces, 'sh', script, this.dir]
    // a session of its own: ^C ends us, and not, half-way, it
    this.process = spawn('sh', ['-c', OUTSIDE, this.cgroup, this.dir, ...command], {
      stdio: ['pipe', 'pipe', 'pipe'],
      detached: true,
      env: { PATH },
    })
    this.process.stdin?.on('error', () => {}) // it may be gone before us
    this.process.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.errors += text
    })
    this.gone = new Promise((resolve) => this.process.on('close', () => resolve()))
  }

  /** Waits until the namespaces are there. @throws Error with what this machine refused */
  async ready(): Promise<void> {
    this.pid = await new Promise<number>((resolve, reject) => {
      let text = ''
      this.process.stdout?.setEncoding('utf8').on('data', (more: string) => {
        text += more
        for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
          const [word, name = '', code] = text.slice(0, end).split(' ')
          text = text.slice(end + 1)
          if (word === 'ready') resolve(Number(name))
          else if (word === 'ended') for (const listener of this.listeners) listener(name, Number(code))
        }
      })
      this.process.on('error', reject)
      this.process.on('close', () => reject(new Error(`the lab's namespaces could not be made: ${this.errors.trim()}`)))
    })
  }

  /**
   * Calls back whenever a machine has gone off, with systemd-nspawn's exit code: 133 when it wants
   * to be started again.
   */
  onEnded(listener: (name: string, code: number) => void): void {
    this.listeners.push(listener)
  }

  /** Switches a machine on, whose root is mounted at DIR/NAME/root. */
  switchOn(name: string, hostname: string): void {
    this.process.stdin?.write(`${name} ${hostname}\n`)
  }

  /**
   * The command that runs a program inside, outside of all machines, with this machine's own files.
   */
  enter(command: string, args: readonly string[]): [string, ...string[]] {
    return ['nsenter', '--target', String(this.pid), '--mount', '--net', '--pid', '--', command, ...args]
  }

  /** Where a file of the lab's file systems lies for us. */
  path(inside: string): string {
    return `/proc/${this.pid}/root${inside}`
  }

  /** Ends everything, and waits until nothing is left. */
  async close(): Promise<void> {
    this.process.stdin?.end()
    await this.gone
  }
}

/**
 * Where cgroup v2 is mounted, beside v1 or alone. @throws Error when it isn't, or may not be
 * written
 */
function cgroupMount(): string {
  const mounts = readFileSync('/proc/self/mounts', 'utf8').split('\n')
  const found = mounts.map((line) => line.split(' ')).find(([, , type]) => type === 'cgroup2')?.[1]
  if (found && existsSync(`${found}/cgroup.procs`)) return found
  throw new Error('the lab needs a cgroup v2 hierarchy, and none is mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified')
}
