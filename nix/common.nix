# What the NixOS and Home Manager modules share: options, config.toml and its assertions. Options
# are named like config.toml's keys (docs/config.md). Never writes an option that isn't set, so
# nix-lan's own default applies.
{ lib, pkgs }:
let
  inherit (lib) mkOption types;

  optional = type: more: mkOption ({ type = types.nullOr type; default = null; } // more);

  # A string type with a pattern; messages and the manual show a description, not the pattern. The
  # patterns accept what scripts/config/parse.ts accepts, or less; building config.toml has the last
  # word.
  matching = what: pattern: types.strMatching pattern // { description = what; };

  cacheOptions = {
    host = optional (matching "the name or address of a machine, without user, port and spaces" "[^]\"'`$\\;&<>|(){}*?!#,/@[:space:][-][^]\"'`$\\;&<>|(){}*?!#,/@[:space:][]*") {
      example = "rpi.local";
      description = "The name or address of the box, by which it must be reachable. A cache has either this or `url`.";
    };
    ssh = optional (matching "a destination of ssh like pi@rpi.local, or an alias" "[^]\"'`$\\;&<>|(){}*?!#,/[:space:][-][^]\"'`$\\;&<>|(){}*?!#,/[:space:][]*") {
      example = "pi@rpi.local";
      description = "What ssh is given to log in there: a destination, or an alias from ~/.ssh/config. Default: `host`.";
    };
    port = optional (types.ints.between 1 65535) {
      example = 2222;
      description = "The port of its ssh server. Default: 22.";
    };
    daemon-socket = optional (matching "an absolute path without spaces, quotes and : % $ \\" "/[^[:space:]:%$\\\"']*") {
      example = "/nix/var/nix/daemon-socket/socket";
      description = "Where the socket of its nix-daemon is. The example is the default.";
    };
    env-file = optional (matching "a path: absolute, or in the home directory like ~/.bashrc" "(/|~/).*") {
      example = "~/.config/ssh-agent.env";
      description = "A shell file that sets SSH_AUTH_SOCK, for when the session doesn't. Default: ~/.bashrc.";
    };
    derivations = optional types.bool {
      example = false;
      description = "Whether .drv files are copied too. Default: true.";
    };
    upload-connection = optional (types.enum [ "own" "shared" ]) {
      example = "shared";
      description = "Whether uploads have an ssh connection of their own or share the tunnel's. Default: own, unless all keys are security keys.";
    };
    compression = optional types.bool {
      example = true;
      description = "Whether ssh compresses, for slow links. Default: what ssh's configuration says.";
    };
    exclude = optional (types.listOf (matching "a pattern for the name after the hash, like *-source" "[0-9A-Za-z+._?=*-]+")) {
      example = [ "*-source" ];
      description = "Patterns for the names of what is not copied by itself; as part of something else it goes along. Default: none.";
    };
    keep = optional (matching "a number of days like 60d, or forever or none" "[0-9]+d|forever|none") {
      example = "1000d";
      description = "How long the box keeps what was uploaded from its own garbage collection: days, forever or none. Default: 60d.";
    };
    deadline = optional (matching "a time from 100ms to 60s" "([1-9][0-9]{2,3}|[1-5][0-9]{4}|60000)ms|([1-9]|[1-5][0-9]|60)s") {
      example = "500ms";
      description = "How long to wait for the box to accept a connection and shake hands. Default: 2s.";
    };
    patience = optional (matching "a time from 0s to 3600s" "([0-9]{1,6}|[1-2][0-9]{6}|3[0-5][0-9]{5}|3600000)ms|([0-9]{1,3}|[1-2][0-9]{3}|3[0-5][0-9]{2}|3600)s") {
      example = "120s";
      description = "How long a fetch waits for a box that is lost in its middle. Default: 60s.";
    };
    url = optional (matching "a store URL that begins with http, https, file, ssh or ssh-ng, without spaces" "(http|https|file|ssh|ssh-ng)://[^[:space:]]+") {
      example = "http://nas.local:5000";
      description = "Instead of `host`: somebody's cache that isn't always there, for nix-lan-run to fetch from.";
    };
  };

  # What toml.nix can write. The type refers to itself; only its generated description would recurse
  # forever, so it gets a fixed one.
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
    "upload-connection"
    "compression"
    "exclude"
    "keep"
    "patience"
  ];

  # Module system assertions for the cache `name`.
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

  # `caches` in the form config.toml has them.
  written = caches: builtins.mapAttrs (_: lib.filterAttrs (_: value: value != null)) caches;

  # The text of config.toml.
  textOf =
    cfg: user:
    "# Made by the option services.nix-lan: change that instead.\n" + import ./toml.nix (settingsOf cfg user);

  # A time of config.toml in seconds, as nix-lan-connect takes it: 0.5 for 500ms. Null for what isn't
  # one, which the build of config.toml refuses.
  secondsOf =
    time:
    let
      digits = if builtins.isString time then builtins.match "0*([0-9]+)m?s" time else null;
      number = builtins.fromJSON (builtins.head digits);
      seconds = number / 1000;
      rest = builtins.substring 1 3 (toString (1000 + number - seconds * 1000));
    in
    if digits == null then
      null
    else if lib.hasSuffix "ms" time then
      "${toString seconds}.${rest}"
    else
      toString number;

  # Root's file beside the broker's socket of a box, for nix-lan-connect, which reads no
  # configuration (scripts/config/connect-file.ts).
  connectFileOf =
    cache: user:
    let
      line =
        key:
        let
          seconds = secondsOf (cache.${key} or null);
        in
        lib.optionalString (seconds != null) "${key}=${seconds}\n";
    in
    "user=${toString user}\n${line "deadline"}${line "patience"}";

  # The contents of config.toml as a set. `user`: whose ssh key, session and queue to use.
  settingsOf =
    cfg: user:
    lib.recursiveUpdate (
      (if user == null then { } else { inherit user; })
      // lib.filterAttrs (_: value: value != null) { inherit (cfg) metered battery; }
      // (if cfg.gc.keep-free == null then { } else { gc = { inherit (cfg.gc) keep-free; }; })
      // { cache = written cfg.caches; }
    ) cfg.settings;
in
{
  inherit connectFileOf matching settingsOf;

  # The options under services.nix-lan in both modules.
  options = {
    enable = lib.mkEnableOption "nix-lan: a Nix cache on your network that may be away";
    caches = mkOption {
      type = types.attrsOf (types.submodule { options = cacheOptions; });
      default = { };
      example = lib.literalExpression ''{ rpi.host = "rpi.local"; }'';
      description = "The caches, by name.";
    };
    metered = optional (types.enum [ "wait" "upload" ]) {
      example = "upload";
      description = "Whether the background upload waits while the connection is metered. Default: wait.";
    };
    battery = optional (types.ints.between 0 100) {
      example = 0;
      description = "Below so many percent of battery, and without external power, the background upload waits. Default: 20.";
    };
    gc.keep-free = optional (matching "a size like 5G or 500M" "[1-9][0-9]{0,11}(\\.[0-9]{1,3})?[KMGT]") {
      example = "5G";
      description = "How much is to stay free on the store's file system: while less is, and a box is there, nix-lan gc --auto deletes what the box can give back. Default: nothing is deleted by itself.";
    };
    settings = mkOption {
      type = types.attrsOf tomlValue;
      default = { };
      example = lib.literalExpression ''{ cache.rpi.port = 2222; }'';
      description = "More for config.toml, as it stands there: for keys that this module has no option for.";
    };
  };

  packageOption =
    more:
    lib.mkPackageOption { nix-lan = pkgs.callPackage ./package.nix { }; } "nix-lan" (
      { default = "nix-lan"; pkgsText = "nix-lan.packages.\${system}"; } // more
    );

  # config.toml as a file, checked by the package's own parser: a mistake fails the build and names
  # file, line and key. Node runs on the build machine, even for a target of another architecture.
  # Doesn't look up `user`: only the target knows them and their home.
  fileOf =
    cfg: user:
    pkgs.runCommand "nix-lan-config.toml"
      {
        text = textOf cfg user;
        passAsFile = [ "text" ];
        preferLocalBuild = true;
        node = "${pkgs.buildPackages.nodejs-slim or pkgs.buildPackages.nodejs}/bin/node";
        program =
          if cfg.package != null then
            "${cfg.package}/lib/nix-lan/nix-lan"
          else
            builtins.path {
              name = "nix-lan";
              path = ../dist/nix-lan;
            };
      }
      ''
        cp "$textPath" config.toml
        "$node" "$program" config check --no-user-lookup config.toml
        cp config.toml "$out"
      '';

  # The names of the caches that are boxes, and the URLs of the others.
  boxesOf = settings: builtins.attrNames (lib.filterAttrs (_: cache: cache ? host) settings.cache);
  urlsOf = settings: map (cache: cache.url) (builtins.attrValues (lib.filterAttrs (_: cache: cache ? url) settings.cache));

  # Assertions for all caches.
  assertionsOf =
    settings:
    [
      {
        assertion = settings.cache != { };
        message = "services.nix-lan has no cache; add one: services.nix-lan.caches.rpi.host = \"rpi.local\", with the name that the box has in your network.";
      }
    ]
    ++ lib.concatMap (name: cacheAssertions name settings.cache.${name}) (builtins.attrNames settings.cache);

  # The units of the user's systemd in this repository.
  unitFolder = ../dist/systemd/user;
}
