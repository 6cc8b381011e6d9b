// nix-lan queue list: shows what waits, what can't go unsigned, and what failed. Asks Nix for sizes
// where that is quick.
import { sudoFinds } from '../../cli/sudo.ts'
import { age, oneLine } from '../../cli/text.ts'
import type { Config } from '../../config/types.ts'
import { NixError, referrersClosure } from '../../nix/nix.ts'
import { askNix, CHEAP, type Known, NOTHING_KNOWN, type Row, rowsOf, shown, table } from '../../queue/list.ts'
import { type Entry, readQueue } from '../../queue/queue.ts'
import { damagedOn } from '../../system/damage.ts'
import { isLocked } from '../../system/lock.ts'
import { socketPath, uploadLock } from '../../system/paths.ts'
import { ownTransfers, userTransfers } from '../../system/transfers.ts'
import { progressText, readUploadState } from '../../system/upload-state.ts'
import { effectiveUid } from '../../system/users.ts'
import { type Action, CACHE, type Call, EXIT, JSON_OPTION, printJson, say } from './action.ts'

export const list: Action = {
  name: 'list',
  summary: 'what is queued, unsigned or failed',
  forms: [['', 'show what is queued, unsigned or failed']],
  about: [
    'An unsigned path waits: the box takes nothing without a signature that it trusts. A failed path stays until you retry or drop it. Both are GC roots meanwhile.',
  ],
  options: [CACHE, { long: 'full', text: 'ask for sizes and signatures, however long the list is' }, JSON_OPTION],
  json: {
    what: 'an object for each path',
    keys: [
      ['cache', 'the cache it is queued for'],
      ['state', 'queued, unsigned, failed, invalid (not in the store any more) or junk (a file that is no queued path)'],
      ['path', 'the store path'],
      ['added', 'since when it is queued (ISO 8601); null: not known'],
      ['size', 'bytes of its NAR; null: not known'],
      ['error', 'why it failed or waits; null: nothing is wrong'],
    ],
  },
  exit: EXIT,
  examples: ['nix-lan queue list', 'nix-lan queue list --json | jq -r \'.[] | select(.state == "failed").path\''],
  run,
}

async function run({ config, caches, options, json }: Call): Promise<number> {
  const rows: Row[] = []
  for (const cache of caches) {
    const queue = shown(readQueue(cache.name, config.user), cache)
    const entries = [...queue.queued, ...queue.failed]
    const ask = options.flag('full') || entries.length <= CHEAP
    const known = ask ? await waiting(entries.length, options.flag('full'), whatNixKnows(entries, options.flag('full'))) : NOTHING_KNOWN
    const own = rowsOf(cache.name, queue, known).map((row) => ({ ...row, error: row.error && sudoFinds(row.error) }))
    rows.push(...own)
    if (!json)
      process.stdout.write(
        `${heading(cache.name, own, ask)}\n${table(own, Date.now())}${uploadLine(config, cache.name)}${sudoFinds(fixes(own))}${damagedText(config, cache.name)}`,
      )
  }
  if (json) printJson(rows.map((row) => ({ ...row, added: row.added === null ? null : new Date(row.added).toISOString() })))
  return 0
}

/** Says on a terminal what a long list waits for, and for how long. */
async function waiting<T>(count: number, full: boolean, answer: Promise<T>): Promise<T> {
  if (!full || count <= CHEAP || process.stderr.isTTY !== true) return await answer
  const started = performance.now()
  const show = (): void => {
    process.stderr.write(`\r\u001b[K… asking Nix about ${count} paths: ${Math.round((performance.now() - started) / 1000)} s`)
  }
  show()
  const timer = setInterval(show, 1000)
  try {
    return await answer
  } finally {
    clearInterval(timer)
    process.stderr.write('\r\u001b[K')
  }
}

/**
 * Falls back to nothing known: the list is useful even without Nix's answer. Who asks for it waits
 * longer.
 */
async function whatNixKnows(entries: Entry[], full: boolean): Promise<Known> {
  try {
    return await askNix(entries, referrersClosure, full ? 60_000 : undefined)
  } catch (error) {
    if (!(error instanceof NixError)) throw error
    say(`sizes and signatures are not known: ${error.message}`)
    return NOTHING_KNOWN
  }
}

function heading(cache: string, rows: readonly Row[], asked: boolean): string {
  const counts = ['queued', 'unsigned', 'failed', 'invalid', 'junk']
    .map((state) => ({ state, count: rows.filter((row) => row.state === state).length }))
    .filter(({ count }) => count > 0)
    .map(({ state, count }) => `${count} ${state}`)
  const rest = asked ? '' : ' (sizes and signatures: --full)'
  return `${cache}: ${counts.length > 0 ? counts.join(', ') : 'nothing queued'}${rest}`
}

/** How the running upload goes, or why the last one stopped. */
function uploadLine(config: Config, cache: string): string {
  const state = effectiveUid() === config.uid ? readUploadState(config.uid, cache) : undefined
  if (!state) return ''
  const now = Date.now()
  if (isLocked(uploadLock(config.uid, cache))) return state.all.paths > 0 ? `uploading: ${progressText(state)}\n` : ''
  const next = state.retry !== null && state.retry > now ? `; tries again in ${age(state.retry - now)}` : ''
  return state.stopped === null ? '' : `${oneLine(`waits: ${state.stopped}${next}`)}\n`
}

/** What is damaged on the box, as far as a fetch has met it. */
function damagedText(config: Config, cache: string): string {
  const own = effectiveUid() === config.uid ? ownTransfers() : userTransfers(config.home, undefined)
  const damaged = [...damagedOn({ cache, socket: socketPath(config.uid, cache), own }).keys()]
  if (damaged.length === 0) return ''
  const lines = damaged.map((path) => `damaged on the box: ${oneLine(path)}`)
  return [...lines, 'damaged: an upload replaces what is valid here; a build replaces the rest', ''].join('\n')
}

function fixes(rows: readonly Row[]): string {
  const has = (state: Row['state']): boolean => rows.some((row) => row.state === state)
  const lines: string[] = []
  if (has('unsigned'))
    lines.push(
      'unsigned: the path or one of its dependencies carries no signature; the others',
      '          go without it. `sudo nix-lan queue sign` signs what was built here',
    )
  if (has('failed')) lines.push('failed: `nix-lan queue retry` queues them again,', '        `nix-lan queue drop --failed` forgets them')
  return lines.map((line) => `${line}\n`).join('')
}
