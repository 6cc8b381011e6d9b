// What reachable() takes from a configuration, from getent and from the network's errors.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import type { Cache } from '../../scripts/config/types.ts'
import { addressesIn, addressFromAvahi, lists, needsScope, Race } from '../../scripts/reach/connect-race.ts'
import { placeOf } from '../../scripts/reach/reach.ts'

const test = suite('reach')

const url = (text: string): Cache => ({ kind: 'url', name: 'nas', url: text, deadline: 2000 })

const PLACES: [string, string][] = [
  ['http://nas.local', 'nas.local 80'],
  ['http://nas.local:5000/nix', 'nas.local 5000'],
  ['http://nas.local:80', 'nas.local 80'],
  ['https://user:secret@nas.local', 'nas.local 443'],
  ['http://[fd00::1]:5000', 'fd00::1 5000'],
  ['ssh://pi@nas.local', 'nas.local 22'],
  ['ssh-ng://pi@nas.local:2222?compress=true', 'nas.local 2222'],
  ['file:///mnt/my%20cache?priority=1', '/mnt/my cache'],
]
for (const [from, to] of PLACES) {
  test(`${from} is at ${to}`, () => {
    const place = placeOf(url(from))
    assert.is('folder' in place ? place.folder : `${place.host} ${place.port}`, to)
  })
}

test('addresses: each once, in the order of getent, and nothing else', () => {
  const output = [
    'fe80::1 STREAM pi.local',
    'fe80::1 DGRAM',
    '192.168.1.20    STREAM',
    '192.168.1.20 RAW',
    'garbage here',
    '',
    '1.2.3 STREAM',
    'fe80::2%eth0 RAW',
  ]
  assert.equal(addressesIn(output.join('\n')), ['fe80::1', '192.168.1.20', 'fe80::2%eth0'])
  assert.equal(addressesIn(''), [])
})

test('a link-local address needs a scope', () => {
  for (const address of ['fe80::1', 'FE80::1', 'febf::1']) assert.ok(needsScope(address), address)
  for (const address of ['fe80::1%eth0', 'fec0::1', 'fd00::1', '::1', '169.254.1.1', 'fe80.local']) assert.not(needsScope(address), address)
})

test('an address of last time is confirmed by the same one, with or without the scope that we gave it', () => {
  assert.ok(lists(['10.0.0.1', 'fe80::1'], 'fe80::1%wlan0'))
  assert.ok(lists(['10.0.0.1'], '10.0.0.1'))
  assert.not(lists(['10.0.0.11'], '10.0.0.1'))
})

test('what avahi answers', () => {
  assert.is(addressFromAvahi('+ 2 0 pi.local 192.168.1.20\n'), '192.168.1.20')
  for (const answer of ['', '-15 Timeout reached\n', '+ 2 0 pi.local garbage\n', 'hello'])
    assert.is(addressFromAvahi(answer), undefined, answer)
})

/** A server on loopback, for as long as `use` takes. */
async function listening<T>(server: Server, where: string | number, use: () => Promise<T>): Promise<T> {
  await new Promise<void>((resolve) => {
    if (typeof where === 'number') server.listen(where, '127.0.0.1', resolve)
    else server.listen(where, resolve)
  })
  try {
    return await use()
  } finally {
    server.close()
  }
}

test('who has accepted when the deadline is over is reachable: we may be late ourselves', async () => {
  const box = createServer()
  await listening(box, 0, async () => {
    const { port } = box.address() as AddressInfo
    const found = new Race('127.0.0.1', port, 10, { scopes: () => [] }).run()
    await new Promise<void>((done) => process.nextTick(done)) // it dials
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50)
    assert.equal(await found, { address: '127.0.0.1' })
  })
})

test('avahi knows the name while the name service is silent; a name that avahi lacks is the name service’s affair', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'nix-lan-reach-'))
  const socket = join(folder, 'avahi')
  const path = process.env.PATH
  const getent = (script: string) => writeFileSync(join(folder, 'getent'), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
  const box = createServer()
  const questions: string[] = []
  const avahi = createServer((client) => {
    client.on('error', () => {}) // the race may be over before it reads the answer
    client.setEncoding('latin1').on('data', (line: string) => {
      questions.push(line)
      client.end(line.includes(' pi.local') ? '+ 2 0 pi.local 127.0.0.1\n' : '-15 Timeout reached\n')
    })
  })
  process.env.PATH = `${folder}:${path}`
  try {
    await listening(box, 0, async () => {
      const { port } = box.address() as AddressInfo
      const race = (host: string) => new Race(host, port, 60_000, { scopes: () => [], avahi: socket }).run()
      await listening(avahi, socket, async () => {
        getent('exec sleep 300')
        assert.equal(await race('pi.local'), { address: '127.0.0.1' })
        assert.equal(questions, ['RESOLVE-HOSTNAME-IPV4 pi.local\n'])
        getent('echo 127.0.0.1 STREAM')
        assert.equal(await race('other.local'), { address: '127.0.0.1' })
        assert.equal(await race('pi.lan'), { address: '127.0.0.1' })
        assert.is(questions.length, 2, 'only .local is avahi’s')
      })
      assert.equal(await race('pi.local'), { address: '127.0.0.1' }, 'no avahi')
      getent('exit 2')
      assert.equal(await race('pi.local'), { reason: 'pi.local has no address' })
    })
  } finally {
    process.env.PATH = path
    rmSync(folder, { recursive: true })
  }
})

test.run()
