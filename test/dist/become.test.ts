// How a head becomes what its JavaScript decides (scripts/heads/plan.sh,
// scripts/system/handover.ts): every byte arrives, the text and exit code of what isn't a plan too,
// and nothing else changes. In every sh that is here.
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { quote } from '../../scripts/cli/text.ts'
import { becomeProgram, type Program } from '../../scripts/system/handover.ts'
import { which } from '../lib/needs.ts'

const SHELLS = [['dash'], ['bash', '--posix'], ['busybox', 'sh']].filter(([name = '']) => which(name))

const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-become-'))
const PROGRAM = join(TMP, 'program.cjs')
/** What it prints, and its exit code. Not from the environment, of which root's hears little. */
const SAYS = `${PROGRAM}.json`
// It also reads what it can, and says what it should not know.
writeFileSync(
  PROGRAM,
  `require('node:fs').readFileSync('/dev/stdin')
const { text, code } = JSON.parse(require('node:fs').readFileSync(${JSON.stringify(SAYS)}, 'utf8'))
process.stdout.write(process.env.EVIL ?? text)
process.exitCode = code
`,
)
// The heads include each other by ./NAME.sh; Bun would take .env from there.
const HEADS = join(TMP, 'heads')
mkdirSync(HEADS)
for (const file of readdirSync('scripts/heads')) symlinkSync(resolve('scripts/heads', file), join(HEADS, file))
writeFileSync(join(HEADS, '.env'), 'EVIL=evil\n')
let runtime = process.env.NIX_LAN_TEST_RUNTIME
if (!runtime) {
  runtime = TMP
  symlinkSync(process.execPath, join(TMP, 'node'))
}

/**
 * Runs the head nix-lan-tunnel.sh in a shell, as it would stand in a bundle whose JavaScript prints
 * `text` and exits with `code`. `before` is sh code that runs first: what is around when somebody
 * starts the bundle. stdout comes back as latin1: a character for each byte.
 */
function head(shell: string[], text: string, { code = 0, args = [] as string[], env = {}, before = ':', input = '' } = {}) {
  const [name = '', ...options] = shell
  writeFileSync(SAYS, JSON.stringify({ text, code }))
  const done = spawnSync(which(name) ?? name, [...options, '-c', `${before}\n. ./nix-lan-tunnel.sh`, PROGRAM, ...args], {
    cwd: HEADS,
    env: { PATH: runtime, HOME: TMP, ...env },
    input,
    timeout: 60_000,
  })
  return { code: done.status, stdout: done.stdout.toString('latin1'), stderr: done.stderr.toString('utf8') }
}

/**
 * A plan for a program that prints its arguments and then the variables A, B and C (or `unset`),
 * each ended by a semicolon.
 */
function shows(plan: Omit<Program, 'program'>): string {
  const script = 'for x in "$@" "${A-unset}" "${B-unset}" "${C-unset}"; do printf "%s;" "$x"; done'
  return becomeProgram({ ...plan, program: '/bin/sh', args: ['-c', script, 'sh', ...(plan.args ?? [])] })
}

const latin1 = (text: string) => Buffer.from(text).toString('latin1')

/** What a quoted word has to survive. */
const HARD = [
  '',
  ' ',
  '\n',
  'ends\n\n',
  '\n begins',
  "it's",
  "'",
  "''",
  '"',
  '\\',
  '\\\n',
  "\\'",
  '$HOME ${HOME} $(echo x) `echo x`',
  '* ? [a] ~ {a,b}',
  '# ; & | < > ( ) !',
  '-n',
  '%s \\n',
  '\t\r\x01\x7f',
  'grüße – 日本 🎉',
  '*/',
  "a'b\n'c\\'' $'\\n'",
  'x'.repeat(20_000),
]

for (const shell of SHELLS) {
  const test = suite(`become in ${shell.join(' ')}`)

  test('every value, argument and end of a variable arrives as it is', () => {
    const all = HARD.join('')
    const text = shows({ env: { A: all, B: null }, append: { C: all }, args: HARD })
    const stdout = latin1([...HARD, 'own', all, 'unset', `c${all}`, ''].join(';'))
    assert.equal(head(shell, text, { args: ['own'], env: { B: 'b', C: 'c' } }), { code: 0, stdout, stderr: '' })
  })

  test("the head's own arguments stay, those that are no UTF-8 too, but for those that are shifted away", () => {
    const before = `set -- one 'two  words' "$(printf '\\377\\001')" '' '*'`
    const own = ['one', 'two  words', '\xff\x01', '', '*']
    for (const shift of [0, 1, 2, 5]) {
      const stdout = ['first', ...own.slice(shift), 'unset', 'unset', 'unset', ''].join(';')
      assert.equal(head(shell, shows({ args: ['first'], shift }), { before }), { code: 0, stdout, stderr: '' })
    }
  })

  test('the environment stays, with what is no UTF-8 in it, and what our runtimes must not see', () => {
    const before = `A="$(printf '\\377')"; export A`
    const env = { B: 'b\n', NODE_OPTIONS: '--no-such-option', NODE_EXTRA_CA_CERTS: '/nonexistent', BUN_OPTIONS: '--no-such-option' }
    assert.equal(head(shell, shows({}), { before, env }), { code: 0, stdout: '\xff;b\n;unset;', stderr: '' })
    const added = shows({ append: { A: 'ü', C: 'c' } })
    assert.equal(head(shell, added, { before, env }), { code: 0, stdout: `\xff${latin1('ü')};b\n;c;`, stderr: '' })
    const printed = head(shell, becomeProgram({ program: '/usr/bin/env' }), { env: { ...env, nix: 'lan' } }).stdout
    const shells = /^(_|PWD|OLDPWD|SHLVL)=/ // what a shell adds by itself
    const lines = printed.split('\n').filter((line) => !shells.test(line))
    const { B, ...others } = env
    const given = { PATH: runtime, HOME: TMP, nix: 'lan', B: 'b', ...others }
    const expected = [...Object.entries(given).map(([name, value]) => `${name}=${value}`), '', '']
    assert.equal(lines.sort(), expected.sort(), B)
  })

  test('the program has stdin, descriptors, limits and exit code for itself', () => {
    const script = 'read -r line; echo "$line"; cat <&3; ulimit -Sn; exit 42'
    const before = 'ulimit -Sn 321; exec 3<./command.sh 4>&1; read -r first <&3'
    const { code, stdout, stderr } = head(shell, becomeProgram({ program: '/bin/sh', args: ['-c', script] }), {
      before,
      input: 'hello\n',
      env: { PATH: `${runtime}:/usr/bin:/bin` },
    })
    assert.equal({ code, stderr }, { code: 42, stderr: '' })
    assert.match(stdout, /^hello\n# The head of an ordinary command[\s\S]*\n321\n$/)
  })

  test('the program replaces the shell', () => {
    const before = 'echo $$'
    const { stdout } = head(shell, becomeProgram({ program: '/bin/sh', args: ['-c', 'echo $$'] }), { before })
    const [outer, inner] = stdout.split('\n')
    assert.is(inner, outer)
  })

  test('a program that is not there: exit 127', () => {
    const { code, stdout, stderr } = head(shell, becomeProgram({ program: '/nonexistent/nix' }))
    assert.equal({ code, stdout }, { code: 127, stdout: '' })
    assert.match(stderr, /\/nonexistent\/nix: /)
  })

  test('text is shown as it is, with the exit code', () => {
    const texts: [string, number][] = [
      ['', 0],
      ['', 2],
      ['usage\n', 0],
      ['\n  a\n\n  b $HOME `x` \\n %s\n', 75],
      ['0\n', 127],
      ['-n\n', 1],
    ]
    for (const [text, code] of texts) assert.equal(head(shell, text, { code }), { code, stdout: text, stderr: '' })
  })

  test('a plan counts only when the JavaScript did not fail', () => {
    const plan = becomeProgram({ program: '/bin/sh', args: ['-c', 'echo ran'] })
    assert.equal(head(shell, plan, { code: 3 }), { code: 3, stdout: plan, stderr: '' })
    assert.equal(head(shell, ` ${plan}`), { code: 0, stdout: ` ${plan}`, stderr: '' })
  })

  test.run()
}

const refuses = suite('becomeProgram refuses')
const BAD: [string, Program][] = [
  ['no program', { program: '' }],
  ['an option as program', { program: '-l' }],
  ['a negative shift', { program: 'ssh', shift: -1 }],
  ['half a shift', { program: 'ssh', shift: 0.5 }],
  ['NUL in an argument', { program: 'ssh', args: ['a\0'] }],
  ['NUL in a value', { program: 'ssh', env: { A: '\0' } }],
  ...['', 'A B', '1A', 'A=', 'A;id', 'Ä', 'A\nB'].flatMap((name): [string, Program][] => [
    [`the variable ${JSON.stringify(name)}`, { program: 'ssh', env: { [name]: 'x' } }],
    [`to remove ${JSON.stringify(name)}`, { program: 'ssh', env: { [name]: null } }],
    [`to add to ${JSON.stringify(name)}`, { program: 'ssh', append: { [name]: 'x' } }],
  ]),
]
for (const [what, plan] of BAD) refuses(what, () => assert.throws(() => becomeProgram(plan)))
refuses('NUL in a word', () => assert.throws(() => quote('\0')))
refuses.after(() => rmSync(TMP, { recursive: true, force: true }))
refuses.run()
