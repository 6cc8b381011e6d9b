// The name a box knows this machine by: that of the key it signs with.
import { hostname } from 'node:os'
import { publicKeyOf } from '../nix/keys.ts'
import { askSettings, type Settings, wordsOf } from '../nix/settings.ts'

/** The public keys this machine signs with, as far as the user can read them. */
export function ownKeys(settings: Settings): string[] {
  return wordsOf(settings, 'secret-key-files').flatMap((file) => {
    try {
      return publicKeyOf(file) ?? []
    } catch {
      return [] // no key: Nix will say so when it signs
    }
  })
}

/** The name of the first of these keys; without one, the host name. */
export const keyNameIn = (settings: Settings): string => ownKeys(settings)[0]?.split(':')[0] || hostname()

/** Like keyNameIn(), but asks Nix for the settings. @throws NixError */
export const ownKeyName = async (): Promise<string> => keyNameIn(await askSettings({ timeout: 20_000 }))
