# Evaluates configurations as NixOS and Home Manager would, with the stand-ins: what the tests of the modules ask.
#     (import ./eval.nix { }).nixos [ module… ]     everything nix/nixos.nix may define, all of it evaluated
#     (import ./eval.nix { }).home [ module… ]      the same for nix/home-manager.nix
# A failed assertion is part of the answer, as `failed`.
{
  system ? "x86_64-linux",
}:
let
  lib = import ./lib.nix;
  pkgs = import ./pkgs.nix { inherit system; };
  flake = (import ../../../flake.nix).outputs {
    self = flake;
    nixpkgs = {
      inherit lib;
      legacyPackages.${system} = pkgs;
    };
  };

  evaluate =
    base: modules:
    lib.evalModules {
      class = if base == ./nixos.nix then "nixos" else "homeManager";
      modules = [ base ] ++ modules;
      specialArgs = {
        inherit pkgs;
        nix-lan = flake;
      };
    };

  # What isn't null or empty, so that goldens show what is said.
  said =
    value:
    if builtins.isAttrs value && !(value ? outPath) then
      lib.filterAttrs (_: one: !(builtins.elem one [ null { } [ ] "" ])) (builtins.mapAttrs (_: one: said one) value)
    else
      value;

  # The text of files and scripts that are only built later.
  textOf = value: if value ? text then value.text else value;
  etcOf = builtins.mapAttrs (_: file: if file.source or null == null then file else { text = textOf file.source; });

  summary =
    config:
    said (
      builtins.removeAttrs config [
        "assertions"
        "services"
        "systemd"
      ]
      // (if config ? environment then { environment = config.environment // { etc = etcOf config.environment.etc; }; } else { })
      // (if config ? xdg then { xdg.configFile = etcOf config.xdg.configFile; } else { })
      // { systemd = builtins.removeAttrs config.systemd [ "package" ]; }
    )
    // {
      failed = map (one: one.message) (builtins.filter (one: !one.assertion) config.assertions);
    };

  isNixLan = option: builtins.substring 0 17 option.name == "services.nix-lan.";
  optionsOf = base: module: builtins.filter isNixLan (lib.describeOptions [ ] (evaluate base [ module ]).options);
in
{
  inherit lib pkgs flake;
  nixos = modules: summary (evaluate ./nixos.nix modules).config;
  home = modules: summary (evaluate ./home-manager.nix modules).config;
  nixosConfig = modules: (evaluate ./nixos.nix modules).config;
  homeConfig = modules: (evaluate ./home-manager.nix modules).config;

  # The options of both modules, for the table in nix/README.md.
  options.nixos = optionsOf ./nixos.nix flake.nixosModules.default;
  options.home = optionsOf ./home-manager.nix flake.homeModules.default;
}
