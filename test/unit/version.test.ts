// What --version prints is what package.json says.
import { readFileSync } from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { VERSION } from '../../scripts/cli/version.ts'

const test = suite('version')
test('VERSION is that of package.json', () => {
  assert.is(VERSION, JSON.parse(readFileSync('package.json', 'utf8')).version)
})
test.run()
