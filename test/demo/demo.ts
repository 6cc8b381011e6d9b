// npm run demo: the whole story in ten seconds, with the real scripts, on this one machine. Two Nix
// stores in private mount namespaces are the client and the box, and a real sshd with keys made for
// the occasion lies between them. Changes nothing on the machine (but may install Debian packages,
// after saying so) and leaves nothing behind. Ends with exit code 1 at the first step that does not
// hold.
import { realpathSync } from 'node:fs'
import { dirname } from 'node:path'
import type { ProcessPromise } from 'zx'
import { main, parse } from '../../scripts/cli/command.ts'
import { Failure } from '../../scripts/cli/errors.ts'
import { installPackages } from '../lib/apt.ts'
import { has, missing, PACKAGES, which } from '../lib/needs.ts'
import { createPair, DIST, type Pair, SOCKET, T_FILE } from '../nix/pair.ts'
import { SYSTEM_PATH, type User, type World } from '../nix/world.ts'

const HELP = `Usage: npm run demo   (or dist/demo)

Plays nix-lan's story on this one machine, in about ten seconds: a build is
queued and uploaded to the box; the client frees space, and the box collects
garbage; the build comes back from the box; the box is cut off, and nothing
waits; the box returns, and gets what it missed. Client and box are two Nix
stores in private mount namespaces, with a real sshd between them. Nothing of
them is left behind.

Needs root, Linux, nix, ssh, sshd and util-linux; on Debian and its kin it
installs what is missing, after saying so.
`
const NEEDS = ['nix', 'ssh', 'sshd', 'unshare', 'nsenter', 'bash']
/** What the demo's slow build takes, in seconds. */
const SECONDS = 3
/** The files that are built, in alice's home. */
const FILES = {
  'report.nix': `import ${T_FILE} { name = "report"; seconds = ${SECONDS}; kb = 1024; }\n`,
  'news.nix': `import ${T_FILE} { name = "news"; }\n`,
  'newer.nix': `import ${T_FILE} { name = "newer"; }\n`,
}

/** Runs a command, as zx's `$`. */
type Shell = (pieces: TemplateStringsArray, ...words: string[]) => ProcessPromise

async function demo(argv: string[]): Promise<number> {
  parse(argv, {})
  await prepare()
  say(`${bold('nix-lan')}: a client and a box on this one machine, two Nix stores with a real\nsshd between them.\n`)
  const started = Date.now()
  const substituter = `ssh-ng://localhost?remote-program=${DIST}/nix-lan-connect%20${SOCKET}`
  const settings = { 'extra-substituters': substituter }
  const pair = await createPair({ hook: true, settings, dist: dirname(realpathSync(process.argv[1] ?? 'dist/demo')) })
  try {
    say(dim(`   (Made in ${seconds(Date.now() - started)}. Signatures are required; the user is not trusted by Nix.)\n`))
    for (const [name, text] of Object.entries(FILES)) pair.client.write(`/home/alice/${name}`, text, { user: 'alice' })
    await story(pair)
  } catch (error) {
    say(red(`\n✘ ${error instanceof Error ? error.message : error}`))
    say(`\nThe client's nix-daemon said:\n${pair.client.daemonLog()}\nThe tunnel said:\n${pair.tunnelLog()}`)
    throw new Failure('the demo failed: this step does not hold on this machine')
  } finally {
    await pair.close()
  }
  return 0
}

async function story(pair: Pair): Promise<void> {
  const { box } = pair
  const alice = await shellOf(pair.client, 'alice')
  const root = await shellOf(pair.client, 'root')

  const boxRoot = await shellOf(box, 'root')

  heading(`A build on the client takes ${SECONDS} seconds; the post-build-hook queues it`)
  await opened(pair, alice)
  const first = await alice`nix-build --no-out-link report.nix`
  const path = first.stdout.trim()
  const { stdout: digest } = await root`sha256sum ${path}`
  holds(await waits(pair, path), 'the build is in the queue')
  done('built, and in the queue', first.duration)

  heading('What is queued goes to the box')
  const upload = await alice`nix-lan queue upload`
  holds(await pair.boxHas(path), 'the box has it, with its signature')
  holds((await pair.queued()).length === 0, 'the queue is empty')
  done('the box has it, signed; the queue is empty', upload.duration)

  heading('The client frees space: only what the box confirms, and keeps from its own collection')
  const collected = await alice`nix-lan gc --yes`
  holds(!(await pair.clientHas(path)), `the client has deleted it:\n${collected.stdout}`)
  done('it is gone from the client', collected.duration)
  const onBox = await boxRoot`nix-store --gc`
  holds(await pair.boxHas(path), "the box's own garbage collection spares it")
  done("the box's own garbage collection spares it", onBox.duration)

  heading('The same build again: it comes back from the box')
  const again = await alice`nix-build --no-out-link report.nix`
  holds((await root`sha256sum ${path}`).stdout === digest, 'these are the bytes of the first build')
  done('fetched and not built: the same bytes', again.duration)

  heading('The box is cut off, and a build goes on at once')
  await box.stopSshd()
  await pair.tunnelEnded()
  const news = await alice`nix-build --no-out-link news.nix`
  const kept = news.stdout.trim()
  holds(!/error|warning/.test(news.stderr), `Nix says no word about it:\n${news.stderr}`)
  done('built, without a word of warning', news.duration)
  const without = await alice`NIX_CONFIG='substituters =' nix-build --no-out-link newer.nix`
  say(dim(`     (With no cache in nix.conf at all such a build took ${seconds(without.duration)}.)`))
  const notNow = await alice`nix-lan queue upload`.nothrow()
  holds(notNow.exitCode === 75, `an upload says "not now" (75), and not ${notNow.exitCode}:\n${notNow.stderr}`)
  await root`nix-store --gc`
  holds((await pair.clientHas(kept)) && (await waits(pair, kept)), 'the queue keeps what waits, also from the garbage collection')
  done('the queue waits; the garbage collection spares what is in it', notNow.duration)

  heading('The box returns, and the queue drains')
  await box.startSshd()
  await opened(pair, alice)
  const drained = await alice`nix-lan queue upload`
  holds(await pair.boxHas(kept, without.stdout.trim()), `the box gets what it missed:\n${drained.stderr}`)
  holds((await pair.queued()).length === 0, 'the queue is empty')
  done('the box has what it missed; the queue is empty', drained.duration)

  const saved = first.duration - again.duration
  // Not a step that has to hold: what else the machine does may be in the one figure, and not in the other.
  const gain =
    saved > 0
      ? `${seconds(saved)} of ${seconds(first.duration)} when the build came back from the box`
      : 'nothing this time: the machine was busy while the build came back from the box'
  say(`\n${bold('Saved:')} ${gain}.\n${bold('Lost')} while it was away: nothing.`)
  say('Nothing of this is left on your machine. To set it up for your own box, see\nREADME.md.')
}

/** zx in a world: each command is shown, runs there, and throws when it fails. */
async function shellOf(world: World, user: User): Promise<Shell> {
  const { $ } = await import('zx') // late: prepare() has removed what would change it
  const env = world.env(user, { PATH: `${DIST}:${SYSTEM_PATH}` })
  const run = $({ shell: world.shell(user), prefix: '', env, stdio: ['ignore', 'pipe', 'pipe'], quiet: true })
  return (pieces, ...words) => {
    command(String.raw({ raw: pieces }, ...words))
    return run(pieces, ...words)
  }
}

/** Opens the tunnel, and asks whether the box can be used. */
async function opened(pair: Pair, alice: Shell): Promise<void> {
  command('nix-lan-tunnel box &')
  await pair.openTunnel()
  await alice`nix-lan-available --usable box`
}

async function waits(pair: Pair, path: string): Promise<boolean> {
  return (await pair.queued()).includes(path.slice('/nix/store/'.length))
}

/**
 * Installs what is missing where that is possible. @throws Failure that says what to do, where it
 * isn't
 */
async function prepare(): Promise<void> {
  // They change what zx runs; ZX_PREFIX even puts shell code in front (zx 8, "Environment
  // variables").
  for (const name of Object.keys(process.env)) if (name.startsWith('ZX_')) delete process.env[name]
  if (process.platform !== 'linux') throw new Failure('the demo needs Linux: it makes two Nix stores in mount namespaces')
  if (process.getuid?.() !== 0)
    throw new Failure('the demo needs root, to make two Nix stores in private mount namespaces: sudo npm run demo')
  const lacks = missing(NEEDS)
  if (lacks.includes('nix') && which('nix'))
    say(`Your Nix lives in /nix, which client and box have each their own of: the demo needs Debian's nix-bin.`)
  const packages = [...new Set(lacks.map((need) => PACKAGES[need] ?? need))]
  const install = `apt-get install --no-install-recommends ${packages.join(' ')}`
  if (packages.length > 0) {
    if (!has('apt-get')) throw new Failure(`the demo needs ${lacks.join(', ')}: install them (on Debian: ${install})`)
    say(`The demo needs ${lacks.join(', ')}, so it installs Debian's packages: ${install}`)
    await installPackages(packages).catch((error) => {
      throw new Failure(`${install} failed: ${error.message}`)
    })
    if (missing(NEEDS).length > 0) throw new Failure(`the demo needs ${missing(NEEDS).join(', ')}, and ${install} has not brought it`)
  }
  if (!has('root'))
    throw new Failure('the demo may not make mount namespaces here; in a container, it needs CAP_SYS_ADMIN (docker run --privileged)')
}

/** @throws Error when the step does not hold */
function holds(condition: boolean, what: string): void {
  if (!condition) throw new Error(`This does not hold: ${what}`)
}

let step = 0
function heading(text: string): void {
  step += 1
  say(`${step > 1 ? '\n' : ''}${bold(`${step}. ${text}.`)}`)
}

function command(text: string): void {
  say(dim(`     $ ${text}`))
}

function done(text: string, ms: number): void {
  say(`   ${green('✔')} ${text}${' '.repeat(Math.max(1, 68 - text.length))}${seconds(ms).padStart(7)}`)
}

const seconds = (ms: number): string => `${(ms / 1000).toFixed(2)} s`
const say = (text: string): void => void process.stdout.write(`${text}\n`)
const colours = process.stdout.isTTY && !process.env.NO_COLOR
const colour = (code: number) => (text: string) => (colours ? `\x1b[${code}m${text}\x1b[0m` : text)
const [bold, dim, red, green] = [colour(1), colour(2), colour(31), colour(32)]

main('demo', HELP, demo)
