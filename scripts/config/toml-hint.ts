// Guesses what a line that isn't TOML was meant to be; the parser only says where it failed. Pure.

/**
 * @param line the line with the mistake
 * @returns how to fix it; undefined if it isn't a known mistake
 */
export function tomlHint(line: string): string | undefined {
  const code = line.replace(/\s#.*$/, '')
  if (/^\s*(;|\/\/)/.test(code)) return 'a comment begins with #'
  const [quote] = /[“”„‟‘’‚«»]/.exec(code) ?? []
  if (quote !== undefined) return `found the typographic quote ${quote}; TOML takes " or ' only`
  const [, truth] = /=\s*(true|false|yes|no|on|off)\s*(#.*)?$/i.exec(code) ?? []
  if (truth !== undefined) return `found ${truth}; TOML writes true or false, in lower case`
  const [, parts] = /^\s*\[+\s*([A-Za-z0-9_-]+(?:[:/\s]+["']?[A-Za-z0-9_-]+["']?)+)\s*\]/.exec(code) ?? []
  if (parts !== undefined)
    return `the parts of a table's name are joined by a dot: [${parts.replace(/["']/g, '').replace(/[:/\s]+/g, '.')}]`
  if (/^\s*\[[^\]"']*$/.test(code)) return 'the line has no closing ]'
  const [, other] = /^\s*(\{|- |---|[A-Za-z0-9_-]+\s*:)/.exec(code) ?? []
  if (other !== undefined)
    return `this looks like ${other === '{' ? 'JSON' : 'YAML'}; TOML has KEY = VALUE, and each cache below a line [cache.NAME]`
  const [, key] = /^\s*([A-Za-z0-9_-]+)\s+["'\w]/.exec(code) ?? []
  if (key !== undefined) return `there is no = after ${key}`
  const [, mark] = /[=,[{]\s*(["'])/.exec(code.replace(/"(?:[^"\\]|\\.)*"|'[^']*'/g, '')) ?? []
  return mark !== undefined && !/"""|'''/.test(code) ? `the text has no closing ${mark}` : undefined
}
