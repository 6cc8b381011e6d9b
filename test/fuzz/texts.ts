// Texts that others write, spoilt: configurations, nix.conf, .drv files, what Nix prints, what a
// box says. Each parser takes them or refuses them in its own words.
import { isIP } from 'node:net'
import { UsageError } from '../../scripts/cli/errors.ts'
import { harmless, oneLine, toJson } from '../../scripts/cli/text.ts'
import { parseConfig } from '../../scripts/config/parse.ts'
import { namedSubstituters, parseNixConf, substitutersOf } from '../../scripts/nix/nix-conf.ts'
import { parsePathInfos } from '../../scripts/nix/path-info.ts'
import { parseSettings } from '../../scripts/nix/settings.ts'
import { isStorePath, storePathsIn } from '../../scripts/nix/store-path.ts'
import { outputsOf } from '../../scripts/queue/outputs.ts'
import { addressesIn, addressFromAvahi } from '../../scripts/reach/connect-race.ts'
import { answerOf, boxNeeds, boxTroubles, fixScript, linesToPaste } from '../../scripts/setup/box.ts'
import { groupsIn, userIn } from '../../scripts/system/users.ts'
import type { Random } from '../lib/random.ts'
import type { Target } from './main.ts'
import { spoilt } from './mutate.ts'

const CONFIG = `user = "alice"

[cache.rpi]
host = "rpi.local"
ssh = "pi@rpi.local"
port = 2222
exclude = ["*-source", "linux-*"]
derivations = true
deadline = "2s"
env-file = "~/.ssh/agent"

[cache.nas]
url = "http://nas.local:5000"
`
const CONFIG_PIECES = [
  '"',
  "'",
  '"""',
  '[',
  ']',
  '[[',
  '=',
  '\n',
  '#',
  '{',
  '}',
  '\\',
  '\\u00',
  'cache',
  'cache.',
  '.',
  'true',
  '1e400',
  '-0',
  '0x',
  '1979-05-27',
  'nan',
  '\0',
  '__proto__',
  'constructor',
  '" "',
]
const NIX_CONF = `# the system's
substituters = https://cache.nixos.org/ ssh-ng://localhost?remote-program=/usr/local/bin/nix-lan-connect%20/run/user/1000/nix-lan/rpi.sock
extra-substituters = http://nas.local:5000
include /etc/nix/other.conf
!include missing.conf
trusted-public-keys = cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=
`
const NIX_PIECES = ['=', ' ', '\n', '#', 'include ', '!include ', 'substituters', 'extra-', '\t', '\r', '/', '..', '__proto__', '\0']
const STORE = '/nix/store'
const PATHS = ['a', 'b', 'c'].map((name) => `${STORE}/${name.repeat(32)}-${name}`) as [string, string, string]
export const DRV = `Derive([("dev","${PATHS[0]}","",""),("out","${PATHS[1]}","","")],[("${PATHS[2]}.drv",["out"])],["${STORE}/builder.sh"],"x86_64-linux","/bin/sh",["-e"],[("a","\\"\\n"),("out","${PATHS[1]}")])`
export const DRV_PIECES = [
  '"',
  '\\',
  '\\"',
  '(',
  ')',
  '[',
  ']',
  ',',
  '","',
  '("',
  '")',
  '],[',
  'Derive([',
  'DrvWithVersion("xp-dyn-drv",',
  STORE,
  `${STORE}/`,
  '-',
  '',
  '..',
  '.drv',
  '\n',
  '\0',
  PATHS[0],
]
const PATH_INFO = JSON.stringify({ [PATHS[0]]: { narSize: 120, signatures: ['k:s'], ultimate: true, ca: null }, [PATHS[1]]: null })
/** What a Debian 12 box answers setup (scripts/heads/box-probe.sh). */
const BOX = `nix-lan-box user pi
nix-lan-box root sudo
nix-lan-box nix nix-store (Nix) 2.8.0
nix-lan-box nix-error 
nix-lan-box socket forbidden
nix-lan-box group nix-users
nix-lan-box keys cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=
nix-lan-box conf /etc/nix/nix.conf
nix-lan-box conf-exists yes
nix-lan-box conf-writable yes
`
const BOX_PIECES = [
  ...['nix-lan-box ', 'user ', 'group ', 'conf ', 'nixos yes', 'conf-writable no', 'root is root', 'usable', 'missing'],
  '\n',
  '\0',
  ' ',
]
/** What would do something if it came into a command unquoted. */
const SHELL_PIECES = ['$(id)', '`id`', '; id', '| id', '& id', '> /x', '"', "'", '\\', '*', '-rf', '\x1b[2J', '${x}', '# ', 'é', '\u202e']
const OURS = 'laptop-1:kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk='
const ASKED = { name: 'pi', host: 'pi.local', ssh: 'me@pi.local', port: 22 }
const PASSWD =
  'root:x:0:0:root:/root:/bin/bash\nalice:x:1000:1000:Alice,,,:/home/alice:/bin/zsh\nnobody:x:65534:65534::/nonexistent:/bin/false\n'
const GROUP = 'root:x:0:\nnix-users:x:987:alice,bob\nalice:x:1000:\n'
const HOSTS = '192.168.1.7     STREAM rpi.local\n192.168.1.7     DGRAM\nfe80::1%eth0    STREAM\n2001:db8::7     STREAM\n'
const AVAHI = '+ eth0 IPv4 rpi.local 192.168.1.7\n'
const GETENT_PIECES = [
  ':',
  ',',
  '.',
  '%',
  '\n',
  ' ',
  '-1',
  '1e3',
  '0x10',
  '99999999999999999999',
  '/',
  '..',
  '::',
  'fe80::',
  '\0',
  '\x1b[2J',
]
const SETTINGS = 'substituters = https://cache.nixos.org/\ntrusted-public-keys = a:b c:d\nmax-jobs = 8\n'

const target = (name: string, share: number, once: (random: Random) => void): Target => ({
  name,
  share,
  once: (random) => {
    for (let i = 0; i < 20; i++) once(random)
    return 20
  },
})

function check(holds: boolean, what: string, text: string): void {
  if (!holds) throw new TypeError(`${what}: ${JSON.stringify(text)}`)
}

export function texts(): Target[] {
  return [
    target('configuration', 2, (random) => {
      const text = spoilt(CONFIG, random, CONFIG_PIECES)
      try {
        const config = parseConfig(text, 'config.toml', () => ({ name: 'alice', uid: 1000, gid: 1000, home: '/home/alice' }))
        for (const cache of config.caches) check(/^[A-Za-z0-9._-]{1,40}$/.test(cache.name), `a cache called ${cache.name}`, text)
      } catch (error) {
        if (!(error instanceof UsageError)) throw new TypeError(`${(error as Error).stack}\nof ${JSON.stringify(text)}`)
        check(error.message.startsWith('config.toml'), `${error.message} names no file`, text)
      }
    }),
    target('nix.conf', 1, (random) => {
      const text = spoilt(NIX_CONF, random, NIX_PIECES)
      let reads = 0
      const assignments = parseNixConf(text, '/etc/nix/nix.conf', () => (++reads > 3 ? undefined : text))
      check(
        assignments.every(({ key }) => key !== ''),
        'a setting without a name',
        text,
      )
      substitutersOf(assignments)
      namedSubstituters(assignments)
    }),
    target('drv', 1, (random) => {
      const text = spoilt(DRV, random, DRV_PIECES)
      for (const path of outputsOf(text, STORE) ?? []) check(isStorePath(path, STORE), `${path} as an output`, text)
    }),
    target('what-nix-prints', 1, (random) => {
      const info = spoilt(PATH_INFO, random, ['{', '}', '[', ']', '"', ':', ',', 'null', '1e999', 'true', '__proto__'])
      try {
        parsePathInfos(info)
      } catch (error) {
        check((error as Error).constructor === SyntaxError || (error as Error).name !== 'TypeError', (error as Error).stack ?? '', info)
      }
      parseSettings(spoilt(SETTINGS, random, NIX_PIECES))
      const text = spoilt(PATHS.join(' '), random, DRV_PIECES)
      for (const path of storePathsIn(text)) check(isStorePath(path, STORE), `${path} as a store path`, text)
    }),
    target('what-a-box-answers', 1, (random) => {
      const text = spoilt(BOX, random, random.integer(0, 1) ? BOX_PIECES : SHELL_PIECES)
      const answer = answerOf({ code: 0, stdout: text, stderr: '' } as Parameters<typeof answerOf>[0], ASKED, 'alice')
      if (answer.kind !== 'there') return
      const { facts } = answer
      const needs = boxNeeds(facts, [OURS])
      const lines = [...linesToPaste(needs, facts), ...boxTroubles(facts, '/run/socket', [OURS])]
      check(!lines.some((line) => /\p{Cc}/u.test(line)), 'a line with a control character', text)
      for (const key of facts.keys) check(/^[!-~]+:[A-Za-z0-9+/=]+$/.test(key), `the key ${JSON.stringify(key)}`, text)
      for (const word of [facts.user, facts.conf, facts.group])
        check(/^[A-Za-z0-9_.@+/-]*$/.test(word) && !word.startsWith('-'), `${JSON.stringify(word)} becomes a word of a command`, text)
      check(!/\0/.test(fixScript(needs, facts.conf, 'laptop')), 'a script with a NUL', text)
    }),
    target('getent', 1, (random) => {
      const passwd = spoilt(PASSWD, random, GETENT_PIECES)
      for (const who of ['alice', 1000, 0, Number.NaN]) {
        const user = userIn(passwd, who)
        if (user)
          check(user.uid >= 0 && user.uid < 2 ** 32 && user.home.startsWith('/') && user.name !== '', `${JSON.stringify(user)}`, passwd)
      }
      const group = spoilt(GROUP, random, GETENT_PIECES)
      for (const { name, gid } of groupsIn(group)) check(name !== '' && gid >= 0 && gid < 2 ** 32, `group ${name} ${gid}`, group)
      const hosts = spoilt(HOSTS, random, GETENT_PIECES)
      for (const address of addressesIn(hosts)) check(isIP(address) !== 0, `${JSON.stringify(address)} as an address`, hosts)
      const avahi = spoilt(AVAHI, random, GETENT_PIECES)
      const found = addressFromAvahi(avahi)
      if (found !== undefined) check(isIP(found) !== 0, `${JSON.stringify(found)} as an address`, avahi)
    }),
    target('for-a-terminal', 1, (random) => {
      const text = spoilt('the box says: no\nsuch file', random, [
        '\x1b[2J',
        '\r',
        '\x07',
        '\x9b',
        '\u202e',
        '\u2066',
        '\u2028',
        '\n',
        '\t',
        '\0',
        '\ud800',
      ])
      check(!/\p{Cc}|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/u.test(oneLine(text)), 'oneLine', text)
      check(!/[^\P{Cc}\n\t]|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/u.test(harmless(text)), 'harmless', text)
      check(JSON.parse(toJson({ text })).text === text, 'toJson loses something', text)
      check(!/[^\P{Cc}\n]/u.test(toJson({ text }, 2)), 'toJson', text)
    }),
  ]
}
