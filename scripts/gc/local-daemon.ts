// Connects to this machine's Nix: its nix-daemon or, for a Nix without one, a `nix-daemon --stdio`
// of our own, which speaks the same protocol for a user who may write the store.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { daemonSocket, isSingleUser } from '../nix/daemon.ts'
import { nixEnvironment } from '../nix/nix.ts'
import { type Daemon, type FullInfo, openDaemon } from '../protocol/daemon-ops.ts'
import { searchPath } from '../system/search-path.ts'

/** Milliseconds for the handshake: a busy machine answers late. */
const DEADLINE = 20_000
/**
 * Milliseconds between two answers: looking for roots, or deleting thousands of paths, is one
 * question.
 */
const PATIENCE = 30 * 60_000

const WHO = "this machine's nix-daemon"

/** This machine's Nix. */
export interface LocalNix {
  /** A new connection. @throws NixError when none can be made */
  open(): Promise<Daemon>
}

/**
 * Lets `use` make connections to this machine's Nix while it runs.
 * @param directory one that only we can enter
 */
export async function withLocalNix<T>(directory: string, use: (nix: LocalNix) => Promise<T>): Promise<T> {
  const relay = isSingleUser() ? await startRelay(directory) : undefined
  const socket = relay?.socket ?? daemonSocket()
  try {
    return await use({ open: () => openDaemon(socket, WHO, { deadline: DEADLINE, patience: PATIENCE }) })
  } finally {
    relay?.close()
  }
}

/**
 * Asks this machine's Nix about paths, those that aren't valid left out.
 * @param directory as for withLocalNix()
 */
export function askLocal(directory: string): (paths: readonly string[]) => Promise<Map<string, FullInfo>> {
  return (paths) =>
    withLocalNix(directory, async ({ open }) => {
      const daemon = await open()
      try {
        return await daemon.infos(paths)
      } finally {
        daemon.close()
      }
    })
}

interface Relay {
  socket: string
  close(): void
}

/** Opens a socket in a directory only we can enter; each connection gets its own nix-daemon. */
async function startRelay(directory: string): Promise<Relay> {
  const folder = mkdtempSync(`${directory}/gc-`)
  const children: ChildProcess[] = []
  const server: Server = createServer({ allowHalfOpen: true }, (socket: Socket) => {
    const env = { ...nixEnvironment(), PATH: searchPath(process.env.PATH), NIX_REMOTE: undefined }
    const child = spawn('nix-daemon', ['--stdio'], { stdio: ['pipe', 'pipe', 'ignore'], env })
    child.on('error', () => socket.destroy())
    if (!child.stdin) return // no file descriptors left for its streams
    children.push(child)
    for (const stream of [socket, child.stdin, child.stdout]) stream.on('error', () => socket.destroy())
    socket.pipe(child.stdin)
    child.stdout.pipe(socket)
  })
  const path = `${folder}/socket`
  await new Promise<void>((resolve, reject) => server.on('error', reject).listen(path, () => resolve()))
  return {
    socket: path,
    close: () => {
      server.close()
      for (const child of children) child.kill()
      rmSync(folder, { recursive: true, force: true })
    },
  }
}
