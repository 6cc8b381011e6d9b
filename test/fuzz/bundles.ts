// Sessions of real Nixes with a box that says mutated things, through dist/nix-lan-connect itself,
// in Node and, where test/runtimes.sh has put them, in Deno and Bun: what in-process fuzzing can't
// see, which is the sockets, the pipes and the exit of each runtime.
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import type { Random } from '../lib/random.ts'
import { cacheFolder } from '../lib/roots.ts'
import type { Target } from './main.ts'
import { mutated } from './mutate.ts'
import { recordedSessions, type Session } from './sessions.ts'
import { wholeAnswers } from './whole-answers.ts'

/** Sessions at a time: a start is mostly waiting. */
const AT_ONCE = 4

/** The runtimes here: name → program. Deno and Bun are there when test/runtimes.sh has run. */
function runtimes(): Map<string, string> {
  const found = new Map([['node', process.execPath]])
  for (const [name, folder] of [
    ['deno', 'deno-2'],
    ['bun', 'bun-1'],
  ] as const) {
    const file = join(cacheFolder(), 'runtimes', folder, 'found')
    const program = existsSync(file) ? readFileSync(file, 'utf8').trim() : ''
    const moved = program.replace(/^.*\/node_modules\//, join(cacheFolder(), 'runtimes', folder, 'node_modules/'))
    const [there] = [program, moved].filter((path) => path !== '' && existsSync(path))
    if (there) found.set(name, there)
  }
  return found
}

interface Ended {
  code: number | string | null
  got: Buffer
  stderr: string
}

/** One session through the bundle. @param bin a folder with nothing but the runtime */
function run(folder: string, bin: string, socket: string, fromNix: Buffer): Promise<Ended> {
  const connect = [resolve('dist/nix-lan-connect'), socket, '--patience', '0', '--deadline', '1', '--stdio']
  // As root it takes notes in /run and /var/lib: it gets its own.
  const mounts = 'mount --bind "$1/run" /run && mount --bind "$1/lib" /var/lib && shift && exec "$@"'
  const own = ['unshare', '--mount', '--propagation', 'private', 'sh', '-c', mounts, 'sh', folder]
  const [program = '', ...args] = [...(process.getuid?.() === 0 ? own : []), ...connect]
  const child = spawn(program, args, { env: { PATH: `${bin}:/usr/bin:/bin`, HOME: folder, XDG_RUNTIME_DIR: join(folder, 'user') } })
  const got: Buffer[] = []
  let stderr = ''
  child.stdout.on('data', (chunk: Buffer) => got.push(chunk))
  child.stderr.on('data', (chunk) => {
    stderr += chunk
  })
  child.stdin.on('error', () => {}).end(fromNix)
  return new Promise((done, fail) => {
    child.on('error', fail).on('close', (code, signal) => done({ code: code ?? signal, got: Buffer.concat(got), stderr }))
  })
}

/** Nix speaks properly, so whatever the box has said, it is given whole answers, and an end. */
function judge(session: Session, { code, got, stderr }: Ended): void {
  const told = `${session.command}, exit ${code}: ${stderr}`
  if (code !== 0 && code !== 1) throw new Error(told)
  if (/this is a bug/.test(stderr)) throw new Error(told)
  if (!session.operations) return
  const { answered, rest, inNar, why } = wholeAnswers(got, session.operations, session.fromNix, false)
  if (code === 0 && answered < session.operations.length) throw new Error(`${answered} answers; ${told}`)
  if (rest > 0 && !(code === 1 && inNar)) throw new Error(`${rest} bytes of an answer that isn't whole (${why}); ${told}`)
}

/** `bundle-node` and so on. */
export function bundles(): Target[] {
  const all = recordedSessions()
  const streams = all.flatMap(({ fromNix, answers }) => [fromNix, answers])
  return [...runtimes()].map(([name, program]): Target => {
    const folder = mkdtempSync(join(tmpdir(), 'nix-lan-fuzz-'))
    for (const part of ['bin', 'run', 'lib', 'user']) mkdirSync(join(folder, part), { mode: 0o700 })
    symlinkSync(program, join(folder, 'bin', name))
    let sockets = 0

    async function once(random: Random): Promise<void> {
      const session = random.pick(all)
      const socket = join(folder, `${sockets++}`)
      const server = createServer((near) => {
        near.on('error', () => {}).on('data', () => {})
        near.end(mutated(session.fromBox, random, streams))
      })
      await new Promise<void>((done) => server.listen(socket, done))
      try {
        judge(session, await run(folder, join(folder, 'bin'), socket, session.fromNix))
      } finally {
        server.close()
        rmSync(socket, { force: true })
      }
    }

    return {
      name: `bundle-${name}`,
      share: 4,
      once: async (random) => {
        await Promise.all(Array.from({ length: AT_ONCE }, () => once(random)))
        return AT_ONCE
      },
      close: () => rmSync(folder, { recursive: true, force: true }),
    }
  })
}
