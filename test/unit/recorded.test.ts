// Sessions of real Nixes with real boxes (test/nix/sessions.test.ts records them), replayed: to Nix
// and to the box we say what was said then.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { serve } from '../../scripts/connect/session.ts'
import { dialBox } from '../../scripts/protocol/dial.ts'
import { type Recorded, SIDES } from '../lib/recorded.ts'
import { until } from '../lib/until.ts'
import { clientOf, same } from '../lib/wire.ts'

const test = suite('recorded')

const FIXTURES = 'test/fixtures/sessions'
const TMP = mkdtempSync(join(tmpdir(), 'nix-lan-recorded-'))
const files = readdirSync(FIXTURES)

for (const file of files) {
  for (const session of JSON.parse(readFileSync(join(FIXTURES, file), 'utf8')) as Recorded[]) {
    test(`${file.replace('.json', '').replace('-', ' with a box of ')}: ${session.command}`, () => replay(session))
  }
}

test('2.8, 2.26 and 2.34 are there, on both sides', () => {
  for (const version of ['2.8.0', '2.26.3', '2.34.8']) assert.ok(files.includes(`${version}-${version}.json`), version)
})

let count = 0

async function replay(session: Recorded): Promise<void> {
  const [fromNix, toNix, fromBox, toBox] = SIDES.map((side) => Buffer.from(session[side], 'base64')) as [Buffer, Buffer, Buffer, Buffer]
  const asked: Buffer[] = []
  const socket = join(TMP, `${count++}.sock`)
  const server = createServer({ allowHalfOpen: true }, (near) => {
    near.on('data', (chunk: Buffer) => void asked.push(chunk))
    near.on('end', () => near.end())
    near.on('error', () => {})
    near.write(fromBox)
  })
  await new Promise<void>((done) => server.listen(socket, done))
  for (const size of [1, 11, 65536]) {
    asked.length = 0
    const client = clientOf(fromNix, size)
    const box = await dialBox(socket, 60_000)
    await serve(client, { dial: async () => box, lost: fail, report: fail, strict: false })
    same(client.got(), toNix, `to Nix, in chunks of ${size}`)
    await until('what the box is asked', () => Buffer.concat(asked).length >= toBox.length)
    same(Buffer.concat(asked), toBox, `to the box, in chunks of ${size}`)
  }
  await new Promise((done) => server.close(done))
}

function fail(error: Error | string): never {
  throw new Error(String(error))
}

test.after(() => rmSync(TMP, { recursive: true, force: true }))

test.run()
