// Generates completions for bash, zsh and fish from each command's --help: its options, subcommands
// and actions, and, judging by the words in capitals, the kinds of values. The completions read
// cache names from the configuration with sed, because a person is waiting. Pure.
import { type Help, namesOf, type Option, optionsOf } from './help.ts'

/**
 * What a word can be: a cache, a file, a command with its own arguments and so on; `none`: can't be
 * guessed.
 */
type Kind = 'caches' | 'files' | 'command' | 'users' | 'hosts' | 'none'

/** A command, a subcommand or an action, as the completions see it. */
interface Node {
  /** As typed: `nix-lan queue add`. */
  name: string
  summary: string
  options: (Option & { kind: Kind })[]
  /** The subcommands or actions, if the first word is one of those. */
  children: Node[]
  words: Kind
}

const KINDS: Record<string, Kind> = {
  CACHE: 'caches',
  PATH: 'files',
  SOCKET: 'files',
  FILE: 'files',
  DIR: 'files',
  COMMAND: 'command',
  USER: 'users',
  HOST: 'hosts',
}

/** What the words in capitals in a usage stand for: the first one we know. */
function kindOf(usage: string): Kind {
  for (const [word] of usage.matchAll(/[A-Z]{2,}/g)) {
    const kind = KINDS[word]
    if (kind !== undefined) return kind
  }
  return 'none'
}

/** The commands people type; Nix and NetworkManager call the others, by path. */
const TYPED = /^nix-lan(-available|-connect|-run|-tunnel)?$/

function nodesOf(helps: readonly Help[]): Node[] {
  return helps.filter(({ name }) => TYPED.test(name)).map((help) => nodeOf(help, helps))
}

function nodeOf(help: Help, helps: readonly Help[]): Node {
  const options = optionsOf(help).map((option) => ({ ...option, kind: kindOf(option.value ?? '') }))
  const children = (['Commands', 'Actions'] as const).flatMap((title) =>
    namesOf(help, title).flatMap((child) => {
      const found = helps.find(({ name }) => name === `${help.name} ${child}`)
      return found ? [nodeOf(found, helps)] : []
    }),
  )
  const words = children.length > 0 ? 'none' : kindOf(help.usage.join(' ').replace(/\[OPTION…?\]|\[USER@\]/g, ''))
  return { name: help.name, summary: help.summary, options, children, words }
}

const below = (node: Node): Node[] => [node, ...node.children.flatMap(below)]
const lastWord = (name: string): string => name.slice(name.lastIndexOf(' ') + 1)
const identifier = (name: string): string => `_${name.replace(/[^a-z]/g, '_')}`

/** Shell code that prints the names of the caches in the first readable configuration. */
const CACHES = `for file in "\${NIX_LAN_CONFIG-}" /etc/nix-lan/config.toml ~/.config/nix-lan/config.toml; do
    [ -r "$file" ] || continue
    sed -n 's/^[[:blank:]]*\\[[[:blank:]]*cache[[:blank:]]*\\.[[:blank:]]*"\\{0,1\\}\\([a-z0-9-]*\\).*/\\1/p' "$file"
    break
  done`

const MADE = '# Made by "npm run build" from the --help of the commands: change that instead.'

/** Path in dist/ → text. */
export function completions(helps: readonly Help[]): Record<string, string> {
  const nodes = nodesOf(helps)
  return Object.fromEntries([
    ...nodes.map((node) => [`completions/bash/${node.name}`, bash(node)]),
    ['completions/zsh/_nix-lan', zsh(nodes)],
    ...nodes.map((node) => [`completions/fish/${node.name}.fish`, fish(node)]),
  ])
}

// ---- bash

/**
 * Each file is self-contained, because bash-completion loads the one with the command's name
 * (bash-completion's README, "FAQ").
 */
function bash(root: Node): string {
  const all = below(root)
  const name = identifier(root.name)
  const options = (node: Node): string =>
    node.options.flatMap(({ short, long }) => [`--${long}`, ...(short ? [`-${short}`] : [])]).join(' ')
  const words = (node: Node): string =>
    node.children.length > 0 ? `words='${node.children.map((child) => lastWord(child.name)).join(' ')}'` : `kind=${node.words}`
  const values = all.flatMap((node) =>
    node.options
      .filter(({ value }) => value !== undefined)
      .map(({ short, long, kind }) => `    '${node.name} --${long}'${short ? ` | '${node.name} -${short}'` : ''}) kind=${kind} ;;`),
  )
  const used = [...new Set(all.flatMap((node) => [node.words, ...node.options.map(({ kind }) => kind)]))]
  const kinds = used.map((kind) => bashKind(kind, name)).join('')
  const caches = used.includes('caches') ? `${name}_caches() {\n  local file\n  ${CACHES}\n}\n\n` : ''
  if (root.words === 'command') return bashCommand(root, options(root))
  return `${MADE}
# shellcheck shell=bash

${caches}${name}() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD - 1]} command=${root.name} kind='' words='' options=''
  COMPREPLY=()
${all.length > 1 ? bashPath(all) : ''}  case $command in
${all.map((node) => `    '${node.name}') options='${options(node)}' ${words(node)} ;;`).join('\n')}
  esac
  case "$command $prev" in
${values.map((line) => `${line}\n`).join('')}    *) if [[ $cur == -* ]]; then kind=words words=$options; fi ;;
  esac
${kinds === '' ? '' : `  case $kind in\n${kinds}  esac\n`}  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F ${name} ${root.name}
`
}

/** Finds the subcommand and the action among the words before the cursor. */
const bashPath = (all: readonly Node[]): string => `  local at
  for ((at = 1; at < COMP_CWORD; at++)); do
    case "$command \${COMP_WORDS[at]}" in
${all
  .slice(1)
  .map((node) => `      '${node.name}') command='${node.name}' ;;\n`)
  .join('')}    esac
  done
`

/** The completion for a kind of word. */
function bashKind(kind: Kind, name: string): string {
  if (kind === 'caches') return `    caches) words=$(${name}_caches) ;;\n`
  const compgen = { files: '-f', users: '-u', hosts: '-A hostname', command: undefined, none: undefined }[kind]
  if (compgen === undefined) return ''
  const names = kind === 'files' ? '      compopt -o filenames 2>/dev/null\n' : ''
  return `    ${kind})\n${names}      mapfile -t COMPREPLY < <(compgen ${compgen} -- "$cur")\n      return\n      ;;\n`
}

/**
 * For a command that takes another command: uses that one's own completion if bash-completion is
 * there to find it.
 */
const bashCommand = (root: Node, options: string): string => `${MADE}
# shellcheck shell=bash

${identifier(root.name)}() {
  local cur=\${COMP_WORDS[COMP_CWORD]} at
  COMPREPLY=()
  for ((at = 1; at <= COMP_CWORD; at++)); do
    if [[ \${COMP_WORDS[at]} == -* ]]; then continue; fi
    if declare -F _comp_command_offset >/dev/null; then
      _comp_command_offset "$at"
    elif declare -F _command_offset >/dev/null; then
      _command_offset "$at"
    elif ((at == COMP_CWORD)); then
      mapfile -t COMPREPLY < <(compgen -c -- "$cur")
    else
      compopt -o filenames 2>/dev/null
      mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    fi
    return
  done
  mapfile -t COMPREPLY < <(compgen -W '${options}' -- "$cur")
}

complete -F ${identifier(root.name)} ${root.name}
`

// ---- zsh

function zsh(nodes: readonly Node[]): string {
  const cases = nodes.map((node) => `  ${node.name}) ${identifier(node.name)} ;;`)
  return `#compdef ${nodes.map(({ name }) => name).join(' ')}
${MADE}

_nix_lan_caches() {
  local file
  local -a caches
  caches=(\${(f)"$(
  ${CACHES}
  )"})
  compadd -a "$@" caches
}

${nodes.flatMap(below).map(zshFunction).join('\n')}
case $service in
${cases.join('\n')}
esac
`
}

/** A function for a command or an action. */
function zshFunction(node: Node): string {
  const specs = (indent: string, more: readonly string[]): string => more.map((spec) => `\n${indent}${spec}`).join('')
  const options = `  local -a specs\n  specs=(${specs('    ', node.options.map(zshOption))}\n  )\n`
  const start = `${identifier(node.name)}() {\n${options}`
  if (node.children.length === 0) return `${start}  _arguments -s $specs${zshWords(node.words)}\n}\n`
  const children = node.children.map((child) => quoted(`${lastWord(child.name)}:${child.summary}`))
  const branches = node.children.map((child) => {
    return `        ${lastWord(child.name)}) ${identifier(child.name)} ;;`
  })
  return `${start}  local curcontext=$curcontext state line
  local -A opt_args
  local -a first
  _arguments -s -C $specs '1: :->first' '*:: :->rest'
  case $state in
    first)
      first=(${specs('        ', children)}
      )
      _describe -t commands command first
      ;;
    rest)
      case $words[1] in
${branches.join('\n')}
      esac
      ;;
  esac
}
`
}

const ZSH_ACTIONS: Record<Kind, string> = {
  caches: '_nix_lan_caches',
  files: '_files',
  command: '_normal',
  users: '_users',
  hosts: '_hosts',
  none: ' ',
}

function zshWords(kind: Kind): string {
  if (kind === 'command') return " '(-)1:command: _command_names -e' '*::argument: _normal'"
  return kind === 'none' ? '' : ` ${quoted(`*:${kind.slice(0, -1)}:${ZSH_ACTIONS[kind]}`)}`
}

function zshOption({ short, long, value, kind, text }: Option & { kind: Kind }): string {
  const about = `[${text.replace(/[[\]\\:]/g, '\\$&')}]`
  const more = value === undefined ? '' : `:${value.toLowerCase()}:${ZSH_ACTIONS[kind]}`
  if (short === undefined) return quoted(`--${long}${about}${more}`)
  return `'(-${short} --${long})'{-${short},--${long}}${quoted(`${about}${more}`)}`
}

/** Single-quotes a text for zsh; fish has its own escapes, see fishQuoted(). */
const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`

// ---- fish

const FISH_ACTIONS: Record<Kind, string> = {
  caches: "-x -a '(__nix_lan_caches)'",
  files: '-r -F',
  command: '-x',
  users: "-x -a '(__fish_complete_users)'",
  hosts: "-x -a '(__fish_print_hostnames)'",
  none: '-x',
}

function fish(root: Node): string {
  const lines = below(root).flatMap((node) => fishNode(root, node))
  return `${MADE}

function __nix_lan_caches
    sh -c ${fishQuoted(
      CACHES.replace(/\n */g, '; ')
        .replace('do; ', 'do ')
        .replace(/; done$/, '; done'),
    )}
end

${root.words === 'command' ? '' : `complete -c ${root.name} -f\n`}${lines.join('\n')}
`
}

const fishQuoted = (text: string): string => `'${text.replace(/['\\]/g, '\\$&')}'`

function fishNode(root: Node, node: Node): string[] {
  const start = `complete -c ${root.name}`
  const path = node.name.split(' ').slice(1)
  const children = node.children.map((child) => lastWord(child.name))
  const seen = path.map((word) => `__fish_seen_subcommand_from ${word}`)
  const here = [...seen, ...(children.length > 0 ? [`not __fish_seen_subcommand_from ${children.join(' ')}`] : [])]
  const when = (conditions: readonly string[]): string => (conditions.length > 0 ? ` -n ${fishQuoted(conditions.join('; and '))}` : '')
  return [
    ...node.children.map((child) => `${start}${when(here)} -a ${lastWord(child.name)} -d ${fishQuoted(child.summary)}`),
    ...node.options.map(({ short, long, value, kind, text }) => {
      const names = `${short ? ` -s ${short}` : ''} -l ${long}`
      return `${start}${when(here)}${names}${value === undefined ? '' : ` ${FISH_ACTIONS[kind]}`} -d ${fishQuoted(text)}`
    }),
    ...fishWords(start, when(here), node.words),
  ]
}

function fishWords(start: string, when: string, kind: Kind): string[] {
  if (kind === 'command') return [`${start} -x -a '(__fish_complete_subcommand)'`]
  if (kind === 'caches') return [`${start}${when} -a '(__nix_lan_caches)'`]
  if (kind === 'hosts') return [`${start}${when} -a '(__fish_print_hostnames)'`]
  return kind === 'files' ? [`${start}${when} -F`] : []
}
