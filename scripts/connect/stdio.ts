// Nix, at the other end of stdin and stdout, each a pipe. While we converse, question and answer,
// they are read and written in place: Node's streams would cost each start of connect 4 ms, and a
// third more per question. A pipe (an upload) gets the streams.
import { readSync, writeSync } from 'node:fs'
import { ByteReader, EndOfStream } from '../protocol/byte-reader.ts'
import { type Client, ClientGone } from './client.ts'

/**
 * The conversation with Nix. Switches to streams on its own where stdin or stdout can't be waited
 * for in place (O_NONBLOCK).
 */
export function stdio(): Client {
  const buffer = Buffer.allocUnsafe(65536)
  let streams = false
  const reader = new ByteReader({ resume: () => (streams ? pull() : fill()) })

  function fill(): void {
    try {
      const length = readSync(0, buffer)
      if (length === 0) over()
      else reader.lend(buffer.subarray(0, length))
    } catch (error) {
      if (busy(error)) bothWays()
      else over() // some runtimes throw at the end of a file, or of a connection
    }
  }

  function over(): void {
    reader.finish(new EndOfStream('Nix closed the connection'))
  }

  function bothWays(): void {
    if (streams) return
    streams = true
    const { stdin, stdout } = process
    stdin.on('readable', () => {
      if (!reader.full) pull()
    })
    stdin.on('end', ended)
    for (const event of ['close', 'error']) stdin.on(event, over)
    stdout.on('error', over)
  }

  // Not by `data`, pause() and resume(): Bun 1.4 then loses the end of one upload in some hundred
  // (oven-sh/bun#43100).
  function pull(): void {
    for (let chunk = process.stdin.read(); chunk !== null; chunk = process.stdin.read()) if (!reader.push(chunk)) return
  }

  // Bun before 1.4 says so while there is still something to read (oven-sh/bun#33123).
  function ended(): void {
    const rest = process.stdin.read()
    if (rest !== null) reader.push(rest)
    over()
  }

  function write(bytes: Buffer): Promise<void> | undefined {
    let at = 0
    try {
      while (!streams && at < bytes.length) at += writeSync(1, bytes, at)
    } catch (error) {
      if (!busy(error)) throw new ClientGone((error as Error).message)
      bothWays()
    }
    return at < bytes.length ? writeStream(Buffer.from(bytes.subarray(at))) : undefined
  }

  function writeStream(bytes: Buffer): Promise<void> {
    return new Promise((resolve, reject) => {
      process.stdout.write(bytes, (error) => (error ? reject(new ClientGone(error.message)) : resolve()))
    })
  }

  return { reader, write, bothWays, end: () => void (streams && process.stdout.end()) }
}

const busy = (error: unknown): boolean => (error as NodeJS.ErrnoException).code === 'EAGAIN'
