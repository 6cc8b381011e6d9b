// Plans what setup puts where: turns facts about the machine into a list of paths with their
// content, in the order to create them. Pure.
import { dirname, isAbsolute } from 'node:path'
import { Failure, UsageError } from '../cli/errors.ts'
import { namedCache } from '../config/config.ts'
import { connectFileText } from '../config/connect-file.ts'
import { parseConfig } from '../config/parse.ts'
import { substituterUrl } from '../config/store-url.ts'
import { type Config, isSsh, type SshCache } from '../config/types.ts'
import { type Clash, clashes, isPublicKey, publicHalf } from '../nix/keys.ts'
import { type Assignment, noSubstitution, parseNixConf, type ReadFile } from '../nix/nix-conf.ts'
import { gainsFromConnections, type NixVersion } from '../nix/version.ts'
import { brokerSocket, connectFile, failedDir, queueDir, socketPath, stateDir } from '../system/paths.ts'
import { brokerSocketUnit } from '../system/systemd.ts'
import type { User } from '../system/users.ts'
import {
  assignmentsWith,
  blockLines,
  bothHooks,
  type ConfFile,
  FALLBACK_LINE,
  formerIn,
  hookOf,
  keysInBlock,
  secretKeys,
  shadowed,
  trustedKeys,
  withBlock,
  withoutBlock,
} from './conf.ts'
import type { DistFile } from './facts.ts'
import type { Want } from './files.ts'
import { type Layout, ownerIn } from './layout.ts'

/** The box to set up, as written below [cache.NAME]. */
export interface Box {
  name: string
  host: string
  ssh: string
  port: number
  /** Whether `host` is a machine on the way, through which ssh gets to the box. */
  through?: boolean
  /** Whether the user chose the name. */
  named?: boolean
}

/** The facts that decide what is written. */
export interface Situation {
  layout: Layout
  user: User
  /** The user's group, for a Nix that belongs to the user; root's files have group 0. */
  gid: number
  dist: DistFile[]
  /** undefined: only the configured caches. */
  box: Box | undefined
  /** The text of the existing configuration. */
  config: string | undefined
  nixConf: ConfFile & {
    /** That file; undefined if it doesn't exist. Setup keeps its mode and owner. */
    now: { text: string; mode: number; uid: number; gid: number } | undefined
    /** Why setup doesn't write it; undefined if it does. */
    untouchable: string | undefined
  }
  /** Whether to set `fallback = true` if nix.conf doesn't set it. */
  fallback: boolean
  /** The secret key: the existing one, or the one just made. */
  secret: string
  networkManager: boolean
  /** Whether systemd runs this machine (sd_booted(3)). */
  systemd: boolean
  /** Whose Nix reads nix.conf; undefined if it doesn't say its version in the usual words. */
  nix: NixVersion | undefined
}

/** What setup will do. */
export interface Plan {
  /** In the order to create them: nothing is named before it exists, so nix.conf comes last. */
  wants: Want[]
  config: Config
  /** The files of the keys Nix signs with here; the box must trust those keys. */
  keyFiles: string[]
  publicKeys: string[]
  /** A hook nix.conf already had, which is called too. */
  formerHook: string | undefined
  /** The file that switches substitution off, if any. */
  noSubstitution: string | undefined
  /** Whether setup adds `fallback = true`. */
  fallback: boolean
  /** The nix.conf lines the user must add, and why setup doesn't; undefined if there are none. */
  byHand: { file: string; why: string; lines: string[] } | undefined
}

/**
 * What the user's own nix.conf says. Setup writes nothing because of it: it is only told where it
 * switches off what setup is for.
 */
function ownSettings({ nixConf, user }: Situation): Assignment[] {
  const file = `${user.home}/.config/nix/nix.conf`
  return nixConf.file === file ? [] : parseNixConf(nixConf.read(file) ?? '', file, nixConf.read)
}

/**
 * Plans the setup.
 * @throws Failure for what the user must fix first
 */
export function plan(situation: Situation): Plan {
  const { layout, nixConf, user } = situation
  const configText = configWith(situation)
  const config = parseConfig(configText, layout.config, () => user)
  const now = nixConf.now?.text ?? ''
  const without = assignmentsWith(nixConf, withoutBlock(now, nixConf.file))
  const listed = secretKeys(without)
  const keyFiles = listed.length > 0 ? listed : [layout.secretKey]
  const publicKeys = keyFiles.map((file) => (file === layout.secretKey ? publicHalf(situation.secret, file) : publicOf(file, nixConf.read)))
  const [clash] = clashes(publicKeys, trustedKeys(without))
  if (clash) throw new Failure(`${nixConf.file}: ${clashText(clash)}; then run setup again`)
  const ours = `${layout.lib}/post-build-hook`
  const formerHook = otherHook(hookOf(without), ours, nixConf.read)
  const both = `${layout.etc}/post-build-hook`
  const needs = {
    substituters: config.caches.filter(isSsh).map((cache) => substituter(cache, situation)),
    publicKeys: [...publicKeys, ...formerKeys(situation, publicKeys)],
    secretKey: layout.secretKey,
    hook: formerHook === undefined ? ours : both,
    fallback: situation.fallback,
  }
  const lines = blockLines(needs, without)
  const text = withBlock(now, lines, nixConf.file)
  const why = text === now ? undefined : nixConf.untouchable
  const byHand = why === undefined ? undefined : { file: nixConf.named, why, lines }
  const trouble = byHand ? undefined : shadowed(needs, assignmentsWith(nixConf, text))
  if (trouble) throw new Failure(trouble)
  const { mode = 0o644, uid, gid } = nixConf.now ?? owner(situation)
  const wants = [
    ...programs(situation),
    ...directory(situation, layout.etc),
    file(situation, layout.config, configText),
    ...(keyFiles.includes(layout.secretKey) ? keyWants(situation) : []),
    ...queue(situation, config),
    ...units(situation),
    ...broker(situation, config),
    ...dispatcher(situation),
    ...(formerHook === undefined ? [] : [file(situation, both, bothHooks(ours, formerHook), 0o755)]),
    ...(byHand
      ? []
      : [
          ...directory(situation, dirname(nixConf.file)),
          { path: nixConf.file, kind: 'file' as const, content: Buffer.from(text), mode, uid, gid },
        ]),
  ]
  return {
    wants: unique(wants),
    config,
    keyFiles,
    publicKeys,
    formerHook,
    noSubstitution: noSubstitution([...without, ...ownSettings(situation)]),
    fallback: lines.includes(FALLBACK_LINE) && !now.split('\n').includes(FALLBACK_LINE),
    byHand,
  }
}

function substituter(cache: SshCache, situation: Situation): { url: string; sockets: string[] } {
  const { layout, user } = situation
  const tunnel = layout.single ? socketPath(user.uid, cache.name) : `/run/user/${user.uid}/nix-lan/${cache.name}.sock`
  const broker = brokerSocket(cache.name)
  const url = substituterUrl(
    cache,
    `${layout.bin}/nix-lan-connect`,
    hasBroker(situation) ? broker : tunnel,
    gainsFromConnections(situation.nix),
  )
  return { url, sockets: [tunnel, broker] }
}

/**
 * Whether the system's systemd starts brokers here. Without it, nix-lan-connect does all of it by
 * itself, and nix.conf names the tunnel's socket.
 */
export const hasBroker = ({ layout, systemd }: Pick<Situation, 'layout' | 'systemd'>): boolean =>
  layout.systemUnits !== undefined && systemd

// ---- the configuration

/** The text of config.toml: the existing one, with the box added if it is missing. */
function configWith({ config, box, user, layout }: Situation): string {
  if (config === undefined) {
    if (!box) throw new UsageError('which box? Pass what you give to ssh, for example: sudo nix-lan setup pi@pi.local')
    return `# Written by \`nix-lan setup\`, yours to edit; man 5 nix-lan-config describes all settings.\nuser = ${JSON.stringify(user.name)}\n\n${table(box)}`
  }
  const there = parseConfig(config, layout.config, (name) => {
    if (name !== undefined && name !== user.name) throw new Error(`is ${name}, not ${user.name}: a machine's queue belongs to one user`)
    return user
  })
  const known = there.caches.filter(isSsh).find(({ ssh }) => ssh === box?.ssh)
  if (box?.named && known && known.name !== box.name)
    throw new UsageError(
      `${box.ssh} is already the cache ${known.name}; rename it in ${layout.config}, then run setup again without --name`,
    )
  if (!box || known) return config
  if (there.caches.some(({ name }) => name === box.name)) {
    const same = namedCache(there, box.name)
    const what = isSsh(same) ? `ssh = "${same.ssh}"` : `url = "${same.url}"`
    throw new UsageError(
      `${layout.config} already has a cache ${box.name}, with ${what}; change it there, or choose another --name for this one`,
    )
  }
  return `${config.trimEnd()}\n\n${table(box)}`
}

/** Quotes as TOML requires, so wrong values are reported by the parser. */
function table({ name, host, ssh, port, through }: Box): string {
  const lines = [
    `[cache.${/^[A-Za-z0-9_-]+$/.test(name) ? name : JSON.stringify(name)}]`,
    `host = ${JSON.stringify(host)}${through ? ' # ssh gets to the box through it' : ''}`,
  ]
  if (ssh !== host) lines.push(`ssh = ${JSON.stringify(ssh)}`)
  if (port !== 22) lines.push(`port = ${port}`)
  return `${lines.join('\n')}\n`
}

/**
 * A name for a cache: the first label of the host's name, reduced to the characters names may have.
 */
export function nameFor(host: string): string {
  if (/^[0-9.]+$|:/.test(host)) return 'box'
  const name = (host.split('.')[0] ?? '').toLowerCase().replace(/[^a-z0-9]+/g, '-')
  return (
    name
      .replace(/^-+|-+$/g, '')
      .slice(0, 40)
      .replace(/-+$/, '') || 'box'
  )
}

// ---- keys and hooks

/** Explains that Nix won't trust a key because another one has its name. */
export function clashText({ ours, other }: Clash): string {
  return `another key called ${ours.slice(0, ours.indexOf(':'))} is trusted there, and Nix believes only the first key of a name; remove ${other}`
}

/**
 * The machine's earlier public keys, whose secret keys were lost: what they signed is still in the
 * store and on the box.
 */
function formerKeys({ layout, nixConf }: Situation, publicKeys: readonly string[]): string[] {
  const kept = (nixConf.read(layout.publicKey) ?? '').split(/\s+/).filter((word) => isPublicKey(word))
  return [...new Set([...keysInBlock(nixConf.now?.text ?? '', nixConf.file), ...kept])].filter((key) => !publicKeys.includes(key))
}

function publicOf(secretFile: string, read: ReadFile): string {
  const text = read(secretFile)
  if (text === undefined) throw new Failure(`nix.conf signs with ${secretFile} (secret-key-files), which can't be read; fix that first`)
  return publicHalf(text, secretFile)
}

/**
 * Somebody else's hook, which must still be called. A hook of ours in another place (set up by
 * hand) is replaced.
 */
function otherHook(former: string, ours: string, read: ReadFile): string | undefined {
  if (former === '' || former === ours) return undefined
  if (!isAbsolute(former)) throw new Failure(`post-build-hook = ${former} in nix.conf is not an absolute path; fix or remove it first`)
  const text = read(former) ?? ''
  if (text.split('\n')[1]?.startsWith("':' // post-build-hook;")) return undefined
  // The script for both hooks, named by a line outside our block: it must not call itself.
  const behind = formerIn(text)
  return behind === undefined ? former : behind === former ? undefined : otherHook(behind, ours, read)
}

function keyWants(situation: Situation): Want[] {
  const { layout, secret } = situation
  const publicKey = publicHalf(secret, layout.secretKey)
  return [
    ...directory(situation, dirname(layout.secretKey)),
    file(situation, layout.secretKey, secret, 0o600),
    file(situation, layout.publicKey, `${publicKey}\n`),
  ]
}

// ---- files

const owner = ({ layout, user, gid }: Situation): { mode?: number; uid: number; gid: number } => ownerIn(layout, user.uid, gid)

function file(situation: Situation, path: string, content: Buffer | string, mode = 0o644): Want {
  const { uid, gid } = owner(situation)
  return { path, kind: 'file', content: Buffer.from(content), mode, uid, gid }
}

/** A directory that must exist, and its parents. */
function directory(situation: Situation, path: string): Want[] {
  if (path === '/') return []
  const { uid, gid } = owner(situation)
  return [...directory(situation, dirname(path)), { path, kind: 'directory', mode: 0o755, uid, gid, shared: true }]
}

/** The copy of dist/, and the links to it. */
function programs(situation: Situation): Want[] {
  const { dist, layout } = situation
  const links: Want[] = []
  for (const { path } of dist) {
    const place = linkFor(path, layout)
    if (place) links.push(...directory(situation, dirname(place)), { path: place, kind: 'link', target: `${layout.lib}/${path}` })
  }
  return [
    ...dist.flatMap(({ path, content, executable }) => {
      const target = `${layout.lib}/${path}`
      return [...directory(situation, dirname(target)), file(situation, target, content, executable ? 0o755 : 0o644)]
    }),
    ...links,
  ]
}

/** Where a file of dist/ gets a link; undefined for none. */
function linkFor(path: string, { bin, man, completions }: Layout): string | undefined {
  const name = path.split('/').at(-1) ?? ''
  if (/^nix-lan(-(available|connect|run|tunnel))?$/.test(path)) return `${bin}/${name}`
  if (path.startsWith('man/')) return `${dirname(man)}/${path.slice('man/'.length)}`
  const shell = /^completions\/(bash|zsh|fish)\/[^/]+$/.exec(path)?.[1] as keyof typeof completions | undefined
  return shell && `${completions[shell]}/${name}`
}

/**
 * The queue of each cache: the user's directories inside root's, so root can safely work in the
 * parents (post-build-hook).
 */
function queue(situation: Situation, config: Config): Want[] {
  const { user, layout } = situation
  const { uid, gid } = owner(situation)
  const parents = [`${stateDir}/gcroots/nix-lan`, dirname(queueDir('x')), dirname(failedDir('x'))]
  const own = config.caches.filter(isSsh).flatMap(({ name }) => [queueDir(name), failedDir(name)])
  const lines = [...parents.map((path) => `d ${path} 0755 root root -`), ...own.map((path) => `d ${path} 0755 ${user.uid} root -`)]
  const comment =
    '# Written by `nix-lan setup`: makes the queue again if somebody removes it, and removes nothing. Links in it are GC roots.'
  return [
    ...directory(situation, `${stateDir}/gcroots`),
    ...parents.map((path): Want => ({ path, kind: 'directory', mode: 0o755, uid, gid })),
    ...own.map((path): Want => ({ path, kind: 'directory', mode: 0o755, uid: user.uid, gid })),
    ...(layout.tmpfiles
      ? [...directory(situation, dirname(layout.tmpfiles)), file(situation, layout.tmpfiles, `${[comment, ...lines].join('\n')}\n`)]
      : []),
  ]
}

/** A unit, with the absolute paths of our programs. */
function unitFile(situation: Situation, folder: string, { path, content }: DistFile): Want {
  const text = content.toString().replaceAll('/usr/bin/env nix-lan', `${situation.layout.lib}/nix-lan`)
  return file(situation, `${folder}/${path.split('/').at(-1)}`, text)
}

/** Starts the check where NetworkManager doesn't. */
export const NETWORK_UNIT = 'nix-lan-network.path'

/**
 * The units of the user's systemd. Those that start by themselves are enabled for this one user
 * only, even if others have a systemd manager.
 */
function units(situation: Situation): Want[] {
  const { dist, layout, user } = situation
  const own = dist.filter(({ path }) => path.startsWith('systemd/user/'))
  const starters = [{ unit: 'nix-lan-check.timer', target: 'timers.target' }]
  if (dispatcher(situation).length === 0) starters.push({ unit: NETWORK_UNIT, target: 'paths.target' })
  return [
    ...directory(situation, layout.units),
    ...own.map((unit) => unitFile(situation, layout.units, unit)),
    ...starters.flatMap(({ unit, target }): Want[] => [
      ...(layout.single
        ? []
        : [
            ...directory(situation, `${layout.units}/${unit}.d`),
            file(
              situation,
              `${layout.units}/${unit}.d/user.conf`,
              `# Written by \`nix-lan setup\` for ${user.name}.\n[Unit]\nConditionUser=${user.uid}\n`,
            ),
          ]),
      ...directory(situation, `${layout.units}/${target}.wants`),
      { path: `${layout.units}/${target}.wants/${unit}`, kind: 'link', target: `${layout.units}/${unit}` },
    ]),
  ]
}

/**
 * The broker's units, for each box whose it is, and root's file for nix-lan-connect.
 * @see connectFileText
 */
function broker(situation: Situation, config: Config): Want[] {
  const { dist, layout, user } = situation
  const folder = layout.systemUnits
  if (folder === undefined || !hasBroker(situation)) return []
  const templates = dist.filter(({ path }) => path.startsWith('systemd/system/'))
  const comment = `# Written by \`nix-lan setup\` for ${user.name}.`
  // systemd takes other names, such as DOMAIN\alice, for a mistake (systemd.exec(5), User=).
  const who = /^[A-Za-z_][A-Za-z0-9_-]{0,30}$/.test(user.name) ? user.name : String(user.uid)
  const ofBox = (cache: SshCache): Want[] => {
    const socket = brokerSocketUnit(cache.name)
    const service = socket.replace(/socket$/, 'service')
    return [
      ...directory(situation, dirname(connectFile(cache.name))),
      file(situation, connectFile(cache.name), connectFileText(user.name, cache)),
      ...directory(situation, `${folder}/${socket}.d`),
      file(situation, `${folder}/${socket}.d/nix-lan.conf`, `${comment}\n[Socket]\nSocketUser=${who}\n`),
      ...directory(situation, `${folder}/${service}.d`),
      file(situation, `${folder}/${service}.d/nix-lan.conf`, `${comment}\n[Service]\nUser=${who}\n`),
      { path: `${folder}/sockets.target.wants/${socket}`, kind: 'link', target: `${folder}/nix-lan-broker@.socket` },
    ]
  }
  return [
    ...directory(situation, folder),
    ...templates.map((unit) => unitFile(situation, folder, unit)),
    ...directory(situation, `${folder}/sockets.target.wants`),
    ...config.caches.filter(isSsh).flatMap(ofBox),
  ]
}

function dispatcher({ layout, networkManager, dist }: Situation): Want[] {
  if (!layout.dispatchers || !networkManager || !dist.some(({ path }) => path === 'nix-lan-dispatcher')) return []
  return [{ path: `${layout.dispatchers}/90-nix-lan`, kind: 'link', target: `${layout.lib}/nix-lan-dispatcher` }]
}

/** Keeps each path once. A directory with an owner and mode takes precedence over a shared one. */
function unique(wants: Want[]): Want[] {
  const first = new Map<string, Want>()
  for (const want of wants) {
    const known = first.get(want.path)
    if (!known || (known.kind === 'directory' && known.shared)) first.set(want.path, want)
  }
  return [...first.values()]
}
