// delay-relay.mjs: a link with latency, in user space. It listens, and passes on each connection's
// bytes to a target, later.
//
//     node delay-relay.mjs '[["LISTEN", "TARGET"], …]'     each a port of 127.0.0.1 or the path of a unix socket
//
// It says "ready" on stdout, then takes lines of JSON on stdin and answers each with "done"; it
// ends when stdin does.
//
//     {"delay": 20, "rate": 12500000}   from now on: milliseconds in each direction, bytes a second in each direction (0: no limit)
//     {"cut": "silent"}                 nothing is passed on any more, and new connections hear nothing; all stay open
//     {"cut": "hard"}                   every connection is reset (RST), and new ones are, too
//     {"cut": "clean"}                  both ends of every connection are closed (FIN), and new ones are, too
//     {"cut": "none"}                   the link is back; connections that were cut silently go on with what they held
//
// Each direction is a pipeline: what comes 1 ms after something else leaves 1 ms after it, however
// long the delay. With a delay of 0 bytes are passed on in the moment they come, with no timer. The
// rate is the link's: all connections of one direction share it. What it can't show: the round trip
// of TCP's own handshake (it accepts at once), and loss. A program of its own, and JavaScript, so
// that any Node starts it as it is.
import { createConnection, createServer } from 'node:net'

/**
 * With a rate, chunks are cut into pieces of so many bytes, lest a large one come all at its end.
 */
const PIECE = 16384
/**
 * A direction that holds more bytes than the delay needs holds back its source: a router's buffer,
 * of a quarter of a second, and 64 KiB at least; without a rate, so much.
 */
const BUFFER = 4 * 2 ** 20
const SECONDS = 0.25
const room = () => (link.rate > 0 ? Math.max(65536, link.rate * SECONDS) : BUFFER) + (link.rate * link.delay) / 1000
/** Node's timers count in whole milliseconds: what is due within so many goes now. */
const SLACK = 0.5

const link = { delay: 0, rate: 0, cut: 'none' }
/** When the link is free again, for each direction; by performance.now(). */
const busyUntil = { up: 0, down: 0 }
const directions = new Set()
const pairs = new Set()

/** One direction of one connection. */
class Direction {
  constructor(name, from, to) {
    Object.assign(this, { name, from, to, queue: [], held: 0, timer: undefined, blocked: false })
    from.on('data', (bytes) => this.take(bytes))
    from.on('end', () => this.enqueue(null))
    to.on('drain', () => {
      this.blocked = false
      this.flush()
    })
    directions.add(this)
  }

  take(bytes) {
    if (link.delay === 0 && link.rate === 0 && link.cut === 'none' && this.queue.length === 0) {
      if (!this.to.write(bytes)) this.from.pause()
      this.blocked = this.to.writableNeedDrain
      return
    }
    const size = link.rate > 0 ? PIECE : bytes.length
    for (let at = 0; at < bytes.length; at += size) this.enqueue(bytes.subarray(at, at + size))
  }

  /** @param bytes null: the end */
  enqueue(bytes) {
    const now = performance.now()
    const length = bytes?.length ?? 0
    let sent = now
    if (link.rate > 0) sent = busyUntil[this.name] = Math.max(now, busyUntil[this.name]) + (1000 * length) / link.rate
    this.queue.push({ bytes, due: sent + link.delay })
    this.held += length
    if (this.held > room()) this.from.pause()
    this.flush()
  }

  /** Passes on what is due, and comes again for the rest. */
  flush() {
    clearTimeout(this.timer)
    if (link.cut === 'silent' || this.blocked) return
    const now = performance.now() + SLACK
    while (this.queue.length > 0 && this.queue[0].due <= now && !this.blocked) {
      const { bytes } = this.queue.shift()
      if (bytes === null) this.to.end()
      else {
        this.held -= bytes.length
        this.blocked = !this.to.write(bytes)
      }
    }
    if (this.held <= room() && !this.blocked) this.from.resume()
    if (this.queue.length > 0 && !this.blocked)
      this.timer = setTimeout(() => this.flush(), Math.max(1, this.queue[0].due - performance.now()))
  }
}

function accept(near, target) {
  if (link.cut === 'hard') return reset(near)
  if (link.cut === 'clean') return near.destroy()
  const far = createConnection({ ...place(target), allowHalfOpen: true })
  const both = [near, far]
  const ways = [new Direction('up', near, far), new Direction('down', far, near)]
  pairs.add(both)
  for (const socket of both) {
    socket.setNoDelay?.(true)
    socket.on('error', () => both.forEach((end) => void end.destroy()))
    socket.on('close', () => {
      // one end that is gone takes nothing any more; the other still gets what is on its way,
      // unless there was no end to it
      if (!socket.readableEnded) both.forEach((end) => void end.destroy())
      if (!both.every((end) => end.destroyed)) return
      pairs.delete(both)
      for (const way of ways) {
        clearTimeout(way.timer)
        directions.delete(way)
      }
    })
  }
}

function change(command) {
  Object.assign(link, command)
  if (link.cut === 'hard') for (const both of pairs) for (const end of both) reset(end)
  if (link.cut === 'clean') for (const both of pairs) for (const end of both) end.destroy()
  if (link.cut === 'none') for (const direction of directions) direction.flush()
}

/** A unix socket has no reset; to close it with bytes unread is one. */
const reset = (socket) => (socket.remoteAddress ? socket.resetAndDestroy() : socket.destroy())

/** A port or a path, for node:net. */
const place = (text) => (/^\d+$/.test(text) ? { host: '127.0.0.1', port: Number(text) } : { path: text })

const listeners = JSON.parse(process.argv[2]).map(
  ([listen, target]) =>
    new Promise((resolve, reject) => {
      const server = createServer({ allowHalfOpen: true }, (near) => accept(near, target))
      server.on('error', reject).listen(place(listen), resolve)
    }),
)
await Promise.all(listeners)
process.stdout.write('ready\n')
let rest = ''
process.stdin.setEncoding('utf8').on('data', (text) => {
  const lines = (rest + text).split('\n')
  rest = lines.pop() ?? ''
  for (const line of lines) {
    change(JSON.parse(line))
    process.stdout.write('done\n')
  }
})
process.stdin.on('end', () => process.exit(0))
