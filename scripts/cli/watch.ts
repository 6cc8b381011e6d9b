// Redraws a picture on the terminal, on a screen of its own, until q, ^C or a signal. Leaves the
// terminal as it was.

const ENTER = '\u001b[?1049h\u001b[?25l' // the alternate screen, no cursor (xterm's control sequences)
const LEAVE = '\u001b[?25h\u001b[?1049l'
const HOME = '\u001b[H'
const REST_OF_LINE = '\u001b[K'
const REST_OF_SCREEN = '\u001b[J'

/** Keys that end it: ^C and ^D too, which are plain keys while the terminal is raw. */
const ENDING = ['q', 'Q', '\u0003', '\u0004']

/** The exit codes a shell reports for these signals. */
const SIGNALS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const

/**
 * Redraws until told to end.
 * @param draw makes the picture; if it throws, the terminal is restored and the error passed on
 * @param pause milliseconds between pictures; a resized terminal is redrawn at once
 * @returns the exit code: 0 for q or ^C, else that of the signal
 */
export async function watch(draw: () => Promise<string>, pause: number): Promise<number> {
  const { stdin, stdout } = process
  const ended = new Promise<number>((resolve) => {
    for (const [signal, code] of Object.entries(SIGNALS)) process.on(signal, () => resolve(signal === 'SIGINT' ? 0 : code))
    stdin.on('data', (keys: Buffer) => {
      if (ENDING.some((key) => keys.includes(key))) resolve(0)
    })
    stdin.on('end', () => resolve(0)) // the terminal hung up
    stdout.on('error', () => resolve(1))
  })
  if (stdin.isTTY) stdin.setRawMode(true)
  stdout.write(ENTER)
  try {
    for (;;) {
      const picture = draw()
      const first = await Promise.race([picture, ended])
      if (typeof first === 'number') return first
      stdout.write(fitted(first, stdout.rows || 24))
      const code = await Promise.race([resized(pause), ended])
      if (typeof code === 'number') return code
    }
  } finally {
    stdout.write(LEAVE)
    if (stdin.isTTY) stdin.setRawMode(false)
    stdin.pause()
  }
}

/** The picture cut to this many rows; the last row says that there is more. */
export function fitted(picture: string, rows: number): string {
  const lines = picture.split('\n').slice(0, -1)
  const shown = lines.length <= rows ? lines : [...lines.slice(0, rows - 1), `… ${lines.length - rows + 1} more lines`]
  return `${HOME}${shown.map((line) => `${line}${REST_OF_LINE}`).join('\r\n')}${REST_OF_SCREEN}`
}

/** Waits for a time, or until the terminal is resized. */
function resized(pause: number): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer)
      process.stdout.off('resize', done)
      resolve()
    }
    const timer = setTimeout(done, pause)
    process.stdout.on('resize', done)
  })
}
