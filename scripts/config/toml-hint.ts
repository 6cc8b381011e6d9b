// Guesses what a line that isn't TOML was meant to be; the parser only says where it failed. Pure.

/**
 * @param line the line with the mistake
 * @returns how to fix it; undefined if it isn't a known mistake
 */
export function tomlHint(line: string): string | undefined {
  const code = line.replace(/\s#.*$/, '')
  const [quote] = /[“”„‟‘’‚«»]/.exec(code) ?? []
  if (quote !== undefined) return `found the typographic quote ${quote}; TOML takes " or ' only`
  const [, truth] = /=\s*(true|false|yes|no|on|off)\s*$/i.exec(code) ?? []
  if (truth !== undefined) return `found ${truth}; TOML writes true or false, in lower case`
  const [, colon] = /^\s*\[+\s*([A-Za-z0-9_-]+:[A-Za-z0-9_:-]+)\s*\]/.exec(code) ?? []
  if (colon !== undefined) return `the parts of a table's name are joined by a dot: [${colon.replaceAll(':', '.')}]`
  if (/^\s*\[[^\]"']*$/.test(code)) return 'the line has no closing ]'
  if (/^\s*(- |[A-Za-z0-9_-]+\s*:(\s|$))/.test(code))
    return 'this looks like YAML; TOML has KEY = VALUE, and each cache below a line [cache.NAME]'
  const [, mark = '', rest = ''] = /=\s*(["'])(.*)$/.exec(code) ?? []
  return mark !== '' && !rest.includes(mark) ? `the text has no closing ${mark}` : undefined
}
