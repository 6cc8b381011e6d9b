// What Nix would believe: with what Nix 2.8.0 itself has written, and with what is nearly that.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { base32, fingerprint, provenByName, readKeys, signedBy } from '../../scripts/nix/signature.ts'

const test = suite('signatures')

const hex = (base64: string): string => Buffer.from(base64, 'base64').toString('hex')
const A = '/nix/store/znvscj76jsnvyjqabi70np3mf4lm3gy4-a'
/** `nix path-info --json` of a text file that refers to another, signed by `nix store sign`. */
const B = {
  path: '/nix/store/yygxd1z4l7zi2pvrmz9nnabrv3p5g0an-b',
  hash: hex('VPfTiTvyyTbQ+iGKEG8d1GhaU6eka9voviI3a5pdVSU='),
  size: 168,
  references: [A],
}
const SIGNATURE = 'laptop-1:1xTPDkj2jSs4W4O5ALv0G/056/6MjUCH37lQ96uJD+cfPrtibLR/f7yMPBjLN6b7mMQNXAqVDq6DZJY/d/jJDA=='
const KEY = 'laptop-1:g22jPVKtrGunyhIifRNhD31hFAn3aVsbHL/px1seqW8='
/** Another one of the same name. */
const OTHER = 'laptop-1:JRUqEDPHcwhPt+65ysVLWlN6Gzh0VWXiyGTSxDc4DtU='

test('a fingerprint, with sorted references', () => {
  const text = fingerprint({ ...B, references: [A, B.path] })
  assert.match(text, /^1;\/nix\/store\/yygx\S+-b;sha256:[0-9a-z]{52};168;\/nix\/store\/yygx\S+-b,\/nix\/store\/znvs\S+-a$/)
})

test('a signature of Nix is believed by its key, and by no other; the first key of a name counts', async () => {
  assert.ok(await signedBy(readKeys([KEY]), B, ['nonsense', SIGNATURE]))
  assert.ok(await signedBy(readKeys([KEY, OTHER]), B, [SIGNATURE]))
  assert.not(await signedBy(readKeys([OTHER, KEY]), B, [SIGNATURE]))
  assert.not(await signedBy(readKeys(['laptop-1:nonsense', KEY]), B, [SIGNATURE]))
  assert.not(await signedBy(readKeys([]), B, [SIGNATURE]))
  assert.not(await signedBy(readKeys([KEY]), B, []))
  assert.not(await signedBy(readKeys([KEY.replace('laptop-1', 'laptop-2')]), B, [SIGNATURE]))
})

const CHANGED: [string, Partial<typeof B>][] = [
  ['another path', { path: B.path.replace('-b', '-c') }],
  ['another hash', { hash: B.hash.replace(/^../, '00') }],
  ['another size', { size: 169 }],
  ['a size that no number holds', { size: 2 ** 60 }],
  ['no references', { references: [] }],
  ['more references', { references: [A, B.path] }],
  ['a hash of another form', { hash: 'sha256:VPfT' }],
]
for (const [what, change] of CHANGED) {
  test(`not believed: ${what}`, async () => assert.not(await signedBy(readKeys([KEY]), { ...B, ...change }, [SIGNATURE])))
}

test('base 32, both ways', () => {
  // sha256 of nothing, as `nix-hash --type sha256 --to-base32` prints it
  const empty = Buffer.from('e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', 'hex')
  assert.is(base32(empty), '0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73')
})

/**
 * Path, references and content address, as Nix has them: text, source, flat, flat with SHA-1, a
 * tree with SHA-1.
 */
const PROVEN: [string, string[], string][] = [
  [A, [], 'text:sha256:1lf969yddshzhld7sr1vbagr07bnygg99lgl6gk5kxcnp4z9wbcq'],
  [B.path, B.references, 'text:sha256:0qz8m80j1582gz8w8y69yq0jnjhm4wi4f7zcwjnf2xfi8a9009n3'],
  ['/nix/store/l4bclnhx3jcxcfz9j97fxhvizx1xy1gg-dir', [], 'fixed:r:sha256:0sldaa6dd6dsfm1c7f8z9i32dfhn53aw1kyrlid1naa7hb6biy4v'],
  ['/nix/store/1vap48aqggkk52ijn2prxzxv7cnzvs0w-file', [], 'fixed:sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq'],
  ['/nix/store/l5iffh8kph4i94caqw5n922jv21iqsnn-file', [], 'fixed:sha1:iwjz551fyw0cxcjgf4l6c879zabd6wpm'],
  ['/nix/store/s938dg4h03sqw4yxb5imdc91qj5ih75h-dir', [], 'fixed:r:sha1:xkhcd8dhk6h23ys3piz8irxjgz43vh2g'],
]
for (const [path, references, address] of PROVEN) {
  test(`proven by its name: ${address.replace(/:[^:]*$/, '')}${references.length > 0 ? ' with references' : ''}`, () => {
    assert.ok(provenByName(path, references, address))
    assert.not(provenByName(path.replace(/-/, '-x'), references, address), 'another name')
    assert.not(provenByName(path, [...references, '/nix/store/l4bclnhx3jcxcfz9j97fxhvizx1xy1gg-dir'], address), 'another reference')
    assert.not(provenByName(path, [...references, path], address), 'itself')
    assert.not(
      provenByName(
        path,
        references,
        address.replace(/.$/, (last) => (last === '3' ? '4' : '3')),
      ),
      'another hash',
    )
    assert.not(provenByName(path, references, address.slice(0, -1)), 'a hash cut off')
    assert.not(provenByName(path, references, address.replace('fixed', 'text').replace('text:r', 'text')) && !address.startsWith('text'))
  })
}

test('no content address, or one of a kind that is not known: not proven', () => {
  for (const address of ['', 'fixed:git:sha1:iwjz551fyw0cxcjgf4l6c879zabd6wpm', 'text:md5:1lf969yddshzhld7sr1vba', 'fixed:r:sha999:aa'])
    assert.not(provenByName(A, [], address))
})

test.run()
