// Who can write a path: the one judge, on directories of root's with real modes, groups and ACLs.
import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { doubtAbout, hasAcl, whoInAcl } from '../../scripts/system/trust.ts'
import { findGroup, groupsIn, isInHome, membersOf } from '../../scripts/system/users.ts'
import { needs } from '../lib/needs.ts'

// Not os.tmpdir(), which may lie in a home directory.
let dir = ''
const make = (): void => {
  dir = mkdtempSync('/tmp/nix-lan-trust-')
  chmodSync(dir, 0o755)
}
const remove = (): void => rmSync(dir, { recursive: true, force: true })

/** What is said about DIR/NAME, with its fix behind a bar. */
const doubt = (name: string): string | undefined => {
  const found = doubtAbout(`${dir}/${name}`)
  return found && `${found.why} | ${found.fix}`.replaceAll(dir, 'DIR')
}
const directory = (name: string, mode = 0o755, gid = 0): void => {
  mkdirSync(`${dir}/${name}`, { recursive: true })
  chownSync(`${dir}/${name}`, 0, gid)
  chmodSync(`${dir}/${name}`, mode)
}
/** A group of this machine that has, or hasn't, somebody else than root in it. */
const groupWith = (members: boolean): number => {
  const groups = groupsIn(readFileSync('/etc/group', 'utf8')).map(({ gid }) => gid)
  const found = groups.find((gid) => gid !== 0 && (membersOf(gid)?.members.length ?? 0) > 0 === members)
  if (found === undefined) throw new Error('no such group on this machine')
  return found
}
/** Root does what the fix says, without sudo. */
const apply = (name: string): void => {
  const [program = '', ...args] = (doubtAbout(`${dir}/${name}`)?.fix ?? '').replace(/^sudo /, '').split(' ')
  execFileSync(program, args)
}

const modes = needs(suite('trust: owners, modes, groups'), 'root')
modes.before.each(make)
modes.after.each(remove)

modes('root’s file in directories of root’s, and what is not there yet', () => {
  directory('a')
  writeFileSync(`${dir}/a/f`, '', { mode: 0o644 })
  for (const name of ['a/f', 'a', 'a/not/there', 'a/./f', 'a/../a/f']) assert.is(doubt(name), undefined, name)
  assert.is(doubt('a/f/x'), 'DIR/a/f is not a directory; move it away | null')
})

modes('somebody else’s file, or directory on the way; the fix mends it', () => {
  directory('a/b')
  writeFileSync(`${dir}/a/b/f`, '', { mode: 0o644 })
  chownSync(`${dir}/a/b/f`, 1234, 0)
  assert.is(doubt('a/b/f'), 'DIR/a/b/f belongs to uid 1234 | sudo chown root DIR/a/b/f')
  apply('a/b/f')
  assert.is(doubt('a/b/f'), undefined)
  chownSync(`${dir}/a`, 1234, 0)
  assert.is(doubt('a/b/f'), 'DIR/a belongs to uid 1234 | sudo chown root DIR/a')
  chownSync(`${dir}/a`, 0, 0)
  chmodSync(`${dir}/a`, 0o777)
  assert.is(doubt('a/b/f'), 'everybody can write to DIR/a | sudo chmod go-w DIR/a')
  apply('a/b/f')
  assert.is(doubt('a/b/f'), undefined)
})

modes('a group that may write counts when somebody is in it: as a member, or as the primary group', () => {
  for (const mode of [0o775, 0o2775]) {
    directory('a', mode, groupWith(false))
    assert.is(doubt('a'), undefined, 'a group without members')
    assert.is(doubt('a/not/there'), undefined)
    directory('a', mode, 987_654)
    assert.is(doubt('a'), 'group 987654 can write to DIR/a | sudo chmod g-w DIR/a')
    directory('a', mode, groupWith(true))
    assert.match(doubt('a') ?? '', /^group \S+ \(.*\) can write to DIR\/a \| sudo chmod g-w DIR\/a$/)
    apply('a')
    assert.is(doubt('a'), undefined)
  }
})

modes('a sticky directory is good enough for an entry of root’s, not for a new one', () => {
  directory('sticky', 0o1777)
  directory('sticky/ours')
  assert.is(doubt('sticky/ours/x'), undefined)
  assert.match(doubt('sticky/new/x') ?? '', 'everybody can write to DIR/sticky, and make there what is to be root’s'.replace('’', "'"))
  chownSync(`${dir}/sticky/ours`, 1234, 0)
  assert.match(doubt('sticky/ours') ?? '', 'DIR/sticky/ours belongs to uid 1234')
})

modes('links: root’s own, as on NixOS; the directories that they lie in and lead to', () => {
  directory('store', 0o1775, 987_654)
  directory('store/x-etc')
  writeFileSync(`${dir}/store/x-config`, '', { mode: 0o444 })
  symlinkSync('../x-config', `${dir}/store/x-etc/config.toml`)
  symlinkSync(`${dir}/store/x-etc`, `${dir}/etc`)
  assert.is(doubt('etc/config.toml'), undefined)
  chmodSync(`${dir}/store`, 0o775)
  assert.match(doubt('etc/config.toml') ?? '', 'group 987654 can write to DIR/store')
  chmodSync(`${dir}/store`, 0o1775)
  execFileSync('chown', ['-h', '1234', `${dir}/etc`])
  assert.is(doubt('etc/config.toml'), "DIR/etc is a link of uid 1234's | null")
  symlinkSync('loop', `${dir}/loop`)
  assert.match(doubt('loop/x') ?? '', 'too many links')
})

modes('another file than the one that was opened', () => {
  for (const name of ['f', 'g']) writeFileSync(`${dir}/${name}`, '', { mode: 0o644 })
  const opened = lstatSync(`${dir}/f`, { bigint: true })
  assert.is(doubtAbout(`${dir}/f`, opened), undefined)
  for (const name of ['g', 'gone']) assert.match(doubtAbout(`${dir}/${name}`, opened)?.why ?? '', 'has just been replaced')
})

modes('no fix makes root the owner of a home directory', () => {
  const home = '/home/nix-lan-nobody-has-this-name'
  assert.not(existsSync(home))
  mkdirSync(`${home}/.nvm`, { recursive: true })
  try {
    chownSync(home, 54_321, 54_321)
    assert.equal(doubtAbout(`${home}/.nvm/node`), { why: `${home} belongs to uid 54321`, fix: null })
  } finally {
    rmSync(home, { recursive: true })
  }
})
modes.run()

const acls = needs(suite('trust: ACLs'), 'root', 'setfacl')
acls.before.each(make)
acls.after.each(remove)
const setfacl = (...args: string[]): void => void execFileSync('setfacl', [...args.slice(0, -1), `${dir}/${args.at(-1)}`])

acls('one that lets another user or a group with members write; the fix mends it', () => {
  directory('a/b')
  for (const [entry, who] of [
    ['u:65533:rwx', 'uid 65533'],
    ['g:987654:rwx', 'group 987654'],
  ] as const) {
    setfacl('-m', entry, 'a')
    assert.is(doubt('a/b'), `${who} can write to DIR/a | sudo chmod g-w DIR/a`)
    apply('a/b')
    assert.is(doubt('a/b'), undefined)
    setfacl('-b', 'a')
  }
})

acls('one that lets nobody else write', () => {
  directory('a/b')
  for (const entry of ['u:0:rwx', 'u:65533:r-x', `g:${groupWith(false)}:rwx`, 'd:u:65533:rwx']) {
    setfacl('-m', entry, 'a')
    assert.is(doubt('a/b'), undefined, entry)
    setfacl('-b', 'a')
  }
  setfacl('-m', 'u:65533:rwx,m::r-x', 'a')
  assert.is(doubt('a/b'), undefined, 'the mask takes it back')
})

acls('where getfacl is not there, ls tells that there is one', () => {
  directory('a', 0o775)
  const listed = () => execFileSync('ls', ['-ld', `${dir}/a`], { encoding: 'utf8' })
  assert.not(hasAcl(listed()))
  setfacl('-m', 'u:65533:rwx', 'a')
  assert.ok(hasAcl(listed()))
})
acls.run()

const words = suite('trust: what is read')
words('getfacl’s lines', () => {
  const nobody = () => undefined
  const acl = 'user::rwx\nuser:0:rwx\nuser:77777:r-x\ngroup::r-x\ngroup:88888:rwx\nmask::rwx\nother::r-x\n\n'
  assert.is(whoInAcl(acl, 5, nobody), 'group 88888')
  assert.is(whoInAcl(acl.replace('group:88888:rwx', 'group:88888:r-x'), 5, nobody), undefined)
  assert.is(whoInAcl(acl.replace('77777:r-x', '77777:rw-'), 5, nobody), 'uid 77777')
  assert.is(
    whoInAcl('user::rwx\ngroup::rwx\nother::r-x\n', 5, (gid) => ({ name: 'staff', gid, members: [] })),
    undefined,
  )
  assert.is(
    whoInAcl('group::rwx\n', 5, (gid) => ({ name: 'staff', gid, members: ['a', 'b'] })),
    'group staff (a, b)',
  )
})

words('groups', () => {
  assert.equal(groupsIn('a:x:5:\nb:x:6:u,v\nbroken\nc:x:x:\n'), [
    { name: 'a', gid: 5, members: [] },
    { name: 'b', gid: 6, members: ['u', 'v'] },
  ])
  assert.is(findGroup(0)?.name, 'root')
  assert.is(findGroup(987_654), undefined)
  assert.not((membersOf(0)?.members ?? ['root']).includes('root'))
})

words('home directories', () => {
  for (const path of ['/home/alice', '/home/alice/.nvm/node']) assert.ok(isInHome(path), path)
  for (const path of ['/home', '/usr/sbin/x', '/usr/local/bin', '/', '/homer/x', '/nonexistent/x']) assert.not(isInHome(path), path)
})
words.run()
