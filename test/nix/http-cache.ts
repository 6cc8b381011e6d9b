// An http binary cache on loopback, such as cache.nixos.org is: one that a test can count on, look
// into, and take away.
import { createReadStream } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'

/**
 * A binary cache: the files of a folder, and what was asked for. It can go away, and come back at
 * the same port.
 */
export class HttpCache {
  asked: string[] = []
  /** Milliseconds until an answer begins. */
  delay = 0
  url = ''
  private server: Server | undefined
  /** Where its files lie. */
  folder: string

  constructor(folder: string) {
    this.folder = folder
  }

  async open(): Promise<void> {
    const port = this.url === '' ? 0 : Number(new URL(this.url).port)
    const server = createServer((request, response) => {
      const path = request.url ?? ''
      this.asked.push(path)
      const file = createReadStream(this.folder + path) // which may be large
      file.on('error', () => response.writeHead(404).end())
      setTimeout(() => file.pipe(response), this.delay)
    })
    await new Promise<void>((done) => server.listen(port, '127.0.0.1', done))
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    this.server = server
  }

  close(): void {
    this.server?.closeAllConnections()
    this.server?.close()
  }
}
