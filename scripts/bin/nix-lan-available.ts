// nix-lan-available: is the box there? Asks all caches at once, prints a line for each, and exits 0
// or 1. Changes nothing except what is remembered of a cache's last address.
import { main, parse, print } from '../cli/command.ts'
import { UsageError } from '../cli/errors.ts'
import { oneLine, toJson } from '../cli/text.ts'
import { loadConfig, namedCache } from '../config/config.ts'
import type { Cache } from '../config/types.ts'
import { type Answer, reachable, usable } from '../reach/reach.ts'

const HELP = `nix-lan-available: which caches are there now

Usage: nix-lan-available [OPTION…] [CACHE…]

Asks the caches that are named, or all of the configuration, at once.
Reachable: the name resolves and the port accepts, within the cache's deadline.
Usable (--usable): the box's nix-daemon answers a question through the tunnel,
or the URL answers as a Nix cache. Slow: that nix-daemon shakes hands, but
doesn't answer within the deadline; nix-lan-connect waits 30 s for it.

Options:
  -u, --usable        ask whether Nix could use it now, not only whether it is
                      reachable
  -w, --wait SECONDS  keep asking for up to SECONDS, in place of the deadline
  -q, --quiet         print nothing, only exit
      --json          the answer for scripts, see below
  -h, --help          show this
      --version       show the version

With --json, a list with an object for each cache:
  cache    its name
  state    reachable, usable, slow or away
  ms       milliseconds until that was clear
  address  where it is: an address, a socket or a folder; not when it is away
  port     where there is one
  detail   where there is more to say, such as "Nix 2.8.0"
  reason   why it is slow or away

Exit code: 0 all of them are there; 1 one or more is not; 2 wrong usage or
configuration.

Examples:
  nix-lan-available                rpi: reachable at 192.168.1.20 port 22, 12 ms
  nix-lan-available rpi --wait 60  waits until the box has booted
  nix-lan-available -uq rpi && nix copy --to … ./result
`

/** Milliseconds between two attempts. */
const PAUSE = 250
/** With less time than this, in milliseconds, an attempt proves nothing. */
const SHORTEST = 100
/**
 * The longest that setTimeout can wait, in seconds (HTML standard and Node: milliseconds as a
 * signed 32-bit number).
 */
const LONGEST_WAIT = 2 ** 31 / 1000 - 1

interface Found {
  cache: string
  answer: Answer
}

async function available(argv: string[]): Promise<number> {
  const { words, flag, value } = parse(argv, {
    boolean: ['usable', 'quiet', 'json'],
    string: ['wait'],
    alias: { u: 'usable', w: 'wait', q: 'quiet' },
  })
  if (flag('quiet') && flag('json')) throw new UsageError('--quiet and --json exclude each other; see --help')
  const wait = milliseconds(value('wait'))
  const config = loadConfig()
  const names = [...new Set(words)]
  const caches = names.length > 0 ? names.map((name) => namedCache(config, name)) : config.caches
  const ask = (cache: Cache, deadline: number): Promise<Answer> =>
    flag('usable') ? usable(cache, config.uid, deadline) : reachable(cache, deadline)
  const found = await Promise.all(caches.map(async (cache) => ({ cache: cache.name, answer: await patiently(cache, wait, ask) })))
  const there = flag('usable') ? 'usable' : 'reachable'
  if (flag('json')) print(`${toJson(found.map((one) => plain(one, there)))}\n`)
  else if (!flag('quiet')) print(found.map((one) => `${oneLine(line(one, there))}\n`).join(''))
  return found.every(({ answer }) => answer.ok) ? 0 : 1
}

/**
 * The value of --wait in milliseconds.
 * @throws UsageError
 */
function milliseconds(seconds: string | undefined): number | undefined {
  if (seconds === undefined) return undefined
  if (/^\d+(\.\d+)?$/.test(seconds) && Number(seconds) > 0 && Number(seconds) <= LONGEST_WAIT) return Math.ceil(Number(seconds) * 1000)
  throw new UsageError(`--wait ${seconds}: must be a number of seconds, like 30 or 0.5`)
}

/**
 * Asks once, within the cache's own deadline; with --wait, again and again until it is there or the
 * wait is over.
 */
async function patiently(
  cache: Cache,
  wait: number | undefined,
  ask: (cache: Cache, deadline: number) => Promise<Answer>,
): Promise<Answer> {
  if (wait === undefined) return await ask(cache, cache.deadline)
  const started = performance.now()
  for (;;) {
    const answer = await ask(cache, Math.min(cache.deadline, wait - (performance.now() - started)))
    const spent = performance.now() - started
    if (answer.ok || wait - spent < PAUSE + SHORTEST) return { ...answer, ms: Math.round(spent) }
    await new Promise((resolve) => setTimeout(resolve, PAUSE))
  }
}

function line({ cache, answer }: Found, state: string): string {
  if (!answer.ok) return `${cache}: ${without(answer)}: ${answer.reason}`
  const at = `${answer.address}${answer.port === undefined ? '' : ` port ${answer.port}`}`
  return `${cache}: ${state} at ${at}, ${answer.ms} ms${answer.detail ? ` (${answer.detail})` : ''}`
}

/** The state of a cache that isn't there. */
const without = ({ slow }: Pick<Answer, 'slow'>): string => (slow ? 'slow' : 'away')

/** As documented in --help. */
function plain({ cache, answer: { ok, slow, ...rest } }: Found, state: string): Record<string, unknown> {
  return { cache, state: ok ? state : without({ slow }), ...rest }
}

void main('nix-lan-available', HELP, available, false)
