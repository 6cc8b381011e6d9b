// Tells NixOS, where configuration.nix writes what `nix-lan setup` writes elsewhere.
import { existsSync } from 'node:fs'

/** Whether this machine is NixOS: its activation makes this file. */
export const onNixos = (): boolean => existsSync('/etc/NIXOS')

/** What sets nix-lan up on this machine, to begin a sentence about it. */
export const whatSetsUp = (nixos = onNixos()): string =>
  nixos ? 'services.nix-lan.enable = true; in configuration.nix (nix/README.md)' : 'sudo nix-lan setup'
