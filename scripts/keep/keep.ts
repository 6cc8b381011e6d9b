// Protects store paths on the box from its garbage collection. A manifest is a text file in the
// box's store that refers to what is to be kept (AddToStore text:sha256, which needs no trust); a
// link in the home of the tunnel's user, registered with AddIndirectRoot, keeps the manifest.
// No program of ours runs on the box. Where the home isn't always there, the links are in
// /nix/var/nix/gcroots/nix-lan-kept/USER (links.ts).
//
//     ~/.local/state/nix-lan/kept/CLIENT/DATE   uploaded that day; let go when `keep` has passed
//     ~/.local/state/nix-lan/only/CLIENT/DATE   deleted that day on the client by `nix-lan gc`; kept
//                                               until `nix-lan box forget`
//
// One link per day: a new manifest of the same day refers to the one it replaces.
import { Failure } from '../cli/errors.ts'
import { isStorePath, storeDir } from '../nix/store-path.ts'
import type { Daemon } from '../protocol/daemon-ops.ts'
import { type Kind, letGo, type Prepared, prepare, putLink, whileChanged } from './links.ts'
import type { Shore } from './shore.ts'

/**
 * A client's name that works as a file name and as part of a store path: that of its signing key.
 */
export const clientName = (keyName: string): string =>
  keyName
    .replace(/[^A-Za-z0-9+._=-]/g, '-')
    .replace(/^[.-]+/, '')
    .slice(0, 60) || 'client'

/** The text of a manifest. Only people read it: what keeps paths is the manifest's references. */
export function manifestText(kind: Kind, client: string, date: string, paths: readonly string[]): string {
  const why = kind === 'only' ? `deleted on ${client} by nix-lan gc` : `uploaded by ${client}`
  return `Kept here by nix-lan: ${why}, ${date}\n${[...paths].sort().join('\n')}\n`
}

/** What to keep. */
export interface Wish {
  kind: Kind
  client: string
  paths: readonly string[]
  /** See to it that all of it is on the box's disk. */
  sync?: boolean
}

/** Milliseconds after which what was written is on a disk, as long as the machine runs (5 s to 30 s). */
const WRITTEN = 3_600_000
/** Milliseconds to wait for the manifest and its link: Linux writes after 30 s (proc_sys_vm(5)). */
const SETTLES = 60_000

/**
 * Keeps paths on the box: when this returns, they and all they refer to are rooted there, as the
 * box's daemon has confirmed.
 * @param wait for tests
 * @returns what was there before; `early`: with `sync`, the paths that are not kept since they came
 * to the box within the last hour, and it can't be told to write them to its disk
 * @throws Refused when one of the paths isn't valid there; Failure for anything else that prevents
 * it
 */
export const pin = (shore: Shore, wish: Wish, wait = pause): Promise<Prepared & { early: string[] }> =>
  whileChanged(() => pinOnce(shore, wish, wait))

async function pinOnce(shore: Shore, wish: Wish, wait: typeof pause): Promise<Prepared & { early: string[] }> {
  const { daemon, remote } = shore
  const { kind, client, sync = false } = wish
  const prepared = await prepare(shore, kind, client)
  const { date, links, unsynced } = prepared
  const early = sync && unsynced !== undefined ? await youngerThan(daemon, wish.paths, unsynced - WRITTEN) : []
  const paths = early.length === 0 ? wish.paths : wish.paths.filter((path) => !early.includes(path))
  if (paths.length === 0) return { ...prepared, early }
  const before = links.get(date)
  const replaced = before !== undefined && (await daemon.valid([before])).has(before) ? [before] : []
  const text = manifestText(kind, client, date, paths)
  const manifest = await daemon.addText(`nix-lan-${kind}-${client}`, text, [...new Set([...paths, ...replaced])])
  const link = await putLink(shore, kind, client, date, { manifest, before: before ?? '' })
  await daemon.addIndirectRoot(link)
  const roots = await daemon.roots()
  if (!roots.some((root) => root.link === link && root.path === manifest)) throw new Failure(NOT_ROOTED(link))
  if (sync && unsynced === undefined) await remote.run('sync || exit 1\nreport synced yes', {})
  else if (sync) await wait(SETTLES)
  return { ...prepared, early }
}

/** @param time milliseconds since 1970, by the box's clock, which tells when a path was registered */
async function youngerThan(daemon: Daemon, paths: readonly string[], time: number): Promise<string[]> {
  const infos = await daemon.infos(paths)
  return paths.filter((path) => (infos.get(path)?.registered ?? Number.POSITIVE_INFINITY) * 1000 > time)
}

const pause = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds))

const NOT_ROOTED = (link: string): string =>
  `the box's nix-daemon doesn't take ${link} for a root: can it read the home of that user (an encrypted or a network home, a chroot of sftp)? nix-lan doctor says more`

/** A link of ours among a box's roots: whose, and since when. */
export interface Link {
  kind: Kind
  client: string
  /** YYYY-MM-DD. */
  day: string
  link: string
  manifest: string
}

/**
 * Our links among a box's roots, of any client, sorted by kind, client and day. Pure. Takes into
 * account that a box may answer anything.
 */
export function linksIn(roots: readonly { link: string; path: string }[]): Link[] {
  const pattern = /\/(kept|only)\/([A-Za-z0-9+._=-]{1,60})\/(\d{4}-\d\d-\d\d)$/
  const found = roots.flatMap(({ link, path }) => {
    const [, kind, client, day] = pattern.exec(link) ?? []
    if (!kind || !client || !day || !isStorePath(path, storeDir) || nameOf(path) !== `nix-lan-${kind}-${client}`) return []
    return [{ kind: kind as Kind, client, day, link, manifest: path }]
  })
  const order = (one: Link): string => `${one.kind} ${one.client} ${one.day} ${one.link}`
  return found.sort((a, b) => (order(a) < order(b) ? -1 : 1))
}

/** Whether a path is a manifest, going by its name. */
const isManifest = (path: string): boolean => /^nix-lan-(kept|only)-/.test(nameOf(path))

/** A store path's name after its hash. */
const nameOf = (path: string): string => path.slice(storeDir.length + 34)

/**
 * What manifests keep, link by link: their references, and those of the manifests they replaced.
 */
export async function contentsOf(daemon: Daemon, links: readonly Link[]): Promise<Map<string, Set<string>>> {
  const references = new Map<string, readonly string[]>()
  let layer = [...new Set(links.map(({ manifest }) => manifest))]
  while (layer.length > 0) {
    const infos = await daemon.infos(layer)
    for (const path of layer) references.set(path, infos.get(path)?.references ?? [])
    layer = [...new Set(layer.flatMap((path) => references.get(path) ?? []))].filter((path) => isManifest(path) && !references.has(path))
  }
  return new Map(links.map(({ link, manifest }) => [link, pathsOf(manifest, references)]))
}

function pathsOf(manifest: string, references: ReadonlyMap<string, readonly string[]>): Set<string> {
  const manifests = new Set([manifest])
  const paths = new Set<string>()
  for (const one of manifests)
    for (const reference of references.get(one) ?? []) {
      if (isManifest(reference)) manifests.add(reference)
      else paths.add(reference)
    }
  return paths
}

/**
 * Replaces what a link keeps, or removes the link when nothing is left.
 * @throws Changed when it keeps something else by now; Failure, leaving it as it was
 */
export async function rewrite(shore: Shore, link: Link, paths: readonly string[]): Promise<void> {
  const { kind, client, day, manifest: before } = link
  if (paths.length === 0) return await letGo(shore, kind, client, [day], before)
  const manifest = await shore.daemon.addText(`nix-lan-${kind}-${client}`, manifestText(kind, client, day, paths), paths)
  await putLink(shore, kind, client, day, { manifest, before })
}
