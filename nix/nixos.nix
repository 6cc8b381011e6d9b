# The NixOS module. services.nix-lan is for the laptop: commands, user units, nix.conf, the queue,
# NetworkManager's dispatcher, and a key to sign what is built. services.nix-lan.box is for the box:
# whose signatures it believes.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  cfg = config.services.nix-lan;
  common = import ./common.nix { inherit lib pkgs; };
  settings = common.settingsOf cfg cfg.user;
  boxes = common.boxesOf settings;
  nix = config.nix.settings;

  # A link to the package that outlives a switch. While a switch removes nix-lan, a nix-daemon that
  # still has the old nix.conf starts connect by this path, and a missing program fails the build;
  # /run/current-system would no longer have it. The link also keeps units and URLs the same across
  # versions: a switch leaves a tunnel alone if its unit is unchanged, and the daemon, users'
  # settings and NIX_CONFIG compare URLs as text. scripts/config/store-url.ts also knows this path.
  link = "/run/nix-lan-current";

  # Several connections make Nix from 2.24 on faster; scripts/config/store-url.ts and
  # scripts/nix/version.ts say the same, and why.
  gainsFromConnections = !isLix && since "2.24pre";
  since = lib.versionAtLeast (config.nix.package.version or "");
  connections = lib.optionalString gainsFromConnections "max-connections=4&";

  substituter =
    name: "ssh-ng://localhost?${connections}remote-program=${link}/bin/nix-lan-connect%20/run/nix-lan/${name}.sock";

  broker = name: "nix-lan-broker@${name}";
  # One attribute for each box.
  forBoxes =
    nameOf: valueOf:
    builtins.listToAttrs (
      map (box: {
        name = nameOf box;
        value = valueOf box;
      }) boxes
    );

  ownHook = "${cfg.package}/lib/nix-lan/post-build-hook";
  # Ours runs first: it never fails a build, and takes milliseconds. The first of the others to fail
  # is the last to run.
  hook =
    if cfg.extraHooks == [ ] then
      ownHook
    else
      pkgs.writeScript "nix-lan-post-build-hooks" ''
        #!/bin/sh
        ${ownHook}
        ${lib.concatMapStringsSep "\n" (file: "${lib.escapeShellArg "${file}"} || exit") cfg.extraHooks}
      '';

  units = pkgs.runCommand "nix-lan-units" { preferLocalBuild = true; } ''
    for folder in user system; do
      mkdir -p "$out/lib/systemd/$folder"
      for file in ${cfg.package}/lib/systemd/$folder/*; do
        sed 's|${cfg.package}/bin/|${link}/bin/|g' "$file" >"$out/lib/systemd/$folder/''${file##*/}"
      done
    done
  '';

  publicKeyFile = "${lib.removeSuffix ".secret" cfg.secretKeyFile}.public";
  makeKey = pkgs.writeScript "nix-lan-make-key" (builtins.readFile ./make-key.sh);
  makeKeyCommand = "${pkgs.runtimeShell} ${makeKey} ${
    lib.escapeShellArgs [
      cfg.secretKeyFile
      publicKeyFile
      cfg.keyName
    ]
  }";

  # The same directories that post-build-hook --make-queue makes: the leaves belong to the user,
  # their parents to root, so only root can replace a leaf.
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

  isLix = (config.nix.package.pname or "") == "lix";

  # ---- laptop: assertions

  # Everybody's definitions of a nix.conf setting, before they are merged: if one conflicts with
  # ours, the module system's own message offers no way out.
  definitionsOf = key: map (one: one.${key}) (builtins.filter (one: one ? ${key}) (options.nix.settings.definitions or [ ]));
  isText = value: builtins.isString value || builtins.isPath value || lib.isDerivation value;
  textKeyFiles = builtins.filter isText (definitionsOf "secret-key-files");
  otherHooks = builtins.filter (value: isText value && "${value}" != "${hook}") (definitionsOf "post-build-hook");

  # Nix believes only the first of several keys with the same name (src/libstore/keys.cc).
  trustedKeys = lib.unique (nix.trusted-public-keys ++ wordsOf (nix.extra-trusted-public-keys or [ ]));
  wordsOf = value: builtins.filter (word: word != "") (lib.concatMap (lib.splitString " ") (lib.toList value));
  nameOf = key: builtins.head (lib.splitString ":" key);
  twice = lib.unique (
    builtins.filter (name: lib.count (key: nameOf key == name) trustedKeys > 1) (map nameOf trustedKeys)
  );
  keyNamesDiffer = {
    assertion = twice == [ ];
    message = "services.nix-lan: nix.settings.trusted-public-keys has several keys called ${lib.concatStringsSep ", " twice}, and Nix believes only the first of one name; remove those that are no longer used.";
  };

  nixIsManaged = what: {
    assertion = config.nix.enable;
    message = "${what} needs NixOS to manage Nix, and nix.enable is false; set it to true, or do without ${what}.enable.";
  };

  clientAssertions = [
    {
      assertion = cfg.user != null;
      message = "services.nix-lan.user is not set: whose ssh key, session and queue? Say services.nix-lan.user = \"alice\", with your own name.";
    }
    {
      assertion =
        !cfg.linger || cfg.user == null || (account.isNormalUser or false) || (account.isSystemUser or false);
      message = "services.nix-lan.linger: ${toString cfg.user} isn't one of users.users, where NixOS keeps it; set linger to false, and once run: loginctl enable-linger ${toString cfg.user}";
    }
    {
      assertion = (config.nix.daemonUser or "root") == "root";
      message = "services.nix-lan needs a nix-daemon that runs as root, for the signing key and the queue; nix.daemonUser is ${config.nix.daemonUser or ""}.";
    }
    {
      assertion = textKeyFiles == [ ];
      message = "nix.settings.secret-key-files is text beside the key of services.nix-lan; write a list: nix.settings.secret-key-files = [ \"${toString (lib.concatMapStringsSep " " (one: "${one}") textKeyFiles)}\" ];";
    }
    {
      assertion = otherHooks == [ ];
      message = "nix.settings.post-build-hook is set beside that of services.nix-lan, and Nix calls only one; write instead: services.nix-lan.extraHooks = [ \"${lib.concatMapStringsSep " " (one: "${one}") otherHooks}\" ];";
    }
    (nixIsManaged "services.nix-lan")
    keyNamesDiffer
  ]
  ++ common.assertionsOf settings;
  account = config.users.users.${cfg.user} or { };

  # ---- laptop: warnings about settings that silently override this module's

  # What nix.extraOptions sets anew: nix.conf's last line for a key counts.
  linesOfExtra = map (builtins.match "[[:space:]]*([a-z-]+)[[:space:]]*=.*") (lib.splitString "\n" config.nix.extraOptions);
  inExtraOptions = key: lib.any (line: line != null && builtins.head line == key) linesOfExtra;
  setTwice =
    at: instead:
    map (key: "${at}: nix.extraOptions sets ${key} once more, and its value is the one that counts; use ${instead.${key}} instead.") (
      builtins.filter inExtraOptions (builtins.attrNames instead)
    );
  lost = key: wanted: builtins.any (one: !(builtins.elem one (lib.toList (nix.${key} or [ ])))) wanted;
  clientWarnings =
    lib.optional (lost "substituters" (map substituter boxes))
      "services.nix-lan: nix.settings.substituters lacks the cache (mkForce?), so that nothing is fetched from it; use mkBefore or mkAfter instead."
    ++
      lib.optional (lost "secret-key-files" [ cfg.secretKeyFile ])
        "services.nix-lan: nix.settings.secret-key-files lacks ${cfg.secretKeyFile} (mkForce?), so that the box refuses what is built here; add it."
    ++
      lib.optional (toString (nix.post-build-hook or "") != "${hook}")
        "services.nix-lan: nix.settings.post-build-hook is not that of nix-lan (mkForce?), so that nothing is queued; use services.nix-lan.extraHooks instead."
    ++ setTwice "services.nix-lan" {
      post-build-hook = "services.nix-lan.extraHooks";
      secret-key-files = "nix.settings.secret-key-files";
      substituters = "nix.settings.substituters";
    };

  # ---- the box

  # Who may use this machine's nix-daemon (nix.conf(5), allowed-users).
  groupsOf = user: (config.users.users.${user}.extraGroups or [ ]) ++ [ (config.users.users.${user}.group or "") ];
  allows =
    user: entry: entry == "*" || entry == user || builtins.elem entry (map (group: "@${group}") (groupsOf user));
  isAllowed = user: lib.any (allows user) (nix.allowed-users ++ nix.trusted-users);

  # A value as in sshd_config: null is left out, and a boolean becomes yes or no.
  sshd = config.services.openssh;
  sshdValue =
    key: standard:
    let
      value = sshd.settings.${key} or null;
    in
    if value == null then standard else if value == true then "yes" else if value == false then "no" else toString value;

  boxAssertions = [
    {
      assertion = sshd.enable;
      message = "services.nix-lan.box needs sshd, and services.openssh.enable is false; set it to true.";
    }
    {
      assertion = builtins.elem (sshdValue "AllowStreamLocalForwarding" "yes") [
        "yes"
        "all"
        "local"
      ];
      message = "services.nix-lan.box: sshd doesn't forward sockets here; set services.openssh.settings.AllowStreamLocalForwarding = \"local\".";
    }
    {
      assertion = sshdValue "DisableForwarding" "no" == "no";
      message = "services.nix-lan.box: sshd forwards nothing here; set services.openssh.settings.DisableForwarding = false.";
    }
    (nixIsManaged "services.nix-lan.box")
    keyNamesDiffer
  ]
  ++ map (user: {
    assertion = isAllowed user;
    message = "services.nix-lan.box.users: ${user} may not use the nix-daemon here; set nix.settings.allowed-users = [ \"${user}\" ].";
  }) cfg.box.users;

  boxWarnings =
    map (
      user: "services.nix-lan.box.users: ${user} isn't one of users.users; unless it comes from elsewhere (LDAP), it is misspelt."
    ) (builtins.filter (user: !(config.users.users ? ${user})) cfg.box.users)
    ++
      lib.optional (lost "trusted-public-keys" cfg.box.trustedPublicKeys)
        "services.nix-lan.box: nix.settings.trusted-public-keys lacks a key of services.nix-lan.box.trustedPublicKeys (mkForce?), so that this machine refuses what its owner copies here; use a list without mkForce instead."
    ++ setTwice "services.nix-lan.box" { trusted-public-keys = "services.nix-lan.box.trustedPublicKeys"; };

  publicKey = common.matching "a public key of Nix, NAME:BASE64" "[^:[:space:]]+:[A-Za-z0-9+/]{43}=";
in
{
  _class = "nixos";

  options.services.nix-lan = common.options // {
    package = common.packageOption { };
    user = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = null;
      example = "alice";
      description = "Whose ssh key, session and queue.";
    };
    linger = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether nix-lan works from the start of the machine on, instead of from the login of `user` on; for a key without a passphrase.";
    };
    secretKeyFile = lib.mkOption {
      type = common.matching "an absolute path of letters, digits and . _ + @ - /" "/[A-Za-z0-9._+@/-]+";
      default = "/etc/nix/nix-lan.secret";
      description = "The key that signs what is built here. The public half lies beside it: nix-lan.public.";
    };
    generateKey = lib.mkOption {
      type = lib.types.bool;
      default = !(lib.hasPrefix "/run/" cfg.secretKeyFile);
      defaultText = lib.literalExpression "!(lib.hasPrefix \"/run/\" secretKeyFile)";
      description = "Whether to make that key if it isn't there; false for one that sops-nix or agenix puts there.";
    };
    keyName = lib.mkOption {
      type = common.matching "text without spaces and :" "[^:[:space:]]*";
      default = config.networking.hostName;
      defaultText = lib.literalExpression "config.networking.hostName";
      description = "How the name of that key begins. A random part follows when it is made, as in laptop-1f0c9a3e-1, so that each key has a name of its own.";
    };
    publicKey = lib.mkOption {
      type = lib.types.nullOr publicKey;
      default = null;
      example = "laptop-1f0c9a3e-1:6iQLhkJRXQ5Zpr0Kq5tiFqPrRDbeqzSBdM3ZVnCjJyA=";
      description = "The public half of that key. The daemon doesn't need it; with it, `nix store verify` without root does its work, too.";
    };
    extraHooks = lib.mkOption {
      type = lib.types.listOf lib.types.path;
      default = [ ];
      example = lib.literalExpression "[ ./notify.sh ]";
      description = "Post-build hooks of your own, called after nix-lan's in this order; one that fails ends the build, as ever.";
    };

    box = {
      enable = lib.mkEnableOption "being the box: the machine that keeps what others have built";
      trustedPublicKeys = lib.mkOption {
        type = lib.types.listOf publicKey;
        default = [ ];
        example = [ "laptop-1f0c9a3e-1:6iQLhkJRXQ5Zpr0Kq5tiFqPrRDbeqzSBdM3ZVnCjJyA=" ];
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
      warnings = clientWarnings;

      environment.systemPackages = [ cfg.package ];
      environment.etc."nix-lan/config.toml".source = common.fileOf cfg cfg.user;

      # Not extra-substituters: up to NixOS 23.11, nix.conf was written in alphabetical order, and a
      # later `substituters` would have overridden it (NixOS/nix#9487; since NixOS/nixpkgs#278064,
      # nixos/modules/config/nix.nix writes extra- settings last). The lists are merged.
      nix.settings = {
        substituters = map substituter boxes;
        trusted-substituters = common.urlsOf settings;
        trusted-public-keys = lib.optional (cfg.publicKey != null) cfg.publicKey;
        secret-key-files = [ cfg.secretKeyFile ];
        post-build-hook = "${hook}";
        # A box that is lost for good in the middle of a fetch would fail the build. The price: where
        # another cache has a hiccup, Nix builds, too.
        fallback = lib.mkDefault true;
      };

      # Nix 2.4 to 2.19 and Lix start a substituter's program through bash (nix,
      # src/libstore/ssh.cc), which isn't in the unit's PATH. Lix has a systemd service per
      # connection, nix-daemon@.service.
      systemd.services.nix-daemon.path = [ pkgs.bash ];
      systemd.services."nix-daemon@" = lib.mkIf isLix {
        path = [ pkgs.bash ];
        wants = lib.optional cfg.generateKey "nix-lan-key.service";
        after = lib.optional cfg.generateKey "nix-lan-key.service";
      };

      # Runs before nix.conf changes, because root's own builds read that at once. Doesn't make the
      # key at boot, when its file system may not be mounted yet: nix-lan-key.service does.
      system.activationScripts = {
        nix-lan = {
          text = ''
            ln -sfT ${cfg.package} ${link}.new && mv -fT ${link}.new ${link}
          ''
          + lib.optionalString cfg.generateKey ''
            case "''${NIXOS_ACTION-}" in
              switch | test) PATH="$PATH:${lib.getBin config.nix.package}/bin" ${makeKeyCommand} ;;
            esac
          '';
        };
        etc = {
          deps = [ "nix-lan" ];
          text = "";
        };
      };
      # For systems that boot without activation scripts.
      systemd.tmpfiles.rules = [ "L+ ${link} - - - - ${cfg.package}" ] ++ directories;

      systemd.services.nix-lan-key = lib.mkIf cfg.generateKey {
        description = "Key that signs what is built on this machine";
        wantedBy = [
          "multi-user.target"
          "nix-daemon.service"
        ];
        before = [ "nix-daemon.service" ];
        unitConfig.RequiresMountsFor = [
          cfg.secretKeyFile
          "/etc/nix"
        ];
        # Each start of nix-daemon starts it: five in ten seconds are no fault.
        unitConfig.StartLimitIntervalSec = 0;
        path = [ config.nix.package ];
        serviceConfig.Type = "oneshot";
        script = makeKeyCommand;
      };

      # Stops the user's units when a switch removes nix-lan; NixOS up to 25.11 leaves user units
      # running.
      systemd.services.nix-lan-user-units = {
        description = "The end of nix-lan's user units, when nix-lan is taken away";
        wantedBy = [ "multi-user.target" ];
        # So that it stops before these, which serve what is being fetched.
        after = map (box: "${broker box}.service") boxes;
        restartIfChanged = false;
        path = [
          pkgs.procps
          pkgs.util-linux
          config.systemd.package
        ];
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          ExecStart = "${pkgs.coreutils}/bin/true";
          ExecStop = "${pkgs.runtimeShell} ${pkgs.writeScript "nix-lan-stop" (builtins.readFile ./stop.sh)} ${lib.escapeShellArg (toString cfg.user)}";
          TimeoutStopSec = 90;
        };
      };

      # NixOS ignores [Install] sections. Everybody gets the units, but they start for one user
      # only.
      systemd.packages = [ units ];
      systemd.user.timers.nix-lan-check = {
        wantedBy = [ "timers.target" ];
        unitConfig.ConditionUser = toString cfg.user;
      };
      users.users = lib.mkIf (cfg.linger && cfg.user != null) { ${toString cfg.user}.linger = true; };

      # Notices that the network has changed: NetworkManager calls the dispatcher; elsewhere a path
      # unit watches what systemd-networkd and others write.
      networking.networkmanager.dispatcherScripts = [ { source = "${cfg.package}/lib/nix-lan/nix-lan-dispatcher"; } ];
      systemd.user.paths.nix-lan-network = lib.mkIf (!config.networking.networkmanager.enable) {
        wantedBy = [ "paths.target" ];
        unitConfig.ConditionUser = toString cfg.user;
      };
    })

    # The socket that nix.conf names, the broker behind it, and root's file beside it: instances of the
    # package's templates. A switch leaves sockets alone, and a running broker, too.
    (lib.mkIf cfg.enable {
      environment.etc = forBoxes (name: "nix-lan/connect/${name}") (name: {
        text = common.connectFileOf settings.cache.${name} cfg.user;
      });
      systemd.sockets = forBoxes broker (_: {
        overrideStrategy = "asDropin";
        wantedBy = [ "sockets.target" ];
        socketConfig.SocketUser = toString cfg.user;
      });
      systemd.services = forBoxes broker (_: {
        overrideStrategy = "asDropin";
        restartIfChanged = false;
        serviceConfig.User = toString cfg.user;
      });
    })

    (lib.mkIf cfg.box.enable {
      assertions = boxAssertions;
      warnings = boxWarnings;
      nix.settings.trusted-public-keys = cfg.box.trustedPublicKeys;
    })
  ];
}
