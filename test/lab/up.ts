// npm run lab: boots the lab with nix-lan on the laptop and leaves it up, in the foreground, until
// ^C; npm run lab -- COMMAND… does something in the lab that is up, from another terminal. One at a
// time.
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, rmSync } from 'node:fs'
import { createConnection, createServer } from 'node:net'
import { cacheFolder } from '../lib/roots.ts'
import { installMissing } from '../lib/runner.ts'
import type { Entry } from './host.ts'
import { createLab, type Lab, RELEASES } from './lab.ts'
import type { DnsMode } from './lan.ts'

const HELP = `Usage: npm run lab [-- [--bare] [RELEASE]]      boots it and leaves it up, until ^C
       npm run lab -- COMMAND…                     in another terminal

RELEASE: the laptop's Debian, ${RELEASES.join(', ')} (default: bookworm). --bare: without nix-lan on it.

  alice [CMD…]            a shell, or a command, as alice on the laptop
  root HOST [CMD…]        as root on a HOST: laptop, box (which is pi.local), nas
  cable HOST out|in       a cable is pulled out, or plugged in
  range HOST out|in       out of range: frames vanish in silence
  slow HOST MBIT          a slow link; 0 mends it
  power HOST on|off|reboot|crash
  dns normal|silent|captive|none
  move ADDRESS            DHCP gives the box another address (10.77.0.4 to .99)
  down                    as ^C in the first terminal

Examples:
  npm run lab -- trixie
  npm run lab -- alice nix-lan status
  npm run lab -- cable laptop out
`

/** Where the lab that is up listens for commands. */
const SOCKET = `${cacheFolder()}/lab/up.sock`

/** Commands that the process that has the lab does. @returns what to say */
const VERBS: Record<string, (lab: Lab, words: string[]) => Promise<unknown>> = {
  cable: (lab, [host = '', how]) => lab.lan.cable(hostNamed(lab, host).name, isIn(how)),
  range: (lab, [host = '', how]) => lab.lan.range(hostNamed(lab, host).name, isIn(how)),
  slow: (lab, [host = '', mbit]) => lab.lan.slow(hostNamed(lab, host).name, Number(mbit)),
  power: (lab, [host = '', what]) => {
    if (what === 'on' || what === 'off' || what === 'reboot' || what === 'crash') return hostNamed(lab, host).power(what)
    throw new Error('power HOST on, off, reboot or crash')
  },
  dns: (lab, [mode = '']) => {
    if (['normal', 'silent', 'captive', 'none'].includes(mode)) return lab.lan.dns(mode as DnsMode)
    throw new Error('dns normal, silent, captive or none')
  },
  move: (lab, [address = '']) => lab.moveBox(address),
  down: async () => void setTimeout(() => process.kill(process.pid, 'SIGTERM'), 100),
  /** For `alice` and `root`, which need the terminal of who asks: the command that enters. */
  enter: async (lab, [host = '', user = '', command = '', ...args]) => {
    const as = user === 'alice' ? 'alice' : 'root'
    return JSON.stringify(hostNamed(lab, host).entry(as, command, args))
  },
}

function isIn(how: string | undefined): boolean {
  if (how === 'in' || how === 'out') return how === 'in'
  throw new Error('out or in')
}

function hostNamed(lab: Lab, name: string) {
  const host = [lab.laptop, lab.box, lab.nas].find((one) => one.name === name)
  if (host) return host
  throw new Error(`there is no host ${name}; laptop, box or nas`)
}

async function main(): Promise<number> {
  const [first = '', ...rest] = process.argv.slice(2)
  if (first === '--help' || first === '-h') return say(HELP)
  if (first === 'alice') return await enter(['laptop', 'alice', ...orShell(rest)])
  if (first === 'root') return await enter([rest[0] ?? '', 'root', ...orShell(rest.slice(1))])
  if (first in VERBS) return say(await ask([first, ...rest]))
  const words = process.argv.slice(2).filter((word) => word !== '--bare')
  const laptop = RELEASES.find((name) => name === (words[0] ?? 'bookworm'))
  if (laptop && words.length < 2) return await keepUp(laptop, !process.argv.includes('--bare'))
  process.stderr.write(HELP)
  return 2
}

function say(text: string): number {
  if (text) process.stdout.write(text)
  return 0
}

const orShell = (words: string[]): string[] => (words.length > 0 ? words : ['bash', '-l'])

async function keepUp(laptop: (typeof RELEASES)[number], installed: boolean): Promise<number> {
  if (existsSync(SOCKET) && (await ask(['none']).catch((error) => error.message)) !== NONE) {
    throw new Error('a lab is up already: npm run lab -- down')
  }
  await installMissing()
  console.log(`the lab boots (the first time it fetches Debian ${laptop}, a minute or two) …`)
  const lab = await createLab({ laptop, installed, ownDeadline: true })
  await listen(lab)
  console.log(`up: laptop (Debian ${laptop}, nix-lan ${installed ? 'installed' : 'not installed'}) and box (pi.local). In another terminal:
  npm run lab -- alice                    a shell of alice's on the laptop; alice nix-lan --help, say
  npm run lab -- alice journalctl --user -f
  npm run lab -- cable laptop out         pulls its cable; in: plugs it in
  npm run lab -- --help                   the rest.
^C ends it all.`)
  await new Promise<void>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => resolve())
  })
  rmSync(SOCKET, { force: true })
  await lab.close()
  return 0
}

/** One JSON line of words in, one of { text } or { error } out. */
async function listen(lab: Lab): Promise<void> {
  mkdirSync(`${cacheFolder()}/lab`, { recursive: true })
  rmSync(SOCKET, { force: true })
  const server = createServer((socket) => {
    let text = ''
    socket.on('error', () => {})
    socket.setEncoding('utf8').on('data', (more: string) => {
      text += more
      if (text.includes('\n')) answer(lab, JSON.parse(text)).then((reply) => socket.end(`${JSON.stringify(reply)}\n`))
    })
  })
  await new Promise<void>((resolve) => server.listen(SOCKET, resolve))
  server.unref()
}

async function answer(lab: Lab, [verb = '', ...words]: string[]): Promise<{ text?: string; error?: string }> {
  try {
    const done = await VERBS[verb]?.(lab, words)
    return { text: typeof done === 'string' ? done : '' }
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) }
  }
}

const NONE = 'no lab is up: npm run lab'

/** Asks the process that has the lab. @throws Error with its answer, or when there is none */
function ask(words: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = ''
    const socket = createConnection(SOCKET, () => socket.write(`${JSON.stringify(words)}\n`))
    socket.on('error', () => reject(new Error(NONE)))
    socket.setEncoding('utf8').on('data', (more: string) => {
      text += more
    })
    socket.on('end', () => {
      const reply = JSON.parse(text || '{"error":"the lab has gone"}') as { text?: string; error?: string }
      if (reply.error === undefined) resolve(reply.text ?? '')
      else reject(new Error(reply.error))
    })
  })
}

async function enter(words: string[]): Promise<number> {
  const { command, env } = JSON.parse(await ask(['enter', ...words])) as Entry
  const [program = '', ...args] = command
  const child = spawn(program, args, { stdio: 'inherit', env: { ...env, TERM: process.env.TERM } })
  process.on('SIGINT', () => {}) // the terminal tells the child
  return new Promise((resolve) => child.on('exit', (code) => resolve(code ?? 1)).on('error', () => resolve(127)))
}

main().then(
  (code) => process.exit(code),
  (error) => {
    console.error(error instanceof Error ? error.message : error)
    process.exit(1)
  },
)
