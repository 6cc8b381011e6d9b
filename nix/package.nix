# The package: the repository's dist/, as made by `npm run build`, with the JavaScript runtime
# pinned. Builds nothing: no npm, no network, no hash to update. For callPackage. `dist` may be one
# built from source: dist-from-source.nix.
{
  lib,
  stdenvNoCC,
  nodejs,
  nodejs-slim ? nodejs, # the same without npm
  coreutils,
  perl,
  versionCheckHook ? null, # since nixpkgs 24.11
  dist ? builtins.path {
    name = "nix-lan-dist";
    path = ../dist;
  },
  tests ? { },
}:

assert lib.assertMsg (lib.versionAtLeast nodejs-slim.version "18.19")
  "nix-lan needs Node 18.19 or later, and this is ${nodejs-slim.version}: use nix-lan.override { nodejs-slim = …; }";

let
  project = builtins.fromJSON (builtins.readFile ../package.json);
in
stdenvNoCC.mkDerivation (finalAttrs: {
  pname = "nix-lan";
  inherit (project) version;

  src = dist;
  license = ../LICENSE;
  node = "${nodejs-slim}/bin/node";
  perl = "${perl}/bin/perl";
  tools = "${coreutils}/bin";

  strictDeps = true;
  dontConfigure = true;
  dontBuild = true;
  # nix-lan-run recognises copies of itself by their first two lines. And /bin/sh, which every
  # system has, may be dash, which starts three times as fast as bash.
  dontPatchShebangs = true;

  installPhase = builtins.readFile ./install.sh;

  doInstallCheck = versionCheckHook != null;
  nativeInstallCheckInputs = lib.optional finalAttrs.doInstallCheck versionCheckHook;
  versionCheckProgramArg = "--version";

  passthru = { inherit tests; };

  meta = {
    description = "A Nix cache on the machine in the cupboard, for a laptop that comes and goes";
    license = lib.licenses.mit;
    platforms = lib.platforms.linux;
    maintainers = [ ];
    mainProgram = "nix-lan";
  }
  // lib.optionalAttrs (project ? homepage) {
    inherit (project) homepage;
    changelog = "${lib.removeSuffix "#readme" project.homepage}/blob/v${finalAttrs.version}/CHANGELOG.md";
  };
})
