# The NixOS module. services.nix-lan is for the laptop: commands, user units, nix.conf, the queue, NetworkManager's dispatcher, and a key that
# signs what is built. services.nix-lan.box is for the box: whose signatures it believes.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.nix-lan;
  common = import ./common.nix { inherit lib pkgs; };
  settings = common.settingsOf cfg cfg.user;
  boxes = common.boxesOf settings;

  # /run/current-system, so that the URL stays the same from version to version: what a daemon, a user's settings and NIX_CONFIG say is compared
  # as text.
  substituter =
    name:
    "ssh-ng://localhost?remote-program=/run/current-system/sw/bin/nix-lan-connect%20/run/user/${toString cfg.uid}/nix-lan/${name}.sock";

  publicKeyFile = "${lib.removeSuffix ".secret" cfg.secretKeyFile}.public";

  # As post-build-hook --make-queue makes them: the leaves are the user's, below parents that are root's, where only root can put something
  # else in their place.
  directory = owner: path: "d /nix/var/nix/gcroots/nix-lan${path} 0755 ${owner} root -";
  directories = [
    (directory "root" "")
    (directory "root" "/queue")
    (directory "root" "/failed")
  ]
  ++ lib.concatMap (name: [
    (directory (toString cfg.user) "/queue/${name}")
    (directory (toString cfg.user) "/failed/${name}")
  ]) boxes;

  clientAssertions = [
    {
      assertion = cfg.user != null;
      message = "services.nix-lan.user is not set: whose ssh key, session and queue? Say services.nix-lan.user = \"alice\", with your own name.";
    }
    {
      assertion = cfg.user == null || cfg.uid != null;
      message = "services.nix-lan: the uid of ${toString cfg.user} is part of an address in nix.conf, and NixOS only chooses it later; say users.users.${toString cfg.user}.uid = 1000, with what `id -u ${toString cfg.user}` prints.";
    }
    {
      assertion = config.nix.enable;
      message = "services.nix-lan needs NixOS to manage Nix, and nix.enable is false; set it to true, or do without services.nix-lan.enable.";
    }
  ]
  ++ common.assertionsOf settings;

  # Who may use the nix-daemon of this machine (nix.conf(5), allowed-users).
  groupsOf = user: (config.users.users.${user}.extraGroups or [ ]) ++ [ (config.users.users.${user}.group or "") ];
  allows =
    user: entry: entry == "*" || entry == user || builtins.elem entry (map (group: "@${group}") (groupsOf user));
  isAllowed = user: lib.any (allows user) (config.nix.settings.allowed-users ++ config.nix.settings.trusted-users);

  sshd = config.services.openssh;
  forwards = sshd.settings.AllowStreamLocalForwarding or "yes";

  boxAssertions = [
    {
      assertion = sshd.enable;
      message = "services.nix-lan.box is reached by ssh, and services.openssh.enable is false; set it to true.";
    }
    {
      assertion = forwards == true || forwards == "yes" || forwards == "all" || forwards == "local";
      message = "services.nix-lan.box: sshd doesn't forward sockets here; set services.openssh.settings.AllowStreamLocalForwarding = \"local\".";
    }
  ]
  ++ map (user: {
    assertion = isAllowed user;
    message = "services.nix-lan.box.users: ${user} may not use the nix-daemon here; set nix.settings.allowed-users = [ \"${user}\" ].";
  }) cfg.box.users;
in
{
  options.services.nix-lan = common.options // {
    enable = lib.mkEnableOption "nix-lan: a Nix cache on your network that may be away";
    package = lib.mkOption (
      common.packageOption
      // {
        type = lib.types.package;
        description = "The package.";
      }
    );
    user = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = null;
      example = "alice";
      description = "Whose ssh key, session and queue.";
    };
    uid = lib.mkOption {
      type = lib.types.nullOr lib.types.int;
      default = if cfg.user == null then null else config.users.users.${cfg.user}.uid or null;
      defaultText = lib.literalExpression "config.users.users.\${user}.uid";
      description = "The uid of `user`, when that isn't one of `users.users`.";
    };
    linger = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether it works from the start of the machine on instead of from the login of `user` on; for a key without a passphrase.";
    };
    secretKeyFile = lib.mkOption {
      type = lib.types.strMatching "/[^[:space:]]+"; # nix.conf separates files by spaces
      default = "/etc/nix/nix-lan.secret";
      description = "The key that signs what is built here; made if it isn't there. The public half lies beside it: nix-lan.public.";
    };
    keyName = lib.mkOption {
      type = lib.types.str;
      default = "${config.networking.hostName}-1";
      defaultText = lib.literalExpression "\"\${config.networking.hostName}-1\"";
      description = "The name of that key, when it is made.";
    };
    publicKey = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = null;
      example = "laptop-1:6iQLhkJRXQ5Zpr0Kq5tiFqPrRDbeqzSBdM3ZVnCjJyA=";
      description = "The public half of that key. The daemon doesn't need it; with it, `nix store verify` without root does its work, too.";
    };

    box = {
      enable = lib.mkEnableOption "being the box: the machine that keeps what others have built";
      trustedPublicKeys = lib.mkOption {
        type = lib.types.listOf lib.types.str;
        default = [ ];
        example = [ "laptop-1:6iQLhkJRXQ5Zpr0Kq5tiFqPrRDbeqzSBdM3ZVnCjJyA=" ];
        description = "The public keys of the machines that copy to this one: what their nix-lan.public holds.";
      };
      users = lib.mkOption {
        type = lib.types.listOf lib.types.str;
        default = [ ];
        example = [ "pi" ];
        description = "Whom they log in as; it is checked that these may use the nix-daemon.";
      };
    };
  };

  config = lib.mkMerge [
    (lib.mkIf cfg.enable {
      assertions = clientAssertions;

      environment.systemPackages = [ cfg.package ];
      environment.etc."nix-lan/config.toml".text = common.textOf cfg cfg.user;

      # Not extra-substituters: up to NixOS 23.11 nix.conf was written in alphabetical order, and a `substituters` after it would have taken it
      # back (NixOS/nix#9487; since NixOS/nixpkgs#278064 nixos/modules/config/nix.nix writes extra- settings last). The lists are merged.
      nix.settings = {
        substituters = map substituter boxes;
        trusted-substituters = common.urlsOf settings;
        trusted-public-keys = lib.optional (cfg.publicKey != null) cfg.publicKey;
        secret-key-files = [ cfg.secretKeyFile ];
        post-build-hook = "${cfg.package}/lib/nix-lan/post-build-hook";
      };
      # Nix 2.4 to 2.19 and Lix start a substituter's program through bash (nix, src/libstore/ssh.cc), which the unit's PATH doesn't have.
      systemd.services.nix-daemon.path = [ pkgs.bash ];

      # Before the first build: with secret-key-files set and the file missing, every build fails. Once the secret is there, all is done.
      systemd.services.nix-lan-key = {
        description = "Key that signs what is built on this machine";
        wantedBy = [
          "multi-user.target"
          "nix-daemon.service"
        ];
        before = [ "nix-daemon.service" ];
        unitConfig.ConditionPathExists = "!${cfg.secretKeyFile}";
        path = [ config.nix.package ];
        serviceConfig.Type = "oneshot";
        # nix-store makes the secret 0600 and the public half 0644, whatever the umask (2.4 to 2.34).
        script = ''
          secret=${lib.escapeShellArg cfg.secretKeyFile}
          public=${lib.escapeShellArg publicKeyFile}
          mkdir -p "$(dirname "$secret")"
          nix-store --generate-binary-cache-key ${lib.escapeShellArg cfg.keyName} "$secret.new" "$public.new"
          mv -f "$public.new" "$public"
          mv -f "$secret.new" "$secret"
          echo "what is built here is signed from now on; for trusted-public-keys of the box: $(cat "$public")"
        '';
      };

      systemd.tmpfiles.rules = directories;

      # The units come from the package; NixOS doesn't look at their [Install] sections. They are there for everybody, and start for one.
      systemd.packages = [ cfg.package ];
      systemd.user.timers.nix-lan-check = {
        wantedBy = [ "timers.target" ];
        unitConfig.ConditionUser = toString cfg.user;
      };
      users.users = lib.mkIf (cfg.linger && cfg.user != null) { ${toString cfg.user}.linger = true; };

      networking.networkmanager.dispatcherScripts = [ { source = "${cfg.package}/lib/nix-lan/nix-lan-dispatcher"; } ];
    })

    (lib.mkIf cfg.box.enable {
      assertions = boxAssertions;
      nix.settings.trusted-public-keys = cfg.box.trustedPublicKeys;
    })
  ];
}
