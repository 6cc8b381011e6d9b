// Sets up: reads the machine, shows the plan, asks once, carries it out. Each step first checks
// whether it is already done.
import { existsSync, readdirSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Failure, UsageError } from '../cli/errors.ts'
import { count, oneLine } from '../cli/text.ts'
import { VERSION } from '../cli/version.ts'
import { isSsh } from '../config/types.ts'
import { daemonPid, daemonState } from '../nix/daemon.ts'
import { newKeyName, newSecretKey } from '../nix/keys.ts'
import { readText } from '../nix/nix-conf.ts'
import { sign } from '../nix/signing.ts'
import type { NixVersion } from '../nix/version.ts'
import { type Person, runAs } from '../system/as-user.ts'
import { run } from '../system/exec.ts'
import { isBusy, takeLock } from '../system/lock.ts'
import { brokerSocket, failedDir, queueDir } from '../system/paths.ts'
import { findIn } from '../system/runtime.ts'
import { DIRECTORIES } from '../system/search-path.ts'
import { lingers, systemdRuns } from '../system/systemd.ts'
import type { User } from '../system/users.ts'
import {
  askBox,
  type BoxAnswer,
  type BoxFacts,
  type BoxNeeds,
  boxNeeds,
  boxTroubles,
  fixScript,
  linesToPaste,
  mayFix,
  runOnBox,
} from './box.ts'
import { parseDestination, parseHost, reachable } from './destination.ts'
import { agreed, attempt, done, say } from './dialogue.ts'
import { findNixConf, findUnsignedBuilds, hostName, readDist } from './facts.ts'
import { inspect, isRight, markOf, put, type Seen, type Want } from './files.ts'
import { type Layout, ownerIn } from './layout.ts'
import { findMachine, howCalled, type Machine, mustSuit, type Options } from './machine.ts'
import {
  brokersDown,
  checkNow,
  endBroker,
  hasManager,
  inUse,
  managerCame,
  queueBuilt,
  restartTunnel,
  runningBrokers,
  runningTunnels,
  setLinger,
  startBrokers,
  startUnits,
  stopBrokers,
  stopUnits,
  timerRuns,
} from './manager.ts'
import { personOf } from './person.ts'
import { type Box, hasBroker, NETWORK_UNIT, nameFor, type Plan, plan, type Situation } from './plan.ts'
import { type BoxDeed, emptyRecord, extended, type Record, readRecord, writeRecord } from './record.ts'
import { entriesIn, findStrays, type Stray, settle, strayItem, withoutCache, withRenamed } from './remove-cache.ts'
import { restoreBoxes } from './restore-box.ts'
import { type Item, itemsFor, textOf } from './show.ts'
import { unwritable, whyNotWritten } from './writable.ts'

/** What setup does besides writing files. */
interface Actions {
  restartDaemon: boolean
  linger: boolean
  startUnits: boolean
  /**
   * The caches whose broker's socket systemd is to hold; undefined: its units are as they should be.
   */
  startBrokers: string[] | undefined
  /** The caches that are gone, and had a broker. */
  stopBrokers: string[]
  sign: { path: string; size: number }[]
  boxes: BoxWork[]
  strays: Stray[]
  /** Replaces programs of another version, which may be running. */
  upgrade: boolean
}

/** One box: its answer, and what root has to fix there. */
interface BoxWork {
  box: Box
  /** It has no queue yet. */
  fresh: boolean
  daemonSocket: string
  answer: BoxAnswer
  needs: BoxNeeds
}

/**
 * `nix-lan setup`.
 * @returns the exit code
 */
export async function setUp(options: Options, argv: readonly string[]): Promise<number> {
  const machine = await findMachine(options, howCalled(argv))
  const nix = await mustSuit(machine)
  const { layout, user } = machine
  const lock = layout.single ? undefined : await takeLock('/run/nix-lan-setup.lock')
  if (lock && isBusy(lock)) throw new Failure('another nix-lan setup is running')
  const known = readRecord(layout.record)
  if (known && known.user !== user.name)
    throw new UsageError(`this machine is set up for ${known.user}; undo that first: ${again(layout)} --undo`)
  const situation = await gather(machine, options, known, nix)
  const { config } = plan(situation)
  const person = await personOf(user, config.caches.find(isSsh)?.envFile ?? `${user.home}/.bashrc`)
  const answers = await askBoxes(config.caches.filter(isSsh), person)
  const keyless = inspect(layout.secretKey).kind === 'missing'
  const newKey = newKeyName(hostName())
  if (keyless) situation.secret = `${newKey}:${PLACEHOLDER}`
  const draft = withStale(plan(situation), known)
  const moves = new Map([
    ...(options.remove ? [[options.remove, null] as const] : []),
    ...(options.rename ? [[options.rename.from, options.rename.to] as const] : []),
  ])
  const strays = findStrays(draft.config, known?.box ?? [], moves)
  const actions = await findActions(draft, situation, answers, strays, options, known)
  const items = [...(await itemsFor(draft.wants, layout, new Set([layout.secretKey]))), ...actionItems(actions, draft, situation)]
  if (items.length === 0) say(`nix-lan ${VERSION} is already set up for ${user.name}; nothing has to change.`)
  else {
    const versions = known && known.version !== VERSION ? `${known.version} → ${VERSION}` : VERSION
    say(`nix-lan ${versions} for ${user.name} on ${hostName()}. To do:\n`)
    process.stdout.write(textOf(items, process.stdout.isTTY === true).replaceAll(NO_KEY, '(made now)'))
  }
  sayTroubles(actions, draft, situation)
  mustBeWritable(draft)
  if (options.dryRun) return 0
  if (items.length > 0 && !(await agreed('\nDo it?', options.yes))) {
    say('Nothing was changed.')
    return 1
  }
  if (items.length > 0) {
    if (keyless) situation.secret = await newSecretKey(newKey)
    await carryOut(withStale(plan(situation), known), machine, situation, person, actions, known, options)
  }
  await lock?.release()
  const verdict = await conclude(actions, person, machine, options.doctor)
  const final = plan(situation)
  const left = items.length > 0 && sayLeft(actions, final)
  if (items.length > 0 && !left && verdict === 0)
    say('\nNext: build as always. nix-lan status shows the box, what waits for it, and what it has saved you.')
  return final.byHand && verdict === 0 ? 1 : verdict
}

/**
 * Runs before anything is changed: half of it done would be worse than nothing.
 * @throws Failure that names each place
 */
function mustBeWritable({ wants }: Plan): void {
  const open = wants.filter((want) => !isRight(want, inspect(want.path)))
  // A directory that is somebody else's already is only looked at.
  const places = unwritable(
    open.filter((want) => want.kind !== 'directory' || inspect(want.path).kind === 'missing').map(({ path }) => path),
  )
  if (places.length === 0) return
  throw new Failure(
    `these places can't be written to, so nothing was changed:\n  ${places.join('\n  ')}\nMake them writable and run it again (--prefix DIR installs the programs elsewhere); or set up by hand: docs/by-hand.md`,
  )
}

// ---- what is there

/** Stands in for a key that is made only after the user agrees: 64 zero bytes. */
const PLACEHOLDER = Buffer.alloc(64).toString('base64')

/** The placeholder's public half. */
const NO_KEY = Buffer.alloc(32).toString('base64')

async function gather(
  { layout, user, gid }: Machine,
  options: Options,
  known: Record | undefined,
  nix: NixVersion | undefined,
): Promise<Situation> {
  const top = layout.single ? `${user.home}/.config/nix/nix.conf` : '/etc/nix/nix.conf'
  const conf = findNixConf(top, readText)
  const { file } = conf
  const seen = inspect(file)
  if (seen.kind !== 'file' && seen.kind !== 'missing') throw new Failure(`${file} is not a regular file`)
  if (seen.kind === 'file') mustBeUtf8(file, seen.content)
  return {
    layout,
    user,
    gid,
    dist: readDist(),
    box: options.destination === undefined ? undefined : await boxFor(options.destination, options, user),
    config: configFor(layout, user, options),
    nixConf: {
      ...conf,
      now: seen.kind === 'file' ? { ...seen, text: seen.content.toString() } : undefined,
      untouchable: whyNotWritten(conf, !layout.single),
    },
    fallback: (options.fallback ?? known?.fallback) !== 'keep',
    secret: readText(layout.secretKey) ?? `new:${PLACEHOLDER}`,
    networkManager: layout.dispatchers !== undefined && existsSync(layout.dispatchers),
    systemd: systemdRuns(),
    nix,
  }
}

/** config.toml, without the cache to remove, or with its new name. */
function configFor(layout: Layout, user: User, { remove, rename }: Options): string | undefined {
  const text = readText(layout.config)
  if (remove === undefined && rename === undefined) return text
  if (text === undefined) throw new UsageError(`there is no ${layout.config}, so there is nothing to ${remove ? 'remove' : 'rename'}`)
  const rest = remove === undefined ? text : withoutCache(text, remove, layout.config, user)
  return rename === undefined ? rest : withRenamed(rest, rename.from, rename.to, layout.config, user)
}

/** Refuses a text that would change when decoded and encoded again. */
export function mustBeUtf8(file: string, content: Buffer): void {
  if (!Buffer.from(content.toString()).equals(content)) throw new Failure(`${file}: is not UTF-8; save it as UTF-8 text`)
}

async function boxFor(text: string, { name, host }: Options, user: User): Promise<Box> {
  const destination = parseDestination(text)
  const { ssh } = destination
  const place = host === undefined ? await reachable({ ...user, env: {} }, destination) : { ...parseHost(host), through: true }
  return { name: name ?? nameFor(ssh.replace(/^.*@/, '')), ...place, ssh, named: name !== undefined }
}

/**
 * Adds the removal of what an earlier version installed and this one doesn't; after nix.conf, which
 * may have named it.
 */
function withStale(planned: Plan, known: Record | undefined): Plan {
  const wanted = new Set(planned.wants.map(({ path }) => path))
  const stale = (known?.entries ?? []).filter(({ path, before, ours }) => {
    if (wanted.has(path) || before.kind !== 'missing' || /\/nix-lan\.(secret|public)$/.test(path)) return false
    const seen = inspect(path)
    // A directory beside a unit; after what is in it.
    if (seen.kind === 'directory') return /\/nix-lan-broker@[^/]*\.d$/.test(path)
    return (seen.kind === 'file' || seen.kind === 'link') && ours.includes(markOf(seen))
  })
  return { ...planned, wants: [...planned.wants, ...stale.reverse().map(({ path }): Want => ({ path, kind: 'missing' }))] }
}

async function findActions(
  draft: Plan,
  situation: Situation,
  answers: BoxWork[],
  strays: Stray[],
  options: Options,
  known: Record | undefined,
): Promise<Actions> {
  const { layout, user, nixConf } = situation
  const open = draft.wants.filter((want) => !isRight(want, inspect(want.path)))
  const changes = (path: string): boolean => open.some((want) => want.path === path)
  const changesIn = (directory: string | undefined): boolean => open.some(({ path }) => path.startsWith(`${directory}/`))
  const boxes = draft.config.caches.filter(isSsh).map(({ name }) => name)
  const down = hasBroker(situation) ? await brokersDown(boxes) : []
  return {
    restartDaemon: !layout.single && (changes(nixConf.file) || (await daemonOutdated(nixConf.file))),
    linger: options.linger && !lingers(user.name),
    strays,
    upgrade: known !== undefined && changesIn(layout.lib),
    startBrokers: down.length > 0 || (hasBroker(situation) && changesIn(layout.systemUnits)) ? boxes : undefined,
    stopBrokers: open.flatMap(({ path, kind }) => (kind === 'missing' && /\/nix-lan-broker@([^/]+)\.socket$/.exec(path)?.[1]) || []),
    startUnits: changesIn(layout.units) || strays.length > 0 || !hasManager(user) || !(await timerRuns(user)),
    sign: options.sign ? await findUnsignedBuilds(draft.publicKeys.map((key) => key.slice(0, key.indexOf(':')))) : [],
    boxes: answers.map((work) => ({
      ...work,
      fresh: work.fresh && !strays.some(({ to }) => to === work.box.name),
      needs: needsOf(work, draft.publicKeys),
    })),
  }
}

const needsOf = ({ answer }: BoxWork, publicKeys: readonly string[]): BoxNeeds =>
  answer.kind === 'there' ? boxNeeds(answer.facts, publicKeys) : { keys: [...publicKeys] }

async function daemonOutdated(file: string): Promise<boolean> {
  const changed = statSync(file, { throwIfNoEntry: false })?.ctimeMs
  return changed !== undefined && daemonState(await daemonPid(), changed) === 'outdated'
}

function askBoxes(caches: readonly (Box & { daemonSocket: string })[], person: Person): Promise<BoxWork[]> {
  process.stderr.write(`nix-lan setup: asking ${caches.map(({ ssh }) => ssh).join(', ')}\n`)
  return Promise.all(
    caches.map(async (box) => {
      const answer = await askBox(person, box, box.daemonSocket)
      return { box, fresh: !existsSync(queueDir(box.name)), daemonSocket: box.daemonSocket, answer, needs: { keys: [] } }
    }),
  )
}

// ---- what will be done

const needsAnything = ({ keys, member }: BoxNeeds): boolean => keys.length > 0 || member !== undefined

/** The steps other than files, for the plan. */
function actionItems(actions: Actions, { keyFiles }: Plan, { user, layout }: Situation): Item[] {
  const items: Item[] = actions.strays.map((stray) => strayItem(stray, layout.config))
  const add = (rank: number, title: string, lines: string[] = []): void => void items.push({ rank, title, lines })
  for (const { box, answer, needs } of actions.boxes) {
    if (answer.kind !== 'there' || !mayFix(answer.facts, needs) || !needsAnything(needs)) continue
    const how = answer.facts.root === 'sudo' ? 'by sudo there' : 'as root there'
    const lines = needs.keys.map((key) => `+extra-trusted-public-keys = ${key}`)
    if (lines.length > 0) add(0, `on ${box.ssh}, ${how}: change ${answer.facts.conf} and restart its nix-daemon`, lines)
    if (needs.member) add(0, `on ${box.ssh}, ${how}: put ${needs.member.user} in the group ${needs.member.group}`)
  }
  if (actions.restartDaemon) add(1, 'restart nix-daemon, if it runs')
  if (actions.sign.length > 0) {
    const size = actions.sign.reduce((sum, { size }) => sum + size, 0)
    const what = `${count(actions.sign.length, 'path')} (${Math.ceil(size / 1024 / 1024)} MiB) built here before and not signed`
    add(1, `sign ${what}, with ${keyFiles.join(' and ')}, then queue them (--no-sign: don't)`)
  }
  if (actions.linger) add(1, `start ${user.name}'s systemd at boot: loginctl enable-linger ${user.name} (--no-linger: don't)`)
  if (actions.upgrade) add(1, 'restart the tunnels and brokers, which run what is replaced, as soon as nothing uses them')
  if (actions.startUnits) add(1, `start nix-lan-check.timer for ${user.name}`)
  for (const { box, fresh, answer } of actions.boxes) {
    if (!fresh) continue
    const when = mayAnswer(answer) ? '' : ', within a day of its coming back'
    add(1, `queue what was built here and ${box.name} lacks${when}`)
  }
  if (actions.startBrokers) add(1, `have systemd listen at ${actions.startBrokers.map(brokerSocket).join(', ')}`)
  return items
}

/** Tells what only the user can do, before the question. */
function sayTroubles({ boxes }: Actions, draft: Plan, situation: Situation): void {
  const { formerHook, publicKeys } = draft
  if (draft.noSubstitution)
    say(`  ${oneLine(draft.noSubstitution)} sets substitute = false, so Nix fetches from no cache at all; remove that line.\n`)
  if (draft.fallback) say(FALLBACK_NOTE)
  if (formerHook) say(`  Your own post-build-hook, ${formerHook}, is still called.\n`)
  sayByHand(draft)
  if (hasBroker(situation) && findIn(DIRECTORIES, ['perl']) === undefined) say(NO_PERL)
  for (const { box, daemonSocket, answer, needs } of boxes) {
    if (answer.kind === 'away') say(`  ${box.ssh} is away (${answer.why}); run setup again when it is there.\n`)
    else if (answer.kind === 'shell-less') sayShellLess(box, needs, answer.why)
    else if (answer.kind === 'refused') say(`  ${box.ssh} refuses: ${answer.why}.\n  To fix it, ${answer.cure}\n`)
    else {
      for (const trouble of boxTroubles(answer.facts, daemonSocket, publicKeys)) say(`  On ${box.ssh} ${trouble}.\n`)
      if (!mayFix(answer.facts, needs) && needsAnything(needs)) sayLines(box, needs, answer.facts)
    }
  }
}

/** Prints the nix.conf lines that setup doesn't write. */
function sayByHand({ byHand }: Plan): void {
  if (!byHand) return
  say(`  ${byHand.file} ${byHand.why}, so setup doesn't change it. Add these lines to what it is made from, then restart nix-daemon:`)
  for (const line of byHand.lines) say(`      ${line.replaceAll(NO_KEY, '(see nix-lan.public beside the secret key)')}`)
  say('')
}

const NO_PERL = `  Without perl, each nix command starts JavaScript to ask the box: 25 ms, on a Raspberry Pi ten times that. To save that, install it.
`

const FALLBACK_NOTE = `  fallback = true: if the box is lost in the middle of a download, Nix builds the path instead of failing.
  The price: Nix also builds when another cache fails for a moment. --fallback keep leaves the setting as it is.
`

function sayShellLess(box: Box, needs: BoxNeeds, why: string): void {
  say(`  ${box.ssh} lets you log in, but runs no command${why && ` (${why})`}: a login shell like nologin, or a forced command.`)
  say('  The tunnel needs none. If the box does not trust this machine yet, run this there as somebody who may:')
  for (const line of linesToPaste(needs, ANY_BOX)) say(`      ${line.replaceAll(NO_KEY, '(see /etc/nix/nix-lan.public)')}`)
  say('')
}

/** What is true of most boxes, for one that doesn't answer. */
const ANY_BOX = { conf: '/etc/nix/nix.conf', nixos: false, confWritable: true }

function sayLines(box: Box, needs: BoxNeeds, facts: Pick<BoxFacts, 'conf' | 'nixos' | 'confWritable'>): void {
  say(`  On ${box.ssh}, run this yourself; nix-lan may not:`)
  for (const line of linesToPaste(needs, facts)) say(`      ${line.replaceAll(NO_KEY, '(see /etc/nix/nix-lan.public)')}`)
  say('')
}

/**
 * Repeats at the end what is left to do: now there is a key to paste, and the plan has scrolled
 * away.
 * @returns whether anything is left
 */
function sayLeft({ boxes }: Actions, final: Plan): boolean {
  let left = final.byHand !== undefined
  const { publicKeys } = final
  sayByHand(final)
  for (const { box, answer } of boxes) {
    left ||= answer.kind !== 'there'
    if (answer.kind === 'shell-less') sayShellLess(box, { keys: publicKeys }, answer.why)
    if (answer.kind !== 'there') continue
    const needs = boxNeeds(answer.facts, publicKeys)
    if (mayFix(answer.facts, needs) || !needsAnything(needs)) continue
    left = true
    say('')
    sayLines(box, needs, answer.facts)
  }
  return left
}

// ---- doing it

async function carryOut(
  final: Plan,
  machine: Machine,
  situation: Situation,
  person: Person,
  actions: Actions,
  known: Record | undefined,
  options: Options,
): Promise<void> {
  const { layout, user } = machine
  const nixConf = situation.nixConf.file
  const record = keepRecord(final.wants, machine, nixConf, known, options)
  if (hasManager(user)) for (const { name } of actions.strays) await stopUnits(user, name)
  // Before the drop-in that names its user is removed: a connection to a socket that still listens
  // would start it as root.
  for (const cache of actions.stopBrokers) await stopBrokers(cache)
  writeAll(final.wants, machine)
  if (actions.startBrokers) {
    await startBrokers(actions.startBrokers)
    done(`systemd listens at ${actions.startBrokers.map(brokerSocket).join(', ')}`)
  }
  if (actions.restartDaemon || (!layout.single && (await daemonOutdated(nixConf)))) await restartDaemon()
  for (const stray of actions.strays) {
    await settle(stray, person)
    done(stray.to === undefined ? `the queue of ${stray.name} is gone` : `the queue of ${stray.name} is that of ${stray.to}`)
  }
  await forgetBoxes(record, final, machine, person)
  for (const work of actions.boxes) await fixBox(work, final, person, (deed) => keepDeed(record, deed, machine))
  if (actions.sign.length > 0) {
    const paths = actions.sign.map(({ path }) => path)
    await sign(paths, final.keyFiles)
    done(`${count(paths.length, 'path')} signed`)
  }
  if (actions.linger) {
    record.linger = true
    writeRecord(record, layout, ownerOf(machine), inspect)
    await setLinger(user, true)
    done(`${user.name}'s systemd starts at boot`)
  }
  const watches = final.wants.some(({ path }) => path.endsWith(`.wants/${NETWORK_UNIT}`))
  if (actions.startUnits) await start(user, watches ? [NETWORK_UNIT] : [])
  if (actions.upgrade) {
    if (hasBroker(situation)) await endBrokers()
    if (hasManager(user)) await restartTunnels(user)
  }
}

/**
 * Makes the boxes no cache names any more stop trusting this machine; tells the user about those
 * that are away.
 */
async function forgetBoxes(record: Record, { config }: Plan, machine: Machine, person: Person): Promise<void> {
  const boxes = config.caches.filter(isSsh)
  const named = (deed: BoxDeed): boolean => boxes.some(({ name, ssh }) => name === deed.cache || ssh === deed.ssh)
  const gone = record.box.filter((deed) => !named(deed))
  if (gone.length === 0) return
  await restoreBoxes(gone, person, [])
  record.box = record.box.filter(named)
  writeRecord(record, machine.layout, ownerOf(machine), inspect)
}

const ownerOf = ({ layout, user, gid }: Machine): { uid: number; gid: number } => ownerIn(layout, user.uid, gid)

/** Writes the record before anything else changes. */
function keepRecord(wants: readonly Want[], machine: Machine, nixConf: string, known: Record | undefined, { fallback }: Options): Record {
  const { layout, user } = machine
  const seen = (path: string): Seen => (path === layout.etc && onlyOurLeftovers(layout.etc) ? { kind: 'missing' } : inspect(path))
  const record = extended(
    { ...(known ?? emptyRecord(user, layout.prefix, nixConf)), ...(fallback ? { fallback } : {}), nixConf },
    wants,
    seen,
  )
  for (const want of wants.filter(({ path }) => layout.etc.startsWith(path))) if (!isRight(want, inspect(want.path))) put(want)
  writeRecord(record, layout, ownerOf(machine), inspect)
  return record
}

/** Whether all that this directory holds is from a run killed before it wrote the record. */
function onlyOurLeftovers(etc: string): boolean {
  return existsSync(etc) && readdirSync(etc).every((name) => name === 'setup.before' || name.endsWith('.nix-lan-new'))
}

function keepDeed(record: Record, deed: Record['box'][number], machine: Machine): void {
  const same = (other: Record['box'][number]): boolean => other.cache === deed.cache && other.ssh === deed.ssh
  const before = record.box.find(same)
  const formerKeys = [...(before?.formerKeys ?? []), ...(before?.key && deed.key && before.key !== deed.key ? [before.key] : [])]
  record.box = [...record.box.filter((other) => !same(other)), { ...before, ...deed, ...(formerKeys.length > 0 ? { formerKeys } : {}) }]
  writeRecord(record, machine.layout, ownerOf(machine), inspect)
}

function writeAll(wants: readonly Want[], { layout }: Machine): void {
  let made: string[] = []
  const placeOf = (path: string): string => (path.startsWith(`${layout.lib}/`) ? layout.lib : dirname(path))
  const tell = (): void => {
    const [first = ''] = made
    if (made.length > 0) done(made.length === 1 ? first : `${count(made.length, 'file')} in ${placeOf(first)}`)
    made = []
  }
  for (const want of wants) {
    if (isRight(want, inspect(want.path))) continue
    put(want)
    if (want.kind === 'directory') continue
    if (made[0] !== undefined && placeOf(made[0]) !== placeOf(want.path)) tell()
    made.push(want.path)
  }
  tell()
}

/**
 * Restarts nix-daemon if it runs. Resets its start limit (5 in 10 s, systemd.unit(5)) first, or
 * several runs of setup in a row would leave the machine without a daemon.
 * @throws Failure with systemctl's message
 */
export async function restartDaemon(): Promise<void> {
  await run('systemctl', ['reset-failed', 'nix-daemon.service'], { timeout: 60_000 })
  const asked = await run('systemctl', ['try-restart', 'nix-daemon.service'], { timeout: 60_000 })
  if (asked.code !== 0)
    throw new Failure(`nix-daemon was not restarted: ${asked.stderr.trim() || asked.failedToStart}; try: systemctl restart nix-daemon`)
  done('nix-daemon restarted')
}

async function fixBox(work: BoxWork, { publicKeys }: Plan, person: Person, keep: (deed: Record['box'][number]) => void): Promise<void> {
  const { box, answer } = work
  if (answer.kind !== 'there') return
  const { facts } = answer
  const needs = boxNeeds(facts, publicKeys)
  if (!needsAnything(needs) || facts.root === 'no' || !mayFix(facts, needs)) return
  keep({
    cache: box.name,
    ssh: box.ssh,
    host: box.host,
    port: box.port,
    ...(needs.keys.length > 0 ? { conf: facts.conf, key: needs.keys.join(' '), ...(facts.confExists ? {} : { made: true }) } : {}),
    ...(needs.member ? { member: `${needs.member.user} ${needs.member.group}` } : {}),
  })
  await runOnBox(person, box, facts.root, fixScript(needs, facts.conf, hostName()))
  done(`${box.ssh} trusts what you build here${needs.member ? `, and ${needs.member.user} may use its nix-daemon` : ''}`)
}

/** Retries for a while: the user's systemd may be shutting down, to start again for lingering. */
async function start(user: User, more: readonly string[]): Promise<void> {
  for (const until = Date.now() + 15_000; ; await sleep(300)) {
    if (!hasManager(user) && !(lingers(user.name) && (await managerCame(user)))) {
      say(`  ${user.name} has no systemd manager running; the units start at the next login.`)
      return
    }
    try {
      await startUnits(user, more)
      return done(`nix-lan-check.timer runs for ${user.name}`)
    } catch (error) {
      if (!(error instanceof Failure) || Date.now() > until) throw error
    }
  }
}

/** Milliseconds to wait for a tunnel to become idle. */
const IDLE = 30_000

async function isIdle(socket: string): Promise<boolean> {
  for (const until = Date.now() + IDLE; inUse(socket) && Date.now() < until; ) await sleep(300)
  return !inUse(socket)
}

/** Its end would cut off downloads, so a broker that stays in use keeps running. */
async function endBrokers(): Promise<void> {
  for (const cache of await runningBrokers()) {
    if (await isIdle(brokerSocket(cache))) await attempt(`the broker of ${cache} ended, to start anew`, () => endBroker(cache))
    else say(`  The broker of ${cache} is in use, and runs the version of before until its next start.`)
  }
}

/** A restart would cut off downloads, so a tunnel that stays in use keeps running. */
async function restartTunnels(user: User): Promise<void> {
  for (const cache of await runningTunnels(user)) {
    if (!(await isIdle(`/run/user/${user.uid}/nix-lan/${cache}.sock`)))
      say(`  The tunnel of ${cache} is in use, and runs the version of before until its next start.`)
    else await attempt(`the tunnel of ${cache} restarted`, () => restartTunnel(user, cache))
  }
}

// ---- the end

/**
 * Has the boxes checked, since the timer may take half a minute to find a new one; waits for the
 * first tunnel, then runs nix-lan doctor.
 * @returns the exit code
 */
async function conclude(actions: Actions, person: Person, { layout }: Machine, doctor: boolean): Promise<number> {
  const { boxes } = actions
  const away = boxes.some(({ answer }) => answer.kind === 'away')
  if ((actions.startUnits || boxes.some(({ fresh }) => fresh)) && hasManager(person)) await checkNow(person)
  for (const { box, answer, needs } of doctor ? boxes : []) {
    // Without a login, or if the daemon won't let the user in, it never becomes usable.
    const usable = answer.kind === 'there' ? !needs.member || mayFix(answer.facts, needs) : mayAnswer(answer)
    if (!usable) continue
    await becomesUsable(box, person, `${layout.bin}/nix-lan-available`)
  }
  await requeue(actions, person, layout)
  const verdict = doctor ? await examine(layout, away) : boxes.some(({ answer }) => answer.kind === 'refused') ? 1 : 0
  if (away) say(`\n${AWAY} ${again(layout)}`)
  return away && verdict === 0 ? 75 : verdict
}

/**
 * Queues what is only here, for a box that has no queue yet; and what only now has a signature the
 * box trusts: what was never queued, and what had failed.
 */
async function requeue({ sign, boxes }: Actions, person: Person, { lib }: Layout): Promise<void> {
  for (const { box, fresh, answer, needs } of boxes) {
    if ((fresh || sign.length > 0) && mayAnswer(answer) && hasManager(person) && !(await queueBuilt(person, box.name)))
      say(`  ${box.name} is away now: what was built here and it lacks is queued within a day of its coming back.`)
    if (sign.length === 0 && needs.keys.length === 0) continue
    if (entriesIn(failedDir(box.name)) > 0) {
      const retried = await runAs(person, [`${lib}/nix-lan`, 'queue', 'retry', '--cache', box.name], { timeout: 60_000 })
      if (retried.code === 0) done(`what had failed for ${box.name} is queued again`)
    }
  }
}

/** Whether the box can have a tunnel. */
const mayAnswer = ({ kind }: BoxAnswer): boolean => kind === 'there' || kind === 'shell-less'

async function examine({ bin }: Layout, away: boolean): Promise<number> {
  say('\nnix-lan doctor:')
  const looked = await run(`${bin}/nix-lan`, ['doctor', ...(away ? ['--offline'] : [])], { inherit: ['stdout', 'stderr'] })
  return looked.code ?? 1
}

/** The command to run setup again. */
const again = ({ single }: Layout): string => (single ? 'nix-lan setup' : 'sudo nix-lan setup')

const AWAY = 'The box is away. When it is back, run this again so that it trusts the key:'

async function becomesUsable({ name }: Box, person: Person, available: string): Promise<void> {
  for (const until = Date.now() + 20_000; Date.now() < until; await sleep(300)) {
    const asked = await runAs(person, [available, '--usable', name], { timeout: 10_000 })
    if (asked.code !== 1) return // usable, or doctor says what is wrong
  }
}
