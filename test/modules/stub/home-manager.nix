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
in
{
  options = {
    assertions = given (types.listOf types.raw) [ ];
    warnings = given (types.listOf types.str) [ ];
    home.username = mkOption {
      type = types.str;
      description = "";
    };
    home.packages = given (types.listOf types.package) [ ];
    xdg.configFile = given (types.attrsOf file) { };
  };
}
