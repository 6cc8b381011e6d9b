// Text for people: words, numbers, spans of time, words of a shell, and what somebody else wrote on
// its way to a terminal. Pure, and imports nothing, since hot paths load it.

/** `1 path`, `2 paths`; of `file and link`, both. */
export const count = (number: number, noun: string): string => `${number} ${number === 1 ? noun : noun.replace(/( and|$)/g, 's$1')}`

/** Breaks a text at spaces into lines of at most `width` characters; a longer word stays whole. */
export function wrapped(text: string, width: number): string[] {
  const lines: string[] = []
  for (const word of text.split(' ')) {
    const last = lines.at(-1)
    if (last !== undefined && last.length + 1 + word.length <= width) lines[lines.length - 1] = `${last} ${word}`
    else lines.push(word)
  }
  return lines
}

/** A span of milliseconds in its largest unit: 40s, 12m, 5h, 3d. */
export function age(milliseconds: number): string {
  const seconds = Math.max(0, Math.round(milliseconds / 1000))
  if (seconds < 100) return `${seconds}s`
  if (seconds < 100 * 60) return `${Math.round(seconds / 60)}m`
  if (seconds < 48 * 3600) return `${Math.round(seconds / 3600)}h`
  return `${Math.round(seconds / 86400)}d`
}

/** A limit in milliseconds, in seconds: 0.5 s. */
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

/** One word of sh that means exactly this text. @throws Error for NUL, which no word can hold */
export function quote(text: string): string {
  if (text.includes('\0')) throw new Error(`NUL in ${JSON.stringify(text)}`)
  return `'${text.replaceAll("'", `'\\''`)}'`
}

/** The same, without quotes where a shell needs none: for a command that a person reads. */
export const shellWord = (text: string): string => (/^[A-Za-z0-9_./:=@%+,-]+$/.test(text) ? text : quote(text))

/**
 * What a terminal obeys instead of showing it: control characters, U+0080–U+009F among them
 * (ECMA-48: C0, DEL and C1), and what reorders the text around it or breaks the line (Unicode UAX
 * 9: marks, embeddings, overrides and isolates; U+2028 and U+2029).
 */
const OBEYED = /[\p{Cc}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu

/**
 * Somebody else's text (a box's, a journal's, a file name) for a terminal: its lines and tabs stay,
 * `?` replaces what else a terminal obeys.
 */
export const harmless = (text: string): string => text.replace(OBEYED, (char) => (char === '\n' || char === '\t' ? char : '?'))

/** The same on one line: a blank replaces line ends and tabs. */
export const oneLine = (text: string): string => harmless(text.replace(/[\r\n\t]+/g, ' '))

/**
 * JSON that a terminal obeys nothing of: such characters stand escaped in its strings, so that
 * nothing is lost.
 * @param indent as JSON.stringify
 */
export function toJson(value: unknown, indent?: number): string {
  const escaped = (char: string): string => (char === '\n' ? char : `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`)
  return JSON.stringify(value, null, indent).replace(OBEYED, escaped)
}
