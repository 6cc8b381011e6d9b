# Follows one build across two NixOS machines: built while the box is off, copied when it comes up,
# garbage-collected, fetched back, and built again once the box is gone. Run it with `nix flake
# check`, or nix build .#checks.x86_64-linux.vm. Written from the NixOS manual ("NixOS Tests") and
# never run: nix-lan is developed without nixpkgs or virtual machines. For what is tested instead,
# see README.md in this folder.
{
  name = "nix-lan";

  nodes.laptop = {
    imports = [ ./nixos.nix ];

    services.nix-lan = {
      enable = true;
      user = "alice";
      linger = true; # nobody logs in here
      caches.box.host = "box";
      caches.box.ssh = "bob@box";
    };
    users.users.alice = {
      isNormalUser = true;
      uid = 1000;
    };

    virtualisation.writableStore = true;
    # cache.nixos.org can't be reached in here: don't wait for it long.
    nix.settings.connect-timeout = 1;
    nix.settings.download-attempts = 1;

    environment.etc."hello.nix".text = ''
      { name }: derivation {
        inherit name;
        system = builtins.currentSystem;
        builder = "/bin/sh";
        args = [ "-c" "echo hello >$out" ];
      }
    '';
  };

  nodes.box = {
    imports = [ ./nixos.nix ];

    services.openssh.enable = true;
    services.nix-lan.box = {
      enable = true;
      users = [ "bob" ];
    };
    users.users.bob.isNormalUser = true;

    virtualisation.writableStore = true;
  };

  testScript = ''
    import re


    def as_alice(command):
        return f"su - alice -c '{command}'"


    def unit(verb, name):
        return as_alice(f"XDG_RUNTIME_DIR=/run/user/1000 systemctl --user {verb} {name}")


    def build(name):
        return as_alice(f"nix-build /etc/hello.nix --no-out-link --argstr name {name} 2>&1")


    QUEUE = "/nix/var/nix/gcroots/nix-lan/queue/box"
    NIX_CONF = "/etc/nix/nix.conf"

    laptop.start()
    laptop.wait_for_unit("multi-user.target")
    laptop.wait_for_unit("user@1000.service")

    with subtest("there is a key, and only root can read it"):
        laptop.succeed("test $(stat -c %a:%U /etc/nix/nix-lan.secret) = 600:root")
        public = laptop.succeed("cat /etc/nix/nix-lan.public").strip()
        assert re.fullmatch(r"laptop-[0-9a-f]{8}-1:[A-Za-z0-9+/]{43}=", public), public

    with subtest("the box is off: builds work, and are queued"):
        path = laptop.succeed(build("first")).strip().splitlines()[-1]
        laptop.succeed(f"test -L {QUEUE}/{path.removeprefix('/nix/store/')}")
        laptop.fail(unit("is-active", "nix-lan@box.target"))

    with subtest("the box comes: the queue is copied to it"):
        box.start()
        box.wait_for_open_port(22)
        # An administrator does this once. The key is made during the test, so the box's
        # configuration can't contain it.
        box.succeed(f"cat {NIX_CONF} >/tmp/nix.conf; echo extra-trusted-public-keys = {public} >>/tmp/nix.conf")
        box.succeed(f"rm {NIX_CONF}; mv /tmp/nix.conf {NIX_CONF}; systemctl restart nix-daemon.socket nix-daemon.service")
        laptop.succeed(as_alice("mkdir -m 700 -p .ssh; ssh-keygen -q -t ed25519 -N \"\" -f .ssh/id_ed25519"))
        laptop.succeed(as_alice("ssh-keyscan box >.ssh/known_hosts"))
        key = laptop.succeed("cat /home/alice/.ssh/id_ed25519.pub").strip()
        box.succeed(f"su - bob -c 'mkdir -m 700 .ssh; echo {key} >.ssh/authorized_keys'")

        laptop.wait_until_succeeds(unit("is-active", "nix-lan-tunnel@box.service"), timeout=180)
        laptop.wait_until_succeeds(f"test -z \"$(ls -A {QUEUE})\"", timeout=180)
        box.succeed(f"nix-store --check-validity {path}")

    with subtest("collected on the laptop: it comes back from the box"):
        laptop.succeed(f"nix-store --delete {path}")
        assert "copying path" in laptop.succeed(build("first"))

    with subtest("the box goes: builds work, at once and without a word of it"):
        box.crash()
        laptop.wait_until_fails(unit("is-active", "nix-lan-tunnel@box.service"), timeout=60)
        said = laptop.succeed(f"timeout 60 {build('second')}")
        assert "nix-lan-connect" not in said, said
        laptop.succeed(f"test -n \"$(ls -A {QUEUE})\"")
  '';
}
