# What the Home Manager module and the NixOS module share: the options, config.toml, and what can be wrong with it. The names of the options
# are those of config.toml, which README.md describes; an option that isn't set isn't written, so that nix-lan's own default counts.
{ lib, pkgs }:
let
  inherit (lib) mkOption types;

  optional = type: mkOptionOf { type = types.nullOr type; };
  mkOptionOf = base: more: mkOption (base // { default = null; } // more);

  cacheOptions = {
    host = optional types.str {
      example = "rpi.local";
      description = "The name or address of the box, by which it must be reachable. A cache has either this or `url`.";
    };
    ssh = optional types.str {
      example = "pi@rpi.local";
      description = "What ssh is given to log in there: a destination, or an alias from ~/.ssh/config. Default: `host`.";
    };
    port = optional (types.ints.between 1 65535) {
      example = 2222;
      description = "The port of its ssh server. Default: 22.";
    };
    daemon-socket = optional types.str {
      example = "/nix/var/nix/daemon-socket/socket";
      description = "Where the socket of its nix-daemon is. The example is the default.";
    };
    env-file = optional types.str {
      example = "~/.config/ssh-agent.env";
      description = "A shell file that sets SSH_AUTH_SOCK, for when the session doesn't. Default: ~/.bashrc.";
    };
    derivations = optional types.bool {
      example = false;
      description = "Whether .drv files are copied too. Default: true.";
    };
    exclude = optional (types.listOf types.str) {
      example = [ "*-source" ];
      description = "Patterns for the names of what is not copied by itself; as part of something else it goes along. Default: none.";
    };
    keep = optional (types.strMatching "[0-9]+d|forever|none") {
      example = "1000d";
      description = "How long the box keeps what was uploaded from its own garbage collection: days, forever or none. Default: 60d.";
    };
    deadline = optional (types.strMatching "[0-9]+(ms|s)") {
      example = "500ms";
      description = "How long it is waited for the box to answer. Default: 2s.";
    };
    url = optional types.str {
      example = "http://nas.local:5000";
      description = "Instead of `host`: somebody's cache that isn't always there, for nix-lan-run to fetch from.";
    };
  };

  # What toml.nix can write; the description ends the recursion, which only a description has.
  tomlValue =
    with types;
    oneOf [
      bool
      int
      str
      (listOf tomlValue)
      (attrsOf tomlValue)
    ]
    // {
      description = "a value of TOML";
    };

  onlyWithHost = [
    "ssh"
    "port"
    "daemon-socket"
    "env-file"
    "derivations"
    "exclude"
    "keep"
  ];

  # What is wrong with the cache `name`, as assertions of the module system.
  cacheAssertions =
    name: cache:
    let
      at = "services.nix-lan.caches.${name}";
      has = key: (cache.${key} or null) != null;
      superfluous = builtins.filter has onlyWithHost;
    in
    [
      {
        assertion = builtins.match "[a-z0-9]([a-z0-9-]*[a-z0-9])?" name != null && builtins.stringLength name <= 40;
        message = "${at}: the name of a cache may have 40 characters a-z, 0-9 and -, and not start or end with -; call it rpi, say.";
      }
      {
        assertion = has "host" || has "url";
        message = "${at} has neither host nor url; add ${at}.host = \"rpi.local\" for a box of your own, or ${at}.url = \"http://nas.local:5000\" for a cache to fetch from only.";
      }
      {
        assertion = !(has "host" && has "url");
        message = "${at} has both host and url; keep host for a box of your own, or url for a cache to fetch from only.";
      }
      {
        assertion = !(has "url") || has "host" || superfluous == [ ];
        message = "${at} has a url, with which ${lib.concatStringsSep ", " superfluous} can't be used; remove that, or say host instead of url.";
      }
    ];

  # `caches` as config.toml has them.
  written = caches: builtins.mapAttrs (_: lib.filterAttrs (_: value: value != null)) caches;
in
rec {
  # The options below services.nix-lan; `package` is an option, too, which the modules declare themselves.
  options = {
    caches = mkOption {
      type = types.attrsOf (types.submodule { options = cacheOptions; });
      default = { };
      example = lib.literalExpression ''{ rpi.host = "rpi.local"; }'';
      description = "The caches, by name.";
    };
    settings = mkOption {
      type = types.attrsOf tomlValue;
      default = { };
      example = lib.literalExpression ''{ cache.rpi.some-key = 1; }'';
      description = "More for config.toml, as it stands there: for keys that this module has no option for.";
    };
  };

  packageOption = {
    default = pkgs.callPackage ./package.nix { };
    defaultText = lib.literalExpression "pkgs.callPackage ./package.nix { }";
  };

  # What config.toml holds. `user`: whose ssh key, session and queue.
  settingsOf =
    cfg: user:
    lib.recursiveUpdate ((if user == null then { } else { inherit user; }) // { cache = written cfg.caches; }) cfg.settings;

  # config.toml.
  textOf =
    cfg: user:
    "# Made by the option services.nix-lan: change that instead.\n" + import ./toml.nix (settingsOf cfg user);

  # The names of caches that are boxes, and the others by name.
  boxesOf = settings: builtins.attrNames (lib.filterAttrs (_: cache: cache ? host) settings.cache);
  urlsOf = settings: map (cache: cache.url) (builtins.attrValues (lib.filterAttrs (_: cache: cache ? url) settings.cache));

  # What is wrong with the caches.
  assertionsOf =
    settings:
    [
      {
        assertion = settings.cache != { };
        message = "services.nix-lan has no cache; add one: services.nix-lan.caches.rpi.host = \"rpi.local\", with the name that the box has in your network.";
      }
    ]
    ++ lib.concatMap (name: cacheAssertions name settings.cache.${name}) (builtins.attrNames settings.cache);

  # The systemd user units by name, and what wants which of them: the [Install] sections, which neither NixOS nor Home Manager looks at.
  units = builtins.attrNames (builtins.readDir ../dist/systemd/user);
  wantedBy."timers.target" = [ "nix-lan-check.timer" ];
}
