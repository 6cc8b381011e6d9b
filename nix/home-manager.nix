# The Home Manager module: installs what a user can install. Never touches what is root's: nix.conf,
# the queue and NetworkManager's dispatcher. nix/README.md, "Home Manager", says how to set those
# up; on NixOS, nixos.nix does it all.
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

  # The path goes through the profile, not the package, so a new version leaves the units unchanged
  # and the tunnel running. Without a package, the units take the commands from PATH.
  program = if cfg.package == null then "/usr/bin/env nix-lan" else "${config.home.profileDirectory}/bin/nix-lan";
  textOf = file: builtins.replaceStrings [ "/usr/bin/env nix-lan" ] [ program ] (builtins.readFile (common.unitFolder + "/${file}"));

  # Your own definitions take precedence. Home Manager accepts [Install] values only as lists.
  unit =
    file:
    builtins.mapAttrs (
      section: builtins.mapAttrs (_: value: lib.mkDefault (if section == "Install" then lib.splitString " " value else value))
    ) (import ./ini.nix (textOf file));

  # All units of a type by name, for the option systemd.user.TYPEs. A switch leaves running services
  # alone: the new version starts with the next tunnel, and none breaks in mid-fetch.
  unitsOf =
    type:
    builtins.listToAttrs (
      lib.concatMap (
        file:
        let
          name = lib.removeSuffix ".${type}" file;
        in
        lib.optional (name != file) {
          inherit name;
          value = lib.recursiveUpdate (unit file) (
            lib.optionalAttrs (type == "service") { Unit.X-SwitchMethod = lib.mkDefault "keep-old"; }
          );
        }
      ) (builtins.attrNames (builtins.readDir common.unitFolder))
    );
in
{
  _class = "homeManager";

  options.services.nix-lan = common.options // {
    package = common.packageOption {
      nullable = true;
      extraDescription = "Null if the commands come from elsewhere, and are in the PATH of your systemd.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = pkgs.stdenv.hostPlatform.isLinux;
        message = "services.nix-lan needs Linux, for its systemd; leave services.nix-lan.enable at false on this machine.";
      }
      {
        assertion = (config.xdg.configFile."nix-lan/config.toml".text or null) == null;
        message = "xdg.configFile.\"nix-lan/config.toml\" is written by services.nix-lan; put what it has into services.nix-lan.caches and services.nix-lan.settings, and remove it.";
      }
    ]
    ++ common.assertionsOf settings;

    home.packages = lib.optional (cfg.package != null) cfg.package;
    xdg.configFile."nix-lan/config.toml".source = common.fileOf cfg config.home.username;

    systemd.user = {
      services = unitsOf "service";
      timers = unitsOf "timer";
      paths = unitsOf "path";
      targets = unitsOf "target";
    };
  };
}
