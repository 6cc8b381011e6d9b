# The Home Manager module: what one user can install. nix.conf, the queue and NetworkManager's dispatcher are root's: nix/README.md, "Home
# Manager", says what is left to do there; on NixOS, nixos.nix does all of it.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.nix-lan;
  common = import ./common.nix { inherit lib pkgs; };
  settings = common.settingsOf cfg config.home.username;

  # Without a package, the commands are those in PATH. A string with context, since Home Manager would give a plain path another name, and
  # systemd takes a unit's name from the end of its links.
  units =
    if cfg.package != null then
      "${cfg.package}/lib/systemd/user"
    else
      "${builtins.path {
        name = "nix-lan-units";
        path = ../dist/systemd/user;
      }}";
  unit = folder: name: {
    name = "systemd/user/${folder}${name}";
    value.source = "${units}/${name}";
  };
  wants = target: map (unit "${target}.wants/") common.wantedBy.${target};
in
{
  options.services.nix-lan = common.options // {
    enable = lib.mkEnableOption "nix-lan: a Nix cache on your network that may be away";
    package = lib.mkOption (
      common.packageOption
      // {
        type = lib.types.nullOr lib.types.package;
        description = "The package; null if the commands come from elsewhere, and are in the PATH of your systemd.";
      }
    );
  };

  config = lib.mkIf cfg.enable {
    assertions = common.assertionsOf settings;

    home.packages = lib.optional (cfg.package != null) cfg.package;

    xdg.configFile = {
      "nix-lan/config.toml".text = common.textOf cfg config.home.username;
    }
    // builtins.listToAttrs (
      map (unit "") common.units ++ lib.concatMap wants (builtins.attrNames common.wantedBy)
    );
  };
}
