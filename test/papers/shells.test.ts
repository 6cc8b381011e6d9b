// What is made from the helps: man pages that groff and mandoc take, completions in real shells.
import { readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { DIST, pages, SUBCOMMANDS, start, TMP } from '../lib/commands.ts'
import { needs } from '../lib/needs.ts'

const groff = needs(suite('man pages for groff'), 'groff')
groff('no warning, and nothing of its language is left in what is read', () => {
  for (const page of pages) {
    const { code, stdout, stderr } = start('groff', ['-man', '-ww', '-Tutf8', '-P-c', page])
    assert.equal([code, stderr], [0, ''], page)
    assert.not(/\\[a-z(&%[]/i.test(stdout.replace(/ \\$/gm, '').replaceAll('\\n', '')), page)
  }
})

const mandoc = needs(suite('man pages for mandoc'), 'mandoc')
mandoc('no warning but that they have no date', () => {
  for (const page of pages) {
    const { stdout, stderr } = start('mandoc', ['-Tlint', '-Wwarning', page])
    assert.match(`${stdout}${stderr}`, /^mandoc: [^\n]* missing date, using ""[^\n]*\n$/)
  }
})

// ---- completions

const completion = (shell: string, name: string): string => join(DIST, 'completions', shell, name)
const CACHES = ['rpi', 'nas', 'rpi-2'].sort()

/**
 * Line on which somebody wants to know what comes next → what there is, sorted; with `…`: this
 * among other things.
 */
const LINES: [string, string[]][] = [
  ['nix-lan ', SUBCOMMANDS.map(([, word = '']) => word).sort()],
  ['nix-lan sta', ['status']],
  ['nix-lan status ', CACHES],
  ['nix-lan status --w', ['--watch']],
  ['nix-lan queue ', ['add', 'drop', 'list', 'retry', 'sign', 'upload']],
  ['nix-lan queue --cache ', CACHES],
  ['nix-lan queue --cache rpi up', ['upload']],
  ['nix-lan queue add sto', ['store-paths']],
  ['nix-lan queue --fu', ['--full']],
  ['nix-lan queue add --c', ['--cache', '--closure']],
  ['nix-lan queue retry --', ['--cache', '--help', '--json', '--version']],
  ['nix-lan queue --cache rpi retry --', ['--cache', '--help', '--json', '--version']],
  ['nix-lan queue retry --cache ', CACHES],
  ['nix-lan queue sign --key-file sto', ['store-paths']],
  ['nix-lan config check sto', ['store-paths']],
  ['nix-lan-available --q', ['--quiet']],
  ['nix-lan-available n', ['nas']],
  ['nix-lan-tunnel --print rpi-', ['rpi-2']],
  ['nix-lan-connect --st', ['--stdio', '--strict']],
  ['nix-lan-run --exp', ['--explain']],
]

const bash = needs(suite('completions in bash'), 'bash')

/** What bash completes at the end of a line; `more` is bash code before. */
function inBash(line: string, more = ''): string[] {
  const words = line.split(' ')
  const script = `${more}
. "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
function=$(complete -p "$1"); function=\${function#*-F }; \${function%% *}
printf '%s\\n' "\${COMPREPLY[@]}"`
  const { code, stdout, stderr } = start('bash', ['--norc', '-c', script, 'bash', completion('bash', words[0] ?? ''), ...words])
  assert.equal([code, stderr], [0, ''], line)
  return [...new Set(stdout.split('\n').filter((word) => word !== ''))].sort()
}

for (const [line, words] of LINES) bash(line, () => assert.equal(inBash(line), words))

bash('nix-lan-run leaves a command to its own completion', () => {
  for (const name of ['_command_offset', '_comp_command_offset']) {
    const more = `${name}() { COMPREPLY=("from $1 on"); }`
    assert.equal(inBash('nix-lan-run nix bui', more), ['from 1 on'])
    assert.equal(inBash('nix-lan-run --explain nix bui', more), ['from 2 on'])
    assert.equal(inBash('nix-lan-run --expl', more), ['--explain'])
  }
})

bash('nix-lan-run without bash-completion: commands, then files', () => {
  assert.ok(inBash('nix-lan-run nix-lan-ava').includes('nix-lan-available'))
  assert.equal(inBash('nix-lan-run nix sto'), ['store-paths'])
})

const shellcheck = needs(suite('completions for shellcheck'), 'shellcheck')
shellcheck('nothing to say about those for bash', () => {
  for (const name of readdirSync(join(DIST, 'completions/bash'))) {
    assert.equal(start('shellcheck', ['--shell=bash', completion('bash', name)]), { code: 0, stdout: '', stderr: '' })
  }
})

const fish = needs(suite('completions in fish'), 'fish')
const inFish = (line: string): string[] => {
  const { code, stdout } = start('fish', [
    '-c',
    `source ${completion('fish', `${line.split(' ')[0]}.fish`)}; complete -C ${JSON.stringify(line)}`,
  ])
  assert.is(code, 0, line)
  const words = stdout.split('\n').map((text) => (text.split('\t')[0] ?? '').replace(/\/$/, ''))
  return words.filter((word) => word !== '').sort()
}
for (const [line, words] of LINES) fish(line, () => assert.equal(inFish(line), words))
fish('nix-lan-run leaves a command to its own completion', () => {
  assert.ok(inFish('nix-lan-run git chec').includes('checkout') || inFish('git chec').length === 0)
  assert.ok(inFish('nix-lan-run nix-lan-ava').includes('nix-lan-available'))
})

const zsh = needs(suite('completions in zsh'), 'zsh')

/**
 * zsh on a terminal of its own (zshmodules(1), zpty), in which ^X makes the list, and empties the
 * line. What is offered is written down by a compadd that stands before the builtin one
 * (zshcompwid(1)): what the terminal shows would have to be guessed at.
 */
const ZSH = `zmodload zsh/zpty
export OFFERED=$2
zpty z "zsh -f -i"
zpty -w z "PROMPT= RPROMPT=; fpath=($1 \\$fpath); autoload -Uz compinit; compinit -u -D; LISTMAX=10000"
zpty -w z 'compadd() { local -a found; [[ " $* " == *" -"[OAD]" "* ]] || { builtin compadd -O found "$@"; print -rl -- $found >>$OFFERED }; builtin compadd "$@" }'
zpty -w z 'list() { zle list-choices; BUFFER=; print -r -- END $((++lists)) >>$OFFERED }; zle -N list; bindkey "^X" list; print READY"-"NOW'
zpty -r -m z answer '*READY-NOW*'
shift 2
for line in "$@"; do
  print -r -- "LINE $line" >>$OFFERED
  zpty -w -n z "$line"$'\\x18'
  ((++lists))
  until grep -qx "END $lists" $OFFERED; do
    while zpty -r -t z answer; do :; done
    sleep 0.02
  done
done
zpty -d z`

/** What zsh offers on each line. */
function inZsh(lines: string[]): Map<string, string[]> {
  const offered = join(TMP, 'offered')
  rmSync(offered, { force: true })
  const { stderr } = start('zsh', ['-f', '-c', ZSH, 'zsh', join(DIST, 'completions/zsh'), offered, ...lines])
  const answers = readFileSync(offered, 'utf8')
    .split(/^LINE .*\n/m)
    .slice(1)
  assert.is(answers.length, lines.length, stderr)
  return new Map(
    answers.map((answer, at) => [
      lines[at] ?? '',
      [...new Set(answer.split('\n').filter((word) => word !== '' && !word.startsWith('END ')))].sort(),
    ]),
  )
}

zsh('what comes next, on each line', () => {
  const found = inZsh(LINES.map(([line]) => line))
  for (const [line, words] of LINES) assert.equal(found.get(line), words, line)
})

zsh('nix-lan-run leaves a command to its own completion', () => {
  const found = inZsh(['nix-lan-run nix-lan-ava', 'nix-lan-run nix-lan-available --us', 'nix-lan-run --explain nix-lan queue ret'])
  assert.equal([...found.values()], [['nix-lan-available'], ['--usable'], ['retry']])
})

for (const suite of [groff, mandoc, bash, shellcheck, fish, zsh]) suite.run()
