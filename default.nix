# For those without flakes: the package. `nix-build`, or callPackage in an overlay of your own; the modules are nix/home-manager.nix and
# nix/nixos.nix.
{
  pkgs ? import <nixpkgs> { },
}:
pkgs.callPackage ./nix/package.nix { }
