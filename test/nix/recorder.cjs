// recorder.cjs CONNECT DIRECTORY SOCKET --stdio: nix-lan-connect with all that it says and hears on
// both sides written down, in DIRECTORY/{fromNix,toNix,fromBox,toBox}. Nix starts it in its place
// (test/nix/sessions.test.ts). CommonJS, since it runs in a world as it is.
const { spawn } = require('node:child_process')
const { appendFileSync } = require('node:fs')
const { createConnection, createServer } = require('node:net')

const [, , connect, directory, socket] = process.argv
const proxy = `${directory}/${process.pid}.sock`

/** Passes on what comes, and writes it down. */
function record(name, from, to) {
  from.on('data', (chunk) => {
    appendFileSync(`${directory}/${name}`, chunk)
    to.write(chunk)
  })
  from.on('end', () => to.end())
  from.on('error', () => to.end())
}

const server = createServer({ allowHalfOpen: true }, (near) => {
  const box = createConnection({ path: socket, allowHalfOpen: true })
  record('toBox', near, box)
  record('fromBox', box, near)
})
server.listen(proxy, () => {
  const child = spawn(connect, [proxy, '--deadline', '10', '--stdio'], { stdio: ['pipe', 'pipe', 'inherit'] })
  record('fromNix', process.stdin, child.stdin)
  record('toNix', child.stdout, process.stdout)
  child.on('close', (code) => process.exit(code))
})
