# A stand-in for Home Manager: declares the options that nix/home-manager.nix defines, with the types that they have there.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  given =
    type: default:
    mkOption {
      inherit type default;
      description = "";
    };

  file = types.submodule {
    options.text = given (types.nullOr types.lines) null;
    options.source = given (types.nullOr types.path) null;
  };

  # home-manager's modules/systemd.nix: sections of keys
  primitive = types.oneOf [
    types.bool
    types.int
    types.str
    types.path
  ];
  unit = types.attrsOf (types.attrsOf (types.either primitive (types.listOf primitive)));
in
{
  options = {
    assertions = given (types.listOf types.raw) [ ];
    warnings = given (types.listOf types.str) [ ];
    home.username = mkOption {
      type = types.str;
      description = "";
    };
    home.profileDirectory = given types.str "/home/${config.home.username}/.nix-profile";
    home.packages = given (types.listOf types.package) [ ];
    xdg.configFile = given (types.attrsOf file) { };
    systemd.user.services = given (types.attrsOf unit) { };
    systemd.user.timers = given (types.attrsOf unit) { };
    systemd.user.paths = given (types.attrsOf unit) { };
    systemd.user.targets = given (types.attrsOf unit) { };
  };
}
