# A stand-in for nixpkgs' package set: what flake.nix and nix/*.nix take from it. Derivations are real ones, and those that are built, are
# built: with the programs of the machine, so outside a sandbox. The packages are no more than links to the machine's own.
{ system }:
let
  lib = import ./lib.nix;

  # nixpkgs' mkDerivation, as far as it goes here: `meta` and `passthru` are attributes of the result and not of the build.
  mkDerivation =
    given:
    let
      attributes = if builtins.isFunction given then given attributes else given;
      name = attributes.name or "${attributes.pname}-${attributes.version}";
      build = derivation (
        builtins.removeAttrs attributes [
          "meta"
          "passthru"
        ]
        // {
          inherit name system;
          builder = "/bin/bash";
          args = [ ./builder.sh ];
        }
      );
    in
    build // { inherit (attributes) meta; } // attributes.passthru or { };

  # A package with one program, which the machine has.
  linked =
    pname: version: program:
    mkDerivation {
      inherit pname version program;
      installPhase = "mkdir -p $out/bin; ln -s \"$(command -v $program)\" $out/bin/$program";
      meta.mainProgram = program;
    };

  pkgs = {
    inherit lib system;
    stdenvNoCC = {
      inherit mkDerivation;
    };
    stdenv.hostPlatform = {
      inherit system;
      isLinux = builtins.match ".*-linux" system != null;
    };
    buildPackages = pkgs;
    runtimeShell = "/bin/bash";

    runCommand =
      name: attributes: script:
      mkDerivation (
        attributes
        // {
          inherit name;
          installPhase = script;
          meta = { };
        }
      );
    writeScript =
      name: text:
      pkgs.runCommand name {
        inherit text;
        passAsFile = [ "text" ];
      } "cp \"$textPath\" \"$out\"; chmod +x \"$out\"";

    nodejs = linked "nodejs" "20.0.0" "node";
    nodejs-slim = linked "nodejs-slim" "20.0.0" "node";
    bash = linked "bash" "5.2" "bash";
    coreutils = linked "coreutils" "9.0" "ln";
    nix = linked "nix" "2.28.0" "nix-store";
    procps = linked "procps" "4.0" "pgrep";
    systemd = linked "systemd" "255" "systemctl";
    perl = linked "perl" "5.40" "perl";
    util-linux = linked "util-linux" "2.39" "setpriv";
    shellcheck = linked "shellcheck" "0.10" "shellcheck";

    # nixpkgs' callPackage: an argument with a default may be missing.
    callPackage =
      file: given:
      let
        function = if builtins.isFunction file then file else import file;
        known = builtins.intersectAttrs (builtins.functionArgs function) pkgs;
        result = function (known // given);
      in
      result // { override = more: pkgs.callPackage file (given // more); };

    mkShell =
      { packages }:
      mkDerivation {
        pname = "shell";
        version = "0";
        inherit packages;
        installPhase = "mkdir $out";
        meta = { };
      };

    # Of these, only the attributes are looked at.
    importNpmLock = {
      __functor = _: { npmRoot, packageLock }: linked "npm-deps" "0" "npm";
      npmConfigHook = linked "npm-config-hook" "0" "npm";
    };
    buildNpmPackage = attributes: mkDerivation (attributes // { meta = { }; });

    nixos =
      modules:
      lib.evalModules {
        modules = [ ./nixos.nix ] ++ modules;
        specialArgs = { inherit pkgs; };
      };

    # The nodes are evaluated, and their assertions must hold; nothing is started.
    testers.runNixOSTest =
      file:
      let
        test = import file;
        evaluated =
          module:
          (lib.evalModules {
            modules = [
              ./nixos.nix
              module
            ];
            specialArgs = { inherit pkgs; };
          }).config;
        failed = lib.concatMap (
          config: builtins.filter (one: !one.assertion) config.assertions
        ) (builtins.attrValues nodes);
        nodes = builtins.mapAttrs (_: evaluated) test.nodes;
      in
      if failed != [ ] then
        throw (lib.concatMapStringsSep "\n" (one: one.message) failed)
      else
        mkDerivation {
          pname = "vm-test-${test.name}";
          version = "0";
          inherit (test) testScript;
          configurations = map (config: "${config.nix.conf}${toString config.environment.systemPackages}") (builtins.attrValues nodes);
          installPhase = "mkdir $out";
          meta = { };
        };
  };
in
pkgs
