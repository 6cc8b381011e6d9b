// Tells NixOS, where configuration.nix writes what `nix-lan setup` writes elsewhere.
import { existsSync } from 'node:fs'

/** Whether this machine is NixOS: its activation makes this file. */
export const onNixos = (): boolean => existsSync('/etc/NIXOS')

/** The line of configuration.nix that sets nix-lan up. @param place where it goes, if not yet said */
export const moduleLine = (place = ''): string => `services.nix-lan.enable = true;${place} (nix/README.md has the rest)`

/** What sets nix-lan up on this machine, to begin or end a sentence. */
export const whatSetsUp = (nixos = onNixos()): string => (nixos ? moduleLine(' in configuration.nix') : 'sudo nix-lan setup')
