// What is put on a box is made known to sessions by the times of the tunnel's socket.
import { lstatSync, mkdtempSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { identity } from '../../scripts/system/outage-note.ts'
import { touchSocket } from '../../scripts/system/touch.ts'

const test = suite('touch')
const FOLDER = mkdtempSync(join(tmpdir(), 'nix-lan-touch-'))
const UID = process.getuid?.() ?? 0
test.after(() => rmSync(FOLDER, { recursive: true, force: true }))

test('a socket of ours is another one after it was touched, and is still the same socket', async () => {
  const path = `${FOLDER}/a.sock`
  const server = createServer()
  await new Promise<void>((done) => server.listen(path, done))
  try {
    const [before, { ino }] = [identity(path), lstatSync(path)]
    assert.is(identity(path), before)
    touchSocket(path, UID)
    assert.is.not(identity(path), before)
    assert.is(lstatSync(path).ino, ino)
    const after = identity(path)
    touchSocket(path, UID + 1) // somebody else's
    assert.is(identity(path), after)
  } finally {
    server.close()
  }
})

test('anything else is left alone: a file, a link, what follows a link, nothing', () => {
  const [file, link] = [`${FOLDER}/file`, `${FOLDER}/link`]
  writeFileSync(file, '')
  symlinkSync(file, link)
  utimesSync(file, 1, 1)
  const before = lstatSync(link).mtimeMs
  for (const path of [file, link, `${FOLDER}/none`]) touchSocket(path, UID)
  assert.equal([statSync(file).mtimeMs, lstatSync(link).mtimeMs], [1000, before])
})

test.run()
