// The configuration: what is read, every way it can be wrong with the words that tell it, and which
// files are believed.
import { execFileSync } from 'node:child_process'
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { ConfigError, UsageError } from '../../scripts/cli/errors.ts'
import { config } from '../../scripts/commands/config.ts'
import { checkConfigFile, loadConfig, namedCache, noConfig } from '../../scripts/config/config.ts'
import { excluded, globMatches } from '../../scripts/config/exclude.ts'
import { candidates, MAX_BYTES, readConfigFile } from '../../scripts/config/file.ts'
import { parseConfig } from '../../scripts/config/parse.ts'
import { storeUrl } from '../../scripts/config/store-url.ts'
import { lineOf, type Path } from '../../scripts/config/toml-line.ts'
import type { Config, SshCache } from '../../scripts/config/types.ts'
import { findUser, userIn } from '../../scripts/system/users.ts'
import { needs } from '../lib/needs.ts'

const ALICE = { name: 'alice', uid: 1000, home: '/home/alice' }

function userOf(name: string | undefined): typeof ALICE {
  if (name === undefined || name === 'alice') return ALICE
  throw new Error(`there is no user ${name}`)
}

const read = (text: string): Config => parseConfig(text, 'F', userOf)

/** The message of the ConfigError that `action` throws. */
function refusal(action: () => unknown): string {
  try {
    action()
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    assert.is(error.exitCode, 2)
    return error.message
  }
  throw new Error('was not refused')
}

// ---- what is read

const good = suite('config: read')

const RPI: SshCache = {
  kind: 'ssh',
  name: 'rpi',
  host: 'rpi.local',
  ssh: 'rpi.local',
  port: 22,
  daemonSocket: '/nix/var/nix/daemon-socket/socket',
  envFile: '/home/alice/.bashrc',
  derivations: true,
  exclude: [],
  keep: 60,
  deadline: 2000,
  patience: 60_000,
}

good('the least', () => {
  const expected = { file: 'F', user: 'alice', uid: 1000, home: '/home/alice', metered: 'wait', battery: 20, caches: [RPI] }
  assert.equal(read('[cache.rpi]\nhost = "rpi.local"\n'), expected)
})

good('how much is to stay free', () => {
  assert.is(read('gc.keep-free = "5G"\n[cache.rpi]\nhost = "rpi.local"\n').keepFree, 5 * 2 ** 30)
  assert.is(read('[cache.rpi]\nhost = "rpi.local"\n[gc]\n').keepFree, undefined)
})

good('everything, two caches in their order', () => {
  const config = read(`user = "alice"
[cache.rpi]
host = "192.168.1.5"
ssh = "pi@rpi"
port = 2222
daemon-socket = "/run/nix.sock"
env-file = "/etc/agent.sh"
derivations = false
exclude = ["*-source", "linux-?.*"]
keep = "forever"
deadline = "500ms"
patience = "120s"
[cache.nas]
url = "http://nas.local:5000"
deadline = "60s"
`)
  const access = { host: '192.168.1.5', ssh: 'pi@rpi', port: 2222, daemonSocket: '/run/nix.sock', envFile: '/etc/agent.sh' }
  assert.equal(config.caches, [
    {
      kind: 'ssh',
      name: 'rpi',
      ...access,
      derivations: false,
      exclude: ['*-source', 'linux-?.*'],
      keep: null,
      deadline: 500,
      patience: 120_000,
    },
    { kind: 'url', name: 'nas', url: 'http://nas.local:5000', deadline: 60_000 },
  ])
})

// One line of a cache that has a host, or the whole of one that has none, and what must come of it.
const VALUES: [string, keyof SshCache, unknown][] = [
  ['host = "fe80::1%wlan0"', 'host', 'fe80::1%wlan0'],
  ['host = "::1"', 'host', '::1'],
  ['host = "my_box"', 'host', 'my_box'],
  ['host = "bücher.local"', 'host', 'bücher.local'],
  ['host = "a"\nssh = "DOMAIN.user@a-b"', 'ssh', 'DOMAIN.user@a-b'],
  ['host = "a"\nssh = "me@fe80::1%eth0"', 'ssh', 'me@fe80::1%eth0'],
  ['host = "a"\nport = 1', 'port', 1],
  ['host = "a"\nport = 65535', 'port', 65535],
  ['host = "a"\nport = 0x16', 'port', 22],
  ['host = "a"\ndeadline = "100ms"', 'deadline', 100],
  ['host = "a"\ndeadline = "1s"', 'deadline', 1000],
  ['host = "a"\npatience = "0s"', 'patience', 0],
  ['host = "a"\npatience = "3600s"', 'patience', 3_600_000],
  ['host = "a"\nupload-connection = "shared"', 'uploadConnection', 'shared'],
  ['host = "a"\nupload-connection = "own"', 'uploadConnection', 'own'],
  ['host = "a"\ncompression = true', 'compression', true],
  ['host = "a"', 'compression', undefined],
  ['host = "a"\nenv-file = "~/a b.sh"', 'envFile', '/home/alice/a b.sh'],
  ['host = "a"\nexclude = []', 'exclude', []],
]
for (const [lines, key, value] of VALUES) {
  good(JSON.stringify(lines), () => {
    const cache = read(`[cache.x]\n${lines}`).caches[0] as SshCache
    assert.equal(cache[key], value)
  })
}

good('when the background upload waits', () => {
  const both = (lines: string) => {
    const { metered, battery } = read(`${lines}\n[cache.x]\nhost = "a"`)
    return [metered, battery]
  }
  assert.equal(
    [both('metered = "upload"\nbattery = 0'), both('metered = "wait"\nbattery = 100')],
    [
      ['upload', 0],
      ['wait', 100],
    ],
  )
})

const GOOD_URLS = ['https://cache.example.org', 'file:///mnt/nix', 'ssh://pi@rpi', 'ssh-ng://rpi?compress=true', 'http://[::1]:80/a?b=1']
for (const url of GOOD_URLS) {
  good(url, () => assert.equal(read(`cache.x.url = "${url}"`).caches, [{ kind: 'url', name: 'x', url, deadline: 2000 }]))
}

good('a byte order mark, CRLF, a name of 40 characters', () => {
  const name = 'a'.repeat(40)
  assert.is(read(`\ufeffuser = "alice"\r\n[cache.${name}]\r\nhost = "a"\r\n`).caches[0]?.name, name)
})

good('the home directory of root may be /', () => {
  const config = parseConfig('cache.x.host = "a"', 'F', () => ({ name: 'root', uid: 0, home: '/' }))
  assert.is((config.caches[0] as SshCache).envFile, '/.bashrc')
})

good('a deadline other than the default goes with the URL of uploads, whose connect reads no configuration', () => {
  const urlOf = (text: string): string => storeUrl(read(text).caches[0] as SshCache, 1000, { strict: true, socket: '/s' })
  process.env.NIX_LAN_CALLED_AS = resolve('dist/nix-lan')
  try {
    assert.match(urlOf('[cache.x]\nhost = "a"\n'), /nix-lan-connect%20--strict%20\/s$/)
    assert.match(urlOf('[cache.x]\nhost = "a"\ndeadline = "10s"\n'), /nix-lan-connect%20--strict%20--deadline%2010%20\/s$/)
  } finally {
    delete process.env.NIX_LAN_CALLED_AS
  }
})

good.run()

// ---- what is refused

const bad = suite('config: refused')

const SSH_ALLOWED =
  'allowed here: host, ssh, port, daemon-socket, env-file, derivations, exclude, keep, deadline, patience, upload-connection, compression'
const ONE_EACH = 'each cache is a table of its own: [cache.NAME], below it host = "…" or url = "…"'
const HOST = 'must be the name or address of the box, like "rpi.local" or "192.168.1.5"'
const SSH = 'must be what you give to ssh to log in there, like "pi@rpi.local" or an alias from ~/.ssh/config'
const PORT = 'must be a whole number from 1 to 65535, without quotes: port = 22'
const SOCKET = `must be the absolute path of nix-daemon's socket on the box, like "/nix/var/nix/daemon-socket/socket"`
const ENV_FILE = 'must be the path of a shell file that sets SSH_AUTH_SOCK: absolute, or in the home directory like "~/.bashrc"'
const DEADLINE = 'must be a time from 100ms to 60s in quotes, like "2s" or "500ms"'
const PATIENCE = 'must be a time from 0s to 3600s in quotes, like "60s" or "500ms"'
const URL = 'must be a store URL that begins with http://, https://, file://, ssh://, ssh-ng://'
const NAME = 'the name of a cache may hold a-z, 0-9 and - only, and not start or end with -; like [cache.rpi]'
const USER = 'must be the name of a user, like "alice"'
const GLOB = 'names have 0-9 A-Z a-z + - . _ ? = only; * stands for any characters, ? for one'
const CHOICE = 'host = "rpi.local" for a box that you reach by ssh, url = "http://nas.local:5000" for a cache to fetch from only'

// Whole files.
const TOML = 'TOML has KEY = VALUE, and each cache below a line [cache.NAME]'
const FILES: [string, string][] = [
  ['', 'F: no cache in it; add one, for example:\n\n[cache.rpi]\nhost = "rpi.local"\nssh = "pi@rpi.local"\n'],
  ['# nothing\nuser = "alice"', 'F: no cache in it; add one, for example:\n\n[cache.rpi]\nhost = "rpi.local"\nssh = "pi@rpi.local"\n'],
  [
    'usr = "alice"',
    'F:1: usr: unknown key; did you mean user?; allowed here: user, metered, battery, gc.keep-free, and tables [cache.NAME]',
  ],
  [
    '\n\n[caches.rpi]\nhost = "a"',
    'F:3: caches: unknown key; did you mean cache?; allowed here: user, metered, battery, gc.keep-free, and tables [cache.NAME]',
  ],
  ['gc = 1', 'F:1: gc: found the number 1; must be a table: gc.keep-free = "5G"'],
  ['[gc]\nkeep_free = "5G"', 'F:2: gc.keep_free: unknown key; did you mean keep-free?; allowed here: keep-free'],
  ['gc.keep-free = 5', 'F:1: gc.keep-free: found the number 5; must be a size in quotes, like "5G"'],
  ['gc.keep-free = "5X"', 'F:1: gc.keep-free: found the string "5X"; must be a size in quotes, like "5G"'],
  ['nonsense = 1', 'F:1: nonsense: unknown key; allowed here: user, metered, battery, gc.keep-free, and tables [cache.NAME]'],
  ['[rpi]\nhost = "a"', 'F:1: rpi: unknown table; a cache is written [cache.rpi]'],
  ['user = "alice"\nhost = "a"', 'F:2: host: belongs to a cache; write it below a line [cache.NAME]'],
  ['"a\\nb" = 1', 'F:1: "a\\nb": unknown key; allowed here: user, metered, battery, gc.keep-free, and tables [cache.NAME]'],
  ['__proto__ = 1', 'F:1: __proto__: unknown key; allowed here: user, metered, battery, gc.keep-free, and tables [cache.NAME]'],
  ['user = ""', `F:1: user: is empty; must be the name of a user, like "alice"`],
  ['user = 5', `F:1: user: found the number 5; ${USER}`],
  ['user = "1000"', `F:1: user: found the string "1000"; ${USER}`],
  ['user = "-s"', `F:1: user: found the string "-s"; ${USER}`],
  ['user = "a b"', `F:1: user: found the string "a b"; ${USER}`],
  ['user = "a:b"', `F:1: user: found the string "a:b"; ${USER}`],
  ['\nuser = "bob"\n[cache.x]\nhost = "a"', 'F:2: user: there is no user bob'],
  ['cache = "rpi"', `F:1: cache: found the string "rpi"; ${ONE_EACH}`],
  ['[[cache]]\nhost = "a"', `F:1: cache: found a list; ${ONE_EACH}, with single brackets and a name`],
  ['[cache]', `F:1: cache: no cache in it; ${ONE_EACH}`],
  ['[cache]\nhost = "a"', `F:2: cache.host: found the string "a"; ${ONE_EACH}`],
  ['[[cache.rpi]]\nhost = "a"', `F:1: cache.rpi: found a list; ${ONE_EACH}`],
  ['cache.rpi = 2020-01-01', `F:1: cache.rpi: found a date; ${ONE_EACH}`],
  ['[cache.""]\nhost = "a"', 'F:1: cache."": the name of a cache is empty; call it something, like [cache.rpi]'],
  ['[cache.Rpi]\nhost = "a"', `F:1: cache.Rpi: ${NAME}`],
  ['[cache."a b"]\nhost = "a"', `F:1: cache."a b": ${NAME}`],
  ['[cache."../x"]\nhost = "a"', `F:1: cache."../x": ${NAME}`],
  [
    '[cache.my.box]\nhost = "a"',
    'F:1: cache.my.box: a dot in [cache.my.box] makes a table inside of my, and names hold no dots; call it [cache.my]',
  ],
  ...(['host = "a"', 'ssh = "a"', ''] as const).map((below): [string, string] => [
    `[cache.pi.home.arpa]\n${below}`,
    'F:1: cache.pi.home: a dot in [cache.pi.home.arpa] makes a table inside of pi, and names hold no dots; call it [cache.pi]',
  ]),
  ['[cache.-a]\nhost = "a"', `F:1: cache.-a: ${NAME}`],
  ['[cache.a-]\nhost = "a"', `F:1: cache.a-: ${NAME}`],
  ['[cache.a_b]\nhost = "a"', `F:1: cache.a_b: ${NAME}`],
  [
    `[cache.${'a'.repeat(41)}]\nhost = "a"`,
    `F:1: cache.${'a'.repeat(41)}: the name of a cache may have 40 characters, since it is part of the path of a socket; this one has 41`,
  ],
  ['[cache.x]', `F:1: cache.x: has neither host nor url; add one: ${CHOICE}`],
  ['[cache.x]\nssh = "a"', `F:1: cache.x: has neither host nor url; add one: ${CHOICE}`],
  ['[cache.x]\nurl = "http://a"\nhost = "a"', `F:1: cache.x: has both host and url; keep one: ${CHOICE}`],
  ['[cache.x]\nhost = "a"\n[cache.x]', 'F:3:2: is not valid TOML: trying to redefine an already defined table or value'],
  ['user = "alice', 'F:1:8: is not valid TOML: the text has no closing "'],
  ["[cache.x]\nhost = 'a\nport = 22", "F:2:10: is not valid TOML: the text has no closing '"],
  ['[cache.x]\nhost = "a"\nexclude = ["*-a", "*-b]', 'F:3:19: is not valid TOML: the text has no closing "'],
  ['; a comment', 'F:1:1: is not valid TOML: a comment begins with #'],
  ['[cache.x]\nhost = “a”', 'F:2:8: is not valid TOML: found the typographic quote “; TOML takes " or \' only'],
  ['[cache.x]\nhost = ‘a’', 'F:2:8: is not valid TOML: found the typographic quote ‘; TOML takes " or \' only'],
  ['[cache.x]\nhost = "a"\nderivations = False # x', 'F:3:15: is not valid TOML: found False; TOML writes true or false, in lower case'],
  ['[cache.x]\nderivations = False# x', 'F:2:15: is not valid TOML: found False; TOML writes true or false, in lower case'],
  ['[cache.x]\nderivations = yes', 'F:2:15: is not valid TOML: found yes; TOML writes true or false, in lower case'],
  [
    'cache:\n  x:\n    host: a',
    'F:1:6: is not valid TOML: this looks like YAML; TOML has KEY = VALUE, and each cache below a line [cache.NAME]',
  ],
  [
    '[cache.x]\nhost: "a"',
    'F:2:5: is not valid TOML: this looks like YAML; TOML has KEY = VALUE, and each cache below a line [cache.NAME]',
  ],
  ['[cache.x]\nhost:a', `F:2:5: is not valid TOML: this looks like YAML; ${TOML}`],
  ['{ "cache": {} }', `F:1:1: is not valid TOML: this looks like JSON; ${TOML}`],
  ['[cache/rpi]\nhost = "a"', "F:1:7: is not valid TOML: the parts of a table's name are joined by a dot: [cache.rpi]"],
  ['[cache "rpi"]\nhost = "a"', "F:1:8: is not valid TOML: the parts of a table's name are joined by a dot: [cache.rpi]"],
  ['[cache:rpi]\nhost = "a"', "F:1:7: is not valid TOML: the parts of a table's name are joined by a dot: [cache.rpi]"],
  ['[cache.x\nhost = "a"', 'F:1:9: is not valid TOML: the line has no closing ]'],
  ['user = "root"', 'F:1: user: is root; nix-lan works with an ordinary user\'s ssh key, session and queue: name that user, like "alice"'],
  [
    '[cache.x]\nhost = "a"\nssh = \'CORP\\a@h\'',
    'F:3: cache.x.ssh: found the string "CORP\\\\a@h"; must be what you give to ssh to log in there, like "pi@rpi.local" or an alias from ~/.ssh/config; ' +
      'for a user like that write an alias into ~/.ssh/config (Host, HostName h, User CORP\\a) and name it here',
  ],
  ['user = alice', 'F:1:8: is not valid TOML: invalid value; text needs quotes'],
  ['\nuser "alice"', 'F:2:6: is not valid TOML: there is no = after user'],
]
for (const [text, message] of FILES) {
  bad(JSON.stringify(text), () =>
    assert.is(
      refusal(() => read(text)),
      message,
    ),
  )
}

// One more line, the third, in a table that has a host (the second).
const LINES: [string, string][] = [
  ['hots = "a"', `cache.x.hots: unknown key; did you mean host?; ${SSH_ALLOWED}`],
  ['"daemon_socket" = "/a"', `cache.x.daemon_socket: unknown key; did you mean daemon-socket?; ${SSH_ALLOWED}`],
  ['Port = 22', `cache.x.Port: unknown key; did you mean port?; ${SSH_ALLOWED}`],
  ['nonsense = 1', `cache.x.nonsense: unknown key; ${SSH_ALLOWED}`],
  ['user = "alice"', `cache.x.user: belongs to the top of the file, above the first [cache.NAME]; ${SSH_ALLOWED}`],
  ['ssh = ""', `cache.x.ssh: is empty; ${SSH}`],
  ['ssh = true', `cache.x.ssh: found true; ${SSH}`],
  ['ssh = "-oProxyCommand=x"', `cache.x.ssh: found the string "-oProxyCommand=x"; ${SSH}; neither user nor host may start with -`],
  ['ssh = "pi@-oX"', `cache.x.ssh: found the string "pi@-oX"; ${SSH}; neither user nor host may start with -`],
  ['ssh = "pi@rpi -p 5"', `cache.x.ssh: found the string "pi@rpi -p 5"; ${SSH}, without spaces; options belong into ~/.ssh/config`],
  ['ssh = "ssh://pi@rpi"', `cache.x.ssh: found the string "ssh://pi@rpi"; ${SSH}; written as user@host, and the port as port = 22`],
  ['ssh = "pi@rpi:22"', `cache.x.ssh: found the string "pi@rpi:22"; ${SSH}; the port belongs into port = 22`],
  ['ssh = "pi@"', `cache.x.ssh: found the string "pi@"; ${SSH}`],
  ['ssh = "@rpi"', `cache.x.ssh: found the string "@rpi"; ${SSH}`],
  ['ssh = "$(id)@rpi"', `cache.x.ssh: found the string "$(id)@rpi"; ${SSH}`],
  ['ssh = "a\\u0000b"', `cache.x.ssh: found the string "a\\u0000b", with a control character; ${SSH}`],
  ['port = "22"', `cache.x.port: found the string "22"; ${PORT}`],
  ['port = 22.0', `cache.x.port: found the number 22; ${PORT}`],
  ['port = 0', `cache.x.port: found the number 0; ${PORT}`],
  ['port = -1', `cache.x.port: found the number -1; ${PORT}`],
  ['port = 65536', `cache.x.port: found the number 65536; ${PORT}`],
  ['port = nan', `cache.x.port: found the number NaN; ${PORT}`],
  ['daemon-socket = "run/x"', `cache.x.daemon-socket: found the string "run/x", a relative path; ${SOCKET}`],
  ['daemon-socket = "~/x"', `cache.x.daemon-socket: found the string "~/x", a relative path; ${SOCKET}`],
  ['daemon-socket = "/a:22"', `cache.x.daemon-socket: found the string "/a:22"; ${SOCKET}, without spaces, quotes and : % $ \\`],
  ['daemon-socket = "/%h"', `cache.x.daemon-socket: found the string "/%h"; ${SOCKET}, without spaces, quotes and : % $ \\`],
  [`daemon-socket = "/${'é'.repeat(54)}"`, 'cache.x.daemon-socket: found a path of 109 bytes; the path of a socket has 107 at most'],
  ['daemon-socket = ""', `cache.x.daemon-socket: is empty; ${SOCKET}`],
  ['daemon-socket = 1', `cache.x.daemon-socket: found the number 1; ${SOCKET}`],
  ['env-file = ""', `cache.x.env-file: is empty; ${ENV_FILE}`],
  ['env-file = ".bashrc"', `cache.x.env-file: found the string ".bashrc"; ${ENV_FILE}`],
  ['env-file = "~bob/.bashrc"', `cache.x.env-file: found the string "~bob/.bashrc"; ${ENV_FILE}`],
  ['env-file = false', `cache.x.env-file: found false; ${ENV_FILE}`],
  ['derivations = "no"', 'cache.x.derivations: found the string "no"; must be true or false, without quotes'],
  ['keep = 60', 'cache.x.keep: found the number 60; must be a number of days in quotes, like "60d", or "forever" or "none"'],
  ['keep = "0d"', 'cache.x.keep: found the string "0d"; must be a number of days in quotes, like "60d", or "forever" or "none"'],
  ['keep = "2w"', 'cache.x.keep: found the string "2w"; must be a number of days in quotes, like "60d", or "forever" or "none"'],
  ['derivations = 0', 'cache.x.derivations: found the number 0; must be true or false, without quotes'],
  ['exclude = "a"', 'cache.x.exclude: found the string "a"; must be a list of patterns for the name after the hash, like ["*-source"]'],
  ['exclude = ["a", 5]', 'cache.x.exclude[2]: found the number 5; must be a pattern in quotes, like "*-source"'],
  ['exclude = [""]', 'cache.x.exclude[1]: is empty; must be a pattern in quotes, like "*-source"'],
  ['exclude = ["/nix/*"]', 'cache.x.exclude[1]: found the string "/nix/*"; must be for the name after the hash, like "*-source"'],
  ['exclude = ["!a"]', `cache.x.exclude[1]: found the string "!a", which no store path can match; ${GLOB}`],
  ['exclude = ["[ab]*"]', `cache.x.exclude[1]: found the string "[ab]*", which no store path can match; ${GLOB}`],
  ['upload-connection = "both"', 'cache.x.upload-connection: found the string "both"; must be "own" or "shared"'],
  ['compression = "yes"', 'cache.x.compression: found the string "yes"; must be true or false, without quotes'],
  ['patience = 60', `cache.x.patience: found the number 60; ${PATIENCE}`],
  ['patience = "1m"', `cache.x.patience: found the string "1m"; ${PATIENCE}`],
  ['patience = "3601s"', `cache.x.patience: found the string "3601s", which is too long; ${PATIENCE}`],
  ['deadline = 2', `cache.x.deadline: found the number 2; ${DEADLINE}`],
  ['deadline = ""', `cache.x.deadline: is empty; ${DEADLINE}`],
  ['deadline = "2"', `cache.x.deadline: found the string "2"; ${DEADLINE}`],
  ['deadline = "2 s"', `cache.x.deadline: found the string "2 s"; ${DEADLINE}`],
  ['deadline = "1.5s"', `cache.x.deadline: found the string "1.5s"; ${DEADLINE}`],
  ['deadline = "-2s"', `cache.x.deadline: found the string "-2s"; ${DEADLINE}`],
  ['deadline = "1m"', `cache.x.deadline: found the string "1m"; ${DEADLINE}`],
  ['deadline = "99ms"', `cache.x.deadline: found the string "99ms", which is too short; ${DEADLINE}`],
  ['deadline = "0s"', `cache.x.deadline: found the string "0s", which is too short; ${DEADLINE}`],
  ['deadline = "61s"', `cache.x.deadline: found the string "61s", which is too long; ${DEADLINE}`],
]
for (const [line, message] of LINES) {
  bad(line, () =>
    assert.is(
      refusal(() => read(`[cache.x]\nhost = "a"\n${line}\n`)),
      `F:3: ${message}`,
    ),
  )
}

const HOSTS: [string, string][] = [
  ['5', `found the number 5; ${HOST}`],
  ['{a = 1}', `found a table; ${HOST}`],
  ['["a"]', `found a list; ${HOST}`],
  ['""', `is empty; ${HOST}`],
  ['"-h"', `found the string "-h"; ${HOST}, and not start with -`],
  ['"a b"', `found the string "a b"; ${HOST}, without spaces`],
  ['"a\\u00a0b"', `found the string "a\u00a0b"; ${HOST}, without spaces`],
  ['"a\\nb"', `found the string "a\\nb", with a control character; ${HOST}`],
  ['"a\\u009bb"', `found the string "a\u009bb", with a control character; ${HOST}`],
  ['"a\\u202eb"', `found the string "a\u202eb", with a control character; ${HOST}`],
  ['"“a”"', `found the string "“a”"; ${HOST}`],
  ['"pi@rpi"', `found the string "pi@rpi"; ${HOST}; who to log in as belongs into ssh = "pi@rpi"`],
  ['"pi@rpi:22"', `found the string "pi@rpi:22"; ${HOST}; who to log in as belongs into ssh = "pi@rpi"`],
  ['"rpi:22"', `found the string "rpi:22"; ${HOST}; the port belongs into port = 22`],
  ['"[::1]"', `found the string "[::1]"; ${HOST}, without brackets`],
  ['"http://a"', `found the string "http://a"; ${HOST}; for an address like that there is the key url, in place of host`],
  ['"a;b"', `found the string "a;b"; ${HOST}`],
  ['"a/24"', `found the string "a/24"; ${HOST}`],
  [`"${'a'.repeat(254)}"`, `found the string "${'a'.repeat(56)}...; ${HOST}`],
]
for (const [value, message] of HOSTS) {
  bad(`host = ${value}`, () =>
    assert.is(
      refusal(() => read(`[cache.x]\nhost = ${value}`)),
      `F:2: cache.x.host: ${message}`,
    ),
  )
}

const URLS: [string, string][] = [
  ['5', `found the number 5; ${URL}, like "http://nas.local:5000"`],
  ['""', `is empty; ${URL}, like "http://nas.local:5000"`],
  ['"nas.local:5000"', `found the string "nas.local:5000", without a scheme; ${URL}`],
  ['"/mnt/nix"', `found the string "/mnt/nix", without a scheme; ${URL}`],
  ['"s3://bucket"', `found the string "s3://bucket"; the scheme s3 is not supported; ${URL}`],
  ['"HTTP://a"', `found the string "HTTP://a"; the scheme HTTP is not supported; ${URL}`],
  ['"http://a b"', `found the string "http://a b"; ${URL}, without spaces (write %20)`],
  ['"http://"', 'found the string "http://"; must go on with a host, which can\'t start with -, like "http://nas.local"'],
  ['"http:///x"', 'found the string "http:///x"; must go on with a host, which can\'t start with -, like "http://nas.local"'],
  ['"ssh://-oX"', 'found the string "ssh://-oX"; must go on with a host, which can\'t start with -, like "ssh://nas.local"'],
  ['"ssh-ng://me@-oX"', 'found the string "ssh-ng://me@-oX"; must go on with a host, which can\'t start with -, like "ssh-ng://nas.local"'],
  ['"file://mnt"', 'found the string "file://mnt"; must go on with an absolute path, like "file:///mnt/cache"'],
]
for (const [value, message] of URLS) {
  bad(`url = ${value}`, () =>
    assert.is(
      refusal(() => read(`[cache.x]\nurl = ${value}`)),
      `F:2: cache.x.url: ${message}`,
    ),
  )
}

for (const line of [
  'ssh = "a"',
  'port = 22',
  'daemon-socket = "/a"',
  'env-file = "/a"',
  'derivations = true',
  'exclude = []',
  'keep = "1d"',
  'patience = "1s"',
]) {
  bad(`${line} with url`, () => {
    const message = `F:3: cache.x.${line.split(' ')[0]}: is only for a cache with host; this one has url, so allowed here: url, deadline`
    assert.is(
      refusal(() => read(`[cache.x]\nurl = "http://a"\n${line}`)),
      message,
    )
  })
}
bad('an unknown key with url', () => {
  const message = 'F:3: cache.x.ulr: unknown key; did you mean url?; allowed here: url, deadline'
  assert.is(
    refusal(() => read('[cache.x]\nurl = "http://a"\nulr = "http://b"')),
    message,
  )
})

bad.run()

// ---- the line of a key

const line = suite('config: lines')
const LINES_OF: [string, Path, number][] = [
  ['a = 1', ['a'], 1],
  ['a = 1', ['b'], 0],
  ['a = 1\nb = 2', ['b'], 2],
  ['# c\n\n  a = 1', ['a'], 3],
  ['a = 1\r\nb = 2\r\n', ['b'], 2],
  ['\ufeffa = 1', ['a'], 1],
  ['[cache.x]\nhost = 1\n[cache.y]\nport = 1\nhots = 2', ['cache', 'y', 'hots'], 5],
  ['[cache.x]\nhots = 1\n[cache.y]\nhots = 2', ['cache', 'y', 'hots'], 4],
  ['[cache.x]\nhots = 1', ['hots'], 0],
  ['[cache.x]\nhots = 1', ['cache', 'x'], 1],
  ['[ cache . "x" ]  # c\n"ho\\u0074s" = 1', ['cache', 'x', 'hots'], 2],
  ['user = 1\ncache.x.host = 1\ncache.x.hots = 2', ['cache', 'x', 'hots'], 3],
  ['[cache]\nx.host = 1\nx.hots = 2', ['cache', 'x', 'hots'], 3],
  ['[cache]\nx = { host = 1, hots = 2 }', ['cache', 'x', 'hots'], 2],
  ['cache = { x = { host = 1, a.b = 2 } }', ['cache', 'x', 'a'], 1],
  ['[cache]\nx = {\n host = 1,\n hots = 2,\n}', ['cache', 'x', 'hots'], 4],
  ['cache = {\n x = {\n  host = 1,\n  hots = [\n 1\n] } }\n', ['cache', 'x', 'hots'], 4],
  ['a = [\n 1, # hots = 3 ]\n 2\n]\nhots = 1', ['hots'], 5],
  ['a = [\n "x",\n 2\n]\n', ['a', 1], 3],
  ['a = ["x", 2]', ['a', 1], 1],
  ['a = [\n "x",\n 2\n]\n', ['a'], 1],
  ['a = """\nhots = 1\n[cache.x]\n"""\nhots = 1', ['hots'], 5],
  ["a = '''\nhots = 1\n'''\nhots = 1", ['hots'], 4],
  ['a = """\nb\n"""', ['a'], 1],
  ['[[a]]\nb = 1\n[a.c]\nd = 1', ['a', 'c', 'd'], 4],
  ['[cache.x.y]\nz = 1', ['cache', 'x', 'y'], 1],
  ['a = [[[[[[\n1]]]]]]\nb = 1', ['a'], 1],
  ['a = 1\n"" = 2', [''], 2],
  ['__proto__.x = 1', ['__proto__'], 1],
]
for (const [text, path, expected] of LINES_OF) {
  line(`${JSON.stringify(text)}: ${path.join('.')}`, () => assert.is(lineOf(text, path), expected))
}
line('a file made to be slow gives no line rather than a wait', () => {
  assert.is(lineOf(`a = [\n${'1,\n'.repeat(100_000)}]\nb = 1`, ['b']), 0)
})
line.run()

// ---- which cache, which paths

const choice = suite('config: choice')
const two = read('cache.rpi.host = "a"\ncache.nas.url = "http://b"')
choice('by name', () => assert.is(namedCache(two, 'nas').kind, 'url'))
choice('the only one', () => assert.is(namedCache(read('cache.rpi.host = "a"'), undefined).name, 'rpi'))
choice('none named of two', () =>
  assert.is(
    refusal(() => namedCache(two, undefined)),
    'which cache? F has rpi, nas',
  ),
)
choice('a wrong name', () => {
  assert.is(
    refusal(() => namedCache(two, 'rpj')),
    'no cache is called "rpj"; F has rpi, nas; did you mean rpi?',
  )
  assert.is(
    refusal(() => namedCache(two, '')),
    'no cache is called ""; F has rpi, nas',
  )
})

const GLOBS: [string, string, boolean][] = [
  ['*-source', 'abc-source', true],
  ['*-source', 'abc-source-1', false],
  ['*-source', '-source', true],
  ['*', '', true],
  ['**', 'a', true],
  ['?', '', false],
  ['a?c', 'abc', true],
  ['a?c', 'ac', false],
  ['a*b*c', 'aXbYbZc', true],
  ['a*b*c', 'aXcYb', false],
  ['a.c', 'abc', false],
  ['a+', 'aa', false],
  ['a+', 'a+', true],
  ['a', 'ab', false],
  ['ab', 'a', false],
  ['*a', 'aXa', true],
  ['linux-*', 'linux-6.1', true],
]
for (const [glob, name, expected] of GLOBS) {
  choice(`${glob} on ${name || 'nothing'}: ${expected}`, () => assert.is(globMatches(glob, name), expected))
}

choice('excluded goes by the name after the hash', () => {
  const hash = '0123456789abcdfghijklmnpqrsvwxyz'
  const patterns = ['x', '*-source', '0*']
  assert.is(excluded(patterns, `/nix/store/${hash}-abc-source`), true)
  assert.is(excluded(patterns, `${hash}-abc-source`), true)
  assert.is(excluded(patterns, `/nix/store/${hash}-abc`), false)
  assert.is(excluded([], `/nix/store/${hash}-abc`), false)
})
choice.run()

// ---- users

const users = suite('config: users')
const PASSWD = 'root:x:0:0:root:/root:/bin/sh\n+::::::\nbroken\nalice:x:1000:1000:A,,,:/home/alice:/bin/sh\nno:x:y:1::/h:\n'
users('by name and by uid', () => {
  assert.equal(userIn(PASSWD, 'alice'), ALICE)
  assert.equal(userIn(PASSWD, 1000), ALICE)
})
users('nobody else', () => {
  for (const who of ['', '+', 'bob', 'broken', 'no', 'x', '1000', 1001, Number.NaN]) assert.is(userIn(PASSWD, who), undefined, String(who))
})
users('on this machine', () => {
  assert.is(findUser('root')?.uid, 0)
  assert.is(findUser(0)?.name, 'root')
  assert.is(findUser('no-such-user-here'), undefined)
})
users.run()

// ---- files

const files = suite('config: files')
const ETC = '/etc/nix-lan/config.toml'

files('where it is looked for', () => {
  assert.equal(candidates(true, '/x', '/root'), { files: [ETC], named: false })
  assert.equal(candidates(false, '/x', '/h'), { files: ['/x'], named: true })
  assert.equal(candidates(false, '', '/h'), { files: [ETC, '/h/.config/nix-lan/config.toml'], named: false })
  assert.equal(candidates(false, undefined, undefined), { files: [ETC], named: false })
})

files('without a configuration: where it was looked for, and the first step', () => {
  assert.is(
    noConfig([ETC], true),
    `no configuration (looked for ${ETC}). First step: services.nix-lan.enable = true; in configuration.nix (nix/README.md has the rest)`,
  )
  assert.is(
    noConfig([ETC], false),
    `no configuration (looked for ${ETC}). First step: sudo nix-lan setup USER@HOST; by hand: docs/by-hand.md`,
  )
})

// Not os.tmpdir(), which may lie in a home directory: the trust in these files depends on where
// they are.
let dir = ''
const prepare = (): void => {
  dir = mkdtempSync('/tmp/nix-lan-config-')
}
const remove = (): void => rmSync(dir, { recursive: true, force: true })
files.before.each(prepare)
files.after.each(remove)

files('one that is there, one that is not', () => {
  writeFileSync(`${dir}/a`, 'é')
  assert.is(readConfigFile(`${dir}/a`, false), 'é')
  assert.is(readConfigFile(`${dir}/b`, false), undefined)
  assert.is(readConfigFile(`${dir}/a/b`, false), undefined)
})

files('each thing that is no readable text has its own words', () => {
  mkdirSync(`${dir}/d`)
  symlinkSync(`${dir}/gone`, `${dir}/dangling`)
  symlinkSync(`${dir}/loop`, `${dir}/loop`)
  writeFileSync(`${dir}/latin`, Buffer.from('# ok\n# \xe9\n# \xe9\n', 'latin1'))
  writeFileSync(`${dir}/last`, Buffer.from('# ok\n\xe9', 'latin1'))
  writeFileSync(`${dir}/large`, '#'.repeat(MAX_BYTES + 1))
  writeFileSync(`${dir}/full`, '#'.repeat(MAX_BYTES))
  execFileSync('mkfifo', [`${dir}/fifo`])
  const says = (name: string, message: string) =>
    assert.is(
      refusal(() => readConfigFile(`${dir}/${name}`, false)),
      `${dir}/${message}`,
    )
  says('d', 'd: is a directory; the configuration must be a file')
  says('dangling', `dangling: is a symlink to ${dir}/gone, which does not exist; fix or remove the link`)
  says('loop', 'loop: is a symlink that leads back to itself; fix or remove the link')
  says('latin', 'latin:2: is not UTF-8; save it as UTF-8 text')
  says('last', 'last:2: is not UTF-8; save it as UTF-8 text')
  says('large', `large: is larger than 1 MiB; that can't be a configuration of nix-lan`)
  says('fifo', 'fifo: is not a regular file; the configuration must be one')
  assert.is(readConfigFile(`${dir}/full`, false)?.length, MAX_BYTES)
})

files('`config check` of a file for another machine: no user is looked up, and ~ stays', () => {
  const file = `${dir}/other.toml`
  writeFileSync(file, 'user = "no-such-user-here"\n[cache.rpi]\nhost = "rpi.local"\n')
  const found = checkConfigFile(file, false)
  assert.equal([found.file, found.user], [file, 'no-such-user-here'])
  assert.equal(found.caches, [{ ...RPI, envFile: '~/.bashrc' }])
  assert.match(
    refusal(() => checkConfigFile(file, true)),
    `${file}:1: user: there is no user "no-such-user-here"`,
  )
})

files('`config check` names the mistake, a missing file and what may not follow it', async () => {
  const file = `${dir}/wrong.toml`
  writeFileSync(file, '[cache.rpi]\nhost = "pi@rpi.local"\n')
  const message = async (...argv: string[]): Promise<string> => {
    try {
      return String(await config(argv))
    } catch (error) {
      assert.instance(error, UsageError)
      return (error as Error).message
    }
  }
  assert.match(await message('check', '--no-user-lookup', file), `${file}:2: cache.rpi.host: found the string "pi@rpi.local"`)
  assert.is(await message('check', `${dir}/gone`), `${dir}/gone: there is no such file`)
  assert.match(await message(), 'which action?')
  assert.match(await message('chekc'), 'did you mean check?')
  assert.match(await message('check', file, file), 'one file at a time')
  assert.match(await message('check', '--no-user-lookup'), 'needs a FILE')
})
files.run()

// ---- what a privileged process believes: needs files of root's and of somebody else

const trust = needs(suite('config: trust'), 'root')
trust.before.each(prepare)
trust.after.each(remove)

/** Why a privileged process doesn't read DIR/NAME; undefined if it does. */
function doubt(name: string): string | undefined {
  const start = `${dir}/${name}: not read as root, because `
  try {
    assert.is(readConfigFile(`${dir}/${name}`, true), 'ok')
    return undefined
  } catch (error) {
    const { message } = error as Error
    assert.ok(message.startsWith(start), message)
    return message.slice(start.length).replaceAll(dir, 'DIR')
  }
}

trust('a file of root’s in directories of root’s, also below the sticky /tmp', () => {
  mkdirSync(`${dir}/a`)
  writeFileSync(`${dir}/a/f`, 'ok', { mode: 0o644 })
  assert.is(doubt('a/f'), undefined)
})

trust('a file that somebody else can write or replace: why, and the command', () => {
  mkdirSync(`${dir}/a`)
  writeFileSync(`${dir}/a/f`, 'ok', { mode: 0o644 })
  chmodSync(`${dir}/a`, 0o777)
  assert.is(doubt('a/f'), 'everybody can write to DIR/a; try: sudo chmod go-w DIR/a')
  chmodSync(`${dir}/a`, 0o755)
  chownSync(`${dir}/a/f`, 1234, 0)
  assert.is(doubt('a/f'), 'DIR/a/f belongs to uid 1234; try: sudo chown root DIR/a/f')
})

trust('symlinks through a store that is 1775, as on NixOS', () => {
  mkdirSync(`${dir}/store/x-etc/nix-lan`, { recursive: true })
  chmodSync(`${dir}/store`, 0o1775)
  chownSync(`${dir}/store`, 0, 1234) // a group that nobody knows, and so may be anybody's
  writeFileSync(`${dir}/store/x-config`, 'ok', { mode: 0o444 })
  symlinkSync('../../x-config', `${dir}/store/x-etc/nix-lan/config.toml`)
  symlinkSync(`${dir}/store/x-etc`, `${dir}/static`)
  mkdirSync(`${dir}/etc`)
  symlinkSync('../static/./nix-lan', `${dir}/etc/nix-lan`)
  assert.is(doubt('etc/nix-lan/config.toml'), undefined)
  chmodSync(`${dir}/store`, 0o775)
  assert.is(doubt('etc/nix-lan/config.toml'), 'group 1234 can write to DIR/store; try: sudo chmod g-w DIR/store')
})

trust('a symlink that lies where others can write', () => {
  writeFileSync(`${dir}/f`, 'ok', { mode: 0o644 })
  mkdirSync(`${dir}/sticky`)
  chmodSync(`${dir}/sticky`, 0o1777)
  symlinkSync(`${dir}/f`, `${dir}/sticky/link`)
  assert.is(doubt('sticky/link'), undefined)
  execFileSync('chown', ['-h', '1234', `${dir}/sticky/link`])
  assert.is(doubt('sticky/link'), "DIR/sticky/link is a link of uid 1234's")
})

/** A user that no machine has. */
const UID = 1_987_654_321

/** Does `action` as that user, with NIX_LAN_CONFIG set to `file`. */
function asSomebody<T>(file: string, action: () => T): T {
  chmodSync(dir, 0o755)
  process.env.NIX_LAN_CONFIG = file
  process.seteuid?.(UID)
  try {
    return action()
  } finally {
    process.seteuid?.(0)
    delete process.env.NIX_LAN_CONFIG
  }
}

trust('an ordinary user reads what NIX_LAN_CONFIG names, whosever it is', () => {
  writeFileSync(`${dir}/f`, 'user = "daemon"\ncache.x.host = "a"')
  chmodSync(`${dir}/f`, 0o666)
  chownSync(`${dir}/f`, 4321, 0)
  const { file, user, uid } = asSomebody(`${dir}/f`, loadConfig)
  assert.equal({ file, user, uid }, { file: `${dir}/f`, user: 'daemon', uid: 1 })
})

trust('a user whom the machine does not know, a file that is missing or that the user may not read', () => {
  writeFileSync(`${dir}/f`, '\nuser = "no-such-user-here"\ncache.x.host = "a"')
  const nobody = 'there is no user "no-such-user-here" on this machine (getent passwd no-such-user-here finds none)'
  assert.is(
    asSomebody(`${dir}/f`, () => refusal(loadConfig)),
    `${dir}/f:2: user: ${nobody}`,
  )
  assert.is(
    asSomebody(`${dir}/g`, () => refusal(loadConfig)),
    `${dir}/g: there is no such file; NIX_LAN_CONFIG names it`,
  )
  chmodSync(`${dir}/f`, 0o600)
  const message = `${dir}/f: can't be read: this user may not; it holds no secret: sudo chmod a+r ${dir}/f, and a+x its directories`
  assert.is(
    asSomebody(`${dir}/f`, () => refusal(loadConfig)),
    message,
  )
})

trust('without user, the one who runs it, who must be known', () => {
  writeFileSync(`${dir}/f`, 'cache.x.host = "a"', { mode: 0o644 })
  const message = `${dir}/f: user: is missing, and your own uid ${UID} has no entry in the passwd database; add user = "alice" at the top`
  assert.is(
    asSomebody(`${dir}/f`, () => refusal(loadConfig)),
    message,
  )
})

trust('root does not look at NIX_LAN_CONFIG', () => {
  process.env.NIX_LAN_CONFIG = `${dir}/f`
  writeFileSync(`${dir}/f`, 'nonsense')
  try {
    assert.is(loadConfig().file, ETC)
  } catch (error) {
    assert.instance(error, ConfigError)
    assert.match((error as Error).message, ETC)
    assert.not.match((error as Error).message, dir)
  }
  delete process.env.NIX_LAN_CONFIG
})

trust.run()
