// Formats text for people: words, numbers, time spans, shell words, and other people's text on its
// way to a terminal. Pure, and imports nothing, since hot paths load it.

/** `1 path`, `2 paths`; in `file and link`, both become plural. */
export const count = (number: number, noun: string): string => `${number} ${number === 1 ? noun : noun.replace(/( and|$)/g, 's$1')}`

/** Breaks text at spaces into lines of at most `width` characters; a longer word stays whole. */
export function wrapped(text: string, width: number): string[] {
  const lines: string[] = []
  for (const word of text.split(' ')) {
    const last = lines.at(-1)
    if (last !== undefined && last.length + 1 + word.length <= width) lines[lines.length - 1] = `${last} ${word}`
    else lines.push(word)
  }
  return lines
}

/** A time span in its largest unit: 40s, 12m, 5h, 3d. */
export function age(milliseconds: number): string {
  const seconds = Math.max(0, Math.round(milliseconds / 1000))
  if (seconds < 100) return `${seconds}s`
  if (seconds < 100 * 60) return `${Math.round(seconds / 60)}m`
  if (seconds < 48 * 3600) return `${Math.round(seconds / 3600)}h`
  return `${Math.round(seconds / 86400)}d`
}

/** A limit given in milliseconds, in seconds: 0.5 s. */
export const inSeconds = (milliseconds: number): string => `${Math.round(milliseconds / 10) / 100} s`

/** A number of bytes: 120 B, 1.2 MiB. */
export function bytes(number: number): string {
  let rest = number
  for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
    if (rest < 1024) return unit === 'B' ? `${rest} B` : `${rest.toFixed(1)} ${unit}`
    rest /= 1024
  }
  return `${rest.toFixed(1)} TiB`
}

/** An sh word that means exactly this text. @throws Error for NUL, which no word can hold */
export function quote(text: string): string {
  if (text.includes('\0')) throw new Error(`NUL in ${JSON.stringify(text)}`)
  return `'${text.replaceAll("'", `'\\''`)}'`
}

/** Like quote(), but unquoted where a shell needs no quotes: for a command a person reads. */
export const shellWord = (text: string): string => (/^[A-Za-z0-9_./:=@%+,-]+$/.test(text) ? text : quote(text))

/**
 * Characters a terminal obeys instead of showing: control characters, U+0080–U+009F among them
 * (ECMA-48: C0, DEL and C1), and those that reorder the text around them or break the line (Unicode
 * UAX 9: marks, embeddings, overrides and isolates; U+2028 and U+2029).
 */
const OBEYED = /[\p{Cc}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu

/** Without a terminal's escape sequences: those of Nix's colours and progress bar. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: this is what they look like
export const withoutEscapes = (text: string): string => text.replace(/\u001b\[[0-9;?]*[A-Za-z]/g, '')

/**
 * Makes somebody else's text (from a box, a journal, a file name) safe for a terminal: keeps lines
 * and tabs, and replaces whatever else a terminal obeys with `?`.
 */
export const harmless = (text: string): string => text.replace(OBEYED, (char) => (char === '\n' || char === '\t' ? char : '?'))

/** The same on one line: line ends and tabs become a blank. */
export const oneLine = (text: string): string => harmless(text.replace(/[\r\n\t]+/g, ' '))

/**
 * JSON with nothing in it for a terminal to obey: such characters are escaped in its strings, so
 * nothing is lost.
 * @param indent as for JSON.stringify
 */
export function toJson(value: unknown, indent?: number): string {
  const escaped = (char: string): string => (char === '\n' ? char : `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`)
  return JSON.stringify(value, null, indent).replace(OBEYED, escaped)
}
