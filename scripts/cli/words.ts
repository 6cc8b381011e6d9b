// Numbers and lines as people read them. Pure.

/** `1 path`, `2 paths`; of `file and link`, both. */
export const count = (number: number, noun: string): string => `${number} ${number === 1 ? noun : noun.replace(/( and|$)/g, 's$1')}`

/** A text in lines of at most so many characters, broken at spaces; a longer word stays whole. */
export function wrapped(text: string, width: number): string[] {
  const lines: string[] = []
  for (const word of text.split(' ')) {
    const last = lines.at(-1)
    if (last !== undefined && last.length + 1 + word.length <= width) lines[lines.length - 1] = `${last} ${word}`
    else lines.push(word)
  }
  return lines
}
