// Asks an HTTP cache for its nix-cache-info, as every Nix does first (2.8.0,
// http-binary-cache-store.cc, init).
import { existsSync, readFileSync } from 'node:fs'
import type { IncomingMessage, RequestOptions } from 'node:http'
import { inSeconds } from '../cli/text.ts'

/** Longer than any nix-cache-info, which has three lines. */
const LONGEST = 65536

/** Where Nix looks for certificates by default (2.8.0, globals.cc, Settings). */
const CERTIFICATES = ['/etc/ssl/certs/ca-certificates.crt', '/nix/var/nix/profiles/default/etc/ssl/certs/ca-bundle.crt']

/**
 * Why a cache is of no use; undefined when it answers as a binary cache.
 * @param address of the host, so its name isn't resolved again
 * @param left milliseconds left for the answer
 * @param deadline milliseconds in all, as the reason names them
 */
export async function cacheInfoProblem(base: string, address: string, left: number, deadline: number): Promise<string | undefined> {
  const url = new URL(base)
  url.search = ''
  url.pathname = `${url.pathname.replace(/\/+$/, '')}/nix-cache-info`
  const { request } = await (url.protocol === 'https:' ? import('node:https') : import('node:http'))
  const shown = `${url.protocol}//${url.host}${url.pathname}`
  return await new Promise((resolve) => {
    const timer = setTimeout(() => done(`${shown}: no answer within ${inSeconds(deadline)}`), left)
    const ask = request(options(url, address), (response) => read(response, (problem) => done(problem && `${shown} ${problem}`)))
    function done(problem: string | undefined): void {
      clearTimeout(timer)
      ask.destroy()
      resolve(problem)
    }
    ask.on('error', (error: NodeJS.ErrnoException) => done(`${shown}: ${error.message}`))
    ask.end()
  })
}

function options(url: URL, address: string): RequestOptions {
  const login = url.username ? { auth: decodeURIComponent(`${url.username}:${url.password}`) } : {}
  const tls = url.protocol === 'https:' ? { servername: url.hostname, ca: certificates() } : {}
  return { host: address, port: url.port || undefined, path: url.pathname, headers: { host: url.host }, agent: false, ...login, ...tls }
}

/** The certificates that Nix itself would trust; undefined: the runtime's own. */
function certificates(): Buffer | undefined {
  const named = process.env.NIX_SSL_CERT_FILE || process.env.SSL_CERT_FILE
  const file = [...(named ? [named] : []), ...CERTIFICATES].find((candidate) => existsSync(candidate))
  return file === undefined ? undefined : readFileSync(file)
}

/** A page that says 200 but isn't a nix-cache-info comes from a hotel's Wi-Fi. */
function read(response: IncomingMessage, done: (problem: string | undefined) => void): void {
  let text = ''
  const finish = (): void => {
    if (response.statusCode !== 200) done(`answers ${response.statusCode} ${response.statusMessage ?? ''}`.trim())
    else done(/^StoreDir: /m.test(text) ? undefined : 'answers, but not as a Nix cache does (no StoreDir)')
  }
  response.setEncoding('utf8').on('data', (more: string) => {
    text += more
    if (text.length > LONGEST) finish()
  })
  response.on('close', finish) // even when it is cut off
}
