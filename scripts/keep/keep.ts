// Protects store paths on the box from its garbage collection. A manifest is a text file in the
// box's store that refers to what is to be kept (AddToStore text:sha256, which needs no trust); a
// link in the home of the tunnel's user, registered with AddIndirectRoot, keeps the manifest.
// No program of ours runs on the box.
//
//     ~/.local/state/nix-lan/kept/CLIENT/DATE   uploaded that day; let go when `keep` has passed
//     ~/.local/state/nix-lan/only/CLIENT/DATE   deleted that day on the client by `nix-lan gc`; kept
//                                               until `nix-lan box forget`
//
// One link per day: a new manifest of the same day refers to the one it replaces.
import { Failure } from '../cli/errors.ts'
import { isStorePath, storeDir } from '../nix/store-path.ts'
import type { Daemon } from '../protocol/daemon-ops.ts'
import type { Remote } from './remote.ts'

/** `kept`: for a while. `only`: it is no longer on the client. */
export type Kind = 'kept' | 'only'

/** Below the home directory on the box. */
export const FOLDER = '.local/state/nix-lan'

/** A registered link. */
export interface Pin {
  kind: Kind
  client: string
  link: string
  manifest: string
}

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

const PREPARE = `report date "$(date -u +%Y-%m-%d)"
report home "$(cd && pwd -P)"
cd && cd "$folder/$kind/$client" 2>/dev/null || exit 0
for link in *; do if [ -L "$link" ]; then report link "$link $(readlink "$link")"; fi; done
`

// rename(2), not unlink and symlink, so there is never a moment without a root. The temporary name
// starts with a dot, so it is never taken for a day's.
const LINK = `set -e
cd
mkdir -p "$folder/$kind/$client"
cd "$folder/$kind/$client"
ln -s "$manifest" ".new.$$"
mv -f ".new.$$" "$date"
report linked "$(pwd -P)/$date"
`

/** What is on the box before a link is made. */
export interface Prepared {
  /** The box's date, YYYY-MM-DD. */
  date: string
  home: string
  /** The links of this client and kind: day → manifest. */
  links: Map<string, string>
}

/**
 * Asks for the box's date, its home and our links there.
 * @throws Failure as Remote.run() does, and when the answer makes no sense
 */
export async function prepare(remote: Remote, kind: Kind, client: string): Promise<Prepared> {
  // PREPARE ends early if there is no folder yet; what it has reported by then counts.
  const reported = await remote.run(`(\n${PREPARE})`, { folder: FOLDER, kind, client })
  const [date = ''] = reported.get('date') ?? []
  const [home = ''] = reported.get('home') ?? []
  if (!/^\d{4}-\d\d-\d\d$/.test(date) || !home.startsWith('/'))
    throw new Failure(`the box says neither its date nor its home: ${date} ${home}`)
  const links = (reported.get('link') ?? []).map((line) => line.split(' '))
  const ours = links.filter(([day, target]) => /^\d{4}-\d\d-\d\d$/.test(day ?? '') && isStorePath(target ?? '', storeDir))
  return { date, home, links: new Map(ours.map(([day = '', target = '']) => [day, target])) }
}

/**
 * Keeps paths on the box: when this returns, they and all they refer to are rooted there, as the
 * box's daemon has confirmed.
 * @param daemon of the box
 * @param sync write everything the box has in memory to its disk before returning
 * @throws Refused when one of the paths isn't valid there; Failure for anything else that prevents
 * it
 */
export async function pin(
  { daemon, remote }: { daemon: Daemon; remote: Remote },
  { kind, client, paths, sync = false }: { kind: Kind; client: string; paths: readonly string[]; sync?: boolean },
): Promise<Pin & Prepared> {
  const prepared = await prepare(remote, kind, client)
  const { date, links } = prepared
  const before = links.get(date)
  const replaced = before !== undefined && (await daemon.valid([before])).has(before) ? [before] : []
  const text = manifestText(kind, client, date, paths)
  const manifest = await daemon.addText(`nix-lan-${kind}-${client}`, text, [...new Set([...paths, ...replaced])])
  const reported = await remote.run(LINK, { folder: FOLDER, kind, client, date, manifest })
  const [link = ''] = reported.get('linked') ?? []
  if (!link.startsWith('/')) throw new Failure(`the box made no link: ${link}`)
  await daemon.addIndirectRoot(link)
  const roots = await daemon.roots()
  if (!roots.some((root) => root.link === link && root.path === manifest)) throw new Failure(NOT_ROOTED(link))
  if (sync) await remote.run('sync || exit 1\nreport synced yes', {})
  return { kind, client, link, manifest, ...prepared }
}

const NOT_ROOTED = (link: string): string =>
  `the box's nix-daemon doesn't take ${link} for a root: can it read the home of that user (an encrypted or a network home)?`

const LET_GO = `cd
cd "$folder/$kind/$client" || exit 1
for day in $days; do rm -f "$day" || exit 1; done
`

/**
 * Removes links; the box may then delete what nothing else keeps.
 * @param days YYYY-MM-DD
 * @throws Failure as Remote.run() does
 */
export async function letGo(remote: Remote, kind: Kind, client: string, days: readonly string[]): Promise<void> {
  await remote.run(LET_GO, { folder: FOLDER, kind, client, days: days.join(' ') })
}

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
  const pattern = new RegExp(`/${FOLDER.replace(/[.]/g, '\\.')}/(kept|only)/([A-Za-z0-9+._=-]{1,60})/(\\d{4}-\\d\\d-\\d\\d)$`)
  const found = roots.flatMap(({ link, path }) => {
    const [, kind, client, day] = pattern.exec(link) ?? []
    if (!kind || !client || !day || !isStorePath(path, storeDir)) return []
    return [{ kind: kind as Kind, client, day, link, manifest: path }]
  })
  const order = (one: Link): string => `${one.kind} ${one.client} ${one.day} ${one.link}`
  return found.sort((a, b) => (order(a) < order(b) ? -1 : 1))
}

/** Whether a path is a manifest, going by its name. */
export const isManifest = (path: string): boolean => /^nix-lan-(kept|only)-/.test(path.slice(storeDir.length + 34))

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
 * @throws Failure, leaving it as it was
 */
export async function rewrite({ daemon, remote }: { daemon: Daemon; remote: Remote }, link: Link, paths: readonly string[]): Promise<void> {
  const { kind, client, day } = link
  if (paths.length === 0) return await letGo(remote, kind, client, [day])
  const manifest = await daemon.addText(`nix-lan-${kind}-${client}`, manifestText(kind, client, day, paths), paths)
  await remote.run(LINK, { folder: FOLDER, kind, client, date: day, manifest })
}
