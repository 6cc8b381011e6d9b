# The configurations whose results are compared with golden/: the examples of README.md, and ones with everything set.
let
  inherit (import ./stub/eval.nix { }) nixos home;
  examples = ../../nix/examples;

  everyKey = {
    host = "192.168.1.5";
    ssh = "backup";
    port = 2222;
    daemon-socket = "/run/nix-daemon.sock";
    env-file = "/etc/agent.env";
    derivations = false;
    exclude = [
      "*-source"
      "linux-*"
    ];
    keep = "forever";
    deadline = "500ms";
    patience = "90s";
  };
  everyCache = {
    big-box = everyKey;
    rpi.host = "rpi.local";
    nas.url = "http://nas.local:5000";
    nas.deadline = "3s";
  };
in
{
  nixos-example = nixos [ (examples + "/nixos.nix") ];
  nixos-box = nixos [ (examples + "/box.nix") ];
  home-example = home [
    (examples + "/home-manager.nix")
    { home.username = "alice"; }
  ];

  # Beside what somebody has of their own, for a user who isn't in users.users.
  nixos-everything = nixos [
    (
      {
        lib,
        nix-lan,
        pkgs,
        ...
      }:
      {
        imports = [
          nix-lan.nixosModules.default
          nix-lan.nixosModules.default
        ];
        # one that gains nothing from several connections
        nix.package = pkgs.nix // {
          version = "2.18.9";
        };
        services.nix-lan = {
          enable = true;
          user = "bob";
          linger = true;
          secretKeyFile = "/var/lib/keys/mine.secret";
          keyName = "home";
          publicKey = "home-0b1c2d3e-1:6iQLhkJRXQ5Zpr0Kq5tiFqPrRDbeqzSBdM3ZVnCjJyA=";
          caches = everyCache;
          gc.keep-free = "5G";
          metered = "upload";
          battery = 0;
          settings.cache.rpi.later = [
            1
            true
            { a.b = "c"; }
          ];
          extraHooks = [ "/etc/nix/it's mine" ];
          box = {
            enable = true;
            trustedPublicKeys = [ "other-1:6iQLhkJRXQ5Zpr0Kq5tiFqPrRDbeqzSBdM3ZVnCjJyA=" ];
            users = [ "pi" ];
          };
        };
        networking.useNetworkd = true;
        services.openssh.enable = true;
        services.openssh.settings.AllowStreamLocalForwarding = "local";
        users.users.bob.isNormalUser = true;
        users.users.pi.extraGroups = [ "builders" ];
        nix.settings = {
          allowed-users = [ "@builders" ];
          substituters = [ "https://example.org" ];
          secret-key-files = [ "/etc/nix/other.secret" ];
          extra-platforms = [ "i686-linux" ];
          fallback = false;
        };
      }
    )
  ];

  home-everything = home [
    (
      { nix-lan, ... }:
      {
        imports = [ nix-lan.homeModules.default ];
        home.username = "bob";
        services.nix-lan = {
          enable = true;
          package = null;
          caches = everyCache;
          gc.keep-free = "1.5T";
          settings.user = "carol";
        };
      }
    )
  ];

  # Nothing is enabled, and nothing done.
  nixos-off = nixos [ ({ nix-lan, ... }: { imports = [ nix-lan.nixosModules.default ]; }) ];
  home-off = home [
    (
      { nix-lan, ... }:
      {
        imports = [ nix-lan.homeModules.default ];
        home.username = "alice";
      }
    )
  ];
}
