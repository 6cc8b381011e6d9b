# Builds dist/ from source and compares it byte for byte with the repository's. To make a package of
# it:
#     nix-lan.override { dist = pkgs.callPackage ./dist-from-source.nix { registry = "…"; }; }
# package-lock.json has the hashes of the npm packages but not their URLs: `registry` is what `npm
# config get registry` prints.
{
  lib,
  buildNpmPackage,
  importNpmLock,
  registry,
}:
let
  lock = builtins.fromJSON (builtins.readFile ../package-lock.json);

  # node_modules/@scope/name, or deeper, is REGISTRY/@scope/name/-/name-VERSION.tgz.
  located =
    path: package:
    let
      name = lib.last (lib.splitString "node_modules/" path);
    in
    if path == "" then
      package
    else
      package // { resolved = "${lib.removeSuffix "/" registry}/${name}/-/${baseNameOf name}-${package.version}.tgz"; };
in
buildNpmPackage {
  pname = "nix-lan-dist";
  inherit (lock) version;

  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../build
      ../dist
      ../docs
      ../scripts
      ../test/demo
      ../test/lib
      ../LICENSE
      ../package.json
      ../package-lock.json
      ../tsconfig.json
    ];
  };
  npmDeps = importNpmLock {
    npmRoot = ../.;
    packageLock = lock // { packages = builtins.mapAttrs located lock.packages; };
  };
  inherit (importNpmLock) npmConfigHook;
  npmFlags = [ "--ignore-scripts" ]; # the programs come with their packages
  npmBuildFlags = [
    "--"
    "--check"
  ];

  dontPatchShebangs = true;
  dontNpmInstall = true;
  installPhase = "cp -r dist $out";
}
