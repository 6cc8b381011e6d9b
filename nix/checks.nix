# Evaluates configurations with the flake's own nixpkgs library, as NixOS would: which are valid,
# which an assertion refuses, and which a type does. A derivation; evaluating it fails with the name
# of the first case that comes out wrong. This repository's own tests use a stub of the library
# instead (test/modules/stub) and check more.
{ lib, pkgs }:
let
  key = "6iQLhkJRXQ5Zpr0Kq5tiFqPrRDbeqzSBdM3ZVnCjJyA=";
  otherKey = "7iQLhkJRXQ5Zpr0Kq5tiFqPrRDbeqzSBdM3ZVnCjJyA=";

  base = {
    imports = [ ./nixos.nix ];
    fileSystems."/".device = "/dev/disk/by-label/nixos";
    boot.loader.grub.enable = false;
    networking.hostName = lib.mkDefault "laptop";
  };
  laptop = {
    users.users.alice.isNormalUser = true;
    services.nix-lan = {
      enable = true;
      user = "alice";
      caches.rpi.host = "rpi.local";
    };
  };
  box = {
    services.openssh.enable = true;
    users.users.pi.isNormalUser = true;
    services.nix-lan.box = {
      enable = true;
      trustedPublicKeys = [ "laptop-1f0c9a3e-1:${key}" ];
      users = [ "pi" ];
    };
  };
  configOf =
    modules:
    (pkgs.nixos (
      [
        base
        ({ config, ... }: { system.stateVersion = lib.mkDefault config.system.nixos.release; })
      ]
      ++ modules
    )).config;
  failedOf = modules: map (one: one.message) (builtins.filter (one: !one.assertion) (configOf modules).assertions);
  contains = text: part: lib.hasInfix part text;

  # Each evaluates without a failed assertion and with that many warnings; `says` must appear in one
  # of its units or files.
  taken = {
    laptop = {
      modules = [ laptop ];
    };
    box = {
      modules = [ box ];
    };
    both = {
      modules = [
        laptop
        box
      ];
    };
    no-host-name = {
      modules = [
        laptop
        { networking.hostName = ""; }
      ];
    };
    networkd = {
      modules = [
        laptop
        { networking.useNetworkd = true; }
      ];
      says = config: config.systemd.user.paths.nix-lan-network.wantedBy or [ ] == [ "paths.target" ];
    };
    linger = {
      modules = [
        laptop
        { services.nix-lan.linger = true; }
      ];
    };
    extra-hooks = {
      modules = [
        laptop
        { services.nix-lan.extraHooks = [ "/etc/hook" ]; }
      ];
    };
    key-files = {
      modules = [
        laptop
        { nix.settings.secret-key-files = [ "/a" ]; }
      ];
      says = config: config.nix.settings.secret-key-files == [ "/a" "/etc/nix/nix-lan.secret" ] || config.nix.settings.secret-key-files == [ "/etc/nix/nix-lan.secret" "/a" ];
    };
    forwarding-is-null = {
      modules = [
        box
        { services.openssh.settings.AllowStreamLocalForwarding = null; }
      ];
    };
    key-before-nix-conf = {
      modules = [ laptop ];
      says =
        config:
        builtins.elem "nix-lan" config.system.activationScripts.etc.deps
        && contains config.system.activationScripts.nix-lan.text "nix-lan-make-key";
    };
    broker = {
      modules = [
        laptop
        { services.nix-lan.caches.rpi.patience = "1500ms"; }
      ];
      says =
        config:
        contains (toString config.nix.settings.substituters) "/bin/nix-lan-connect%20/run/nix-lan/rpi.sock"
        && config.environment.etc."nix-lan/connect/rpi".text == "user=alice\npatience=1.500\n"
        && config.systemd.sockets."nix-lan-broker@rpi".socketConfig.SocketUser == "alice"
        && config.systemd.services."nix-lan-broker@rpi".serviceConfig.User == "alice";
    };
    forced-substituters = {
      modules = [
        laptop
        { nix.settings.substituters = lib.mkForce [ "https://x" ]; }
      ];
      warnings = 1;
    };
    forced-settings = {
      modules = [
        laptop
        {
          nix.settings = lib.mkForce {
            substituters = [ ];
            trusted-public-keys = [ ];
          };
        }
      ];
      warnings = 3;
    };
    extra-options = {
      modules = [
        laptop
        { nix.extraOptions = "post-build-hook = /mine\nsecret-key-files = /a"; }
      ];
      warnings = 2;
    };
    forced-keys = {
      modules = [
        box
        { nix.settings.trusted-public-keys = lib.mkForce [ "other-1:${otherKey}" ]; }
      ];
      warnings = 1;
    };
    keys-in-extra-options = {
      modules = [
        box
        { nix.extraOptions = "trusted-public-keys = other-1:${otherKey}"; }
      ];
      warnings = 1;
    };
    lix = {
      modules = [
        laptop
        { nix.package = lib.mkForce (pkgs.nix // { pname = "lix"; }); }
      ];
      says = config: builtins.elem "nix-lan-key.service" (config.systemd.services."nix-daemon@".after or [ ]);
    };
    no-lix = {
      modules = [ laptop ];
      says = config: !(config.systemd.services ? "nix-daemon@");
    };
    key-from-elsewhere = {
      modules = [
        laptop
        { services.nix-lan.secretKeyFile = "/run/secrets/nix-lan"; }
      ];
      says = config: !(config.systemd.services ? nix-lan-key);
    };
    misspelt-user = {
      modules = [
        box
        { services.nix-lan.box.users = [ "pii" ]; }
      ];
      warnings = 1;
    };
  };

  # Each fails with an assertion that contains this text.
  refused = {
    "extraHooks" = [
      laptop
      { nix.settings.post-build-hook = "/mine"; }
    ];
    "write a list: nix.settings.secret-key-files" = [
      laptop
      { nix.settings.secret-key-files = "/a"; }
    ];
    "several keys called old-1" = [
      laptop
      {
        nix.settings.trusted-public-keys = [
          "old-1:${key}"
          "old-1:${otherKey}"
        ];
      }
    ];
    "loginctl enable-linger carol" = [
      laptop
      {
        services.nix-lan = {
          user = lib.mkForce "carol";
          linger = true;
        };
      }
    ];
    "services.nix-lan.box needs NixOS to manage Nix" = [
      box
      { nix.enable = false; }
    ];
    "DisableForwarding = false" = [
      box
      { services.openssh.settings.DisableForwarding = true; }
    ];
    "AllowStreamLocalForwarding = \"local\"" = [
      box
      { services.openssh.settings.AllowStreamLocalForwarding = "no"; }
    ];
  }
  # an option since 2026
  // lib.optionalAttrs ((configOf [ laptop ]).nix ? daemonUser) {
    "nix.daemonUser is nix" = [
      laptop
      { nix.daemonUser = "nix"; }
    ];
  };

  # Each is rejected by a type: an option path under services.nix-lan, and the value.
  mistyped = [
    [ [ "caches" "rpi" "host" ] "pi@rpi.local" ]
    [ [ "caches" "rpi" "host" ] "rpi local" ]
    [ [ "caches" "rpi" "ssh" ] "pi@rpi -v" ]
    [ [ "caches" "rpi" "deadline" ] "90s" ]
    [ [ "caches" "rpi" "patience" ] "1m" ]
    [ [ "caches" "rpi" "patience" ] "3601s" ]
    [ [ "battery" ] 101 ]
    [ [ "caches" "rpi" "daemon-socket" ] "run/socket" ]
    [ [ "caches" "rpi" "exclude" ] [ "a/b" ] ]
    [ [ "caches" "rpi" "port" ] "22" ]
    [ [ "keyName" ] "a:b" ]
    [ [ "keyName" ] "a b" ]
    [ [ "publicKey" ] "x" ]
    [ [ "box" "trustedPublicKeys" ] [ "laptop-1:abc" ] ]
    [ [ "secretKeyFile" ] "/a b" ]
  ];
  isTaken =
    path: value:
    (builtins.tryEval (
      builtins.deepSeq (lib.getAttrFromPath path (configOf [
        laptop
        { services.nix-lan = lib.setAttrByPath path (lib.mkForce value); }
      ]).services.nix-lan) true
    )).success;

  problems =
    lib.concatLists (
      lib.mapAttrsToList (
        name: one:
        let
          config = configOf one.modules;
          failed = map (found: found.message) (builtins.filter (found: !found.assertion) config.assertions);
          ours = builtins.filter (lib.hasPrefix "services.nix-lan") config.warnings;
        in
        map (message: "${name}: ${message}") failed
        ++ lib.optional (builtins.length ours != one.warnings or 0) "${name}: these warnings: ${toString ours}"
        ++ lib.optional (failed == [ ] && !(one.says or (_: true)) config) "${name}: doesn't say what it should"
      ) taken
    )
    ++ lib.concatLists (
      lib.mapAttrsToList (
        message: modules: lib.optional (!(lib.any (failed: contains failed message) (failedOf modules))) "not refused: ${message}"
      ) refused
    )
    ++ map (one: "taken: ${toString (builtins.head one)} = ${builtins.toJSON (lib.last one)}") (
      builtins.filter (one: isTaken (builtins.head one) (lib.last one)) mistyped
    );
in
if problems != [ ] then
  throw (lib.concatStringsSep "\n" problems)
else
  pkgs.runCommand "nix-lan-modules" { } "touch $out"
