// nix-lan-run: runs a command with exactly those caches as substituters that can be used now. This file finds out and decides; the sh
// head of the bundle becomes the command (scripts/system/handover.ts). It changes NIX_CONFIG and nothing else, and whatever is wrong on our
// side (no configuration, no nix to ask, a bug) costs one line on stderr and the command runs as it is: a wrapper must not break Nix.
// A hot path: it runs before every nix command, so what is needed rarely is imported late.
import { accessSync, closeSync, constants, existsSync, openSync, readSync, statSync, writeSync } from 'node:fs'
import { basename } from 'node:path'
import { parse } from '../cli/command.ts'
import { Failure, noTunnel, UsageError } from '../cli/errors.ts'
import { harmless } from '../cli/text.ts'
import { VERSION } from '../cli/version.ts'
import { loadConfig } from '../config/config.ts'
import { storeUrl } from '../config/store-url.ts'
import type { Cache, Config } from '../config/types.ts'
import { type NixConf, readNixConf, readText } from '../nix/nix-conf.ts'
import { socketPath, stateDir } from '../state/paths.ts'
import { realPath } from '../system/files.ts'
import { becomeProgram } from '../system/handover.ts'
import {
  appendix,
  type CacheFacts,
  type Candidate,
  callsUsFor,
  drops,
  explain,
  explainJson,
  type Found,
  findCommand,
  ignoredFor,
  namesHost,
  type Plan,
  planSubstituters,
  readInvocation,
  type Who,
} from '../wrapper/wrap.ts'

const NAME = 'nix-lan-run'

const HELP = `nix-lan-run: run a command with exactly the caches that can be used now

Usage: nix-lan-run [OPTION…] COMMAND [ARGUMENT…]

As a link called nix, nix-build, nix-shell, nixos-rebuild or home-manager, in a
directory that comes first in PATH, it is that command:

  ln -s "$(command -v nix-lan-run)" ~/bin/nix

The caches of the configuration (/etc/nix-lan/config.toml) that can be used are
added to Nix's substituters, through NIX_CONFIG, so that nix in a nix-shell has
them too; those that can't be used are left out, also where nix.conf names them.
Your own --option substituters … still wins.

Options, before the command:
      --explain  say what would be done and why; run nothing
      --json     with --explain: the answer for scripts, see below
  -h, --help     show this
      --version  show the version

With --json, one object: command, program, setting (the line for NIX_CONFIG, or
null), caches, dropped, notes.

Exit code: the command's; 127 if there is no such command, 126 if it can't be
run, 2 for wrong usage.

Examples:
  nix-lan-run nix build nixpkgs#hello
  nix-lan-run nix-shell -p jq
  nix-lan-run --explain nix build
  sudo nix-lan-run nixos-rebuild switch    not nix-lan-run sudo …: sudo drops
                                           what it sets
`

/** What a command needs: the line for NIX_CONFIG, and the story for --explain. */
interface Outlook {
  plan: Plan
  notes: string[]
}

const NOTHING: Plan = { setting: undefined, decisions: [], dropped: [] }

/** How deep scripts may start nix-lan-run again before it takes them for a loop. */
const MAX_DEPTH = 10
const DEPTH = 'NIX_LAN_RUN_DEPTH'

/** Set for the nix that is asked for its substituters: if that is a script that starts nix-lan-run, it must not ask in its turn. */
const ASKED = 'NIX_LAN_RUN_ASKED'

async function main(): Promise<void> {
  let code = 1
  try {
    code = await start(process.argv.slice(2))
  } catch (error) {
    warn(error instanceof Failure ? error.message : `this is a bug in nix-lan ${VERSION}: ${error instanceof Error ? error.stack : error}`)
    if (error instanceof Failure) code = error.exitCode
  }
  process.exit(code)
}

/** Prints what the head is to do or to show; the exit code is the head's too, unless it becomes the command. */
async function start(argv: string[]): Promise<number> {
  const { own, command, shift } = readInvocation(basename(process.env.NIX_LAN_CALLED_AS ?? process.argv[1] ?? NAME), argv)
  const options = parse(own, { boolean: ['explain', 'json'] })
  if (options.flag('help')) return say(HELP)
  if (options.flag('version')) return say(`${NAME} ${VERSION}\n`)
  if (options.flag('json') && !options.flag('explain')) throw new UsageError('--json belongs to --explain')
  if (command === undefined || command === '') throw new UsageError('which command? For example: nix-lan-run nix build; see --help')
  const found = find(command)
  if (options.flag('explain')) {
    const { plan, notes } = await look(command)
    const story = { command, found, plan, notes }
    say(options.flag('json') ? explainJson(story) : explain(story))
    return found.ok ? 0 : found.code
  }
  if (!found.ok) throw new Failure(found.reason, found.code)
  return say(becomeProgram({ ...wholeEnvironment(found.program), shift, ...environment(found, await setting()) }))
}

/** To stdout, which is the head's pipe. Not process.stdout: loading Node's streams takes as long as all the rest here. */
function say(text: string): number {
  write(1, text)
  return 0
}

/** One line on stderr. That nobody can read it keeps no command from running. */
function warn(message: string): void {
  try {
    write(2, `${NAME}: ${harmless(message)}\n`)
  } catch {
    // closed, or full and not waited for
  }
}

function write(fd: number, text: string): void {
  const bytes = Buffer.from(text)
  for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done)
}

/**
 * The program, through env(1) if the head's sh has dropped variables that it can't name: dash does that with bash's exported functions
 * (`BASH_FUNC_name%%`). The environment that the head was started with is still to be read.
 */
function wholeEnvironment(program: string): { program: string; args?: string[] } {
  const lost = (readText(`/proc/${process.ppid}/environ`) ?? '').split('\0').filter((entry) => {
    const [, name] = /^([^=]+)=/.exec(entry) ?? []
    return name !== undefined && !/^[A-Za-z_][A-Za-z0-9_]*$/.test(name) && process.env[name] === undefined && !entry.includes('\ufffd')
  })
  const env = lost.length > 0 && !program.includes('=') ? find('env') : undefined
  return env?.ok ? { program: env.program, args: ['--', ...lost, program] } : { program }
}

/** What changes in the environment. A script is counted, since it may be a wrapper that starts nix-lan-run again. */
function environment(
  found: Found & { ok: true },
  line: string | undefined,
): { env: Record<string, string>; append: Record<string, string> } {
  const append: Record<string, string> = line === undefined ? {} : { NIX_CONFIG: appendix(line, nixConfig()) }
  if (!found.script) return { env: {}, append }
  const depth = Number(process.env[DEPTH] ?? 0) + 1
  if (depth > MAX_DEPTH)
    throw new Failure(`${found.program} has started nix-lan-run ${MAX_DEPTH} times over: it seems to call itself (${DEPTH})`, 126)
  return { env: { [DEPTH]: String(depth) }, append }
}

/** NIX_CONFIG; one that isn't UTF-8 counts as a comment without an end of line under Deno, which throws at it. */
function nixConfig(): string | undefined {
  try {
    return process.env.NIX_CONFIG
  } catch {
    return '#'
  }
}

/** What decides which nix.conf files count. */
function confEnvironment(): Record<string, string | undefined> {
  const { NIX_CONF_DIR, NIX_USER_CONF_FILES, NIX_CONFIG_HOME, XDG_CONFIG_HOME, XDG_CONFIG_DIRS } = process.env
  return { NIX_CONF_DIR, NIX_USER_CONF_FILES, NIX_CONFIG_HOME, XDG_CONFIG_HOME, XDG_CONFIG_DIRS, NIX_CONFIG: nixConfig() }
}

/** The line for NIX_CONFIG. Never throws: what is wrong on our side is one line on stderr. */
async function setting(): Promise<string | undefined> {
  if (process.env[ASKED]) return undefined
  try {
    const { plan, problem } = await outlook(loadConfig(), readNixConf(confEnvironment()))
    if (problem) warn(problem)
    return plan.setting
  } catch (error) {
    warn(`${oneLine(error)}; the command runs with the substituters of nix.conf`)
    return undefined
  }
}

/** The plan with the notes for --explain. Never throws. */
async function look(command: string): Promise<Outlook> {
  const conf = readNixConf(confEnvironment())
  const notes = /^(sudo|doas|su|runuser)$/.test(basename(command))
    ? [`${command} drops NIX_CONFIG; write "${command} nix-lan-run …" instead`]
    : []
  try {
    const { plan, problem } = await outlook(loadConfig(), conf)
    const added = plan.decisions.flatMap(({ action, url }) => (action === 'add' && url !== undefined ? [url] : []))
    for (const url of ignoredFor(await who(), added, conf)) {
      notes.push(
        `you are not one of Nix's trusted-users: nix-daemon ignores this cache until trusted-substituters in /etc/nix/nix.conf has ${url}`,
      )
    }
    return { plan, notes: problem ? [...notes, problem] : notes }
  } catch (error) {
    return { plan: NOTHING, notes: [...notes, oneLine(error)] }
  }
}

/** An error in one line; a configuration's advice on how to write one is more than fits here. */
function oneLine(error: unknown): string {
  const [first = ''] = (error instanceof Error ? error.message : String(error)).split('\n')
  const text = first.replace(/\. Write one, for example:$/, '')
  return error instanceof Failure ? text : `this is a bug in nix-lan ${VERSION}: ${text}`
}

/** Asks all caches at once, and nix only if its list may hold one that has to go. */
async function outlook(config: Config, conf: NixConf): Promise<{ plan: Plan; problem?: string }> {
  const facts = await Promise.all(config.caches.map((cache) => factsOf(cache, config.uid, conf)))
  if (drops(facts, conf.all).length === 0) return { plan: planSubstituters(facts, conf.all, undefined) }
  const asked = await askNix()
  const plan = planSubstituters(facts, conf.all, asked.ok ? asked.list : undefined)
  return asked.ok ? { plan } : { plan, problem: `${asked.reason}, so the substituters of nix.conf stay as they are` }
}

async function factsOf(cache: Cache, uid: number, conf: NixConf): Promise<CacheFacts> {
  const socket = cache.kind === 'ssh' ? socketPath(uid, cache.name) : ''
  const facts: CacheFacts = { cache, socket, url: urlOf(cache, uid), usable: await usableNow(cache, uid, socket) }
  // Without the tunnel, a host that nix.conf names itself may still answer.
  if (!facts.usable.ok && namesHost(facts, conf.all))
    facts.host = await (await import('../reach/reach.ts')).reachable(cache, cache.deadline)
  return facts
}

/** With no tunnel, nothing of the network is loaded: the ordinary case away from home, and a fifth of the time that node takes. */
async function usableNow(cache: Cache, uid: number, socket: string): Promise<CacheFacts['usable']> {
  if (cache.kind === 'ssh' && !existsSync(socket)) return { ok: false, reason: noTunnel(socket), ms: 0 }
  return (await import('../reach/reach.ts')).usable(cache, uid, cache.deadline)
}

function urlOf(cache: Cache, uid: number): CacheFacts['url'] {
  try {
    return { ok: true, text: storeUrl(cache, uid) }
  } catch (error) {
    return { ok: false, reason: oneLine(error) }
  }
}

/** Nix's own answer to which substituters are in force. */
async function askNix(): Promise<{ ok: true; list: string[] } | { ok: false; reason: string }> {
  const nix = find('nix')
  if (!nix.ok) return { ok: false, reason: nix.reason }
  const { askSettings, wordsOf } = await import('../nix/settings.ts')
  try {
    const settings = await askSettings({ program: nix.program, env: { ...process.env, [ASKED]: '1' }, timeout: 10_000 })
    if (settings.has('substituters')) return { ok: true, list: wordsOf(settings, 'substituters') }
  } catch (error) {
    if (!(error instanceof Failure)) throw error
  }
  return { ok: false, reason: `${nix.program} did not tell its substituters (nix show-config)` }
}

function find(name: string): Found {
  // Without PATH, what sh takes (dash's default).
  const path = process.env.PATH ?? '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
  return findCommand(name, path, (file) => candidate(file, name))
}

/** Looks at a file: can it be run, and is it nix-lan-run itself (this file, a copy, or a script that would come back here)? */
function candidate(file: string, name: string): Candidate {
  try {
    const stat = statSync(file)
    if (stat.isDirectory()) return 'directory'
    if (!stat.isFile()) return 'absent'
  } catch {
    return 'absent'
  }
  try {
    accessSync(file, constants.X_OK)
  } catch {
    return 'not executable'
  }
  const text = beginning(file)
  if (realPath(file) === realPath(process.argv[1] ?? '')) return 'ourselves'
  if (!text.startsWith('#!')) return 'program'
  return text.startsWith(`#!/bin/sh\n':' // ${NAME};`) || callsUsFor(basename(name), text) ? 'ourselves' : 'script'
}

/** The first 4 KiB of a file; '' for one that may be run but not read. */
function beginning(file: string): string {
  try {
    const fd = openSync(file, 'r')
    const buffer = Buffer.alloc(4096)
    const length = readSync(fd, buffer, 0, buffer.length, 0)
    closeSync(fd)
    return buffer.toString('latin1', 0, length)
  } catch {
    return ''
  }
}

/** Who runs this, for Nix's trusted-users. */
async function who(): Promise<Who> {
  const { effectiveUid, findUser, localGroups } = await import('../system/users.ts')
  const uid = effectiveUid()
  const ids = new Set(process.getgroups?.() ?? [])
  // Those that only a directory service knows are missing.
  const groups = localGroups().flatMap(({ name, gid }) => (ids.has(gid) ? [name] : []))
  return { name: findUser(uid)?.name ?? String(uid), groups, direct: uid === 0 || writable(`${stateDir}/db`) }
}

function writable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK)
    return true
  } catch {
    return false
  }
}

main()
