# The package: what `npm run build` made and the repository has in dist/, with the JavaScript runtime pinned. Builds nothing: no npm, no
# network, no hash to update. Called by callPackage; everything but nodejs-slim is as old as Nix 2.4.
{
  lib,
  stdenvNoCC,
  nodejs,
  nodejs-slim ? nodejs, # the same without npm
}:

assert lib.assertMsg (lib.versionAtLeast nodejs-slim.version "18.19")
  "nix-lan needs Node 18.19 or later, and this is ${nodejs-slim.version}: use nix-lan.override { nodejs-slim = …; }";

stdenvNoCC.mkDerivation {
  pname = "nix-lan";
  version = (builtins.fromJSON (builtins.readFile ../package.json)).version;

  src = builtins.path {
    name = "nix-lan-dist";
    path = ../dist;
  };
  license = ../LICENSE;
  node = "${nodejs-slim}/bin/node";

  dontConfigure = true;
  dontBuild = true;
  # nix-lan-run knows copies of itself by their first two lines; and /bin/sh, which every system has, may be dash, which starts in a third of
  # the time that bash takes.
  dontPatchShebangs = true;

  installPhase = builtins.readFile ./install.sh;

  meta = {
    description = "A Nix cache on the machine in the cupboard, for a laptop that comes and goes";
    license = lib.licenses.mit;
    platforms = lib.platforms.linux;
    mainProgram = "nix-lan";
  };
}
