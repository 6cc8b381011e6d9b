// Worlds: whole Nix installations (a multi-user store, an nix.conf, an untrusted user, a real sshd)
// in namespaces of their own on this one machine. Nothing of the machine is changed, and nothing is
// left: each world lives in the mount and pid namespaces of one process that ends when its stdin
// does, so it ends with the test, however that ends. Needs root.
//
//     const world = await createWorld({ nix: 'bookworm' })             // or 'host', 'trixie', 'forky'
//     world.write('/etc/nix/nix.conf', nixConf({ substituters: '' }))
//     await world.startDaemon()
//     const built = await world.run('alice', 'nix-build', ['/opt/nix-lan/t.nix', '--no-out-link', '--argstr', 'name', 'x'])
//     await world.close()
//
// In every world, at the same place: /opt/nix-lan/dist (this project's, live, read-only),
// /opt/nix-lan/t.nix (derivations that need no nixpkgs), the JavaScript runtime that runs this in
// /usr/local/bin, alice (uid 1000, not trusted by Nix, /home/alice, /run/user/1000), /nix with an
// empty store, and `world.dir`, a folder that has the same path inside and outside. Everything else
// is an overlay that only the world sees: the host's own root ('host'), or that of a Debian
// release. The network is the machine's. test/nix/pair.ts makes a client and a box of two worlds.
import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { placeFile } from '../lib/as-user.ts'
import { accepted, GREETING } from '../lib/greeting.ts'
import { PATH } from '../lib/needs.ts'
import { allProcesses, finished, gone, kill, killTree, pause, type Result, type RunOptions } from '../lib/processes.ts'
import { debianRoot, type Suite } from '../lib/roots.ts'
import { T_NIX } from '../lib/t-nix.ts'
import { until } from '../lib/until.ts'

export { GREETING }
export type User = 'root' | 'alice'
export const ALICE = 1000
export const DAEMON_SOCKET = '/nix/var/nix/daemon-socket/socket'
/** Milliseconds in which whatever is waited for happens, on a busy machine too: only a hang takes longer. */
const LIMIT = 60_000
/** What a service manager gives a daemon, and where sshd finds programs. */
export const SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

export interface WorldOptions {
  /** Whose Nix: this machine's own, or that of a Debian release. */
  nix: 'host' | Suite
  /** For messages only. */
  name?: string
  /** The folder with the built scripts; default: dist in the current directory. */
  dist?: string
  /** No JavaScript runtime anywhere in the world. */
  noRuntime?: boolean
}

/** A program that goes on in the background; its stdout and stderr are in the file `log`. */
export interface Running {
  child: ChildProcess
  log: string
  /** Its exit code (128 + n for signal n is Nix's and the shell's affair, here it is null). */
  ended: Promise<number | null>
  output(): string
  stop(signal?: NodeJS.Signals): Promise<void>
}

/** The text of an nix.conf that suits a world: the defaults, then `settings` (which win). */
export function nixConf(settings: Record<string, string> = {}): string {
  const all: Record<string, string> = {
    'experimental-features': 'nix-command',
    sandbox: 'false',
    'build-users-group': '',
    'require-sigs': 'true',
    'trusted-users': 'root',
    substituters: '',
    ...settings,
  }
  return Object.entries(all)
    .map(([key, value]) => `${key} = ${value}\n`)
    .join('')
}

// $1 folder, $2 lower root, $3 dist, $4 node, $5 "none" when there should be no runtime. Everything
// it mounts is private.
const HOLDER = `set -eu
dir=$1 lower=$2 dist=$3 node=$4 runtime=$5
r=$dir/w/root
mount -t tmpfs -o mode=755 nix-lan "$dir/w"
mkdir "$r" "$dir/w/upper" "$dir/w/work"
mount -t overlay -o "lowerdir=$lower,upperdir=$dir/w/upper,workdir=$dir/w/work" overlay "$r"
if [ "$lower" = / ]; then # the root's overlay doesn't see what is mounted below it: each such file system gets its own
  n=0
  while read -r _ _ _ _ at _; do
    case $at in /|/proc*|/sys*|/dev*|/run*|/tmp*|/nix*|*\\\\*|*,*|*:*) continue ;; esac
    [ -d "$at" ] && [ -d "$r$at" ] || continue
    n=$((n+1)); mkdir "$dir/w/upper$n" "$dir/w/work$n"
    mount -t overlay -o "lowerdir=$at,upperdir=$dir/w/upper$n,workdir=$dir/w/work$n" overlay "$r$at" 2>/dev/null || mount --bind -o ro "$at" "$r$at"
  done </proc/self/mountinfo
fi
read -r pid _ </proc/self/stat # seen by the outer /proc: our pid outside
mkdir -p "$r/proc" "$r/sys" "$r/dev" "$r/run" "$r/tmp" "$r/nix" "$r/home"
mount -t proc proc "$r/proc"
mount --rbind /dev "$r/dev"
mount --rbind /sys "$r/sys"
for t in nix home run; do mount -t tmpfs -o mode=755 tmpfs "$r/$t"; done
mount -t tmpfs -o mode=1777 tmpfs "$r/tmp"
mkdir -p "$r$dir" "$r/opt/nix-lan/dist" "$r/usr/local/bin" "$r/run/sshd" "$r/var/log"
mount --bind "$dir" "$r$dir"
mount --bind "$dist" "$r/opt/nix-lan/dist"
mount -o remount,bind,ro "$r/opt/nix-lan/dist"
if [ "$runtime" = none ]; then
  for p in usr/local/bin usr/bin bin; do for j in node nodejs deno bun; do [ ! -e "$r/$p/$j" ] || rm -f "$r/$p/$j"; done; done
else
  to=$r/usr/local/bin/\${node##*/}; [ "$lower" = / ] && [ "$r$node" = "$to" ] || { rm -f "$to"; : >"$to"; mount --bind "$node" "$to"; }
fi
mkdir -p "$r/root"; mount -t tmpfs -o mode=700 tmpfs "$r/root"
sed -i '/^alice:/d; /^[^:]*:[^:]*:1000:/d' "$r/etc/passwd" "$r/etc/group"
sed -i '/^alice:/d' "$r/etc/shadow" 2>/dev/null || :
echo 'alice:x:1000:1000::/home/alice:/bin/sh' >>"$r/etc/passwd"
echo 'alice:x:1000:' >>"$r/etc/group"
echo 'alice:*:19000::::::' >>"$r/etc/shadow"
printf '127.0.0.1 localhost\\n::1 localhost\\n' >"$dir/hosts"
rm -rf "$r/etc/nix" "$r/etc/hosts"; mkdir "$r/etc/nix"; mv "$dir/hosts" "$r/etc/hosts"
mkdir -p "$r/home/alice" "$r/run/user/1000"; chmod 700 "$r/run/user/1000"; chown 1000:1000 "$r/home/alice" "$r/run/user/1000"
cd "$r"; pivot_root . .; umount -l .; cd /
printf 'ready %s\\n' "$pid"
# the init of the pid namespace: it ends when stdin does; with SIGCHLD ignored, the kernel reaps whom others leave behind
exec env --ignore-signal=CHLD cat >/dev/null
`

/** Makes a world. @throws Error that says which part of the machine refused */
export async function createWorld(options: WorldOptions): Promise<World> {
  const lower = options.nix === 'host' ? '/' : await debianRoot(options.nix)
  // short, because a unix socket's path may have 107 bytes
  const dir = mkdtempSync('/tmp/nl-')
  chmodSync(dir, 0o755)
  mkdirSync(`${dir}/w`)
  writeFileSync(`${dir}/world.sh`, HOLDER)
  const script = [
    `${dir}/world.sh`,
    dir,
    lower,
    options.dist ?? `${process.cwd()}/dist`,
    process.execPath,
    options.noRuntime ? 'none' : 'js',
  ]
  const unshare = ['unshare', '--mount', '--pid', '--fork', '--kill-child', '--propagation', 'private', 'sh', ...script]
  // The outer sh sees to the folder even when we have been killed; a session of its own, so that ^C
  // ends us and not, half-way, it.
  const keeper = spawn('sh', ['-c', '"$@"; rm -rf --one-file-system "$0"', dir, ...unshare], {
    stdio: ['pipe', 'pipe', 'pipe'],
    detached: true,
    env: { PATH },
  })
  const world = new World(options.name ?? options.nix, dir, keeper)
  await world.ready()
  return world
}

/** One world; see the head of this file. */
export class World {
  readonly name: string
  /** The folder with the same path inside and outside. */
  readonly dir: string
  /** The port of the world's sshd on 127.0.0.1; 0 before startSshd. */
  port = 0
  private pid = 0
  private readonly keeper: ChildProcess
  private readonly gone: Promise<void>
  private logs = 0
  private daemon: Running | undefined
  private sshd: Running | undefined

  constructor(name: string, dir: string, keeper: ChildProcess) {
    this.name = name
    this.dir = dir
    this.keeper = keeper
    this.gone = new Promise((resolve) => keeper.on('close', () => resolve()))
    keeper.stdin?.on('error', () => {}) // it may be gone before us
  }

  /** Waits for the namespaces and makes the store. Called by createWorld. */
  async ready(): Promise<void> {
    let errors = ''
    this.keeper.stderr?.setEncoding('utf8').on('data', (text: string) => {
      errors += text
    })
    this.pid = await new Promise<number>((resolve, reject) => {
      let text = ''
      this.keeper.stdout?.setEncoding('utf8').on('data', (more: string) => {
        text += more
        const found = /^ready (\d+)$/m.exec(text)
        if (found) resolve(Number(found[1]))
      })
      this.keeper.on('close', () => reject(new Error(`the world ${this.name} could not be made: ${errors}`)))
    })
    this.write('/opt/nix-lan/t.nix', T_NIX)
    this.write('/etc/nix/nix.conf', nixConf())
    // NIX_REMOTE: over a store that was never made, `auto` would ask a daemon that isn't there
    const made = await this.run('root', 'nix-store', ['--init'], { env: { NIX_REMOTE: 'local' } })
    if (made.code !== 0) {
      await this.close()
      throw new Error(`no Nix store in the world ${this.name}: ${made.stderr}`)
    }
  }

  /**
   * Where a file of the world lies for us. (Absolute symlinks in it are followed in *our* root.)
   */
  path(inside: string): string {
    return `/proc/${this.pid}/root${inside}`
  }

  /**
   * Writes a file in the world, with its folders. Default: root's, 0644; with `user` 'alice' hers.
   */
  write(inside: string, text: string, { mode = 0o644, user = 'root' as User } = {}): void {
    placeFile(this.path(inside), text, user === 'root' ? 0 : ALICE, mode)
  }

  /** The text of a file of the world. */
  read(inside: string): string {
    return readFileSync(this.path(inside), 'utf8')
  }

  /**
   * The environment of a user in the world, as a login gives it; root's is that of a service.
   * Nothing of ours is in it.
   */
  env(user: User, more: Record<string, string | undefined> = {}): Record<string, string | undefined> {
    const own =
      user === 'root'
        ? { HOME: '/root', USER: 'root' }
        : { HOME: '/home/alice', USER: 'alice', LOGNAME: 'alice', XDG_RUNTIME_DIR: `/run/user/${ALICE}`, NIX_REMOTE: 'daemon' }
    return { PATH: SYSTEM_PATH, LANG: 'C.UTF-8', ...own, ...more }
  }

  private enter(user: User, command: string, args: readonly string[], cwd: string): string[] {
    const id = String(user === 'root' ? 0 : ALICE)
    const place = ['--target', String(this.pid), '--mount', '--pid', '--root', '--setuid', id, '--setgid', id]
    // the folder is one of the world's: nsenter's own --wd would be looked up outside
    const there = cwd === '/' ? [command, ...args] : ['sh', '-c', 'cd "$0" && exec "$@"', cwd, command, ...args]
    return [...place, '--', ...there]
  }

  /** Runs a program in the world to its end. Never throws. */
  run(user: User, command: string, args: readonly string[] = [], options: RunOptions = {}): Promise<Result> {
    const child = spawn('nsenter', this.enter(user, command, args, options.cwd ?? '/'), {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: this.env(user, options.env),
    })
    return finished(child, options)
  }

  /**
   * A program that takes a shell's arguments and is bash, as a user in the world: for zx, whose
   * commands then run there. The environment is that of env(), which the caller hands on.
   */
  shell(user: User): string {
    const file = `${this.dir}/shell-${user}`
    const words = ['nsenter', ...this.enter(user, 'bash', [], user === 'alice' ? '/home/alice' : '/')].map(
      (word) => `'${word.replaceAll("'", `'\\''`)}'`,
    )
    writeFileSync(file, `#!/bin/sh\nexec ${words.join(' ')} "$@"\n`, { mode: 0o755 })
    return file
  }

  /** As run, and throws when the exit code isn't 0. The stdout, without the last newline. */
  async must(user: User, command: string, args: readonly string[] = [], options: RunOptions = {}): Promise<string> {
    const result = await this.run(user, command, args, options)
    if (result.code === 0) return result.stdout.replace(/\n$/, '')
    const how = result.timedOut ? 'took too long' : `exit ${result.code ?? result.signal}`
    throw new Error(`${this.name}: ${user} ran ${[command, ...args].join(' ').slice(0, 300)}: ${how}\n${result.stdout}${result.stderr}`)
  }

  /**
   * Starts a program in the background, with stdin from /dev/null and its output in a file of
   * `dir`.
   */
  start(
    user: User,
    command: string,
    args: readonly string[] = [],
    options: { env?: Record<string, string | undefined>; cwd?: string } = {},
  ): Running {
    this.logs += 1
    const log = `${this.dir}/${this.logs}-${command.replace(/.*\//, '')}.log`
    const out = openSync(log, 'a')
    const child = spawn('nsenter', this.enter(user, command, args, options.cwd ?? '/'), {
      stdio: ['ignore', out, out],
      env: this.env(user, options.env),
    })
    closeSync(out)
    const ended = new Promise<number | null>((resolve) => {
      child.on('error', () => resolve(null))
      child.on('exit', (code) => resolve(code))
    })
    return {
      child,
      log,
      ended,
      output: () => readFileSync(log, 'utf8'),
      stop: async (signal = 'SIGTERM') => {
        const hard = setTimeout(() => killTree(child.pid, 'SIGKILL'), LIMIT)
        const told = killTree(child.pid, signal)
        await ended
        clearTimeout(hard)
        if (signal === 'SIGKILL') await gone(told)
      },
    }
  }

  /** The world's processes whose name (as in /proc/PID/comm) begins so, by our pids. */
  processes(comm: string): number[] {
    const own = readlinkSync(`/proc/${this.pid}/ns/pid`)
    return allProcesses().filter((pid) => {
      try {
        return readlinkSync(`/proc/${pid}/ns/pid`) === own && readFileSync(`/proc/${pid}/comm`, 'utf8').startsWith(comm)
      } catch {
        return false // gone meanwhile
      }
    })
  }

  /** Sends a signal to all of them. */
  signal(comm: string, signal: NodeJS.Signals): void {
    for (const pid of this.processes(comm)) kill(pid, signal)
  }

  /** Kills all of them, and waits for their end. */
  private async end(comm: string): Promise<void> {
    for (let all = this.processes(comm); all.length > 0; all = this.processes(comm)) {
      for (const pid of all) kill(pid, 'SIGKILL')
      await gone(all)
    }
  }

  /**
   * Starts the multi-user nix-daemon as root with the environment of a bare service; waits until it
   * accepts. Its stderr: daemonLog().
   */
  async startDaemon(env: Record<string, string | undefined> = {}): Promise<void> {
    const daemon = this.start('root', 'nix-daemon', [], { env: { HOME: undefined, USER: undefined, LANG: undefined, ...env } })
    this.daemon = daemon
    await accepts(this.path(DAEMON_SOCKET), daemon, GREETING)
  }

  /** Ends the daemon, its connections and its builds. */
  async stopDaemon(): Promise<void> {
    const daemon = this.daemon
    this.daemon = undefined
    await daemon?.stop('SIGKILL')
    await this.end('nix-daemon')
  }

  /**
   * Waits until nix-daemon serves nobody. Who has just ended may still be served, and until that is
   * over, what was built, fetched or uploaded is rooted: no garbage collection takes it.
   */
  async idle(): Promise<void> {
    await until('nix-daemon to serve nobody', () => this.processes('nix-daemon').length <= 1)
  }

  /**
   * Collects garbage until these paths are gone: what has just served somebody may hold roots of them
   * for a moment.
   */
  async collect(...paths: string[]): Promise<void> {
    const areGone = async (): Promise<boolean> => {
      await this.must('root', 'nix-store', ['--gc'], { env: { NIX_REMOTE: 'local' } })
      return !paths.some((path) => existsSync(this.path(path)))
    }
    await until('the paths to be collected', areGone)
  }

  /** Unmounts a file system as soon as nobody uses it: who has just been ended may still do so. */
  async unmount(folder: string): Promise<void> {
    let said = ''
    const unmounted = async (): Promise<boolean> => {
      const { code, stderr } = await this.run('root', 'umount', [folder])
      said = stderr
      return code === 0
    }
    await until(`nobody to use ${folder}`, unmounted, () => said)
  }

  /** What the daemon has written so far. */
  daemonLog(): string {
    return this.daemon?.output() ?? ''
  }

  /**
   * Starts a real sshd on 127.0.0.1, on a free port that the world keeps from then on. The host key
   * and alice's user key are made at the first call: `userKey` is the private key for the one who
   * logs in, `hostKey` the line for known_hosts without the host's name.
   */
  async startSshd(): Promise<{ port: number; userKey: string; hostKey: string }> {
    const keys = '/etc/ssh/nix-lan'
    if (this.port === 0) {
      this.port = await freePort()
      await this.must('root', 'mkdir', ['-p', keys])
      for (const key of ['host', 'user'])
        await this.must('root', 'ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', '', '-f', `${keys}/${key}`])
      this.write(`${keys}/sshd_config`, sshdConfig(this.port, keys))
    }
    // the sh between: nsenter stops itself when its child is stopped, and nobody would wake it
    // (freezeSshd)
    const sshd = this.start('root', 'sh', ['-c', '/usr/sbin/sshd -D -e -f "$0" & wait', `${keys}/sshd_config`])
    this.sshd = sshd
    await accepts(this.port, sshd)
    return { port: this.port, userKey: this.read(`${keys}/user`), hostKey: this.read(`${keys}/host.pub`).trim() }
  }

  /**
   * Cuts the box off: sshd and every session of it are gone at once. startSshd() brings it back at
   * the same port.
   */
  async stopSshd(): Promise<void> {
    await this.end('sshd')
    await this.sshd?.ended
    this.sshd = undefined
  }

  /** A link that has gone unresponsive: connections stay open, nothing is answered any more. */
  freezeSshd(): void {
    this.signal('sshd', 'SIGSTOP')
  }

  /** And answers again. */
  thawSshd(): void {
    this.signal('sshd', 'SIGCONT')
  }

  /** Ends everything in the world and removes it. */
  async close(): Promise<void> {
    this.keeper.stdin?.end()
    await this.gone
  }
}

function sshdConfig(port: number, keys: string): string {
  const lines = [`Port ${port}`, 'ListenAddress 127.0.0.1', `HostKey ${keys}/host`, `AuthorizedKeysFile ${keys}/user.pub`, 'PidFile none']
  // PAM and the strict modes ask for more of a machine than a world has
  return [...lines, 'UsePAM no', 'StrictModes no', 'PasswordAuthentication no', 'KbdInteractiveAuthentication no', ''].join('\n')
}

/**
 * Waits until something accepts at a unix socket or a local port, and answers what it is told, if
 * it is told something.
 * @throws Error with the program's output when it ends before, or after a minute
 */
export async function accepts(where: string | number, program: Running, greeting?: Buffer): Promise<void> {
  let over = false
  program.ended.then(() => {
    over = true
  })
  for (const end = Date.now() + LIMIT; Date.now() < end && !over; await pause(10)) if (await accepted(where, greeting)) return
  throw new Error(`nothing accepts at ${where}: ${program.output()}`)
}

let ports = 0
/**
 * A TCP port on 127.0.0.1 that nobody has. Not one of those that the kernel gives out by itself
 * (net.ipv4.ip_local_port_range, from 32768 on): anybody might get it before it is listened on, or
 * while its server is away. Each process has some to itself.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 16_384 + (process.pid % 512) * 32 + (ports++ % 32)
    const server = createServer()
    const free = await new Promise<boolean>((resolve) => {
      server.on('error', () => resolve(false)).listen(port, '127.0.0.1', () => resolve(true))
    })
    await new Promise((resolve) => server.close(resolve))
    if (free) return port
  }
}
