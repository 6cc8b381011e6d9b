// Finds out whether the home of the tunnel's user on the box may be away while the box collects
// garbage: encrypted, or mounted only at login. The links there would look dangling then, and what
// they keep would go. The judgment is pure. Can't be told: an encrypted ZFS dataset, a home on the
// network, and by sftp alone fscrypt.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { readText } from '../nix/nix-conf.ts'
import { directoriesIn, FOLDER, OUTSIDE } from './links.ts'
import { NoShell, type Remote } from './remote.ts'

/** What a box says of a home. It may say anything. */
export interface HomeFacts {
  user: string
  /** Whether the box runs sh for the user. */
  shell: boolean
  /** Its real path. */
  home: string
  /** Whether the links belong outside of it: OUTSIDE/USER is there, or FOLDER leads out. */
  outside: boolean
  /** How many links are left in the home though they belong outside. */
  left: number
  /** Lines of /proc/self/mounts. */
  mounts: readonly string[]
  /** Lines of /etc/fstab. */
  fstab: readonly string[]
  /** Whether beside the home is what systemd-homed mounts there, HOME.home or HOME.homedir. */
  homed: boolean
  /** Whether the directory is encrypted by fscrypt (lsattr(1), E). */
  fscrypt: boolean
}

// Only the mounts that can hold the home: a box with many containers has thousands.
const ASK = `home=$(cd && pwd -P) || exit 1
report user "$(id -un)"
report home "$home"
place=$(cd "$outside/$(id -un)" 2>/dev/null && pwd -P) || place=$(cd "$home/$folder" 2>/dev/null && pwd -P) || place=$home
case $place/ in "\${home%/}"/*) ;; *)
  report outside yes
  [ "$(cd "$home/$folder" 2>/dev/null && pwd -P)" = "$place" ] ||
    for link in "$home/$folder"/*/*/*; do [ ! -L "$link" ] || report left yes; done ;;
esac
for end in home homedir; do [ ! -e "$home.$end" ] || report homed yes; done
case $(lsattr -d "$home" 2>/dev/null | cut -d ' ' -f 1) in *E*) report fscrypt yes ;; esac
for file in /proc/self/mounts /etc/fstab; do
  [ -r $file ] || continue
  while read -r from at type options _; do
    case $home/ in "\${at%/}"/*) report $file "$from $at $type $options" ;; esac
  done <$file
done
`

/** Asks a box about the home of the user who logs in. @throws Failure as Remote does */
export async function askHome(remote: Remote): Promise<HomeFacts> {
  try {
    const said = await remote.run(ASK, { folder: FOLDER, outside: OUTSIDE })
    return {
      user: said.get('user')?.[0] ?? '',
      shell: true,
      home: said.get('home')?.[0] ?? '',
      outside: said.has('outside'),
      left: said.get('left')?.length ?? 0,
      mounts: said.get('/proc/self/mounts') ?? [],
      fstab: said.get('/etc/fstab') ?? [],
      homed: said.has('homed'),
      fscrypt: said.has('fscrypt'),
    }
  } catch (error) {
    if (!(error instanceof NoShell)) throw error
    return await askBySftp(remote)
  }
}

async function askBySftp(remote: Remote): Promise<HomeFacts> {
  const directory = mkdtempSync(`${tmpdir()}/nix-lan-home-`)
  try {
    const user = await remote.user()
    const get = (file: string, name: string): string => `-get ${file} ${directory}/${name}`
    const said = await remote.sftp([
      'pwd',
      get('/proc/self/mounts', 'mounts'),
      get('/etc/fstab', 'fstab'),
      `-cd ${FOLDER}`,
      `-cd ${OUTSIDE}/${user}`,
      'pwd',
    ])
    const [home = '', place = ''] = directoriesIn(said)
    const lines = (name: string): string[] => (readText(`${directory}/${name}`) ?? '').split('\n')
    const outside = place !== home && !place.startsWith(`${home}/`)
    return { user, shell: false, home, outside, left: 0, mounts: lines('mounts'), fstab: lines('fstab'), homed: false, fscrypt: false }
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

interface Mount {
  from: string
  at: string
  type: string
  options: string[]
}

function mountIn(line: string): Mount[] {
  const [from = '', at = '', type = '', options = ''] = line.trim().split(/\s+/)
  return at.startsWith('/') && !line.startsWith('#') ? [{ from, at, type, options: options.split(',') }] : []
}

const holds = (at: string, path: string): boolean => `${path}/`.startsWith(at === '/' ? at : `${at}/`)

/** Why a home isn't always there; undefined if that can't be told, or it is. */
export function whyAway({ home, mounts, fstab, homed, fscrypt }: HomeFacts): string | undefined {
  // the longest mount point that holds it counts, and of several there the last
  const over = mounts.flatMap(mountIn).filter(({ at }) => holds(at, home))
  const mount = over.reduce<Mount | undefined>((best, one) => (one.at.length >= (best?.at.length ?? 0) ? one : best), undefined)
  const atBoot = fstab.flatMap(mountIn).some(({ at, options }) => at === mount?.at && !options.includes('noauto'))
  if (mount?.type === 'ecryptfs') return 'is encrypted by ecryptfs, mounted at login'
  if (homed) return 'is mounted by systemd-homed at login'
  if (fscrypt) return 'is encrypted by fscrypt, unlocked at login'
  if (mount?.at !== home || atBoot) return undefined
  if (/^fuse\b/.test(mount.type)) return `is mounted by ${mount.type}, and not by /etc/fstab`
  return mount.from.startsWith('/dev/mapper/') ? `is on ${mount.from}, which /etc/fstab doesn't mount` : undefined
}
