// What connect needs to know of a box when it is given the broker's socket, /run/nix-lan/CACHE.sock:
// root's file beside it says whose tunnel that is. Nix starts connect as root, which has no
// configuration to read, so there is no need to load one.
import { closeSync, constants, fstatSync, lstatSync, openSync, readFileSync } from 'node:fs'
import { UsageError } from '../cli/errors.ts'
import { brokerSocket, connectFile, socketPath } from '../system/paths.ts'
import type { Target } from './upstream.ts'

/** Bytes; more is no such file. */
const MOST = 65536
/** Milliseconds. */
export const DEADLINE = 2000
export const PATIENCE = 60_000

/** The cache whose broker has this socket; undefined: it is another socket. */
export const brokersCache = (socket: string): string | undefined => /^\/run\/nix-lan\/([a-z0-9-]+)\.sock$/.exec(socket)?.[1]

/**
 * Where a cache's tunnel is, and how long to wait for it.
 * @throws UsageError when root's file is missing, wrong, or not root's alone
 */
export async function readTarget(cache: string): Promise<Target> {
  const { user, deadline, patience } = readSettings(connectFile(cache))
  return { socket: socketPath(await uidOf(user, cache), cache), deadline, patience }
}

/** Milliseconds. */
interface Settings {
  user: string
  deadline: number
  patience: number
}

/**
 * Reads lines KEY=VALUE: `user`, and perhaps `deadline` and `patience`, in seconds. Follows a link,
 * since /etc is full of them on NixOS: what counts is whose the file is.
 * @throws UsageError
 */
export function readSettings(file: string): Settings {
  const settings: Settings = { user: '', deadline: DEADLINE, patience: PATIENCE }
  for (const line of readRootsFile(file).split('\n')) {
    const [, key, value = ''] = /^(\w+)=(.*)$/.exec(line) ?? []
    if (key === 'user') settings.user = value
    else if (key === 'deadline') settings.deadline = milliseconds(file, key, value, 0.1, 60)
    else if (key === 'patience') settings.patience = milliseconds(file, key, value, 0, 3600)
    else if (line !== '' && !line.startsWith('#')) throw new UsageError(`${file}: "${line}" is none of user=, deadline=, patience=`)
  }
  if (settings.user === '') throw new UsageError(`${file}: there is no line user=NAME; nix-lan setup writes one`)
  return settings
}

function milliseconds(file: string, key: string, value: string, least: number, most: number): number {
  const seconds = Number(value)
  if (value !== '' && seconds >= least && seconds <= most) return seconds * 1000
  throw new UsageError(`${file}: ${key}=${value}: give seconds, from ${least} to ${most}`)
}

function readRootsFile(file: string): string {
  let handle: number | undefined
  try {
    handle = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK)
    const stat = fstatSync(handle)
    if (!stat.isFile() || stat.uid !== 0 || (stat.mode & 0o022) !== 0 || stat.size > MOST)
      throw new UsageError(`${file}: this must be a small file of root's that nobody else can write`)
    return readFileSync(handle, 'utf8')
  } catch (error) {
    if (error instanceof UsageError) throw error
    throw new UsageError(`${file} can't be read: ${(error as Error).message}; nix-lan setup writes it`)
  } finally {
    if (handle !== undefined) closeSync(handle)
  }
}

/**
 * A user's uid. The socket's owner tells it without reading the user database.
 * @throws UsageError when there is no such user
 */
async function uidOf(user: string, cache: string): Promise<number> {
  const owner = lstatSync(brokerSocket(cache), { throwIfNoEntry: false })
  if (owner?.isSocket() && owner.uid !== 0) return owner.uid
  const { findUser } = await import('../system/users.ts')
  const found = findUser(user)
  if (!found) throw new UsageError(`${connectFile(cache)}: there is no user ${user}`)
  return found.uid
}
