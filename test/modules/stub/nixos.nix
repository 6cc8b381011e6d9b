# A stand-in for NixOS: declares the options that nix/nixos.nix and nix/test.nix define, with the types that they have there, and makes of
# nix.settings the text of nix.conf.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  given =
    type: default:
    mkOption {
      inherit type default;
      description = "";
    };

  # nixos/modules/config/nix.nix (semanticConfType)
  atom = types.nullOr (
    types.oneOf [
      types.bool
      types.int
      types.float
      types.str
      types.path
      types.package
    ]
  );

  unit = types.submodule {
    options = {
      description = given types.str "";
      wantedBy = given (types.listOf types.str) [ ];
      before = given (types.listOf types.str) [ ];
      after = given (types.listOf types.str) [ ];
      wants = given (types.listOf types.str) [ ];
      restartIfChanged = given (types.nullOr types.bool) null;
      path = given (types.listOf (types.oneOf [ types.package types.str ])) [ ];
      script = given types.lines "";
      unitConfig = given (types.attrsOf (types.either atom (types.listOf atom))) { };
      serviceConfig = given (types.attrsOf atom) { };
      pathConfig = given (types.attrsOf atom) { };
      socketConfig = given (types.attrsOf atom) { };
      overrideStrategy = given (types.nullOr (types.enum [ "asDropinIfExists" "asDropin" ])) null;
      timerConfig = given (types.attrsOf atom) { };
    };
  };

  activationScript = types.submodule {
    options.deps = given (types.listOf types.str) [ ];
    options.text = given types.lines "";
  };

  file = types.submodule {
    options.text = given (types.nullOr types.lines) null;
    options.source = given (types.nullOr types.path) null;
  };

  user = types.submodule {
    options = {
      uid = given (types.nullOr types.int) null;
      isNormalUser = given types.bool false;
      isSystemUser = given types.bool false;
      group = given types.str "users";
      extraGroups = given (types.listOf types.str) [ ];
      linger = given types.bool false;
      openssh.authorizedKeys.keyFiles = given (types.listOf types.path) [ ];
      openssh.authorizedKeys.keys = given (types.listOf types.str) [ ];
    };
  };

  # A line of nix.conf. All of them stand in alphabetical order, since 24.05 with the extra- ones last.
  text =
    value:
    if value == null then
      ""
    else if builtins.isList value then
      lib.concatMapStringsSep " " text value
    else if builtins.isBool value then
      (if value then "true" else "false")
    else
      toString value;
  isExtra = name: builtins.substring 0 6 name == "extra-";
  linesOf = keep: map (name: "${name} = ${text config.nix.settings.${name}}\n") (builtins.filter keep (builtins.attrNames config.nix.settings));
in
{
  options = {
    assertions = given (types.listOf types.raw) [ ];
    warnings = given (types.listOf types.str) [ ];

    nix = {
      enable = given types.bool true;
      package = given types.package pkgs.nix;
      extraOptions = given types.lines "";
      daemonUser = given types.str "root";
      # Only here: the text of nix.conf, and that of NixOS up to 23.11.
      conf = given types.str "";
      conf-2311 = given types.str "";
      settings = mkOption {
        description = "";
        default = { };
        type = types.submodule {
          freeformType = types.attrsOf (types.either atom (types.listOf atom));
          options = {
            substituters = given (types.listOf types.str) [ ];
            trusted-substituters = given (types.listOf types.str) [ ];
            trusted-public-keys = given (types.listOf types.str) [ ];
            trusted-users = given (types.listOf types.str) [ ];
            allowed-users = given (types.listOf types.str) [ "*" ];
          };
        };
      };
    };

    environment.systemPackages = given (types.listOf types.package) [ ];
    environment.etc = given (types.attrsOf file) { };

    systemd = {
      package = given types.package pkgs.systemd;
      packages = given (types.listOf types.package) [ ];
      services = given (types.attrsOf unit) { };
      sockets = given (types.attrsOf unit) { };
      tmpfiles.rules = given (types.listOf types.str) [ ];
      user.timers = given (types.attrsOf unit) { };
      user.paths = given (types.attrsOf unit) { };
    };
    system.activationScripts = given (types.attrsOf activationScript) { };

    users.users = given (types.attrsOf user) { };

    networking = {
      hostName = given types.str "laptop";
      useNetworkd = given types.bool false;
      firewall.allowedTCPPorts = given (types.listOf types.port) [ ];
      extraHosts = given types.lines "";
      networkmanager.enable = given types.bool false;
      networkmanager.dispatcherScripts = given (types.listOf (
        types.submodule {
          options.source = mkOption {
            type = types.path;
            description = "";
          };
        }
      )) [ ];
    };

    services.openssh = {
      enable = given types.bool false;
      settings = given (types.attrsOf atom) { };
    };

    programs.ssh.extraConfig = given types.lines "";

    fileSystems = given (types.attrsOf types.raw) { };
    boot.loader.grub.enable = given types.bool true;
    system.stateVersion = given types.str "";
    system.nixos.release = given types.str "26.05";
    virtualisation.writableStore = given types.bool false;
    virtualisation.additionalPaths = given (types.listOf types.path) [ ];
  };

  config.nix.settings = {
    trusted-public-keys = [ "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=" ];
    trusted-users = [ "root" ];
    substituters = lib.mkAfter [ "https://cache.nixos.org/" ];
  };
  config.nix.conf-2311 = builtins.concatStringsSep "" (linesOf (_: true));
  config.nix.conf = builtins.concatStringsSep "" (linesOf (name: !(isExtra name)) ++ linesOf isExtra);
}
