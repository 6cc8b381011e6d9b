// Finds the line of a key in a TOML text, for error messages. smol-toml gives lines for syntax
// errors only, so this cuts the text into statements (`[header]` or `key = value`, over one or more
// lines) and parses each.
import { parse, type TomlTable } from 'smol-toml'

/** A key, from the top: table names and keys, numbers for list elements. */
export type Path = readonly (string | number)[]

// What can end a statement that spans lines; ending it early locates something inside it.
const CLOSERS = ['\n]', '\n}', '\n]}', '\n}}', '\n]}}', '\n}}}', '\n"""', "\n'''"]

// Characters to parse before giving up: a list of 50,000 lines would take minutes.
const BUDGET = 4_000_000

/**
 * The line (from 1) where `path` first appears in `text`, a valid TOML document; 0 if it is absent
 * or too costly to find.
 */
export function lineOf(text: string, path: Path): number {
  const lines = text.replace(/^\ufeff/, '').split('\n')
  let header: Path = []
  let statement = ''
  let first = 1
  let spent = 0
  for (const [index, line] of lines.entries()) {
    statement += `${line}\n`
    spent += statement.length
    if (spent > BUDGET) return 0
    const whole = attempt(statement)
    if (whole) {
      const start = /^[ \t]*\[/.test(statement) ? headerOf(whole) : undefined
      if (has(whole, start ? [] : header, path)) return first
      if (start) header = start
      statement = ''
      first = index + 2
      continue
    }
    for (const closer of CLOSERS) {
      spent += statement.length
      const closed = attempt(statement + closer)
      if (closed && has(closed, header, path)) return index + 1
    }
  }
  return 0
}

function attempt(text: string): TomlTable | undefined {
  try {
    return parse(text, { integersAsBigInt: true })
  } catch {
    return undefined
  }
}

/** The names in `[a.b]` or `[[a.b]]`; parsed alone, it is one table within another. */
function headerOf(table: TomlTable): string[] {
  const names: string[] = []
  let value: unknown = table
  while (typeof value === 'object' && value !== null) {
    if (Array.isArray(value)) {
      value = value[0]
      continue
    }
    const name = Object.keys(value)[0]
    if (name === undefined) break
    names.push(name)
    value = (value as Record<string, unknown>)[name]
  }
  return names
}

/** Whether `table`, read below `header`, contains `path`. */
function has(table: TomlTable, header: Path, path: Path): boolean {
  if (path.length <= header.length || header.some((name, i) => name !== path[i])) return false
  let value: unknown = table
  for (const name of path.slice(header.length)) {
    if (typeof name === 'string' && Array.isArray(value)) value = value[0]
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, name)) return false
    value = (value as Record<string | number, unknown>)[name]
  }
  return true
}
